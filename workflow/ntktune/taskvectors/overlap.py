"""Texts of one task's test rows that another task trained on."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np


def plain(text: str) -> str:
    """Return a text in lower case, without accents' variants, punctuation and white space's kinds.

    What is left are letters and digits, with one blank between words.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


def shared(tested: Sequence[str], trained: Iterable[str]) -> np.ndarray:
    """Return which test texts are among the training texts, (N,), bool; empty ones never are."""
    known = set(trained)
    return np.array([bool(text) and text in known for text in tested], dtype=bool)


def overlap_counts(
    tested: Sequence[str], sample: Sequence[str], pool: Sequence[str]
) -> tuple[dict[str, int], np.ndarray]:
    """Return how many test texts a task was trained on, and which are in its sample.

    Parameters
    ----------
    tested
        N texts of test rows.
    sample
        Texts of the rows that a model was fine-tuned on, hold-out included.
    pool
        Texts of all rows that it could have been fine-tuned on.

    Returns
    -------
    counts : dict
        ``test_rows``, and ``{sample,pool}_{exact,normalised}``: test rows whose text is there,
        as it stands or as :func:`plain` makes it.
    leaked : numpy.ndarray
        Which test rows are in the sample, normalised, (N,), bool.
    """
    simple = [plain(text) for text in tested]
    counts, leaked = {"test_rows": len(tested)}, np.zeros(len(tested), dtype=bool)
    for name, texts in (("sample", sample), ("pool", pool)):
        same = shared(tested, texts)
        alike = shared(simple, map(plain, texts)) | same
        counts |= {f"{name}_exact": int(same.sum()), f"{name}_normalised": int(alike.sum())}
        if name == "sample":
            leaked = alike
    return counts, leaked
