"""A thread for a widget: one job at a time, that can be stopped, and whose errors are shown."""

import html
import threading
import time
from collections.abc import Callable
from typing import Any

SETTLE = 0.5  # seconds in which a second click belongs to the first, as in a double click
_latest: dict[type, "Worker"] = {}  # of each kind of widget


class Stopped(Exception):
    """Raised by :meth:`Worker.reading` to end a job that was asked to stop."""


class Worker:
    """Runs one function in a thread, so that the page stays alive while a model writes."""

    def __init__(self, widget: Any, status: Any, on_end: Callable[[], None]):
        """``status`` is the widget that shows what the function raises; ``on_end`` is called after each job.

        A job of an earlier widget of the same class is stopped: its cell was run again, and nobody sees it any more.
        """
        self.status, self.on_end = status, on_end
        if earlier := _latest.get(type(widget)):
            earlier.stop()
        _latest[type(widget)] = self
        self._started = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether the function has been asked to end; it has to look."""
        return self._stop.is_set()

    def click(self, start: Callable[[], None]) -> None:
        """Do what one button for both means: ``start()``, or stop what is running, unless it has only just begun."""
        if not self.running:
            start()
        elif time.monotonic() - self._started > SETTLE:
            self.stop()

    def reading(self, tokens: int) -> None:
        """Show how many tokens of a prompt are left to read, and end the job there if it has been asked to end.

        Raises:
            Stopped: it has been.
        """
        if self.stopping:
            raise Stopped
        self.status.value = f"reading, {tokens:,} tokens left …"

    def start(self, function: Callable, *args: Any) -> None:
        """Start ``function(*args)``; the caller makes sure that nothing is running."""
        self._stop.clear()
        self._started = time.monotonic()
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
        except Stopped:
            self.status.value = "stopped"
        except Exception as error:  # in a thread nobody else would see it
            self.status.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"
        finally:
            self.on_end()
