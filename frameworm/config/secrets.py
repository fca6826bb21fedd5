"""Secrets in a config: `${env:NAME}` instead of the value, and `***` wherever a value would be shown or stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "***"
REFERENCE = re.compile(r"\$\{env:([^}]*)\}")

_KEY = re.compile(
    r"(?:(?:password|passwd|passphrase|secret|credential)s?|authorization|(?:^|_)pwd|token|(?:^|_)pass"
    r"|(?:api|access|private|secret|account|auth|signing|encryption)_?keys?)$"
)
_VOCABULARY = re.compile(r"(?:^|_)(?:pad|mask|bos|eos|unk|cls|sep|class|special|start|end|stop)_token$")
_NESTED = re.compile(r"""(?P<key>[\w-]+)(?P<colon>["']?\s*:\s*)(?:"[^"]*"|'[^']*'|[^\s,{}\[\]]+)""")
_USER = rf"(?:{REFERENCE.pattern}|[^\s/?#:@])*"
_URI_PASSWORD = re.compile(rf"(?P<before>://{_USER}:)(?P<secret>[^\s/?#]+)(?P<after>@)")
_URI_PARAMETER = re.compile(
    r"(?P<before>[?&](?:[\w-]*[_-])?(?:password|secret|token|sig|signature|api_?key|access_?key)=)"
    r"(?P<secret>[^\s&#]+)(?P<after>)",
    re.IGNORECASE,
)


def redact(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A plain copy of `tree` in which secrets read `***`; references to the environment stay, they are no secrets.

    A secret is a value whose key looks like one (`password`, `api_key`, `hf_token`, ...) and a password or token
    inside a URI. Numbers under a `..._token` or `..._pass` and the tokens of a vocabulary (`pad_token`) are none.
    """
    return {key: REDACTED if _is_secret(str(key), value) else _redacted(value) for key, value in tree.items()}


def conceal(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A plain copy of `tree` whose secrets are references to the environment, and the variables that these need.

    For a file that another process reads, to which the variables are handed over.
    """
    variables: dict[str, str] = {}

    def concealed(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: concealed(str(name), item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [concealed(key, item) for item in value]
        if _is_secret(key, value) or (isinstance(value, str) and redact_text(value) != value):
            name = f"FRAMEWORM_SECRET_{len(variables) + 1}"
            variables[name] = str(value)
            return f"${{env:{name}}}"
        return value

    return {key: concealed(str(key), value) for key, value in tree.items()}, variables


def looks_secret(key: str) -> bool:
    """Whether a value under `key` (`apiKey`, `client-secret`, ...) is not for everyone's eyes."""
    words = _words(key)
    return _KEY.search(words) is not None and _VOCABULARY.search(words) is None


def _words(key: str) -> str:
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)).lower()


def _is_secret(key: str, value: Any) -> bool:
    if value is None or isinstance(value, bool) or not looks_secret(key):
        return False
    if isinstance(value, str):
        return value != "" and REFERENCE.fullmatch(value) is None
    is_count = isinstance(value, int | float) and _words(key).endswith(("token", "pass"))
    return not is_count


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return redact(value)
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    if isinstance(value, str):
        return redact_text(value)
    return value


def redact_text(text: str) -> str:
    """`text` with `***` for the passwords and tokens of the URIs in it."""
    return _URI_PARAMETER.sub(_hide, _URI_PASSWORD.sub(_hide, text))


def redact_word(word: str) -> str:
    """A word of a command without its secrets: `tracker.api_key=...`, `callbacks=[{tracker: {api_key: ...}}]`."""
    key, equals, value = word.partition("=")
    if equals:
        # An option may hold an assignment: --set=tracker.api_key=...
        return f"{key}={REDACTED if looks_secret(key.rpartition('.')[2]) else redact_word(value)}"
    return redact_text(_NESTED.sub(_hide_nested, word))


def _hide_nested(match: re.Match[str]) -> str:
    return f"{match['key']}{match['colon']}{REDACTED}" if looks_secret(match["key"]) else match[0]


def _hide(match: re.Match[str]) -> str:
    if REFERENCE.fullmatch(match["secret"]):
        return match[0]
    return f"{match['before']}{REDACTED}{match['after']}"
