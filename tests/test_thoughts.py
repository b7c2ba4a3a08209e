"""A thought, an answer and a function call are told apart, however the text was cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.generation.answers import Answer
from helpers.generation.prompts import NEXT_USER
from helpers.generation.thoughts import Call, Opening, Part, Splitter, call_of, opening_of

THINKS = opening_of("User: x\n\nAssistant: <think")
FAKE = opening_of("User: x\n\nAssistant: <think>\n</think")
TOOLS = opening_of("Return only a JSON function call.\n\nUser: x\n\nAssistant:", ["f"])
BEGUN = opening_of("User: x\n\nAssistant: ```json", ["f"])
CALL = '{"name":"f","arguments":{"x":[1,"你"]}}'
CALLED = Call("f", '{"x": [1, "你"]}')


def split(opening: Opening, *pieces: str) -> Part:
    splitter, whole = Splitter(opening), Part()
    for piece in pieces:
        whole += splitter.feed(piece)
    return whole + splitter.end()


def test_how_a_prompt_begins_the_answer():
    assert Opening(thinking=True, in_tag=True) == THINKS
    assert Opening(thinking=False, in_tag=True) == FAKE
    assert opening_of("Assistant: <think>\n") == Opening(thinking=True), "as templates of others have it"
    assert opening_of("Assistant: <think></think>\n") == Opening(thinking=False)
    assert opening_of("Assistant:") == opening_of("Assistant: ```json") == Opening()
    assert Opening(call="```json", names=frozenset("f")) == BEGUN
    assert [each.of_g1 for each in (Opening(), THINKS, FAKE, TOOLS, BEGUN)] == [False, True, True, True, True]
    assert [each.bare for each in (Opening(), THINKS, FAKE, TOOLS, BEGUN)] == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("opening", "text", "part"),
    [
        (Opening(), " Hi.\n</think> ", Part(text=" Hi.\n</think> ")),
        (THINKS, ">\nHm.\n\nSo.\n</think>\n\nYes.\n\nNo. ", Part("Hm.\n\nSo.", "Yes.\n\nNo. ")),
        (THINKS, ">Hm</think>Yes", Part("Hm", "Yes")),
        (THINKS, "></think>Yes</think>", Part("", "Yes</think>")),
        (THINKS, ">\nHm, a < b </thin", Part("Hm, a < b </thin")),
        (THINKS, ">Hm, </think> is a tag", Part("Hm,", "is a tag")),
        (THINKS, "ing>", Part("ing>")),
        (THINKS, "", Part()),
        (FAKE, ">\nYes.\n", Part(text="Yes.\n")),
        (FAKE, " Yes</think>", Part(text="Yes</think>")),
        (TOOLS, f" ```json\n{CALL}\n```", Part(call=CALLED)),
        (TOOLS, f"\n{CALL}", Part(call=CALLED)),
        (TOOLS, f"Look: {CALL}", Part(text=f"Look: {CALL}")),
        (TOOLS, " ``nothing", Part(text=" ``nothing")),
        (TOOLS, f"```python\n{CALL}\n```", Part(text=f"```python\n{CALL}\n```")),
        (BEGUN, f"\n{CALL}\n```", Part(call=CALLED)),
        (BEGUN, f"\n{CALL}", Part(call=CALLED)),
        (BEGUN, '\n{"name"', Part(text='```json\n{"name"')),
        (Opening(True, True, "", frozenset("f")), f">\nHm\n</think>\n```json\n{CALL}\n```", Part("Hm", "", CALLED)),
        (Opening(True, True, "", frozenset("f")), f">\n{CALL}", Part(CALL)),
    ],
)
def test_thought_text_and_call(opening, text, part):
    assert split(opening, text) == part
    assert split(opening, *text) == part
    assert split(opening, *(text[i : i + 3] for i in range(0, len(text), 3))) == part


BITS = st.sampled_from(
    [">", "<", "</think>", "</", "think", " ", "\n", "\n\n", "a", "你", "`", "```json\n", "{", CALL, "}"]
)


@settings(max_examples=250, deadline=None)
@given(st.data(), st.sampled_from([Opening(), THINKS, FAKE, TOOLS, BEGUN, Opening(True, True, "", frozenset("f"))]))
def test_how_a_text_is_cut_changes_nothing(data, opening):
    text = "".join(data.draw(st.lists(BITS, max_size=12)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = split(opening, text)
    assert split(opening, *pieces) == whole
    if opening.thinking:
        thought, _, rest = text.removeprefix(">").partition("</think>")
        assert whole.thought == thought.strip()
        assert whole.call or whole.text == rest.lstrip()


@pytest.mark.parametrize(
    "text",
    ["", "f", "{}", "[]", "null", "5", '{"name":"f"}', '{"name":"g","arguments":{}}', '{"name":["f"],"arguments":{}}',
     '{"name":"f","arguments":"{}"}', '{"name":"f","arguments":{},"id":1}', '{"name":"f","arguments":{"x":NaN}}',
     '{"name":"f","arguments":{"x":1e999}}', '{"name":"f","arguments":{"x":1,"x":2}}', f"{CALL} {CALL}", f"{CALL},",
     '{"name":"f","arguments":{"x":"\\ud83d"}}', "{" * 100_000, '{"name":"f","arguments":' + "[" * 10_000,
     f'{{"name":"f","arguments":{{"x":{"9" * 9999}}}}}', f"`{CALL}`", "``` ```"],
)  # fmt: skip
def test_what_is_no_call(text):
    assert call_of(text, {"f"}) is None
    assert call_of(f"```json\n{text}\n```", {"f"}) is None


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.integers() | st.text(max_size=5), max_size=3)
)
def test_arguments_are_given_back_as_they_were_written(arguments):
    text = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    for spaced in (text, f" \n{text} ", f"```json\n{text}\n```", f"```\n{text}```"):
        found = call_of(spaced, {"f"})
        assert found is not None
        assert json.loads(found.arguments) == arguments


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_users_next_turn_never_shows_however_tokens_cut_it(data):
    """Nor does a beginning of it, unless it stays one."""
    bits = st.lists(st.sampled_from(["\n", "User", ":", " ", "a", "Us", "\n\n", "好"]), max_size=8).map("".join)
    before, after = data.draw(bits), data.draw(bits)
    spelled = f"{before}{NEXT_USER}{after}".encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(spelled)), max_size=10)))
    answer, shown = Answer(0, [NEXT_USER]), ""
    expected = spelled.decode().split(NEXT_USER)[0]
    for a, b in zip([0, *cuts], [*cuts, len(spelled)], strict=True):
        shown += answer.add(spelled[a:b], None).text
        assert expected.startswith(shown)
        if answer.ended:
            break
    assert (answer.ended, shown) == (True, expected)
