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
    negated_of,
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
    negation_hurts,
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


class TestNearlyOrthogonal:
    NAMES = ("stsb", "rte", "mrpc")

    def with_pair(self, a, b, value):
        """The mean cosine of two tasks is ``value``; those of single runs lie about it."""
        cosine = cosine_of(self.NAMES)
        own = (cosine["task_a"] == a) & (cosine["task_b"] == b)
        cosine.loc[own, "cosine"] = np.tile([value - 0.2, value, value, value + 0.2], 7)
        return cosine

    def test_small_cosines(self):
        every, rte = nearly_orthogonal(cosine_of(self.NAMES))
        assert (every["verdict"], rte["verdict"]) == (YES, YES)
        assert every["threshold"] == "≤ 0.1 (ours)"
        assert "; one task, two trainings: stsb 0.5, rte 0.49, mrpc 0.48" in every["detail"]
        assert "; one task and head, two samples: stsb 0.7, rte 0.69" in every["detail"]

    def test_the_mean_over_runs_counts_and_not_one_run(self):
        every, rte = nearly_orthogonal(self.with_pair("stsb", "rte", 0.0))
        assert (every["verdict"], rte["verdict"]) == (YES, YES)
        every, rte = nearly_orthogonal(self.with_pair("stsb", "rte", -0.3))
        assert (every["verdict"], every["value"]) == (NO, pytest.approx(0.3))
        assert every["detail"].startswith("stsb and rte -0.3; mean |cosine| over 3 pairs")
        assert (rte["verdict"], rte["value"]) == (NO, pytest.approx(0.3))

    def test_rte_is_judged_by_its_own_pairs(self):
        every, rte = nearly_orthogonal(self.with_pair("stsb", "mrpc", 0.4))
        assert (every["verdict"], rte["verdict"]) == (NO, YES)
        assert rte["claim"] == "RTE's task vector is nearly orthogonal to the others'"
        assert "; largest |cosine| among the other tasks 0.4" in rte["detail"]
        assert len(nearly_orthogonal(cosine_of(["stsb", "mrpc"]))) == 1
        alone = nearly_orthogonal(cosine_of(["stsb", "rte"]))[1]
        assert "there are no two other tasks" in alone["detail"]

    def test_models_that_did_not_move(self):
        cosine = cosine_of(self.NAMES)
        cosine.loc[(cosine[["task_a", "task_b"]] == "mrpc").any(axis=1), "cosine"] = NAN
        every = nearly_orthogonal(cosine)[0]
        assert "over 1 pairs" in every["detail"]
        assert every["detail"].endswith("2 pairs with a model that fine-tuning did not move")
        assert "two trainings: stsb 0.5, rte 0.49;" in every["detail"]
        (none,) = nearly_orthogonal(cosine[cosine["pair"] != "tasks"])
        assert none["verdict"] == UNTESTED
        only = nearly_orthogonal(cosine[cosine["pair"] == "tasks"])[0]
        assert "; cosines of one task with itself are not known" in only["detail"]


def test_merging_keeps():
    merged = merged_of(["stsb", "rte", "mrpc"])
    # the merge of all three is not part of the claim, nor is the chosen coefficient
    merged.loc[merged["merged"] == "stsb + rte + mrpc", "normalised"] = 0.1
    merged.loc[merged["choice"] == "validation", "normalised"] = 0.1
    row = merging_keeps(merged)
    assert (row["verdict"], row["value"]) == (YES, pytest.approx(0.96))
    assert row["threshold"] == "≥ 0.9 (ours)"
    assert "mean 0.965 over all scores (6)" in row["detail"]
    assert "for the pretrained weights with the same heads" in row["detail"]
    assert "; mean 0.915 without the test rows whose text" in row["detail"]
    assert row["detail"].endswith("10 of 200 on average")
    # one seed of three: 0.97, 0.97 and 0.52
    merged.loc[0, "normalised"] = 0.52
    row = merging_keeps(merged)
    assert (row["verdict"], row["value"]) == (NO, pytest.approx(0.82))
    assert row["detail"].startswith("smallest for stsb in stsb + rte")
    merged.loc[0, "single"] = -0.2
    row = merging_keeps(merged)
    assert row["verdict"] == YES
    assert "1 left out" in row["detail"]
    assert "no member was fine-tuned on" in merging_keeps(merged.assign(leaked=0))["detail"]
    assert merging_keeps(merged.assign(single=0.0))["verdict"] == UNTESTED


class TestNegationHurts:
    def test_every_target_gets_worse(self):
        row = negation_hurts(negated_of(["stsb", "rte"]))
        # 0.4 plus 0.1 times the seed, of three
        assert (row["verdict"], row["value"]) == (YES, pytest.approx(0.5))
        assert row["statistic"].endswith("at λ = 1")
        assert row["source"] == "SR26 section 5.2, eq 24; Ilharco et al. 2023"
        assert "stsb 0.5 and 0.25, rte 0.5 and 0.25; of the same sign: 2 of 2" in row["detail"]
        assert "measured over predicted: stsb 2, rte 2" in row["detail"]
        assert "stsb 0.85 (controls 0.95); rte 0.85 (controls 0.95)" in row["detail"]

    def test_models_that_did_not_move_are_left_out(self):
        negated = negated_of(["stsb", "rte"])
        still = (negated["target"] == "rte") & (negated["seed"] == 0)
        negated.loc[still, ["gap", "predicted_gap"]] = 0.0
        row = negation_hurts(negated)
        # of rte the seeds 1 and 2 are left
        assert "stsb 0.5 and 0.25, rte 0.55 and 0.275; of the same sign: 2 of 2" in row["detail"]
        assert "; 1 left out, whose fine-tuning did not move" in row["detail"]
        row = negation_hurts(negated.assign(gap=0.0, predicted_gap=0.0))
        assert row["verdict"] == UNTESTED
        assert "none of them moved" in row["detail"]

    def test_one_target_that_does_not_get_worse(self):
        negated = negated_of(["stsb", "rte"])
        negated.loc[negated["target"] == "rte", "gap"] *= -1
        row = negation_hurts(negated)
        assert (row["verdict"], row["value"]) == (NO, pytest.approx(-0.5))
        assert "of the same sign: 1 of 2" in row["detail"]

    def test_one_seed_is_outweighed_by_the_others(self):
        negated = negated_of(["stsb", "rte"])
        negated.loc[(negated["seed"] == 0) & (negated["target"] == "rte"), "gap"] = -0.1
        row = negation_hurts(negated)
        assert (row["verdict"], row["value"]) == (YES, pytest.approx((-0.1 + 0.5 + 0.6) / 3))

    def test_the_largest_coefficient_stands_in_for_one(self):
        negated = negated_of(["stsb", "rte"])
        row = negation_hurts(negated[negated["coefficient"] < 1])
        assert row["statistic"].endswith("at λ = 0.5")
        assert row["value"] == pytest.approx(0.25)

    def test_a_pretrained_score_of_zero_has_no_share_to_keep(self):
        negated = negated_of(["stsb", "rte"])
        negated.loc[negated["task"] == "rte", "kept"] = NAN
        detail = negation_hurts(negated)["detail"]
        assert detail.endswith("on validation data: stsb 0.85")
        assert "nan" not in detail

    def test_nothing_predicted_or_chosen(self):
        negated = negated_of(["stsb", "rte"]).assign(predicted_gap=NAN, chosen=False)
        row = negation_hurts(negated)
        assert row["verdict"] == YES
        assert row["detail"].endswith("of the same sign: 0 of 0")


def test_a_study_that_merges_nothing_leaves_these_claims_untested():
    names = ["stsb", "rte"]
    rows = [
        *nearly_orthogonal(cosine_of(names).iloc[:0]),
        merging_keeps(merged_of(names).iloc[:0]),
        negation_hurts(negated_of(names).iloc[:0]),
    ]
    assert [row["verdict"] for row in rows] == [UNTESTED] * 3


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
        "negated": negated_of(list(TASKS)),
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
    assert list(table["verdict"]) == [YES] * 8 + [NO] + [YES] * 6
    assert table["source"].str.startswith("SR26 ").all()
    assert (table["detail"].str.len() > 10).all()
    assert table["claim"].is_unique
    pd.testing.assert_frame_equal(verdict_table(**arguments), table)
