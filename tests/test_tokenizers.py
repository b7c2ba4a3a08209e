"""The four tokenizers: BlinkDL's (the truth), the trie, the Python one and the fast one for Hugging Face."""

import builtins
import copy
import json
import pickle
import random
import shutil
from functools import partial

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast, StopStringCriteria, TextIteratorStreamer, TextStreamer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from helpers.hub_code.tokenization_rwkv_world import END_OF_TEXT, RwkvWorldTokenizer, until_end_of_text
from helpers.tokenizer.check import find_mismatches, fuzz_texts, load_cases, reference_tokenizer
from helpers.tokenizer.fast import TOKENIZER_CODE, save_tokenizers
from helpers.tokenizer.stats import is_utf8
from helpers.tokenizer.trie import TrieTokenizer
from helpers.tokenizer.vocab import chars_to_token, read_vocab

VOCAB = read_vocab()
TRIE = TrieTokenizer(VOCAB)
END_OF_TEXT_AS_TEXT = [61, 125, 25258, 7588, 2318, 125, 63]  # < | endo fte xt | >

# The sentences of the original project (BBuf/RWKV-World-HF-Tokenizer, test_tokenizer.py), then some in their spirit.
SENTENCES = ["Hello", "S:2", "Made in China", "今天天气不错", "男：听说你们公司要派你去南方工作?", "Pré"]
SENTENCES += [
    "我想吃 apple 苹果。",
    "東京は晴れ、気温は25℃です。",
    "def f(x):\n    return x ** 2\n",
    "🧑‍🚀 to the 🌕!",
    "  edges \n\n",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_tokenizers(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def slow(directory):
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=True)


@pytest.fixture(scope="module")
def fast(directory):
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(params=["slow", "fast"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def reload(tokenizer, directory, **kwargs):
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=not tokenizer.is_fast, **kwargs)


# Equality with the reference


def test_known_ids(tokenizer):
    # 33155 is in the README of the original project; it guards against a reference that is wrong in the same way.
    assert tokenizer("Hello")["input_ids"] == [33155] == reference_tokenizer().encode("Hello")


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids == reference_tokenizer().encode(text) == TRIE.encode(text)
    assert tokenizer.decode(ids) == text


def test_hard_cases(slow, fast):
    cases = load_cases()
    assert len(cases) >= 300
    for encode in (partial(slow.encode, split_special_tokens=True), partial(fast.encode, split_special_tokens=True)):
        assert find_mismatches(reference_tokenizer().encode, encode, (case.text for case in cases)) == []
    for case in cases:
        assert case.ids in (None, reference_tokenizer().encode(case.text)), case.name


def test_random_texts(tokenizer):
    encode = partial(tokenizer.encode, split_special_tokens=True)
    assert find_mismatches(reference_tokenizer().encode, encode, fuzz_texts(4000, seed=2)) == []


def test_batches_give_the_same_ids(tokenizer):
    texts = list(fuzz_texts(500, seed=3))
    assert tokenizer(texts)["input_ids"] == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("char", ["a", " ", "\n", "=", "哈", "\U0001f9d1", "\u200d", "\x00"])
def test_100_kilobytes_of_one_character(tokenizer, char):
    text = char * (100_000 // len(char.encode()))
    assert tokenizer.encode(text) == reference_tokenizer().encode(text)


def test_every_token_round_trips(tokenizer):
    for index, token in VOCAB.items():
        shown = tokenizer.convert_ids_to_tokens(index)
        assert chars_to_token(shown) == token
        assert tokenizer.convert_tokens_to_ids(shown) == index
        assert tokenizer.decode([index]) == token.decode("utf-8", errors="replace")
    valid = {index: token.decode() for index, token in VOCAB.items() if is_utf8(token)}
    assert len(valid) == 65529 - 486
    encoded = tokenizer(list(valid.values()))["input_ids"]
    assert encoded == [[index] for index in valid]


def test_empty_text(tokenizer):
    assert tokenizer("")["input_ids"] == []
    assert tokenizer.decode([]) == ""


# The vocabulary and id 0


def test_sizes_and_special_tokens(slow, fast):
    assert slow.get_vocab() == fast.get_vocab()
    for tokenizer in (slow, fast):
        assert tokenizer.vocab_size == len(tokenizer) == 65530
        assert {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} == {0}
        assert tokenizer.unk_token is None
        assert tokenizer.convert_ids_to_tokens(0) == END_OF_TEXT
        assert tokenizer.convert_ids_to_tokens(65529) == "Ġ" * 128
        assert tokenizer.all_special_ids == [0]
        assert tokenizer.model_input_names == ["input_ids", "attention_mask"]


def test_literal_end_of_text_is_special_by_default_and_ordinary_on_request(tokenizer, directory, tmp_path):
    text = f"a{END_OF_TEXT}b"
    ordinary = [98, *END_OF_TEXT_AS_TEXT, 99]
    assert ordinary == reference_tokenizer().encode(text)
    assert tokenizer(text)["input_ids"] == [98, 0, 99]
    assert tokenizer(text, split_special_tokens=True)["input_ids"] == ordinary
    assert tokenizer(text)["input_ids"] == [98, 0, 99]  # the choice for one call does not stick
    strict = reload(tokenizer, directory, split_special_tokens=True)
    assert strict(text)["input_ids"] == ordinary
    strict.save_pretrained(tmp_path)
    assert reload(tokenizer, tmp_path)(text)["input_ids"] == ordinary
    assert tokenizer.decode([98, 0, 99]) == tokenizer.decode(ordinary) == text
    assert tokenizer.decode([98, 0, 99], skip_special_tokens=True) == "ab"


def test_spaces_around_the_special_token_stay(tokenizer):
    assert tokenizer(f" {END_OF_TEXT} \n")["input_ids"] == [33, 0, *reference_tokenizer().encode(" \n")]


def test_unused_rows_decode_to_nothing(tokenizer):
    assert tokenizer.decode([65530, 33155, 65535]) == "Hello"


def test_added_tokens(tokenizer):
    extended = copy.deepcopy(tokenizer)
    assert extended.add_tokens(["<tool>", "工具"]) == 2
    ids = extended("x<tool>工具 y")["input_ids"]
    assert ids == [121, 65530, 65531, 356]
    assert extended.decode(ids) == "x<tool>工具 y"
    assert len(tokenizer) == 65530


def test_vocabulary_without_all_bytes_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="lacks 255 of the 256 single bytes"):
        RwkvWorldTokenizer(str(tmp_path / "vocab.json"))


# Decoding


def test_decoding_arbitrary_ids_follows_python(slow, fast):
    rng = random.Random(4)
    for _ in range(2000):
        ids = [rng.choice([rng.randint(1, 256), rng.randint(1, 65529)]) for _ in range(rng.randint(1, 8))]
        expected = b"".join(VOCAB[index] for index in ids).decode("utf-8", errors="replace")
        assert slow.decode(ids) == fast.decode(ids) == expected


def test_each_broken_part_becomes_one_replacement_character(tokenizer):
    byte_ids = {token[0]: index for index, token in VOCAB.items() if len(token) == 1}

    def decode(data: bytes) -> str:
        return tokenizer.decode([byte_ids[byte] for byte in data])

    assert decode(b"\xe4\xbd\xa0") == "你"
    assert decode(b"a\xe4\xbd") == "a\ufffd"  # a tail of two bytes: one mark, not two
    assert decode(b"\xff\xfea") == "\ufffd\ufffda"
    assert reference_tokenizer().decode([98, byte_ids[0xE4]]) == "\ufffd"  # BlinkDL's loses the "a" too


def test_decoding_can_stop_at_the_end_of_the_text(slow):
    ids = [0, 0, 33155, 0, 98]
    assert slow.decode(ids, stop_at_end_of_text=True) == "Hello"
    assert slow.decode(ids) == END_OF_TEXT * 2 + "Hello" + END_OF_TEXT + "a"
    assert TRIE.decode(ids[2:]) == "Hello"


@pytest.mark.parametrize(
    ("ids", "expected"), [([], []), ([0], []), ([0, 0], []), ([5, 6], [5, 6]), ([0, 5, 0, 6], [5]), ([5, 0, 0], [5])]
)
def test_until_end_of_text(ids, expected):
    assert until_end_of_text(ids) == expected


def stream(tokenizer, streamer, text):
    streamer.put(tokenizer(text, return_tensors="pt")["input_ids"][:, :0])  # generate() first puts the prompt
    for index in tokenizer(text)["input_ids"]:
        streamer.put(tokenizer(text, return_tensors="pt")["input_ids"].new_tensor([index]))
    streamer.end()


STREAMED = "你好 👩‍👩‍👧 𠜎𠮷 Straße\nनमस्ते 🇨🇳 \U0001fae0"


def test_streaming_never_shows_half_a_character(tokenizer, capsys):
    assert any("\ufffd" in tokenizer.decode([index]) for index in tokenizer(STREAMED)["input_ids"])  # there are halves
    stream(tokenizer, TextStreamer(tokenizer), STREAMED)
    assert capsys.readouterr().out == STREAMED + "\n"
    streamer = TextIteratorStreamer(tokenizer)
    stream(tokenizer, streamer, STREAMED)
    pieces = list(streamer)
    assert "".join(pieces) == STREAMED
    assert len(pieces) > 3


def test_lone_surrogates_are_refused(slow, fast):
    with pytest.raises(ValueError, match=r"lone surrogate, '\\ud800', at position 1"):
        slow("a\ud800")
    with pytest.raises(TypeError):
        fast("a\ud800")
    repaired = "\ud83d\ude00\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert repaired == "😀\ufffd"  # what the message advises
    assert slow(repaired) == fast(repaired)


# Batches


def test_padding_and_truncation(slow, fast):
    texts = ["a", "a b c d e"]
    for options in (
        {"padding": True},
        {"padding": True, "padding_side": "right"},
        {"padding": "max_length", "max_length": 7},
        {"padding": True, "truncation": True, "max_length": 3},
        {"padding": True, "pad_to_multiple_of": 4},
    ):
        assert dict(slow(texts, **options)) == dict(fast(texts, **options)), options
    batch = fast(texts, padding=True)
    assert batch["input_ids"] == [[0, 0, 0, 0, 98], [98, 333, 334, 335, 336]]  # on the left, for generation
    assert batch["attention_mask"] == [[0, 0, 0, 0, 1], [1] * 5]
    right = fast(texts, padding=True, padding_side="right", truncation=True, max_length=3, return_tensors="pt")
    assert right["input_ids"].tolist() == [[98, 0, 0], [98, 333, 334]]
    assert fast("a", "b")["input_ids"] == slow("a", "b")["input_ids"] == [98, 99]


def test_offsets_point_at_characters(fast):
    for text in [*SENTENCES, *fuzz_texts(500, seed=5)]:
        encoding = fast(text, return_offsets_mapping=True, split_special_tokens=True)
        covered = 0
        for index, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            assert start <= covered <= end  # nothing skipped; a character cut in two is pointed at twice
            assert VOCAB[index] in text[start:end].encode()
            covered = end
        assert covered == len(text)


def test_pickling_and_copying(tokenizer):
    for clone in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert clone("hi 世界")["input_ids"] == [1922, 33, 10267, 14610]
        assert clone.get_vocab() == tokenizer.get_vocab()


# Files


def test_saving_twice_gives_the_same_files(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "one")
    again = reload(tokenizer, tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    texts = list(fuzz_texts(200, seed=6))
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_python_tokenizer_saves_the_vocabulary_it_was_given(slow, directory, tmp_path):
    slow.save_pretrained(tmp_path)
    assert (tmp_path / "vocab.json").read_bytes() == (directory / "vocab.json").read_bytes()
    assert (tmp_path / TOKENIZER_CODE).read_bytes() == (directory / TOKENIZER_CODE).read_bytes()


RWKV4 = {"model_type": "rwkv"}
RWKV5 = {"model_type": "rwkv5", "auto_map": {"AutoConfig": "configuration_rwkv5.Rwkv5Config"}}


@pytest.mark.parametrize(
    ("config", "trust"),
    [(None, None), (None, True), (RWKV4, None), (RWKV4, False), (RWKV4, True), (RWKV5, False), (RWKV5, True)],
)
def test_auto_tokenizer_picks_the_right_class_without_asking(directory, tmp_path, monkeypatch, config, trust):
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked whether to run custom code"))
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    options = {} if trust is None else {"trust_remote_code": trust}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, **options)
    assert type(tokenizer).__name__ == ("RwkvWorldTokenizer" if trust else "TokenizersBackend")
    assert tokenizer("今天天气不错")["input_ids"] == reference_tokenizer().encode("今天天气不错")


def test_rwkv5_directory_asks_about_the_model_unless_told(directory, tmp_path, monkeypatch):
    questions = []
    monkeypatch.setattr(builtins, "input", lambda question: questions.append(question) or "n")
    monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", {})  # where a server in this process registered the class
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps(RWKV5))
    assert AutoTokenizer.from_pretrained(tmp_path).is_fast  # transformers reads the model's config first, so it asks
    assert len(questions) == 1
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path)("Hello")["input_ids"] == [33155]  # never asks
    assert len(questions) == 1


def test_saving_over_a_saved_fast_tokenizer_completes_the_directory(fast, tmp_path):
    fast.save_pretrained(tmp_path)  # transformers keeps auto_map, but does not copy the file that it names
    with pytest.raises(OSError, match=TOKENIZER_CODE):
        AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    save_tokenizers(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)("Hello")["input_ids"] == [33155]


def test_another_vocabulary(tmp_path):
    vocab = {byte + 1: bytes([byte]) for byte in range(256)} | {257: b"ab", 258: b"abc", 259: b" a b"}
    save_tokenizers(tmp_path, vocab)
    expected = TrieTokenizer(vocab).encode("abcab a b a")
    assert expected == [258, 257, 259, 33, 98]
    for trust in (False, True):
        assert AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=trust)("abcab a b a")["input_ids"] == expected


def test_hub_code_stands_alone(directory):
    lines = (directory / TOKENIZER_CODE).read_text(encoding="utf-8").splitlines()
    imports = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imports == {"collections", "json", "os", "transformers"}


# Chat


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  def f():\r\n\r\n\n    return 1\n "},
    {"role": "assistant", "content": "好的。"},
    {"role": "user", "content": f"{END_OF_TEXT}bye"},
]


def test_chat_template(tokenizer):
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert text == (
        "System: Be brief.\n\nUser: def f():\n    return 1\n\nAssistant: 好的。\n\nUser: <|endoftext|>bye\n\nAssistant:"
    )
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    assert ids == tokenizer(text)["input_ids"]


def test_chat_prompt_is_a_prefix_of_the_conversation_in_tokens(tokenizer):
    prompt = tokenizer.apply_chat_template(MESSAGES[:2], add_generation_prompt=True)["input_ids"]
    assert tokenizer.apply_chat_template(MESSAGES[:3])["input_ids"][: len(prompt)] == prompt


def test_chat_can_keep_user_text_ordinary(tokenizer):
    assert 0 in tokenizer.apply_chat_template(MESSAGES)["input_ids"]
    safe = tokenizer.apply_chat_template(MESSAGES, tokenizer_kwargs={"split_special_tokens": True})["input_ids"]
    assert 0 not in safe
    assert 0 not in tokenizer.apply_chat_template(MESSAGES, sanitize_control_tokens=True)["input_ids"]


def test_chat_marks_what_the_assistant_said(fast):
    encoding = fast.apply_chat_template(MESSAGES[:3], return_assistant_tokens_mask=True, return_dict=True)
    said = [index for index, mask in zip(encoding["input_ids"], encoding["assistant_masks"], strict=True) if mask]
    assert fast.decode(said) == " 好的。\n\n"


def test_generation_can_stop_at_the_next_turn(tokenizer):
    criteria = StopStringCriteria(tokenizer, ["\n\nUser:"])
    for text, stops in (("Hi.\n\nUser:", True), ("Hi.\n\nUser", False), ("\n\nUser: hi", False)):
        assert criteria(tokenizer(text, return_tensors="pt")["input_ids"], None).tolist() == [stops]


def test_chat_refuses_other_roles(tokenizer):
    with pytest.raises(Exception, match="has the roles system, user and assistant, not tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "1"}])
