"""Every error that FRAMEWORM raises, so that one `except` and one exit code serve each kind of trouble.

    FramewormError                      exit code 1
    ├─ UserError                        exit code 2: the input is wrong, nothing has been run
    │  ├─ FindingsError                 several things wrong in one document, all at once
    │  │  ├─ ConfigError                ... a config file or a `--set`
    │  │  └─ ManifestError              ... a plugin's manifest
    │  ├─ PluginError                   a plugin that cannot be found or loaded
    │  ├─ UnknownNameError              a name that no registry knows
    │  ├─ DuplicateNameError            two owners of one name
    │  ├─ DataError                     a dataset's files or options
    │  ├─ RunError                      a run directory: not found, not writable
    │  │  └─ RunBusyError               ... or in use by a living process
    │  └─ CheckpointError               not found, of another model, of a newer format
    │     └─ CorruptCheckpointError     ... or not what its manifest says
    ├─ ModelContractError               a model returned what the trainer cannot use
    ├─ NonFiniteError                   the loss or a gradient is nan or infinite
    ├─ RankError                        another of the processes that train together has failed
    ├─ ExportError                      an export that does not compute what the model computes
    ├─ HookError                        a hook with a wrong name or signature
    └─ DeliveryError                    raised by listeners, for the relay, when they cannot take an event
       ├─ PermanentError                ... and never will
       └─ RetryLater                    ... before some time has passed

`StopTraining` is none of these: a hook raises it to end the run in good order.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, Self

from bus import Propagate


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` was probably meant to be, ignoring case; None when nothing is close."""
    folded = {name.casefold(): name for name in known}
    matches = difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[matches[0]] if matches else None


def _hang(text: str, indent: int) -> str:
    return text.replace("\n", "\n" + " " * indent)


class FramewormError(Exception):
    """Base of all errors; it prints as `message` and, below it, where, expected, got and what to try, if given."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.got = got
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        details = {"where": self.where, "expected": self.expected, "got": self.got, "try": self.hint}
        given = {f"{label}:": text for label, text in details.items() if text is not None}
        width = max(map(len, given), default=0)
        return "\n".join(
            [self.message, *(f"  {label:{width}} {_hang(text, width + 3)}" for label, text in given.items())]
        )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Exceptions are unpickled by calling the class with `args`; ours have constructors of their own.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # pickle's own


class UserError(FramewormError):
    """Wrong input."""

    exit_code = 2


class FindingsError(UserError):
    """Something is wrong in a document; `findings` are the single errors, when there are several."""

    findings: tuple[UserError, ...] = ()

    @classmethod
    def of(cls, findings: Sequence[UserError], source: str) -> Self:
        """One error for all `findings` (at least one) in `source`; a single finding is its own error."""
        if len(findings) == 1 and isinstance(found := findings[0], cls):
            return found
        error = cls(f"{source}: {len(findings)} errors")
        error.findings = tuple(findings)
        return error

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {_hang(str(finding), 2)}" for finding in self.findings)])


class ConfigError(FindingsError):
    """Something is wrong in a config."""


class ManifestError(FindingsError):
    """Something is wrong in a plugin's manifest."""


class PluginError(UserError):
    """The plugin called `plugin` cannot be found, loaded or unloaded."""

    def __init__(
        self,
        plugin: str,
        message: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.plugin = plugin
        super().__init__(f"plugin {plugin!r}: {message}", expected=expected, got=got, where=where, hint=hint)


class UnknownNameError(UserError):
    """No `kind` is called `name`; the `known` ones are listed, the nearest is offered unless `hint` says better."""

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        got: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        self.nearest = nearest(name, self.known)
        expected = f"one of {', '.join(self.known)}" if self.known else None
        super().__init__(f"unknown {kind} {name!r}", expected=expected, got=got, where=where, hint=hint or self.nearest)


class DuplicateNameError(UserError):
    """`kind` `name` belongs to `first` (owner and place); `second` wanted it too."""

    def __init__(self, kind: str, name: str, *, first: str, second: str) -> None:
        self.kind = kind
        self.name = name
        self.first = first
        self.second = second
        super().__init__(
            f"{kind} {name!r} is already registered",
            where=f"first by {first}\nthen by {second}",
            hint="another name, or override=True to replace the first",
        )


class DataError(UserError):
    """A dataset's file or option is wrong."""


class RunError(UserError):
    """A run directory cannot be found, read or written."""


class RunBusyError(RunError):
    """A living process holds the run."""


class CheckpointError(UserError):
    """A checkpoint is missing, belongs to another model or has a format this version does not read."""


class CorruptCheckpointError(CheckpointError):
    """`file` of the checkpoint at `path` is not what the checkpoint's manifest says."""

    def __init__(self, path: str, file: str, *, expected: str | None = None, got: str | None = None) -> None:
        self.path = path
        self.file = file
        super().__init__(
            f"the checkpoint is damaged: {file}",
            where=path,
            expected=expected,
            got=got,
            hint="another checkpoint of the same run",
        )


class ModelContractError(FramewormError):
    """A model does not keep the contract: `model` names it (and its plugin), `got` says what came back."""

    def __init__(
        self, model: str, message: str, *, expected: str, got: str, where: str | None = None, hint: str | None = None
    ) -> None:
        self.model = model
        super().__init__(f"model {model!r}: {message}", expected=expected, got=got, where=where, hint=hint)


class NonFiniteError(FramewormError):
    """The loss, or the norm of the gradients, was `value` (nan or infinite) in `epoch` (from 0), after `step` steps."""

    def __init__(self, value: float, *, what: Literal["loss", "gradients"] = "loss", epoch: int, step: int) -> None:
        self.value = value
        self.what = what
        self.epoch = epoch
        self.step = step
        subject = "the loss" if what == "loss" else "the norm of the gradients"
        super().__init__(
            f"{subject} is {value} in epoch {epoch}, after {step} steps",
            expected="a finite loss" if what == "loss" else "finite gradients",
            hint="a lower optimizer.lr, trainer.clip_norm: 1.0, or trainer.non_finite: skip_step",
        )


class RankError(FramewormError):
    """Another of the processes that train together, the one of `rank`, has failed with `error` and so ended all.

    Where nobody can tell which, `rank` is None.
    """

    def __init__(self, rank: int | None, error: str) -> None:
        self.rank = rank
        self.error = error
        super().__init__(error if rank is None else f"rank {rank} failed: {error}")


class ExportError(FramewormError):
    """What was exported in the format `name` does not compute what the model computes, or not at all."""

    def __init__(self, name: str, message: str, *, expected: str | None = None, got: str | None = None) -> None:
        self.name = name
        super().__init__(f"format {name!r}: {message}", expected=expected, got=got, hint="nothing was kept")


class HookError(FramewormError):
    """A hook has a wrong name, or parameters that its event cannot fill; `where` is its file and line."""


class DeliveryError(FramewormError):
    """A listener in a process of its own cannot take what it was given; how to go on, the two below say."""


class PermanentError(DeliveryError):
    """It will never take it: the event goes to the listener's dead letters at once, without another try."""


class RetryLater(DeliveryError):  # noqa: N818  it is no complaint: it says what to do
    """It asks to be given the same again after `seconds`, as often as it says so."""

    def __init__(self, seconds: float, message: str = "the listener asks for a pause") -> None:
        self.seconds = seconds
        super().__init__(message)


class StopTraining(Propagate):
    """Raise it from a hook to end the run once the other hooks of the event have run; the run counts as stopped.

    From `on_model_export` it refuses the export.
    """

    def __init__(self, reason: str = "a hook asked to stop") -> None:
        super().__init__(reason)
        self.reason = reason
