"""A model whose directory carries code of its own, run in another process, which answers with plain numbers.

What is asked, and what is made of the answers, stays in this process: that code can compute what it likes, but cannot
change who judges it. It is no sandbox: the other process has all rights of the user.

The two talk over a pipe. A question is one line of JSON, and names a function of this project that takes the model and
plain arguments. An answer is a byte, ``=`` or ``!``, a length in 8 bytes, and tensors in the safetensors format, or a
sentence on what went wrong.
"""

import importlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import InputError
from ..paths import PACKAGE
from .loading import load_model

Answer = dict[str, Tensor]
LARGEST = 1 << 34  # bytes of an answer: logits of 65,000 tokens


class IsolatedModel:
    """The model of a directory, with the directory's own code, in another process. Use it in a ``with`` block.

    Raises:
        InputError: it cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        device: str = "cpu",
        device_map: str | None = None,
        tf32: bool = False,
    ):
        self.folder = folder
        self.modules = tempfile.TemporaryDirectory(prefix="rwkv-code-")  # where transformers copies the code to
        paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        offline = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": self.modules.name, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", __name__]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **offline}
        )
        self.place = {"device": device, "device_map": device_map, "tf32": tf32}
        try:
            self.load(dtype)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "IsolatedModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the other process."""
        self.process.kill()
        self.process.communicate()
        self.modules.cleanup()

    def load(self, dtype: torch.dtype) -> None:
        """Load the model in a dtype, in the place of an earlier one.

        Raises:
            InputError: it cannot be loaded.
        """
        names = {"folder": str(self.folder.resolve()), "dtype": str(dtype).removeprefix("torch.")}
        self.exchange({**names, **self.place})

    def ask(self, function: Callable[..., Answer], **arguments: Any) -> Answer:
        """Return what ``function(model, **arguments)`` gives there; the arguments have to be plain, as in JSON.

        Raises:
            InputError: the directory's code raised an error, ended the process, or answered with something else.
        """
        return self.exchange({"module": function.__module__, "name": function.__name__, "arguments": arguments})

    def exchange(self, question: dict[str, Any]) -> Answer:
        """Send a question, and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()
            good, content = read_answer(self.process.stdout)
            if good:
                return load(content)
        except (OSError, EOFError, ValueError, SafetensorError):
            raise InputError(f"The code in {self.folder} ended, or did not answer with numbers.") from None
        reason = " ".join(content.decode("utf-8", "replace").split())[:300]
        raise InputError(f"The code in {self.folder} failed: {ascii(reason)[1:-1].rstrip('.')}.")


def read_answer(stream: Any) -> tuple[bool, bytes]:
    """Return whether an answer is good, and its content.

    Raises:
        EOFError: there is no more.
        ValueError: it is something else.
    """
    start = stream.read(9)
    if len(start) < 9:
        raise EOFError
    (length,) = struct.unpack("<Q", start[1:])
    if start[:1] not in (b"=", b"!") or length > LARGEST:
        raise ValueError
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return start[:1] == b"=", content


def write_answer(stream: BinaryIO, good: bool, content: bytes) -> None:
    stream.write((b"=" if good else b"!") + struct.pack("<Q", len(content)) + content)
    stream.flush()


def serve_answers() -> None:
    """Load the model that a line names, or answer another line, until there are no more."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the code prints must not stand between the answers
    model: Any = None
    for line in sys.stdin.buffer:
        question = json.loads(line)
        try:
            if "folder" in question:
                model = None
                torch.backends.cuda.matmul.allow_tf32 = question.pop("tf32")
                dtype = getattr(torch, question.pop("dtype"))
                model = load_model(code="directory", dtype=dtype, **question)
                answer: Answer = {}
            else:
                function = getattr(importlib.import_module(question["module"]), question["name"])
                answer = function(model, **question["arguments"])
            tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in answer.items()}
            write_answer(stream, True, save(tensors))
        except Exception as error:  # whatever that code raises is its answer
            write_answer(stream, False, f"{type(error).__name__}: {error}"[:3000].encode("utf-8", "replace"))


if __name__ == "__main__":
    serve_answers()
