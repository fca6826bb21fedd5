"""A residual network for rows of numbers, after He et al. 2015 (https://arxiv.org/abs/1512.03385)."""

from frameworm.core import register_model
from torch import nn

__plugin_metadata__ = {  # read as it is written here, without running the code
    "name": "my-plugin",
    "version": "0.1.0",
    "author": "The FRAMEWORM authors",
    "description": "A residual network for rows of numbers",
    "entry_point": "register",
    "dependencies": ["torch>=2.4"],
    "hooks": ["model"],
}


class Block(nn.Module):
    """Adds to its input what two layers make of it."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x):
        """Rows (n, width) to rows of the same shape."""
        return x + self.layers(x)


class MyPluginModel(nn.Module):
    """Predicts numbers from numbers; `config` is the run's whole config.

    The keys under `model` are `inputs` (10), `targets` (5), `width` (32) and `blocks` (2).
    """

    def __init__(self, config):
        super().__init__()
        options = config.get("model", {})
        width = options.get("width", 32)
        self.layers = nn.Sequential(
            nn.Linear(options.get("inputs", 10), width),
            *(Block(width) for _ in range(options.get("blocks", 2))),
            nn.Linear(width, options.get("targets", 5)),
        )

    def forward(self, x):
        """Rows (n, inputs) to predictions (n, targets)."""
        return self.layers(x)

    def compute_loss(self, x, y=None):
        """What is minimized is under "loss", a 0-dim tensor; other numbers become metrics."""
        predictions = self(x)
        return {"loss": nn.functional.mse_loss(predictions, y), "predictions": predictions}


def register():
    """Called when the plugin is loaded; what it registers is taken back when it is unloaded.

    Train with: frameworm train --model my_plugin
    """
    register_model("my_plugin", MyPluginModel)
