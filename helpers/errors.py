"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(Exception):
    """Bad input from a user: one sentence that says what is wrong, where, and what to do.

    The command line prints the message and exits with code 2; notebooks show it as an ordinary exception.
    """
