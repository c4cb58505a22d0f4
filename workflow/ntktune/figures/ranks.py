"""Candidates: what was known before training, or at small sizes, against how they fine-tune."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ntktune.figures.orders import order_figure
from ntktune.figures.selected import (
    KERNELS,
    SCORES,
    SIZE,
    SMALL,
    by_seed,
    choosing,
    first_method,
)

# kernel and score of six panels
SHOWN = (
    *(("head", "probe"), ("head", "evidence"), ("layers", "evidence")),
    *(("ntk", "gcv"), ("", SIZE), ("", SMALL)),
)


def ranks_figure(
    curves: pd.DataFrame,
    scores: pd.DataFrame,
    tasks: Sequence[str],
    colors: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return the figure of six ways to choose (:func:`ntktune.figures.orders.order_figure`).

    A point per task and candidate, of the first method of fine-tuning.
    """
    tables = {}
    for task in tasks:
        own = first_method(curves, task)
        table = by_seed(own[own["n"] == own["n"].max()], "score").mean(axis=1).to_frame("score")
        for way in choosing(own, scores[scores["task"] == task]):
            table[f"{way.kernel} {way.name}"] = way.said.mean(axis=1)
        tables[task] = table.reindex(columns=["score", *(" ".join(shown) for shown in SHOWN)])
    labels = {SIZE: "size of the model", SMALL: "the loss one size below"}
    labels |= {name: label for name, (label, _) in SCORES.items()}
    told = {
        " ".join((kernel, name)): (f"{labels[name]},\n{KERNELS[kernel]}", True)
        if kernel
        else (labels[name], True)
        for kernel, name in SHOWN
    }
    return order_figure(tables, told, "candidates", colors, titles or {})
