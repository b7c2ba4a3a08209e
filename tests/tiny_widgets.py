"""The widgets of the series on tiny inputs: ``test_browser.py`` opens a notebook with one call of these in each cell.

A random model of two blocks does for all of them. It is converted into the folder in which the notebook runs.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import lambada
from helpers.checkpoints import load_checkpoint
from helpers.checkpoints.synthetic import write_random_checkpoint
from helpers.conversion import convert
from helpers.generation import Sampling
from helpers.generation.chat import Chat
from helpers.teaching import ChatWidget, DecayExplorer, StateExplorer, TokenizerExplorer, TrieWalk
from helpers.teaching.conversion_inspector import ConversionInspector
from helpers.teaching.lambada_browser import LambadaBrowser
from helpers.teaching.model_view import half_lives, watch_state
from helpers.tokenizer import TrieTokenizer, read_vocab

CHECKPOINT, FOLDER = Path("tiny.pth"), Path("tiny")
PASSAGES = ["The cat saw a dog and <b>ran</b> to the dog", "She gave him the key to the door", "He was a king"]


@cache
def converted():
    """Return the model and its tokenizer."""
    write_random_checkpoint(CHECKPOINT, "5.0", hidden_size=32, head_size=16, dtype=torch.float32)
    convert(CHECKPOINT, FOLDER, progress=False)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
    return model.eval(), AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)


def trie_walk():
    return TrieWalk(
        {"six tokens": [b"a", b"b", b"c", b"d", b"ab", b"abcd"], "World": read_vocab().values()}, text="abcab"
    )


def tokenizer_explorer():
    _, tokenizer = converted()
    encoders = {
        "trie": TrieTokenizer(read_vocab()).encode,
        "fast": lambda text: tokenizer.encode(text, split_special_tokens=True),
    }
    return TokenizerExplorer(tokenizer, encoders, text="Hello")


def decay_explorer():
    return DecayExplorer()


def state_explorer():
    model, tokenizer = converted()

    def read(text):
        ids = tokenizer(text, return_tensors="pt").input_ids[0]
        return [tokenizer.decode([index]) for index in ids], watch_state(model, ids)

    return StateExplorer(read, torch.stack(half_lives(model)).amax(-1), text="One <b>two</b>")


def conversion_inspector():
    converted()
    return ConversionInspector(load_checkpoint(CHECKPOINT), load_file(FOLDER / "model.safetensors"))


def lambada_browser():
    """The second side holds every token equally probable."""
    model, _ = converted()
    documents = lambada.encode_world(PASSAGES)
    results = lambada.collect(lambada.score_converted(model, documents), len(documents), show=False)

    def predict(ids):
        return model(torch.tensor([ids])).logits[0, -1]

    sides = {"model": predict, "uniform": lambda ids: 0 * predict(ids)}
    uniform = [lambada.Result(-11.0 * len(document.target), False) for document in documents]
    return LambadaBrowser(PASSAGES, documents, sides, {"model": results, "uniform": uniform}, read_vocab())


def chat():
    """A random model soon writes in circles if it does not draw, and so never ends: there is time to stop it."""
    return ChatWidget(Chat(*converted(), Sampling(temperature=0, max_new_tokens=20_000)))
