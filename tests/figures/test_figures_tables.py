import numpy as np
import pandas as pd
import pytest
from made_up_study import (
    SIZES,
    TASKS,
    eigenvalue_table,
    fit_table,
    metrics_table,
    stopping_of,
    subsets_of,
    summary_of,
)

from ntktune.errors import UserError
from ntktune.figures.measures import nearest_size
from ntktune.figures.result_tables import stopping_table, study_table

SUBSETS = {task: subsets_of(task) for task in TASKS}


@pytest.fixture(scope="module")
def metrics():
    return pd.concat([metrics_table(t, s) for t in TASKS for s in SIZES], ignore_index=True)


@pytest.fixture(scope="module")
def summaries():
    return {task: summary_of(task, fit_table(eigenvalue_table(task))) for task in TASKS}


def test_table1_row_by_hand(summaries, metrics):
    summary = summaries["stsb"] | {
        "exponent": {"mean": 1.5, "sd": 0.1, "low": 1.4, "high": 1.6, "stderr_mean": 0.01},
        "predicted_rate": {"mean": 0.6, "low": 0.58, "high": 0.62},
        "r_squared": {"mean": 0.97, "min": 0.95},
        "sensitivity": {"2..n": {"mean": 1.4, "sd": 0.1}, "1..n/2": {"mean": 1.3, "sd": 0.1}},
    }
    table = study_table({"stsb": summary}, metrics, SUBSETS)
    row = table.iloc[0].to_dict()
    # the seeds' own exponents are 0.38, 0.4, 0.42: half t of 0.975 with two degrees of freedom
    # times 0.02 / √3, wider for the rows that they share
    half = 4.303 * 0.02 / 3**0.5 * ((1 + 2 / 48) / (1 - 1 / 48)) ** 0.5
    interval = (row.pop("measured_low"), row.pop("measured_high"))
    assert interval == pytest.approx((0.4 - half, 0.4 + half), abs=0.012)
    assert np.isnan(row.pop("exponent_middle"))  # the summary has no such range
    assert row.pop("measured_exponent") == pytest.approx(0.4)
    assert row.pop("floor") == pytest.approx(0, abs=0.005)
    assert row.pop("slope_exponent") == pytest.approx(0.4)
    assert row.pop("slope_stderr") > 0
    # of 1 − (n/16)^−0.4 at 256: between the two largest sizes
    best = 1 - 16**-0.4
    low = 1 - 8**-0.4
    way = (0.95 * best - low) / (best - low)
    for name in ("needed", "needed_low", "needed_high"):  # all seeds have one correlation
        assert row.pop(name) == pytest.approx(128 * 2**way, rel=0.005)
    assert row.pop("best_gain") == row.pop("best_score") == pytest.approx(best)
    assert row.pop("best_score_sd") == pytest.approx(0)
    assert row == {
        "task": "stsb",
        "kind": "regression",
        "metric": "pearson",
        "n": 100,
        "draws": 5,
        "shared_draws": 0.01,
        "shared_seeds": pytest.approx((8 / 256 + 8 / 256 + 0) / 3),
        "exponent": 1.5,
        "exponent_sd": 0.1,
        "exponent_low": 1.4,
        "exponent_high": 1.6,
        "omega": 0.75,
        "r_squared": 0.97,
        "exponent_2_to_n": 1.4,
        "exponent_1_to_half": 1.3,
        "predicted_rate": 0.6,
        "predicted_low": 0.58,
        "predicted_high": 0.62,
        "error_measure": "MSE − label noise",
        "sizes_dropped": 0,
        "points_dropped": 0,
        "sizes": 4,
        "seeds": 3,
        "reason": "",
        "best_size": 256,
        "needed_undecided": False,
        "needed_bound": "least",
        "test_rows": len(SUBSETS["stsb"]["test"]),
    }


def test_table1_counts_the_rows_that_the_largest_samples_trained_on_share(summaries, metrics):
    for left_out, shared in ((1, 0), (2, 8 / 256)):
        fewer = metrics[(metrics["n"] < 256) | (metrics["seed"] != left_out)]
        table = study_table({"stsb": summaries["stsb"]}, fewer, SUBSETS)
        assert table.loc[0, "shared_seeds"] == pytest.approx(shared)


def test_table1_has_a_row_per_task_in_order_and_depends_on_no_other_task(summaries, metrics):
    table = study_table(summaries, metrics, SUBSETS)
    assert list(table["task"]) == list(TASKS)
    alone = study_table({"rte": summaries["rte"]}, metrics, SUBSETS)
    pd.testing.assert_frame_equal(alone, table.iloc[[-1]].reset_index(drop=True))


def test_table1_keeps_a_task_that_was_not_fine_tuned(summaries, metrics):
    two = {task: summaries[task] for task in ("rte", "stsb")}
    table = study_table(two, metrics[metrics["task"] != "rte"], SUBSETS)
    assert table.loc[0, "reason"] == "the task was not fine-tuned"
    assert table.loc[0, "kind"] == ""
    assert np.isnan(table.loc[0, "measured_exponent"])


def test_table1_states_no_interval_for_one_draw(summaries, metrics):
    none = {"low": None, "high": None}
    summary = summaries["rte"] | {"draws": 1}
    summary |= {name: summary[name] | none for name in ("exponent", "predicted_rate")}
    row = study_table({"rte": summary}, metrics, SUBSETS).iloc[0]
    interval = ["exponent_low", "exponent_high", "predicted_low", "predicted_high"]
    assert row[interval].isna().all()
    assert row["exponent"] == summary["exponent"]["mean"]


def test_table2_by_hand(metrics):
    stopping = pd.concat([stopping_of(t).assign(task=t) for t in ("semrel", "rte")])
    table = stopping_table(stopping, metrics).set_index("task")
    assert list(table.index) == ["semrel", "rte"]
    row = table.loc["semrel"]
    assert (row["n"], row["draws"], row["sigma_source"]) == (100, 5, "residual")
    assert row["radius"] == pytest.approx(1.7)
    assert row["radius_source"] == "plug-in"
    assert row["eta"] == pytest.approx(122.0)
    assert row["eta_sd"] == pytest.approx(np.sqrt(2.5))
    assert row["stopping_time"] == pytest.approx(488.0)
    assert row["holdout_n"] == 128  # of 32, 64, 128, 256 the nearest to 100
    assert row["seeds"] == 3
    # steps 4, 5, 6 and sums 60, 61, 62 times 1e-4 at n = 128
    assert row["best_step"] == pytest.approx(5.0)
    assert row["best_step_sd"] == pytest.approx(1.0)
    assert row["sum_learning_rate"] == pytest.approx(61e-4)
    assert row["sum_learning_rate_sd"] == pytest.approx(1e-4)
    assert table.loc["rte", "sum_learning_rate"] == pytest.approx(11e-4)


def test_table2_with_one_draw_one_seed_and_no_end(metrics):
    stopping = stopping_of("rte", draws=2).astype({"stopping_time": float}).assign(task="rte")
    stopping.loc[0, ["stopping_time", "eta"]] = np.inf
    row = stopping_table(stopping, metrics[metrics["seed"] == 0]).iloc[0]
    assert row["eta"] == np.inf
    assert np.isnan(row["eta_sd"])
    assert np.isnan(row["best_step_sd"])
    with pytest.raises(UserError, match="the metrics hold no task 'cr'"):
        stopping_table(stopping.assign(task="cr"), metrics)


def test_the_nearest_size_is_the_smaller_of_two():
    assert nearest_size(pd.Series([200, 100, 50]), 150) == 100
    assert nearest_size(pd.Series([64]), 1000) == 64
