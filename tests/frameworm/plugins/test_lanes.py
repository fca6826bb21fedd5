"""A hook or a callback is served where it says, where its plugin says, or where whoever registers it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest

from bus import Event, EventBus, SubscriptionError, default_bus
from frameworm.core import ownership
from frameworm.delivery.listener import ProcessListener
from frameworm.delivery.receiver import receiver_for
from frameworm.errors import HookError
from frameworm.events import BatchEnd, EpochEnd, TrainEnd
from frameworm.facts import RunView
from frameworm.plugins.hooks import CallbackHook, HookRegistry
from frameworm.plugins.lanes import ProcessHook, lane_of, process_hooks, split
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import a_trainer

pytestmark = pytest.mark.usefixtures("scratch_hooks")


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    """A trainer that hears of the default bus's hooks; it need not train."""
    made = a_trainer(bus=EventBus(default_bus))
    yield made
    made.bus.close()


def on_epoch_end(trainer: Any, epoch: int) -> None:
    """Can be imported, from here."""


def publish(trainer: Trainer, event: Event) -> None:
    """Publish, and wait for whoever listens elsewhere."""
    trainer.bus.publish(event)
    assert trainer.bus.drain(20)


def test_a_coroutine_function_runs_on_an_event_loop(trainer: Trainer) -> None:
    """With the facts of the moment for a trainer."""
    heard: list[Any] = []

    @HookRegistry.on("on_epoch_end")
    async def later(trainer: Any, epoch: int, metrics: Any) -> None:
        heard.append((type(trainer), epoch, metrics, threading.get_ident()))

    publish(trainer, EpochEnd(trainer, 3, {"loss": 0.5}))
    [(kind, epoch, metrics, thread)] = heard
    assert (kind, epoch, metrics) == (RunView, 3, {"loss": 0.5})
    assert thread != threading.get_ident()


def test_a_plain_function_may_ask_for_a_thread(trainer: Trainer) -> None:
    """The loss is a float there; the options of the lane are taken, wrong ones refused at once."""
    heard: list[Any] = []
    register = HookRegistry.on("on_batch_end", dispatch="async", queue_size=8, overflow="latest")
    register(lambda trainer, batch_idx, loss: heard.append((trainer.rank, batch_idx, loss, threading.get_ident())))
    publish(trainer, BatchEnd(trainer, 7, 0.25))
    [(rank, batch_idx, loss, thread)] = heard
    assert (rank, batch_idx, loss) == (0, 7, 0.25)
    assert thread != threading.get_ident()
    wrong: list[dict[str, Any]] = [{"queue_size": -1}, {"overflow": "drop_olddest"}, {"timeout": "soon"}]
    for options in wrong:
        with pytest.raises(SubscriptionError, match=next(iter(options))):
            HookRegistry.on("on_batch_end", dispatch="async", **options)(on_epoch_end)


def test_no_such_lane() -> None:
    """The error offers the nearest, with the place of the hook."""
    with pytest.raises(HookError, match="no such lane") as caught:
        HookRegistry.on("on_epoch_end", dispatch="asink")(on_epoch_end)  # type: ignore[arg-type]  # as people do
    assert (caught.value.hint, caught.value.got) == ("async", "'asink'")
    assert str(caught.value.where).startswith(__file__)


class Coroutines(CallbackHook):
    """Two coroutine functions."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def on_epoch_end(self, epoch: int) -> None:
        """Remember it."""
        self.heard.append(f"epoch {epoch}")

    async def on_train_end(self) -> None:
        """Remember it."""
        self.heard.append("end")


class Mixed(Coroutines):
    """One of them is a plain function."""

    def on_train_end(self) -> None:  # type: ignore[override]  # on purpose
        """Remember it."""
        self.heard.append(f"end in step: {threading.current_thread() is threading.main_thread()}")


def test_one_callback_is_one_listener(trainer: Trainer) -> None:
    """In order over all its events; mixed kinds go to their own lanes, and are refused in one."""
    callback = Coroutines().register(trainer.bus)
    for epoch in range(20):
        trainer.bus.publish(EpochEnd(trainer, epoch, {}))
    publish(trainer, TrainEnd(trainer, "finished", None, None))
    assert callback.heard == [*(f"epoch {epoch}" for epoch in range(20)), "end"]
    mixed = Mixed().register(trainer.bus)
    publish(trainer, TrainEnd(trainer, "finished", None, None))
    assert mixed.heard == ["end in step: True"]
    with pytest.raises(SubscriptionError, match="`async def` or none"):
        Mixed().register(trainer.bus, dispatch="async")
    assert len([entry for entry in trainer.bus.subscriptions() if "Mixed" in entry.name]) == 2


class Batched(CallbackHook):
    """Takes lists."""

    events: ClassVar[tuple[str, ...]] = ("epoch_end", "train_end")

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def deliver(self, events: Sequence[Any]) -> None:
        """Keep them."""
        self.batches.append([(event.name, type(event.source)) for event in events])


@pytest.mark.parametrize("lane", ["sync", "async"])
def test_lists_of_events(trainer: Trainer, lane: Any) -> None:
    """One by one in step, many at once elsewhere; with the same facts for a source."""
    callback = Batched().register(trainer.bus, dispatch=lane)
    for epoch in range(4):
        trainer.bus.publish(EpochEnd(trainer, epoch, {}))
    publish(trainer, TrainEnd(trainer, "finished", None, None))
    assert [entry for batch in callback.batches for entry in batch] == [("epoch_end", RunView)] * 4 + [
        ("train_end", RunView)
    ]
    assert (len(callback.batches) == 5) == (lane == "sync")


def test_deliver_and_hooks_do_not_go_together(trainer: Trainer) -> None:
    """Nor does it without the names of the events."""

    class Both(Batched):
        def on_epoch_end(self) -> None: ...

    class Nothing(Batched):
        events: ClassVar[tuple[str, ...]] = ()

    for kind, says in (Both, "hooks besides"), (Nothing, "no events for it"):
        with pytest.raises(HookError, match=says):
            kind().register(trainer.bus)


def test_rank_zero_in_every_lane(trainer: Trainer) -> None:
    """The others' events are not for it, in lists neither."""
    coroutines = Coroutines().register(trainer.bus, ranks="zero")
    batched = Batched().register(trainer.bus, dispatch="async", ranks="zero")
    trainer.rank = 1
    publish(trainer, EpochEnd(trainer, 1, {}))
    trainer.rank = 0
    publish(trainer, EpochEnd(trainer, 2, {}))
    assert coroutines.heard == ["epoch 2"]
    assert len(batched.batches) == 1


def test_a_function_for_the_process_lane_is_known_by_its_import_path() -> None:
    """It is listed, called here never, and taken back by `process_hooks`' owner."""
    HookRegistry.on("on_batch_end", dispatch="process", every=2)(on_epoch_end)
    assert process_hooks[-1] == ProcessHook(f"{__name__}:on_epoch_end", f"{__name__}:on_epoch_end", "batch_end", 2)
    assert HookRegistry.list_hooks() == {"on_batch_end": [f"{__name__}:on_epoch_end (process)"]}


def test_a_closure_cannot_go_there() -> None:
    """Nor whatever else has no name of its own to import it by."""

    def inner(trainer: Any) -> None: ...

    for fn in (inner, lambda trainer: None):
        with pytest.raises(HookError, match="another process has to import it by its name"):
            HookRegistry.on("on_train_end", dispatch="process")(fn)


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"nonsense": 3}, "nonsense"),
        ({"queue_size": 3}, "queue_size"),
        ({"every": 2}, "every=2 for on_epoch_end, which is always recorded"),
    ],
)
def test_options_that_mean_nothing_there(options: dict[str, Any], got: str) -> None:
    """They are refused, not ignored."""
    with pytest.raises(HookError, match="cannot have such options") as caught:
        HookRegistry.on("on_epoch_end", dispatch="process", **options)(on_epoch_end)
    assert caught.value.got == got
    with pytest.raises(HookError, match="ranks must be"):
        HookRegistry.on("on_epoch_end", dispatch="process", ranks="bad")(on_epoch_end)  # type: ignore[arg-type]  # so


class Awaited(Batched):
    """Has to be awaited."""

    async def deliver(self, events: Sequence[Any]) -> None:  # type: ignore[override]  # on purpose
        """Keep them."""
        self.batches.append([event.name for event in events])


async def on_train_end(trainer: Any) -> None:
    """Has to be awaited, too."""


def test_nobody_awaits_a_coroutine_in_step_or_in_the_process_lane(trainer: Trainer) -> None:
    """It would count as delivered, and nothing had run: it is refused; on an event loop it is served."""
    with pytest.raises(HookError, match="is a coroutine function"):
        Awaited().register(trainer.bus, dispatch="sync")
    with pytest.raises(HookError, match="deliver of a is a coroutine function"):
        receiver_for(Awaited(), ProcessListener("a", "a"))
    for lane in "sync", "process":
        with pytest.raises(HookError, match="is a coroutine function"):
            HookRegistry.on("on_train_end", dispatch=lane)(on_train_end)
    callback = Awaited().register(trainer.bus)
    publish(trainer, TrainEnd(trainer, "finished", None, None))
    assert callback.batches == [["train_end"]]


def test_what_exists_on_the_publishing_thread_only_cannot_be_asked_for_elsewhere() -> None:
    """At registration, in both lanes."""

    def hook(trainer: Any, batch_idx: int, batch: Any) -> None: ...

    for lane in "async", "process":
        with pytest.raises(HookError, match="'batch' exists only there"):
            HookRegistry.on("on_batch_begin", dispatch=lane)(hook)


def test_a_callback_for_the_process_lane_is_made_there() -> None:
    """Registering an object for it says who makes it."""
    with pytest.raises(HookError, match="made in that process") as caught:
        Batched().register(dispatch="process")
    assert caught.value.expected == "the run's config to name it, under callbacks"


def test_who_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever registers, then the plugin's manifest, then the listener itself, then its function."""
    monkeypatch.setattr(ownership.ledger("frameworm_plugins.laned"), "dispatch", "async")
    inside, outside = "frameworm_plugins.laned.part", "somewhere"
    assert lane_of("a", "process", "sync", inside) == "process"
    assert lane_of("a", None, "sync", inside) == "async"
    assert lane_of("a", None, "sync", outside) == "sync"
    assert lane_of("a", None, None, outside) is None


def test_what_a_config_may_say_of_any_callback() -> None:
    """A name that the callback has itself is its own."""
    options = {"every": 3, "dispatch": "async", "timeout": 3.0, "path": "x"}
    assert split(options, {"every", "timeout", "path"}) == (
        {"every": 3, "timeout": 3.0, "path": "x"},
        {"dispatch": "async"},
    )
