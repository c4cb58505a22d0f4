"""Models ranked by what their pretrained features say of a task, without any training."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest, pearsonr
from torch import nn

from ntktune.errors import UserError
from ntktune.finetune.regression import probe_head
from ntktune.finetune.repeats import class_targets
from ntktune.intervals import LEVEL
from ntktune.linearized.statistics import EPS, alignment, best_gcv, centred_spectrum, log_evidence
from ntktune.network.models import hidden_states, pooled
from ntktune.selection import scores

POOLINGS = ("last", "mean", "layers")
FOLDS = 5
HOLDOUT = 5  # one text in so many of what a fold trains on chooses the ridge


class Pooled(nn.Module):
    """Features of texts for each of :data:`POOLINGS`, (N, 3, D), in one forward pass.

    The last block's state at the last token; its mean over tokens; and the mean over tokens and
    blocks, those that are as wide. The backbone is used, not copied.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return features of token ids of shape (N, T)."""
        found = hidden_states(self.backbone, input_ids, attention_mask, output_hidden_states=True)
        hidden = found.last_hidden_state
        blocks = [state for state in found.hidden_states[1:] if state.shape == hidden.shape]
        mean = torch.stack(blocks or [hidden]).mean(dim=0)
        each = ((hidden, "last"), (hidden, "mean"), (mean, "mean"))
        return torch.stack([pooled(state, attention_mask, how) for state, how in each], dim=1)


def folds(label: np.ndarray, seed: int, *, stratified: bool) -> Iterator[tuple[list, list, list]]:
    """Yield places of texts: to train on, to hold out and to test, 64, 16 and 20 %, of each fold.

    ``stratified`` spreads the classes over the folds.
    """
    order = np.random.default_rng(seed).permutation(len(label))
    if stratified:
        order = order[np.argsort(label[order], kind="stable")]
    for fold in range(FOLDS):
        others = np.delete(order, np.s_[fold::FOLDS])
        holdout = others[HOLDOUT - 1 :: HOLDOUT]
        yield np.setdiff1d(others, holdout).tolist(), holdout.tolist(), order[fold::FOLDS].tolist()


def cross_validated(
    features: np.ndarray, label: np.ndarray, classes: int | None, seed: int = 0
) -> tuple[float, float, float]:
    """Return a linear probe's score on texts that it was not fitted to, and a 95 % interval.

    The probe is fitted five times (:func:`folds`) to ``features``, (N, D). The score is accuracy,
    with Wilson's interval, or where ``classes`` is None Pearson's correlation with Fisher's; both
    are for the number of texts and know nothing of how the probe varies with them.
    """
    target = label.astype(float) if classes is None else class_targets(label, classes)
    found = np.empty_like(target)
    for train, holdout, test in folds(label, seed, stratified=classes is not None):
        weights, offset, _ = probe_head(features, target, train, holdout)
        found[test] = features[test] @ weights + offset
        if classes is None:  # a fold's mean, and so its predictions, fall where its tests' rise
            found[test] -= target[train].mean()
    if classes is None:
        score = pearsonr(found, label)
        return float(score.statistic), *map(float, score.confidence_interval(LEVEL))
    right = int(np.sum(found.argmax(axis=1) == label))
    interval = binomtest(right, len(label)).proportion_ci(LEVEL, method="wilson")
    return right / len(label), float(interval.low), float(interval.high)


def scored(
    features: np.ndarray, label: np.ndarray, classes: int | None, seed: int = 0
) -> dict[str, float]:
    """Return all scores of features, (N, D), for labels, (N,): integers from 0, or numbers.

    ``probe``, ``low`` and ``high`` are :func:`cross_validated`; ``gcv`` is an error in units of the
    labels' variance, the lower the better; of the others of :mod:`ntktune.selection.scores` more is
    better, and those of classes alone are NaN where ``classes`` is None.
    """
    features = np.asarray(features, float)
    probe, low, high = cross_validated(features, label, classes, seed)
    found = {"probe": probe, "low": low, "high": high}
    found["parc"] = scores.parc(features, standard_targets(label, classes))
    return found | kernel_scored(features @ features.T, label, classes, features.shape[1], seed)


def standard_targets(label: np.ndarray, classes: int | None) -> np.ndarray:
    """Return labels as regression takes them: standardised scores, (N,), or one-hot, (N, C)."""
    return (label - label.mean()) / label.std() if classes is None else np.eye(classes)[label]


def kernel_scored(
    kernel: np.ndarray,
    label: np.ndarray,
    classes: int | None,
    dimension: int,
    seed: int = 0,
    precision: float = EPS,
) -> dict[str, float]:
    """Return the scores of :func:`scored` that a kernel, (N, N), has: all but probe and PARC.

    Those of classes are NaN, too, where a class has no text.

    ``dimension`` is the number of its features, of an NTK that of weights; ``precision`` is eps of
    the precision that the kernel was computed in.
    """
    standard = standard_targets(label, classes)
    if classes is not None:
        standard = standard[:, np.unique(label)]  # a class without a text says nothing
    target = standard / np.sqrt(standard.var(axis=0).sum())
    spectrum = centred_spectrum(kernel, precision)
    found = {"gcv": best_gcv(spectrum, target - target.mean(axis=0))[0]}
    found["evidence"] = log_evidence(kernel, standard)
    found["alignment"] = alignment(kernel, standard)
    own = scores.coordinates(kernel, precision)
    found["nearest"] = scores.nearest(own, label)
    of_classes = {
        "h_score": lambda: scores.h_score(own, label, dimension),
        "n_leep": lambda: scores.n_leep(own, label, seed),
        "trans_rate": lambda: scores.trans_rate(own, label),
        "gaussian_overlap": lambda: scores.gaussian_overlap(own, label),
        "sfda": lambda: scores.sfda(own, label, dimension),
    }
    lacking = classes is None or len(np.unique(label)) < classes
    return found | {n: np.nan if lacking else score() for n, score in of_classes.items()}


def check_labels(label: np.ndarray, classes: int | None) -> None:
    """Raise UserError if labels cannot be cross-validated."""
    counts = np.bincount(label, minlength=classes) if classes else np.array([len(label)])
    least = 2 if classes else 2 * FOLDS
    if counts.min() < least or len(label) < 2 * FOLDS:
        raise UserError(
            f"{counts.tolist()} texts (of each class) are too few to tell models apart; draw more "
            f"rows, at least {least} of each and {2 * FOLDS} in all"
        )
    if np.ptp(label) == 0:
        raise UserError(f"all {len(label)} rows have the same label; no model can tell them apart")


def ranked(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a row per model and pooling, best first: by the probe's score, then by GCV."""
    return sorted(rows, key=lambda row: (-row["probe"], row["gcv"]))
