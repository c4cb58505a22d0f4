"""The figures, tables and verdicts of the chapter selection, from made-up numbers."""

import numpy as np
import pandas as pd
import pytest
from made_up_study import (
    CURVE_SIZES,
    MODELS,
    TASKS,
    candidates_of,
    loss_of,
    scores_of,
    subsets_of,
)

from ntktune.errors import UserError
from ntktune.figures.claims import CONTRADICTED, REPRODUCED, UNTESTED
from ntktune.figures.laws import laws_figure
from ntktune.figures.ranks import SHOWN, ranks_figure
from ntktune.figures.regret import ASIDE, LEAST, apart, regret_figure
from ntktune.figures.result_tables import candidates_table, choices_table, laws_table
from ntktune.figures.selected import choices, law_errors
from ntktune.figures.selection_verdicts import selection_rows

COLORS = ["#000000", "#009E73", "#CC79A7"]
BOTH = ["stsb", "rte"]


def of_tasks(made, tasks=BOTH):
    return pd.concat([made(t).assign(task=t, kind=TASKS[t][1]) for t in tasks], ignore_index=True)


@pytest.fixture
def curves():
    return of_tasks(candidates_of)


@pytest.fixture
def scores():
    return of_tasks(scores_of)


def test_choices_against_the_truth(curves, scores):
    found = choices(curves, scores).set_index(["task", "score", "kernel"]).sort_index()
    for task in BOTH:
        right = found.loc[task, "evidence", "head"]
        numbers = right[["kendall", "weighted", "regret", "low", "high"]].tolist()
        assert numbers == pytest.approx([1, 1, 0, 0, 0])
        assert tuple(right[["chosen_model", "chosen_pooling"]]) == ("small", "mean")
        assert right["pearson"] == pytest.approx(1, abs=1e-4)
        wrong = found.loc[task, "gcv", "head"]  # less is better, and it is the loss turned round
        assert wrong["kendall"] == pytest.approx(-1)
        lost = 0.5 * (loss_of("tiny", "last", 128) - loss_of("small", "mean", 128))
        assert wrong["regret"] == pytest.approx(lost, abs=1e-3)
        assert wrong["low"] < wrong["regret"] < wrong["high"]
        large = found.loc[task, "ModelSize", ""]
        # of a size, not of a pooling
        assert tuple(large[["chosen_model", "chosen_pooling"]]) == ("large", "last mean")
        both = (loss_of("large", "last", 128) + loss_of("large", "mean", 128)) / 2
        assert large["regret"] == pytest.approx(
            0.5 * (both - loss_of("small", "mean", 128)), abs=1e-3
        )
        assert large["flops"] == 0
        # 128 texts of 10 tokens, forward, three models; the NTK of six candidates three times that
        passes = 2 * 128 * 10 * 1000 * (1 + 2 + 3)
        assert right["flops"] == pytest.approx(passes)
        assert found.loc[task, "evidence", "ntk"]["flops"] == pytest.approx(3 * 2 * passes)
        # of all sizes below the largest, over the largest
        assert found.loc[task, "rectified", ""]["cost"] == pytest.approx((16 + 32 + 64) / 128)
        assert found.loc[task, "SubTuning", ""]["cost"] == pytest.approx(64 / 128)
        truth = [0.5 * loss_of(m, p, 128) for m in MODELS for p in ("last", "mean")]
        assert large["chance"] == pytest.approx(np.mean(truth) - min(truth), abs=1e-3)


def test_intervals_are_wider_where_seeds_share_rows(curves, scores):
    subsets = {task: subsets_of(task, 2) for task in BOTH}
    for task in BOTH:
        first = list(range(128))
        subsets[task]["seeds"] = [{"order": first}, {"order": first[64:] + list(range(200, 264))}]
    plain, wide = (choices(curves, scores, given) for given in (None, subsets))
    lost = plain["regret"] > 0
    ratio = (wide["high"] - wide["regret"])[lost] / (plain["high"] - plain["regret"])[lost]
    np.testing.assert_allclose(ratio, np.sqrt(1.5 / 0.5))


def test_a_choice_among_one_is_none(curves, scores):
    one = curves[(curves["model"] == "tiny") & (curves["pooling"] == "last")]
    with pytest.raises(UserError, match="task 'stsb' has one candidate; list more"):
        choices(one, scores)


def test_laws_from_few_sizes(curves, scores):
    """The losses are a rectified law's with D_l = 40, which F is: three sizes tell the fourth."""
    found = law_errors(curves, scores)
    mean = found.groupby(["sizes", "law"])["error"].mean()
    assert mean[3, "measured"] < 1e-6
    assert mean[3, "line"] > 0.02
    assert set(found["sizes"]) == {2, 3}  # the fourth is to be predicted
    unmeasured = law_errors(curves, scores[scores["kernel"] != "ntk"])
    assert "measured" not in set(unmeasured["law"])
    table = laws_table(curves, scores).set_index(["task", "sizes", "law"])
    assert table.loc[("rte", 3, "line"), "candidates"] == 6
    for most in (16, 32):  # nothing to predict, or nothing to fit
        short = curves[curves["n"] <= most]
        assert len(laws_table(short, scores)) == 0
        assert len(choices_table(short, scores, {})) > 0
        laws_figure(short, scores, BOTH, COLORS)
        ranks_figure(short, scores, BOTH, COLORS)
        regret_figure(short, scores, {}, BOTH, COLORS)


def test_the_tables_have_all_candidates(curves, scores):
    table = candidates_table(curves, scores)
    assert len(table) == 2 * 6 * len(CURVE_SIZES)
    one = table[(table["model"] == "tiny") & (table["n"] == 128) & (table["pooling"] == "last")]
    assert one["loss"].to_numpy() == pytest.approx(loss_of("tiny", "last", 128), abs=1e-4)
    assert (one["remaining"] == 40).all()
    assert len(choices_table(curves, scores, {})) == len(choices(curves, scores))


def test_the_figures_show_all_candidates(curves, scores):
    figure = laws_figure(curves, scores, BOTH, COLORS, {"rte": "RTE"})
    assert sorted(axes.get_title() for axes in figure.axes) == ["RTE", "stsb"]
    for axes in figure.axes:
        points = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert len(points) == 6
        np.testing.assert_allclose(
            points[0].get_ydata(), [loss_of("tiny", "last", n) for n in CURVE_SIZES]
        )
        measured = [line for line in axes.lines if line.get_linestyle() == ":"]
        np.testing.assert_allclose(measured[0].get_ydata(), points[0].get_ydata(), rtol=1e-5)
    figure = ranks_figure(curves, scores, BOTH, COLORS)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == len(SHOWN)
    assert [axes.get_title() for axes in panels[:3]] == ["τ = 1.00, 1.00"] * 3
    assert panels[3].get_title() == "τ = -1.00, -1.00"
    figure = regret_figure(curves, scores, {}, BOTH, COLORS)
    for axes in figure.axes:
        costs = [c.lines[0].get_xdata()[0] for c in axes.containers]
        assert min(costs) < 2 * LEAST < max(costs)
        assert len(costs) == 2 + 3 + 3 + 3  # probe, GCV, LogME by kernel; three others


def test_the_axis_of_losses_is_that_of_what_was_measured(curves, scores):
    """A law may fall to 1e-9 beyond the sizes that it was fitted to."""
    own = curves["task"] == "rte"
    steep = curves[own & (curves["model"] == "tiny")].copy()
    fall = {n: 1 / 3**place for place, n in enumerate(CURVE_SIZES[:-1])}
    steep["cross_entropy"] = steep["n"].map(fall | {CURVE_SIZES[-1]: 1 / 9})
    axes = laws_figure(steep, scores, ["rte"], COLORS).axes[0]
    drawn = min(line.get_ydata().min() for line in axes.lines)
    low, high = axes.get_ylim()
    assert drawn < low < 1 / 9
    assert 1 < high < 2


def test_models_beyond_the_colours_are_hollow(curves, scores):
    axes = laws_figure(curves, scores, ["rte"], COLORS[:2]).axes[0]
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    looks = {(line.get_color(), line.get_markerfacecolor()) for line in points}
    first, second = COLORS[:2]
    assert looks == {(first, first), (second, second), (first, "white")}


def test_points_of_one_cost_stand_side_by_side():
    assert apart([0.0, 0.1, 1.0]) == pytest.approx([LEAST, 0.1, 1.0])
    places = apart([0.5, 3.0, 0.505, 0.5])
    assert places[1] == pytest.approx(3.0)
    alike = sorted([places[0], places[2], places[3]])
    assert np.divide(alike[1:], alike[:-1]) == pytest.approx(ASIDE)
    assert places[2] == max(alike)
    assert np.prod(alike) == pytest.approx(0.5 * 0.505 * 0.5)


def test_a_regression_has_no_scores_of_classes(curves, scores):
    """What no candidate has is left out; a way that some lack is judged by those that have it."""
    named = set(choices(curves, scores)["score"])
    assert "h_score" not in named
    some = scores.assign(h_score=np.where(scores["model"] == "tiny", np.nan, -scores["gcv"]))
    found = choices(curves, some).set_index("score")
    assert (found.loc["h_score", "candidates"] == 4).all()


def test_verdicts(curves, scores):
    rows = selection_rows(curves, scores, {})
    verdicts = [row["verdict"] for row in rows]
    assert [row["source"].split()[0] for row in rows] == ["Lens25", "Lin24", "Lin24", "You21"]
    assert verdicts[3] == REPRODUCED  # LogME finds the best, size does not
    assert verdicts[2] == REPRODUCED  # the losses are exact power laws with a floor
    turned = scores.assign(evidence=-scores["evidence"])
    against = selection_rows(curves, turned, {})[3]
    assert against["verdict"] == CONTRADICTED
    without = selection_rows(curves, scores[scores["kernel"] != "ntk"], {})[0]
    assert without["verdict"] == UNTESTED
    assert "selection.kernel_seeds" in without["detail"]
    assert selection_rows(curves.iloc[:0], scores.iloc[:0], {}) == []
    large = curves["model"] == "large"
    alike = scores.assign(evidence=np.where(scores["model"] == "large", 9.0, 0.0))
    row = selection_rows(curves[large | (curves["model"] == "tiny")], alike, {})[3]
    assert (row["verdict"], row["detail"]) == (UNTESTED, "it chooses the largest model")
    for row in selection_rows(curves[curves["n"] > 32], scores, {})[:3]:
        assert (row["verdict"], row["detail"].split("; ")[0]) == (
            *(UNTESTED, "selection.sizes needs three or more"),
        )
