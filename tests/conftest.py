"""How the tests are spread over processes, and which ones need a GPU."""

import pytest
import torch


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, where they share fixtures, but those of each notebook in one of its own.

    The notebooks come first, since they take longest.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(notebook_of(item) or item.path.stem))
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
    items.sort(key=lambda item: notebook_of(item) is None)


def notebook_of(item: pytest.Item) -> str | None:
    """Return the name of the notebook that a test is about, or None."""
    notebook = item.callspec.params.get("notebook") if hasattr(item, "callspec") else None
    return notebook.stem if notebook else None
