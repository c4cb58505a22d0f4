"""Sentences that many readers rated (Hutto & Gilbert 2014): the noise of their labels is known."""

import json
import math
import statistics

import pandas as pd

from ntktune.errors import UserError

# the files print six digits or more, and a mean of ratings is theirs to the last one
MEAN_TOLERANCE = 1e-3


def _rated(data: bytes, where: str, fields: int) -> dict[str, tuple[float, str]]:
    """Return mean rating and last field of each line, by the id that it begins with."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text: {error}") from None
    rows: dict[str, tuple[float, str]] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        # quotes are part of the sentences here, never a way of writing a field
        parts = line.split("\t", fields - 1)
        if len(parts) != fields:
            raise UserError(
                f"{where}, line {number}: {len(parts)} tab-separated fields, expected {fields}"
            )
        name, mean = parts[:2]
        if name in rows:
            raise UserError(f"{where}, id {name} appears twice")
        try:
            rows[name] = float(mean), parts[-1]
        except ValueError:
            raise UserError(f"{where}, id {name}: the mean {mean!r} is no number") from None
    return rows


def rating_error(ratings: list[float]) -> float:
    """Return the standard error of a mean of ratings: sd (n - 1) over the root of n."""
    if len(ratings) < 2:
        return math.nan
    return statistics.stdev(ratings) / math.sqrt(len(ratings))


def scored_sentences(
    sentences: bytes, ratings: bytes, where: str
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return a table of the sentences, and how many have no known noise.

    ``sentences`` has tab-separated lines of id, mean rating, sentence; ``ratings`` of id, mean,
    standard deviation, list of ratings; ``where`` names the source in messages. The table's columns
    are id, text_a, label (the mean rating), label_noise (its standard error, NaN if unknown; SR26
    eq 11) and group (the document: the id up to its first ``_``).

    A sentence whose label is not the mean of its ratings (199 of the tweets) keeps its label and
    gets no noise. These count as ``mismatched_ratings``, those without ratings as
    ``without_ratings``. Raises UserError if a line has another form or an id appears twice.
    """
    rated, told = {}, f"{where} (ratings)"
    for name, (mean, text) in _rated(ratings, told, 4).items():
        try:
            listed = [float(rating) for rating in json.loads(text.strip().strip('"'))]
        except (ValueError, TypeError):
            raise UserError(f"{told}, id {name}: {text[:60]!r} is no list of ratings") from None
        rated[name] = mean, rating_error(listed)
    counts = {"without_ratings": 0, "mismatched_ratings": 0}
    rows = []
    for name, (label, text) in _rated(sentences, where, 3).items():
        mean, noise = rated.get(name, (label, math.nan))
        counts["without_ratings"] += name not in rated
        if abs(mean - label) > MEAN_TOLERANCE:
            counts["mismatched_ratings"] += 1
            noise = math.nan
        rows.append((name, text, label, noise, name.split("_")[0]))
    return pd.DataFrame(rows, columns=["id", "text_a", "label", "label_noise", "group"]), counts
