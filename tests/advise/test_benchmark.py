"""How predictions are judged: known answers of each part."""

import numpy as np
import pandas as pd
import pytest

from ntktune.advise.benchmark import (
    CALIBRATED,
    LAST_TIME,
    OURS,
    SHRINKAGE,
    asked_for,
    asked_for_gain,
    by_scores,
    curve_cases,
    kernel_cases,
    measured_errors,
    paired,
    score_cases,
)
from ntktune.advise.calibration import links
from ntktune.errors import UserError

SIZES = np.array([32, 64, 128, 256])


def test_measured_errors_are_those_of_ridge_regression_on_the_features():
    random = np.random.default_rng(0)
    features = random.standard_normal((60, 12)) * np.arange(12, 0, -1)
    label = features[:, :2] @ [[0.1, 0.2], [0.3, -0.1]] + random.standard_normal((60, 2))
    found = measured_errors(
        features @ features.T, label, [30], np.random.default_rng(1), splits=1, tested=np.arange(9)
    )
    order = np.arange(9, 60)[np.random.default_rng(1).permutation(51)[:30]]
    mean, x = label[order].mean(axis=0), features[order] - features[order].mean(axis=0)
    errors = []
    for share in SHRINKAGE:
        ridge = share * np.linalg.eigvalsh(x @ x.T)[-1]
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(12), x.T @ (label[order] - mean))
        answers = (features[:9] - features[order].mean(axis=0)) @ weights + mean
        errors.append(np.mean(np.sum((answers - label[:9]) ** 2, axis=1)))
    assert found == pytest.approx([min(errors)], rel=1e-9)


@pytest.mark.parametrize(
    ("way", "curve"),
    [
        ("a + b log n", lambda n: 0.2 + 0.05 * np.log(n)),
        ("power law", lambda n: 1 - 0.9 * n**-0.3),
        ("power law, last three", lambda n: 1 - 0.9 * n**-0.3),
        ("x^p", lambda n: 0.5 + 0.5 * (np.log2(n) / np.log2(5000)) ** 0.7),
        ("last score", lambda n: np.full(np.shape(n), 0.7)),
    ],
)
def test_each_way_predicts_its_own_curve(way, curve):
    wanted = np.array([512, 1024])
    assert by_scores(SIZES, curve(SIZES), wanted, 0.5)[way] == pytest.approx(
        curve(wanted), abs=2e-3
    )


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_calibrated_kernel_needs_the_curves_shape_alone(kind):
    classes = kind == "classification"
    link, back = links(classes=classes)
    score = pd.Series(np.linspace(0.4, 0.7, 4), SIZES)
    ends = {"score_low": score.to_numpy() - 0.1, "score_high": score.to_numpy() + 0.1}
    kernel = pd.DataFrame({"n": SIZES, "score": score.to_numpy(), "base": 0.3, "pilot": 64} | ends)
    true = back(link(score) + 0.5)
    trained = pd.DataFrame({"n": SIZES, "score": true, "seed": 0})
    found = score_cases(kernel.assign(repeat=0), trained, classes=classes)
    own = found.set_index(["way", "n"])
    assert own.loc[CALIBRATED, "predicted"].tolist() == pytest.approx(true.tolist())
    assert own.loc[OURS, "predicted"].tolist() == score.tolist()
    assert own.loc["last score", "predicted"].tolist() == [*true[:2], true[64], true[64]]
    assert own.loc[(OURS, 128), "low"] == pytest.approx(score[128] - 0.1)


def cases_of(ways, true, task="x", pilot=32, base=0.25, sizes=(64, 128, 256)):
    """A task's cases: what ways predict of true scores."""
    about = {"task": task, "pilot": pilot, "repeat": 0, "base": base, "sd": 0.01}
    return pd.DataFrame(
        about | {"way": way, "n": n, "predicted": p, "true": t}
        for way, values in ways.items()
        for n, p, t in zip(sizes, values, true, strict=True)
    )


def test_what_is_asked_for_missed_and_wasted():
    true = np.array([0.5, 0.625, 0.75])
    cases = cases_of({"right": true, "low": true - 0.125, "high": true + 0.125}, true)
    found = asked_for(cases).set_index(["way", "n"])
    assert found.loc["right", "asked"].tolist() == pytest.approx([64, 128, 256])
    assert found.loc["right", ["missed", "wasted"]].to_numpy() == pytest.approx(0)
    assert found.loc["low", "never"].tolist() == [False, False, True]
    assert found.loc["low", "wasted"].tolist() == pytest.approx([1, 1, 0])
    assert found.loc["high", "asked"].tolist() == pytest.approx([64, 64, 128])
    assert found.loc["high", "missed"].tolist() == pytest.approx([0, 0.125, 0.125])
    # whether 256 is too many cannot be told: nothing larger was trained
    assert found["steep"].unstack().to_numpy().tolist() == [[True, True, False]] * 3


def test_doublings_are_infinite_where_a_score_is_never_reached():
    true = np.array([0.5, 0.625, 0.75])
    found = asked_for(cases_of({"low": true - 0.125, "high": true + 0.125}, true))
    octaves = found.set_index(["way", "n"])["octaves"]
    assert octaves["low"].tolist() == pytest.approx([1, 1, np.inf])
    assert octaves["high"].tolist() == pytest.approx([0, 1, 1])


def test_a_score_that_the_pilot_has_is_no_case():
    cases = cases_of({"right": [0.5, 0.6, 0.7]}, [0.5, 0.6, 0.7], pilot=64)
    assert asked_for(cases)["n"].tolist() == [128, 256]


def test_what_is_asked_for_most_of_the_gain():
    """Of 0.5 more than the base, 0.475 are wanted: 0.725, at 2^(8 - 0.2) of 256 examples."""
    true = np.array([0.5, 0.625, 0.75])
    flat, quick = np.array([0.5, 0.5, 0.5]), np.array([0.5, 0.75, 0.76])
    ways = {"right": true, "flat": flat, "quick": quick}
    every = [cases_of(ways, true)]
    every += [cases_of({"right": quick}, quick, task=task) for task in ("y", "z")]
    every += [cases_of({"right": flat}, flat, task="learned nothing", base=0.49)]
    found = asked_for_gain(pd.concat(every))
    assert set(found["task"]) == {"x", "y", "z"}
    own = found[found["task"] == "x"].set_index("way")
    assert own["needs"].tolist() == pytest.approx([2**7.8] * 4)
    assert own.loc["right", ["missed", "wasted"]].tolist() == pytest.approx([0, 0])
    assert own.loc["flat", "asked"] == 64
    assert own.loc["flat", "missed"] == pytest.approx(0.225)
    n = 2 ** (6 + (0.25 + 0.95 * 0.51 - 0.5) / 0.25)
    assert own.loc[["quick", LAST_TIME], "asked"].tolist() == pytest.approx([n, n])
    assert not own["never"].any()
    assert set(asked_for_gain(every[0])["way"]) == set(ways)  # there is no other task


def test_curves_that_were_measured_are_predicted_from_their_smaller_samples():
    sizes = np.array([50, 100, 200, 400, 800])
    curves = pd.DataFrame(
        {"model": model, "task": task, "n": [0, *sizes], "score": [0.1, *(1 - height * law)]}
        for height, model, task in ((0.8, "a", "x"), (0.9, "a", "y"), (0.8, "b", "x"))
        for law in (sizes**-0.2,)
    ).explode(["n", "score"], ignore_index=True)
    curves = curves.astype({"n": int, "score": float})
    found = curve_cases(curves, [100, 400, 800])
    assert set(found["pilot"]) == {100, 400}  # nothing is larger than 800
    assert (found["base"] == 0.1).all()
    law = found[found["way"] == "power law"]
    assert law["predicted"].to_numpy() == pytest.approx(law["true"].to_numpy(), abs=1e-6)
    assert (law.groupby(["model", "task", "pilot"]).size() == len(sizes)).all()
    off = (found["predicted"] / found["true"] - 1).abs()
    assert found["off"].tolist() == off.tolist()
    loss = curve_cases(curves, [100], losses=True)
    off = ((1 - loss["predicted"]) / (1 - loss["true"]) - 1).abs()
    assert loss["off"].tolist() == off.tolist()
    assert loss["off"].max() > 0.1
    asked = asked_for(found)
    assert asked[asked["way"] == "power law"]["wasted"].to_numpy() == pytest.approx(0, abs=1e-4)
    gain = asked_for_gain(found)
    assert set(gain.loc[gain["way"] == LAST_TIME, "model"]) == {"a"}  # b has one task


def test_differences_are_paired_by_task():
    table = pd.DataFrame(
        {"task": task, "way": way, "off": hard + (way == "b") * 0.1}
        for task, hard in (("x", 0.1), ("y", 0.9), ("z", 0.5))
        for way in ("a", "b")
    )
    found = paired(table, "off", "a")
    assert found.loc["b", "above"] == pytest.approx(0.1)
    assert found.loc["b", ["low", "high"]].tolist() == pytest.approx([0.1, 0.1])
    assert found.loc["a", "mean"] == pytest.approx(0.5)
    found = paired(table.assign(off=table["off"].where(table["way"] == "a")), "off", "a")
    assert found.loc["b"].isna().tolist() == [True, True, False, True, True]  # it counts no task


def test_pilots_are_judged_where_the_kernel_has_texts_left():
    random = np.random.default_rng(0)
    features = random.standard_normal((80, 200)) * np.arange(1, 201.0) ** -0.7
    label = np.sign(features[:, :1] + 0.3 * random.standard_normal((80, 1)))
    some = (features @ features.T, label)
    how = {"repeats": 2, "classes": True}
    rows = kernel_cases([some[0]] * 2, [label] * 2, [16], [24], random, **how)
    found = pd.DataFrame(rows)
    assert sorted(found["n"].unique()) == [16, 24, 32, 64, 128, 256]
    known = found.dropna(subset="true")
    assert sorted(known["n"].unique()) == [16, 32]  # 20 texts are left to measure on
    ours = known[known["way"] == OURS]
    assert (ours["error_low"] < ours["error"]).all()
    assert ours["error"].to_numpy() == pytest.approx(ours["true"].to_numpy(), rel=0.6)
    assert sorted(found["draw"].unique()) == [0, 1]
    with pytest.raises(UserError, match="80 texts, fewer than a pilot of 100; raise"):
        kernel_cases([some[0]], [label], [16, 100], [24], random, **how)
    with pytest.raises(UserError, match="all 80 texts of a draw have the same label"):
        kernel_cases([some[0]], [0 * label], [16], [24], random, **how)


def test_a_pilot_with_one_text_of_a_class_is_judged():
    """The part that is held out must leave the text that is unlike all others in the training."""
    random = np.random.default_rng(0)
    features = random.standard_normal((40, 30))
    label = np.where(np.arange(40) == 7, 1.0, -1.0)[:, None]
    how = {"repeats": 3, "classes": True, "precision": 1e-15, "progress": lambda done: None}
    found = kernel_cases([features @ features.T], [label], [20], [], random, **how)
    assert found
