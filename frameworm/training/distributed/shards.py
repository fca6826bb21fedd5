"""Tensors of which each process has a part, as FSDP2 makes them, and the files of a checkpoint with all of the parts.

The files are torch.distributed.checkpoint's, in the format of safetensors: reading one cannot run code, and a process
reads of them what it needs, however many there were that wrote them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

# What is imported where it is used takes half a second, and few runs are sharded.

FOLDER = "sharded"


def is_sharded(value: Tensor) -> bool:
    """Whether a process has only a part of this tensor: whether it is a DTensor."""
    return hasattr(value, "device_mesh")


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process has, which shares its memory; an ordinary one itself."""
    part: Tensor = cast("Any", tensor).to_local() if is_sharded(tensor) else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as a whole, which takes all processes; an ordinary one itself."""
    full: Tensor = cast("Any", tensor).full_tensor() if is_sharded(tensor) else tensor
    return full


def as_part_of(part: Tensor, like: Tensor) -> Tensor:
    """Return the sharded tensor of whose parts this process has `part`, sharded as `like` is."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor  # noqa: PLC0415

    mesh, placements = cast("Any", like).device_mesh, cast("Any", like).placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor, which each process has, sharded as `like` is, if it is, and on its device."""
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415

    mesh, placements = cast("Any", like).device_mesh, cast("Any", like).placements
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)


def mesh_of(tensors: Iterable[Tensor]) -> Any:
    """Return the processes that have parts of these tensors, as torch's device mesh; None for ordinary ones."""
    return next((cast("Any", tensor).device_mesh for tensor in tensors if is_sharded(tensor)), None)


def write_shards(tensors: Mapping[str, Tensor], folder: Path, *, group: Any) -> None:
    """Write sharded tensors into files in `folder`; all processes of the `group` do so, each its parts.

    Raises OSError in all of them when one of them cannot.
    """
    from torch.distributed.checkpoint.api import CheckpointException  # noqa: PLC0415
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter  # noqa: PLC0415
    from torch.distributed.checkpoint.state_dict_saver import save  # noqa: PLC0415

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise OSError(f"rank {rank}: {type(cause).__name__}: {cause}") from error


def read_shards(folder: Path, mesh: Any = None) -> dict[str, Tensor]:
    """Return the tensors in the files that `write_shards` wrote: whole, on the CPU, or with a `mesh` sharded over it.

    Of those that are sharded each process reads its own parts.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader  # noqa: PLC0415
    from torch.distributed.checkpoint.state_dict_loader import load  # noqa: PLC0415
    from torch.distributed.tensor import Shard  # noqa: PLC0415
    from torch.distributed.tensor import empty as empty_shards  # noqa: PLC0415

    reader = HuggingFaceStorageReader(str(folder))
    tensors: dict[str, Any] = {}
    stored: Any
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        size, dtype = stored.size, stored.properties.dtype
        if mesh is None:
            tensors[name] = torch.empty(size, dtype=dtype)
        else:
            tensors[name] = empty_shards(*size, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as it is meant
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors
