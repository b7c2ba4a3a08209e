"""The table of behaviours: our models do all of them, and each check notices a model that does not."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_models import VERSIONS

from helpers.proof import behaviour, behaviour_table
from helpers.proof.behaviour import BEHAVIOURS, Subject, make_subject, measure

NATIVE_FAILS = {
    "a model of one layer": "ZeroDivisionError",
    "batch == its rows, cached decode": "shape [3, 3, 256], not [3, 1, 256]",
    "left padding changes nothing": "off by",
    "right padding: state": "off by",
    "a state that is given stays as it is": "overwritten in place",
    "generate, padded batch": "other text in 3 of 3 rows",
    "generate, several samples": "off by",
    "generate, beam search": "ValueError",
    "save after a forward pass": "2 tensors changed",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("behaviour")


@pytest.mark.parametrize("version", VERSIONS)
def test_our_models_do_everything(version, work):
    wrong = {name: answer for name, answer in measure(make_subject(version, work)).items() if answer}
    assert wrong == {}


def test_what_the_native_class_does_instead(work):
    """If transformers repairs one of these, the notebook's prose and this list have to change."""
    wrong = {name: answer for name, answer in measure(make_subject("4", work, own_code=False)).items() if answer}
    assert wrong.keys() == NATIVE_FAILS.keys()
    for name, answer in NATIVE_FAILS.items():
        assert wrong[name].startswith(answer), name


@dataclass(frozen=True)
class Damaged(Subject):
    """A subject whose models are damaged after loading."""

    damage: Callable = None

    def load(self, folder=None, **options):
        model = super().load(folder, **options)
        self.damage(model)
        return model


def forget_state(model):
    forward = model.forward
    model.forward = lambda *args, state=None, past_key_values=None, **options: forward(*args, **options)


def cut_gradient(model):
    """As in a port that updates the state under no_grad: the gradient of time_decay is lost."""
    time_mix = model.rwkv.blocks[0].attention
    original = time_mix.log_decay_and_bonus
    time_mix.log_decay_and_bonus = lambda: (original()[0].detach(), original()[1])


def scale_one_weight(model):
    with torch.no_grad():
        model.rwkv.blocks[1].attention.output.weight.mul_(1.01)


def change_weights_in_forward(model):
    model.register_forward_hook(lambda *_: scale_one_weight(model))


def ignore_logits_to_keep(model):
    forward = model.forward
    model.forward = lambda *args, logits_to_keep=0, **options: forward(*args, **options)


def learn_everything(model):
    """Count the positions that are marked with -100, too."""
    forward = model.forward
    model.forward = lambda ids, labels=None, **options: forward(ids, labels=labels.clamp(min=0), **options)


def no_checkpointing(model):
    model.gradient_checkpointing_enable = lambda **_: None


def depend_on_the_batch(model):
    model.head.register_forward_hook(lambda _, __, output: output + output.mean(0))


def overflow_in_half(model):
    if model.dtype == torch.float16:
        model.head.register_forward_hook(lambda _, __, output: output * 60000)


def look_at_numbers(model):
    """A branch that depends on numbers cannot be traced."""
    model.head.register_forward_hook(lambda _, __, output: output if output.sum() < 1e30 else output * 2)


DAMAGES = {
    "prefill equals the rwkv package": scale_one_weight,
    "decode equals the rwkv package": scale_one_weight,
    "batch == its rows, prefill": depend_on_the_batch,
    "a text can be split anywhere": forget_state,
    "generate continues a given state": forget_state,
    "logits_to_keep": ignore_logits_to_keep,
    "save after a forward pass": change_weights_in_forward,
    "loss with labels": learn_everything,
    "gradients of every parameter": cut_gradient,
    "gradient checkpointing": no_checkpointing,
    "1,000 tokens in fp16": overflow_in_half,
    "torch.compile, one graph": look_at_numbers,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_noticed(name, work):
    subject = make_subject("5.0", work)
    damaged = Damaged(subject.checkpoint, subject.folder, subject.one_layer, damage=DAMAGES[name])
    assert measure(damaged, [name])[name] is not None


def test_the_table_has_a_row_for_each_behaviour():
    assert list(behaviour_table.READ) == list(BEHAVIOURS)
    column = dict.fromkeys(BEHAVIOURS)
    bad = column | {"logits_to_keep": "<off>"}
    html = behaviour_table.table_html({"5.0": column, "5.1": column, "5.2": column, "4": column, "4 native": bad})
    assert html.count("<tr>") == 2 + len(BEHAVIOURS)
    assert "✗ &lt;off&gt;" in html
    assert html.count("✓") == 5 * len(BEHAVIOURS) - 1 + sum(
        answer is None for pair in behaviour_table.READ.values() for answer in pair
    )


def test_an_exception_is_an_answer(monkeypatch, work):
    def fails(subject):
        raise KeyError("no such thing")

    monkeypatch.setitem(behaviour.BEHAVIOURS, "fails", fails)
    assert measure(make_subject("5.0", work), ["fails"]) == {"fails": "KeyError"}
