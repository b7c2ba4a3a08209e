"""Serve a converted directory over HTTP: a small server of this project's own, for clients of OpenAI's API.

The model is loaded as this project's own class, so nothing in the directory is executed. :mod:`.api` says what may be
asked, :mod:`.web` who is let in, :mod:`.jobs` who waits for whom, and :mod:`.answers` how an answer comes about.
"""

import asyncio
import atexit
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from transformers import PreTrainedTokenizerFast

from ..conversion.loading import check_directory, choose_device, load_model
from ..errors import InputError
from . import answers
from .api import Served
from .jobs import Line
from .prompts import end_of_answer
from .web import Doors, application

DTYPES = ("auto", "float32", "bfloat16", "float16")  # auto: as in the directory
PROMPT_PIECES = (64, 512)  # tokens, of which prompts are read at once where they are recorded
STARTUP = 60  # seconds after which a web server that does not answer has failed
PATIENCE = 0.4  # seconds that connections have to end by themselves, and then the thread that answers


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that nothing listens on yet.

    Raises:
        InputError: another program listens there, or there is no such port or address.
    """
    if not 0 <= port < 65536:
        raise InputError(f"There is no port {port}; choose a --port from 1 to 65535, or 0 for a free one.")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen()  # fails here rather than later if another program does so
    except (OSError, TypeError, UnicodeError) as error:  # the latter two: a host that no name can be
        bound.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Cannot listen on {host}:{port}: {reason}; choose another --host or --port.") from None
    return bound


def is_local(host: str) -> bool:
    """Say whether only programs on this computer reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def doors(host: str, hosts: Sequence[str], origins: Sequence[str], key: str | None, no_auth: bool) -> Doors:
    """Return who is let in.

    Raises:
        InputError: everybody would be, or a name, an origin or the key is not one.
    """
    if key is None and not no_auth and not is_local(host):
        raise InputError(
            f"On {host or 'every address'}, other computers reach the server; give --api-key or the environment "
            "variable RWKV_API_KEY, or let everybody in with --no-auth."
        )
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        raise InputError("The API key is empty, or has blanks or characters beyond ASCII; give another.")
    for name in hosts:
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]", name):
            raise InputError(f"--allow-host {name!r} is not a name; give one without port, such as models.example.org.")
    for origin in origins:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:[0-9]+)?", origin):
            raise InputError(f"--allow-origin {origin!r} is not an origin; give one such as https://example.org.")
    return Doors((url_host(host), *hosts), tuple(origins), key)


def url_host(host: str) -> str:
    """Return a host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


@contextmanager
def serving(
    folder: str | Path,
    host: str = "127.0.0.1",
    port: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    quiet: bool = True,
    max_tokens: int = 4096,
    max_prompt: int = 8192,
    queue: int = 64,
    api_key: str | None = None,
    no_auth: bool = False,
    allow_hosts: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
    compiled: bool = False,
    end: str = "auto",
) -> Iterator[str]:
    """Serve ``folder`` in the background and yield the address, such as ``http://127.0.0.1:8000/v1``.

    The name of the model is that of the folder, as given. Chats and completions are answered as OpenAI's API
    describes: in a stream or whole, with ``n``, ``stop``, ``seed``, log-probabilities, penalties and biases, and for
    RWKV-7 G1 models with thinking and tools. What is not done here, such as a format of the response, is refused in one
    sentence. See :mod:`.api`.

    - Requests sample, with their temperature and top_p, unless ``temperature`` is 0. The same seed gives the same
      answers, and answer number i is that of ``seed + i``.
    - An answer in a chat does not begin with a line break, and ends at a blank line, if the client gives no ``stop``. A
      stop string is not part of the answer, but is looked for in thoughts and calls, too.
    - With ``enable_thinking``, or ``thinking``, or ``reasoning_effort``, or tools, it ends before ``\\n\\nUser:``
      instead. What was thought is ``reasoning_content``, and a call of a function ``tool_calls``; log-probabilities
      are those of all tokens.
    - The name of a special token in a message is ordinary text.

    Args:
        host: 127.0.0.1 lets in programs on this computer only. With any other address, a key is needed.
        port: 0 takes a free one.
        device: ``auto`` takes all GPUs that there are, or else the CPU.
        dtype: of the weights, one of ``DTYPES``.
        quiet: print warnings of the server only, no line for each request.
        max_tokens: the longest answer that a client may ask for.
        max_prompt: the longest prompt, in tokens.
        queue: the number of requests that may wait while one is answered; others are told to come again, with 429.
        api_key: that clients have to show.
        no_auth: let everybody in, whatever the address.
        allow_hosts: names by which the server may be asked for, beside ``host`` and those of this computer.
        allow_origins: of web pages that may use the server from a browser.
        compiled: record single answers with ``compile_decoding``, on an NVIDIA GPU.
        end: where answers in a chat end if the client gives no ``stop``: ``auto`` as said above, or always at a
            ``blank-line``, or before the next turn of the ``user``.

    Raises:
        InputError: no complete model, no such device, the port is in use, or an argument is wrong.
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype {dtype}; choose one of {', '.join(DTYPES)}.")
    end_of_answer(end, of_g1=False)  # fails if there is no such end
    for name, number, least in (("max_tokens", max_tokens, 1), ("max_prompt", max_prompt, 1), ("queue", queue, 0)):
        if number < least:
            raise InputError(f"{name} is {number}; give a number from {least} on.")
    let_in = doors(host, allow_hosts, allow_origins, api_key, no_auth)
    check_directory(folder, with_tokenizer=True)
    place = "auto" if device == "auto" else choose_device(device)
    with bind(host, port) as bound:
        model = load_model(folder, dtype=dtype, device_map=place)
        if compiled:
            model.compile_decoding(prompt_pieces=PROMPT_PIECES)
        tokenizer = load_tokenizer(folder, model)
        served = Served(str(folder), model.get_input_embeddings().num_embeddings, max_tokens, max_prompt, end)
        line = Line(partial(answers.write, model, answers.Spelling(tokenizer)), queue)
        server = start(application(served, tokenizer, line, let_in), bound, quiet)
        try:
            yield f"http://{url_host(host)}:{bound.getsockname()[1]}/v1"
        finally:
            stop(server, line)


def load_tokenizer(folder: Path, model: Any) -> PreTrainedTokenizerFast:
    """Return the fast tokenizer of a directory, whatever class it was saved from.

    Raises:
        InputError: it cannot be loaded, has no chat template, or has more tokens than the model.
    """
    remedy = f"run python -m helpers refresh {folder}"
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise InputError(f"Cannot load the tokenizer of {folder}: {error}; {remedy}.") from None
    if tokenizer.chat_template is None:
        raise InputError(f"The tokenizer of {folder} has no chat template; {remedy}.")
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InputError(f"{folder} has a model of {rows:,} tokens and a tokenizer of {len(tokenizer):,}; {remedy}.")
    return tokenizer


class Server(uvicorn.Server):
    """A web server in a thread of its own."""

    def __init__(self, config: uvicorn.Config, bound: socket.socket):
        super().__init__(config)
        self.thread = threading.Thread(target=self.run, args=([bound],), name="rwkv-web", daemon=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def abort(self) -> None:
        """Close all connections, whatever is still to be sent: clients that do not read would be waited for."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def start(app: Any, bound: socket.socket, quiet: bool) -> Server:
    """Start a web server, and return it when it accepts requests.

    Raises:
        InputError: it ended, or is not ready after ``STARTUP`` seconds.
    """
    level = "warning" if quiet else "info"
    options: dict[str, Any] = {"http": "h11", "ws": "none", "lifespan": "off", "loop": "asyncio"}
    config = uvicorn.Config(
        app, **options, log_level=level, access_log=not quiet, proxy_headers=False, server_header=False
    )
    server = Server(config, bound)
    server.thread.start()
    end = time.monotonic() + STARTUP
    while not server.started:
        if not server.thread.is_alive() or time.monotonic() > end:
            raise InputError("The server did not start; see its messages above.")
        time.sleep(0.01)
    return server


def stop(server: Server, line: Line) -> None:
    """End everything: what is being answered, what waits, and the web server. Returns at once."""
    server.loop.call_soon_threadsafe(line.stop)
    server.should_exit = True
    server.thread.join(PATIENCE)
    if server.thread.is_alive():
        server.loop.call_soon_threadsafe(server.abort)
        server.thread.join(PATIENCE)
    if not line.join(PATIENCE):
        atexit.register(line.join, STARTUP)  # a program that ends in the middle of a step of the model is aborted
