"""What the server says when it does not answer: a status, one sentence, and the form that OpenAI's API has for both."""

from typing import Any


class Refusal(Exception):
    """A request that is not answered.

    Args:
        message: one sentence: what is wrong, and what to do.
        field: of the request, which is wrong.
        code: the kind of error, for programs.
        status: of HTTP.
        headers: of HTTP, beside the usual ones.
    """

    def __init__(
        self,
        message: str,
        field: str | None = None,
        code: str | None = None,
        status: int = 400,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.message, self.field, self.code, self.status, self.headers = message, field, code, status, headers

    @property
    def content(self) -> dict[str, Any]:
        """Return the body of the response."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}}


FAILED = "The server failed; see its messages."


def failure(error: Exception) -> Refusal:
    """Return what a client hears of an error of the program: a sentence, and nothing of its inside."""
    return error if isinstance(error, Refusal) else Refusal(FAILED, status=500)


def shorten(text: Any, length: int = 60) -> str:
    """Return a text that a client sent on one line, without control characters, and not long."""
    line = "".join(character if character.isprintable() else "?" for character in str(text)[: length + 1])
    return line if len(line) <= length else line[:length] + "..."
