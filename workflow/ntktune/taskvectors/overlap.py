"""Texts of one task's test rows that another task trained on."""

import itertools
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ntktune.data.sampling import training_subset


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

    ``tested`` are the texts of N rows, one or a pair each (of a pair the order means nothing);
    ``sample`` those of the rows that a model was fine-tuned on, hold-out included; ``pool`` those
    of all rows that it could have been fine-tuned on.

    The counts are ``test_rows``, and ``{sample,pool}_{exact,normalised}``: rows whose text is
    there, as it stands or as :func:`plain` makes it. The second result says which rows are in the
    sample, normalised, (N,), bool.
    """
    counts, alike = {"test_rows": len(tested)}, {}
    for name, texts in (("sample", sample), ("pool", pool)):
        same, normalised = (
            shared([joined(*row, how) for row in tested], [joined(*row, how) for row in texts])
            for how in (str, plain)
        )
        alike[name] = same | normalised
        counts |= {f"{name}_exact": int(same.sum()), f"{name}_normalised": int(alike[name].sum())}
    return counts, alike["sample"]


def overlap_rows(
    texts: Mapping[str, Texts], samples: Mapping[str, Mapping[str, Any]], size: int, seeds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what each task's held-out and test rows share with the texts of each other one.

    ``texts`` and ``samples`` map a task to the texts of all its rows and to its subsets
    (:func:`ntktune.data.sampling.training_subsets`), ``seeds`` samples of ``size`` rows. Returns a
    row of counts per pair of tasks and seed (:func:`overlap_counts`), and one row per shared row.
    """
    counts, leaked = [], []
    for task, other, seed in itertools.product(samples, samples, range(seeds)):
        tested, trained = samples[task], samples[other]
        train, holdout = training_subset(trained, size, seed)
        sample = [*train, *holdout]
        # a hold-out is no part of what its own model's weights were fitted to
        known = train if other == task else sample
        own = training_subset(tested, size, seed)[1]
        parts = {"validation": (own, known), "test": (tested["test"], sample)}
        pool = [texts[other][row] for row in trained["seeds"][seed]["order"]]
        address, count = {"task": task, "other": other, "seed": seed}, {}
        for part, (rows, seen) in parts.items():
            found, same = overlap_counts(
                [texts[task][row] for row in rows], [texts[other][row] for row in seen], pool
            )
            shared_rows = [row for row, is_same in zip(rows, same, strict=True) if is_same]
            leaked += [address | {"part": part, "row": row} for row in shared_rows]
            count |= {f"{part}_rows": len(rows), f"{part}_leaked": len(shared_rows)}
            count |= found if part == "test" else {}
        counts.append(address | count)
    return counts, leaked
