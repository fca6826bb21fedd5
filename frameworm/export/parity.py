"""Whether an export computes what the model computes: on all validation data, in batches of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from frameworm.errors import ExportError, UserError
from frameworm.export.forward import Forward, call, cut, inputs_of, tensors_in
from frameworm.export.manifest import Parity

TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The largest error of a number that a model of this dtype may have: the coarsest of its parameters counts."""

_SMALL = (1, 2, 3)


def tolerance_of(forward: Forward) -> float:
    """Return the largest error that is allowed."""
    dtypes = {value.dtype for value in (*forward.model.parameters(), *forward.model.buffers())}
    dtypes |= {getattr(torch, spec.dtype) for spec in (*forward.inputs, *forward.outputs)}
    return max((TOLERANCES[dtype] for dtype in dtypes if dtype in TOLERANCES), default=1e-5)


def compare(
    name: str, forward: Forward, exported: Callable[..., Any], batches: Iterable[Any], tolerance: float
) -> Parity:
    """Compare what was exported with the model on all batches; raises ExportError where they differ.

    Each sample is in a batch of the size that the data have; the first batch comes again cut to 1, 2 and 3 samples, and
    the last one without its last sample, so that some batch is smaller than the others.
    """
    found = _Differences()
    samples = 0
    for inputs, is_whole in _cut_several_ways(inputs_of(forward.model, batch) for batch in batches):
        samples += len(inputs[0]) if is_whole else 0
        live = tensors_in(call(forward.model, inputs))
        try:
            with torch.no_grad():
                made = tensors_in(exported(*inputs))
        except Exception as error:
            raise ExportError(
                name,
                f"what was exported fails on a batch of {len(inputs[0])}",
                got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            ) from error
        found.add(name, live, made, len(inputs[0]))
    if not found.absolute <= tolerance:
        raise ExportError(
            name,
            "what was exported does not compute what the model computes",
            expected=f"no error above {tolerance:g}, on {samples} samples",
            got=f"{found.absolute:.3g}, in {found.worst}",
        )
    return Parity(
        samples=samples,
        batch_sizes=tuple(sorted(found.sizes)),
        max_abs_error=found.absolute,
        max_rel_error=found.relative,
        tolerance=tolerance,
    )


def _cut_several_ways(batches: Iterator[tuple[Tensor, ...]]) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    """Return the batches, whether each is new, and some of their samples again in smaller ones."""
    first = last = None
    for inputs in batches:
        first, last = first or inputs, inputs
        yield inputs, True
    if first is None or last is None:
        return
    for size in _SMALL:
        for begin in range(0, len(first[0]), size):
            yield cut(first, begin, begin + size), False
    if len(last[0]) > 1:
        yield cut(last, 0, len(last[0]) - 1), False


@dataclass
class _Differences:
    """The largest errors so far, and of which output the larger was."""

    absolute: float = 0.0
    relative: float = 0.0
    worst: str = "no output"
    sizes: set[int] = field(default_factory=set)

    def add(self, name: str, live: dict[str, Tensor], made: dict[str, Tensor], size: int) -> None:
        """Take in what came of one batch; raises ExportError for other tensors than the model's."""
        self.sizes.add(size)
        ours = [(value.dtype, tuple(value.shape)) for value in live.values()]
        theirs = [(value.dtype, tuple(value.shape)) for value in made.values()]
        if ours != theirs:
            raise ExportError(
                name, "what was exported gives other tensors than the model", expected=str(ours), got=str(theirs)
            )
        for (output, expected), got in zip(live.items(), made.values(), strict=True):
            if expected.isnan().any():
                raise UserError("the model gives NaN for validation data: nothing can be compared", got=output)
            wide = torch.complex128 if expected.is_complex() else torch.float64
            mine, other = expected.to(wide), got.to(wide)
            error = torch.where(mine == other, 0.0, (mine - other).abs())  # infinities may be equal
            if not error.numel():
                continue
            largest = float(error.max())
            if not largest <= self.absolute:
                self.absolute, self.worst = largest, output
            nonzero = mine != 0
            if nonzero.any():
                self.relative = max(self.relative, float((error[nonzero] / mine[nonzero].abs()).nan_to_num().max()))
