"""What a G1 model writes, taken apart while it arrives: its thought, its answer, and a function call.

How the answer began stands at the end of the prompt (:class:`Opening`), so the parts are told from there on.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from ..inputs import each_once

CLOSED = "</think>"
FENCE = "```"


@dataclass(frozen=True)
class Opening:
    """How a prompt begins the answer.

    Args:
        thinking: True in an open thought, False behind an empty one; None: there is none.
        in_tag: the thought's tag lacks its last ``>``, which then is the first that the model writes.
        call: the answer's first characters, if the prompt begins a function call.
        names: of the functions that the model may call.
    """

    thinking: bool | None = None
    in_tag: bool = False
    call: str = ""
    names: frozenset[str] = frozenset()

    @property
    def of_g1(self) -> bool:
        """Say whether the prompt has what only G1 models know."""
        return self.thinking is not None or bool(self.names)

    @property
    def bare(self) -> bool:
        """Say whether the answer has not begun."""
        return self.thinking is None and not self.call


def opening_of(prompt: str, names: Collection[str] = ()) -> Opening:
    """Return how a prompt ends, whatever template wrote it; ``names``: of the functions that it offers."""
    end = prompt.rstrip()
    if tag := re.search("<(/?)think(>?)$", end):
        return Opening(thinking=not tag[1], in_tag=not tag[2], names=frozenset(names))
    call = f"{FENCE}json" if names and end.endswith(f"{FENCE}json") else ""
    return Opening(call=call, names=frozenset(names))


class Call(NamedTuple):
    """A function call."""

    name: str
    arguments: str  # an object of JSON


@dataclass(frozen=True)
class Part:
    """What has been added to an answer."""

    thought: str = ""
    text: str = ""
    call: Call | None = None

    def __add__(self, other: "Part") -> "Part":
        return Part(self.thought + other.thought, self.text + other.text, self.call or other.call)

    def __bool__(self) -> bool:
        return bool(self.thought or self.text or self.call)


class Splitter:
    """Takes an answer in pieces, and tells thought, text and call apart; how it is cut changes nothing.

    The thought ends at the first ``</think>``; blanks and line breaks around it belong to neither part. A function call
    is the whole of the text, perhaps in a fence of Markdown; what may become one is held back to the end.
    """

    def __init__(self, opening: Opening):
        self.opening, self.thinking = opening, opening.thinking is True
        self.in_tag, self.at_start = opening.in_tag, opening.thinking is not None
        self.held = opening.call
        self.plain = not opening.names  # the text is no call

    def feed(self, piece: str) -> Part:
        """Return what is certain after one more piece."""
        self.held += piece
        if self.in_tag and self.held:
            self.in_tag, self.held = False, self.held.removeprefix(">")
        thought = self._thought() if self.thinking else ""
        return Part(thought, "" if self.thinking else self._text())

    def end(self) -> Part:
        """Return the rest: no more comes."""
        held, self.held = self.held, ""
        if self.thinking:
            return Part(thought=held.rstrip())
        if not self.plain and (call := call_of(held, self.opening.names)):
            return Part(call=call)
        return Part(text=held)

    def _thought(self) -> str:
        """Take from what is held what belongs to the thought."""
        before, found, after = self.held.partition(CLOSED)
        if self.at_start:
            before = before.lstrip()
        if found:
            self.thinking, self.at_start, self.held = False, True, after
            return before.rstrip()
        begun = next(n for n in range(len(CLOSED) - 1, -1, -1) if before.endswith(CLOSED[:n]))
        cut = len(before[: len(before) - begun].rstrip())
        self.held = before[cut:]
        self.at_start = self.at_start and not before
        return before[:cut]

    def _text(self) -> str:
        """Take from what is held what belongs to the text."""
        if self.at_start:
            self.held = self.held.lstrip()
            self.at_start = not self.held
        begun = self.held.lstrip()
        self.plain = self.plain or not (begun.startswith(("{", FENCE)) or FENCE.startswith(begun))
        if not self.plain:
            return ""
        text, self.held = self.held, ""
        return text


def call_of(text: str, names: Collection[str]) -> Call | None:
    """Return the function call that a text is, or None: it is something else, or calls what there is not.

    A call is ``{"name": ..., "arguments": {...}}`` and nothing else, perhaps in a fence of Markdown, which may be open.
    """
    fenced = re.fullmatch(rf"{FENCE}(?:json)?\s*(\{{.*\}})\s*(?:{FENCE})?", text.strip(), flags=re.DOTALL)
    try:
        call = json.loads(fenced[1] if fenced else text, object_pairs_hook=each_once, parse_constant=int)
        if not isinstance(call, dict) or call.keys() != {"name", "arguments"}:
            return None
        arguments = json.dumps(call["arguments"], ensure_ascii=False, allow_nan=False)
        arguments.encode()  # fails if half a character was written as an escape
    except (ValueError, RecursionError):
        return None
    known = isinstance(call["name"], str) and call["name"] in names and isinstance(call["arguments"], dict)
    return Call(call["name"], arguments) if known else None
