"""Measure decoding on a GPU: a step as it is, recorded, and recorded with joined kernels, beside the ``rwkv`` package.

    python -m helpers bench decode --device cuda  # 0.1B and 1.5B shapes, batches of 1 and 64
    python -m helpers bench decode --device cuda --sizes 0.1B --versions 5.2

The weights are random. Steps run in turn: the package's, then ours in each variant, again and again; the package has no
batches, so its rows have one text. Three ways to write are measured, all greedy: ``step``, the model alone, whose
tokens never leave the GPU; ``loop``, in which each token is fetched, as any program that shows text has to; and
``generate``, the prompt of 16 tokens included. The roof of a step is the time to read all weights once, and states
twice, at the rate of the GPU's memory on the data sheet.
"""

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version as package_version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..atomic import scratch_folder, write_text
from ..checkpoints.format import checkpoint_info, expected_shapes
from ..checkpoints.names import hub_name
from ..checkpoints.oracle import load_oracle, run_on
from ..checkpoints.synthetic import random_tensor
from ..checkpoints.versions import CheckpointInfo
from ..conversion.configuration import language_model_class, model_config
from ..conversion.loading import choose_device
from ..errors import InputError
from ..lambada.run import STRATEGIES
from ..paths import BUILD, RESULTS
from . import checks
from .checks import check_counts, check_output

SIZES = {size: checks.SIZES[size] for size in ("0.1B", "1.5B")}
VERSIONS = ("4", "5.0", "5.2", "6", "7")
VARIANTS = ("eager", "graph", "fused")
BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12}  # bytes/s: NVIDIA's data sheets, SXM
DEVICE = "cuda"
PROMPT = 16  # tokens before the first step

Write = Callable[[int], float | None]  # a number of tokens; returns seconds if it measures them itself


class Side:
    """A way to write ``count`` tokens, for each of ``rows`` rows, and how long it took."""

    def __init__(self, label: dict[str, Any], write: Write, rows: int, count: int):
        self.label, self.write, self.rows, self.count = label, write, rows, count
        self.seconds: list[float] = []

    def run(self) -> None:
        torch.cuda.synchronize()
        start = time.perf_counter()
        seconds = self.write(self.count)
        torch.cuda.synchronize()
        self.seconds.append(seconds or time.perf_counter() - start)

    def row(self) -> dict[str, Any]:
        """Return the median, and all runs."""
        rates = [self.count * self.rows / seconds for seconds in self.seconds]
        median = statistics.median(rates)
        rate = {"tokens_per_s": round(median, 1), "lowest": round(min(rates), 1), "highest": round(max(rates), 1)}
        step = {"ms_per_step": round(1e3 * self.rows / median, 4), "seconds": self.seconds}
        return self.label | {"rows": self.rows} | rate | step


def our_sides(model: Any, label: dict[str, Any], rows: int, count: int) -> list[Side]:
    """Return the three ways to write with a model as it is now."""
    ids = torch.ones(rows, PROMPT, dtype=torch.int64, device=model.device)
    decoding = model._decoding
    with torch.inference_mode():
        prompt = model(ids, use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def step(count: int, fetch: bool = False) -> None:
        model._decoding = decoding
        output = prompt
        for _ in range(count):
            token = output.logits[:, -1:].argmax(-1)
            if fetch:
                token.tolist()
            output = model(token, state=output.state, use_cache=True)

    def generate(count: int) -> None:
        model._decoding = decoding
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **options)

    ways = {"step": step, "loop": lambda count: step(count, fetch=True), "generate": generate}
    return [Side(label | {"way": way}, write, rows, count) for way, write in ways.items()]


def write_text_of(model: Any, rows: int) -> torch.Tensor:
    """Return 64 greedy tokens of each row after different prompts."""
    ids = torch.randint(1, 60000, (rows, PROMPT), generator=torch.Generator().manual_seed(0)).to(model.device)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, **options)[:, PROMPT:]


def peer_sides(oracle: Any, label: dict[str, Any], count: int) -> list[Side]:
    """Return the two ways to write with the package: a fixed token again and again, and the most probable one."""
    ways = {"step": False, "loop": True}
    return [
        Side(label | {"way": way}, partial(run_on, oracle, package_writes, fetch), 1, count)
        for way, fetch in ways.items()
    ]


def package_writes(oracle: Any, fetch: bool, count: int) -> float:
    """Let the package's model write after a prompt, and return the seconds of the steps."""
    logits, state = oracle.forward([1] * PROMPT, None)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        logits, state = oracle.forward([int(logits.argmax()) if fetch else 1], state)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peer_kernels() -> bool:
    """Say whether the package's kernels can be compiled here."""
    os.environ["RWKV_JIT_ON"], os.environ["RWKV_CUDA_ON"] = "1", "1"
    try:
        import rwkv.model  # noqa: F401
    except Exception as error:  # of a compiler that is missing, or too new for them
        print(f"The package runs without its kernels: {str(error).splitlines()[0]}", flush=True)
        return False
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    return True


def random_weights(info: CheckpointInfo) -> dict[str, torch.Tensor]:
    """Return fp16 weights under BlinkDL's names."""
    generator = torch.Generator().manual_seed(0)
    return {name: random_tensor(name, shape, generator).half() for name, shape in expected_shapes(info).items()}


def build(info: CheckpointInfo, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """Return our model with these weights on the GPU."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(DEVICE):
            model = language_model_class(info.row)(model_config(info, dtype))
    finally:
        torch.set_default_dtype(before)
    kept_in_fp32 = model._keep_in_fp32_modules_strict or ()
    for name, module in model.named_modules():  # as from_pretrained does
        for own, parameter in module.named_parameters(prefix=name, recurse=False):
            if any(kept in own for kept in kept_in_fp32):
                parameter.data = parameter.data.float()
    model.load_state_dict({hub_name(name, info.row.layout): weight for name, weight in weights.items()})
    return model.eval()


def step_bytes(model: Any, rows: int) -> int:
    """Return what a step has to move: all weights but the table of the embedding, and all states in and out."""
    embeddings = model.get_input_embeddings().weight
    state = model(torch.ones(1, 1, dtype=torch.int64, device=model.device), use_cache=True).state
    weights = sum(x.numel() * x.element_size() for x in model.parameters())
    weights -= embeddings.numel() * embeddings.element_size()
    return weights + 2 * rows * sum(x.numel() * x.element_size() for x in state)


def measure(
    info: CheckpointInfo, label: dict[str, Any], dtype: torch.dtype, rows: Sequence[int], variants: Sequence[str],
    count: int, repeat: int, peer: Any,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield a row for each batch size, variant and way, and for the package."""
    weights = random_weights(info)
    model = build(info, weights, dtype)
    sides: list[Side] = []
    texts: dict[int, torch.Tensor] = {}
    roofs = {}
    for size in rows:
        with torch.inference_mode():
            roofs[size] = step_bytes(model, size)
        for variant in variants:
            start = time.perf_counter()
            model._decoding = None
            if variant != "eager":
                model.compile_decoding([size], fuse=variant == "fused")
            ours = label | {"side": "ours", "variant": variant, "recorded_in_s": round(time.perf_counter() - start, 1)}
            new = our_sides(model, ours, size, count)
            text = write_text_of(model, size)
            same = (text == texts.setdefault(size, text)).float().mean().item()  # as the first variant
            for side in new:
                side.label["same_tokens"] = round(same, 4)
            sides += new
            print(ours | {"rows": size, "same_tokens": round(same, 4)}, flush=True)
    if peer is not None:
        with scratch_folder(BUILD, "decode") as folder:
            path = folder / "a.pth"
            torch.save(weights, path)
            oracle = load_oracle(path, f"{DEVICE} fp16", kernels=peer)
        sides = peer_sides(oracle, label | {"side": "rwkv"}, count) + sides
    del weights
    for side in sides:
        side.run()
        side.seconds.clear()
    for _ in range(repeat):
        for side in sides:
            side.run()
    bandwidth = next((rate for name, rate in BANDWIDTH.items() if name in torch.cuda.get_device_name()), None)
    for side in sides:
        row = side.row()
        if bandwidth and row["side"] == "ours":
            row["roof_share"] = round(roofs[side.rows] / bandwidth / (row["ms_per_step"] / 1e3), 3)
        yield row


def machine(kernels: bool | None) -> dict[str, Any]:
    packages = {name: package_version(name) for name in ("torch", "transformers", "rwkv")}
    cpu = {"system": platform.system(), "cpus": os.cpu_count()}
    return cpu | {"gpu": torch.cuda.get_device_name(), DEVICE: torch.version.cuda, "rwkv_kernels": kernels} | packages


def run(
    sizes: Sequence[str] = tuple(SIZES),
    versions: Sequence[str] = VERSIONS,
    rows: Sequence[int] = (1, 64),
    variants: Sequence[str] = VARIANTS,
    dtypes: Sequence[str] = ("float16",),
    tokens: Sequence[int] = (128,),
    repeat: int = 5,
    peer: bool = True,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Measure, write the rows after each model, and return them.

    Args:
        rows: batch sizes.
        variants: of ``VARIANTS``.
        dtypes: of our weights. tokens: of a run, each row.
        repeat: runs of each side.
        peer: measure the package too.

    Raises:
        InputError: there is no such size, no GPU, or a number is below 1.
    """
    if unknown := set(sizes) - set(SIZES):
        raise InputError(f"There is no size {min(unknown)}; choose of {', '.join(SIZES)}.")
    if unknown := set(versions) - set(VERSIONS):
        raise InputError(f"There is no version {min(unknown)}; choose of {', '.join(VERSIONS)}.")
    if unknown := set(dtypes) - set(STRATEGIES):
        raise InputError(f"There is no dtype {min(unknown)}; choose of {', '.join(STRATEGIES)}.")
    if unknown := set(variants) - set(VARIANTS):
        raise InputError(f"There is no variant {min(unknown)}; choose of {', '.join(VARIANTS)}.")
    check_counts(tokens=min(tokens), repeat=repeat, rows=min(rows))
    out = out or RESULTS / "decode_cuda.json"
    check_output(out)
    choose_device(DEVICE)
    BUILD.mkdir(parents=True, exist_ok=True)
    kernels = peer_kernels() if peer else None
    results: list[dict[str, Any]] = []
    for size, version, dtype, count in product(sizes, versions, dtypes, tokens):
        info, label = checkpoint_info(version, *SIZES[size]), {"size": size, "version": version, "dtype": dtype}
        for row in measure(info, label, getattr(torch, dtype), rows, variants, count, repeat, kernels):
            results.append(row)
            print(row, flush=True)
        write_text(out, json.dumps({"machine": machine(kernels), "rows": results}, indent=2) + "\n")
        gc.collect()
        torch.cuda.empty_cache()
    return results
