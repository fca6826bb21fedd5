"""What identifies a run, and how one ended: the values that a trainer is given and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

Status = Literal["ready", "running", "finished", "stopped", "failed", "interrupted"]


class RunInfo(msgspec.Struct, frozen=True):
    """What a run is called and where it is kept; a trainer without one trains and leaves nothing behind.

    `config` is the resolved configuration with its secrets redacted: whoever listens may read it.
    """

    id: str = ""
    name: str = "run"
    directory: Path | None = None
    attempt: int = 1
    model: str | None = None
    config: Mapping[str, Any] = MappingProxyType({})


class TrainResult(msgspec.Struct, frozen=True):
    """How a run ended: its status and the reason, its latest metrics, how far it came and where it is kept."""

    status: Status
    reason: str | None
    metrics: Mapping[str, float]
    epochs: int
    steps: int
    directory: Path | None
