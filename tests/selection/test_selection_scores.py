"""Scores without training: known values, naive references, invariances."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, rankdata
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ntktune.errors import UserError
from ntktune.linearized.statistics import log_evidence
from ntktune.selection import scores

# of features and classes; the first two also of the features' number
OF_CLASSES = {
    "sfda": scores.sfda,
    "h_score": scores.h_score,
    "nearest": scores.nearest,
    "n_leep": scores.n_leep,
    "trans_rate": scores.trans_rate,
    "gaussian_overlap": scores.gaussian_overlap,
    "log_evidence": lambda x, y: log_evidence(x @ x.T, np.eye(y.max() + 1)[y]),
}


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture
def wide():
    """Fewer texts than features; four classes, of unequal sizes."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), [5, 8, 12, 15])
    return rng.normal(size=(40, 90)) + 0.8 * rng.normal(size=(4, 90))[y], y


def test_known_values(iris):
    x, y = iris
    # of features in single precision, as transformer-ranker's test has them
    assert scores.h_score(x.astype(np.float32).astype(float), y) == pytest.approx(
        1.1778424804, abs=1e-10
    )
    found = [scores.nearest(x, y, k) for k in (1, 3, 5, 13)]
    assert found == pytest.approx([0.96, 0.96, 29 / 30, 29 / 30])
    assert log_evidence(x @ x.T, np.eye(3)[y]) == pytest.approx(-0.16006024341739, abs=1e-12)


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("data", ["iris", "wide"])
def test_only_inner_products_count(name, data, request):
    x, y = request.getfixturevalue(data)
    rng = np.random.default_rng(1)
    value = OF_CLASSES[name](x, y)
    turned = x @ np.linalg.qr(rng.normal(size=(x.shape[1],) * 2))[0]
    padded = np.hstack([x, np.zeros((len(x), 7))])
    order = rng.permutation(len(x))
    size = {"dimension": x.shape[1]} if name in ("sfda", "h_score") else {}
    others = turned, padded, scores.coordinates(x @ x.T)
    again = [OF_CLASSES[name](other, y, **size) for other in others]
    assert again == pytest.approx([value] * 3, rel=1e-6)
    if name != "n_leep":  # whose mixture's start depends on the order
        assert OF_CLASSES[name](x[order], y[order]) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("name", ["h_score", "nearest", "n_leep", "trans_rate", "sfda"])
def test_the_unit_of_the_features_does_not_count(name, iris):
    x, y = iris
    assert OF_CLASSES[name](1e-3 * x, y) == pytest.approx(OF_CLASSES[name](x, y), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in OF_CLASSES if name != "nearest"])
def test_classes_that_are_further_apart_score_more(name):
    rng = np.random.default_rng(2)
    y = np.arange(60) % 3
    noise, centres = rng.normal(size=(60, 20)), rng.normal(size=(3, 20))[y]
    found = [OF_CLASSES[name](noise + far * centres, y) for far in (0.3, 1, 3)]
    if name != "trans_rate":  # which falls where there is little but the classes
        assert found == sorted(found)
    mixed = OF_CLASSES[name](noise + centres, rng.permutation(y))
    assert mixed < found[1]


def test_the_h_score_is_that_of_features(wide):
    x, y = wide
    x = x - x.mean(axis=0)
    count, size = x.shape
    covariance = x.T @ x / count
    mean = np.trace(covariance) / size
    noise = np.sum((x * x).T @ (x * x)) / count - np.sum(covariance**2)
    shrinkage = noise / count / np.sum((covariance - mean * np.eye(size)) ** 2)
    assert 0 < shrinkage < 1
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean * np.eye(size)
    means = np.array([x[y == c].mean(axis=0) for c in y])
    between = means.T @ means / (count - 1)
    wanted = np.trace(np.linalg.solve(shrunk, (1 - shrinkage) * between))
    assert scores.h_score(x, y) == pytest.approx(wanted, rel=1e-10)


def test_the_coding_rate_is_that_of_features(wide):
    x, y = wide
    x = x - x.mean(axis=0)
    x = x / np.sqrt(np.trace(x @ x.T))

    def rate(some):
        inner = some.T @ some / (len(some) * 1e-4)
        return 0.5 * np.linalg.slogdet(np.eye(x.shape[1]) + inner)[1]

    wanted = rate(x) - sum(np.mean(y == c) * rate(x[y == c]) for c in range(4))
    assert scores.trans_rate(x, y) == pytest.approx(wanted, rel=1e-10)


def test_overlap_and_leep_by_hand(iris):
    x, y = iris
    total, parts = 0.0, [x[y == c] for c in range(3)]
    for i, a in enumerate(parts):
        for j, b in enumerate(parts):
            if i != j:
                va, vb = (np.mean(np.sum((p - p.mean(axis=0)) ** 2, axis=1)) / 4 for p in (a, b))
                v = (va + vb) / 2
                apart = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) / v / 8
                total -= np.exp(-(apart + 2 * np.log(v / np.sqrt(va * vb))))
    assert scores.gaussian_overlap(x, y) == pytest.approx(total, rel=1e-10)
    parts = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    # P(y, z): class 0 has texts 0 and 2, class 1 text 1
    given = np.array([[1.2, 0.8], [0.2, 0.8]]) / np.array([1.4, 1.6])
    wanted = np.log([given[c] @ p for c, p in zip((0, 1, 0), parts, strict=True)]).mean()
    assert scores.leep(parts, [0, 1, 0]) == pytest.approx(wanted)


def test_parc_by_hand(wide):
    x, y = wide
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    pairs = [(i, j) for i in range(40) for j in range(i + 1, 40)]
    ours = rankdata([1 - np.corrcoef(z[i], z[j])[0, 1] for i, j in pairs])
    theirs = rankdata([float(y[i] != y[j]) for i, j in pairs])
    wanted = 100 * np.corrcoef(ours, theirs)[0, 1]
    assert scores.parc(x, np.eye(4)[y]) == pytest.approx(wanted, rel=1e-9)
    constant = np.hstack([x, np.ones((40, 1))])
    assert scores.parc(constant, np.eye(4)[y]) == pytest.approx(wanted, rel=1e-9)
    line = np.linspace(0, 1, 40)
    assert scores.parc(np.outer(line, [1.0, -2, 3]) + x[:, :3] / 50, line) > 50


def test_sfda_is_two_discriminants(iris):
    x, y = iris
    x = x - x.mean(axis=0)
    x = x / np.sqrt(np.mean(np.sum(x**2, axis=1)))
    means = np.array([x[y == c].mean(axis=0) for c in range(3)])
    within = np.cov((x - means[y]).T, bias=True)
    shrinkage = np.exp(-5 * np.linalg.eigvalsh(within)[-1])

    def discriminant(some):
        # scikit-learn shrinks each class towards its own mean variance: the mean is the same
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(some, y)

    sure = discriminant(x).predict_proba(x)[np.arange(150), y][:, None]
    others = np.array([x[y != c].mean(axis=0) for c in range(3)])
    harder = sure * x + (1 - sure) * others[y]
    wanted = discriminant(harder).predict_log_proba(harder)[np.arange(150), y].mean()
    assert scores.sfda(iris[0], y) == pytest.approx(wanted, rel=1e-8)


def test_neighbours_of_scores_are_averaged():
    line = np.linspace(0, 1, 30)
    assert scores.nearest(line[:, None], line, 2) > 0.99
    rng = np.random.default_rng(3)
    assert abs(scores.nearest(rng.normal(size=(300, 5)), rng.normal(size=300))) < 0.2


def test_a_class_without_a_text_is_told(iris):
    x, y = iris
    for labels, told in ((y * 2, r"\[50, 0, 50, 0, 50\]"), (y * 0, r"\[150\]")):
        for name in ("h_score", "gaussian_overlap", "sfda"):
            with pytest.raises(UserError, match=told):
                OF_CLASSES[name](x, labels)


def test_the_evidence_of_fewer_texts_than_features_is_the_normal_laws():
    """There the published code's fixed point diverges: 5.37 in place of about −1."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(100, 576)), rng.normal(size=(100, 1))
    kernel = x @ x.T
    found = log_evidence(kernel, y)
    padded = np.hstack([x, np.zeros((100, 100))])
    assert log_evidence(padded @ padded.T, y) == pytest.approx(found, rel=1e-12)
    best = max(
        multivariate_normal(cov=a * kernel / 576 + b * np.eye(100)).logpdf(y[:, 0]) / 100
        for a in np.logspace(-8, 0.5, 25)
        for b in np.linspace(0.3, 1.6, 40)
    )
    assert best - 1e-9 <= found < best + 2e-3
    assert -1.6 < found < -0.9
