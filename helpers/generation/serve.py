"""Serve a converted directory over HTTP with ``transformers serve``: an API that clients of OpenAI's API understand.

``transformers serve DIR`` itself serves models whose class is part of transformers, such as RWKV-4. It fails for the
others, because it looks the class up by name in transformers, with ``--trust-remote-code`` too. :func:`serving` puts
the class there first. It takes this project's own code; nothing in the directory is executed.
"""

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM
from transformers import logging as transformers_logging
from transformers.utils import is_serve_available

from ..checkpoints.versions import MODEL_TYPES, VersionRow
from ..conversion.configuration import language_model_class
from ..errors import InputError

STARTUP = 600  # seconds after which a server that does not answer has failed


def version_row(folder: Path) -> VersionRow:
    """Return the row of the table of versions that ``config.json`` points to.

    Raises:
        InputError: the folder holds no converted model, or its name has an ``@``.
    """
    if "@" in str(folder):
        raise InputError(f"{folder} has an @ in its name, which the server reads as a revision; rename it.")
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder} is not a converted model: it has no usable config.json; run convert first."
        ) from None
    row = MODEL_TYPES.get(str(model_type))
    if row is None:
        raise InputError(f"{folder} holds a model of type {model_type}; this command serves RWKV-4 and RWKV-5.")
    return row


def refuse_used_port(host: str, port: int) -> None:
    """Raise InputError if another program listens on ``port``; 0 is any free port."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise InputError(f"Cannot listen on {host}:{port}: {error.strerror}; choose another --port.") from None


@contextmanager
def serving(
    folder: str | Path,
    host: str = "127.0.0.1",
    port: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = True,
) -> Iterator[str]:
    """Serve ``folder`` in the background and yield the address, such as ``http://127.0.0.1:8000/v1``.

    The name of the model is that of the folder, as given. Beyond what ``transformers serve`` does:

    - The model is listed at ``/models``.
    - Requests sample, with their temperature and top_p, unless ``temperature`` is 0, as in OpenAI's API. By itself, the
      server ignores both if the model's ``generation_config.json`` does not ask for sampling.
    - The name of a special token in a message is ordinary text.

    Args:
        host: 127.0.0.1 lets in programs on this computer only.
        port: 0 takes a free one.
        quiet: print warnings of the server only, no line for each request.

    Raises:
        InputError: no converted model, the port is in use, or the packages for serving are not installed.
    """
    if not is_serve_available():
        raise InputError("Serving needs fastapi, uvicorn and openai; run pip install -r requirements.txt.")
    folder = Path(folder)
    row = version_row(folder)
    refuse_used_port(host, port)
    if row.native_class is None:
        register(row)
    from transformers.cli.serve import Serve  # slow to import

    settings = {"tokenizer_kwargs": {"split_special_tokens": True}}
    with messages(quiet):
        server = Serve(
            force_model=str(folder),
            host=host,
            port=port,
            device=device,
            dtype=dtype,
            chat_template_kwargs=json.dumps(settings),
            log_level="error" if quiet else "warning",
            non_blocking=True,
        )
        try:
            offer_model(server, folder)
            wait_for(server)
            yield f"http://{host}:{used_port(server)}/v1"
        finally:
            server.kill_server()


def offer_model(server: Any, folder: Path) -> None:
    """Load the model, list it, and let requests sample, as described in :func:`serving`."""
    manager = server._model_manager
    manager.get_gen_models = lambda: [{"id": str(folder), "object": "model", "created": 0, "owned_by": "local"}]
    model, _ = manager.load_model_and_processor(manager.process_model_name(str(folder)))
    model.generation_config.update(do_sample=True, top_k=0)


def used_port(server: Any) -> int:
    """Return the port that a running server listens on."""
    return server.server.servers[0].sockets[0].getsockname()[1]


@contextmanager
def messages(quiet: bool) -> Iterator[None]:
    """If ``quiet``, hold back what the web server says below a warning; restore transformers' verbosity at the end."""

    def important(record: logging.LogRecord) -> bool:
        return not quiet or record.levelno >= logging.WARNING

    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "uvicorn.access")]
    verbosity = transformers_logging.get_verbosity()  # the server sets it
    for logger in loggers:
        logger.addFilter(important)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(important)
        transformers_logging.set_verbosity(verbosity)


def register(row: VersionRow) -> None:
    """Let transformers find this project's class of a version by itself, as if it were its own."""
    from transformers.cli.serving import model_manager

    model_class = language_model_class(row)
    AutoConfig.register(row.model_type, model_class.config_class, exist_ok=True)
    AutoModelForCausalLM.register(model_class.config_class, model_class, exist_ok=True)
    # where the server looks for what config.json calls `architectures`
    setattr(model_manager.transformers, model_class.__name__, model_class)


def wait_for(server: Any) -> None:
    """Return when the server accepts requests.

    Raises:
        InputError: it ended, or is not ready after ``STARTUP`` seconds.
    """
    end = time.monotonic() + STARTUP
    while not server.server.started:
        if not server._thread.is_alive() or time.monotonic() > end:
            raise InputError("The server did not start; see its messages above.")
        time.sleep(0.02)
