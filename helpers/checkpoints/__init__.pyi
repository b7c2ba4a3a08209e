from .bundled import BUNDLED_SHA256, bundled_checkpoint
from .files import load_checkpoint, sha256
from .format import checkpoint_info, describe, describe_checkpoint, expected_shapes
from .inspection import inspect, oddities
from .names import hub_name, pth_name
from .versions import RENAMES, VERSIONS, CheckpointInfo, VersionRow

__all__ = [
    "BUNDLED_SHA256",
    "RENAMES",
    "VERSIONS",
    "CheckpointInfo",
    "VersionRow",
    "bundled_checkpoint",
    "checkpoint_info",
    "describe",
    "describe_checkpoint",
    "expected_shapes",
    "hub_name",
    "inspect",
    "load_checkpoint",
    "oddities",
    "pth_name",
    "sha256",
]
