"""The exception for a mistake that a user can mend, and what other exceptions say."""


class UserError(Exception):
    """Something in the input is wrong; the message says what, where, and what to do.

    The command line prints it as one line without a traceback and exits with 1.
    """


def one_line(error: BaseException) -> str:
    """Return what an exception says, white space collapsed, at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
