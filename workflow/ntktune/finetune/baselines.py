"""What the pretrained network predicts without fine-tuning: by its kernel, or by its features.

Nested subsets are blocks of one kernel matrix, which so gives a whole learning curve.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntktune.finetune.regression import FACTORS, kernel_prediction, probe_head
from ntktune.finetune.repeats import (
    Examples,
    class_targets,
    label_scale,
    output_metrics,
    seed_split,
)


def baseline_rows(
    examples: Examples,
    subsets: Mapping,
    sizes: Sequence[int],
    features: Mapping[int, np.ndarray],
    kernels: Mapping[int, tuple[np.ndarray, np.ndarray, Sequence[int]]],
) -> list[dict[str, Any]]:
    """Return test metrics of the predictions without fine-tuning, one row per method, n and seed.

    ``sizes`` are sample sizes n, hold-out included; ``features`` maps a row of the task to the last
    token's hidden state, (D,); ``kernels`` maps a seed to K of some rows with the first of them (or
    all), f_0, and which rows they are: a sample's first rows, then the test rows. f_0 is (M,), of
    two classes the logit difference, or (M, C), with K the mean over the outputs. Sizes whose rows
    are not all there have the probe only.

    Rows have ``task``, ``kind``, ``metric``, ``method`` (``linear-probe``, ``kernel-ridge``,
    ``kernel-descent``), ``n``, ``seed``, ``n_train``, ``n_holdout``, ``strength``, and the metrics
    of fine-tuning.
    """
    test, found = list(subsets["test"]), []
    classes = examples.kind == "classification"
    for seed, size in itertools.product(range(len(subsets["seeds"])), sizes):
        train, holdout = seed_split(examples, subsets, size, seed)
        mean, sd = label_scale(examples, train)
        target = (examples.label - mean) / sd
        if classes:
            target = class_targets(examples.label, examples.classes)  # (N, C)
        parts = (train, holdout, test)
        used = [row for part in parts for row in part]
        states = np.stack([features[row] for row in used])
        ours = _places(used, parts)
        weights, offset, strength = probe_head(states, target[used], *ours[:2])
        predictions = {"linear-probe": (states[ours[2]] @ weights + offset, strength)}
        if seed in kernels and set(used) <= set(kernels[seed][2]):
            gram, start, rows = kernels[seed]
            places = _places(rows, parts)
            if classes and start.ndim == 1:  # f = l1 − l0
                start = np.stack([-start / 2, start / 2], axis=1)
            centred = start - start[places[0]].mean(
                axis=0
            )  # as fine-tuning from a random head starts
            for method in FACTORS:
                predictions[f"kernel-{method}"] = kernel_prediction(
                    gram, centred, target[list(rows)], *places, method
                )
        for method, (prediction, strength) in predictions.items():
            row = {
                "task": examples.task,
                "kind": examples.kind,
                "metric": examples.metric,
                "method": method,
                "n": size,
                "seed": seed,
                "n_train": len(train),
                "n_holdout": len(holdout),
                "strength": strength,
            }
            found.append(row | output_metrics(prediction, examples, test, train))
    return found


def _places(rows: Sequence[int], parts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return where each part's rows stand among ``rows``."""
    place = {row: i for i, row in enumerate(rows)}
    return [[place[row] for row in part] for part in parts]
