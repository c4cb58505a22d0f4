"""Scores of a model for a task without any training: the more, the better it should fine-tune.

All but :func:`parc` depend on the texts' inner products alone. So they take features, (N, D), or
the :func:`coordinates` of a kernel, (N, N), which stand for its features: also for an NTK, whose
own features are its millions of gradients. ``classes`` are integers from 0, (N,).
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.mixture import GaussianMixture

from ntktune.errors import UserError
from ntktune.linearized.statistics import EPS
from ntktune.spectrum import noise_level

RATE_NOISE = 1e-4  # ε of TransRate
LEAST_VARIANCE = 1e-4  # of a class along a direction, in GBC
GBC_DIRECTIONS = 64
MIXTURE_VARIANCE = 0.8  # kept by N-LEEP's directions
MIXTURE_PARTS = 5  # of N-LEEP's mixture, per class


def coordinates(kernel: ArrayLike, precision: float = EPS) -> np.ndarray:
    """Return features whose inner products are a kernel, (N, N): (N, R), R its rank.

    ``precision`` is eps of the precision in which the kernel was computed: smaller eigenvalues than
    N·eps·λ_1 are noise.
    """
    values, vectors = np.linalg.eigh(np.asarray(kernel, float))
    kept = values > noise_level(values, precision)
    return vectors[:, kept] * np.sqrt(values[kept])


def _centred(features: ArrayLike) -> np.ndarray:
    features = np.asarray(features, float)
    return features - features.mean(axis=0)


def _directions(features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return centred features in their principal directions, (N, R), and variances, descending."""
    left, values, _ = np.linalg.svd(_centred(features), full_matrices=False)
    kept = values > len(left) * np.finfo(float).eps * values[0]
    return (left * values)[:, kept], values[kept] ** 2


def _shares(classes: ArrayLike) -> np.ndarray:
    """Return each class's mean as a combination of texts, (C, N); each class must have a text."""
    classes = np.asarray(classes)
    found = (classes == np.arange(classes.max() + 1)[:, None]).astype(float)
    counts = found.sum(axis=1)
    if len(counts) < 2 or not counts.all():
        raise UserError(
            f"classes have {counts.astype(int).tolist()} texts; each of two or more needs one"
        )
    return found / counts[:, None]


def h_score(features: ArrayLike, classes: ArrayLike, dimension: int | None = None) -> float:
    """Return the H-score with a shrunk covariance (Ibrahim, Ponomareva & Mazumder 2022).

    tr(C_ρ⁻¹ (1 − ρ) G): G = Σ n_c m_c m_cᵀ/(N − 1) between classes, and C_ρ = (1 − ρ) C + ρ μ I,
    C = FᵀF/N of centred features, μ its mean eigenvalue, ρ by Ledoit & Wolf. ``dimension`` is D,
    where ``features`` are coordinates of a kernel; None for their number.
    """
    features, means = _centred(features), _shares(classes)
    kernel, count = features @ features.T, len(features)
    size = dimension or features.shape[1]
    square, mean = np.sum(kernel**2) / count**2, np.trace(kernel) / count / size
    noise = (np.sum(np.diag(kernel) ** 2) / count - square) / size / count
    spread = square / size - mean**2
    shrinkage = min(max(noise / spread, 0.0), 1.0) if spread > 0 else 1.0
    # m C_ρ⁻¹ m on the side of the texts
    values, vectors = np.linalg.eigh(kernel)
    kept = values > noise_level(values, EPS)
    values, vectors = values[kept], vectors[:, kept]
    inverse = values / (shrinkage * mean + (1 - shrinkage) * values / count)
    along = (means @ vectors) ** 2 @ inverse
    return float((1 - shrinkage) / (count - 1) * np.sum((means > 0).sum(axis=1) * along))


def nearest(features: ArrayLike, label: ArrayLike, neighbours: int = 5) -> float:
    """Return how well the nearest other texts tell a text's label.

    The share of right votes for integer labels, the lowest class of a tie; Pearson's correlation of
    the neighbours' mean and the label for others.
    """
    features, label = np.asarray(features, float), np.asarray(label)
    square = np.sum(features**2, axis=1)
    apart = square[:, None] + square - 2 * features @ features.T
    np.fill_diagonal(apart, np.inf)
    near = label[np.argsort(apart, axis=1, kind="stable")[:, :neighbours]]
    if np.issubdtype(label.dtype, np.integer):
        votes = np.sum(near[:, :, None] == np.arange(label.max() + 1), axis=1)
        return float(np.mean(votes.argmax(axis=1) == label))
    return float(pearsonr(near.mean(axis=1), label)[0])


def leep(parts: ArrayLike, classes: ArrayLike) -> float:
    """Return the log expected empirical prediction (Nguyen et al. 2020).

    (1/N) Σ log Σ_z P(y_i | z) θ_i(z), where ``parts``, (N, Z), are θ, probabilities of Z source
    classes, and P(y, z) = (1/N) Σ_i θ_i(z) 1[y_i = y].
    """
    parts, classes = np.asarray(parts, float), np.asarray(classes)
    chosen = classes == np.arange(classes.max() + 1)[:, None]
    joint = chosen @ parts / len(parts)  # (C, Z)
    given = joint / np.maximum(joint.sum(axis=0), np.finfo(float).tiny)
    return float(np.mean(np.log(np.sum(given[classes] * parts, axis=1))))


def n_leep(features: ArrayLike, classes: ArrayLike, seed: int = 0) -> float:
    """Return LEEP with a Gaussian mixture's parts in place of source classes (Li et al. 2021).

    The mixture has five spherical parts per class, fitted in the principal directions that hold
    80 % of the variance, of features of unit variance in all; ``seed`` is that of its start.
    """
    along, variances = _directions(features)
    along = along / np.sqrt(variances.sum() / len(along))
    kept = np.searchsorted(np.cumsum(variances) / variances.sum(), MIXTURE_VARIANCE) + 1
    parts = min(MIXTURE_PARTS * (int(np.max(classes)) + 1), len(along) - 1)
    mixture = GaussianMixture(parts, covariance_type="spherical", random_state=seed)
    return leep(mixture.fit(along[:, :kept]).predict_proba(along[:, :kept]), classes)


def trans_rate(features: ArrayLike, classes: ArrayLike) -> float:
    """Return TransRate (Huang et al. 2022): the coding rate of all texts less that within classes.

    R(F) = ½ log det(I + FFᵀ/(N ε)), F centred over all texts and of unit norm, ε = 1e-4; less
    Σ_c (n_c/N) R(F_c).
    """
    features, classes = _centred(features), np.asarray(classes)
    features = features / np.linalg.norm(features)

    def rate(some: np.ndarray) -> float:
        inner = some @ some.T / (len(some) * RATE_NOISE)
        return 0.5 * np.linalg.slogdet(np.eye(len(some)) + inner)[1]

    within = [np.mean(classes == c) * rate(features[classes == c]) for c in np.unique(classes)]
    return float(rate(features) - sum(within))


def gaussian_overlap(features: ArrayLike, classes: ArrayLike) -> float:
    """Return GBC (Pándy et al. 2022): minus the overlap of the classes' Gaussians.

    −Σ_{i≠j} exp(−D_B), D_B the Bhattacharyya distance of spherical Gaussians, one variance per
    class, in the 64 first principal directions. As published a variance is at least 1e-4, whatever
    the unit of the features.
    """
    along, means = _directions(features)[0][:, :GBC_DIRECTIONS], _shares(classes)
    size, centres = along.shape[1], means @ along
    spread = means @ np.sum(along**2, axis=1) - np.sum(centres**2, axis=1)
    variances = np.maximum(spread / size, LEAST_VARIANCE)
    between = (variances[:, None] + variances) / 2
    apart = np.sum((centres[:, None] - centres) ** 2, axis=-1)
    both = np.sqrt(variances[:, None] * variances)
    overlap = np.exp(-(apart / between / 8 + size / 2 * np.log(between / both)))
    return float(np.trace(overlap) - overlap.sum())


def parc(features: ArrayLike, label: ArrayLike) -> float:
    """Return PARC (Bolya et al. 2021): 100 times Spearman's correlation of distances.

    Distances are 1 − Pearson's correlation of two texts' standardised features, and of their
    labels, (N, C), or the distance of scores, (N,). It needs the features themselves.
    """
    features, label = _centred(features), np.asarray(label, float)
    deviation = features.std(axis=0)
    upper = np.triu_indices(len(features), 1)
    apart = 1 - np.corrcoef(features[:, deviation > 0] / deviation[deviation > 0])
    wanted = 1 - np.corrcoef(label) if label.ndim == 2 else np.abs(label[:, None] - label)
    return float(100 * spearmanr(apart[upper], wanted[upper])[0])


def sfda(features: ArrayLike, classes: ArrayLike, dimension: int | None = None) -> float:
    """Return the score by self-challenging Fisher discriminants (Shao et al. 2022).

    The mean log probability of each text's class by a shrunk linear discriminant, fitted again
    after each text was drawn towards the other classes' mean, the more the less it was sure. The
    shrinkage is exp(−5 λ), λ the largest eigenvalue of the covariance within classes, of features
    whose mean squared norm is 1. These are the paper's steps; its code differs in details.
    ``dimension`` is as for :func:`h_score`.
    """
    features, classes = _centred(features), np.asarray(classes)
    features = features / np.sqrt(np.mean(np.sum(features**2, axis=1)))
    means = _shares(classes)
    counts = (means > 0).sum(axis=1)

    def discriminant(some: np.ndarray, shrinkage: float | None) -> tuple[np.ndarray, float]:
        centres = means @ some
        own = some - centres[classes]
        within = own.T @ own / len(some)
        if shrinkage is None:
            largest = np.linalg.eigvalsh(within)[-1]
            shrinkage = math.exp(-5 * largest)
        mean = np.trace(within) / (dimension or len(within))
        shrunk = (1 - shrinkage) * within + shrinkage * mean * np.eye(len(within))
        weights = np.linalg.solve(shrunk, centres.T)
        bias = np.log(counts / len(some)) - 0.5 * np.einsum("cd,dc->c", centres, weights)
        return some @ weights + bias, shrinkage

    logits, shrinkage = discriminant(features, None)
    sure = softmax(logits, axis=1)[np.arange(len(classes)), classes][:, None]
    others = (features.sum(axis=0) - counts[:, None] * (means @ features)) / (
        len(features) - counts[:, None]
    )
    harder = sure * features + (1 - sure) * others[classes]
    logits, _ = discriminant(harder, shrinkage)
    return float(np.mean(log_softmax(logits, axis=1)[np.arange(len(classes)), classes]))
