"""The forms of text that World models were taught to answer. In each, a blank line ends a part.

They are plain text, no special tokens. A prompt ends right after a colon: the space belongs to the next token (" Hi").
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError

GREETING = (  # a first exchange that sets the tone, as in BlinkDL's and the original project's demos
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": "Hi. I am your assistant and I will provide expert full response in full details. "
        "Please feel free to ask any question and I will always answer it.",
    },
)
END_OF_TURN = "\n\n"  # where an answer in a chat ends
NAMES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}  # of the roles


def without_blank_lines(text: str) -> str:
    """Return ``text`` with ``\\n`` as line end, and without blank lines: one would end the user's part early."""
    return "\n".join(line for line in text.strip().replace("\r\n", "\n").split("\n") if line)


def question_prompt(question: str) -> str:
    """Return ``Question: ... Answer:``, which every World model understands."""
    return f"Question: {without_blank_lines(question)}\n\nAnswer:"


def instruction_prompt(instruction: str, input: str = "") -> str:
    """Return ``Instruction: ... Input: ... Response:``; without an input, the instruction as a turn of a chat.

    Source: ``generate_prompt`` in run_hf_world_model_on_cpu.py of BBuf/RWKV-World-HF-Tokenizer, which takes out only
    every other blank line.
    """
    if without_blank_lines(input):
        parts = f"Instruction: {without_blank_lines(instruction)}", f"Input: {without_blank_lines(input)}"
        return "\n\n".join((*parts, "Response:"))
    return chat_prompt([*GREETING, {"role": "user", "content": instruction}])


def chat_prompt(messages: Iterable[Mapping[str, Any]]) -> str:
    """Return ``User: ... Assistant: ...`` up to the ``Assistant:`` that the model continues.

    The same as ``tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)``.

    Args:
        messages: each with a ``role`` and a ``content``, a text or a list of parts ``{"type": "text", "text": ...}``.

    Raises:
        InputError: a message has another role, or a content that is not text.
    """
    turns = (f"{name_of_role(message)}: {without_blank_lines(text_of_message(message))}" for message in messages)
    return END_OF_TURN.join((*turns, "Assistant:"))


def name_of_role(message: Mapping[str, Any]) -> str:
    """Return how the World chat format names the role of a message."""
    if message.get("role") not in NAMES:
        raise InputError(f"The World chat format has the roles system, user and assistant, not {message.get('role')}.")
    return NAMES[message["role"]]


def text_of_message(message: Mapping[str, Any]) -> str:
    """Return the content of a message as one text."""
    content = message.get("content")
    parts = content if isinstance(content, list | tuple) else [{"text": content}]
    texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"The World chat format has text only, not {str(content)[:40]}.")
    return "".join(texts)
