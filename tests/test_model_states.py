"""States and long prompts: batches decode like their rows, states travel, and memory does not grow with the prompt.

Tolerances: logits are of size 1 to 10, and 1e-5 is ten roundings in fp32. 1e-4 where the same sum is made in another
order, 2e-2 where a number was rounded to bf16 on its way.
"""

import subprocess
import sys

import pytest
import torch
from tiny_models import VERSIONS, VOCAB, ids_of, tiny_model
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import utils as generation

from helpers.hub_code import rwkv_common
from helpers.paths import ROOT


@pytest.fixture(scope="module", params=[*VERSIONS, "5.2 with time_state"])
def model(request):
    version, *more = request.param.split()
    return tiny_model(version, **dict.fromkeys(more and ["has_time_state"], True))


@torch.inference_mode()
def test_a_batch_decodes_like_its_rows(model):
    ids = ids_of(12, rows=3)
    together, alone = None, [None] * 3
    for t in range(12):
        output = model(ids[:, t : t + 1], state=together, use_cache=True)
        together = output.state
        for row in range(3):
            single = model(ids[row : row + 1, t : t + 1], state=alone[row], use_cache=True)
            alone[row] = single.state
            torch.testing.assert_close(output.logits[row], single.logits[0], atol=1e-5, rtol=1e-5)
    for part in range(3):
        torch.testing.assert_close(together[part], torch.cat([state[part] for state in alone]), atol=1e-5, rtol=1e-5)


class GumbelNoise(LogitsProcessor):
    """Sample each row with a random generator of its own: the largest logit with Gumbel noise is a sample."""

    def __init__(self, seeds):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, ids, scores):
        noise = torch.stack([torch.rand(scores.shape[1], generator=generator) for generator in self.generators])
        return scores - torch.log(-torch.log(noise))


def test_a_batch_samples_like_its_rows(model):
    """With a seed for each row, a padded batch writes what each row writes alone."""
    texts = [ids_of(length, seed=length) for length in (4, 9, 7)]
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    padded = torch.cat([torch.nn.functional.pad(text, (9 - text.shape[1], 0)) for text in texts])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(text), (9 - text.shape[1], 0)) for text in texts])
    noise = LogitsProcessorList([GumbelNoise([1, 2, 3])])
    together = model.generate(padded, attention_mask=mask, logits_processor=noise, **options)[:, 9:]
    for row, text in enumerate(texts):
        noise = LogitsProcessorList([GumbelNoise([row + 1])])
        alone = model.generate(text, attention_mask=torch.ones_like(text), logits_processor=noise, **options)
        assert together[row].tolist() == alone[0, text.shape[1] :].tolist()


@torch.inference_mode()
def test_a_state_is_reused_many_times(model):
    state = model(ids_of(20), use_cache=True).state
    before = [part.clone() for part in state]
    answers = []
    for _ in range(3):
        answers.append(model(ids_of(5, seed=1), state=state, use_cache=True).logits)
        model.generate(ids_of(5, seed=2), state=state, max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert all(torch.equal(part, kept) for part, kept in zip(state, before, strict=True))


@torch.inference_mode()
def test_a_state_is_saved_and_loaded(model, tmp_path):
    state = model(ids_of(20), use_cache=True).state
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(model(ids_of(5), state=loaded).logits, model(ids_of(5), state=state).logits)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_state_moves_between_dtypes(model, dtype):
    """A state in another dtype is used, and the state after has the model's dtypes again."""
    state = model(ids_of(20), use_cache=True).state
    expected = model(ids_of(5), state=state, use_cache=True)
    moved = model(ids_of(5), state=tuple(part.to(dtype) for part in state), use_cache=True)
    tolerance = 1e-6 if dtype == torch.float64 else 2e-2
    torch.testing.assert_close(moved.logits, expected.logits, atol=tolerance * 10, rtol=tolerance)
    assert [part.dtype for part in moved.state] == [torch.float32] * 3


@torch.inference_mode()
def test_a_state_moves_between_models_of_different_dtype(model):
    """A prompt read in fp32 is continued in bf16: close to a prompt read in bf16."""
    half = tiny_model_like(model).bfloat16()
    state = model(ids_of(20), use_cache=True).state
    ours = half(ids_of(5), state=state, use_cache=True)
    assert ours.logits.dtype == torch.bfloat16
    assert ours.state[1].dtype == torch.float32  # what each time-mix remembers stays fp32
    expected = model(ids_of(5), state=state).logits
    assert (ours.logits.float() - expected).norm() <= 2e-2 * expected.norm()


def tiny_model_like(model):
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


@torch.inference_mode()
@pytest.mark.parametrize("keep", [1, 7])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_a_long_prompt_is_read_in_pieces(model, monkeypatch, keep, padding):
    """With pieces of 64 tokens: the same last logits and state, and no block ever sees more at once."""
    ids = ids_of(300, rows=2)
    mask = torch.ones_like(ids)
    if padding != "none":
        mask[0, :140] = 0  # more than two pieces
        mask = mask if padding == "left" else mask.flip(1)
    whole = model(ids, attention_mask=mask, use_cache=True)
    seen = []
    hook = model.rwkv.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].shape[1]))
    monkeypatch.setattr(rwkv_common, "READ_AT_ONCE", 128)  # of two rows
    inputs = [{"input_ids": ids}, {"inputs_embeds": model.get_input_embeddings()(ids)}]
    for given in inputs:
        longer_mask = torch.cat([torch.zeros_like(mask[:, :5]), mask], dim=1)  # its last columns count
        pieces = model(**given, attention_mask=longer_mask, logits_to_keep=keep, use_cache=True)
        real = mask[:, -keep:] == 1
        torch.testing.assert_close(pieces.logits[real], whole.logits[:, -keep:][real], atol=1e-4, rtol=1e-4)
        for ours, expected in zip(pieces.state, whole.state, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    hook.remove()
    assert sum(seen) == 600
    assert max(seen) < 64 + keep
    assert len(seen) == 2 * 5


def test_how_much_is_read_at_once():
    """Of all rows together, as memory is; on a GPU, of wide models fewer; never less than a chunk."""
    assert [rwkv_common.piece_size(rows, 768, "cpu") for rows in (0, 1, 3, 8, 1000)] == [2048, 2048, 640, 256, 64]
    sizes = [rwkv_common.piece_size(rows, width, "cuda") for rows, width in ((1, 64), (1, 768), (1, 4096), (64, 4096))]
    assert sizes == [16384, 16384, 4096, 64]


MEMORY = """
import sys; sys.path.insert(0, "tests")
import resource, torch
from tiny_models import ids_of, tiny_model
torch.set_num_threads(1)
model = tiny_model(sys.argv[1], layers=1, hidden_size=32, head_size=16)
for tokens in (4096, 100_000):
    model.generate(ids_of(tokens), max_new_tokens=2, do_sample=False, eos_token_id=None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB on Linux
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux gives it")
@pytest.mark.parametrize("version", ["4", "5.2"])
def test_memory_does_not_grow_with_the_prompt(version):
    """From a prompt of 4,096 tokens to one of 100,000, of which a single layer's hidden states are 13 MB, peak memory
    grows by less than 16 MB (measured: about 2, the ids); reading all at once would take hundreds."""
    result = subprocess.run([sys.executable, "-c", MEMORY, version], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    short, long = (int(line) for line in result.stdout.split())
    assert long - short < 16 * 1024


def test_generation_on_apple_gpus(model):
    """There, generate asks the state after the prompt whether it can take tokens back, and a tuple would not answer."""
    if not hasattr(generation, "DeferredStopCheck"):
        pytest.skip("this version of transformers does not ask")
    settings = model.generation_config
    output = model._prefill(ids_of(5), settings, {"use_cache": True, "logits_to_keep": 1})
    assert generation.DeferredStopCheck.is_supported(torch.device("mps"), output.state, False, False)
    assert output.logits.shape == (1, 1, VOCAB)


@torch.inference_mode()
@pytest.mark.parametrize("use", ["fp16", "generate", "train"])
def test_nothing_changes_the_weights(model, use):
    copy = tiny_model_like(model)
    if use == "fp16":
        copy.half()
    before = {name: weight.clone() for name, weight in copy.state_dict().items()}
    if use == "generate":
        copy.generate(ids_of(5), max_new_tokens=3, num_beams=2)
    else:
        copy.train(use == "train")(ids_of(70), labels=ids_of(70))
    assert all(torch.equal(before[name], weight) for name, weight in copy.state_dict().items())
