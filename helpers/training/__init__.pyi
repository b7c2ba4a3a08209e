from .options import TrainOptions, WindowOptions
from .run import train_from_text
from .trainer import TrainingRun
from .windows import Kind, Windows

__all__ = [
    "Kind",
    "TrainOptions",
    "TrainingRun",
    "WindowOptions",
    "Windows",
    "train_from_text",
]
