"""Candidates of a study: what scores say of them before training, and how they fine-tune."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ntktune.data.sampling import training_subset
from ntktune.finetune.account import WORK
from ntktune.finetune.repeats import Examples, kernel_targets
from ntktune.finetune.training import outputs
from ntktune.network.models import TextModel, linear_weights
from ntktune.selection.dynamics import stopped_error
from ntktune.selection.ranking import (
    POOLINGS,
    Pooled,
    check_labels,
    kernel_scored,
    scored,
)
from ntktune.study.candidates import PASS, Cell, score_file


class Sample(NamedTuple):
    """One seed's sample of a task: rows, their labels, and places of those held out."""

    rows: list[int]
    label: np.ndarray
    train: list[int]
    holdout: list[int]


def sample_of(examples: Examples, subsets: Mapping, size: int, seed: int) -> Sample:
    """Return a seed's sample of ``size`` rows."""
    classes = examples.kind == "classification"
    train, holdout = training_subset(subsets, size, seed, examples.label if classes else None)
    rows = [*train, *holdout]
    label = examples.label[rows].astype(int if classes else float)
    places = range(len(rows))
    return Sample(rows, label, [*places[: len(train)]], [*places[len(train) :]])


def scored_candidates(
    load: Callable[[str, int], TextModel],
    kernel: Callable[[TextModel, list[torch.Tensor]], tuple[np.ndarray, np.ndarray]],
    examples: Examples,
    subsets: Mapping,
    size: int,
    poolings: Sequence[str],
    *,
    seeds: int,
    kernel_seeds: int,
    kernel_rows: int,
    batch_tokens: int,
    precision: float,
    progress: Callable[[float], None] = lambda seeds: None,
) -> list[dict[str, Any]]:
    """Return the scores of a model under some poolings: a row per seed, pooling and kernel.

    Each seed has its own sample of ``size`` rows. Rows have ``seed``, ``pooling``, ``kernel``
    (``head``, what it reads; ``layers``, its mean over blocks; or ``ntk``), ``texts``,
    ``weights`` (of linear layers), ``tokens`` (of a text, on average),
    and the scores of :func:`ntktune.selection.ranking.scored`, or for the NTK those that a kernel
    has. The NTK is of the first ``kernel_seeds`` seeds, and of the first ``kernel_rows`` rows of
    their samples; its rows also have ``remaining`` and ``stop``
    (:func:`ntktune.selection.dynamics.stopped_error`).

    ``load`` returns the model with a pooling and a seed's fresh head; ``kernel`` its NTK on texts,
    (N, N), and f_0, (N,) or (N, C); ``precision`` is eps of that kernel. ``progress`` is called
    with the number of seeds done. Raises UserError if a sample's labels cannot be told apart.
    """
    classes = examples.classes if examples.kind == "classification" else None
    found: list[dict[str, Any]] = []
    backbone = load(poolings[0], 0).backbone
    weights = sum(weight.numel() for weight in linear_weights(backbone).values())
    everything = sum(weight.numel() for weight in backbone.parameters())
    for seed in range(seeds):
        sample = sample_of(examples, subsets, size, seed)
        check_labels(sample.label, classes)
        texts = [examples.ids[row] for row in sample.rows]
        states = outputs(Pooled(backbone), texts, batch_tokens).double().cpu().numpy()
        tokens = sum(map(len, texts)) / len(texts)
        about = {"seed": seed, "texts": len(texts), "weights": weights, "tokens": tokens}
        about |= {"remaining": np.nan, "stop": np.nan}
        of_states = functools.cache(
            lambda name, states=states, sample=sample, seed=seed: scored(
                states[:, POOLINGS.index(name)], sample.label, classes, seed
            )
        )
        for pooling in poolings:
            row = about | {"pooling": pooling}
            found.append(row | {"kernel": "head"} | of_states(pooling))
            found.append(row | {"kernel": "layers"} | of_states("layers"))
            if seed < kernel_seeds:
                part = sample_of(examples, subsets, min(size, kernel_rows), seed)
                own = [examples.ids[row] for row in part.rows]
                gram, start = kernel(load(pooling, seed), own)
                row |= {"kernel": "ntk", "texts": len(own)}
                row |= kernel_scored(gram, part.label, classes, everything, seed, precision)
                shift = start - start.mean(axis=0) - kernel_targets(part.label, classes)
                parts = (part.train, part.holdout)
                left, stop = stopped_error(gram, shift, *parts, precision)
                found.append(row | {"remaining": left, "stop": stop})
        progress(seed + 1)
    return found


def gathered(
    every: Sequence[Cell], read: Callable[[str], tuple[pd.DataFrame, Mapping[str, Any]]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a task's fine-tunings and its scores, of all candidates, as two tables.

    ``read`` returns a file's table and its provenance. Both tables have ``model`` beside the files'
    columns; fine-tunings also have ``pooling`` and ``flops``, of forward and backward passes in
    training: 2, 4 and 6 for each weight of a linear layer and token of one pass forward, of
    adapters, and of all weights. A head alone takes one pass forward of each text.
    """
    models = dict.fromkeys(cell.model for cell in every)
    scores = {model: read(score_file(model))[0].assign(model=model) for model in models}
    per_text = {
        model: PASS * float((rows["weights"] * rows["tokens"]).mean())
        for model, rows in scores.items()
    }
    curves = []
    for cell in every:
        rows, made = read(cell.file)
        steps_of_epoch = np.ceil(rows["n_train"] / made["settings"]["batch_size"])
        seen = rows["steps"] / steps_of_epoch * rows["n_train"] * WORK[cell.method]
        texts = seen if WORK[cell.method] else rows["n"]
        own = {"model": cell.model, "pooling": cell.pooling}
        curves.append(rows.assign(**own, flops=texts * per_text[cell.model]))
    return pd.concat(curves, ignore_index=True), pd.concat(scores.values(), ignore_index=True)
