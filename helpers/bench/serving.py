"""Let many clients use ``serve`` at once, for a while: is anything lost or mixed up, and does memory grow?

    python -m helpers bench serving                        # 50 clients for 10 minutes, with the bundled model
    python -m helpers bench serving --minutes 0.1 --clients 10

The server is a process of its own, as the command starts it; the clients are OpenAI's, in threads. Each asks, waits and
asks again: chats and completions, whole and in streams, several answers, log-probabilities, requests that are left in
the middle, and wrong ones. What the right answers are was asked before, one at a time. A client that is told that the
server is busy comes again.
"""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil

from ..atomic import scratch_folder, write_text
from ..checkpoints.bundled import bundled_checkpoint
from ..conversion.directory import convert
from ..errors import InputError
from ..paths import BUILD, RESULTS
from .checks import check_counts, check_output

SUBJECTS = ("the sea", "a horse", "London", "the old man", "a letter", "the garden", "her brother", "the war")
TOKENS = 32  # of an answer, at most
BEGINNING = 0.2  # of the time, after which memory has found its level
PATIENCE = 600  # seconds for one request


def chat(subject: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Tell me about {subject}."}], "temperature": 0}


def completion(subject: str) -> dict[str, Any]:
    return {"prompt": f"There was once a story of {subject}, which", "temperature": 0}


def several(subject: str) -> dict[str, Any]:
    return {"prompt": f"They spoke of {subject}:", "n": 3, "seed": len(subject), "logprobs": 2}


class Client:
    """One client: what it asks for, and what it hears."""

    def __init__(self, address: str, model: str):
        self.api = openai.OpenAI(base_url=address, api_key="none", timeout=PATIENCE, max_retries=0)
        self.common: dict[str, Any] = {"model": model, "max_tokens": TOKENS}

    def whole_chat(self, subject: str) -> list[str]:
        answer = self.api.chat.completions.create(**self.common, **chat(subject))
        return [choice.message.content or "" for choice in answer.choices]

    def streamed_chat(self, subject: str) -> list[str]:
        chunks = self.api.chat.completions.create(**self.common, **chat(subject), stream=True)
        return ["".join(chunk.choices[0].delta.content or "" for chunk in chunks)]

    def whole_completion(self, subject: str) -> list[str]:
        return [choice.text for choice in self.api.completions.create(**self.common, **completion(subject)).choices]

    def several_answers(self, subject: str) -> list[str]:
        return [choice.text for choice in self.api.completions.create(**self.common, **several(subject)).choices]

    def left_in_the_middle(self, subject: str) -> list[str]:
        chunks = self.api.completions.create(**self.common, **completion(subject), stream=True)
        heard = next(chunks).choices[0].text
        chunks.close()
        return [heard]

    def wrong(self, subject: str) -> list[str]:
        try:
            self.api.completions.create(**self.common | {"max_tokens": -1}, prompt=subject)
        except openai.BadRequestError as error:
            return [str(error.param)]
        return ["answered"]


ASKING: tuple[tuple[Callable[[Client, str], list[str]], int], ...] = (  # and how often
    (Client.whole_chat, 3),
    (Client.streamed_chat, 3),
    (Client.whole_completion, 2),
    (Client.several_answers, 1),
    (Client.left_in_the_middle, 1),
    (Client.wrong, 1),
)


class Record:
    """What all clients found."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests = self.busy = 0
        self.right: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.faults: list[str] = []

    def tell(self, name: str, heard: list[str], expected: list[str], seconds: float) -> None:
        with self.lock:
            self.requests += 1
            self.seconds.append(seconds)
            if heard == expected:
                self.right[name] += 1
            else:
                self.faults.append(f"{name}: {heard} instead of {expected}")

    def tell_busy(self) -> None:
        with self.lock:
            self.busy += 1

    def tell_fault(self, name: str, error: Exception) -> None:
        with self.lock:
            self.requests += 1
            self.faults.append(f"{name}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def served(folder: Path, threads: int, options: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server and yield its address and its process."""
    command = [sys.executable, "-m", "helpers", "serve", str(folder), "--port", "0", "--device", "cpu", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+") as messages:
        running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=messages, text=True)
        try:
            assert running.stdout is not None
            line = next((line for line in running.stdout if " is served at " in line), None)
            if line is None:
                messages.seek(0)
                raise InputError(f"The server did not start: {messages.read()[-500:].strip()}")
            threading.Thread(target=running.stdout.read, daemon=True).start()  # its log, or it would wait for a reader
            yield line.split(" is served at ")[1].split(",")[0], psutil.Process(running.pid)
        finally:
            running.kill()
            running.wait()


def use(client: Client, expected: dict[tuple[str, str], list[str]], record: Record, seed: int, end: float) -> None:
    """Ask and ask again until the end."""
    chance = random.Random(seed)
    kinds, weights = zip(*ASKING, strict=True)
    while time.monotonic() < end:
        (ask,) = chance.choices(kinds, weights)
        subject = chance.choice(SUBJECTS)
        start = time.monotonic()
        try:
            heard = ask(client, subject)
        except openai.RateLimitError as error:
            record.tell_busy()
            time.sleep(float(error.response.headers["retry-after"]))
        except Exception as error:
            record.tell_fault(ask.__name__, error)
            time.sleep(0.1)
        else:
            record.tell(ask.__name__, heard, expected[ask.__name__, subject], time.monotonic() - start)


def run(
    clients: int = 50,
    minutes: float = 10,
    threads: int = 1,
    queue: int = 64,
    folder: Path | None = None,
    out: Path | None = None,
) -> dict:
    """Let ``clients`` use a server for some minutes; write and return what was found.

    Args:
        clients: how many ask at the same time.
        minutes: how long they go on.
        threads: of the server's model; for one as small as the bundled, more wait for each other.
        queue: as of ``serve``.
        folder: a converted directory; by default the bundled RWKV-5.
        out: by default ``serving.json`` among the recorded results.

    Raises:
        InputError: a number is out of range, or the server does not start.
    """
    check_counts(clients=clients, threads=threads)
    if not 0 < minutes < float("inf"):
        raise InputError(f"--minutes is {minutes}; give a number above 0.")
    out = out or RESULTS / "serving.json"
    check_output(out)
    BUILD.mkdir(parents=True, exist_ok=True)
    with scratch_folder(BUILD, "bench-serving") as scratch:
        folder = folder or convert(bundled_checkpoint(), scratch / "rwkv5-mini", progress=False)
        with served(folder, threads, ["--queue", str(queue)]) as (address, process):
            result = measure(address, str(folder), process, clients, minutes)
    write_text(out, json.dumps({"clients": clients, "threads": threads, "queue": queue} | result, indent=2) + "\n")
    return result


def measure(address: str, model: str, process: psutil.Process, clients: int, minutes: float) -> dict:
    """Return what happened while clients used a server, and the memory that it took."""
    alone = Client(address, model)
    expected = {(ask.__name__, subject): ask(alone, subject) for ask, _ in ASKING for subject in SUBJECTS}
    record, start = Record(), time.monotonic()
    end = start + 60 * minutes
    threads = [
        threading.Thread(target=use, args=(Client(address, model), expected, record, seed, end), daemon=True)
        for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    level, highest = 0, 0
    while any(thread.is_alive() for thread in threads):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise InputError(f"The server ended by itself; the last faults: {record.faults[-3:]}.")
        memory = process.memory_info().rss
        if time.monotonic() < start + BEGINNING * (end - start):
            level = max(level, memory)
        highest = max(highest, memory)
        time.sleep(min(1.0, minutes))
    seconds = sorted(record.seconds)
    return {
        "minutes": minutes,
        "requests": record.requests,
        "right": dict(record.right),
        "faults": len(record.faults),
        "first_faults": record.faults[:10],
        "told_to_come_again": record.busy,
        "seconds_median": round(statistics.median(seconds), 3) if seconds else None,
        "seconds_95_percent": round(seconds[int(0.95 * (len(seconds) - 1))], 3) if seconds else None,
        "memory_mb_after_the_beginning": round(level / 1e6),
        "memory_mb_highest": round(highest / 1e6),
        "memory_mb_end": round(process.memory_info().rss / 1e6),
        "connections_left": len(process.net_connections()) - 1,  # but the one that listens
    }
