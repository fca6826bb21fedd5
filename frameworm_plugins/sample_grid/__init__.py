"""A picture of what the model can do by now: samples, if it makes images, and its worst mistakes, if it sorts them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn

from frameworm.core import register_callback
from frameworm.events import TrainerHandle
from frameworm.plugins.hooks import CallbackHook

from . import picture

log = logging.getLogger(__name__)

Count = Annotated[int, Meta(ge=1)]


class Mistakes(NamedTuple):
    """Images (n, ...), their losses (n,), float32, the predicted and the true classes (n,), int64; on one device."""

    losses: Tensor
    images: Tensor
    predicted: Tensor
    true: Tensor


class SampleGrid(CallbackHook):
    """Writes `samples/epoch-0001.png` (and so on) below the run's folder, every so many epochs.

    A model with `sample(n)` is asked for `samples` images, each time from the same random numbers; the training's own
    go on as without. Of another model that predicts classes, the `samples` wrongly classified validation images with
    the largest cross entropy are shown with the predicted and the true class.
    """

    def __init__(self, every: Count = 1, samples: Count = 16) -> None:
        picture.require_pillow()
        self.every = every
        self.samples = samples
        self._worst: Mistakes | None = None
        self._is_classified = True
        self._told: set[str] = set()

    def on_validation_begin(self) -> None:
        """Forget the mistakes of the last time."""
        self._worst, self._is_classified = None, True

    def on_validation_batch_end(self, trainer: TrainerHandle, batch: Any, outputs: Mapping[str, Any]) -> None:
        """Keep the worst mistakes up to now; nothing waits for the device."""
        if self._is_due(trainer) and not hasattr(trainer.model, "sample"):
            found = mistakes(trainer.model, batch, outputs)
            self._is_classified = found is not None
            self._worst = None if found is None else _worst(found, self._worst, self.samples)

    def on_epoch_end(self, trainer: TrainerHandle, epoch: int) -> None:
        """Write the picture."""
        if not self._is_due(trainer):
            return
        if trainer.run_dir is None:
            self._tell("the run is not kept, so there is no place for pictures")
            return
        path = Path(trainer.run_dir) / "samples" / f"epoch-{epoch + 1:04}.png"
        if hasattr(trainer.model, "sample"):
            self._save(samples_of(trainer.model, self.samples), [], path)
        elif not self._is_classified:
            self._tell(f"{trainer.model_name} has neither sample(n) nor classes to be wrong about: no pictures")
        elif self._worst is not None:  # something was validated in this epoch
            losses, images, predicted, true = self._worst
            self._worst = None
            wrong = losses.isfinite().cpu()
            captions = [f"{a} not {b}" for a, b in zip(predicted[wrong].tolist(), true[wrong].tolist(), strict=True)]
            if captions:
                self._save(images[wrong], captions, path)

    def _is_due(self, trainer: TrainerHandle) -> bool:
        return (trainer.epoch + 1) % self.every == 0

    def _save(self, images: Tensor, captions: list[str], path: Path) -> None:
        images = images.unsqueeze(1) if images.dim() == 3 else images
        if images.dim() == 4 and images.shape[1] in (1, 3):
            picture.save(images, captions, path)
        else:
            self._tell(
                f"no pictures of {tuple(images.shape[1:])}: expected (height, width), or 1 or 3 channels of these"
            )

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)


@torch.no_grad()
def samples_of(model: nn.Module, count: int) -> Tensor:
    """Return `model.sample(count)` in evaluation mode, from seed 0, and leave mode and random numbers as they were."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    others = {} if device.type == "cpu" else {"devices": [device], "device_type": device.type}
    was_training = model.training
    with torch.random.fork_rng(**({"devices": []} | others)):
        torch.manual_seed(0)
        try:
            images: Tensor = model.eval().sample(count)  # type: ignore[operator]  # it has one, as has been seen
        finally:
            model.train(was_training)
    return images


@torch.no_grad()
def mistakes(model: nn.Module, batch: Any, outputs: Mapping[str, Any]) -> Mistakes | None:
    """Return every image of a batch (images, classes) with its loss, -inf where it was classified rightly.

    None where the batch is not of images and classes, or the model does not predict (n, classes).
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return None
    images, true = batch
    predictions = outputs["predictions"] if "predictions" in outputs else model(images)
    if not isinstance(true, Tensor) or true.is_floating_point() or true.dim() != 1 or images.dim() < 3:
        return None
    if not isinstance(predictions, Tensor) or predictions.dim() != 2:
        return None
    losses = nn.functional.cross_entropy(predictions.float(), true, reduction="none")
    predicted = predictions.argmax(dim=1)
    return Mistakes(losses.masked_fill(predicted == true, -torch.inf), images, predicted, true)


def _worst(new: Mistakes, old: Mistakes | None, count: int) -> Mistakes:
    every = new if old is None else Mistakes(*(torch.cat(parts) for parts in zip(old, new, strict=True)))
    indices = every.losses.topk(min(count, len(every.losses))).indices
    return Mistakes(*(part[indices] for part in every))


def register() -> None:
    """Make the pictures available to configs as `sample_grid`; nothing is switched on by that."""
    register_callback("sample_grid", SampleGrid)
