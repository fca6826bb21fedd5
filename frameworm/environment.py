"""Where a run ran: command, code, packages and machine, written down beside it so that it can be done again."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType

import msgspec

from frameworm.config.secrets import REDACTED, looks_secret, redact_word

_PATIENCE = 5.0  # seconds for git, which may have to look at a large working tree


class Git(msgspec.Struct, frozen=True):
    """The state of a working tree; `dirty` says that tracked files differ from the commit."""

    commit: str | None
    branch: str | None
    dirty: bool


class Hardware(msgspec.Struct, frozen=True):
    """A machine: `cpus` are those that this process may use, `memory` is in bytes, `accelerators` by name."""

    machine: str
    processor: str
    cpus: int
    memory: int | None
    accelerators: tuple[str, ...]


class Environment(msgspec.Struct, frozen=True):
    """Where a process runs; secrets in `command` are left out, `git` is None outside a repository.

    `packages` are those that are installed, `plugins` those that are loaded, each with its version.
    """

    command: tuple[str, ...]
    directory: str
    host: str
    platform: str
    python: str
    executable: str
    git: Git | None
    hardware: Hardware
    packages: dict[str, str]
    plugins: dict[str, str]

    def write(self, path: Path) -> None:
        """Write it to `path`, as JSON; raises OSError."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def environment(accelerators: Sequence[str] = (), plugins: Mapping[str, str] = MappingProxyType({})) -> Environment:
    """Look at this process's environment.

    `accelerators` are the names of the devices, which only torch can tell, `plugins` the versions of those loaded.
    """
    directory = Path.cwd()
    return Environment(
        command=tuple(redact_command(sys.orig_argv)),
        directory=str(directory),
        host=platform.node(),
        platform=platform.platform(),
        python=platform.python_version(),
        executable=sys.executable,
        git=git_state(directory),
        hardware=_hardware(accelerators),
        packages=_packages(),
        plugins=dict(plugins),
    )


def redact_command(command: Iterable[str]) -> list[str]:
    """Return the words of a command with `***` for secrets: `--set tracker.api_key=...`, `--token ...`, in URIs."""
    words: list[str] = []
    for word in command:
        hidden = bool(words) and words[-1].startswith("-") and "=" not in words[-1] and looks_secret(words[-1])
        words.append(REDACTED if hidden else redact_word(word))
    return words


def git_state(directory: Path) -> Git | None:
    """Return the state of the working tree that `directory` is in; None where there is none, or no git."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        status = subprocess.run(  # noqa: S603  no word of it comes from outside
            command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = status.splitlines()
    headers = {key: value for _, key, value in (line.split(" ", 2) for line in lines if line.startswith("# "))}
    commit, branch = headers.get("branch.oid"), headers.get("branch.head")
    return Git(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        dirty=any(not line.startswith("#") for line in lines),
    )


def _packages() -> dict[str, str]:
    found = {distribution.metadata["Name"]: distribution.version for distribution in distributions()}
    return dict(sorted((name, version) for name, version in found.items() if name))


def _hardware(accelerators: Sequence[str]) -> Hardware:
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = None
    return Hardware(
        machine=platform.machine(),
        processor=_processor(),
        cpus=usable,
        memory=memory,
        accelerators=tuple(accelerators),
    )


def _processor() -> str:
    """Return the processor's name, which Python itself does not know on Linux."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return platform.processor()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1] if name else platform.processor()
