"""Test metrics of regression and two-class tasks, as plain numbers."""

import math

import numpy as np
import pandas as pd

REGRESSION = ("mse", "mse_unit", "pearson", "spearman", "baseline_mse", "noise_variance")
CLASSIFICATION = ("accuracy", "f1", "cross_entropy", "baseline_accuracy", "baseline_f1")


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


def f1_score(prediction: np.ndarray, label: np.ndarray) -> float:
    """Return the F1 score of class 1; 0 if class 1 is neither there nor predicted."""
    prediction, label = np.asarray(prediction) == 1, np.asarray(label) == 1
    found, counted = np.sum(prediction & label), np.sum(prediction) + np.sum(label)
    return float(2 * found / counted) if counted else 0.0


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


def score(metric: str, prediction: np.ndarray, label: np.ndarray) -> float:
    """Return a task's score by its metric, a key of :data:`MEASURES`; NaN of no rows."""
    return MEASURES[metric](prediction, label) if len(label) else math.nan


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
    """Return the metrics of two-class logits, shape (N, 2); F1 is that of class 1.

    The larger logit is the predicted class, class 0 if they are equal. The baseline predicts the
    most frequent class of ``training_label``, 0 if both are equally frequent.
    """
    logits, label = np.asarray(logits, float), np.asarray(label).astype(int)
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    majority = np.bincount(np.asarray(training_label).astype(int), minlength=2).argmax()
    predicted, constant = logits.argmax(axis=1), np.full(len(label), majority)
    return {
        "accuracy": accuracy(predicted, label),
        "f1": f1_score(predicted, label),
        "cross_entropy": float(np.mean(log_sum - logits[np.arange(len(label)), label])),
        "baseline_accuracy": accuracy(constant, label),
        "baseline_f1": f1_score(constant, label),
    }
