"""Hooks as plugins write them: functions and callbacks, by the document's names, called with its arguments."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from bus import EventBus, SubscriptionError, default_bus
from bus.testing import record
from frameworm.errors import HookError
from frameworm.events import BatchEnd, EpochBegin, EpochEnd, HooksSwitched, TrainEnd
from frameworm.plugins.hooks import CallbackHook, HookRegistry

pytestmark = pytest.mark.usefixtures("scratch_hooks")


class FakeTrainer:
    """Has a rank, and that is all."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank


TRAINER: Any = FakeTrainer()


def end_epoch(bus: EventBus, epoch: int = 0, **metrics: float) -> dict[str, float]:
    """Publish the end of an epoch, and return its metrics as the hooks left them."""
    bus.publish(EpochEnd(TRAINER, epoch, metrics))
    return metrics


@pytest.fixture
def bus() -> Iterator[EventBus]:
    """A trainer's bus."""
    with EventBus(default_bus) as bus:
        yield bus


# HookRegistry


def test_the_documents_hook_runs_as_written(bus: EventBus, capsys: pytest.CaptureFixture[str]) -> None:
    """Nested in a function, which nobody holds."""

    def register() -> None:
        @HookRegistry.on("on_epoch_end")
        def my_hook(trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
            print(f"Custom: Epoch {epoch} done!")

    register()
    gc.collect()
    end_epoch(bus, 3)
    assert capsys.readouterr().out == "Custom: Epoch 3 done!\n"


def test_the_decorated_function_is_given_back() -> None:
    """And may be registered for several hooks."""

    def hook(trainer: Any) -> None: ...

    assert HookRegistry.on("on_train_begin")(hook) is hook
    assert HookRegistry.on("on_train_end")(hook) is hook
    assert list(HookRegistry.list_hooks()) == ["on_train_begin", "on_train_end"]


def test_lower_priorities_run_first_and_equal_ones_as_they_came(bus: EventBus) -> None:
    """The list shows the order in which they are called."""
    called: list[str] = []

    @HookRegistry.on("on_epoch_end")
    def second() -> None:
        called.append("second")

    @HookRegistry.on("on_epoch_end", 60.5)
    def last() -> None:
        called.append("last")

    @HookRegistry.on("on_epoch_end", priority=10)
    def first() -> None:
        called.append("first")

    @HookRegistry.on("on_epoch_end")
    def third() -> None:
        called.append("third")

    end_epoch(bus)
    assert called == ["first", "second", "third", "last"]
    prefix = f"{__name__}:test_lower_priorities_run_first_and_equal_ones_as_they_came.<locals>."
    assert HookRegistry.list_hooks() == {
        "on_epoch_end": [
            f"{prefix}first (10)",
            f"{prefix}second (50)",
            f"{prefix}third (50)",
            f"{prefix}last (60.5)",
        ]
    }


def test_the_list_has_only_what_is_there() -> None:
    """It is empty to begin with, and again when all is gone."""
    assert HookRegistry.list_hooks() == {}
    with Recorder():
        assert set(HookRegistry.list_hooks()) == {"on_epoch_end", "on_train_end"}
    assert HookRegistry.list_hooks() == {}


def test_hooks_may_add_to_the_metrics_for_those_after_them(bus: EventBus) -> None:
    """In the same event."""
    seen: list[dict[str, float]] = []
    HookRegistry.on("on_epoch_end", priority=1)(lambda trainer, epoch, metrics: metrics.update(mine=2.0))
    HookRegistry.on("on_epoch_end", priority=2)(lambda trainer, epoch, metrics: seen.append(dict(metrics)))
    assert end_epoch(bus, loss=1.0) == {"loss": 1.0, "mine": 2.0}
    assert seen == [{"loss": 1.0, "mine": 2.0}]


def test_every_filters_at_the_source(bus: EventBus) -> None:
    """The second, the fourth, and so on."""
    seen: list[int] = []
    HookRegistry.on("on_batch_end", every=2)(lambda trainer, batch_idx: seen.append(batch_idx))
    for batch_idx in range(5):
        bus.publish(BatchEnd(TRAINER, batch_idx, 0.5))
    assert seen == [1, 3]


def test_ranks_zero_is_the_first_process_only(bus: EventBus) -> None:
    """By default all of them are served."""
    seen: list[str] = []
    HookRegistry.on("on_train_end", ranks="zero")(lambda trainer: seen.append(f"zero on {trainer.rank}"))
    HookRegistry.on("on_train_end")(lambda trainer: seen.append(f"all on {trainer.rank}"))
    for rank in (0, 1):
        trainer: Any = FakeTrainer(rank)
        bus.publish(TrainEnd(trainer, "finished", None, None))
    assert seen == ["zero on 0", "all on 0", "all on 1"]


def test_a_wrong_name_fails_with_the_nearest_and_the_place() -> None:
    """Where the function is written."""

    def hook() -> None: ...

    with pytest.raises(HookError, match="unknown hook 'on_epoch_edn'") as caught:
        HookRegistry.on("on_epoch_edn")(hook)
    assert caught.value.hint == "on_epoch_end"
    assert caught.value.where == f"{__file__}:{hook.__code__.co_firstlineno}"
    assert HookRegistry.list_hooks() == {}


def test_forgotten_parentheses_are_told_of() -> None:
    """With what to write."""

    def on_epoch_end(trainer: Any) -> None: ...

    with pytest.raises(HookError) as caught:
        HookRegistry.on(on_epoch_end)  # type: ignore[arg-type]  # that is the mistake
    assert caught.value.hint == '@HookRegistry.on("on_epoch_end")'
    assert caught.value.where == f"{__file__}:{on_epoch_end.__code__.co_firstlineno}"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"every": 0}, SubscriptionError),
        ({"priority": "high"}, SubscriptionError),
        ({"ranks": "first"}, HookError),
    ],
)
def test_a_bad_option_fails_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    """Not at the first event, and nothing is registered."""
    with pytest.raises(error):
        HookRegistry.on("on_epoch_end", **options)(lambda: None)
    assert HookRegistry.list_hooks() == {}


def test_parameters_that_do_not_fit_fail_at_once() -> None:
    """With file and line."""

    def hook(trainer: Any, batch: Any) -> None: ...

    with pytest.raises(HookError, match="'batch'") as caught:
        HookRegistry.on("on_train_end")(hook)
    assert str(caught.value.where).startswith(__file__)


def test_a_hook_that_fails_is_isolated_and_named(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """By its own name and line, not those of what calls it."""

    @HookRegistry.on("on_epoch_end", ranks="zero")
    def broken() -> None:
        raise ValueError("mine")

    seen = Recorder().register(bus)
    end_epoch(bus)
    assert seen.epochs == [0]
    assert ".broken failed on epoch_end at " + __file__ in caplog.text


# Disabling


def test_disabled_hooks_and_callbacks_are_silent_until_they_are_enabled(bus: EventBus) -> None:
    """On every bus; other listeners are not theirs to silence."""
    plain: list[int] = []
    bus.subscribe(EpochEnd, lambda event: plain.append(event.epoch))
    on_default, on_bus = Recorder().register(), Recorder().register(bus)
    HookRegistry.disable()
    assert not HookRegistry.is_enabled()
    end_epoch(bus, 0)
    HookRegistry.enable()
    assert HookRegistry.is_enabled()
    end_epoch(bus, 1)
    assert on_default.epochs == on_bus.epochs == [1]
    assert plain == [0, 1]


def test_disabling_may_be_for_a_while(bus: EventBus) -> None:
    """Also one inside of another, and when it ends with an error."""
    recorder = Recorder().register()
    with HookRegistry.disable():
        with HookRegistry.disable():
            end_epoch(bus, 0)
        end_epoch(bus, 1)
    end_epoch(bus, 2)
    with pytest.raises(ValueError, match="mine"), HookRegistry.disable():
        raise ValueError("mine")
    end_epoch(bus, 3)
    assert recorder.epochs == [2, 3]


def test_what_is_registered_meanwhile_is_silent_as_well(bus: EventBus) -> None:
    """And listed, and speaks with the others."""
    with HookRegistry.disable():
        recorder = Recorder().register()
        end_epoch(bus, 0)
        assert list(HookRegistry.list_hooks()) == ["on_epoch_end", "on_train_end"]
    end_epoch(bus, 1)
    assert recorder.epochs == [1]


def test_enabling_what_is_enabled_does_nothing(bus: EventBus) -> None:
    """Inside of a `with` it ends the silence early."""
    recorder = Recorder().register()
    HookRegistry.enable()
    with HookRegistry.disable():
        HookRegistry.enable()
        end_epoch(bus, 0)
    end_epoch(bus, 1)
    assert recorder.epochs == [0, 1]
    assert HookRegistry.is_enabled()


def test_switching_is_told_of_once() -> None:
    """On the default bus, which is how a run's record has it."""
    with record(default_bus, HooksSwitched) as events:
        with HookRegistry.disable(), HookRegistry.disable():
            pass
        HookRegistry.enable()
    assert [(event.source, event.enabled) for event in events] == [(None, False), (None, True)]


# CallbackHook


class Recorder(CallbackHook):
    """Remembers epochs and ends; it has no `super().__init__()`, and needs none."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.ends = 0

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
        """Remember."""
        self.epochs.append(epoch)

    def on_train_end(self, trainer: Any) -> None:
        """Remember."""
        self.ends += 1

    def online(self) -> None:
        """Is called like a hook, but not quite."""


def test_the_documents_callback_runs_as_written(bus: EventBus) -> None:
    """Made, registered, and nothing else; it lives without being held."""
    called: list[str] = []

    class MyCallback(CallbackHook):
        def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
            called.append("epoch_end")

        def on_train_end(self, trainer: Any) -> None:
            called.append("train_end")

    callback = MyCallback()
    callback.register()
    del callback
    gc.collect()
    end_epoch(bus)
    bus.publish(TrainEnd(TRAINER, "finished", None, None))
    assert called == ["epoch_end", "train_end"]


def test_only_what_is_defined_is_registered(bus: EventBus) -> None:
    """Inherited hooks are; nobody else pays for the others."""

    class More(Recorder):
        def on_epoch_begin(self) -> None:
            """Another one."""

    with More().register(bus):
        assert set(HookRegistry.list_hooks()) == {"on_epoch_begin", "on_epoch_end", "on_train_end"}
        assert not bus.channel(BatchEnd).active
        assert bus.channel(EpochBegin).active


def test_an_inherited_hook_may_be_taken_out() -> None:
    """As Python takes methods out; what is no method is no hook."""

    class Less(Recorder):
        on_epoch_end: ClassVar = None  # type: ignore[assignment]  # that is how
        on_gpu = False

    with Less():
        assert set(HookRegistry.list_hooks()) == {"on_train_end"}


def test_registering_again_changes_nothing(bus: EventBus) -> None:
    """It returns the object; a bus that inherits from where it is registered is served already."""
    recorder = Recorder()
    assert recorder.register().register() is recorder
    assert recorder.register(bus) is recorder
    with recorder.register():
        end_epoch(bus, 0)
    end_epoch(bus, 1)
    assert recorder.epochs == [0]


def test_a_callback_may_be_on_several_buses() -> None:
    """Those of isolated trainers; unregistering takes it off all of them."""
    one, two = EventBus(), EventBus()
    recorder = Recorder().register(one).register(two)
    end_epoch(one, 1)
    end_epoch(two, 2)
    end_epoch(EventBus(default_bus), 3)
    recorder.unregister()
    end_epoch(one, 4)
    end_epoch(two, 5)
    assert recorder.epochs == [1, 2]


def test_unregistering_and_registering_again_works(bus: EventBus) -> None:
    """Unregistering what is not registered is no error."""
    recorder = Recorder()
    recorder.unregister()
    recorder.register()
    recorder.unregister()
    recorder.unregister()
    end_epoch(bus, 0)
    recorder.register()
    end_epoch(bus, 1)
    assert recorder.epochs == [1]


def test_in_a_with_it_is_registered_inside_only(bus: EventBus) -> None:
    """On the default bus, or where it was registered for it."""
    recorder = Recorder()
    with recorder as same:
        assert same is recorder
        end_epoch(bus, 0)
    end_epoch(bus, 1)
    isolated = EventBus()
    with recorder.register(isolated):
        end_epoch(bus, 2)
        end_epoch(isolated, 3)
    end_epoch(isolated, 4)
    assert recorder.epochs == [0, 3]


def test_a_callback_whose_bus_is_gone_is_gone_with_it() -> None:
    """The registry knows it, but does not hold it."""
    bus = EventBus()
    recorder = Recorder().register(bus)
    alive = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert alive() is not None
    del bus
    gc.collect()
    assert alive() is None
    assert HookRegistry.list_hooks() == {}


def test_priority_is_for_all_hooks_of_a_callback(bus: EventBus) -> None:
    """It may be given when it is registered."""
    order: list[str] = []

    class Named(CallbackHook):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_epoch_end(self) -> None:
            order.append(self.name)

    Named("late").register(priority=90)
    Named("usual").register()
    Named("early").register(bus, priority=10)
    end_epoch(bus)
    assert order == ["early", "usual", "late"]


def test_ranks_zero_is_for_all_hooks_of_a_callback(bus: EventBus) -> None:
    """As for a tracker, which is one for all processes."""
    recorder = Recorder().register(ranks="zero")
    for rank in (1, 0):
        trainer: Any = FakeTrainer(rank)
        bus.publish(EpochEnd(trainer, rank, {}))
    assert recorder.epochs == [0]


def test_two_instances_of_one_class_have_names_of_their_own() -> None:
    """Also while hooks are disabled; a name may be given."""
    prefix = f"{__name__}:Recorder"
    gc.collect()  # callbacks on the buses of earlier tests are listed for as long as those exist
    with Recorder(), HookRegistry.disable(), Recorder(), Recorder().register(name="mine"):
        entries = HookRegistry.list_hooks()["on_epoch_end"]
    assert entries == [f"{prefix} (50)", f"{prefix}#2 (50)", "mine (50)"]


def test_a_method_that_is_no_hook_registers_nothing_of_the_callback() -> None:
    """A misspelt hook would silently never be called."""

    class Misspelt(Recorder):
        def on_train_ends(self, trainer: Any) -> None: ...

    with pytest.raises(HookError, match="unknown hook 'on_train_ends'") as caught:
        Misspelt().register()
    assert caught.value.hint == "on_train_end"
    assert caught.value.where == f"{__file__}:{Misspelt.on_train_ends.__code__.co_firstlineno}"
    assert HookRegistry.list_hooks() == {}


def test_a_method_whose_parameters_do_not_fit_registers_nothing_of_the_callback() -> None:
    """Where else it is registered, it stays."""

    class Unfit(Recorder):
        def on_train_end(self, trainer: Any, epoch: int) -> None: ...  # type: ignore[override]  # that is the mistake

    with pytest.raises(HookError, match="'epoch'"):
        Unfit().register()
    assert HookRegistry.list_hooks() == {}
