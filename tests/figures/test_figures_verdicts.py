"""The verdicts: the rule that judges, and each claim's statistic, interval and control."""

import numpy as np
import pandas as pd
import pytest
from made_up_study import (
    NAN,
    SIZES,
    TASKS,
    cosine_of,
    eigenvalue_table,
    exponents_of,
    fit_table,
    merged_of,
    metrics_table,
    negated_of,
    stopping_of,
    subsets_of,
    summary_of,
)

from ntktune.figures.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    REPRODUCED,
    SIMULATED,
    STUDY,
    UNTESTED,
    Claim,
    Given,
    Sample,
    judge,
    ratio_sample,
)
from ntktune.figures.result_tables import study_table
from ntktune.figures.tables import read_tables
from ntktune.figures.verdicts import (
    crossed_span,
    decay_orders,
    error_falls,
    merging_keeps,
    nearly_orthogonal,
    negation_hurts,
    paper_order,
    power_law,
    predicted_rate,
    source_rate,
    stopping_order,
    study_verdicts,
)
from ntktune.intervals import half_width

COLUMNS = ["group", "claim", "source", "statistic", "value", "low", "high", "threshold", "control"]
COLUMNS += ["power", "verdict", "detail"]


def around(mean, spread=0.01, draws=5):
    return mean + spread * np.linspace(-1, 1, draws)


@pytest.fixture(scope="module")
def metrics():
    return pd.concat([metrics_table(t, s) for t in TASKS for s in SIZES], ignore_index=True)


@pytest.fixture(scope="module")
def stopping():
    return pd.concat([stopping_of(t).assign(task=t) for t in TASKS], ignore_index=True)


@pytest.fixture(scope="module")
def fits():
    return {task: fit_table(eigenvalue_table(task)) for task in TASKS}


def rates_of(metrics, fits):
    summary = {task: summary_of(task, table) for task, table in fits.items()}
    return study_table(summary, metrics, {task: subsets_of(task) for task in TASKS})


@pytest.fixture(scope="module")
def rates(metrics, fits):
    return rates_of(metrics, fits).set_index("task")


class TestJudge:
    """The one rule: what the intervals say, and whether the control does as well."""

    def claim(self, side="≤", tolerance=np.inf):
        return Claim("it is small", "eq 1", "a size", 1, side, "a control", tolerance=tolerance)

    def row(self, *means, spread=0.01, beyond=1.0, side="≤", draws=5, **more):
        units = {
            name: Sample(around(mean, spread, draws), np.full(draws, beyond))
            for name, mean in zip("abcdefgh", means, strict=False)
        }
        return judge(self.claim(side), units, "0.5", **more)

    def test_reproduced(self):
        row = self.row(0.5, 0.7)
        assert row["verdict"] == REPRODUCED
        half = half_width(around(0.7))
        assert (row["value"], row["low"], row["high"]) == pytest.approx(
            (0.7, 0.7 - half, 0.7 + half)
        )
        assert row["detail"] == "held on 2 of 2; decisive: b"
        assert row["control"] == "a control: 0.5"
        assert row["power"] == "2 intervals over 5 seeds"
        assert row["threshold"] == "≤ 1 (ours)"
        assert list(row) == COLUMNS
        assert self.row(1.5, side="≥")["verdict"] == REPRODUCED

    def test_contradicted_only_where_an_interval_excludes_the_claim(self):
        row = self.row(0.5, 1.3)
        assert (row["verdict"], row["value"]) == (CONTRADICTED, pytest.approx(1.3))
        assert row["low"] > 1
        assert row["detail"].startswith("excluded by b; held on 1 of 2")
        assert self.row(0.7, side="≥")["verdict"] == CONTRADICTED

    def test_inconclusive_where_the_interval_holds_both(self):
        row = self.row(0.5, 1.1, spread=0.4)
        assert (row["verdict"], row["value"]) == (INCONCLUSIVE, pytest.approx(1.1))
        assert row["low"] < 1 < row["high"]
        assert row["detail"].startswith("undecided: b")

    def test_it_is_said_how_many_seeds_would_decide(self):
        row = self.row(1.1, spread=0.4)
        count = int(row["power"].split("about ")[1].split()[0])
        values = around(1.1, 0.4)
        assert half_width(values, count=count) < 0.1 <= half_width(values, count=count - 1)
        same = Given(Sample(values).span, count=5)
        assert f"about {count} seeds would decide" in judge(self.claim(), {"a": same})["power"]
        # of a ratio on the scale of its logarithm
        unit = Sample(np.log([0.4, 85.0]), np.ones(2), scale=np.exp)
        power = judge(self.claim(), {"a": unit})["power"]
        count = int(power.split("about ")[1].split()[0])
        halves = half_width(unit.values, count=np.arange(2, 60))
        assert count == 2 + np.argmax(halves < np.mean(unit.values))
        assert self.row(1.0, spread=0.4)["power"].endswith("1,000 seeds would not decide")
        assert self.row(0.5, draws=1)["power"].endswith("an interval needs two seeds or more")

    def test_many_intervals_are_read_together(self):
        """One of eight misses by chance in a third of all studies: that contradicts nothing."""
        one = around(1.0, 0.05)
        mean = 1.0 + 1.2 * float(half_width(one))
        assert self.row(mean, spread=0.05)["verdict"] == CONTRADICTED
        row = self.row(*[0.5] * 7, mean, spread=0.05)
        assert row["verdict"] == INCONCLUSIVE
        assert row["power"].endswith("seeds would decide")
        chance, repeats = 0, 500
        random = np.random.default_rng(0)
        for _ in range(repeats):
            units = {str(i): Sample(random.normal(1, 1, 3), np.ones(3)) for i in range(6)}
            chance += judge(self.claim(), units)["verdict"] == CONTRADICTED
        assert chance / repeats <= 0.035  # of a true claim; to one side, so half of 5 %

    def test_a_control_that_does_as_well(self):
        for beyond in (0.0, -1.0):
            row = self.row(0.5, 0.7, beyond=beyond)
            assert row["verdict"] == INCONCLUSIVE
            assert row["detail"].startswith("the control does as well on a, b")
        row = judge(self.claim(), {"a": Sample(around(0.5))})
        assert row["verdict"] == INCONCLUSIVE
        assert row["detail"] == "its control was not run"
        assert row["control"] == "a control"

    def test_a_unit_without_a_value_is_not_left_out(self):
        units = {
            "a": Sample(around(0.5), np.ones(5)),
            "b": Sample(np.array([]), missing="it broke"),
        }
        row = judge(self.claim(), units)
        assert row["verdict"] == INCONCLUSIVE
        assert row["detail"].startswith("no value: b (it broke)")
        row = judge(self.claim(), {"b": units["b"]}, "1")
        assert row["verdict"] == UNTESTED
        assert row["detail"] == "it broke"
        assert np.isnan([row["value"], row["low"], row["high"]]).all()
        untested = Claim("it", "eq 1", "a size", 1, "≤", "a control", missing="nothing there")
        assert judge(untested, {})["detail"] == "nothing there"

    def test_with_one_seed_each_the_tasks_are_the_sample(self):
        units = {
            name: Sample(np.array([v]), np.ones(1))
            for name, v in {"a": 0.5, "b": 0.6, "c": 0.7}.items()
        }
        row = judge(self.claim(), units)
        assert (row["verdict"], row["value"]) == (REPRODUCED, pytest.approx(0.6))
        assert row["high"] == pytest.approx(0.6 + half_width(np.array([0.5, 0.6, 0.7])))
        assert row["power"] == "1 interval over 3 tasks"
        assert row["detail"] == "one seed each: judged by the mean over tasks; c 0.7"
        # a ratio's interval is that of its logarithm
        units = {
            name: Sample(np.log([v]), np.ones(1), scale=np.exp)
            for name, v in {"a": 0.5, "b": 2.0}.items()
        }
        row = judge(self.claim(), units)
        assert (row["verdict"], row["value"]) == (INCONCLUSIVE, pytest.approx(1.0))

    @pytest.mark.parametrize(
        ("mean", "spread", "verdict"),
        [(1.02, 0.05, REPRODUCED), (1.02, 0.5, INCONCLUSIVE), (1.2, 0.05, CONTRADICTED)],
    )
    def test_an_equality_needs_a_narrow_interval(self, mean, spread, verdict):
        unit = Sample(around(mean, spread), np.ones(5))
        assert judge(self.claim("=", 0.1), {"a": unit})["verdict"] == verdict

    def test_a_score_near_zero_is_no_denominator(self):
        part, whole = np.array([0.3, 0.31, 0.29]), np.array([0.3, 0.32, 0.28])
        found = ratio_sample(part, whole, 0.9, part)
        assert found.span(0.95).value == pytest.approx(1.0)
        unsure = ratio_sample(part, np.array([0.3, -0.2, 0.1]), 0.9, part)
        few_rows = ratio_sample(part[:1], np.array([0.2]), 0.9, part[:1], rows=64)  # 1.96 / 8
        assert unsure.missing == few_rows.missing == "the score it is compared with may be 0"
        assert ratio_sample(part[:1], np.array([0.3]), 0.9, part[:1], rows=64).missing == ""


def test_power_law(fits):
    row = power_law(fits, dict.fromkeys(fits, 0.01))
    assert row["verdict"] == REPRODUCED
    assert row["low"] < row["value"] < row["high"]
    assert row["control"].startswith("an exponential decay, R² of log λ_k on k: semrel 0.")
    assert row["power"] == "6 intervals over 5 draws"
    equal = {task: table.assign(exponential=table["r_squared"]) for task, table in fits.items()}
    row = power_law(equal, {})
    assert row["verdict"] == INCONCLUSIVE
    assert "the control does as well" in row["detail"]
    low = fits["rte"].assign(r_squared=lambda t: t["r_squared"] - 0.3)
    assert power_law(fits | {"rte": low}, {})["verdict"] == CONTRADICTED


def fits_of(spread=0.01, **means):
    """Fits with these exponents over all ranges of ranks, 5 draws."""
    ranges = ("1..n", "2..n", "1..n/2", "n/10..9n/10")
    return {
        task: pd.DataFrame(
            [
                {"draw": draw, "range": name, "exponent": value, "r_squared": 0.95}
                for draw, value in enumerate(around(mean, spread))
                for name in ranges
            ]
        ).assign(exponential=0.6, intercept=0.0, stderr=0.01, dropped=0)
        for task, mean in means.items()
    }


class TestDecayOrders:
    def rows(self, metrics, fits):
        return decay_orders("regression", fits, rates_of(metrics, fits).set_index("task"), metrics)

    def test_three_tasks_in_the_right_order_are_no_evidence(self, metrics):
        falls, needs = self.rows(metrics, fits_of(semrel=1.6, sts12=1.3, stsb=1.0))
        assert falls["value"] == needs["value"] == pytest.approx(1.0)
        assert falls["verdict"] == INCONCLUSIVE
        assert falls["control"] == "a random order: right by chance once in 6"
        assert "four tasks are needed for a chance below 5 %" in falls["power"]
        assert "semrel 1.6 / 0.6, sts12 1.3 / 0.5, stsb 1 / 0.4" in falls["detail"]

    def sharp(self, metrics, extra=True):
        """Seeds closer to each other, and a fourth regression task."""
        names = [t for t in TASKS if TASKS[t][1] == "regression"]
        some = [metrics_table(t, n, scatter=0.001) for t in names for n in SIZES]
        if extra:
            fourth = [metrics_table("sts12", n, scatter=0.001) for n in SIZES]
            # between sts12 and stsb
            some += [
                t.assign(task="more", mse=0.05 + 6 * n**-0.45, pearson=1 - (n / 16) ** -0.45)
                for t, n in zip(fourth, SIZES, strict=True)
            ]
        return pd.concat(some, ignore_index=True)

    def test_four_tasks_in_the_right_order(self, metrics, monkeypatch):
        fits = fits_of(semrel=1.6, sts12=1.3, more=1.1, stsb=1.0)
        monkeypatch.setattr("ntktune.figures.result_tables.shared_rows", lambda rows: 0.0)
        own = self.sharp(metrics)
        summary = {task: summary_of(task, table) for task, table in fits.items()}
        rates = study_table(summary, own, dict.fromkeys([*TASKS, *fits], subsets_of("stsb")))
        falls, _ = decay_orders("regression", fits, rates.set_index("task"), own)
        assert (falls["verdict"], falls["low"]) == (REPRODUCED, pytest.approx(1.0))
        assert falls["control"].endswith("once in 24")

    def test_the_opposite_order_contradicts(self, metrics):
        own = self.sharp(metrics, extra=False)
        falls, needs = self.rows(own, fits_of(semrel=1.0, sts12=1.3, stsb=1.6))
        assert (falls["verdict"], falls["value"]) == (CONTRADICTED, pytest.approx(-1.0))
        assert falls["high"] < 1
        assert needs["verdict"] in (CONTRADICTED, INCONCLUSIVE)

    def test_an_order_that_flips_with_the_fit_stays_open(self, metrics):
        own = self.sharp(metrics, extra=False)
        fits = fits_of(semrel=1.0, sts12=1.3, stsb=1.6)
        for task in ("semrel", "stsb", "sts12"):
            other = fits[task]["range"] == "1..n/2"
            fits[task].loc[other, "exponent"] = 3 - fits[task].loc[other, "exponent"]
        falls, _ = self.rows(own, fits)
        assert falls["verdict"] == INCONCLUSIVE
        assert (
            "depends on the range or form of the fit: semrel and sts12; semrel and stsb"
            in (falls["detail"])
        )

    def test_one_seed_or_one_draw_decides_nothing(self, metrics):
        fits = fits_of(semrel=1.0, sts12=1.3, stsb=1.6)
        for own, some in (
            (metrics[metrics["seed"] == 0], fits),
            (metrics, {t: f[f["draw"] == 0] for t, f in fits.items()}),
        ):
            for row in self.rows(own, some):
                assert (row["verdict"], row["value"]) == (INCONCLUSIVE, pytest.approx(-1.0))
                assert (row["low"], row["high"]) == (-1, 1)

    def test_too_few_tasks(self, metrics):
        for row in self.rows(metrics, fits_of(semrel=1.6, sts12=1.3)):
            assert row["verdict"] == UNTESTED
            assert row["detail"] == "tasks with both numbers: 2; an order needs 3"

    def test_trainings_that_chose_step_0_order_nothing(self, metrics):
        for row in self.rows(metrics.assign(best_step=0), fits_of(semrel=1.6, sts12=1.3, stsb=1)):
            assert row["verdict"] == UNTESTED


class TestPaperOrder:
    def test_kept(self):
        row = paper_order("regression", fits_of(stsb=1.0, semrel=1.6, sts12=1.3), {})
        assert (row["verdict"], row["value"]) == (REPRODUCED, pytest.approx(1.0))
        assert row["claim"].endswith("SemRel > STS-12 > STS-B")
        assert row["control"] == "a random order: right by chance once in 6"
        assert "the paper's order is GPT-Neo-1.3B's" in row["detail"]

    def test_one_pair_the_other_way(self):
        row = paper_order("classification", fits_of(amazon=1.0, mrpc=1.2, rte=0.9), {})
        assert (row["verdict"], row["value"]) == (CONTRADICTED, pytest.approx(1 / 3))

    def test_draws_that_share_rows_decide_less(self):
        fits = fits_of(0.015, amazon=1.12, mrpc=1.2, rte=0.9)
        assert paper_order("classification", fits, {})["verdict"] == CONTRADICTED
        shared = dict.fromkeys(fits, 0.6)
        assert paper_order("classification", fits, shared)["verdict"] == INCONCLUSIVE

    def test_uncertain(self):
        row = paper_order("classification", fits_of(0.5, amazon=1.02, mrpc=1.01, rte=1.0), {})
        assert (row["verdict"], row["value"]) == (INCONCLUSIVE, pytest.approx(1.0))

    def test_other_tasks(self):
        row = paper_order("regression", fits_of(stsb=1.0), {})
        assert row["verdict"] == UNTESTED
        assert row["detail"] == "not among the study's tasks: semrel, sts12"


class TestErrorFalls:
    def test_every_task(self, metrics):
        row = error_falls(metrics.assign(baseline_accuracy=0.2), {})
        assert (row["verdict"], row["threshold"]) == (REPRODUCED, "≤ 1")
        assert row["value"] == pytest.approx(8**-0.2, abs=0.01)  # of rte
        assert "rte" in row["control"]

    def test_a_task_whose_error_rises(self, metrics):
        worse = metrics.copy()
        worse.loc[(worse["task"] == "rte") & (worse["n"] == 256), "accuracy"] = 0.01
        row = error_falls(worse, {})
        assert (row["verdict"], row["value"]) == (CONTRADICTED, pytest.approx(1.65, abs=0.01))

    def test_the_majority_does_as_well(self, metrics):
        row = error_falls(metrics.assign(baseline_accuracy=0.99), {})
        assert row["verdict"] == INCONCLUSIVE
        assert "the control does as well on amazon, mrpc, rte" in row["detail"]

    def test_seeds_that_scatter(self, metrics):
        wild = metrics.copy()
        own = wild["task"] == "rte"
        wild.loc[own, "accuracy"] = 0.7 + 0.1 * (wild["seed"] - 1) * (wild["n"] == 256)
        row = error_falls(wild, {})
        assert row["verdict"] == INCONCLUSIVE
        assert row["detail"].startswith("undecided: rte")

    def test_errors_of_nothing(self, metrics):
        """A ratio of errors is 0 or above; where the error starts at 0 there is none."""
        small = metrics.copy()
        own = (small["task"] == "rte") & (small["n"] == 256)
        small.loc[own, "accuracy"] = 1 - 0.01 * (small["seed"] == 1)
        row = error_falls(small[small["task"] == "rte"], {})
        assert (row["low"], row["verdict"]) == (0, REPRODUCED)
        small.loc[small["task"] == "rte", "accuracy"] = 1.0
        with np.errstate(all="raise"):
            row = error_falls(small, {})
        assert row["verdict"] == INCONCLUSIVE
        assert "no value: rte (the error at the smallest n is 0)" in row["detail"]

    def test_one_seed_each(self, metrics):
        """The mean over tasks is a mean of their ratios, not one task's."""
        own = metrics[(metrics["seed"] == 1) & metrics["task"].isin(["rte", "mrpc"])].copy()
        for task, few, many in (("rte", 0.5, 0.6), ("mrpc", 0.9, 0.91)):
            for n, accuracy in ((own["n"].min(), few), (256, many)):
                own.loc[(own["task"] == task) & (own["n"] == n), "accuracy"] = accuracy
        # errors of .4 in .5, and of .09 in .1
        for rows in (own, own.sort_values("task", ascending=False)):
            assert error_falls(rows, {})["value"] == pytest.approx((0.8 + 0.9) / 2)

    def test_one_size_or_no_step(self, metrics):
        row = error_falls(metrics[metrics["n"] == 64], {})
        assert row["verdict"] == UNTESTED
        assert row["detail"] == "one sample size only; a comparison needs two"
        row = error_falls(metrics.assign(best_step=0), {})
        assert (row["verdict"], row["detail"]) == (UNTESTED, "fine-tuning chose step 0")
        # one of six tasks
        still = metrics["best_step"].where(metrics["task"] != "rte", 0)
        row = error_falls(metrics.assign(best_step=still), {})
        assert row["verdict"] == INCONCLUSIVE
        assert row["detail"].startswith("no value: rte (fine-tuning chose step 0)")


class TestSourceRate:
    def row(self, metrics, rates, change=0.0):
        own = [exponents_of(task).assign(task=task) for task in TASKS]
        exponents = pd.concat(own, ignore_index=True)
        return source_rate(exponents.assign(rate=exponents["rate"] + change), rates, metrics)

    def test_rates_that_are_the_curves_own_and_others(self, metrics, rates):
        row = self.row(metrics, rates)
        assert row["source"] == "Cui21 table 1"
        assert f"2ar/(1+2ar) in the interval of {len(TASKS)} of {len(TASKS)} tasks" in row["detail"]
        assert row["value"] == pytest.approx(0, abs=0.15)
        assert self.row(metrics, rates, 0.4)["verdict"] == CONTRADICTED


class TestPredictedRate:
    def row(self, metrics, fits):
        return predicted_rate(rates_of(metrics, fits).set_index("task"), fits, metrics)

    def test_made_to_hold(self):
        """Learning curves that fall as n^(−a/(a+1)), apart from 1/2."""
        a = {"semrel": 2.0, "rte": 0.5}
        metrics = pd.concat(
            [
                metrics_table(t, n, scatter=0.002).assign(mse=lambda m: m["mse"], task=t)
                for t in a
                for n in SIZES
            ],
            ignore_index=True,
        )
        rate = metrics["task"].map(lambda t: a[t] / (a[t] + 1)) + 0.002 * (metrics["seed"] - 1)
        error = 2.0 * metrics["n"] ** -rate
        metrics["mse"], metrics["accuracy"] = error + 0.05, 1 - error / 3
        row = self.row(metrics, fits_of(**a))
        assert row["verdict"] == REPRODUCED
        assert row["threshold"] == "= 0 within 0.15 (ours)"
        assert row["control"] == "the exponent 1/2 for every task: in the interval of 0 of 2 tasks"
        assert row["detail"].startswith("held on 2 of 2")
        assert "a/(a+1) in the interval of 2 of 2 tasks" in row["detail"]

    def test_made_to_be_excluded(self, metrics, fits):
        row = self.row(metrics, fits)  # rte's error falls as n^−0.2, and a/(a+1) is 0.47
        assert row["verdict"] == CONTRADICTED
        assert "rte" in row["detail"]
        assert row["high"] < 0
        assert "classifications have the error rate" in row["detail"]

    def test_one_seed(self, metrics, fits):
        row = self.row(metrics[metrics["seed"] == 0], fits)
        assert row["verdict"] == INCONCLUSIVE
        assert np.isnan(row["low"])

    def test_an_exponent_that_changes_with_the_ranks(self, metrics):
        """An interval that a/(a+1) of half of the ranks lies in excludes nothing."""
        names = {t: v[3] / (1 - v[3]) for t, v in TASKS.items() if v[1] == "regression"}
        names["stsb"] = 3.0
        fits = fits_of(**names)
        own = metrics[metrics["task"].isin(names)]
        assert self.row(own, fits)["verdict"] == CONTRADICTED
        half = fits["stsb"]["range"] == "1..n/2"
        fits["stsb"].loc[half, "exponent"] = 0.4 / 0.6
        assert self.row(own, fits)["verdict"] == INCONCLUSIVE


class TestNearlyOrthogonal:
    NAMES = ("stsb", "rte", "mrpc")

    def with_pair(self, a, b, value, apart=0.001):
        """The mean cosine of two tasks is ``value``; those of single runs lie about it."""
        cosine = cosine_of(self.NAMES)
        own = (cosine["task_a"] == a) & (cosine["task_b"] == b)
        cosine.loc[own, "cosine"] = np.tile([value - apart, value, value, value + apart], 7)
        return cosine

    def test_small_cosines_where_one_task_twice_has_large_ones(self):
        every, rte = nearly_orthogonal(cosine_of(self.NAMES))
        assert (every["verdict"], rte["verdict"]) == (REPRODUCED, REPRODUCED)
        assert every["threshold"] == "≤ 0.1 (ours)"
        assert every["control"] == "one task, two trainings: stsb 0.5, rte 0.49, mrpc 0.48"
        assert "one task and head, two samples: stsb 0.7, rte 0.69" in every["detail"]
        assert every["low"] <= every["value"] <= every["high"]

    def test_one_task_trained_twice_is_as_orthogonal(self):
        cosine = cosine_of(self.NAMES)
        cosine.loc[cosine["pair"] == "seeds", "cosine"] = 0.01
        every, rte = nearly_orthogonal(cosine)
        assert (every["verdict"], rte["verdict"]) == (INCONCLUSIVE, INCONCLUSIVE)
        assert every["detail"].startswith("the control does as well on ")

    def test_runs_that_scatter_decide_nothing(self):
        every, _ = nearly_orthogonal(self.with_pair("stsb", "rte", 0.09, apart=0.1))
        assert every["verdict"] == INCONCLUSIVE
        assert every["detail"].startswith("undecided: stsb and rte")
        every, rte = nearly_orthogonal(self.with_pair("stsb", "rte", -0.3))
        assert (every["verdict"], every["value"]) == (CONTRADICTED, pytest.approx(0.3))
        assert (rte["verdict"], rte["value"]) == (CONTRADICTED, pytest.approx(0.3))

    def test_rte_is_judged_by_its_own_pairs(self):
        every, rte = nearly_orthogonal(self.with_pair("stsb", "mrpc", 0.4))
        assert (every["verdict"], rte["verdict"]) == (CONTRADICTED, REPRODUCED)
        assert rte["claim"] == "RTE's task vector is nearly orthogonal to the others'"
        assert len(nearly_orthogonal(cosine_of(["stsb", "mrpc"]))) == 1

    def test_models_that_did_not_move(self):
        cosine = cosine_of(self.NAMES)
        cosine.loc[(cosine[["task_a", "task_b"]] == "mrpc").any(axis=1), "cosine"] = NAN
        every = nearly_orthogonal(cosine)[0]
        assert every["verdict"] == INCONCLUSIVE
        assert every["detail"].startswith(
            "no value: stsb and mrpc, rte and mrpc (fine-tuning chose step 0)"
        )
        (none,) = nearly_orthogonal(cosine[cosine["pair"] != "tasks"])
        assert none["verdict"] == UNTESTED
        only = nearly_orthogonal(cosine_of(self.NAMES).query("pair == 'tasks'"))[0]
        assert (only["verdict"], only["control"]) == (
            INCONCLUSIVE,
            "one task, two trainings: not run",
        )

    def test_a_mean_over_crossed_runs_is_covered(self):
        """Three runs of either task have nine cosines, which are not independent."""
        random, held, repeats = np.random.default_rng(0), 0, 500
        for _ in range(repeats):
            effects = random.normal(0, 0.02, (2, 3))
            values = 0.3 + effects[0][:, None] + effects[1] + random.normal(0, 0.01, (3, 3))
            span = crossed_span(values, 0.95)
            held += span.low <= 0.3 <= span.high
        assert held / repeats >= 0.93


class TestMergingKeeps:
    NAMES = ("stsb", "rte", "mrpc")

    def test_pairs_at_the_fixed_coefficient_are_judged(self):
        merged = merged_of(self.NAMES)
        # the merge of all three is not part of the claim, nor is the chosen coefficient
        merged.loc[merged["merged"] == "stsb + rte + mrpc", "merged_score"] = 0.1
        merged.loc[merged["choice"] == "validation", "merged_score"] = 0.1
        row = merging_keeps(merged)
        assert (row["verdict"], row["value"]) == (REPRODUCED, pytest.approx(0.96))
        assert row["threshold"] == "≥ 0.9 (ours)"
        assert "mean 0.915 without the test rows whose text" in row["detail"]
        assert row["detail"].endswith("10 of 200")
        assert "no member was fine-tuned on" in merging_keeps(merged.assign(leaked=0))["detail"]

    def test_one_seed_that_loses_much(self):
        merged = merged_of(self.NAMES)
        merged.loc[0, "merged_score"] = 0.4  # one seed of three
        row = merging_keeps(merged)
        assert row["verdict"] == INCONCLUSIVE
        assert row["detail"].startswith("undecided: stsb in stsb + rte")
        first = (merged["merged"] == "stsb + rte") & (merged["task"] == "stsb")
        merged.loc[first, "merged_score"] = 0.4
        assert merging_keeps(merged)["verdict"] == CONTRADICTED

    def test_untuned_weights_do_as_well(self):
        merged = merged_of(self.NAMES)
        row = merging_keeps(merged.assign(pretrained=merged["merged_score"]))
        assert row["verdict"] == INCONCLUSIVE
        assert "the control does as well" in row["detail"]

    def test_a_single_score_of_nothing_is_no_denominator(self):
        merged = merged_of(self.NAMES)
        merged.loc[merged["task"] == "stsb", ["single", "merged_score"]] = 0.1  # of 200 rows: 0.14
        row = merging_keeps(merged)
        assert row["verdict"] == INCONCLUSIVE
        assert "(the score it is compared with may be 0)" in row["detail"]
        assert merging_keeps(merged.assign(single=0.0))["verdict"] == UNTESTED
        assert merging_keeps(merged.iloc[:0])["verdict"] == UNTESTED

    def test_with_one_seed_the_scores_are_the_sample(self):
        row = merging_keeps(merged_of(self.NAMES, seeds=1).assign(pretrained=0.1))
        assert row["verdict"] == REPRODUCED
        assert row["power"] == "1 interval over 6 scores"


class TestNegationHurts:
    def test_every_target_gets_worse_than_by_a_random_vector(self):
        row = negation_hurts(negated_of(["stsb", "rte"]))
        # 0.4 plus 0.1 times the seed, of three
        assert (row["verdict"], row["value"]) == (REPRODUCED, pytest.approx(0.5))
        assert row["statistic"].endswith("at λ = 1")
        assert row["source"] == "SR26 section 5.2, eq 24; Ilharco et al. 2023"
        assert row["control"].endswith("rise of the test MSE: stsb 0.01, rte 0.01")
        assert "over the linear regime's prediction: stsb 2, rte 2" in row["detail"]
        assert row["detail"].endswith("stsb 0.85, rte 0.85")

    def test_a_random_vector_does_as_much(self):
        negated = negated_of(["stsb", "rte"])
        row = negation_hurts(negated.assign(random_gap=negated["gap"]))
        assert row["verdict"] == INCONCLUSIVE
        assert row["detail"].startswith("the control does as well on stsb, rte")
        row = negation_hurts(negated.assign(random_gap=NAN))
        assert row["verdict"] == INCONCLUSIVE
        assert row["detail"].startswith("its control was not run")
        assert row["control"].endswith(": not run")

    def test_models_that_did_not_move_are_not_left_out(self):
        negated = negated_of(["stsb", "rte"])
        still = (negated["target"] == "rte") & (negated["seed"] == 0)
        negated.loc[still, ["gap", "predicted_gap"]] = 0.0
        row = negation_hurts(negated)
        assert row["verdict"] == INCONCLUSIVE
        assert row["detail"].startswith("no value: rte (fine-tuning chose step 0)")
        row = negation_hurts(negated.assign(gap=0.0, predicted_gap=0.0))
        assert (row["verdict"], row["detail"]) == (UNTESTED, "fine-tuning chose step 0")

    def test_one_target_that_does_not_get_worse(self):
        negated = negated_of(["stsb", "rte"])
        negated.loc[negated["target"] == "rte", "gap"] *= -1
        row = negation_hurts(negated)
        assert (row["verdict"], row["value"]) == (CONTRADICTED, pytest.approx(-0.5))

    def test_one_seed_that_does_not_get_worse_leaves_it_open(self):
        negated = negated_of(["stsb", "rte"])
        negated.loc[(negated["seed"] == 0) & (negated["target"] == "rte"), "gap"] = -0.1
        row = negation_hurts(negated)
        assert (row["verdict"], row["value"]) == (
            INCONCLUSIVE,
            pytest.approx((-0.1 + 0.5 + 0.6) / 3),
        )

    def test_the_largest_coefficient_stands_in_for_one(self):
        negated = negated_of(["stsb", "rte"])
        row = negation_hurts(negated[negated["coefficient"] < 1])
        assert row["statistic"].endswith("at λ = 0.5")
        assert row["value"] == pytest.approx(0.25)

    def test_a_pretrained_score_of_zero_has_no_share_to_keep(self):
        negated = negated_of(["stsb", "rte"])
        negated.loc[negated["task"] == "rte", "kept"] = NAN
        assert negation_hurts(negated)["detail"].endswith("of theirs: stsb 0.85")

    def test_nothing_predicted_or_chosen(self):
        row = negation_hurts(negated_of(["stsb", "rte"]).assign(predicted_gap=NAN, chosen=False))
        assert row["verdict"] == REPRODUCED
        assert "nan" not in row["detail"]
        assert negation_hurts(negated_of(["stsb"]).iloc[:0])["verdict"] == UNTESTED


class TestStoppingOrder:
    def test_same_order(self, stopping, metrics, rates):
        row = stopping_order(stopping, metrics, rates)
        assert row["value"] == pytest.approx(1.0)
        assert row["verdict"] == INCONCLUSIVE  # twelve intervals of three seeds
        assert "semrel 122 / 0.0061" in row["detail"]
        assert row["control"] == "a random order: right by chance once in 720"
        sharp = stopping.assign(eta=stopping.groupby("task")["eta"].transform("mean"))
        mean = metrics.groupby("task")["sum_learning_rate"].transform("mean")
        row = stopping_order(sharp, metrics.assign(sum_learning_rate=mean), rates)
        assert row["verdict"] == REPRODUCED

    def test_opposite_order(self, stopping, metrics, rates):
        row = stopping_order(stopping.assign(eta=-stopping["eta"]), metrics, rates)
        assert (row["verdict"], row["value"]) == (CONTRADICTED, pytest.approx(-1.0))

    def test_uncertain_order(self, stopping, metrics, rates):
        wild = stopping["eta"] / 100 + np.where(stopping["draw"] % 2, 0.0, 100.0)
        row = stopping_order(stopping.assign(eta=wild), metrics, rates)
        assert row["value"] > 0
        assert row["verdict"] == INCONCLUSIVE

    def test_one_seed(self, stopping, metrics, rates):
        row = stopping_order(stopping, metrics[metrics["seed"] == 0], rates)
        assert row["verdict"] == INCONCLUSIVE

    def test_tasks_that_theory_never_stops_do_not_count(self, stopping, metrics, rates):
        few = stopping[stopping["task"].isin(["stsb", "rte", "mrpc"])].reset_index(drop=True)
        few.loc[0, "eta"] = np.inf
        row = stopping_order(few, metrics, rates)
        assert row["verdict"] == UNTESTED
        assert row["detail"].startswith("tasks with both numbers: 2;")


def whole_table(metrics, fits, stopping, rates=None, **changed):
    lacking = ("radii", "slopes", "rules", "ridge", "trajectory", "trajectory_ridge", "stops")
    lacking += ("baselines", "held", "sets", "tuned", "curves", "scores", "exponents")
    arguments = {name: read_tables(name, [])[0] for name in lacking}
    arguments |= {
        "table1": rates_of(metrics, fits) if rates is None else rates.reset_index(),
        "summary": {task: summary_of(task, own) for task, own in fits.items()},
        "decay": pd.concat([own.assign(task=task) for task, own in fits.items()]),
        "metrics": metrics,
        "stopping": stopping,
        "cosine": cosine_of(list(TASKS)),
        "merged": merged_of(list(TASKS)),
        "negated": negated_of(list(TASKS)),
    } | changed
    return study_verdicts(**arguments)


def test_the_whole_table(metrics, fits, stopping, rates):
    table = whole_table(metrics, fits, stopping, rates)
    assert list(table.columns) == COLUMNS
    # claims about what is made up come last
    assert list(table["group"]) == [STUDY] * 22 + [SIMULATED] * 4
    assert table["source"].str.startswith("SR26 ").all()
    tested = table[table["verdict"] != UNTESTED]
    assert list(tested["group"]) == [STUDY] * 14  # no tables of the theory are here
    assert (tested[["control", "power", "detail"]].map(len) > 5).all(axis=None)
    assert table["claim"].is_unique
    counts = table["verdict"].value_counts()
    assert counts[CONTRADICTED] == 1  # the predicted rate
    assert counts[REPRODUCED] >= 7
    pd.testing.assert_frame_equal(whole_table(metrics, fits, stopping, rates), table)


def test_a_study_without_power_is_inconclusive(metrics, fits, stopping):
    """One seed and one draw: whatever the values are, nothing is decided."""
    table = whole_table(
        metrics[metrics["seed"] == 0],
        {task: own[own["draw"] == 0] for task, own in fits.items()},
        stopping[stopping["draw"] == 0],
        cosine=cosine_of(list(TASKS), runs=1),
    )
    own = table[table["group"] == STUDY].set_index("claim")
    # what has one value for each of several tasks is judged by the tasks' scatter
    pooled = own["detail"].str.contains("judged by the mean over")
    assert set(own.loc[~pooled & (own["power"] != ""), "verdict"]) <= {INCONCLUSIVE, REPRODUCED}
    orders = own[own["statistic"].str.startswith("Kendall")]
    assert set(orders["verdict"]) == {INCONCLUSIVE}
    assert not (own["verdict"] == CONTRADICTED).any()


def test_a_study_where_fine_tuning_chose_step_0_reproduces_nothing_of_it(metrics, fits, stopping):
    cosine = cosine_of(list(TASKS)).assign(cosine=NAN)
    negated = negated_of(list(TASKS)).assign(gap=0.0, predicted_gap=0.0)
    merged = merged_of(list(TASKS))
    merged["merged_score"] = merged["single"] = merged["pretrained"]
    table = whole_table(
        metrics.assign(best_step=0, sum_learning_rate=0.0),
        fits,
        stopping,
        cosine=cosine,
        merged=merged,
        negated=negated,
    )
    own = table[table["group"] == STUDY].set_index("claim")
    kept = own.index[own["verdict"] == REPRODUCED]
    # the kernel at the pretrained weights needs no training
    assert all("decay" in claim and "faster" not in claim for claim in kept)
    assert not (own["verdict"] == CONTRADICTED).any()
