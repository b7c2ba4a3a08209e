from .configuration import language_model_class, model_config
from .directory import convert, write_model
from .hub import download_checkpoint, push
from .loading import load_model
from .reading import load_converted, weight_files
from .weights import write_weights

__all__ = [
    "convert",
    "download_checkpoint",
    "language_model_class",
    "load_converted",
    "load_model",
    "model_config",
    "push",
    "weight_files",
    "write_model",
    "write_weights",
]
