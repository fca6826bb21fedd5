"""What plugins may be called, and when two names mean one plugin."""

from __future__ import annotations

import re

from frameworm.errors import UserError

PREFIX = "frameworm-"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*")
_LONGEST = 100


def key_of(name: str) -> str:
    """Return the form in which names are compared: `My_Plugin` and `frameworm-my-plugin` are `my-plugin`.

    Runs of `-`, `_` and `.` are one dash, as for distributions (PEP 503).
    """
    key = re.sub(r"[-_.]+", "-", name.strip()).lower()
    return key.removeprefix(PREFIX) if len(key) > len(PREFIX) else key


def check_name(name: str) -> None:
    """Raise `UserError` for a name that cannot be a plugin's, nor a folder's."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        expected = (
            f"letters and digits (up to {_LONGEST}), first a letter, with single dashes or underscores in between"
        )
        suggestion = re.sub(r"[^A-Za-z0-9]+", "-", name[:_LONGEST]).strip("-").lstrip("0123456789-")
        raise UserError(
            "that is no name for a plugin",
            expected=expected,
            got=repr(name),
            hint=suggestion if _NAME.fullmatch(suggestion) else "my-plugin",
        )
