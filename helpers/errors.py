"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

LONGEST_MESSAGE = 2000
LONGEST_NAME = 200


class InputError(Exception):
    """Bad input from a user: one sentence that says what is wrong, where, and what to do.

    The command line prints the message and exits with code 2; notebooks show it as an ordinary exception. Names from a
    file may be part of it, so whatever would act on a terminal, or begin a new line, is shown as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, LONGEST_MESSAGE))


def printable(text: str, longest: int = LONGEST_NAME) -> str:
    r"""Return ``text`` with what cannot be printed as escapes, such as ``\n`` and ``\x1b``, and its middle left out
    where it is longer than ``longest`` characters."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}...{text[-half:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
