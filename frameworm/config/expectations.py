"""What a key expects and what it got, in words of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import inspect

from frameworm.config.secrets import redact_text

_NOUNS = {
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
    inspect.StrType: "text",
    inspect.StructType: "a mapping with a name",
}


def expectation(kind: Any) -> str:
    """What a value of the annotated type `kind` may be: "a whole number, at least 1"."""
    return _describe(inspect.type_info(kind))


def show(value: Any) -> str:
    """`value` for the `got` of an error: short, without secrets."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            text = redact_text(value)
            return f"the text {text if len(text) <= 60 else text[:57] + '...'!r}"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)


def _describe(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(extra_json_schema={"description": str(description)}):
            return description
        case inspect.UnionType(types=types):
            return ", or ".join(_describe(one) for one in types)
        case inspect.LiteralType(values=values):
            return " or ".join(str(value) for value in values)
        case inspect.VarTupleType(item_type=item):
            return f"a list, each item {_describe(item)}"
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            bounds = {"above": kind.gt, "at least": kind.ge, "at most": kind.le}
            return ", ".join([noun, *(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)])
        case _:
            return _NOUNS[type(kind)]
