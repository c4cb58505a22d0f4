"""The figures of the claim: predicted against measured, and the test error by epoch."""

import numpy as np
import pandas as pd
import pytest
from made_up_study import NAN, TASKS, history_of

from ntktune.errors import UserError
from ntktune.figures.epochs import epochs_figure
from ntktune.figures.prediction import prediction_figure
from ntktune.figures.result_tables import score_table

COLORS = ["#0072B2", "#D55E00"]


@pytest.fixture
def rates(study):
    return pd.read_csv(study.files["table1"][0]).assign(needed_bound="")


def test_every_task_is_a_point_of_its_two_numbers(rates):
    figure = prediction_figure(rates, COLORS, {"stsb": "STS-B"})
    left, right = figure.axes
    for axes, x, y in (
        (left, "predicted_rate", "measured_exponent"),
        (right, "exponent", "needed"),
    ):
        drawn = {tuple(container.lines[0].get_xydata()[0]) for container in axes.containers}
        assert drawn == {(row[x], row[y]) for _, row in rates.iterrows()}
    # bars are the intervals
    bars = left.containers[0].lines[2]
    first = rates.iloc[0]
    spans = [np.ptp(bar.get_segments()[0], axis=0).max() for bar in bars]
    expected = [first[f"{name}_high"] - first[f"{name}_low"] for name in ("predicted", "measured")]
    np.testing.assert_allclose(spans, expected, rtol=1e-6)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:7] == ["semrel", "sts12", "STS-B", "amazon", "mrpc", "rte", "as predicted"]
    looks = {(c.lines[0].get_marker(), c.lines[0].get_color()) for c in left.containers}
    assert len(looks) == len(TASKS)  # a grey print can be read
    assert {color for _, color in looks} == set(COLORS)


def test_a_bound_is_no_number_of_examples(rates):
    rates.loc[rates["task"] != "rte", "needed_bound"] = "least"
    left, right = prediction_figure(rates, COLORS).axes
    assert (len(left.containers), len(right.containers)) == (6, 1)
    rates["needed_bound"] = ["least", "most"] * 3
    (only,) = prediction_figure(rates, COLORS).axes
    assert only.get_xlabel() == "predicted exponent a/(a+1)"


def test_a_task_without_a_number_is_left_out(rates):
    rates.loc[rates["task"] == "rte", "measured_exponent"] = NAN
    rates.loc[rates["task"] == "stsb", ["needed_low", "needed_high"]] = NAN
    figure = prediction_figure(rates, COLORS)
    assert [len(axes.containers) for axes in figure.axes] == [5, 6]
    empty = prediction_figure(rates.assign(exponent=NAN, predicted_rate=NAN), COLORS)
    assert [text.get_text() for text in empty.legends[0].get_texts()] == ["as predicted"]
    assert [axes.texts[0].get_text() for axes in empty.axes] == ["no task has both numbers"] * 2


def test_an_interval_that_may_go_on_has_an_arrow(rates):
    rates["measured_low"] = [-np.inf, -np.inf, 0.005, 0.01, 0.2, 0.2]
    rates["measured_high"] = [2.0, 2.9, 2.0, np.inf, np.inf, 2.0]
    rates["needed_high"] = [np.inf, 900, 900, 900, 900, 900]
    figure = prediction_figure(rates, COLORS)
    left, right = ([(*text.xy, *text.xyann) for text in axes.texts] for axes in figure.axes)
    x, y = rates["predicted_rate"], rates["measured_exponent"]
    ends = {0: 0.0, 1: 0.0, 3: 1.0, 4: 1.0}  # task → the axis's end that it goes on to
    assert left == [(x[task], end, x[task], y[task]) for task, end in ends.items()]
    assert right == [(rates["exponent"][0], 1.0, rates["exponent"][0], rates["needed"][0])]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-1] == "the interval goes on"


@pytest.mark.parametrize("needed", [(16, 40, 90, 200, 700, 2000), (150, 160, 170, 180, 190, 200)])
def test_examples_have_labels_all_along_the_axis(rates, needed):
    axes = prediction_figure(rates.assign(needed=needed), COLORS).axes[1]
    low, high = axes.get_ylim()
    shown = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert 3 <= len(shown) <= 9
    assert min(shown) < min(needed) * 1.5
    assert max(shown) > max(needed) / 1.5
    labels = [
        text.get_text() for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high
    ]
    assert all(labels)


def test_two_tasks_of_one_title_are_told_apart(rates):
    figure = prediction_figure(rates, COLORS, {"mrpc": "Pairs", "rte": "Pairs"})
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[4:6] == ["Pairs (mrpc)", "Pairs (rte)"]


def test_no_colour(rates):
    with pytest.raises(UserError, match="'blau' is no colour"):
        prediction_figure(rates, ["blau", "#000000"])


@pytest.fixture
def history():
    tables = [history_of(t).assign(task=t, kind=kind) for t, (_, kind, *_) in TASKS.items()]
    return pd.concat(tables, ignore_index=True)


def test_mean_seeds_and_stops_by_epoch(history):
    figure = epochs_figure(history, list(TASKS), "#0072B2", {"rte": "RTE"})
    assert [axes.get_title() for axes in figure.axes][-1] == "RTE"
    assert figure.axes[0].get_ylabel() == "test MSE\n(squared score units)"
    for axes, task in zip(figure.axes, TASKS, strict=True):
        own = history[history["task"] == task]
        error = own["mse"] if TASKS[task][1] == "regression" else 1 - own["accuracy"]
        by_seed = error.to_numpy().reshape(3, 5)
        thick = max(axes.lines, key=lambda line: line.get_linewidth())
        np.testing.assert_allclose(thick.get_ydata(), by_seed.mean(axis=0))
        dots = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() == "o"]
        assert dots == [[2.0, by_seed[0, 2]], [2.0, by_seed[1, 2]], [3.0, by_seed[2, 3]]]
        (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert dashed.get_ydata()[0] == pytest.approx(
            2.2 if TASKS[task][1] == "regression" else 0.45
        )
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "mean over 3 seeds"


def test_an_evaluation_without_holdout_loss_is_named(history):
    history.loc[3, "holdout_loss"] = NAN
    with pytest.raises(UserError, match="task 'semrel' has an evaluation without hold-out loss"):
        epochs_figure(history, list(TASKS), "#0072B2")


def test_scores_by_hand():
    runs = pd.DataFrame(
        {
            "task": ["b", "b", "a"],
            "kind": "regression",
            "metric": "mse",
            "method": "full",
            "n": 32,
            "seed": [1, 0, 0],
            "mse": [1.0, 3.0, 5.0],
            "best_step": [0, 4, 0],
            "at_budget": [False, True, False],
            **dict.fromkeys(("mse_unit", "baseline_mse", "noise_variance", "pearson"), 0.5),
            **dict.fromkeys(("spearman", "accuracy", "f1", "cross_entropy"), NAN),
            **dict.fromkeys(("baseline_accuracy", "baseline_f1", "chance_accuracy"), NAN),
        }
    )
    table = score_table(runs)
    assert table["task"].tolist() == ["b", "a"]
    assert table["metric"].tolist() == ["mse", "mse"]
    assert table["seeds"].tolist() == ["0 1", "0"]
    assert table["mse"].tolist() == [2.0, 5.0]
    assert table.loc[0, "mse_sd"] == pytest.approx(2**0.5)
    assert np.isnan(table.loc[1, "mse_sd"])
    assert not {"accuracy", "accuracy_sd", "f1", "baseline_f1"} & set(table)  # no task has them
    assert table["at_start"].tolist() == [1, 1]
    assert table["at_budget"].tolist() == [1, 0]
    untuned = runs.drop(columns=["best_step", "at_budget"]).assign(method="linear-probe", mse=7.0)
    both = score_table(runs, None, untuned)
    numbers = ["at_start", "at_budget"]
    assert (
        both.loc[:1, numbers].to_csv() == table[numbers].astype(float).to_csv()
    )  # of one seed too
    pd.testing.assert_frame_equal(both[:2].drop(columns=numbers), table.drop(columns=numbers))
    own = both[len(table) :]
    assert own["method"].tolist() == ["linear-probe"] * 2
    assert own["mse"].tolist() == [7.0, 7.0]
    assert own[["at_start", "at_budget"]].isna().all(axis=None)  # nothing was trained
