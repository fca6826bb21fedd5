"""On a GPU: no step waits for the device, and a run goes on, is saved and ends as on the CPU; skipped without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from bus import EventBus
from frameworm.config import TrainerConfig
from frameworm.errors import NonFiniteError
from frameworm.events import BatchEnd, OptimizerStepped
from frameworm.training.store import CheckpointStore
from frameworm.training.trainer import Trainer
from tests.frameworm.training.toys import CLASSES, INPUTS, Perceptron, Scripted, a_perceptron, some_batches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def on_gpu(model: Any = None, data: Any = None, *args: Any, **rest: Any) -> Trainer:
    """Return a trainer on the GPU; what is an option of `TrainerConfig` goes there."""
    options = {name: rest.pop(name) for name in list(rest) if name in TrainerConfig.__struct_fields__}
    return Trainer(
        a_perceptron() if model is None else model,
        some_batches(40) if data is None else data,
        *args,
        options=TrainerConfig(device="cuda", **options),
        bus=EventBus(),
        **rest,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16"},
        {"clip_norm": 1.0, "ema": 0.9, "accumulate": 2},
        {"clip_value": 0.1, "check_gradients": True},
        {"non_finite": "ignore"},
    ],
    ids=str,
)
def test_no_step_waits_for_the_device(options: dict[str, Any]) -> None:
    """From the third step until before the numbers are looked at again: all is queued, nothing is read."""
    trainer = on_gpu(epochs=1, log_every=1000, **options)
    seen = []

    def watch(event: BatchEnd) -> None:
        seen.append(event.batch_idx)
        if event.batch_idx == 5:
            torch.cuda.set_sync_debug_mode("error")
        elif event.batch_idx == 35:
            torch.cuda.set_sync_debug_mode("default")

    trainer.bus.subscribe(BatchEnd, watch)
    try:
        trainer.fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(seen) == 40


def test_what_is_watched_would_be_noticed() -> None:
    """A hook that reads the loss in each step is what the test above is about."""
    trainer = on_gpu(epochs=1, log_every=1000)
    trainer.bus.subscribe(BatchEnd, lambda _event: torch.cuda.set_sync_debug_mode("error"))
    trainer.bus.subscribe(BatchEnd, lambda event: float(event.loss), priority=60)
    trainer.bus.strict = True
    try:
        with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
            trainer.fit()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_goes_on_exactly(tmp_path: Path, precision: Any) -> None:
    """Stopped within an epoch and resumed, with dropout, it comes to the same bits as in one go."""
    data = DataLoader(TensorDataset(torch.randn(64, INPUTS), torch.arange(64) % CLASSES), 4, shuffle=True)

    def trained(folder: Path, stop_at: int | None) -> Trainer:
        torch.manual_seed(1)
        trainer = on_gpu(
            a_perceptron(0.3), data, epochs=3, precision=precision, checkpoints=CheckpointStore(folder, monitor=None)
        )

        def stop(event: OptimizerStepped) -> None:
            if event.source.step == stop_at:
                event.source.save_now()
                event.source.stop()

        trainer.bus.subscribe(OptimizerStepped, stop)
        trainer.fit()
        return trainer

    whole = trained(tmp_path / "whole", None)
    trained(tmp_path / "half", 21)
    torch.manual_seed(99)
    again = on_gpu(
        a_perceptron(0.3, seed=5),
        data,
        epochs=3,
        precision=precision,
        checkpoints=CheckpointStore(tmp_path / "half", monitor=None),
    )
    again.resume(tmp_path / "half")
    again.fit()
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    """It ends the run when the numbers are looked at, or its step is left out, as it is asked for."""

    def compute(model: Scripted, batch: Any) -> dict[str, Any]:
        return {"loss": (model.weight - batch[0].sum()) ** 2}

    batches = [(torch.full((2,), float("nan") if index == 5 else 1.0),) for index in range(20)]
    with pytest.raises(NonFiniteError):
        on_gpu(Scripted(compute), batches, epochs=1, log_every=4).fit()
    model = Scripted(compute)
    trainer = on_gpu(model, batches, epochs=1, log_every=4, non_finite="skip_step")
    trainer.fit()
    assert torch.isfinite(model.weight)
    assert trainer.step == 20


def test_the_gpu_trains_what_the_cpu_trains(tmp_path: Path) -> None:
    """Weights and metrics are those of the CPU, but for rounding; validation and its metrics too."""
    results = []
    for device in ("cpu", "cuda"):
        trainer = Trainer(
            a_perceptron(),
            some_batches(20),
            some_batches(5, seed=3),
            metrics=["accuracy"],
            options=TrainerConfig(device=device, epochs=3, clip_norm=1.0),
            bus=EventBus(),
            checkpoints=CheckpointStore(tmp_path / device, monitor=None),
        )
        results.append((trainer.fit().metrics, [weight.cpu() for weight in trainer.model.parameters()]))
    (metrics, weights), (others, there) = results
    assert others["val_accuracy"] == metrics["val_accuracy"]
    assert others["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    for one, other in zip(weights, there, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_checkpoint_of_the_gpu_is_loaded_on_the_cpu(tmp_path: Path) -> None:
    """Its tensors come back on the host, and the run goes on there."""
    store = CheckpointStore(tmp_path, monitor=None)
    trainer = on_gpu(epochs=1, checkpoints=store)
    trainer.bus.subscribe(OptimizerStepped, lambda event: event.source.save_now() if event.source.step == 7 else None)
    trainer.fit()
    other = Trainer(Perceptron(), some_batches(40), options=TrainerConfig(device="cpu", epochs=1), bus=EventBus())
    other.resume(tmp_path)
    other.fit()
    assert other.step == 40


def test_batches_of_several_shapes_and_several_sizes() -> None:
    """A last batch that is smaller, and one that is pinned, train as well."""
    loader = DataLoader(TensorDataset(torch.randn(10, INPUTS), torch.arange(10) % CLASSES), 4, pin_memory=True)
    trainer = on_gpu(data=loader, epochs=2)
    trainer.fit()
    assert trainer.step == 6
    with torch.no_grad():
        loss = functional.cross_entropy(
            trainer.model(torch.randn(4, INPUTS, device="cuda")), torch.zeros(4, device="cuda").long()
        )
    assert torch.isfinite(loss)
