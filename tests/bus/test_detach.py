"""What leaves the publishing thread is a frozen copy: facts stay, live things do not, nobody waits for a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bus import Event, Live, Scalar
from bus.detach import detacher, landed


class Detachable(Event, frozen=True):
    """Of every kind of field one."""

    number: int
    label: str | None
    batch: Live[Any]
    loss: Scalar
    norm: Scalar | None
    metrics: Mapping[str, Any]


class Source:
    """Has a view of itself."""

    def detached(self, event: Event) -> str:
        """Stand for the facts."""
        return f"facts at {event.name}"


class OnDevice:
    """A number for which one has to wait."""

    is_cpu = False
    waited = 0

    def __float__(self) -> float:
        self.waited += 1
        return 0.25


def test_facts_stay_and_live_things_go() -> None:
    """The source becomes its view, the batch goes, containers are copied as deep as they go."""
    metrics = {"loss": 1.0, "inner": {"list": [1]}}
    made = detacher(Detachable)(Detachable(Source(), 1, "a", [1], 2, None, metrics))
    metrics["inner"]["list"].append(2)  # type: ignore[index]  # as any listener in step may
    assert (made.source, made.number, made.label, made.batch) == ("facts at detachable", 1, "a", None)
    assert (made.loss, type(made.loss), made.norm) == (2.0, float, None)
    assert made.metrics == {"loss": 1.0, "inner": {"list": [1]}}


def test_a_source_without_a_view_goes() -> None:
    """It exists on the publishing thread only."""
    assert detacher(Detachable)(Detachable(object(), 1, None, None, 0.5, 0.5, {})).source is None


def test_a_scalar_on_a_device_is_waited_for_where_it_lands() -> None:
    """Not where the event is published."""
    loss = OnDevice()
    made = detacher(Detachable)(Detachable(None, 1, None, None, loss, 0.5, {}))
    assert (made.loss, loss.waited) == (loss, 0)
    there = landed(made)
    assert (there.loss, there.norm, loss.waited) == (0.25, 0.5, 1)
    assert landed(there) is there
