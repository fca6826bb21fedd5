"""How a hook gets its arguments: by name, else by position, decided once; what cannot be filled is an error at once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from bus import event_types
from bus.subscription import is_async, name_of
from frameworm.errors import HookError
from frameworm.events import BatchBegin, BatchEnd, EpochEnd, ModelExport, TrainEnd, ValidationBegin
from frameworm.plugins.binding import bind, event_of, hook_names, place_of

TRAINER: Any = "the trainer"
METRICS = {"loss": 1.0}
EVENT = EpochEnd(TRAINER, 3, METRICS)

# Each hook returns what it was called with.


def documents(trainer: Any, epoch: Any, metrics: Any) -> Any:
    """Takes everything, by its names."""
    return trainer, epoch, metrics


def other_names(t: Any, e: Any, m: Any) -> Any:
    """Takes everything, by position."""
    return t, e, m


def other_order(metrics: Any, trainer: Any, epoch: Any) -> Any:
    """Takes everything by its names, in another order."""
    return metrics, trainer, epoch


def some(trainer: Any, metrics: Any) -> Any:
    """Takes two by name."""
    return trainer, metrics


def first(t: Any) -> Any:
    """Takes the first."""
    return t


def none() -> Any:
    """Takes nothing."""
    return "called"


def mixed(t: Any, epoch: Any) -> Any:
    """Takes the first by position, the second by name."""
    return t, epoch


def with_default(trainer: Any, metrics: Any = None, verbose: Any = "mine") -> Any:
    """A default is no reason not to get what has the name; another one stays."""
    return trainer, metrics, verbose


def default_between(trainer: Any, verbose: Any = "mine", epoch: Any = None) -> Any:
    """What comes behind a parameter that nothing fills."""
    return trainer, verbose, epoch


def keyword_only(trainer: Any, *, metrics: Any, verbose: Any = "mine") -> Any:
    """By name only."""
    return trainer, metrics, verbose


def positional_only(t: Any, epoch: Any, /) -> Any:
    """By position only."""
    return t, epoch


def positional_default(t: Any, verbose: Any = "mine", epoch: Any = "mine", /) -> Any:
    """What cannot be named, behind a default."""
    return t, verbose, epoch


def star(*args: Any) -> Any:
    """Takes what there is."""
    return args


def rest(trainer: Any, *args: Any) -> Any:
    """Takes the rest."""
    return trainer, args


def rest_between(trainer: Any, *args: Any, epoch: Any) -> Any:
    """Takes what is not taken by name."""
    return trainer, args, epoch


def rest_behind_default(verbose: Any = "mine", *args: Any) -> Any:
    """Nothing may slip into the default's place."""
    return verbose, args


def double_star(**kwargs: Any) -> Any:
    """Takes everything by name."""
    return kwargs


def both_stars(*args: Any, **kwargs: Any) -> Any:
    """By position; there is nothing left by name."""
    return args, kwargs


def named_rest(epoch: Any, **kwargs: Any) -> Any:
    """Takes the others by name."""
    return epoch, kwargs


class Callback:
    """A method and a callable object."""

    def method(self, trainer: Any, epoch: Any) -> Any:
        """A method."""
        return trainer, epoch

    @classmethod
    def of_class(cls, trainer: Any) -> Any:
        """A class method."""
        return trainer

    @staticmethod
    def static(trainer: Any) -> Any:
        """A static method."""
        return trainer

    def __call__(self, trainer: Any, metrics: Any) -> Any:
        """The object itself."""
        return trainer, metrics


@functools.wraps(some)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    """Decorated: its signature is that of what it wraps."""
    return some(*args, **kwargs)


@pytest.mark.parametrize(
    ("hook", "got"),
    [
        (documents, (TRAINER, 3, METRICS)),
        (other_names, (TRAINER, 3, METRICS)),
        (other_order, (METRICS, TRAINER, 3)),
        (some, (TRAINER, METRICS)),
        (first, TRAINER),
        (none, "called"),
        (mixed, (TRAINER, 3)),
        (with_default, (TRAINER, METRICS, "mine")),
        (default_between, (TRAINER, "mine", 3)),
        (keyword_only, (TRAINER, METRICS, "mine")),
        (positional_only, (TRAINER, 3)),
        (positional_default, (TRAINER, "mine", "mine")),
        (star, (TRAINER, 3, METRICS)),
        (rest, (TRAINER, (3, METRICS))),
        (rest_between, (TRAINER, (METRICS,), 3)),
        (rest_behind_default, ("mine", ())),
        (double_star, {"trainer": TRAINER, "epoch": 3, "metrics": METRICS}),
        (both_stars, ((TRAINER, 3, METRICS), {})),
        (named_rest, (3, {"trainer": TRAINER, "metrics": METRICS})),
        (Callback().method, (TRAINER, 3)),
        (Callback.of_class, TRAINER),
        (Callback.static, TRAINER),
        (Callback(), (TRAINER, METRICS)),
        (wrapped, (TRAINER, METRICS)),
        (functools.partial(lambda prefix, trainer: (prefix, trainer), "p"), ("p", TRAINER)),
        (lambda trainer, epoch: (trainer, epoch), (TRAINER, 3)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_arguments_go_by_name_where_the_names_are_the_documents_else_by_position(
    hook: Callable[..., Any], got: Any
) -> None:
    """Fewer parameters are fine."""
    assert bind(hook, EpochEnd)(EVENT) == got


def test_functions_without_a_signature_take_what_there_is() -> None:
    """Some that are written in C do not tell."""
    seen: list[Any] = []
    bind(seen.append, EpochEnd)(EVENT)
    assert seen == [TRAINER]
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(max)
    assert bind(max, ValidationBegin)(ValidationBegin("abc")) == "c"  # type: ignore[arg-type]  # no trainer


def test_the_trainer_is_not_among_the_arguments_of_an_export() -> None:
    """As the document has it."""
    event = ModelExport(TRAINER, "model", "exporter", "onnx")
    assert bind(lambda model, exporter, format: (model, exporter, format), ModelExport)(event) == (  # noqa: A006
        "model",
        "exporter",
        "onnx",
    )


@pytest.mark.parametrize(
    ("hook", "event_type", "parameter"),
    [
        (lambda trainer, epoch, metrics, path: None, EpochEnd, "path"),
        (lambda trainer, batch: None, TrainEnd, "batch"),
        (lambda trainer, *, path: None, EpochEnd, "path"),
        (lambda epoch, mine: None, EpochEnd, "mine"),
        (lambda t, b, loss, more: None, BatchEnd, "more"),
    ],
)
def test_a_parameter_that_nothing_fills_is_an_error_with_its_place(
    hook: Callable[..., Any], event_type: Any, parameter: str
) -> None:
    """It says what there would be, what there is, and what to do."""
    with pytest.raises(HookError, match=f"nothing fills its parameter '{parameter}'") as caught:
        bind(hook, event_type)
    assert caught.value.where == f"{__file__}:{hook.__code__.co_firstlineno}"
    assert caught.value.expected == f"({', '.join(event_type.arguments)}) or fewer"
    assert caught.value.got == str(inspect.signature(hook))
    assert f"on_{event_type.name}" in caught.value.message


async def test_a_coroutine_function_stays_one() -> None:
    """Whoever calls it has something to await, with the arguments in their places."""
    seen: list[Any] = []

    async def later(trainer: Any, metrics: Any) -> None:
        seen.append((trainer, metrics))

    call = bind(later, EpochEnd, here=False)
    assert is_async(call)
    await call(EpochEnd("trainer", 1, {"loss": 1.0}))  # type: ignore[misc, arg-type]  # a stand-in for a trainer
    assert seen == [("trainer", {"loss": 1.0})]
    assert place_of(call) == f"{__file__}:{later.__code__.co_firstlineno}"


def test_what_exists_on_the_publishing_thread_only_is_not_to_be_had_off_it() -> None:
    """A required parameter for it is refused with what there is; one with a default keeps it."""

    def hook(trainer: Any, batch_idx: int, batch: Any) -> None: ...
    def modest(trainer: Any, batch_idx: int, batch: Any = "none") -> Any:
        return batch_idx, batch

    def greedy(**everything: Any) -> Any:
        return everything

    with pytest.raises(HookError, match="'batch' exists only there") as caught:
        bind(hook, BatchBegin, here=False)
    assert caught.value.expected == "of on_batch_begin at most (trainer, batch_idx)"
    event: Any = BatchBegin("trainer", 3, None)  # type: ignore[arg-type]  # a stand-in for a trainer
    assert bind(modest, BatchBegin, here=False)(event) == (3, "none")
    assert bind(modest, BatchBegin)(event) == (3, None)
    assert bind(greedy, BatchBegin, here=False)(event) == {"trainer": "trainer", "batch_idx": 3}


def test_binding_happens_once() -> None:
    """Calling looks at no signature any more, and the names and places are the hook's own."""
    call = bind(documents, EpochEnd)
    assert name_of(call) == f"{__name__}:documents"
    assert place_of(call) == f"{__file__}:{documents.__code__.co_firstlineno}"


def test_a_place_is_where_the_hook_is_written() -> None:
    """Whatever it is dressed in; for what is not Python, its name must do."""
    line = f"{__file__}:{documents.__code__.co_firstlineno}"
    assert place_of(functools.partial(documents, epoch=1)) == line
    assert place_of(Callback()) == f"{__file__}:{Callback.__call__.__code__.co_firstlineno}"
    assert place_of(Callback().method) == f"{__file__}:{Callback.method.__code__.co_firstlineno}"
    assert place_of(print) == "<built-in function print>"


def test_every_event_has_a_hook_and_a_wrong_name_the_nearest() -> None:
    """`on_` and the event's name; a forgotten prefix is found, too."""
    assert hook_names() == {f"on_{name}": event_type for name, event_type in event_types().items()}
    assert event_of("on_epoch_end") is EpochEnd
    for wrong in ("on_epoch_ends", "epoch_end", "on_Epoch_End"):
        with pytest.raises(HookError, match=f"unknown hook '{wrong}'") as caught:
            event_of(wrong, where="here:1")
        assert caught.value.hint == "on_epoch_end"
        assert caught.value.where == "here:1"
        assert "on_train_begin" in str(caught.value.expected)
