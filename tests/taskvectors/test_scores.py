"""Scores from answers: known tables, the choice on validation rows, leaked rows left out."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from ntktune.errors import UserError
from ntktune.taskvectors.scores import (
    chosen_coefficient,
    merged_table,
    negated_table,
    score,
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
            "coefficient": float(coefficient),
            "part": ["validation"] * 4 + ["test"] * 8,
            "row": rows,
            "label": label,
            "output": output,
            **more,
        }
    )


def negated(rights, slope=0.0):
    """Return negation sweeps of a and b: coefficient → how many answers are right."""
    parts = []
    for target, task in itertools.product("ab", repeat=2):
        for coefficient, right in rights[target, task].items():
            found = answers(task, "classification", coefficient, right, slope=slope)
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


NOTHING = pd.DataFrame({"task": [], "other": [], "seed": [], "row": []})


def test_score():
    assert score("classification", np.array([0, 1, 1]), np.array([-1.0, 2, -3])) == 2 / 3
    label = np.array([1.0, 2, 4])
    assert score("regression", label, 3 * label - 1) == pytest.approx(1)
    assert math.isnan(score("regression", label[:0], label[:0]))


def test_the_sweep_has_every_coefficient_and_the_pretrained_model(added):
    sweep = sweep_table(added, negated(RIGHTS))
    assert len(sweep) == 2 * 2 * 3
    found = sweep.set_index(["task", "part", "coefficient"])
    assert found["score"]["a"]["test"].to_dict() == {0: 0.5, 0.5: 1.0, 1: 0.5}
    assert found["score"]["b"]["validation"].to_dict() == {0: 0.5, 0.5: 0.75, 1: 1.0}
    assert set(sweep["single"]) == {1.0}
    assert found["normalised"].equals(found["score"])
    assert found["rows"]["a"]["test"].tolist() == [8, 8, 8]
    without = negated(RIGHTS).query("target != 'b'")
    with pytest.raises(UserError, match=r"a \+ b has answers to task 'b', seed 0, but no negation"):
        sweep_table(added, without)


def test_the_coefficient_is_chosen_on_validation_rows_only(added):
    """Test rows that contradict the validation rows change nothing."""
    sweep = sweep_table(added, negated(RIGHTS))
    assert chosen_coefficient(sweep) == 0.5  # means: 0.5, 0.875, 0.75
    spoilt = added.copy()
    spoilt.loc[(spoilt["part"] == "test") & (spoilt["coefficient"] == 0.5), "output"] *= -1
    assert chosen_coefficient(sweep_table(spoilt, negated(RIGHTS))) == 0.5
    spoilt = added.copy()
    spoilt.loc[(spoilt["part"] == "validation") & (spoilt["coefficient"] == 0.5), "output"] *= -1
    assert chosen_coefficient(sweep_table(spoilt, negated(RIGHTS))) == 1.0
    tied = sweep.assign(score=0.5, normalised=0.5)
    assert chosen_coefficient(tied) == 0.0  # the least change


def test_no_share_of_a_score_that_is_not_above_zero_is_averaged():
    """Of single scores 0.1 and −0.1 the ratios 3 and −8 would choose by the worse task."""
    rows = [
        ("a", "validation", 0.0, 0.1, 0.1), ("b", "validation", 0.0, 0.1, -0.1),
        ("a", "validation", 1.0, 0.3, 0.1), ("b", "validation", 1.0, 0.8, -0.1),
    ]  # fmt: skip
    sweep = pd.DataFrame(rows, columns=["task", "part", "coefficient", "score", "single"])
    sweep["normalised"] = sweep["score"] / sweep["single"]
    assert sweep.groupby("coefficient")["normalised"].mean().idxmax() == 0.0
    assert chosen_coefficient(sweep) == 1.0


def test_merged_scores_with_and_without_leaked_rows(added):
    lines = negated(RIGHTS)
    sweep = sweep_table(added, lines)
    leaked = pd.DataFrame(
        [("a", "b", 0, 4), ("a", "a", 0, 11), ("a", "c", 0, 5), ("a", "b", 1, 6), ("a", "b", 0, 0)],
        columns=["task", "other", "seed", "row"],
    )  # rows 4 and 11 count: c is not merged, seed 1 another, row 0 no test row
    found = merged_table(added, lines, sweep, leaked, 1.0).set_index(["task", "choice"])
    assert len(found) == 4
    fixed = found.loc["a", "fixed"]
    assert (fixed["coefficient"], fixed["pretrained"], fixed["single"]) == (1, 0.5, 1)
    assert fixed["merged_score"] == fixed["normalised"] == 0.5
    assert (fixed["rows"], fixed["leaked"]) == (8, 2)
    assert fixed["merged_clean"] == fixed["normalised_clean"] == 0.5  # right: 3 of 6
    chosen = found.loc["b", "validation"]
    assert (chosen["coefficient"], chosen["merged_score"]) == (0.5, 0.75)
    assert (chosen["leaked"], chosen["merged_clean"]) == (0, 0.75)
    everything = pd.DataFrame({"task": "a", "other": "b", "seed": 0, "row": list(TEST)})
    none_left = merged_table(added, lines, sweep, everything, 1.0).iloc[0]
    assert none_left["leaked"] == 8
    assert math.isnan(none_left["merged_clean"])
    with pytest.raises(UserError, match=r"a \+ b has no answers at coefficient 0.7, seed 0"):
        merged_table(added, lines, sweep, NOTHING, 0.7)
    start = merged_table(added, lines, sweep, NOTHING, 0.0)
    assert start.query("choice == 'fixed'")["merged_score"].tolist() == [0.5, 0.5]


def test_negation_chooses_the_largest_coefficient_that_controls_bear():
    table = negated_table(negated(RIGHTS))
    assert set(table["coefficient"]) == {0, 0.5, 1}
    chosen = table[table["chosen"]].groupby("target")["coefficient"].agg(["min", "max"])
    assert chosen.loc["a"].tolist() == [0.5, 0.5]  # at 1 the control b falls to a half
    assert chosen.loc["b"].tolist() == [1, 1]
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
                        "coefficient": coefficient,
                        "part": ["validation"] * 10 + ["test"] * 20,
                        "row": range(30),
                        "label": label,
                        "output": start - coefficient * moved,
                        "slope": moved,
                    }
                )
            )
    # the order of the rows means nothing
    table = negated_table(pd.concat(rows).sample(frac=1, random_state=0, ignore_index=True))
    np.testing.assert_allclose(table["gap"], table["predicted_gap"], atol=1e-12)
    np.testing.assert_allclose(table["score"], table["linear_score"], atol=1e-12)
    wanted = 2 * label - 1 if kind == "classification" else label
    at = table.query("task == 'a' and part == 'test' and coefficient == 2").iloc[0]
    error = np.mean((start - 2 * slope - wanted)[10:] ** 2)
    assert at["error"] == pytest.approx(error)
    assert at["gap"] == pytest.approx(error - np.mean((start - wanted)[10:] ** 2))
