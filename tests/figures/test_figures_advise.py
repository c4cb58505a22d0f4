"""The figure and the table of the chapter advise, from made-up numbers."""

import pandas as pd
import pytest
from made_up_study import SIZES, TASKS, metrics_table, pilots_of

from ntktune.advise.benchmark import CALIBRATED, OURS
from ntktune.errors import UserError
from ntktune.figures.advised import advised_figure
from ntktune.figures.result_tables import pilots_table
from ntktune.figures.tables import read_tables

COLORS = ["#000000", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#E69F00"]


@pytest.fixture
def tables():
    made = [pilots_of(task).assign(task=task, kind=TASKS[task][1]) for task in TASKS]
    metrics = [metrics_table(task, size) for task in TASKS for size in SIZES]
    return pd.concat(made, ignore_index=True), pd.concat(metrics, ignore_index=True)


def test_what_is_right_is_told_from_what_is_not(tables):
    found = pilots_table(*tables).set_index(["truth", "pilot", "way"]).sort_index()
    right, wrong = (found.loc["kernel", 32, way] for way in ("kernel", "power law"))
    assert (right["off"], right["above"], right["covered"]) == (0, 0, 1)
    assert wrong["off"] == pytest.approx(0.5)
    assert wrong["above_low"] == pytest.approx(0.5)  # the same on all tasks
    scores = found.loc["full", 32]
    assert scores.loc[CALIBRATED, "tasks"] == len(TASKS)
    assert scores.loc["last score", "never"] == 1
    assert scores.loc["last score", "wasted"] == pytest.approx(4 / 3, abs=1e-4)
    assert scores.loc[CALIBRATED, "off"] < scores.loc["last score", "off"]
    assert "last score" not in found.loc["kernel", 32].index


def test_the_figure_has_a_panel_for_the_kernel_and_one_for_each_method(tables):
    benchmark, metrics = tables
    other = metrics.assign(method="probe")
    figure = advised_figure(benchmark, metrics, COLORS, compared=other)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["the kernel's error", "test score, full", "test score, probe"]
    ours = [line for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert [line.get_ydata().tolist() for line in ours] == [[0, 0]]
    assert OURS in [text.get_text() for text in figure.legends[0].get_texts()]


def test_pilots_with_nothing_beyond_them_are_one_line(tables):
    benchmark, metrics = tables
    alone = benchmark[(benchmark["pilot"] == 64) & (benchmark["n"] <= 64)]
    with pytest.raises(UserError, match=r"no pilot is judged: .*; give smaller advise.pilots"):
        pilots_table(alone, metrics[metrics["n"] <= 64])


def test_a_study_of_one_method_has_no_other_trainings(tables):
    benchmark, metrics = tables
    alone = pilots_table(benchmark, metrics, read_tables("compared", [])[0])
    pd.testing.assert_frame_equal(alone, pilots_table(benchmark, metrics))
