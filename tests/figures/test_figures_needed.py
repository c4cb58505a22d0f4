import numpy as np
import pandas as pd
import pytest
from made_up_study import NAN, SIZES, metrics_table

from ntktune.figures.measures import METRIC_LABELS
from ntktune.figures.needed import gain_points, needed_interval, needed_size, reached_sizes


def metrics_of(task):
    return pd.concat([metrics_table(task, size) for size in SIZES], ignore_index=True)


def test_where_a_curve_reaches_a_share_by_hand():
    sizes = np.array([10, 100, 1000])
    curves = np.array(
        [
            [0.0, 0.9, 1.0],  # half of the way from 100 to 1000
            [0.96, 0.5, 1.0],  # at once
            [0.0, 1.0, 0.5],  # on the way to the best, which is not the last
            [-0.1, 0.0, -0.2],  # nowhere
            [0.1, np.nan, 0.2],
        ]
    )
    found = reached_sizes(sizes, curves)
    expected = [10**2.5, 10, 10**1.95, np.nan, np.nan]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(reached_sizes(sizes, curves[:1], share=0.45), 10**1.5)


@pytest.mark.parametrize("metric", METRIC_LABELS)
def test_gain_is_the_score_above_what_needs_no_learning(metric):
    metrics = metrics_of("rte" if metric in ("accuracy", "f1") else "stsb").assign(metric=metric)
    constant = {"mse": 2.2, "accuracy": 0.55, "f1": 0.45}.get(metric, 0.0)
    sign = -1 if metric == "mse" else 1
    gain = gain_points(metrics)
    np.testing.assert_allclose(gain["gain"], sign * (metrics[metric] - constant))
    found = needed_size(metrics, 50, np.random.default_rng(0))
    assert found["best_gain"] == pytest.approx(gain.groupby("n")["gain"].mean().max())


def test_a_majority_that_changes_with_the_sample_moves_no_gain():
    """Of classes as frequent as each other the majority is chance, and may test at 1/3 or 1/6."""
    metrics = metrics_of("rte")
    sizes = sorted(metrics["n"].unique())
    changing = metrics.assign(
        baseline_accuracy=metrics["n"].eq(sizes[-1]).map({True: 0.4, False: 0.6})
    )
    steady = metrics.assign(baseline_accuracy=0.6 - 0.2 / len(sizes))
    assert needed_size(changing) == pytest.approx(needed_size(steady), nan_ok=True)


def test_interval_over_seeds():
    metrics = metrics_of("stsb")
    random = np.random.default_rng(1)
    metrics["pearson"] += random.normal(0, 0.05, len(metrics))
    found = needed_size(metrics)
    assert found["needed_low"] < found["needed"] < found["needed_high"]
    assert found["best_size"] == 256
    best = metrics.loc[metrics["n"] == 256, "pearson"]
    assert [found["best_score"], found["best_score_sd"]] == [best.mean(), best.std()]
    one = needed_size(metrics[metrics["seed"] == 0])
    assert np.isfinite(one["needed"])
    assert np.isnan([one["needed_low"], one["needed_high"]]).all()


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize(
    ("sizes", "curve"),
    [((16, 32, 64), (0.2, 0.45, 0.55)), ((32, 96, 320, 1024), (0.2, 0.5, 0.7, 0.75))],
)
def test_the_interval_covers_with_few_seeds(count, sizes, curve):
    random, sizes, curve = np.random.default_rng(count), np.array(sizes), np.array(curve)
    truth, held, repeats = reached_sizes(sizes, curve[None])[0], 0, 1500
    for _ in range(repeats):
        low, high = needed_interval(sizes, curve + random.normal(0, 0.02, (count, len(sizes))))
        held += low <= truth <= high
    assert held / repeats == pytest.approx(0.95, abs=0.02)


def test_an_interval_without_an_end():
    sizes, curve = np.array([16, 32, 64]), np.array([0.0, 0.2, 0.3])
    unsure = curve + np.array([[0.0, 0.0, 0.0], [0.3, 0.3, 0.3], [-0.3, -0.3, -0.3]])
    low, high = needed_interval(sizes, unsure)
    assert 16 < low < 64
    assert high == np.inf
    assert np.isnan(needed_interval(sizes, unsure[:1])).all()
    sure = needed_interval(sizes, curve + np.zeros((3, 3)))
    assert sure == pytest.approx([reached_sizes(sizes, curve[None])[0]] * 2, rel=0.01)


def test_a_task_that_learns_nothing_needs_no_number():
    metrics = metrics_of("stsb").assign(pearson=-0.1)
    found = needed_size(metrics)
    assert np.isnan(found["needed"])
    assert found["best_gain"] == pytest.approx(-0.1)
    unknown = metrics_of("stsb").assign(pearson=NAN)
    assert np.isnan(needed_size(unknown)["needed"])


@pytest.mark.parametrize(
    ("curves", "undecided"),
    [
        ([(0.1, 0.5, 0.9)], True),  # one seed has no interval
        ([(0.1, 0.5, 0.9), (0.5, 0.1, 0.3)], True),  # no size is surely enough
        ([(0.1, 0.4, 0.5), (0.5, 0.4, 0.5), (0.8, 0.6, 0.5)], True),  # 16 to 64
        ([(0.1, 0.5, 0.9), (0.1, 0.51, 0.9), (0.1, 0.49, 0.9)], False),
    ],
)
def test_an_interval_that_tells_nothing_is_said(curves, undecided):
    rows = [
        {"metric": "pearson", "n": n, "seed": seed, "pearson": value}
        for seed, curve in enumerate(curves)
        for n, value in zip((16, 32, 64), curve, strict=True)
    ]
    assert needed_size(pd.DataFrame(rows))["needed_undecided"] is undecided


def test_where_the_number_is_a_bound_it_is_said():
    metrics = metrics_of("stsb")
    bounds = {}
    for name, curve in (
        ("rises", {32: 0.1, 64: 0.2, 128: 0.3, 256: 0.5}),
        ("flat", {32: 0.5, 64: 0.5, 128: 0.49, 256: 0.48}),
        ("between", {32: 0.1, 64: 0.3, 128: 0.5, 256: 0.49}),
    ):
        found = needed_size(
            metrics.assign(pearson=metrics["n"].map(curve)), 50, np.random.default_rng(0)
        )
        bounds[name] = found["needed_bound"]
    assert bounds == {"rises": "least", "flat": "most", "between": ""}
    one = needed_size(metrics[metrics["n"] == 64])
    assert np.isnan([one["needed"], one["needed_low"]]).all()
    # a size without a known score is left out, and not the task
    partly = metrics.assign(pearson=metrics["pearson"].where(metrics["n"] > 32))
    assert np.isfinite(needed_size(partly)["needed"])
