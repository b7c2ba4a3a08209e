"""The World tokenizer as a plain ``tokenizer.json``: exact, fast, and without custom code.

The ``tokenizers`` library has no "greedy longest match" model, but it has a pre-tokenizer that splits text with a
regular expression. A regex made from the vocabulary's trie matches the longest token at every position; what remains
for the model is to look the pieces up. Four standard parts, all serialized in ``tokenizer.json``::

    text -> ByteLevel normalizer (bytes as visible characters) -> Split(regex) -> WordLevel look-up -> ids
    ids  -> tokens -> ByteLevel decoder -> text
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..errors import InputError
from ..hub_code.tokenization_rwkv_world import BYTE_TO_CHAR, END_OF_TEXT, build_trie
from ..paths import HUB_CODE
from .vocab import read_vocab, token_to_chars, vocab_to_json

TOKENIZER_CODE = "tokenization_rwkv_world.py"

# BlinkDL's chat format (ChatRWKV/API_DEMO_CHAT.py): a blank line ends a turn, so a turn must not contain one.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {%- if message['role'] not in ('system', 'user', 'assistant') -%}
    {{- raise_exception("The World chat format has the roles system, user and assistant, not " + message['role']) -}}
  {%- endif -%}
  {%- set content = message['content'].strip().replace('\\r\\n', '\\n').split('\\n') | select | join('\\n') -%}
  {{- message['role'].capitalize() + ':' -}}
  {%- if message['role'] == 'assistant' -%}
    {%- generation -%}{{- ' ' + content + '\\n\\n' -}}{%- endgeneration -%}
  {%- else -%}
    {{- ' ' + content + '\\n\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""


def trie_regex(words: Iterable[str], max_alternatives: int = 8) -> str:
    """Return a regex that matches, at any position, the longest of ``words`` found there.

    A node of the trie becomes ``(?:b...|c...)``, with ``?`` behind it if a word also ends before it. A regex engine
    tries to go on before it stops (greedy ``?``), and steps back if no word ends further on: exactly longest match.

    An engine tries alternatives one by one, so a node with more than ``max_alternatives`` is halved, again and again,
    behind look-aheads on the first character: ``(?=[a-m])(?:...)|...``. That pays off on code and rare characters.
    """
    return _node_regex(build_trie(words), max_alternatives)


def _node_regex(node: dict[str | None, Any], max_alternatives: int) -> str:
    """Return the regex of all continuations of a node of :func:`build_trie`."""
    branches: dict[str, list[str]] = {}  # continuation: the characters that lead to it
    for char, child in node.items():
        if char is not None:
            branches.setdefault(_node_regex(child, max_alternatives), []).append(char)
    if not branches:
        return ""
    regex = _alternatives(sorted((sorted(chars), rest) for rest, chars in branches.items()), max_alternatives)
    ends_here = None in node
    if len(branches) > 1 or ends_here:
        regex = f"(?:{regex})"
    return regex + "?" if ends_here else regex


def _alternatives(branches: list[tuple[list[str], str]], max_alternatives: int) -> str:
    """Join (first characters, rest) with ``|``, in halves behind look-aheads where there are many."""
    if len(branches) <= max_alternatives:
        return "|".join(_char_class(chars) + rest for chars, rest in branches)
    middle = len(branches) // 2
    left, right = branches[:middle], branches[middle:]
    first_chars = _char_class([char for chars, _ in left for char in chars])
    left_regex, right_regex = _alternatives(left, max_alternatives), _alternatives(right, max_alternatives)
    return f"(?={first_chars})(?:{left_regex})|{right_regex}"


def _char_class(chars: list[str]) -> str:
    """Return a regex for one of ``chars``."""
    if len(chars) == 1:
        return re.escape(chars[0])
    return "[" + "".join("\\" + char if char in "\\[]^-&" else char for char in sorted(chars)) + "]"


def build_fast_tokenizer(vocab: dict[int, bytes] | None = None) -> Tokenizer:
    """Return the fast tokenizer for ``{id: token}``, by default the World vocabulary.

    Raises:
        InputError: the vocabulary lacks a single byte, so that some texts could not be encoded.
    """
    words = {token_to_chars(token): index for index, token in (read_vocab() if vocab is None else vocab).items()}
    if missing := BYTE_TO_CHAR.values() - words.keys():
        raise InputError(f"The vocabulary lacks {len(missing)} of the 256 single bytes; add them as tokens.")
    # WordLevel demands an unknown token; it is never used, because every single byte is in the vocabulary.
    tokenizer = Tokenizer(models.WordLevel({END_OF_TEXT: 0, **words}, unk_token=END_OF_TEXT))
    tokenizer.normalizer = normalizers.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(trie_regex(words)), behavior="isolated")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


@cache
def _world_files() -> tuple[str, str]:
    """Return ``tokenizer.json`` and ``vocab.json`` of the World vocabulary, built once a process."""
    vocab = read_vocab()
    return build_fast_tokenizer(vocab).to_str(), vocab_to_json(vocab)


def tokenizer_config() -> dict[str, Any]:
    """Return ``tokenizer_config.json``: one file for both tokenizers.

    ``tokenizer_class`` is what ``AutoTokenizer`` loads by itself (the fast one; the name is known to transformers 4 and
    5), ``auto_map`` what it loads with ``trust_remote_code=True``. Without a ``tokenizer_class``, a directory whose
    config says ``rwkv`` would be given GPT-NeoX's tokenizer.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "auto_map": {"AutoTokenizer": [f"{Path(TOKENIZER_CODE).stem}.RwkvWorldTokenizer", None]},
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "added_tokens_decoder": {
            "0": {
                "content": END_OF_TEXT,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
        },
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        "split_special_tokens": False,
        "chat_template": CHAT_TEMPLATE,
    }


def save_tokenizers(out_dir: str | Path, vocab: dict[int, bytes] | None = None) -> Path:
    """Write the tokenizer part of a model directory: the fast tokenizer, the Python one, and their configuration.

    Args:
        out_dir: created if it is missing; files of the same names are replaced.
        vocab: ``{id: token}``; by default the World vocabulary, whose files are built once a process.
    """
    if vocab is None:
        tokenizer_json, vocab_json = _world_files()
    else:
        tokenizer_json, vocab_json = build_fast_tokenizer(vocab).to_str(), vocab_to_json(vocab)
    files = {
        "tokenizer.json": tokenizer_json,
        "tokenizer_config.json": json.dumps(tokenizer_config(), ensure_ascii=False, indent=2) + "\n",
        "vocab.json": vocab_json,
        TOKENIZER_CODE: (HUB_CODE / TOKENIZER_CODE).read_text(encoding="utf-8"),
    }
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out_dir / name).write_text(text, encoding="utf-8", newline="\n")
    return out_dir
