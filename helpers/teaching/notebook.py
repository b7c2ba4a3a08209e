"""What every notebook uses: record a key number where tests can read it, and show the source of what it imports."""

import inspect
import textwrap
from collections.abc import Callable

from IPython.display import display

METRICS_MIME = "application/vnd.rwkv-metrics+json"
Metric = float | int | bool | str


def record(**metrics: Metric) -> None:
    """Record key numbers of a notebook run.

    They are printed as a small table and stored in the cell's output under ``METRICS_MIME``, so that papermill's output
    file carries them and tests read them back. A double underscore in a name stands for a dot:
    ``record(lambada__documents=120)`` records ``lambada.documents``.
    """
    named = {name.replace("__", "."): value for name, value in metrics.items()}
    width = max(len(name) for name in named)
    lines = [f"{name:<{width}}  {value}" for name, value in named.items()]
    display({METRICS_MIME: named, "text/plain": "\n".join(lines)}, raw=True)


def show_source(*things: Callable | type, name: str = "") -> None:
    """Display the source of functions or classes, highlighted; readers without a kernel see it as well.

    Args:
        things: functions, methods or classes; the standard tool reads their source from the file.
        name: a file's name, printed above the code.
    """
    code = "\n\n".join(textwrap.dedent(inspect.getsource(thing)).rstrip() for thing in things)
    heading = f"`{name}`:\n\n" if name else ""
    display({"text/markdown": f"{heading}```python\n{code}\n```", "text/plain": code}, raw=True)
