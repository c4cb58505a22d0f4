"""Test metrics of regressions and classifications, as plain numbers."""

import math

import numpy as np
import pandas as pd
from scipy.special import log_softmax

REGRESSION = ("mse", "mse_unit", "pearson", "spearman", "baseline_mse", "noise_variance")
CLASSIFICATION = (
    *("accuracy", "f1", "cross_entropy", "baseline_accuracy", "baseline_f1", "chance_accuracy"),
)


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation of two samples of shape (N,); 0 if one is constant.

    A constant prediction tells nothing, as a correlation of 0 says; NaN would drop out of means.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    first, second = first - first.mean(), second - second.mean()
    norm = math.sqrt(float(first @ first)) * math.sqrt(float(second @ second))
    return float(np.clip(first @ second / norm, -1, 1)) if norm else 0.0


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation of samples, (N,); ties share their mean rank, 0 if constant."""
    return pearson(pd.Series(first).rank().to_numpy(), pd.Series(second).rank().to_numpy())


def mean_squared_error(prediction: np.ndarray, label: np.ndarray) -> float:
    """Return the mean squared error of predictions of shape (N,)."""
    return float(np.mean((np.asarray(prediction, float) - np.asarray(label, float)) ** 2))


def f1_score(prediction: np.ndarray, label: np.ndarray, classes: int = 2) -> float:
    """Return the F1 score of class 1, or of more than two classes the mean of theirs (macro).

    ``prediction`` and ``label`` have shape (N,). Class 1 has 0 if it is neither there nor
    predicted; of more classes such ones do not count.
    """
    from sklearn import metrics  # a second, which regressions need not wait

    average = "binary" if classes == 2 else "macro"
    prediction, label = np.asarray(prediction).astype(int), np.asarray(label).astype(int)
    return float(metrics.f1_score(label, prediction, average=average, zero_division=0))


def accuracy(prediction: np.ndarray, label: np.ndarray) -> float:
    """Return the share of right classes, of predictions of shape (N,)."""
    return float(np.mean(np.asarray(prediction) == np.asarray(label)))


MEASURES = {
    "pearson": pearson,
    "spearman": spearman,
    "mse": mean_squared_error,
    "accuracy": accuracy,
    "f1": f1_score,
}


def score(metric: str, prediction: np.ndarray, label: np.ndarray, classes: int = 2) -> float:
    """Return a task's score by its metric, a key of :data:`MEASURES`; NaN of no rows."""
    more = {"classes": classes} if metric == "f1" else {}
    return MEASURES[metric](prediction, label, **more) if len(label) else math.nan


def regression_metrics(
    prediction: np.ndarray,
    label: np.ndarray,
    *,
    training_label: np.ndarray,
    score_range: tuple[float, float] | None,
    label_noise: np.ndarray,
) -> dict[str, float]:
    """Return the metrics of scores, shape (N,), in the label's own units.

    The baseline predicts the mean of ``training_label``. ``mse_unit`` is the error of scores
    rescaled to [0, 1] by ``score_range``, which compares between tasks; NaN without a range.
    ``noise_variance`` is the mean square of ``label_noise``, the labels' standard errors, (N,); no
    predictor's mean squared error can fall below it; NaN if any is NaN (unknown).
    """
    mse = mean_squared_error(prediction, label)
    width = score_range[1] - score_range[0] if score_range else math.nan
    return {
        "mse": mse,
        "mse_unit": mse / width**2,
        "pearson": pearson(prediction, label),
        "spearman": spearman(prediction, label),
        "baseline_mse": mean_squared_error(np.full(len(label), np.mean(training_label)), label),
        "noise_variance": float(np.mean(np.square(label_noise))),
    }


def classification_metrics(
    logits: np.ndarray, label: np.ndarray, *, training_label: np.ndarray
) -> dict[str, float]:
    """Return the metrics of logits, shape (N, C), with the F1 score of :func:`f1_score`.

    The largest logit is the predicted class, the first of equal ones. The baseline predicts the
    most frequent class of ``training_label``, the first of equally frequent ones; chance is 1/C.
    """
    logits, label = np.asarray(logits, float), np.asarray(label).astype(int)
    classes = logits.shape[1]
    majority = np.bincount(np.asarray(training_label).astype(int)).argmax()
    predicted, constant = logits.argmax(axis=1), np.full(len(label), majority)
    own = log_softmax(logits, axis=1)[np.arange(len(label)), label]
    return {
        "accuracy": accuracy(predicted, label),
        "f1": f1_score(predicted, label, classes),
        "cross_entropy": float(-own.mean()),
        "baseline_accuracy": accuracy(constant, label),
        "baseline_f1": f1_score(constant, label, classes),
        "chance_accuracy": 1 / classes,
    }


def class_scores(logits: np.ndarray, label: np.ndarray) -> list[float]:
    """Return each class's F1 score, of logits (N, C); 0 for one neither there nor predicted."""
    from sklearn import metrics

    every = range(np.shape(logits)[1])
    predicted, label = np.argmax(logits, axis=1), np.asarray(label).astype(int)
    return metrics.f1_score(label, predicted, labels=every, average=None, zero_division=0).tolist()
