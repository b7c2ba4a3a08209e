"""Measure the conversion of checkpoints of the published sizes: seconds, peak memory, and seconds of ``cp``.

    python -m helpers bench conversion                     # all sizes; the largest needs 18 GB of disk for a while
    python -m helpers bench conversion --sizes 0.1B 0.4B

The checkpoints have random numbers and are written without ever being held in memory. Memory is RssAnon, what a process
cannot give back (pages of mapped files can be dropped at any time), above that of a process that has imported torch.
The tokenizer files are kept from one conversion to the next; what the first one on a machine takes is not measured.
Linux only. Notebook 08 shows the results.
"""

import json
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..atomic import scratch_folder, write_text
from ..checkpoints.format import checkpoint_info, expected_shapes
from ..errors import InputError
from ..paths import BUILD, RESULTS
from ..tokenizer.fast import save_tokenizers
from .checks import check_counts, check_output, make_folder

SIZES = {  # of BlinkDL/rwkv-5-world: version, layers, hidden size
    "0.1B": ("5.0", 12, 768),
    "0.4B": ("5.2", 24, 1024),
    "1.5B": ("5.2", 24, 2048),
    "3B": ("5.2", 32, 2560),
}
OUT = RESULTS / "conversion.json"
CHILD = """
import sys, time, torch
print("ready", flush=True)
input()
from helpers.conversion import convert
start = time.perf_counter()
convert(sys.argv[1], sys.argv[2], progress=False)
print(time.perf_counter() - start)
"""


def write_large_checkpoint(path: Path, size: str) -> int:
    """Write a bf16 checkpoint of random numbers and return its number of parameters.

    First a file is laid out with holes in the place of numbers, then it is mapped and filled, tensor by tensor. What is
    mapped is saved again, as that alone gives the file its checksums.
    """
    version, layers, hidden = SIZES[size]
    shapes = expected_shapes(checkpoint_info(version, layers, hidden))
    layout = path.with_name(f"{path.name}.layout")
    with torch.serialization.skip_data():  # nor is the memory of empty tensors ever touched
        torch.save({name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, layout)
    noise = 0.02 * torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        weights = torch.load(layout, weights_only=True, mmap=True)
    for weight in weights.values():
        for piece in weight.flatten().split(len(noise)):
            piece.copy_(noise[: len(piece)])
    torch.save(weights, path)
    layout.unlink()
    return sum(weight.numel() for weight in weights.values())


def anonymous_bytes(pid: int) -> int:
    """Return RssAnon of a process, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def settle() -> None:
    """Let the disk finish, and the system take back the memory of files that are gone: the same start for everyone."""
    os.sync()
    time.sleep(5)


def measure_conversion(checkpoint: Path, out: Path) -> tuple[float, float]:
    """Return seconds, and the peak of anonymous memory above ``import torch`` in bytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(checkpoint), str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        settle()
        before = peak = anonymous_bytes(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        while child.poll() is None:
            peak = max(peak, anonymous_bytes(child.pid))
            time.sleep(0.005)
        seconds = float(child.stdout.read())
    return seconds, peak - before


def measure_copy(checkpoint: Path, out: Path) -> float:
    """Return the seconds of ``cp``."""
    settle()
    start = time.perf_counter()
    subprocess.run(["cp", checkpoint, out], check=True)
    return time.perf_counter() - start


def measure(size: str, folder: Path, repeat: int) -> dict:
    """Return medians of ``repeat`` copies and conversions, in turn, so that other work on the machine hits both."""
    checkpoint, copy, out = folder / f"{size}.pth", folder / "copy.pth", folder / "converted"
    parameters = write_large_checkpoint(checkpoint, size)
    copies, conversions, peaks = [], [], []
    for _ in range(repeat):
        copies.append(measure_copy(checkpoint, copy))
        copy.unlink()
        seconds, peak = measure_conversion(checkpoint, out)
        shutil.rmtree(out)
        conversions.append(seconds)
        peaks.append(peak)
    return {
        "size": size,
        "parameters": parameters,
        "file_bytes": checkpoint.stat().st_size,
        "convert_seconds": round(statistics.median(conversions), 2),
        "cp_seconds": round(statistics.median(copies), 2),
        "peak_anonymous_mb": round(max(peaks) / 1e6),
        "runs": {"convert_seconds": conversions, "cp_seconds": copies, "peak_bytes": peaks},
    }


def run(sizes: Sequence[str] = tuple(SIZES), folder: Path = BUILD, repeat: int = 3, out: Path = OUT) -> list[dict]:
    """Measure some sizes; write and return the rows.

    Args:
        folder: on the disk to measure; what is in it stays as it is.
        repeat: runs of each side, of which the median counts.

    Raises:
        InputError: there is no such size, ``repeat`` is below 1, the folders cannot be written, or this is not Linux.
    """
    if platform.system() != "Linux":
        raise InputError("This benchmark reads memory from /proc, which only Linux has; run it there.")
    if unknown := set(sizes) - SIZES.keys():
        raise InputError(f"There is no size {min(unknown)}; choose of {', '.join(SIZES)}.")
    check_counts(repeat=repeat)
    check_output(out)
    make_folder(folder, "--folder")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        save_tokenizers(scratch)
    for size in sizes:
        with scratch_folder(folder, "benchmark") as scratch:
            rows.append(measure(size, scratch, repeat))
        print({name: value for name, value in rows[-1].items() if name != "runs"}, flush=True)
    machine = {"system": platform.system(), "cpus": os.cpu_count(), "torch": torch.__version__}
    write_text(out, json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    return rows
