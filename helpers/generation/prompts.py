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
NEXT_USER = "\n\nUser:"  # where one of an RWKV-7 G1 model ends, whose answers may have blank lines
ENDS = {"blank-line": END_OF_TURN, "user": NEXT_USER}
NAMES = {
    "system": "System",
    "developer": "System",
    "user": "User",
    "tool": "User",
    "assistant": "Assistant",
}  # of roles
EFFORTS = {"none": "", "minimal": "", "low": " (think a bit)", "medium": " (think)", "high": " (think a lot)"}
THOUGHT_OF = {None: "", True: " <think", False: " <think>\n</think"}  # how an answer begins if a prompt asks for that


def end_of_answer(end: str, of_g1: bool) -> str:
    """Return before which string an answer in a chat ends.

    Args:
        end: one of ``ENDS``, or ``auto``, which leaves it to ``of_g1``.
        of_g1: whether the prompt has what only G1 models know, thinking or tools.

    Raises:
        InputError: there is no such end.
    """
    if end not in ("auto", *ENDS):
        raise InputError(f"There is no end {end}; choose one of auto, {', '.join(ENDS)}.")
    usual = "user" if of_g1 else "blank-line"
    return ENDS[usual if end == "auto" else end]


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


def chat_prompt(messages: Iterable[Mapping[str, Any]], thinking: bool | None = None, effort: str | None = None) -> str:
    """Return ``User: ... Assistant: ...`` up to the ``Assistant:`` that the model continues.

    The same as ``tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)`` with
    ``enable_thinking`` and ``reasoning_effort``; functions are known to the template alone. Its text says more:
    ``helpers/tokenizer/chat_template.py``.

    Args:
        messages: each with a ``role`` and a ``content``, a text or a list of parts ``{"type": "text", "text": ...}``; a
            ``reasoning_content`` is shown behind the last message of the user only.
        thinking: for RWKV-7 G1 models: True leaves ``<think`` open, False closes an empty thought.
        effort: one of ``EFFORTS``, how long to think.

    Raises:
        InputError: a message has another role, or a content that is not text, or thinking and effort contradict.
    """
    messages = list(messages)
    thinking = agreed(thinking, effort=effort)
    last_user = max((i for i, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    turns = [turn_of(message, thinking, shown=place > last_user) for place, message in enumerate(messages)]
    if suffix := EFFORTS[effort] if effort else "":
        if last_user < 0:
            raise InputError("An effort is told to the model in a message of the user, and there is none.")
        turns[last_user] += suffix
    return END_OF_TURN.join((*turns, "Assistant:")) + THOUGHT_OF[thinking]


def agreed(*flags: bool | None, effort: str | None = None) -> bool | None:
    """Return whether to think, as all say that say anything.

    Raises:
        InputError: they contradict each other, or there is no such effort.
    """
    if effort is not None and effort not in EFFORTS:
        raise InputError(f"There is no effort {effort}; choose one of {', '.join(EFFORTS)}.")
    asked = {flag for flag in (*flags, None if effort is None else bool(EFFORTS[effort])) if flag is not None}
    if len(asked) > 1:
        raise InputError("Thinking is asked for and ruled out, perhaps by its effort; say it once.")
    return asked.pop() if asked else None


def turn_of(message: Mapping[str, Any], thinking: bool | None = None, shown: bool = False) -> str:
    """Return a message as it stands in a chat, the blank line at its end left out; ``shown``: with its thought."""
    return f"{name_of_role(message)}: {said(message, thinking, shown)}"


def said(message: Mapping[str, Any], thinking: bool | None, shown: bool) -> str:
    """Return what stands behind the name of a role."""
    text = text_of_message(message)
    if message["role"] == "tool":
        return f"Function output:\n{without_blank_lines(text)}".rstrip("\n")
    if message["role"] != "assistant":
        return without_blank_lines(text)
    thought, begun = message.get("reasoning_content") or "", text.lstrip()
    if closed := begun.startswith("<think>") and "</think>" in begun:
        thought, text = begun.removeprefix("<think>").split("</think>", maxsplit=1)
    thought = "" if thinking is False else with_blank_lines(thought)
    shown = shown and (thought != "" or thinking is not None)
    answer = with_blank_lines(text) if shown or thinking is not None else without_blank_lines(text)
    if not shown or (begun.startswith("<think") and not closed):
        return answer
    return "\n".join(part for part in ("<think>", thought, "</think>", answer) if part)


def with_blank_lines(text: str) -> str:
    """Return what a G1 model said as one turn: a line that begins as a user's turn has no blank line before it."""
    *parts, last = text.strip().replace("\r\n", "\n").split("\nUser:")
    return "\nUser:".join((*(part.rstrip() for part in parts), last))


def name_of_role(message: Mapping[str, Any]) -> str:
    """Return how the World chat format names the role of a message."""
    if message.get("role") not in NAMES:
        raise InputError(
            f"The World chat format has the roles system, user, assistant and tool, not {message.get('role')}."
        )
    return NAMES[message["role"]]


def text_of_message(message: Mapping[str, Any]) -> str:
    """Return the content of a message as one text."""
    content = message.get("content")
    parts = content if isinstance(content, list | tuple) else [{"text": content}]
    texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"The World chat format has text only, not {str(content)[:40]}.")
    return "".join(texts)
