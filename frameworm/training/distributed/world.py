"""The processes that train together, which `torchrun` has started: who one is among them, and what they say together.

torch.distributed is the engine. Gradients and weights go through its default group, whose backend fits the device; what
the processes have to agree on goes through a group of gloo, on the host: no device is ever waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # which are public

from bus.lock import Owner
from frameworm.errors import RankError, UserError
from frameworm.training.distributed.connections import break_off, open_connections
from frameworm.training.distributed.peers import Peers, Transport

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # which torchrun sets
_STORE_PATIENCE = timedelta(seconds=60)


class World:
    """The processes that train together: this is the one of this `rank`, from 0, of so many (`size`).

    A process that trains alone says everything to itself, at no cost.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, control: Any = None, peers: Peers | None = None) -> None:
        self.rank = rank
        self.size = size
        self.peers = peers
        """What is heard of the other processes; None for a process that is alone."""
        self._control = control

    @property
    def is_first(self) -> bool:
        """Whether this process keeps the run: its directory, its checkpoints, its account."""
        return self.rank == 0

    def gathered(self, value: T) -> list[T]:
        """Return what each process says here, in the order of their ranks; all have to call it.

        Tensors must be on the CPU.
        """
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._control)
        return found

    def from_first(self, value: T) -> T:
        """Return what rank zero says; all have to call it."""
        if self.size == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0, group=self._control)
        return told[0]

    def decided_by_first(self, decide: Callable[[], T]) -> T:
        """Return what `decide` gives rank zero, which alone calls it; what it raises there, it raises on all.

        Raises `RankError` in the others, whose cause is told once, by rank zero.
        """
        if self.size == 1:
            return decide()
        value, text, error = None, "", None
        if self.is_first:
            try:
                value = decide()
            except Exception as raised:
                error, text = raised, f"{type(raised).__name__}: {raised}"
        value, text = self.from_first((value, text))
        if error is not None:
            raise error
        if text:
            raise RankError(0, text)
        return value  # type: ignore[return-value]  # it is what `decide` gave

    @property
    def group(self) -> Any:
        """The group of torch.distributed in which the processes agree, on the host; None for a single one."""
        return self._control

    def any(self, flag: bool) -> bool:  # noqa: FBT001  it is the only argument
        """Whether any of the processes says so; all have to call it."""
        if self.size == 1:
            return flag
        said = torch.tensor(int(flag))
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self._control)
        return bool(said)

    # What becomes of a training: see `Peers`

    def begin(self) -> None:
        """Take up a training, in which the others are missed when they are gone."""
        if self.peers is not None:
            self.peers.begin()

    def end(self) -> None:
        """Say that a training has ended as agreed."""
        if self.peers is not None:
            self.peers.end()

    def blamed(self, error: BaseException) -> BaseException:
        """Return what ends all processes: `error`, which the others are told, or what one has failed with before."""
        return error if self.peers is None else self.peers.blamed(error)


ALONE = World()

_current = ALONE


def current() -> World:
    """The processes that this one trains with, while `joined` lasts."""
    return _current


def to_train_in() -> World:
    """The processes that a trainer trains with; raises UserError where a launcher has started several, unjoined."""
    if _current is ALONE and is_launched():
        raise UserError(
            "this is one of several processes, and would train alone",
            expected="that the processes have joined before there is a trainer",
            got="a launcher's RANK and WORLD_SIZE in the environment",
            hint="with frameworm.joined(): ...",
        )
    return _current


def is_launched() -> bool:
    """Whether a launcher such as torchrun has started this process as one of several."""
    return all(name in os.environ for name in _VARIABLES) and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun has started together with this one; a process that is alone stays so.

    On a machine with GPUs each process takes the one of its local rank. Raises UserError when there are fewer.
    """
    global _current  # noqa: PLW0603  a process is in one world, as torch.distributed has one default group
    if _current is not ALONE or not is_launched():
        yield _current
        return
    cuda = _device_of_local_rank()
    made = not dist.is_initialized()
    store = int(os.environ["MASTER_PORT"])
    before = open_connections(without=store)
    if made:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    control = dist.new_group(backend="gloo")
    owners: list[Any] = [None] * size
    dist.all_gather_object(owners, Owner.current(), group=control)
    ours = open_connections(without=store).items() - before.items()
    peers = Peers(rank, owners, _transport(), abort=partial(_abort, dict(ours)))
    _current = World(rank, size, control=control, peers=peers)
    try:
        with peers.listening():
            try:
                yield _current
            except BaseException as error:
                failed = error if peers.has_ended else peers.blamed(error)
                if failed is not error:
                    raise failed from error
                raise
            finally:
                peers.farewell()
    finally:
        _current = ALONE
        if made and dist.is_initialized():
            dist.destroy_process_group()


def _device_of_local_rank() -> bool:
    """Take the GPU of this process's local rank; return whether there is one."""
    if not torch.cuda.is_available():
        return False
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", str(local + 1)))
    if processes > count:  # which all of them find, and one of them tells
        raise UserError(
            "there are more processes than GPUs on this machine",
            expected=f"--nproc-per-node {count} at most",
            got=str(processes),
            hint="CUDA_VISIBLE_DEVICES= in the environment trains on the CPU",
        )
    torch.cuda.set_device(local)
    return True


def _transport() -> Transport:
    """Return what connects to the store at which the processes met; each of several threads has its own connection.

    A connection answers one question after the other, and some wait.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    scope = "frameworm/{}/{}/".format(
        os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    )

    def connect() -> Any:
        store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_STORE_PATIENCE)
        return PrefixStore(scope, store)

    return connect


def _abort(connections: dict[int, Any]) -> None:
    """Break off what the processes do together, so that nobody waits for this one any longer."""
    break_off(connections)
    if dist.is_initialized():
        # As `destroy_process_group`, without waiting for anybody; torch has no public name for it.
        dist.distributed_c10d._abort_process_group()  # noqa: SLF001


def merged(states: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the means of all processes' sums and weights, as `Means.state_dict` gives them."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for state in states:
        for name, weight in state["weights"].items():
            sums[name] = sums.get(name, 0.0) + state["sums"].get(name, 0.0)
            weights[name] = weights.get(name, 0.0) + weight
    return {name: total / weights[name] for name, total in sums.items() if weights[name]}
