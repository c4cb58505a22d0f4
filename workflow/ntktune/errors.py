"""The one exception that stands for a mistake a user can mend."""


class UserError(Exception):
    """Something in the input is wrong; the message says what, where, and what to do.

    The command line prints it as one line without a traceback and exits with 1.
    """
