"""Compare the Triton kernels with the definitions, values and gradients; run in a process of its own by the tests."""

import os

import torch

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

from helpers.hub_code import (  # noqa: E402
    modeling_rwkv4,
    modeling_rwkv5,
    modeling_rwkv6,
    modeling_rwkv7,
    wkv4_triton,
    wkv6_triton,
    wkv7_triton,
)
from helpers.training import wkv67_triton, wkv_triton  # noqa: E402

TOLERANCE = 1e-2 if CUDA else 1e-5  # products in bf16 and tf32 on a GPU, in fp32 in the interpreter


def differences(function, reference, inputs, state) -> list[float]:
    """Return the relative differences of the output and of each input's gradient."""
    results = []
    for each in (function, reference):
        y, _ = each(*inputs, state)
        weights = torch.sin(torch.arange(y.numel(), device=y.device, dtype=torch.float32)).view_as(y)
        results.append([y, *torch.autograd.grad((y * weights).sum(), inputs)])
    return [((a - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True)]


def check() -> None:
    torch.manual_seed(0)
    device = "cuda" if CUDA else "cpu"

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(shape, device=device)).requires_grad_()

    for channels in (1, 64):
        r, k, v = (normal(2, 2, 48, 64) for _ in "rkv")
        log_w = (-torch.exp(-3 + torch.randn(2, channels, device=device))).detach().requires_grad_()
        state = torch.zeros(2, 2, 64, 64, device=device)
        inputs = (r, k, v, log_w, normal(2, channels))
        found = differences(wkv_triton.wkv5, modeling_rwkv5.wkv5_recurrent, inputs, state)
        assert max(found) < TOLERANCE, found
    for scale in (1.0, 20.0):
        w = (-torch.exp(2 * torch.randn(64, device=device))).detach().requires_grad_()
        inputs = (normal(2, 40, 64, scale=scale), normal(2, 40, 64), w, normal(64))
        state = torch.tensor([0.0, 0.0, modeling_rwkv4.EMPTY], device=device).view(1, 3, 1).expand(2, 3, 64)
        found = differences(wkv_triton.wkv4, modeling_rwkv4.wkv4_recurrent, inputs, state)
        assert max(found) < TOLERANCE, found
    empty = torch.zeros(2, 2, 64, 64, device=device)
    for strength in (-3.0, 0.5):  # stronger ones than e^-8 per token count as that
        r, k, v = (normal(2, 2, 48, 64) for _ in "rkv")
        log_w = (-torch.exp(strength + torch.randn_like(r))).clamp(min=-7.9).detach().requires_grad_()
        inputs = (r, k, v, log_w, normal(2, 64))
        found = differences(wkv67_triton.wkv6, modeling_rwkv6.wkv6_recurrent, inputs, empty)
        assert max(found) < TOLERANCE, found
    for share in (0.3, 1.0):  # of what is erased; keys alike, so that each token erases what the last one wrote
        r, k, v = (normal(2, 2, 48, 64) for _ in "rkv")
        log_w = (-modeling_rwkv7.STEEPEST * torch.sigmoid(torch.randn_like(r))).detach().requires_grad_()
        direction = torch.nn.functional.normalize(1 + torch.randn_like(r), dim=-1)
        a, b = (x.detach().requires_grad_() for x in (-direction, direction * share))
        found = differences(wkv67_triton.wkv7, modeling_rwkv7.wkv7_recurrent, (r, log_w, k, v, a, b), empty)
        assert max(found) < TOLERANCE, found


@torch.no_grad()
def check_reading() -> None:
    """The kernels for reading: output and state, from a state, with padding, of sizes that fill no chunk."""
    generator = torch.Generator().manual_seed(0)
    device = "cuda" if CUDA else "cpu"

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(device)

    def compare(kernel, definition, inputs, state, tokens):
        for lengths in (None, torch.tensor([tokens, tokens // 2, 0], device=device)):
            for _ in range(2):  # the second time from the state of the first
                ours, expected = (function(*inputs, state, lengths) for function in (kernel, definition))
                for a, b in zip(ours, expected, strict=True):
                    largest = b.abs().max().item() if CUDA else 1.0  # of terms that cancel
                    torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, largest), rtol=1e-5)
                state = expected[1]

    empty = torch.tensor([0.0, 0.0, modeling_rwkv4.EMPTY], device=device).view(1, 3, 1)
    for tokens, width, scale in ((2, 1, 1.0), (7, 40, 20.0), (64, 64, 1.0), (100, 33, 5.0)):
        inputs = (
            scale * normal(3, tokens, width),
            normal(3, tokens, width),
            -torch.exp(2 * normal(width)),
            normal(width),
        )
        compare(wkv4_triton.wkv4, modeling_rwkv4.wkv4_recurrent, inputs, empty.expand(3, 3, width), tokens)
    for tokens, size in ((2, 8), (32, 64), (70, 24)):
        r, k, v, decay = (normal(3, 2, tokens, size) for _ in range(4))
        inputs = r / size**0.5, k, v, -torch.exp(decay - 2), normal(2, size)
        compare(wkv6_triton.wkv6, modeling_rwkv6.wkv6_recurrent, inputs, normal(3, 2, size, size), tokens)
        for channels in (1, size):
            inputs = r / size**0.5, k, v, -torch.exp(normal(2, channels) - 2), normal(2, channels)
            compare(wkv6_triton.wkv6, modeling_rwkv5.wkv5_recurrent, inputs, normal(3, 2, size, size), tokens)
        log_w = -modeling_rwkv7.STEEPEST * torch.sigmoid(decay)
        a = -torch.nn.functional.normalize(normal(3, 2, tokens, size) + 0.5, dim=-1)
        inputs = r / size**0.5, log_w, k, v, a, -a * torch.rand(a.shape, generator=generator).to(device)
        compare(wkv7_triton.wkv7, modeling_rwkv7.wkv7_recurrent, inputs, normal(3, 2, size, size), tokens)
