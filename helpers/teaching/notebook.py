"""What every notebook uses: record a key number where tests can read it."""

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
