"""Sentences with the ratings of many readers, in the form of Hutto & Gilbert 2014.

Two tab-separated files: the sentences with their mean rating, and the single ratings.
So the noise of a label is known, which the stopping rule needs (SR26 eq 11).
"""

from __future__ import annotations

import json
import math
import statistics

import pandas as pd

from ntktune.errors import UserError

# the files print six digits or more, and a mean of ratings is theirs to the last one
MEAN_TOLERANCE = 1e-3


def _lines(data: bytes, where: str, fields: int) -> list[list[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 text: {error}") from None
    rows = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        # quotes are part of the sentences here, never a way of writing a field
        parts = line.split("\t", fields - 1)
        if len(parts) != fields:
            raise UserError(
                f"{where}, line {number}: {len(parts)} tab-separated fields, expected {fields}"
            )
        rows.append(parts)
    return rows


def rating_error(ratings: list[float]) -> float:
    """Return the standard error of a mean of ratings: sd (n - 1) over the root of n."""
    if len(ratings) < 2:
        return math.nan
    return statistics.stdev(ratings) / math.sqrt(len(ratings))


def _ratings(text: str, where: str) -> list[float]:
    try:
        ratings = json.loads(text.strip().strip('"'))
        return [float(rating) for rating in ratings]
    except (ValueError, TypeError):
        raise UserError(f"{where}: {text[:60]!r} is no list of ratings") from None


def scored_sentences(
    sentences: bytes, ratings: bytes, where: str
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the sentences with mean rating and its standard error.

    A sentence whose label is not the mean that its ratings have keeps its label and gets
    no noise: those ratings are not what the label came from. (So it is with 199 of the
    tweets that the authors wrote themselves.)

    Parameters
    ----------
    sentences
        Lines of id, mean rating, sentence.
    ratings
        Lines of id, mean rating, standard deviation, list of ratings.
    where
        Name of the source, for messages.

    Returns
    -------
    table : pandas.DataFrame
        Columns id, text, label, label_noise (NaN unknown), group (the document: what
        stands before the first ``_`` of the id).
    counts : dict
        ``without_ratings`` and ``mismatched_ratings``: rows without known noise.

    Raises
    ------
    UserError
        A line has another form, or an id stands there twice.
    """
    by_id: dict[str, tuple[float, float]] = {}
    for name, mean, _, listed in _lines(ratings, f"{where} (ratings)", 4):
        here = f"{where} (ratings), id {name}"
        if name in by_id:
            raise UserError(f"{here} stands there twice")
        try:
            stated = float(mean)
        except ValueError:
            raise UserError(f"{here}: the mean {mean!r} is no number") from None
        by_id[name] = (stated, rating_error(_ratings(listed, here)))
    counts = {"without_ratings": 0, "mismatched_ratings": 0}
    rows, seen = [], set()
    for name, mean, text in _lines(sentences, where, 3):
        if name in seen:
            raise UserError(f"{where}, id {name} stands there twice")
        seen.add(name)
        try:
            label = float(mean)
        except ValueError:
            raise UserError(f"{where}, id {name}: the mean {mean!r} is no number") from None
        noise = math.nan
        if name not in by_id:
            counts["without_ratings"] += 1
        elif abs(by_id[name][0] - label) > MEAN_TOLERANCE:
            counts["mismatched_ratings"] += 1
        else:
            noise = by_id[name][1]
        rows.append((name, text, label, noise, name.split("_")[0]))
    return pd.DataFrame(rows, columns=["id", "text", "label", "label_noise", "group"]), counts
