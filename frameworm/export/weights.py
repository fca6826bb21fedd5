"""The format `safetensors`: the weights alone, for whoever has the model's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frameworm.errors import UserError
from frameworm.export.forward import Forward
from frameworm.training.checkpoint import WEIGHTS, packed, read_weights


class Safetensors:
    """Writes `model.safetensors`, which `safetensors.torch.load_model` puts into a model that the config has made."""

    def write(self, forward: Forward, folder: Path) -> Mapping[str, str | int]:
        """Write the parameters and buffers. Raises UserError for a model whose state is more than that."""
        more = [name for name, value in forward.model.state_dict().items() if not isinstance(value, Tensor)]
        if more:
            expected, got = "a state_dict of tensors alone", ", ".join(more)
            raise UserError("a file of safetensors cannot hold the model's state", expected=expected, got=got)
        with (folder / WEIGHTS).open("wb") as file:
            file.writelines(packed(forward.model, {})[0][WEIGHTS].pieces())
        return {}

    def load(self, forward: Forward, folder: Path) -> Callable[..., Any]:
        """Return the model, made anew, with these weights and nothing else: whatever is not in the file is NaN or 0."""
        model = forward.build()
        with torch.no_grad():
            for value in model.state_dict().values():
                value.fill_(torch.nan if value.is_floating_point() or value.is_complex() else 0)
        model.load_state_dict(read_weights(folder / WEIGHTS))
        return model.cpu().eval()
