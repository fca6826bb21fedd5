"""Listeners are made from plain values, or it is said why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bus import Event
from frameworm.delivery.listener import ProcessListener, RelayPlan, read_plan, recorded_every, write_plan
from frameworm.delivery.receiver import make_receiver
from frameworm.delivery.replay import events
from frameworm.errors import HookError, UnknownNameError, UserError
from frameworm.events import BatchEnd, EpochEnd
from frameworm.plugins.hooks import CallbackHook
from frameworm.plugins.selection import Selection
from tests.frameworm.delivery.listeners import CALLS, Batches, ToFile
from tests.frameworm.delivery.recorded import WHERE, listener, new_run, writing

HERE = __name__


class Grabs(CallbackHook):
    """Wants what exists in the training process only."""

    def on_batch_begin(self, trainer: Any, batch_idx: int, batch: Any) -> None:
        """Never called."""


class Modest(CallbackHook):
    """Does without."""

    def __init__(self, token: str = "") -> None:
        self.token = token
        self.got: list[Any] = []

    def on_batch_begin(self, trainer: Any, batch_idx: int, batch: Any = "none") -> None:
        """Remember it."""
        self.got.append((batch_idx, batch, self.token))


class Waits(CallbackHook):
    """A coroutine."""

    async def on_epoch_end(self, trainer: Any) -> None:
        """Never called."""


class Deaf:
    """Has no hooks."""


class Aimless:
    """Takes batches of nothing."""

    events = ()

    def deliver(self, events: list[Event]) -> None:
        """Never called."""


class Misspelt(Aimless):
    """Wants an event that does not exist."""

    events = ("epoch_ends",)  # type: ignore[assignment]


class Outer:
    """Holds a listener."""

    class Inner(Modest):
        """Is found by its qualified name."""


def recorded_event(tmp_path: Path, name: str, **fields: Any) -> Event:
    """Return an event as the relay has it."""
    run = new_run(tmp_path)
    with writing(run) as write:
        write(name, **fields)
    [event] = events(run)
    return event


def test_a_callback_by_its_import_path(tmp_path: Path) -> None:
    """Its hooks say what it wants; live arguments are left to their defaults; references are resolved."""
    made = make_receiver(ProcessListener("a", f"{HERE}:Outer.Inner", {"token": "abc"}))
    made.deliver([recorded_event(tmp_path, "batch_begin", batch_idx=3)])
    assert (set(made.names), made.batched) == ({"batch_begin"}, False)
    assert made._obj.got == [(3, "none", "abc")]


def test_a_hook_that_is_a_function(tmp_path: Path) -> None:
    """It is called, not made."""
    CALLS.clear()
    made = make_receiver(ProcessListener("a", f"{WHERE}:count_epochs", event="epoch_end"))
    made.deliver([recorded_event(tmp_path, "epoch_end", epoch=4, metrics={})])
    assert (set(made.names), CALLS) == ({"epoch_end"}, [4])


def test_what_takes_batches_says_what_it_wants(tmp_path: Path) -> None:
    """Its attribute `events` has the names, and its state is its own."""
    made = make_receiver(listener("a", "Batches", path=tmp_path / "a"))
    made.restore({"highest": 9})
    assert (set(made.names), made.batched) == (set(Batches.events), True)
    assert made.state() == {"highest": 9}


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("Grabs", HookError, "parameter 'batch' exists only there"),
        ("Waits", HookError, "coroutine function"),
        ("Deaf", UserError, "cannot listen"),
        ("Aimless", UserError, "does not say which events it wants"),
        ("Misspelt", UnknownNameError, "epoch_end"),
        ("Nobody", UserError, "no 'Nobody'"),
    ],
)
def test_what_cannot_listen_is_said(name: str, kind: type[Exception], words: str) -> None:
    """One error, about what is wrong."""
    with pytest.raises(kind, match=words):
        make_receiver(ProcessListener("a", f"{HERE}:{name}"))


def test_a_name_that_nobody_registered() -> None:
    """The nearest one is offered."""
    with pytest.raises(UnknownNameError) as refused:
        make_receiver(ProcessListener("a", "early_stoping"))
    assert refused.value.nearest == "early_stopping"


def test_options_are_checked() -> None:
    """As those of a config are."""
    with pytest.raises(UserError, match="no option 'speed'"):
        make_receiver(ProcessListener("a", f"{HERE}:Modest", {"speed": 3}))


def test_the_plan_is_a_file(tmp_path: Path) -> None:
    """It comes back as it was, and only its owner can read it."""
    plan = RelayPlan(
        (ProcessListener("a", "m:C", {"path": "x"}, None, {"batch_end": 5}, 3.0),),
        Selection(("p",), others=False, disabled=frozenset({"q"}), options={"p": {"n": 1}}),
        "/somewhere",
    )
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    assert (tmp_path / "relay" / "listeners.json").stat().st_mode & 0o777 == 0o600
    write_plan(tmp_path, RelayPlan(()))
    assert read_plan(tmp_path) == RelayPlan(()) == read_plan(tmp_path / "nowhere")


def test_names_of_files() -> None:
    """Any name has its own."""
    names = ["mlflow", "mlflow#2", "mlflow_2", "my-plugin:Logger", "../up", "a/b", "a_b"]
    stems = [ProcessListener(name, "x").stem for name in names]
    assert stems[0] == "mlflow"
    assert len(set(stems)) == len(names)
    assert not any("/" in stem for stem in stems)


def test_what_has_to_be_recorded() -> None:
    """The most demanding listener decides."""
    listeners = [
        ProcessListener("a", "x", every={"batch_end": 5, "epoch_end": 1}),
        ProcessListener("b", "y", every={"batch_end": 2}),
    ]
    assert recorded_every(listeners) == {BatchEnd: 2, EpochEnd: 1}
    assert ToFile.dispatch is None
