"""The forms of prompts: as the original project writes them, and as the chat template does."""

import pytest

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


@pytest.mark.parametrize("content", ["Hello", "  two\n\n\nparts\r\n\r\nhere ", "def f():\n    return 1", "你\n\n好"])
def test_a_chat_is_what_the_chat_template_writes(tiny_rwkv5, content):
    _, tokenizer = tiny_rwkv5
    messages = [*GREETING, {"role": "user", "content": content}]
    template = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat_prompt(messages) == template
