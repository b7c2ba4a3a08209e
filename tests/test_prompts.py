"""The forms of prompts: as the original project writes them, and as the chat template does."""

import pytest
from jinja2.exceptions import TemplateError

from helpers.errors import InputError
from helpers.generation.prompts import GREETING, chat_prompt, instruction_prompt, question_prompt, without_blank_lines


def test_question():
    assert question_prompt(" 你叫什么名字？\n") == "Question: 你叫什么名字？\n\nAnswer:"


def test_instruction_with_and_without_input():
    assert instruction_prompt("Translate", "Bonjour") == "Instruction: Translate\n\nInput: Bonjour\n\nResponse:"
    assert instruction_prompt("介绍一下大熊猫") == (
        "User: hi\n\nAssistant: Hi. I am your assistant and I will provide expert full response in full details. "
        "Please feel free to ask any question and I will always answer it.\n\nUser: 介绍一下大熊猫\n\nAssistant:"
    )
    assert instruction_prompt("a", " \r\n\r\n ") == instruction_prompt("a")


def test_no_part_can_hold_a_blank_line():
    text = "\n\na\r\n\r\n\r\nb\n\n\n\n  c\n"
    assert without_blank_lines(text) == "a\nb\n  c"
    assert question_prompt(text) == "Question: a\nb\n  c\n\nAnswer:"
    assert instruction_prompt(text, text) == "Instruction: a\nb\n  c\n\nInput: a\nb\n  c\n\nResponse:"
    assert instruction_prompt(text).endswith("\n\nUser: a\nb\n  c\n\nAssistant:")


CONTENTS = [
    "Hello",
    "  two\n\n\nparts\r\n\r\nhere ",
    "def f():\n    return 1",
    "你\n\n好",
    "",
    [{"type": "text", "text": " a\n\n"}, {"type": "text", "text": "\nb "}],
    [],
]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_a_chat_is_what_the_chat_template_writes(tiny_rwkv5, role, content):
    _, tokenizer = tiny_rwkv5
    messages = [*GREETING, {"role": role, "content": content}]
    template = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat_prompt(messages) == template


@pytest.mark.parametrize(
    "message",
    [
        {"role": "function", "content": "1"},
        {"role": "User", "content": "1"},
        {"role": "user", "content": None},
        {"role": "user"},
        {"role": "user", "content": ["a"]},
        {"role": "user", "content": [{"type": "image", "url": "x"}]},
        {"role": "user", "content": {"type": "text", "text": "a"}},
    ],
)
def test_what_is_no_chat_is_refused_by_both(tiny_rwkv5, message):
    _, tokenizer = tiny_rwkv5
    with pytest.raises(InputError, match="The World chat format has"):
        chat_prompt([message])
    with pytest.raises(TemplateError, match="The World chat format has"):
        tokenizer.apply_chat_template([message])
