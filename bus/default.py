"""The bus that a process has without asking: whoever subscribes to it hears of every trainer in the process."""

from __future__ import annotations

from .bus import EventBus

default_bus = EventBus()
"""The parent of every trainer's bus, unless the trainer is given another."""
