"""``python -m helpers serve``: a converted directory over HTTP."""

import argparse
import time
from pathlib import Path

from . import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a directory made by convert")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this computer only)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    parser.add_argument("--device", default="auto", help="for example cpu or cuda:0 (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="default: as in the directory")
    parser.add_argument("--max-tokens", type=int, default=4096, help="the longest answer (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    from ..generation.serve import serving

    where = (args.host, args.port, args.device, args.dtype)
    with serving(args.folder, *where, quiet=False, max_tokens=args.max_tokens) as address:
        print(f"{args.folder} is served at {address}, model name {str(args.folder)!r}; stop with Ctrl+C", flush=True)
        while True:
            time.sleep(3600)
