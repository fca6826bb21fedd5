"""FRAMEWORM: train PyTorch models in the open; every step is a typed event, and listening slows nothing down.

    import frameworm

    result = frameworm.train("config.yaml", ["trainer.epochs=3"])
    model = frameworm.load_model(result.directory)
    metrics = frameworm.evaluate("config.yaml").metrics

The names below are imported when they are first used: `import frameworm` itself needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from frameworm.app import session, train
    from frameworm.config import Config, TrainerConfig
    from frameworm.errors import FramewormError, StopTraining, UserError
    from frameworm.exporting import export_model
    from frameworm.plugins.hooks import CallbackHook, HookRegistry
    from frameworm.predicting import predict
    from frameworm.trained import evaluate, load_model
    from frameworm.training.distributed.world import joined
    from frameworm.training.run import RunInfo, TrainResult
    from frameworm.training.trainer import Trainer

_HOMES = {
    "CallbackHook": "frameworm.plugins.hooks",
    "Config": "frameworm.config",
    "FramewormError": "frameworm.errors",
    "HookRegistry": "frameworm.plugins.hooks",
    "RunInfo": "frameworm.training.run",
    "StopTraining": "frameworm.errors",
    "TrainResult": "frameworm.training.run",
    "Trainer": "frameworm.training.trainer",
    "TrainerConfig": "frameworm.config",
    "UserError": "frameworm.errors",
    "evaluate": "frameworm.trained",
    "export_model": "frameworm.exporting",
    "joined": "frameworm.training.distributed.world",
    "load_model": "frameworm.trained",
    "predict": "frameworm.predicting",
    "session": "frameworm.app",
    "train": "frameworm.app",
}

__all__ = [
    "CallbackHook",
    "Config",
    "FramewormError",
    "HookRegistry",
    "RunInfo",
    "StopTraining",
    "TrainResult",
    "Trainer",
    "TrainerConfig",
    "UserError",
    "evaluate",
    "export_model",
    "joined",
    "load_model",
    "predict",
    "session",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("frameworm")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
