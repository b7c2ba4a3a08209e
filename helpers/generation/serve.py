"""Serve a converted directory over HTTP with ``transformers serve``: an API that clients of OpenAI's API understand.

``transformers serve DIR`` itself serves models whose class is part of transformers, such as RWKV-4. It fails for the
others, because it looks the class up by name in transformers, with ``--trust-remote-code`` too. :func:`serving` hands
it a model that is loaded already, of this project's own class; nothing in the directory is executed. So a model that
was saved after fine-tuning can be served as well.
"""

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerFast, StoppingCriteriaList
from transformers import logging as transformers_logging
from transformers.utils import is_serve_available

from ..conversion.loading import check_directory, choose_device, load_model
from ..errors import InputError
from .sampling import PresencePenalty, StopStrings, SuppressAtBegin

DTYPES = ("auto", "float32", "bfloat16", "float16")  # auto: as in the directory
STARTUP = 600  # seconds after which a server that does not answer has failed


def refuse_used_port(host: str, port: int) -> None:
    """Raise InputError if another program listens on ``port``, or there is no such port; 0 is any free one."""
    if not 0 <= port < 65536:
        raise InputError(f"There is no port {port}; choose a --port from 1 to 65535, or 0 for a free one.")
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
    max_tokens: int = 4096,
) -> Iterator[str]:
    """Serve ``folder`` in the background and yield the address, such as ``http://127.0.0.1:8000/v1``.

    The name of the model is that of the folder, as given. Chats and completions are answered, with or without a stream.
    Beyond what ``transformers serve`` does:

    - A request is checked, and refused in one sentence if it has a wrong value, or asks for what is not done here:
      several answers, log-probabilities, tools, or a format of the response. See :mod:`.api`.
    - Requests sample, with their temperature and top_p, unless ``temperature`` is 0, as in OpenAI's API.
    - An answer in a chat does not begin with a line break, and ends at a blank line, if the client gives no ``stop``. A
      stop string is not part of the answer.
    - The name of a special token in a message is ordinary text.

    Args:
        host: 127.0.0.1 lets in programs on this computer only.
        port: 0 takes a free one.
        device: ``auto`` takes all GPUs that there are, or else the CPU.
        dtype: of the weights, one of ``DTYPES``.
        quiet: print warnings of the server only, no line for each request.
        max_tokens: the longest answer that a client may ask for.

    Raises:
        InputError: no complete model, no such device, the port is in use, or packages for serving are not installed.
    """
    if not is_serve_available():
        raise InputError("Serving needs fastapi, uvicorn and openai; run pip install -r requirements.txt.")
    folder = Path(folder)
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype {dtype}; choose one of {', '.join(DTYPES)}.")
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}; give a number from 1 on.")
    check_directory(folder, with_tokenizer=True)
    place = "auto" if device == "auto" else choose_device(device)
    refuse_used_port(host, port)
    with messages(quiet):
        model = load_model(folder, dtype=dtype, device_map=place)
        tokenizer = load_tokenizer(folder, model)
        server = start(model, tokenizer, str(folder), max_tokens, host=host, port=port, quiet=quiet)
        try:
            wait_for(server)
            yield f"http://{host}:{used_port(server)}/v1"
        finally:
            server.kill_server()


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


def start(
    model: Any, tokenizer: PreTrainedTokenizerFast, name: str, max_tokens: int, host: str, port: int, quiet: bool
) -> Any:
    """Start ``transformers serve`` with a model that is loaded already, behind :class:`.api.Gate`, and return it."""
    from transformers.cli.serve import Serve  # slow to import
    from transformers.cli.serving.model_manager import TimedModel

    from .api import NAME, Gate, Served

    model.generate = partial(generate, model.generate)
    defaults = json.loads(model.generation_config.to_json_string())
    served = Served(name, model.get_input_embeddings().num_embeddings, defaults, max_tokens)

    class Server(Serve):
        def start_server(self) -> None:  # called at the end of its __init__
            manager: Any = self._model_manager
            manager.force_model = NAME
            manager.loaded_models[manager.process_model_name(NAME)] = TimedModel(model, -1, tokenizer)
            config: Any = self.server.config
            config.app = Gate(config.app, served)
            super().start_server()

    settings = {"tokenizer_kwargs": {"split_special_tokens": True}}
    return Server(
        host=host,
        port=port,
        chat_template_kwargs=json.dumps(settings),
        log_level="error" if quiet else "warning",
        non_blocking=True,
    )


def generate(
    of_model: Callable[..., Tensor],
    input_ids: Tensor,
    generation_config: GenerationConfig,
    tokenizer: Any,
    **inputs: Any,
) -> Tensor:
    """Generate with this project's means where those of transformers are slow: see :mod:`.sampling`.

    For each request with a stop string, transformers goes through the whole vocabulary, which takes half a second.
    """
    prompt_length = input_ids.shape[1]
    processors, criteria = LogitsProcessorList(), StoppingCriteriaList()
    if penalty := getattr(generation_config, "presence_penalty", 0):
        processors.append(PresencePenalty(penalty, prompt_length))
    if first := generation_config.begin_suppress_tokens:
        processors.append(SuppressAtBegin(first, prompt_length))
    if stops := generation_config.stop_strings:
        criteria.append(StopStrings(stops, tokenizer, prompt_length))
    generation_config.update(begin_suppress_tokens=None, stop_strings=None)
    return of_model(
        input_ids=input_ids,
        generation_config=generation_config,
        logits_processor=processors,
        stopping_criteria=criteria,
        **inputs,
    )


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
