"""The line of requests before the model: one is answered at a time, in the order in which they came.

A request has a place in the line from the moment that its body is read. The line has a limit: whoever comes when it is
full is told to come again. A request whose client has gone gives up its place; if it was being answered, the thread
that answers ends it at the next token.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from .answers import Piece, Task
from .refusals import Refusal

COME_AGAIN = 1  # seconds, for a client that finds the line full

Write = Callable[[Task], Iterator[list[Piece]]]
Event = list[Piece] | Exception | None  # pieces of answers, what went wrong, or the end


class Job:
    """A request with a place in the line. All but ``gone`` and ``task`` belong to the thread of the web server."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.gone = False  # nobody waits for it any more
        self.task: Task | None = None

    def stop(self, reason: Exception | None = None) -> None:
        """Let whoever reads the pieces hear that there will be no more."""
        self.gone = True
        self.events.put_nowait(reason)

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """Yield pieces as they come, to the end; raise what went wrong."""
        while (event := await self.events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event


class Line:
    """The line, and the thread that answers.

    Args:
        write: answers one request.
        limit: the number of requests that may wait.
    """

    def __init__(self, write: Write, limit: int):
        self.write, self.limit, self.closed = write, limit, False
        self.places: set[Job] = set()
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._answer_all, name="rwkv-answers", daemon=True)
        self._thread.start()

    # in the thread of the web server

    def enter(self) -> Job:
        """Take a place.

        Raises:
            Refusal: the line is full, or the server ends.
        """
        if self.closed:
            raise ending()
        if len(self.places) > self.limit:
            message = f"The server is busy: {self.limit} requests wait already; try again in a moment."
            raise Refusal(message, code="busy", status=429, headers={"Retry-After": str(COME_AGAIN)})
        job = Job()
        self.places.add(job)
        return job

    def submit(self, job: Job, task: Task) -> None:
        """Let a request be answered when it is its turn."""
        job.task = task
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Give up a place; nothing happens if that was done already."""
        job.gone = True
        self.places.discard(job)
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def stop(self) -> None:
        """End what is being answered and refuse what waits, and what may come yet."""
        self.closed = True
        for job in self.places:
            job.stop(ending())
        with self._changed:
            self._waiting.clear()
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end, in any thread; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # in the thread that answers

    def _answer_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self.closed)
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            self._answer(job)
            del job  # or its prompt and answers would stay until the next one comes

    def _answer(self, job: Job) -> None:
        assert job.task is not None
        end: Event = None
        try:
            for pieces in self.write(job.task):
                if job.gone:
                    break
                if pieces:
                    self._tell(job, pieces)
        except Exception as error:  # told to the client in one sentence, and in full to the log
            end = error
        self._tell(job, end)

    def _tell(self, job: Job, event: Event) -> None:
        try:
            job.loop.call_soon_threadsafe(self._hear, job, event)
        except RuntimeError:  # the loop is closed: the web server has ended
            job.gone = True

    def _hear(self, job: Job, event: Event) -> None:
        if not isinstance(event, list):
            self.places.discard(job)  # a client that reads slowly keeps nobody waiting
        job.events.put_nowait(event)


def ending() -> Refusal:
    return Refusal("The server is being stopped.", code="stopped", status=503)
