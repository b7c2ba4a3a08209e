"""A thread for a widget: one job at a time, that can be stopped, and whose errors are shown."""

import html
import threading
from collections.abc import Callable
from typing import Any


class Worker:
    """Runs one function in a thread, so that the page stays alive while a model writes."""

    def __init__(self, status: Any, on_end: Callable[[], None]):
        """``status`` is the widget that shows what the function raises; ``on_end`` is called after each job."""
        self.status, self.on_end = status, on_end
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether the function has been asked to end; it has to look."""
        return self._stop.is_set()

    def start(self, function: Callable, *args: Any) -> None:
        """Start ``function(*args)``; the caller makes sure that nothing is running."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the job is done, at most ``timeout`` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, function: Callable, args: tuple) -> None:
        try:
            function(*args)
        except Exception as error:  # in a thread nobody else would see it
            self.status.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"
        finally:
            self.on_end()
