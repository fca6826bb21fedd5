"""The global random generators as one value, so that a run starts, pauses and goes on with the same numbers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from frameworm.errors import CheckpointError, UserError

_SEEDS = 2**32  # numpy's legacy generator takes no more


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (on every device); `seed` is in [0, 2**32)."""
    if not 0 <= seed < _SEEDS:
        raise UserError("a seed that not every generator takes", expected="0 to 4294967295", got=str(seed))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the global generator is what datasets and augmentations draw from
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """The state of every generator that `seed_everything` seeds, as plain containers and tensors.

    Generators of GPUs are part of it once CUDA is in use; reading them waits for no kernel.
    """
    number, words, gauss = random.getstate()
    algorithm, keys, *rest = np.random.get_state()  # noqa: NPY002  the global generator is the one to keep
    state: dict[str, Any] = {
        "python": (number, torch.tensor(words), gauss),
        "numpy": (algorithm, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set every generator as `rng_state` found it.

    Raises CheckpointError when a generator cannot be restored: the run would go on with other numbers.
    """
    devices = len(state.get("cuda", ()))
    if devices > torch.cuda.device_count() or ("mps" in state and not torch.backends.mps.is_available()):
        raise CheckpointError(
            "the random state cannot be restored on this machine",
            expected=f"{devices} CUDA device(s)" if devices else "an MPS device",
            got=f"{torch.cuda.device_count()} CUDA device(s)" if devices else "none",
            hint="a machine like the one that wrote it",
        )
    try:
        number, words, gauss = state["python"]
        random.setstate((number, tuple(map(int, words)), gauss))
        algorithm, keys, *rest = state["numpy"]
        np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002  as above
        torch.set_rng_state(state["torch"])
        for index, generator in enumerate(state.get("cuda", ())):
            torch.cuda.set_rng_state(generator, index)
        if "mps" in state:
            torch.mps.set_rng_state(state["mps"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError("the random state cannot be restored", got=f"{type(error).__name__}: {error}") from error


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Whatever is drawn inside leaves the global generators as they were."""
    state = rng_state()
    try:
        yield
    finally:
        restore_rng(state)


@contextmanager
def deterministic(flag: bool) -> Iterator[None]:  # noqa: FBT001  it is the config's own switch
    """Inside, if `flag`, torch takes only deterministic algorithms and raises RuntimeError where it has none."""
    if not flag:
        yield
        return
    # cuBLAS reads it when its first handle is made, which may be after this block began; it is harmless without CUDA.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
