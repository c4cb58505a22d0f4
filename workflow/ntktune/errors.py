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
    allowed = list(allowed)
    if not difflib.get_close_matches(word, allowed, n=1):
        return ""
    # of equally near ones the first
    near = max(allowed, key=lambda name: difflib.SequenceMatcher(None, name, word).ratio())
    return f"did you mean {near!r}?"


def looked_for(path: str | os.PathLike) -> str:
    """Return " (…)", where a path was looked for: its first missing folder, the current one."""
    path = Path(path)
    absent = next((folder for folder in reversed(path.parents) if not folder.exists()), None)
    why = f"there is no folder {absent}" if absent else ""
    if not path.is_absolute():
        why = f"{why or 'looked'} in {Path.cwd()}"
    return f" ({why})" if why else ""


def not_there(path: str | os.PathLike, what_to_do: str) -> UserError:
    """Return the error for a missing file or folder."""
    return UserError(f"{path} does not exist{looked_for(path)}; {what_to_do}")


def check_names(path: str, found: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Raise UserError if a file lacks some of its columns or keys (``what`` they are)."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{path} lacks the {what} {', '.join(missing)}; it is of another kind or was made by "
            "another version: give the right file, or make it again"
        )
