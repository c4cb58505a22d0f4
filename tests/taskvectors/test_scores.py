"""Scores from answers: known tables, the choice on validation rows, leaked rows left out."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as peer

from ntktune.errors import UserError
from ntktune.taskvectors.scores import (
    Leaks,
    chosen_coefficient,
    merged_table,
    negated_table,
    sweep_table,
)

VALIDATION, TEST = range(4), range(4, 12)


def answers(task, kind, coefficient, right, **more):
    """Return 12 answers to a two-class task, of which the first ``right`` of each part are right.

    Of a regression the answer is the label times 2 with that many signs kept.
    """
    rows = [*VALIDATION, *TEST]
    label = np.array([i % 2 for i in rows], float)
    good = np.array([i < right for i in range(4)] + [i < 2 * right for i in range(8)])
    output = np.where(good, 1.0, -1.0) * (2 * label - 1)
    if kind == "regression":
        label = 2 * label - 1
    return pd.DataFrame(
        {
            "task": task,
            "kind": kind,
            "metric": "pearson" if kind == "regression" else "accuracy",
            "coefficient": float(coefficient),
            "part": ["validation"] * 4 + ["test"] * 8,
            "row": rows,
            "label": label,
            "column": 0,
            "output": output,
            **more,
        }
    )


def negated(rights, slope=0.0):
    """Return negation sweeps of a and b: coefficient → how many answers are right."""
    parts = []
    for target, task in itertools.product("ab", repeat=2):
        for coefficient, right in rights[target, task].items():
            found = answers(task, "classification", coefficient, right, slope=slope, random=np.nan)
            parts.append(found.assign(target=target, seed=0))
    return pd.concat(parts, ignore_index=True)


RIGHTS = {
    ("a", "a"): {0: 2, -1: 4, 0.5: 1, 1: 0},
    ("a", "b"): {0: 2, 0.5: 2, 1: 1},
    ("b", "b"): {0: 2, -1: 4, 0.5: 2, 1: 2},
    ("b", "a"): {0: 2, 0.5: 2, 1: 2},
}


@pytest.fixture
def added():
    """Return an addition sweep of a + b: at 0.5 a is best and b still fair."""
    rights = {"a": {0.5: 4, 1: 2}, "b": {0.5: 3, 1: 4}}
    parts = [
        answers(task, "classification", coefficient, right)
        for task, of in rights.items()
        for coefficient, right in of.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(merged="a + b", seed=0)


def test_of_three_classes_the_largest_logit_counts():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 20)
    logits = {c: random.normal(size=(20, 3)) for c in (0, 0.5, 1, -1)}
    logits = {c: found - found.mean(axis=1, keepdims=True) for c, found in logits.items()}
    slope = random.normal(size=(20, 3))
    parts = [
        pd.DataFrame(
            {
                "task": "t",
                "kind": "classification",
                "metric": "f1",
                "seed": 0,
                "coefficient": float(c),
                "part": np.repeat(np.where(np.arange(20) < 8, "validation", "test"), 3),
                "row": np.repeat(range(20), 3),
                "label": np.repeat(labels, 3).astype(float),
                "column": np.tile(range(3), 20),
                "output": found.ravel(),
                "slope": slope.ravel(),
                "random": np.nan,
                "target": "t",
            }
        )
        for c, found in logits.items()
    ]
    whole = pd.concat(parts).sample(frac=1, random_state=1, ignore_index=True)
    table = negated_table(whole, leaks(("t", "test", "t", 0, 9)))
    table = table[table["part"] == "test"].set_index("coefficient")
    tested, wanted = slice(8, 20), np.eye(3)[labels] - 1 / 3
    for c in (0, 0.5, 1):
        own = logits[c]
        found = peer.f1_score(labels[tested], own[tested].argmax(1), average="macro")
        assert table["score"][c] == pytest.approx(found)
        error = ((own - wanted)[tested] ** 2).mean()
        assert table["error"][c] == pytest.approx(error)
        linear = logits[0] - c * slope
        gap = ((linear - wanted)[tested] ** 2 - (logits[0] - wanted)[tested] ** 2).mean()
        assert table["predicted_gap"][c] == pytest.approx(gap, abs=1e-12)
        found = peer.f1_score(labels[tested], linear[tested].argmax(1), average="macro")
        assert table["linear_score"][c] == pytest.approx(found)
        left = [row for row in range(8, 20) if row != 9]
        found = peer.f1_score(labels[left], own[left].argmax(1), average="macro")
        assert table["score_clean"][c] == pytest.approx(found)
    assert (table["rows"].tolist(), table["rows_clean"].tolist()) == ([12] * 3, [11] * 3)


def leaks(*rows):
    """Return leaks: task, part, other, seed, row of each."""
    return Leaks(pd.DataFrame(rows, columns=["task", "part", "other", "seed", "row"]))


NOTHING = leaks()
ALL = (0.0, 0.5, 1.0)


def test_the_sweep_has_every_coefficient_and_the_pretrained_model(added):
    sweep = sweep_table(added, negated(RIGHTS), NOTHING)
    assert len(sweep) == 2 * 2 * 3
    found = sweep.set_index(["task", "part", "coefficient"])
    assert found["score"]["a"]["test"].to_dict() == {0: 0.5, 0.5: 1.0, 1: 0.5}
    assert found["score"]["b"]["validation"].to_dict() == {0: 0.5, 0.5: 0.75, 1: 1.0}
    assert set(sweep["single"]) == {1.0}
    assert found["normalised"].equals(found["score"])
    assert found["rows"]["a"]["test"].tolist() == [8, 8, 8]
    without = negated(RIGHTS).query("target != 'b'")
    with pytest.raises(UserError, match=r"a \+ b has answers to task 'b', seed 0, but no negation"):
        sweep_table(added, without, NOTHING)


def test_the_coefficient_is_chosen_on_validation_rows_only(added):
    """Test rows that contradict the validation rows change nothing."""
    sweep = sweep_table(added, negated(RIGHTS), NOTHING)
    assert chosen_coefficient(sweep, ALL) == 0.5  # means: 0.5, 0.875, 0.75
    spoilt = added.copy()
    spoilt.loc[(spoilt["part"] == "test") & (spoilt["coefficient"] == 0.5), "output"] *= -1
    assert chosen_coefficient(sweep_table(spoilt, negated(RIGHTS), NOTHING), ALL) == 0.5
    spoilt = added.copy()
    spoilt.loc[(spoilt["part"] == "validation") & (spoilt["coefficient"] == 0.5), "output"] *= -1
    assert chosen_coefficient(sweep_table(spoilt, negated(RIGHTS), NOTHING), ALL) == 1.0
    tied = sweep.assign(score_clean=0.5)
    assert chosen_coefficient(tied, ALL) == 0.0  # the least change
    assert chosen_coefficient(tied, (0.5, 1.0)) == 0.5
    assert chosen_coefficient(sweep, (0.0, 1.0)) == 1.0  # 0.5 was swept, but is no candidate
    with pytest.raises(UserError, match=r"a \+ b to task 'a', seed 0, are given more than once"):
        sweep_table(pd.concat([added, added]), negated(RIGHTS), NOTHING)
    fewer = added[added["row"] != 0]
    with pytest.raises(UserError, match="have answers to other validation rows; make both again"):
        sweep_table(fewer, negated(RIGHTS), NOTHING)


def test_validation_rows_that_another_task_was_trained_on_have_no_say(added):
    lines = negated(RIGHTS)
    known = leaks(("a", "validation", "b", 0, 0), ("a", "validation", "b", 0, 1))
    sweep = sweep_table(added, lines, known)
    rows = sweep.query("task == 'a' and part == 'validation'")
    assert rows["rows"].tolist() == [4, 4, 4]
    assert rows["rows_clean"].tolist() == [2, 2, 2]
    # of a's rows 2 and 3: none right at 0, both at 0.5, none at 1; b: 0.5, 0.75, 1
    assert rows["score_clean"].tolist() == [0, 1, 0]
    assert chosen_coefficient(sweep, ALL) == 0.5
    # with one row left a has no say, and b chooses 1
    known = leaks(*(("a", "validation", "b", 0, row) for row in range(3)))
    sweep = sweep_table(added, lines, known)
    assert chosen_coefficient(sweep, ALL) == 1.0
    known = leaks(*((task, "validation", "b", 0, row) for task in "ab" for row in range(4)))
    sweep = sweep_table(added, lines, known)
    assert math.isnan(chosen_coefficient(sweep, ALL))
    table = merged_table(sweep, 1.0, ALL).set_index(["task", "choice"])
    assert (table["validation_rows"] == 0).all()
    assert math.isnan(table["merged_score"]["a", "validation"])
    assert table["merged_score"]["a", "fixed"] == 0.5


def test_no_share_of_a_score_that_is_not_above_zero_is_averaged(added):
    """Of single scores 0.1 and −0.1 the ratios 3 and −8 would choose by the worse task."""
    rows = [
        ("a", 0.0, 0.1, 0.1), ("b", 0.0, 0.1, -0.1), ("a", 1.0, 0.3, 0.1), ("b", 1.0, 0.8, -0.1),
    ]  # fmt: skip
    sweep = pd.DataFrame(rows, columns=["task", "coefficient", "score_clean", "single_clean"])
    sweep["metric"] = "pearson"
    ratios = sweep["score_clean"] / sweep["single_clean"]
    assert ratios.groupby(sweep["coefficient"]).mean().idxmax() == 0.0
    assert chosen_coefficient(sweep.assign(part="validation", rows_clean=9), ALL) == 1.0
    lines = negated(RIGHTS)
    lines.loc[(lines["coefficient"] == -1) & (lines["part"] == "test"), "output"] *= -1  # single 0
    table = sweep_table(added, lines, NOTHING)
    test = table["part"] == "test"
    assert table.loc[test, "normalised"].isna().all()
    assert table.loc[~test, "normalised"].notna().all()


def test_merged_scores_with_and_without_leaked_rows(added):
    lines = negated(RIGHTS)
    known = leaks(
        *[("a", "test", "b", 0, 4), ("a", "test", "a", 0, 11), ("a", "test", "c", 0, 5)],
        *[("a", "test", "b", 1, 6), ("a", "validation", "b", 0, 8)],
    )  # rows 4 and 11 count: c is not merged, seed 1 another, row 8 leaked as no test row
    sweep = sweep_table(added, lines, known)
    found = merged_table(sweep, 1.0, ALL).set_index(["task", "choice"])
    assert len(found) == 4
    fixed = found.loc["a", "fixed"]
    assert (fixed["coefficient"], fixed["pretrained"], fixed["single"]) == (1, 0.5, 1)
    assert fixed["merged_score"] == fixed["normalised"] == 0.5
    assert (fixed["rows"], fixed["leaked"], fixed["validation_rows"]) == (8, 2, 4)
    # of rows 5 to 10 the first three are right
    assert fixed["merged_clean"] == fixed["normalised_clean"] == 0.5
    chosen = found.loc["b", "validation"]
    assert (chosen["coefficient"], chosen["merged_score"]) == (0.5, 0.75)
    assert (chosen["leaked"], chosen["merged_clean"]) == (0, 0.75)
    everything = leaks(*(("a", "test", "b", 0, row) for row in TEST))
    none_left = merged_table(sweep_table(added, lines, everything), 1.0, ALL).iloc[0]
    assert none_left["leaked"] == 8
    assert math.isnan(none_left["merged_clean"])
    with pytest.raises(UserError, match=r"a \+ b has no answers at coefficient 0.7, seed 0"):
        merged_table(sweep, 0.7, ALL)
    start = merged_table(sweep, 0.0, ALL)
    assert start.query("choice == 'fixed'")["merged_score"].tolist() == [0.5, 0.5]


def test_negation_chooses_the_largest_coefficient_that_controls_bear():
    table = negated_table(negated(RIGHTS), NOTHING)
    assert set(table["coefficient"]) == {0, 0.5, 1}
    chosen = table[table["chosen"]].groupby("target")["coefficient"].agg(["min", "max"])
    assert chosen.loc["a"].tolist() == [0.5, 0.5]  # at 1 the control b falls to a half
    assert chosen.loc["b"].tolist() == [1, 1]
    # the rows in which the control falls were trained on: they have no say
    known = leaks(*(("b", "validation", "a", 0, row) for row in (1, 2)))
    found = negated_table(negated(RIGHTS), known)
    assert found[found["chosen"]].groupby("target")["coefficient"].max()["a"] == 1
    control = found.query("target == 'a' and task == 'b' and part == 'validation'")
    assert control["rows_clean"].tolist() == [2, 2, 2]
    assert control["score_clean"].tolist() == [0.5, 0.5, 0.5]
    assert control["score"].tolist() == [0.5, 0.5, 0.25]
    with pytest.raises(UserError, match="answers of a to task 'a', seed 0, are given more than"):
        negated_table(pd.concat([negated(RIGHTS)] * 2), NOTHING)
    own = table.query("target == task and target == 'a' and part == 'test'")
    assert own["score"].tolist() == [0.5, 0.25, 0.0]
    assert own["kept"].tolist() == [1, 0.5, 0]
    # f is 1 or −1: each wrong answer has a squared error of 4
    assert own["error"].tolist() == [2, 3, 4]
    assert own["gap"].tolist() == [0, 1, 2]
    assert own["predicted_gap"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_the_predicted_gap_is_exact_where_the_model_is_linear(kind):
    """E[2λ(y − f_P)Δ + λ²Δ²] against errors computed outright in float64."""
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 30).astype(float) if kind == "classification" else (
        random.normal(size=30)
    )  # fmt: skip
    start, slope = random.normal(size=30), random.normal(size=30)
    rows = []
    for task in "ab":  # b is a's control
        for coefficient in (0.0, 0.3, 2.0):
            moved = slope if task == "a" else 0 * slope
            rows.append(
                pd.DataFrame(
                    {
                        "target": "a",
                        "seed": 0,
                        "task": task,
                        "kind": kind,
                        "metric": "pearson" if kind == "regression" else "accuracy",
                        "coefficient": coefficient,
                        "part": ["validation"] * 10 + ["test"] * 20,
                        "row": range(30),
                        "label": label,
                        "column": 0,
                        "output": start - coefficient * moved,
                        "slope": moved,
                        # half of what the task vector does, where the target was asked
                        "random": start - moved
                        if task == "a" and coefficient == 2
                        else np.full(30, np.nan),
                    }
                )
            )
    # the order of the rows means nothing
    shuffled = pd.concat(rows).sample(frac=1, random_state=0, ignore_index=True)
    table = negated_table(shuffled, NOTHING)
    np.testing.assert_allclose(table["gap"], table["predicted_gap"], atol=1e-12)
    # a network that is not linear: the answers change, what the slope says of it does not
    bent = shuffled.assign(output=shuffled["output"] * (1 - 0.5 * (shuffled["coefficient"] > 0)))
    curved = negated_table(bent, NOTHING)
    np.testing.assert_array_equal(curved["predicted_gap"], table["predicted_gap"])
    np.testing.assert_array_equal(curved["linear_score"], table["score"])
    assert (curved["gap"] - curved["predicted_gap"]).abs().max() > 0.1
    wanted = 2 * label - 1 if kind == "classification" else label
    at = table.query("task == 'a' and part == 'test' and coefficient == 2").iloc[0]
    error = np.mean((start - 2 * slope - wanted)[10:] ** 2)
    assert at["error"] == pytest.approx(error)
    assert at["gap"] == pytest.approx(error - np.mean((start - wanted)[10:] ** 2))
    before = np.mean((start - wanted)[10:] ** 2)
    assert at["random_gap"] == pytest.approx(np.mean((start - slope - wanted)[10:] ** 2) - before)
    assert table["random_gap"].notna().sum() == 2  # validation and test


PEERS = {
    "pearson": lambda label, output: stats.pearsonr(label, output)[0],
    "spearman": lambda label, output: stats.spearmanr(label, output)[0],
    "mse": peer.mean_squared_error,
    "accuracy": lambda label, output: peer.accuracy_score(label, output > 0),
    "f1": lambda label, output: peer.f1_score(label, output > 0),
}


def wrong_by(size, metric, **more):
    """Return 12 validation and 28 test answers that differ from their labels by noise of a size."""
    random = np.random.default_rng(0)
    kind = "classification" if metric in ("accuracy", "f1") else "regression"
    label, noise = random.normal(0, 1, 40), random.normal(0, 1, 40)
    label = (label > 0.4).astype(float) if kind == "classification" else label
    right = 2 * label - 1 if kind == "classification" else label
    return pd.DataFrame(
        {
            "task": "a",
            "kind": kind,
            "metric": metric,
            "seed": 0,
            "slope": 0.0,
            "random": np.nan,
            "part": ["validation"] * 12 + ["test"] * 28,
            "row": range(40),
            "label": label,
            "column": 0,
            "output": right + size * noise,
            **more,
        }
    )


@pytest.mark.parametrize("metric", PEERS)
def test_every_metric_is_the_score_and_the_better_model_is_chosen(metric):
    """An MSE is better the smaller: what is chosen, normalised and kept goes by that."""
    sizes = {0.0: 4.0, 0.5: 0.9, 1.0: 2.0}
    merged = [wrong_by(sizes[c], metric, coefficient=c, merged="a + b") for c in (0.5, 1.0)]
    start, single = (
        wrong_by(size, metric, coefficient=c, target="a") for c, size in ((0, 4.0), (-1, 0.6))
    )
    sweep = sweep_table(pd.concat(merged), pd.concat([start, single]), NOTHING)
    assert set(sweep["metric"]) == {metric}
    of = PEERS[metric]
    for row in sweep.itertuples():
        found, alone = (
            table[table["part"] == row.part]
            for table in (wrong_by(sizes[row.coefficient], metric), single)
        )
        expected, reference = (of(some["label"], some["output"]) for some in (found, alone))
        assert row.score == pytest.approx(expected)
        share = reference / expected if metric == "mse" else expected / reference
        assert row.normalised == pytest.approx(share)
    assert chosen_coefficient(sweep, ALL) == 0.5
    unknown = sweep.assign(single_clean=0.0)  # nothing to normalise by
    assert chosen_coefficient(unknown.assign(score_clean=sweep["score_clean"]), ALL) == 0.5
    table = merged_table(sweep, 1.0, ALL).set_index("choice")
    assert (table["normalised_clean"] == table["normalised"]).all()
    assert table["normalised"]["validation"] > table["normalised"]["fixed"]


@pytest.mark.parametrize("metric", PEERS)
def test_a_control_keeps_its_score_by_every_metric(metric):
    sizes = {"a": {0: 1.0, 0.5: 3.0, 1: 5.0}, "b": {0: 0.5, 0.5: 0.502, 1: 2.0}}
    answered = [
        wrong_by(size, metric, coefficient=c, target="a").assign(task=task)
        for task, of in sizes.items()
        for c, size in of.items()
    ]
    table = negated_table(pd.concat(answered), NOTHING)
    assert table.loc[table["chosen"], "coefficient"].unique().tolist() == [0.5]
    kept = table[(table["task"] == "b") & (table["part"] == "test")].set_index("coefficient")
    assert (kept["metric"] == metric).all()
    assert kept["kept"][0] == 1
    assert kept["kept"][0.5] >= 0.95 > kept["kept"][1]
