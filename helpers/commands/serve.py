"""``python -m helpers serve``: a converted directory over HTTP."""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

from . import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a directory made by convert; its code is not run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this computer only)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    parser.add_argument("--device", default="auto", help="for example cpu or cuda:0 (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="default: as in the directory")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="record steps and prompts as CUDA graphs first: on an NVIDIA GPU, answers come several times as fast",
    )
    parser.add_argument(
        "--end",
        choices=("auto", "blank-line", "user"),
        default="auto",
        help="where answers in a chat end if the client does not say: at a blank-line, as those of World models do, or "
        "before the next turn of the user, as those of RWKV-7 G1, which may have blank lines (default: auto, which is "
        "user for requests with thinking or tools, and blank-line for others)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-tokens", type=int, default=4096, help="the longest answer (default: %(default)s tokens)")
    limits.add_argument("--max-prompt", type=int, default=8192, help="the longest prompt (default: %(default)s tokens)")
    limits.add_argument(
        "--queue", type=int, default=64, help="requests that may wait; more get status 429 (default: %(default)s)"
    )
    entry = parser.add_argument_group("who is let in")
    entry.add_argument(
        "--api-key",
        metavar="KEY",
        help="that clients have to show (default: the environment variable RWKV_API_KEY, which other users of this "
        "computer do not see); needed with a --host other than this computer",
    )
    entry.add_argument("--no-auth", action="store_true", help="let everybody in who reaches the --host")
    entry.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which clients call the server, beside localhost, 127.0.0.1, [::1] and the --host; repeatable",
    )
    entry.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web page that may use the server from a browser, such as https://example.org; repeatable",
    )


def main(args: argparse.Namespace) -> int:
    from ..generation.serve import serving

    with serving(
        args.folder,
        args.host,
        args.port,
        args.device,
        args.dtype,
        quiet=False,
        max_tokens=args.max_tokens,
        max_prompt=args.max_prompt,
        queue=args.queue,
        api_key=os.environ.get("RWKV_API_KEY") or None if args.api_key is None else args.api_key,
        no_auth=args.no_auth,
        allow_hosts=args.allow_host,
        allow_origins=args.allow_origin,
        compiled=args.compile,
        end=args.end,
    ) as address:
        print(f"{args.folder} is served at {address}, model name {str(args.folder)!r}; stop with Ctrl+C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    print("stopped", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(130)  # at once: Python would first take down torch, and a step of the model may still be going on
