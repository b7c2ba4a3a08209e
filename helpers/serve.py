"""Serve a converted directory over HTTP with ``transformers serve``: an API that clients of OpenAI's API understand.

``transformers serve DIR`` itself serves a converted RWKV-4, whose class is part of transformers. It fails for RWKV-5,
because it looks the class up by name in transformers, with ``--trust-remote-code`` too. :func:`serving` puts the class
there first. It takes this project's own code; nothing in the directory is executed.
"""

import argparse
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM
from transformers import logging as transformers_logging
from transformers.utils import is_serve_available

from .errors import InputError
from .hub_code.modeling_rwkv5 import Rwkv5ForCausalLM

STARTUP = 600  # seconds after which a server that does not answer has failed


def model_type(folder: Path) -> str:
    """Return ``rwkv`` (RWKV-4) or ``rwkv5``, from ``config.json``.

    Raises:
        InputError: the folder holds no converted model, or its name has an ``@``.
    """
    if "@" in str(folder):
        raise InputError(f"{folder} has an @ in its name, which the server reads as a revision; rename it.")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder} is not a converted model: it has no usable config.json; run convert first."
        ) from None
    if kind not in ("rwkv", "rwkv5"):
        raise InputError(f"{folder} holds a model of type {kind}; this command serves RWKV-4 and RWKV-5.")
    return kind


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
    kind = model_type(folder)
    refuse_used_port(host, port)
    if kind == "rwkv5":
        register_rwkv5()
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
            yield address_of(server, folder, host)
        finally:
            server.kill_server()


def address_of(server, folder: Path, host: str) -> str:
    """Finish the setting up described in :func:`serving`; return the address once requests are accepted."""
    manager = server._model_manager
    manager.get_gen_models = lambda: [{"id": str(folder), "object": "model", "created": 0, "owned_by": "local"}]
    model, _ = manager.load_model_and_processor(manager.process_model_name(str(folder)))
    model.generation_config.update(do_sample=True, top_k=0)
    wait_for(server)
    address = server.server.servers[0].sockets[0].getsockname()
    return f"http://{host}:{address[1]}/v1"


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


def register_rwkv5() -> None:
    """Let transformers find this project's RWKV-5 class by itself, as if it were its own."""
    from transformers.cli.serving import model_manager

    AutoConfig.register("rwkv5", Rwkv5ForCausalLM.config_class, exist_ok=True)
    AutoModelForCausalLM.register(Rwkv5ForCausalLM.config_class, Rwkv5ForCausalLM, exist_ok=True)
    model_manager.transformers.Rwkv5ForCausalLM = Rwkv5ForCausalLM  # where the server looks for `architectures`


def wait_for(server) -> None:
    """Return when the server accepts requests.

    Raises:
        InputError: it ended, or is not ready after ``STARTUP`` seconds.
    """
    end = time.monotonic() + STARTUP
    while not server.server.started:
        if not server._thread.is_alive() or time.monotonic() > end:
            raise InputError("The server did not start; see its messages above.")
        time.sleep(0.02)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a directory made by convert")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this computer only)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    parser.add_argument("--device", default="auto", help="for example cpu or cuda:0 (default: a GPU if there is one)")
    parser.add_argument("--dtype", default="auto", help="for example bfloat16 (default: as in the directory)")


def main(args: argparse.Namespace) -> int:
    with serving(args.folder, args.host, args.port, args.device, args.dtype, quiet=False) as address:
        print(f"{args.folder} is served at {address}, model name {str(args.folder)!r}; stop with Ctrl+C", flush=True)
        while True:
            time.sleep(3600)
