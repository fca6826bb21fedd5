"""What ships, by name, as text: nothing here is imported before somebody asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

BUILTINS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "model": {
            "cnn": "frameworm.models.cnn:CNN",
            "gan": "frameworm.models.gan:GAN",
            "mlp": "frameworm.models.mlp:MLP",
            "vae": "frameworm.models.vae:VAE",
        },
        "metric": {
            "accuracy": "frameworm.metrics.accuracy:Accuracy",
            "frechet_pixels": "frameworm.metrics.frechet:FrechetPixels",
            "mae": "frameworm.metrics.regression:MeanAbsoluteError",
            "mse": "frameworm.metrics.regression:MeanSquaredError",
        },
        "dataset": {
            "csv": "frameworm.data.csv:csv",
            "digits": "frameworm.data.digits:digits",
            "npz": "frameworm.data.npz:npz",
            "synthetic": "frameworm.data.synthetic:synthetic",
        },
        "optimizer": {},  # those that ship are torch's own
        "scheduler": {},
        "callback": {
            "early_stopping": "frameworm.listeners.early_stopping:EarlyStopping",
        },
        "exporter": {
            "safetensors": "frameworm.export.weights:Safetensors",
            "torch-export": "frameworm.export.program:TorchExport",
            "onnx": "frameworm.export.onnx:ONNX",
        },
    }
)

UNLOADED_PLUGINS = "frameworm.plugins.loader:unloaded_plugins"
"""Says which plugins could have brought a name that nothing has, as text or None; it is above this layer."""
