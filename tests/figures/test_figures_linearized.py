"""The figures, tables and verdicts of the chapter linearized, from made-up numbers."""

import numpy as np
import pandas as pd
import pytest
from made_up_study import SETS, SHARES, TASKS, held_of, layers_of, radius_of, sets_of, tuned_of

from ntktune.errors import UserError
from ntktune.figures.choice import STATISTICS, set_order
from ntktune.figures.claims import CONTRADICTED, INCONCLUSIVE, REPRODUCED, UNTESTED
from ntktune.figures.layermap import layer_map_figure
from ntktune.figures.layersets import sets_figure
from ntktune.figures.linearized_verdicts import linearized_rows
from ntktune.figures.penalty import KINDS, penalty_figure
from ntktune.figures.result_tables import held_table, sets_table

COLORS = ["#000000", "#009E73", "#CC79A7"]


def of_tasks(made, tasks=("stsb", "rte")):
    return pd.concat([made(t).assign(task=t, kind=TASKS[t][1]) for t in tasks], ignore_index=True)


@pytest.fixture
def held():
    return of_tasks(held_of)


@pytest.fixture
def chosen():
    return of_tasks(sets_of), of_tasks(tuned_of)


def test_the_penalty_figure_shows_the_gap_and_the_error_by_penalty(held):
    figure = penalty_figure(held, ["rte", "stsb"], COLORS, {"rte": "RTE"})
    assert [axes.get_title() for axes in figure.axes] == ["RTE", "stsb", "", ""]
    above, _, below, _ = figure.axes
    curves = [container.lines[0] for container in above.containers]
    for line, gaps in zip(curves, ([0.1005, 0.05025], [1.005, 1.005]), strict=True):
        np.testing.assert_allclose(line.get_xdata(), SHARES)
        np.testing.assert_allclose(line.get_ydata(), gaps)
    assert above.lines[-1].get_ydata()[0] == pytest.approx(2.01)  # plain fine-tuning
    solution = below.containers[-1].lines[0]
    np.testing.assert_allclose(solution.get_ydata(), [0.501, 0.6])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == f"{KINDS[False]}, mean and 95 % interval over 2 seeds"
    assert texts[-2:] == ["plain fine-tuning", "the pretrained network"]
    with pytest.raises(UserError, match="the fine-tuning of task 'mrpc' was not held"):
        penalty_figure(held, ["mrpc"], COLORS)


def test_the_sets_figure_shows_scores_about_their_mean(chosen):
    figure = sets_figure(*chosen, ["stsb", "rte"], COLORS)
    panels = dict(zip([name for name in STATISTICS if name != "gcv"], figure.axes, strict=True))
    for axes in panels.values():
        for line in axes.lines[:2]:
            shown = sorted(line.get_ydata())
            np.testing.assert_allclose(shown, np.arange(-0.55, 0.6, 0.1), atol=1e-9)
            assert sorted(line.get_xdata())[-1] <= len(
                SETS
            )  # ranks: tasks have scales of their own
    assert panels["condition"].get_title() == "τ = 1.00, 1.00"
    assert panels["largest"].get_title() == "τ = -1.00, -1.00"
    with pytest.raises(UserError, match="no sets of layers of task 'mrpc' were trained"):
        sets_figure(*chosen, ["mrpc"], COLORS)


def test_the_layer_map_shows_shares_of_the_trace_and_alignments():
    layers = of_tasks(layers_of)
    layers.loc[layers["task"] == "rte", "trace"] *= 7  # a share is of its own task
    figure = layer_map_figure(layers, ["rte", "stsb"], "viridis", {"rte": "RTE"})
    above, stsb, below, _ = figure.axes[:4]
    assert [axes.get_title() for axes in figure.axes[:4]] == ["RTE", "stsb", "", ""]
    for axes in (above, stsb):
        shares = axes.collections[0].get_array()
        np.testing.assert_allclose(shares, np.array([[1, 2, 3], [4, 5, 6]]) / 21)
    np.testing.assert_allclose(below.collections[0].get_array(), [[0, 0.1, 0.2], [0.3, 0.4, 0.5]])
    ticks = [label.get_text() for label in below.get_xticklabels()]
    assert ticks == ["self_attn\nq_proj", "mlp\nup_proj", "mlp\ndown_proj"]
    many = pd.concat([layers_of(t).assign(task=t) for t in "abcdef"], ignore_index=True)
    many = many[(many["block"] == 0) & ~((many["task"] == "b") & (many["layer"] == "mlp.up_proj"))]
    many.loc[many["layer"] == "self_attn.q_proj", "alignment"] = np.nan  # of a kernel of zeros
    figure = layer_map_figure(many, [*"abcdef"], "viridis")
    assert len(figure.axes) == 2 * 6 + 2 * 2  # a colour bar per measure and row of tasks
    cells = figure.axes[1].collections[0]  # of b: one block, a layer is missing
    assert np.isnan(cells.get_array().filled(np.nan)).tolist() == [[False, True, False]]
    assert cells.get_coordinates()[:, 0, 1].tolist() == [-0.5, 0.5]
    with pytest.raises(UserError, match="the layers of task 'mrpc' have no kernels"):
        layer_map_figure(layers, ["mrpc"], "viridis")


def test_a_trained_set_needs_its_kernel(chosen):
    sets, tuned = chosen
    with pytest.raises(UserError, match="of task 'stsb' and layers 'mlp' is not there"):
        sets_table(sets[sets["layers"] != "mlp"], tuned)


def test_an_order_is_signed_so_that_one_is_right():
    own = sets_of("stsb").assign(score=range(len(SETS)))
    orders = {name: set_order(own, name) for name in ("condition", "gcv", "evidence", "largest")}
    assert orders == pytest.approx({"condition": 1, "gcv": 1, "evidence": 1, "largest": -1})
    assert np.isnan(set_order(own[:2], "gcv"))


def test_the_tables_have_a_row_per_penalty_and_per_set(held, chosen):
    table = held_table(held, of_tasks(radius_of)).set_index(["task", "share", "selective"])
    assert len(table) == 10
    row = table.loc["stsb", 1.0, True]
    assert row["seeds"] == 2
    assert row["beyond_bound"] == pytest.approx(2)
    assert table.loc["stsb", 1.0, False]["beyond_bound"] == pytest.approx(0.5)
    assert row["linear_gap"] == pytest.approx(1.005)
    assert (row["lipschitz"], row["lipschitz_most"]) == pytest.approx((1.51, 2.01))
    found = sets_table(*chosen).set_index(["task", "layers"])
    assert len(found) == 24
    assert found.loc["stsb", "mlp"]["score"] == pytest.approx(0.705)
    assert found.loc["stsb", "mlp"]["condition"] == 250


def test_claims_that_hold_are_reproduced(held, chosen):
    rows = linearized_rows(held, *chosen, {})
    assert [row["verdict"] for row in rows] == [REPRODUCED, REPRODUCED, REPRODUCED]
    assert all(row["source"].startswith("Afz26 ") for row in rows)
    assert rows[0]["value"] == pytest.approx(1)
    assert rows[1]["value"] == pytest.approx(0.05025)
    assert rows[2]["value"] == pytest.approx(0.5)
    assert "τ of gcv: stsb 1, rte 1" in rows[0]["detail"]
    assert rows[2]["control"].endswith("stsb 2, rte 2")


def test_claims_that_do_not_hold_are_contradicted_or_open(held, chosen):
    sets, tuned = chosen
    worse = sets.assign(condition=1 / sets["condition"])
    wide = held.assign(
        linear_gap=np.where(held["share"] > 0, 0.5 + 0.01 * held["seed"], held["linear_gap"]),
        distance=held["distance"] * np.where(held["selective"], 1, 4.0) + 1e-5 * held["seed"],
    )
    rows = linearized_rows(wide, worse, tuned, {})
    assert [row["verdict"] for row in rows] == [CONTRADICTED] * 3
    noisy = tuned.assign(pearson=tuned["pearson"].where(tuned["seed"] == 0, 0.5 - tuned["pearson"]))
    assert linearized_rows(held, sets, noisy, {})[0]["verdict"] == INCONCLUSIVE
    alike = linearized_rows(held, sets.assign(condition=np.inf), tuned, {})[0]
    assert (alike["verdict"], alike["detail"]) == (UNTESTED, "the condition numbers are all alike")
    # twelve sets and one seed: their order may be chance's
    first = tuned[tuned["seed"] == 0]
    half = first.assign(pearson=first["pearson"] * np.where(np.arange(len(first)) % 2, 1, -1))
    assert linearized_rows(held, sets, half, {})[0]["verdict"] == INCONCLUSIVE
    # a training that chose its start has no gap
    still = held.assign(linear_gap=held["linear_gap"].where(held["share"] == 0))
    assert linearized_rows(still, *chosen, {})[1]["verdict"] == UNTESTED


def test_a_study_without_the_chapter_has_no_such_lines(held, chosen):
    nothing = held.iloc[:0]
    assert linearized_rows(nothing, nothing, nothing, {}) == []
    few = chosen[0][chosen[0]["layers"] == "all"]
    (first, *others) = linearized_rows(nothing, few, chosen[1], {})
    assert first["verdict"] == UNTESTED
    assert "fewer than 12 sets" in first["detail"]
    assert {row["verdict"] for row in others} == {UNTESTED}
