"""How a model is spread over the processes that train it: replicated (DDP) or sharded (FSDP2), as torch does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from frameworm.config import TrainerConfig
from frameworm.errors import UserError
from frameworm.training.distributed.world import World
from frameworm.training.matching import matching
from frameworm.training.optimization import trained

Function = Callable[..., Any]

_ENTERED = ("forward", "compute_loss", "sample")
"""The methods of a model that others call."""


class Strategy(Protocol):
    """What a model's loss has to go through, for the gradients to be those of all processes' batches."""

    def dress(self, function: Function, optimizer: Optimizer) -> Function:
        """Return `function`, a loss, such that `backward` averages the gradients of what `optimizer` trains."""

    def closes(self, closes: bool) -> None:  # noqa: FBT001  it is called in each step
        """Say whether the batch that follows is the last one before a step."""

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients that have been kept back, since the last batch before a step was left out."""


class Replicated:
    """Each process has the whole model; gradients are averaged while `backward` computes them (DDP).

    Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training, VLDB 2020.
    """

    def __init__(self, model: nn.Module, world: World, device: torch.device, *, find_unused: bool = False) -> None:
        self._find_unused = find_unused
        self._model = model
        self._world = world
        self._device = device
        self._replicas: list[_Replica] = []
        self._syncs = True  # what is set in all of them
        for tensor in (*model.parameters(), *model.buffers()):  # all begin alike
            dist.broadcast(tensor.detach(), src=0)

    def dress(self, function: Function, optimizer: Optimizer) -> Function:
        """Return `function` in a DDP of its own: of several optimizers each has its own gradients."""
        buffers = [] if self._replicas else list(self._model.buffers())
        replica = _Replica(function, optimizer, buffers, self._made)
        self._replicas.append(replica)
        return replica

    def _made(self, loss: nn.Module) -> DistributedDataParallel:
        devices = [self._device] if self._device.type == "cuda" else None
        return DistributedDataParallel(loss, device_ids=devices, find_unused_parameters=self._find_unused)

    def closes(self, closes: bool) -> None:  # noqa: FBT001  see above
        """Keep gradients back until the last batch before a step."""
        if closes is not self._syncs:
            self._syncs = closes
            for replica in self._replicas:
                replica.syncs(closes)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients that have been kept back."""
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self._world.size


class _Replica:
    """A loss function within a DDP; without gradients it goes by itself, and nobody waits for anybody."""

    def __init__(
        self,
        function: Function,
        optimizer: Optimizer,
        buffers: Sequence[Tensor],
        make: Callable[[nn.Module], DistributedDataParallel],
    ) -> None:
        self._function = function
        self._optimizer = optimizer
        self._buffers = buffers
        self._make = make
        self._known: list[bool] = []  # which of the optimizer's parameters are trained, for which the DDP was made
        self._syncs = True
        self._ddp: Any = None
        self.__wrapped__ = function  # for its signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._function(*args, **kwargs)
        # In each step, and so not in a call: what was frozen or thawed meanwhile, a DDP does not notice by itself.
        found = [one.requires_grad for group in self._optimizer.param_groups for one in group["params"]]
        if found != self._known:
            self._known = found
            parameters = [parameter for parameter in trained(self._optimizer) if parameter.requires_grad]
            self._ddp = self._make(_Loss(self._function, parameters, self._buffers))
            self.syncs(self._syncs)
        return self._ddp(*args, **kwargs)

    def syncs(self, syncs: bool) -> None:  # noqa: FBT001  it is the only argument
        """Say whether the next backward pass averages gradients."""
        self._syncs = syncs
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = syncs


class _Loss(nn.Module):
    """A function as a module, with the parameters whose gradients are averaged and the buffers that rank zero says."""

    def __init__(self, function: Function, parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor]) -> None:
        super().__init__()
        self._function = function
        for index, parameter in enumerate(parameters):
            self.register_parameter(f"parameter_{index}", parameter)
        for index, buffer in enumerate(buffers):
            self.register_buffer(f"buffer_{index}", buffer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class Sharded:
    """Each process keeps a part of each weight, its gradient and the optimizer's state (FSDP2).

    The modules whose names match the patterns `modules` are gathered one by one when they compute, the rest at once.
    Zhao et al., PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel, VLDB 2023.
    """

    def __init__(self, model: nn.Module, world: World, device: torch.device, modules: Iterable[str]) -> None:
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415  which takes half a second

        mesh = init_device_mesh(device.type, (world.size,))
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        named = {name: module for name, module in model.named_modules() if name}
        for name in reversed(matching(modules, list(named), what="module", where="trainer.shard_modules")):
            fully_shard(named[name], mesh=mesh)
        entrance = _Entrance(model)
        fully_shard(entrance, mesh=mesh)
        for method in _ENTERED:
            if hasattr(model, method):
                setattr(model, method, entrance.through(method))

    def dress(self, function: Function, optimizer: Optimizer) -> Function:  # noqa: ARG002
        """Return `function`, which enters the model as all do that compute with it."""
        return function

    def closes(self, closes: bool) -> None:  # noqa: FBT001  see above
        """Do nothing: gradients that are kept back would be kept whole."""

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Do nothing: none are kept back."""


class _Entrance(nn.Module):
    """What FSDP2 gathers a model's weights for: one of its methods, or more if one calls another, but once.

    FSDP2 has it done by the model's `forward`, and by others that it is told of: each time, though one calls the other.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._is_in = False

    def through(self, method: str) -> Function:
        """Return a method of the model that computes with whole weights, whoever calls it."""
        function = getattr(self.model, method)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_in:
                return function(*args, **kwargs)
            outputs = self(function, *args, **kwargs)
            if not torch.is_grad_enabled():  # or the weights stay whole, and as they are, until a backward pass
                cast("Any", self).reshard()  # FSDP2 has made this class one of its own
            return outputs

        return call

    def forward(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        self._is_in = True
        try:
            return function(*args, **kwargs)
        finally:
            self._is_in = False


def strategy_for(options: TrainerConfig, model: nn.Module, world: World, device: torch.device) -> Strategy | None:
    """Spread `model` over the world's processes, and return how it is done; None for a process that is alone.

    Raises UserError for a pattern that matches no module, and for what does not go together.
    """
    if world.size == 1:
        return None
    if options.strategy == "ddp":
        return Replicated(model, world, device, find_unused=options.find_unused_parameters)
    if options.precision == "fp16":
        raise UserError(
            "a sharded model does not train in fp16: each process would scale its part of the gradients by itself",
            where="trainer.precision",
            expected="bf16 or fp32, or trainer.strategy ddp",
            got="fp16",
        )
    return Sharded(model, world, device, options.shard_modules)
