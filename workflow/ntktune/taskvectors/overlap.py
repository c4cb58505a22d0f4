"""Texts of one task's test rows that another task trained on."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np


def plain(text: str) -> str:
    """Return a text's letters, digits and marks in lower case, with one blank between words.

    Compatible characters count as one (NFKC); punctuation parts words.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded)
    return " ".join("".join(kept).split())


def joined(text_a: str, text_b: str | None, simplify: Callable[[str], str] = str) -> str:
    """Return a row's one or two texts as one, whichever of the two comes first."""
    return "\n".join(sorted(filter(None, (simplify(text_a), simplify(text_b or "")))))


def shared(tested: Sequence[str], trained: Iterable[str]) -> np.ndarray:
    """Return which test texts are among the training texts, (N,), bool; empty ones never are."""
    known = set(trained)
    return np.array([bool(text) and text in known for text in tested], dtype=bool)


Texts = Sequence[tuple[str, str | None]]


def overlap_counts(tested: Texts, sample: Texts, pool: Texts) -> tuple[dict[str, int], np.ndarray]:
    """Return how many test texts a task was trained on, and which are in its sample.

    Parameters
    ----------
    tested
        The texts of N rows, one or a pair each; of a pair the order means nothing.
    sample
        Those of the rows that a model was fine-tuned on, hold-out included.
    pool
        Those of all rows that it could have been fine-tuned on.

    Returns
    -------
    counts : dict
        ``test_rows``, and ``{sample,pool}_{exact,normalised}``: rows whose text is there, as it
        stands or as :func:`plain` makes it.
    leaked : numpy.ndarray
        Which rows are in the sample, normalised, (N,), bool.
    """
    counts, leaked = {"test_rows": len(tested)}, np.zeros(len(tested), dtype=bool)
    for name, texts in (("sample", sample), ("pool", pool)):
        same = shared([joined(*row) for row in tested], (joined(*row) for row in texts))
        alike = same | shared(
            [joined(*row, plain) for row in tested], (joined(*row, plain) for row in texts)
        )
        counts |= {f"{name}_exact": int(same.sum()), f"{name}_normalised": int(alike.sum())}
        if name == "sample":
            leaked = alike
    return counts, leaked
