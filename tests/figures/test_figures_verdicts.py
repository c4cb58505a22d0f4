import numpy as np
import pandas as pd
import pytest
from made_up_study import (
    NAN,
    SIZES,
    TASKS,
    cosine_of,
    eigenvalue_table,
    fit_table,
    merged_of,
    metrics_table,
    stopping_of,
    summary_of,
)

from ntktune.figures.claims import claim_row
from ntktune.figures.table1 import decay_table
from ntktune.figures.verdicts import (
    error_falls,
    faster_decay_faster_fall,
    faster_decay_fewer_samples,
    merging_keeps,
    nearly_orthogonal,
    paper_order,
    power_law,
    predicted_rate,
    stopping_order,
    verdict_table,
)

YES, NO, UNTESTED = "reproduced", "not reproduced", "not tested"


@pytest.fixture(scope="module")
def metrics():
    return pd.concat([metrics_table(t, s) for t in TASKS for s in SIZES], ignore_index=True)


@pytest.fixture(scope="module")
def stopping():
    return pd.concat([stopping_of(t).assign(task=t) for t in TASKS], ignore_index=True)


def around(mean, spread=0.01, draws=5):
    return mean + spread * np.linspace(-1, 1, draws)


def test_power_law():
    good = power_law({"stsb": 0.99, "rte": 0.9})
    assert (good["verdict"], good["value"]) == (YES, 0.9)
    assert good["threshold"] == "≥ 0.9 (ours)"
    assert good["detail"] == "mean R² by task: stsb 0.99, rte 0.9"
    assert power_law({"stsb": 0.99, "rte": 0.89})["verdict"] == NO


EXPONENTS = {"semrel": around(1.6), "sts12": around(1.3), "stsb": around(1.0)}
MEASURED = {"semrel": 0.6, "sts12": 0.5, "stsb": 0.4}


class TestFasterDecayFasterFall:
    def row(self, metrics, exponents=None, measured=None):
        return faster_decay_faster_fall(
            "regression", exponents or EXPONENTS, measured or MEASURED, metrics, 0, 400
        )

    def test_clear_order(self, metrics):
        row = self.row(metrics)
        assert (row["verdict"], row["value"]) == (YES, pytest.approx(1.0))
        assert row["threshold"] == "τ > 0, and τ > 0 in ≥ 95% of bootstrap samples"
        assert row["detail"].startswith("τ > 0 in 100.0% of bootstrap samples; decay exponent and")
        assert "semrel 1.6 and 0.6, sts12 1.3 and 0.5, stsb 1 and 0.4" in row["detail"]
        assert row["source"] == "SR26 eq 30"

    def test_opposite_order(self, metrics):
        measured = {"semrel": 0.4, "sts12": 0.5, "stsb": 0.6}
        row = self.row(metrics, measured=measured)
        assert (row["verdict"], row["value"]) == (NO, pytest.approx(-1.0))

    def test_uncertain_order(self, metrics):
        exponents = {
            "semrel": around(1.03, 1.0),
            "sts12": around(1.02, 1.0),
            "stsb": around(1.01, 1.0),
        }
        row = self.row(metrics, exponents)
        assert row["value"] == pytest.approx(1.0)
        assert row["verdict"] == NO
        assert "the order is the claimed one, but uncertain: τ > 0 in" in row["detail"]

    def test_one_draw_or_one_seed_cannot_confirm_but_can_refute(self, metrics):
        single = {task: values[:1] for task, values in EXPONENTS.items()}
        row = self.row(metrics, single)
        assert row["verdict"] == UNTESTED
        assert "needs two draws and two seeds per task" in row["detail"]
        assert self.row(metrics[metrics["seed"] == 0])["verdict"] == UNTESTED
        refuted = self.row(metrics, single, {"semrel": 0.4, "sts12": 0.5, "stsb": 0.6})
        assert refuted["verdict"] == NO

    def test_equal_values_have_no_order(self, metrics):
        row = self.row(metrics, measured=dict.fromkeys(MEASURED, 0.5))
        assert row["verdict"] == UNTESTED
        assert row["detail"].startswith("all values are equal, so they have no order")

    def test_too_few_tasks_of_a_kind(self, metrics):
        measured = MEASURED | {"stsb": NAN}
        row = self.row(metrics, measured=measured)
        assert row["verdict"] == UNTESTED
        assert np.isnan(row["value"])
        assert row["detail"].startswith("regression tasks with both numbers: 2;")
        other = faster_decay_faster_fall("classification", EXPONENTS, MEASURED, metrics, 0, 10)
        assert other["verdict"] == UNTESTED


NEEDED = {"semrel": 185.0, "sts12": 193.0, "stsb": 201.0}


class TestFasterDecayFewerSamples:
    def row(self, metrics, needed=None):
        return faster_decay_fewer_samples(
            "regression", EXPONENTS, needed or NEEDED, metrics, 0, 400
        )

    def test_fewer_examples_for_a_faster_decay(self, metrics):
        row = self.row(metrics)
        assert (row["verdict"], row["value"]) == (YES, pytest.approx(1.0))
        assert "examples for 95% of the best score by task: semrel 1.6 and 185" in row["detail"]
        turned = self.row(metrics, dict(zip(NEEDED, (201.0, 193.0, 185.0), strict=True)))
        assert (turned["verdict"], turned["value"]) == (NO, pytest.approx(-1.0))

    def test_an_order_that_the_seeds_do_not_share_is_uncertain(self, metrics):
        mixed = metrics.copy()
        mixed.loc[(mixed["task"] == "stsb") & (mixed["seed"] > 0), "pearson"] = 0.9  # at once
        row = self.row(mixed)
        assert (row["verdict"], row["value"]) == (NO, pytest.approx(1.0))
        assert "uncertain" in row["detail"]

    def test_a_task_that_learns_nothing_has_no_such_number(self, metrics):
        row = self.row(metrics, NEEDED | {"stsb": NAN})
        assert row["verdict"] == UNTESTED
        assert row["detail"].startswith("regression tasks with both numbers: 2;")


class TestPaperOrder:
    def test_kept(self):
        exponents = {"stsb": around(1.0), "semrel": around(1.6), "sts12": around(1.3)}
        row = paper_order("regression", exponents, 0, 300)
        assert (row["verdict"], row["value"]) == (YES, pytest.approx(1.0))
        assert row["claim"].endswith("SemRel > STS-12 > STS-B")
        assert "the whole order in 100.0% of bootstrap samples" in row["detail"]
        assert "the paper's order is GPT-Neo-1.3B's" in row["detail"]

    def test_one_pair_the_other_way(self):
        exponents = {"amazon": around(1.0), "mrpc": around(1.2), "rte": around(0.9)}
        row = paper_order("classification", exponents, 0, 300)
        assert (row["verdict"], row["value"]) == (NO, pytest.approx(1 / 3))

    def test_uncertain(self):
        exponents = {
            "amazon": around(1.02, 0.5),
            "mrpc": around(1.01, 0.5),
            "rte": around(1.0, 0.5),
        }
        row = paper_order("classification", exponents, 0, 300)
        assert (row["verdict"], row["value"]) == (NO, pytest.approx(1.0))

    def test_one_draw(self):
        exponents = {"amazon": around(1.2)[:1], "mrpc": around(1.1)[:1], "rte": around(1.0)[:1]}
        assert paper_order("classification", exponents, 0, 300)["verdict"] == UNTESTED
        exponents["rte"] = around(3.0)[:1]
        assert paper_order("classification", exponents, 0, 300)["verdict"] == NO

    def test_other_tasks(self):
        row = paper_order("regression", {"stsb": around(1.0)}, 0, 300)
        assert row["verdict"] == UNTESTED
        assert row["detail"] == "not among the study's tasks: semrel, sts12"


def test_error_falls(metrics):
    row = error_falls(metrics)
    assert (row["verdict"], row["value"], row["threshold"]) == (YES, 6, "all tasks (6)")
    worse = metrics.copy()
    worse.loc[(worse["task"] == "rte") & (worse["n"] == 256), "accuracy"] = 0.01
    row = error_falls(worse)
    assert (row["verdict"], row["value"]) == (NO, 5)
    assert "rte 1.65" in row["detail"]  # from 0.6012 to 0.99
    row = error_falls(metrics[metrics["n"] == 64])
    assert row["verdict"] == UNTESTED
    assert row["detail"] == "one sample size only; a comparison needs two"


def test_predicted_rate():
    rates = pd.DataFrame(
        {
            "task": ["stsb", "rte"],
            "predicted_rate": [0.5, 0.4],
            "measured_exponent": [0.52, 0.3],
            "measured_low": [0.45, 0.2],
            "measured_high": [0.6, 0.41],
            "error_measure": ["MSE", "error rate"],
        }
    )
    row = predicted_rate(rates)
    assert (row["verdict"], row["value"]) == (YES, 1.0)
    assert "stsb 0.5 and 0.52 [0.45, 0.6]" in row["detail"]
    assert "for which the error rate stands in" in row["detail"]
    row = predicted_rate(rates.assign(measured_high=0.39))
    assert (row["verdict"], row["value"]) == (NO, 0.0)
    half = rates.assign(measured_low=[0.45, NAN], error_measure="MSE")
    row = predicted_rate(half)
    assert (row["verdict"], row["threshold"]) == (YES, "all tasks (1)")
    assert row["detail"].endswith("tasks without an interval: 1 of 2")
    assert "stands in" not in row["detail"]
    assert predicted_rate(rates.assign(measured_low=NAN))["verdict"] == UNTESTED


def test_nearly_orthogonal():
    cosine = cosine_of(["stsb", "rte", "mrpc"])
    row = nearly_orthogonal(cosine)
    assert row["verdict"] == YES
    assert row["threshold"] == "≤ 0.1 (ours)"
    pair = {"stsb", "rte"}
    chosen = [{a, b} == pair for a, b in zip(cosine["task_a"], cosine["task_b"], strict=True)]
    cosine.loc[chosen, "cosine"] = -0.3
    row = nearly_orthogonal(cosine)
    assert (row["verdict"], row["value"]) == (NO, 0.3)
    assert row["detail"].startswith("rte and stsb -0.3; mean |cosine| over 3 pairs")
    assert nearly_orthogonal(cosine[cosine["task_a"] == cosine["task_b"]])["verdict"] == UNTESTED
    cosine.loc[(cosine[["task_a", "task_b"]] == "mrpc").any(axis=1), "cosine"] = np.nan
    detail = nearly_orthogonal(cosine)["detail"]
    assert "over 1 pairs" in detail
    assert detail.endswith("2 pairs with a model that fine-tuning did not move")


def test_merging_keeps():
    merged = merged_of(["stsb", "rte", "mrpc"])
    # the merge of all three is not part of the claim
    merged.loc[merged["merged"] == "stsb + rte + mrpc", "normalised"] = 0.1
    row = merging_keeps(merged)
    assert (row["verdict"], row["value"]) == (YES, pytest.approx(0.96))
    assert row["threshold"] == "≥ 0.9 (ours)"
    assert "mean 0.965 over all scores (6)" in row["detail"]
    assert "for the pretrained weights with the same heads" in row["detail"]
    merged.loc[0, "normalised"] = 0.5
    row = merging_keeps(merged)
    assert (row["verdict"], row["value"]) == (NO, 0.5)
    assert row["detail"].startswith("smallest for stsb in stsb + rte")
    merged.loc[0, "single"] = -0.2
    row = merging_keeps(merged)
    assert row["verdict"] == YES
    assert "1 left out" in row["detail"]
    assert merging_keeps(merged.assign(single=0.0))["verdict"] == UNTESTED


def test_a_study_that_merges_nothing_leaves_these_claims_untested():
    none = cosine_of(["stsb", "rte"]).iloc[:0], merged_of(["stsb", "rte"]).iloc[:0]
    rows = nearly_orthogonal(none[0]), merging_keeps(none[1])
    assert [row["verdict"] for row in rows] == [UNTESTED, UNTESTED]


class TestStoppingOrder:
    def test_same_order(self, stopping, metrics):
        row = stopping_order(stopping, metrics, 0, 300)
        assert (row["verdict"], row["value"]) == (YES, pytest.approx(1.0))
        # best steps were made to rise where the sums fall
        assert row["detail"].endswith("best step -1")
        assert "semrel 122 and 0.0061" in row["detail"]

    def test_opposite_order(self, stopping, metrics):
        row = stopping_order(stopping.assign(eta=-stopping["eta"]), metrics, 0, 300)
        assert (row["verdict"], row["value"]) == (NO, pytest.approx(-1.0))

    def test_uncertain_order(self, stopping, metrics):
        wild = stopping["eta"] / 100 + np.where(stopping["draw"] % 2, 0.0, 100.0)
        row = stopping_order(stopping.assign(eta=wild), metrics, 0, 300)
        assert row["value"] > 0
        assert row["verdict"] == NO
        assert "uncertain" in row["detail"]

    def test_one_seed(self, stopping, metrics):
        row = stopping_order(stopping, metrics[metrics["seed"] == 0], 0, 300)
        assert row["verdict"] == UNTESTED

    def test_tasks_that_theory_never_stops_do_not_count(self, stopping, metrics):
        few = stopping[stopping["task"].isin(["stsb", "rte", "mrpc"])].reset_index(drop=True)
        few.loc[0, "eta"] = np.inf
        row = stopping_order(few, metrics, 0, 300)
        assert row["verdict"] == UNTESTED
        assert row["detail"].startswith("tasks with both stops: 2;")


def test_the_whole_table(metrics, stopping):
    fits = {task: fit_table(eigenvalue_table(task)) for task in TASKS}
    main = {task: table[table["range"] == "1..n"] for task, table in fits.items()}
    arguments = {
        "rates": decay_table([summary_of(t, fits[t]) for t in TASKS], metrics, 0, 200),
        "exponents": {t: table["exponent"].to_numpy() for t, table in main.items()},
        "r_squared": {t: table["r_squared"].mean() for t, table in main.items()},
        "metrics": metrics,
        "stopping": stopping,
        "cosine": cosine_of(list(TASKS)),
        "merged": merged_of(list(TASKS)),
        "theory": [claim_row("a claim", "Lemma 1", "a number", 1.0, "< 2", YES, "a detail of it")],
        "seed": 0,
        "resamples": 200,
    }
    table = verdict_table(**arguments)
    assert list(table.columns) == [
        "claim",
        "source",
        "statistic",
        "value",
        "threshold",
        "verdict",
        "detail",
    ]
    # made to hold: all but the predicted rate
    assert list(table["verdict"]) == [YES] * 8 + [NO] + [YES] * 4
    assert table["source"].str.startswith("SR26 ").all()
    assert (table["detail"].str.len() > 10).all()
    assert table["claim"].is_unique
    pd.testing.assert_frame_equal(verdict_table(**arguments), table)
