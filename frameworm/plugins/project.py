"""Where the project is, when something is called from below its root, and whether its code may be run."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

PLUGINS = "frameworm_plugins"
TRUST = "FRAMEWORM_TRUST"


def project_root(start: Path) -> Path | None:
    """The nearest of `start` and its ancestors that has a plugin folder, or the parent of the one they are in.

    The search ends at the home directory, at the file system's root, where the owner changes and where the user may
    not look.
    """
    with suppress(PermissionError):
        owner = start.stat().st_uid
        for folder in (start, *start.parents):
            if folder.stat().st_uid != owner:
                return None
            if folder.name == PLUGINS:
                return folder.parent
            if (folder / PLUGINS).is_dir():
                return folder
            if folder == Path.home():
                return None
    return None


def distrust(path: Path) -> str | None:
    """Return why code in the folder at `path` is not to be run: others than its user (and root) could have put it in.

    None where nothing speaks against it, and for folders that FRAMEWORM_TRUST names, or that are below one it names.
    """
    trusted = [Path(entry).absolute() for entry in os.environ.get(TRUST, "").split(os.pathsep) if entry]
    if any(path.absolute().is_relative_to(entry) for entry in trusted):
        return None
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user (uid {status.st_uid})"
    if status.st_mode & stat.S_IWOTH:
        return f"{path} can be written to by everyone"
    return None
