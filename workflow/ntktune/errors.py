"""The exception for a mistake that a user can mend, and what other exceptions say."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """Something in the input is wrong; the message says what, where, and what to do."""


def one_line(error: BaseException) -> str:
    """Return what an exception says, white space collapsed, at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def close_match(word: str, allowed: Iterable[str]) -> str:
    """Return "did you mean …?" with the nearest of some words, "" if none is near."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def not_there(path: str | os.PathLike, what_to_do: str) -> UserError:
    """Return the error for a missing file or folder.

    It names the first folder of the path that is missing, and where a relative path was looked for.
    """
    path = Path(path)
    absent = next((folder for folder in reversed(path.parents) if not folder.exists()), None)
    why = f"there is no folder {absent}" if absent else ""
    if not path.is_absolute():
        why = f"{why or 'looked'} in {Path.cwd()}"
    return UserError(f"{path} does not exist{f' ({why})' if why else ''}; {what_to_do}")


def check_names(path: str, found: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Raise UserError if a file lacks some of its columns or keys (``what`` they are)."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{path} lacks the {what} {', '.join(missing)}; it is of another kind or was made by "
            "another version: give the right file, or make it again"
        )
