"""Parts of a model by patterns of their names, as a shell matches files: `encoder.*`, `*.bias`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from frameworm.errors import UserError, nearest


def matching(patterns: Iterable[str], names: Sequence[str], *, what: str, where: str) -> list[str]:
    """Those of `names` that one of the patterns matches, in their order.

    Raises UserError for a pattern that matches none of them: it would be a silent no-op. `what` says what is named.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise UserError(
                f"the pattern {pattern!r} matches no {what}",
                expected=f"one that matches some of {shown or 'none'}",
                got=pattern,
                where=where,
                hint=nearest(pattern, names),
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Have those parameters of `model` not trained. Raises UserError for a pattern that matches none."""
    named = dict(model.named_parameters())
    for name in matching(patterns, list(named), what="parameter", where="trainer.freeze"):
        named[name].requires_grad_(False)
