"""``compile_decoding``: recorded steps write what the model itself writes, and give way to it where they cannot.

On a CPU a plain function takes the place of the CUDA graph. Like a graph it reads and writes the same memory at each
step, so that whatever would overwrite a caller's tensors shows here too. The graphs themselves are tested at the end,
where there is a GPU.
"""

import copy
import pickle

import pytest
import torch
from tiny_models import VERSIONS, ids_of, tiny_model
from transformers import set_seed

from helpers.generation.sampling import Sampling, stream
from helpers.hub_code import rwkv_decoding

ENDLESS = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def capture_plain(function):
    """Do as ``capture_graph``: what is returned starts ``function`` again, which overwrites the same results."""
    results = tuple(x.clone() for x in function())

    def replay():
        for kept, x in zip(results, function(), strict=True):
            kept.copy_(x)

    return replay, results


def record_plain(model, batch_sizes, fuse, prompt_pieces):
    return rwkv_decoding.record_with(capture_plain, model, batch_sizes, fuse, prompt_pieces)


@pytest.fixture
def on_cpu(monkeypatch):
    """Let models on the CPU be recorded, and count the steps that are replayed."""
    replayed = []
    run = rwkv_decoding.RecordedStep.__call__

    def counted(self, inputs):
        replayed.append(len(inputs[0]))
        return run(self, inputs)

    monkeypatch.setattr(rwkv_decoding, "DEVICE_TYPE", "cpu")
    monkeypatch.setattr(rwkv_decoding, "record", record_plain)
    monkeypatch.setattr(rwkv_decoding.RecordedStep, "__call__", counted)
    return replayed


@pytest.fixture
def said(monkeypatch):
    """Collect what is said to the user."""
    sentences = []
    monkeypatch.setattr(rwkv_decoding.logger, "warning", sentences.append)
    return sentences


def pair(version, batch_sizes=(1, 2), dtype=torch.float32, prompt_pieces=(), **options):
    """Return a model as it is, and the same one recorded without a compiler: the results are equal bit for bit."""
    plain, recorded = (to_dtype(tiny_model(version, **options), dtype) for _ in range(2))
    recorded.compile_decoding(batch_sizes, fuse=False, prompt_pieces=prompt_pieces)
    return plain, recorded


def to_dtype(model, dtype):
    """Change all weights but those that ``from_pretrained`` keeps in fp32."""
    for name, parameter in model.named_parameters():
        if not any(kept in name for kept in model._keep_in_fp32_modules_strict):
            parameter.data = parameter.data.to(dtype)
    return model


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2])
def test_greedy(version, dtype, rows, on_cpu, said):
    plain, recorded = pair(version, dtype=dtype, layers=7)
    ids = ids_of(12, rows)
    assert recorded.generate(ids, **ENDLESS).tolist() == plain.generate(ids, **ENDLESS).tolist()
    assert on_cpu == [rows] * 9  # the first token comes from the prompt
    assert not said


@pytest.mark.parametrize("version", VERSIONS)
def test_a_padded_batch(version, on_cpu, said):
    plain, recorded = pair(version)
    ids = ids_of(12, rows=2)
    mask = torch.ones_like(ids)
    ids[0, :5] = mask[0, :5] = 0
    ours, theirs = (model.generate(ids, attention_mask=mask, **ENDLESS) for model in (recorded, plain))
    assert ours.tolist() == theirs.tolist()
    assert len(on_cpu) == 9
    assert not said


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("batch_size", "options"),
    [
        (1, {"do_sample": True}),
        (3, {"do_sample": True, "num_return_sequences": 3}),
        (4, {"num_beams": 4, "num_return_sequences": 2}),
        (4, {"num_beams": 4, "do_sample": True}),
    ],
)
def test_samples_and_beams(version, batch_size, options, on_cpu, said):
    plain, recorded = pair(version, [batch_size])
    texts = []
    for model in (recorded, plain):
        set_seed(3)
        texts.append(model.generate(ids_of(12), **ENDLESS | options).tolist())
    assert texts[0] == texts[1]
    assert on_cpu == [batch_size] * 9
    assert not said


@pytest.mark.parametrize("version", VERSIONS)
def test_guidance_and_stored_results(version, on_cpu):
    """Guidance reads two texts in turn; logits and states of earlier steps stay what they were."""
    plain, recorded = pair(version)
    options = {"guidance_scale": 1.5, "output_logits": True, "return_dict_in_generate": True}
    ours, theirs = (model.generate(ids_of(12), **ENDLESS | options) for model in (recorded, plain))
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    assert len(on_cpu) >= 9
    for a, b in zip(ours.logits, theirs.logits, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("version", VERSIONS)
@torch.inference_mode()
def test_no_state_is_overwritten(version, on_cpu):
    """All states of a text are kept, and the text is continued from each of them, in any order, with another token."""
    plain, recorded = pair(version)
    ids = ids_of(9)
    state = recorded(ids[:, :3], use_cache=True).state
    states, copies, logits = [], [], []
    for i in range(3, 9):
        states.append(state)
        copies.append([part.clone() for part in state])
        output = recorded(ids[:, i : i + 1], state=state)
        state = output.state
        logits.append(output.logits)
    assert torch.equal(torch.cat(logits, dim=1), read_in_steps(plain, ids, 3))
    for i in (2, 0, 5, 3):
        assert all(map(torch.equal, states[i], copies[i]))
        other, expected = (model(ids_of(1, seed=i), state=states[i]) for model in (recorded, plain))
        assert torch.equal(other.logits, expected.logits)
        assert all(map(torch.equal, other.state, expected.state))
        assert all(map(torch.equal, states[i], copies[i]))
    assert len(on_cpu) == 6 + 4


@pytest.mark.parametrize("version", [*VERSIONS, "5.2 with time_state"])
@pytest.mark.parametrize("length", [1, 7, 16, 23, 64, 100])
def test_prompts_in_pieces(version, length, on_cpu, said):
    """Padded rows, from nothing or from a state: logits and state as without, to the rounding of another split."""
    version, *more = version.split()
    plain, recorded = pair(version, prompt_pieces=(16, 64), **dict.fromkeys(more and ["has_time_state"], True))
    ids = ids_of(length, rows=2)
    mask = torch.ones_like(ids)
    mask[1, : length // 3] = 0
    state = None
    with torch.no_grad():
        for _ in range(2):  # the second time from the state of the first
            words = {"attention_mask": mask, "use_cache": True, "logits_to_keep": 1}
            expected, ours = (model(ids, state=state, **words) for model in (plain, recorded))
            torch.testing.assert_close(ours.logits, expected.logits, atol=1e-4, rtol=1e-4)
            for part, wanted in zip(ours.state, expected.state, strict=True):
                torch.testing.assert_close(part, wanted, atol=1e-4, rtol=1e-4)
            state = expected.state
    assert len(on_cpu) >= 1 + (length > 1)
    assert not said or length == 1


def test_which_piece_comes_next():
    sizes = (16, 64, 256)
    assert [rwkv_decoding.next_piece(left, sizes) for left in (1, 16, 17, 33, 64, 100, 129, 1000)] == [
        16, 16, 16, 64, 64, 64, 256, 256,
    ]  # fmt: skip


def test_prompts_of_generate_in_pieces(on_cpu, said):
    plain, recorded = pair("5.2", prompt_pieces=(16, 64))
    ids = ids_of(40, rows=2)
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    words = ENDLESS | {"attention_mask": mask}
    assert torch.equal(plain.generate(ids, **words), recorded.generate(ids, **words))
    assert len(on_cpu) == 1 + 9  # the prompt as one piece of 64, and every step but the last token's
    assert not said


def read_in_steps(model, ids, prompt):
    """Return the logits of all tokens after the prompt, read one by one."""
    state = model(ids[:, :prompt], use_cache=True).state
    logits = []
    for i in range(prompt, ids.shape[1]):
        output = model(ids[:, i : i + 1], state=state, use_cache=True)
        state = output.state
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("version", VERSIONS)
def test_texts_written_in_turn(version, on_cpu):
    """Two streams, one token of each at a time, as two chats."""
    plain, recorded = pair(version)
    settings, prompts = Sampling(max_new_tokens=8, temperature=0.8), (ids_of(5)[0].tolist(), ids_of(9)[0].tolist())
    in_turn = list(zip(*(stream(recorded, ids, settings) for ids in prompts), strict=False))
    for number, ids in enumerate(prompts):
        alone = [token for token, _ in stream(plain, ids, settings)]
        assert [tokens[number][0] for tokens in in_turn] == alone[: len(in_turn)]
    assert len(on_cpu) >= 7


@torch.inference_mode()
def test_a_state_of_another_dtype_is_taken_as_the_model_takes_it(on_cpu):
    plain, recorded = pair("5.2", dtype=torch.bfloat16)
    state = tuple(part.double() for part in plain(ids_of(9), use_cache=True).state)
    ours, theirs = (model(ids_of(1), state=state) for model in (recorded, plain))
    assert torch.equal(ours.logits, theirs.logits)
    assert [part.dtype for part in ours.state] == [part.dtype for part in theirs.state]
    assert on_cpu == [1]


def begun(model, rows=1):
    """Return a token and a state for one more step."""
    with torch.no_grad():
        return ids_of(1, rows), model(ids_of(5, rows), use_cache=True).state


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (3, {}, "this batch has 3 rows, and batch_sizes has 1, 2"),
        (1, {"attention_mask": torch.ones(1, 1)}, "this call has attention_mask"),
        (1, {"output_hidden_states": True}, "this call has hidden states"),
        (1, {"labels": torch.ones(1, 1, dtype=torch.int64)}, "this call has labels"),
        (1, {"position_ids": torch.zeros(1, 1, dtype=torch.int64)}, "this call has position_ids"),
        (1, {"use_cache": False}, "this call has use_cache=False"),
        (1, {"logits_to_keep": torch.tensor([0])}, "this call has positions in logits_to_keep"),
    ],
)
@torch.inference_mode()
def test_calls_that_were_not_recorded(rows, options, words, on_cpu, said):
    """The model answers, and says why once; the recorded step stays for other calls."""
    plain, recorded = pair("5.2")
    ids, state = begun(plain, rows)
    for _ in range(2):
        ours, theirs = (model(ids, state=state, **options) for model in (recorded, plain))
        assert torch.equal(ours.logits, theirs.logits)
    assert said == [f"Decoding goes on without compile_decoding: {words}."]
    assert not on_cpu
    recorded(*begun(plain)[:1], state=begun(plain)[1])
    assert on_cpu == [1]


def test_gradients_modes_and_autocast(on_cpu, said):
    plain, recorded = pair("5.2")
    ids, state = begun(plain)
    recorded(ids, state=state).logits.sum().backward()
    assert recorded.head.weight.grad.abs().sum() > 0
    assert "gradients are recorded, which torch.no_grad() prevents" in said[-1]
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = (model(ids, state=state).logits for model in (recorded, plain))
        assert torch.equal(ours, theirs)
        assert "autocast is on" in said[-1]
        recorded.train()(ids, state=state)
        assert "the model is in training mode" in said[-1]
        assert not on_cpu
        recorded.eval()(ids, state=state)
    assert on_cpu == [1]


def adapt(model):
    model.rwkv.blocks[1].attention.key = torch.nn.Sequential(model.rwkv.blocks[1].attention.key)


def replace(model):
    model.head.weight = torch.nn.Parameter(model.head.weight + 0.1)


def swap_data(model):
    model.head.weight.data = model.head.weight.data + 0.1


def change_in_place(model):
    with torch.no_grad():
        model.rwkv.blocks[0].attention.time_decay += 0.1


def hook(model):
    model.rwkv.blocks[0].feed_forward.register_forward_hook(lambda module, args, output: (output[0] * 2, output[1]))


def override_forward(model):
    module = model.rwkv.blocks[0].ln1
    module.forward = lambda x: type(module).forward(module, x) * 2


def switch_attribute(model):
    model.rwkv.blocks[0].attention.ln_x.eps = 1.0


def replace_head(model):
    model.set_output_embeddings(torch.nn.Linear(64, 300, bias=False))


@pytest.mark.parametrize(
    "change",
    [adapt, replace, swap_data, change_in_place, hook, override_forward, switch_attribute, replace_head],
)
def test_a_changed_model(change, on_cpu, said):
    """The recorded step is given up at the first step after any change, and one sentence says so."""
    plain, recorded = pair("5.2")
    ids, state = begun(plain)
    torch.manual_seed(0)
    change(plain)
    torch.manual_seed(0)
    change(recorded)
    with torch.inference_mode():
        expected = plain(ids, state=state).logits
        for _ in range(2):
            assert torch.equal(recorded(ids, state=state).logits, expected)
    assert said == ["Decoding goes on without compile_decoding: the model has changed since; call it again."]
    assert len(on_cpu) == 1  # whose result was thrown away
    if change not in (hook, override_forward):
        recorded.compile_decoding(fuse=False)
        with torch.inference_mode():
            assert torch.equal(recorded(ids, state=state).logits, expected)
        assert len(on_cpu) == 2


def test_another_dtype(on_cpu, said):
    _, recorded = pair("4")
    recorded.to(torch.bfloat16)
    assert said == ["The model moves or gets another dtype: call compile_decoding again."]
    recorded.generate(ids_of(5), **ENDLESS)
    assert not on_cpu


def test_adapters_of_peft(on_cpu, said):
    """An adapter can be recorded; switching it off, or adding one, gives up what was recorded."""
    peft = pytest.importorskip("peft")
    plain, recorded = pair("5.2")
    ids, state = begun(plain)
    config = peft.LoraConfig(target_modules=["key"], init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(recorded, config).eval()
    with torch.inference_mode():
        expected = adapted(ids, past_key_values=state).logits
        assert "the model has changed" in said[-1]
        recorded.compile_decoding(fuse=False)
        assert torch.equal(adapted(ids, past_key_values=state).logits, expected)
        assert len(on_cpu) == 2
        with adapted.disable_adapter():
            assert torch.equal(adapted(ids, past_key_values=state).logits, plain(ids, state=state).logits)
        assert torch.equal(adapted(ids, past_key_values=state).logits, expected)


def test_copies_have_nothing_recorded(on_cpu, tmp_path):
    _, recorded = pair("5.2")
    expected = recorded.generate(ids_of(5), **ENDLESS).tolist()
    for other in (copy.deepcopy(recorded), pickle.loads(pickle.dumps(recorded))):
        assert other._decoding is None
        assert other.generate(ids_of(5), **ENDLESS).tolist() == expected
    recorded.save_pretrained(tmp_path)
    assert (tmp_path / "rwkv_decoding.py").is_file()


@pytest.mark.parametrize("version", VERSIONS)
def test_joined_kernels(version, on_cpu, said):
    """torch.compile takes the whole step, without a break, and rounds a little differently: 1e-5 of logits near 1."""
    torch._dynamo.reset()  # it counts what was compiled for the versions before
    layers = 2 if version == "7" else 1  # its second reads what the first hands on; each takes time to compile
    plain, recorded = tiny_model(version, layers), tiny_model(version, layers)
    recorded.compile_decoding([2])
    assert not said
    ids = ids_of(9, rows=2)
    with torch.inference_mode():
        torch.testing.assert_close(read_in_steps(recorded, ids, 3), read_in_steps(plain, ids, 3), atol=1e-5, rtol=1e-5)
    assert len(on_cpu) == 6


def test_without_a_compiler(on_cpu, said, monkeypatch):
    def no_compiler(*args, **kwargs):
        raise RuntimeError("no C++ compiler was found\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: no_compiler)
    plain, recorded = tiny_model("5.2"), tiny_model("5.2")
    recorded.compile_decoding()
    sentence = "Decoding is recorded without torch.compile, which does not work here: no C++ compiler was found."
    assert said == [sentence]
    assert recorded.generate(ids_of(5), **ENDLESS).tolist() == plain.generate(ids_of(5), **ENDLESS).tolist()
    assert len(on_cpu) == 9


def test_what_cannot_be_recorded(said, monkeypatch):
    model = tiny_model("5.2")
    model.compile_decoding()
    assert said == ["Decoding is not compiled: a CUDA graph needs an NVIDIA GPU, and this model is on cpu."]
    monkeypatch.setattr(rwkv_decoding, "DEVICE_TYPE", "cpu")
    model.train().compile_decoding()
    assert "training mode; call eval() first" in said[-1]
    hook(model.eval())
    model.compile_decoding()
    assert "hooks run inside this model" in said[-1]
    for sizes in ((), (1, 0)):
        with pytest.raises(ValueError, match="give numbers of rows from 1 on"):
            model.compile_decoding(sizes)
    assert model._decoding is None


def test_a_recording_that_fails(said, monkeypatch):
    def out_of_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(rwkv_decoding, "DEVICE_TYPE", "cpu")
    monkeypatch.setattr(rwkv_decoding, "record", out_of_memory)
    model = tiny_model("5.2")
    model.compile_decoding()
    assert said == ["Decoding is not compiled: CUDA out of memory. Tried to allocate 2 GiB."]


def test_under_torch_compile(on_cpu, said):
    """A model that is compiled as a whole is traced as it is."""
    plain, recorded = pair("5.2")
    ids, state = begun(plain)
    compiled = torch.compile(recorded, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(ids, state=state).logits, plain(ids, state=state).logits)
    assert not on_cpu


# on a GPU


@pytest.fixture
def exact_fp32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.cuda
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_graphs_write_the_same(version, dtype, options, said, exact_fp32):
    """Without a compiler the kernels are the same, so every token is."""
    plain, recorded = (to_dtype(tiny_model(version, layers=7), dtype).cuda() for _ in range(2))
    recorded.compile_decoding([1, 2], fuse=False)
    texts = []
    for model in (recorded, plain):
        set_seed(0)
        texts.append(model.generate(ids_of(12).cuda(), **ENDLESS | options).tolist())
    assert texts[0] == texts[1]
    assert not said


@pytest.mark.cuda
@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_prompts_write_the_same(version, said, exact_fp32):
    """In fp32, where another split of a prompt changes a logit by a few roundings only."""
    plain, recorded = tiny_model(version, layers=7).cuda(), tiny_model(version, layers=7).cuda()
    recorded.compile_decoding([2], fuse=False, prompt_pieces=(16, 64))
    ids = ids_of(100, rows=2).cuda()
    mask = torch.ones_like(ids)
    mask[0, :30] = 0
    texts = [model.generate(ids, attention_mask=mask, **ENDLESS).tolist() for model in (recorded, plain)]
    assert texts[0] == texts[1]
    assert not said


@pytest.mark.cuda
@pytest.mark.parametrize("version", VERSIONS)
@torch.inference_mode()
def test_graphs_overwrite_no_state(version, said, exact_fp32):
    """Every state of two texts in turn, on two streams, still gives the logits that it gave."""
    plain, recorded = tiny_model(version).cuda(), tiny_model(version).cuda()
    recorded.compile_decoding([1], fuse=False)
    texts = [ids_of(9, seed=seed).cuda() for seed in (0, 1)]
    states = [[recorded(ids[:, :3], use_cache=True).state] for ids in texts]
    streams = [torch.cuda.current_stream(), torch.cuda.Stream()]
    streams[1].wait_stream(streams[0])
    for i in range(3, 8):
        for ids, kept, on in zip(texts, states, streams, strict=True):
            with torch.cuda.stream(on):
                kept.append(recorded(ids[:, i : i + 1], state=kept[-1]).state)
    torch.cuda.synchronize()
    for ids, kept in zip(texts, states, strict=True):
        for i, state in enumerate(kept, start=3):
            step = ids[:, i : i + 1]
            assert torch.equal(recorded(step, state=state).logits, plain(step, state=state).logits)
        assert torch.equal(read_in_steps(recorded, ids, 3), read_in_steps(plain, ids, 3))
    assert not said


@pytest.mark.cuda
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("dtype", "rows"), [(torch.float32, 1), (torch.bfloat16, 1), (torch.float16, 2)])
@torch.inference_mode()
def test_joined_kernels_on_a_gpu(version, dtype, rows, said, exact_fp32):
    """A few roundings of the dtype, of 24, 8 and 11 bits, in logits of size 1 to 10."""
    plain, recorded = (to_dtype(tiny_model(version, layers=7), dtype).cuda() for _ in range(2))
    recorded.compile_decoding([rows])
    ids = ids_of(20, rows=rows).cuda()
    ours, theirs = read_in_steps(recorded, ids, 3).float(), read_in_steps(plain, ids, 3).float()
    off = (ours - theirs).abs().mean() / theirs.abs().mean()
    assert off < {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.004}[dtype]
    assert not said


@pytest.mark.cuda
@pytest.mark.parametrize("version", VERSIONS)
def test_joined_prompts_on_a_gpu(version, said, exact_fp32):
    """torch.compile takes the kernels for reading, too."""
    plain, recorded = tiny_model(version).cuda(), tiny_model(version).cuda()
    recorded.compile_decoding([2], prompt_pieces=(64,))
    ids = ids_of(100, rows=2).cuda()
    mask = torch.ones_like(ids)
    mask[0, :30] = 0
    words = {"attention_mask": mask, "use_cache": True, "logits_to_keep": 1}
    with torch.no_grad():
        expected, ours = (model(ids, **words) for model in (plain, recorded))
    torch.testing.assert_close(ours.logits, expected.logits, atol=1e-4, rtol=1e-4)
    for part, wanted in zip(ours.state, expected.state, strict=True):
        torch.testing.assert_close(part, wanted, atol=1e-4, rtol=1e-4)
    assert not said


@pytest.mark.cuda
def test_a_changed_model_on_a_gpu(said, exact_fp32):
    """A graph reads the memory where the weights were; it is kept until the change is seen, so nothing else is read."""
    plain, recorded = tiny_model("5.2").cuda(), tiny_model("5.2").cuda()
    recorded.compile_decoding(fuse=False)
    ids, state = ids_of(1).cuda(), plain(ids_of(5).cuda(), use_cache=True).state
    replace(plain)
    replace(recorded)
    torch.cuda.empty_cache()
    with torch.inference_mode():
        assert torch.equal(recorded(ids, state=state).logits, plain(ids, state=state).logits)
    assert "the model has changed" in said[-1]


@pytest.mark.cuda
def test_memory_is_given_back():
    """Recording, and forgetting it: no memory is left behind."""
    model = tiny_model("5.2").cuda()
    used = []
    for _ in range(3):
        model.compile_decoding([1, 8], fuse=False)
        model.to(torch.float32)
        torch.cuda.empty_cache()
        used.append(torch.cuda.memory_reserved())
    assert used[2] <= used[1]
