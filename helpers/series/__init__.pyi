from .check import check_template, compare_outputs
from .run import Summary, execute, find_notebooks, read_metrics, run_series, save_outputs, table

__all__ = [
    "Summary",
    "check_template",
    "compare_outputs",
    "execute",
    "find_notebooks",
    "read_metrics",
    "run_series",
    "save_outputs",
    "table",
]
