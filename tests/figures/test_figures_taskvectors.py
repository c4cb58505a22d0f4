"""The figures and tables of the chapter taskvectors, from made-up numbers."""

import numpy as np
import pandas as pd
import pytest
from made_up_study import (
    NAN,
    cosine_of,
    disentanglement_of,
    merged_of,
    negated_of,
    overlap_of,
    sweep_of,
)

from ntktune.errors import UserError
from ntktune.figures.addition import addition_figure
from ntktune.figures.disentanglement import disentanglement_figure
from ntktune.figures.layers import group_means, layer_figure
from ntktune.figures.negation import negation_figure
from ntktune.figures.result_tables import (
    cosine_table,
    merging_table,
    negated_as_chosen,
    negated_fully,
    negation_table,
)
from ntktune.figures.sweeps import bounds, task_looks

NAMES = ["stsb", "rte", "mrpc"]
COLORS = ["#0072B2", "#D55E00", "#009E73"]


def legend_of(figure):
    legend = figure.legends[0]
    extent = legend.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
    return [text.get_text() for text in legend.get_texts()]


def line_of(axes, color, style="-"):
    return next(
        line
        for line in axes.lines
        if line.get_color() == color and line.get_linestyle() == style and len(line.get_xdata())
    )


class TestLayers:
    def test_means_over_pairs_and_runs(self):
        cosine = cosine_of(NAMES)
        means = group_means(cosine).set_index(["pair", "group"])
        own = cosine[(cosine["pair"] == "tasks") & (cosine["group"] == "block1.mlp")]
        row = means.loc[("tasks", "block1.mlp")]
        assert row["mean"] == pytest.approx(own["cosine"].mean())
        assert row["sd"] == pytest.approx(own["cosine"].std())
        assert (row["part"], row["block"]) == ("mlp", 1)
        assert means.loc[("seeds", "block0.attention"), "mean"] == pytest.approx(0.49)
        assert means.loc[("seeds", "embedding"), "part"] == ""
        assert means.loc[("subsets", "norm"), "mean"] == pytest.approx(0.69)

    def test_blocks_stand_in_the_order_of_their_numbers(self):
        figure = layer_figure(cosine_of(NAMES, blocks=12), COLORS)
        attention, mlp, rest = figure.axes
        assert [axes.get_title() for axes in figure.axes] == ["attention", "MLP", "other groups"]
        for axes in (attention, mlp):
            for color, style in zip(COLORS, ("-", "--", ":"), strict=True):
                assert line_of(axes, color, style).get_xdata().tolist() == list(range(12))
            np.testing.assert_allclose(line_of(axes, COLORS[2], ":").get_ydata(), 0.69)
        assert [t.get_text() for t in rest.get_xticklabels()] == ["all", "embedding", "norm"]
        assert attention.get_ylim() == rest.get_ylim()
        assert legend_of(figure) == [
            "two tasks",
            "one task, two trainings",
            "one task and head, two samples",
        ]

    def test_a_study_of_one_seed_and_models_that_did_not_move(self):
        cosine = cosine_of(NAMES, runs=1)
        cosine.loc[cosine["task_b"] == "mrpc", "cosine"] = NAN
        names = legend_of(layer_figure(cosine, COLORS))
        assert names == ["two tasks", "one task and head, two samples"]
        means = group_means(cosine[cosine["task_b"] == "rte"])
        assert (means["sd"] == 0).all()

    def test_mistakes(self):
        cosine = cosine_of(NAMES)
        with pytest.raises(UserError, match="no layers of blocks"):
            layer_figure(cosine[cosine["group"] == "all"], COLORS)
        with pytest.raises(UserError, match="'red-ish' is no colour"):
            layer_figure(cosine, ["red-ish", *COLORS[1:]])

    def test_models_that_did_not_move_leave_empty_panels(self):
        figure = layer_figure(cosine_of(NAMES).assign(cosine=NAN), COLORS[:3])
        assert [axes.get_title() for axes in figure.axes][:2] == ["attention", "MLP"]


class TestAddition:
    def test_a_merge_whose_coefficient_could_not_be_chosen_has_no_mark(self):
        merged = merged_of(NAMES)
        merged.loc[merged["choice"] == "validation", ["coefficient", "merged_score"]] = NAN
        axes = addition_figure(sweep_of(NAMES), merged, COLORS).axes[0]
        marks = [line for line in axes.lines if line.get_marker() == "^"]
        assert [len(line.get_xdata()) for line in marks] == [0]

    def test_a_panel_per_merge_and_a_line_per_task(self):
        figure = addition_figure(sweep_of(NAMES), merged_of(NAMES), COLORS)
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == ["stsb + rte", "stsb + mrpc", "rte + mrpc", "all 3 tasks"]
        first, last = figure.axes[0], figure.axes[-1]
        # test rows only, mean of seeds 0, 1, 2
        line = line_of(first, COLORS[0])
        np.testing.assert_allclose(line.get_xdata(), [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(line.get_ydata(), [0.56, 0.81, 1.06, 0.81, 0.56])
        band = first.collections[0].get_paths()[0].get_extents()
        assert (band.y0, band.y1) == pytest.approx((0.55, 1.07))
        assert len(last.collections) == 3
        assert legend_of(figure) == [
            *NAMES,
            "single-task model",
            "configured λ",
            "λ chosen on validation data",
        ]

    def test_both_coefficients_are_marked(self):
        axes = addition_figure(sweep_of(NAMES), merged_of(NAMES), COLORS).axes[0]
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [line.get_xdata() for line in dashed] == [[1.0, 1.0]]
        dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert [line.get_ydata() for line in dotted] == [[1.0, 1.0]]
        marks = next(line for line in axes.lines if line.get_linestyle() == "None")
        np.testing.assert_allclose(marks.get_xdata(), [0.4, 0.5, 0.6])

    def test_one_seed_has_no_band(self):
        figure = addition_figure(sweep_of(NAMES, 1), merged_of(NAMES, seeds=1), COLORS)
        assert not any(axes.collections for axes in figure.axes)

    def test_a_ratio_to_next_to_nothing_does_not_flatten_the_rest(self):
        sweep = sweep_of(NAMES)
        sweep.loc[sweep["seed"] == 0, "normalised"] = 500.0
        low, high = addition_figure(sweep, merged_of(NAMES), COLORS).axes[0].get_ylim()
        assert low < 0.5
        assert 2 < high < 2.2
        assert bounds(pd.Series([NAN, NAN]), -1.0, 2.0) == pytest.approx((-0.12, 1.06))
        assert bounds(pd.Series([1.0, 1.0]), -1.0, 2.0) == pytest.approx((0.8, 1.1))

    def test_more_tasks_than_colours_differ_in_style(self):
        looks = task_looks(NAMES, COLORS[:2])
        assert [look["color"] for look in looks.values()] == [*COLORS[:2], COLORS[0]]
        assert looks["mrpc"]["linestyle"] != looks["stsb"]["linestyle"]
        assert len({look["marker"] for look in looks.values()}) == 3

    def test_mistakes(self):
        sweep, merged = sweep_of(NAMES), merged_of(NAMES)
        with pytest.raises(UserError, match=r"hold no 'stsb \+ mrpc' with the choice 'fixed'"):
            addition_figure(sweep, merged[merged["merged"] != "stsb + mrpc"], COLORS)
        with pytest.raises(UserError, match="with the choice 'validation'"):
            addition_figure(sweep, merged[merged["choice"] == "fixed"], COLORS)
        with pytest.raises(UserError, match="holds no test scores"):
            addition_figure(sweep[sweep["part"] == "validation"], merged, COLORS)
        with pytest.raises(UserError, match="'reddish' is no colour"):
            addition_figure(sweep, merged, ["reddish"])


class TestNegation:
    def test_gap_above_and_what_is_kept_below(self):
        figure = negation_figure(negated_of(NAMES), COLORS)
        above, below = figure.axes[:3], figure.axes[3:]
        assert [axes.get_title() for axes in above] == [f"without {name}" for name in NAMES]
        for place, (top, bottom) in enumerate(zip(above, below, strict=True)):
            solid, dashed = line_of(top, COLORS[place]), line_of(top, COLORS[place], "--")
            control = line_of(top, COLORS[place], "-.")
            random = negated_of(NAMES).query("part == 'test' and task == target")["random_gap"]
            assert set(np.round(control.get_ydata(), 9)) <= set(np.round(random, 9))
            np.testing.assert_allclose(solid.get_xdata(), [0, 0.5, 1, 1.5])
            np.testing.assert_allclose(solid.get_ydata(), [0, 0.25, 0.5, 0.75])
            np.testing.assert_allclose(dashed.get_ydata(), [0, 0.125, 0.25, 0.375])
            for task, color in zip(NAMES, COLORS, strict=True):
                is_target = task == NAMES[place]
                line = line_of(bottom, color)
                lost = (0.3 if is_target else 0.1) * np.array([0, 0.5, 1, 1.5])
                np.testing.assert_allclose(line.get_ydata(), 1 - lost)
                assert (line.get_linewidth() > 2) == is_target
            for axes in (top, bottom):
                marks = next(line for line in axes.lines if line.get_linestyle() == "None")
                assert marks.get_xdata().tolist() == [0.5]
        assert legend_of(figure) == [
            *NAMES,
            "95% of the pretrained score",
            "λ chosen on validation data",
            "as the linear regime has it",
            "a random vector as long in every tensor",
        ]

    def test_many_targets_wrap_and_one_control_is_no_target(self):
        names = ["stsb", "rte", "mrpc", "amazon", "sts12"]
        negated = negated_of(names)
        shown = [a for a in negation_figure(negated, COLORS).axes if a.get_visible()]
        assert len(shown) == 2 * 5
        few = negated[negated["target"] == "stsb"]
        assert "sts12" in legend_of(
            negation_figure(few[few["task"].isin(["stsb", "sts12"])], COLORS)
        )

    def test_a_training_that_did_not_move_is_told_and_its_rounding_not_drawn_large(self):
        still = {"predicted_gap": 0.0, "gap": 1e-7, "random_gap": -1e-8}
        first = negation_figure(negated_of(NAMES).assign(**still), COLORS).axes[0]
        assert first.get_ylim() == (-1, 1)
        assert [text.get_text() for text in first.texts] == ["its training chose step 0"]
        assert not negation_figure(negated_of(NAMES), COLORS).axes[0].texts

    def test_a_wild_prediction_does_not_flatten_the_measured_gap(self):
        negated = negated_of(NAMES).assign(predicted_gap=1e6)
        assert negation_figure(negated, COLORS).axes[0].get_ylim()[1] < 3

    def test_nothing_chosen_is_not_marked(self):
        negated = negated_of(NAMES).assign(chosen=False)
        axes = negation_figure(negated, COLORS).axes[0]
        marks = next(line for line in axes.lines if line.get_linestyle() == "None")
        assert len(marks.get_xdata()) == 0

    def test_mistakes(self):
        negated = negated_of(NAMES)
        with pytest.raises(UserError, match="'rte' was not tested on 'rte'"):
            negation_figure(
                negated[(negated["target"] != "rte") | (negated["task"] != "rte")], COLORS
            )
        with pytest.raises(UserError, match="hold no test scores"):
            negation_figure(negated[negated["part"] == "validation"], COLORS)
        with pytest.raises(UserError, match="'reddish' is no colour"):
            negation_figure(negated, ["reddish"])


class TestDisentanglement:
    def errors(self, count=3):
        names = ["stsb", "rte", "mrpc", "amazon", "sts12"]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        return pd.concat([disentanglement_of(a, b) for a, b in pairs[:count]])

    def test_means_over_seeds_on_one_scale_with_the_square_of_merges(self):
        figure = disentanglement_figure(self.errors(), "YlGnBu")
        panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        assert len(panels) == 2 * 3
        assert panels[0].get_title() == "α₁ stsb\nα₂ rte"
        assert [panels[i].get_ylabel() for i in (0, 3)] == ["network\nα₂", "linearised\nα₂"]
        grid = np.abs(np.outer([-2, -1, 0, 1, 2], [-2, -1, 0, 1, 2])) / 10
        for place, axes in enumerate(panels):
            mesh = axes.collections[0]
            wanted = grid if place < 3 else grid / 2
            np.testing.assert_allclose(mesh.get_array(), wanted, atol=1e-12)
            assert mesh.get_clim() == pytest.approx((0, 0.4))
            frames = [(*p.get_xy(), p.get_width(), p.get_height()) for p in axes.patches]
            assert frames == [(0, 0, 1, 1)] * 2

    def test_the_first_coefficient_runs_to_the_right(self):
        error = self.errors(1)
        error["error"] = error["alpha_a"] + 2
        mesh = disentanglement_figure(error, "YlGnBu").axes[0].collections[0]
        np.testing.assert_allclose(mesh.get_array()[0], [0, 1, 2, 3, 4])

    def test_many_pairs_wrap(self):
        figure = disentanglement_figure(self.errors(10), "YlGnBu")
        panels = [axes for axes in figure.axes if axes.get_visible() and axes.get_title()]
        assert len(panels) == 10
        assert len({round(axes.get_position().y0, 3) for axes in panels}) == 2

    def test_mistakes(self):
        error = self.errors()
        with pytest.raises(UserError, match="no colour map 'viridian'"):
            disentanglement_figure(error, "viridian")
        with pytest.raises(UserError, match="stsb, rte has no errors of the arm 'linear'"):
            disentanglement_figure(
                error[(error["task_b"] != "rte") | (error["arm"] != "linear")], "YlGnBu"
            )
        nothing = disentanglement_figure(error.assign(error=0.0), "YlGnBu")
        assert nothing.axes[0].collections[0].get_clim() == (0.0, 1.0)


class TestTable3:
    def test_rows_by_hand(self):
        cosine, merged = cosine_of(NAMES), merged_of(NAMES)
        own = (cosine["task_a"] == "stsb") & (cosine["task_b"] == "rte")
        cosine.loc[own, "cosine"] += 0.123456
        table = merging_table(cosine, merged, overlap_of(NAMES))
        assert list(table.columns[:7]) == [
            *("merged", "cosine", "task", "kind", "metric", "choice", "seeds"),
        ]
        assert len(table) == 2 * (3 * 2 + 3)
        row = table.iloc[0]
        mean = cosine.loc[own & (cosine["group"] == "all"), "cosine"].mean()
        assert row["cosine"] == round(mean, 4)
        assert (row["task"], row["choice"], row["seeds"]) == ("stsb", "fixed", 3)
        assert (row["coefficient"], row["coefficient_sd"]) == (1, 0)
        assert row["single"] == pytest.approx(0.7)  # 0.69, 0.7 and 0.71
        assert row["single_sd"] == pytest.approx(0.01)
        assert row["merged_score"] == pytest.approx(0.679)
        assert (row["normalised"], row["normalised_clean"]) == (0.97, 0.92)
        assert (row["rows"], row["leaked"]) == (200, 10)
        overlaps = ["sample_exact", "sample_normalised", "pool_exact", "pool_normalised"]
        assert row[overlaps].tolist() == [2, 3, 4, 5]
        chosen = table[(table["merged"] == "stsb + rte") & (table["choice"] == "validation")]
        assert chosen["coefficient"].tolist() == [0.5, 0.5]
        assert chosen["coefficient_sd"].tolist() == [0.1, 0.1]

    def test_overlaps_with_the_other_members_are_summed(self):
        table = merging_table(cosine_of(NAMES), merged_of(NAMES), overlap_of(NAMES))
        all_three = table[table["merged"] == "stsb + rte + mrpc"]
        assert all_three["cosine"].isna().all()
        assert set(all_three["pool_normalised"]) == {10}

    def test_one_seed_and_an_unknown_score(self):
        merged = merged_of(["rte", "stsb"], seeds=1).assign(pretrained=NAN)
        # the cosines name the tasks the other way round
        table = merging_table(cosine_of(["stsb", "rte"]), merged, overlap_of(["stsb", "rte"], 1))
        assert table["pretrained"].isna().all()
        assert table["single_sd"].isna().all()
        assert table["cosine"].notna().all()

    def test_an_overlap_that_was_not_counted(self):
        overlap = overlap_of(NAMES)
        with pytest.raises(UserError, match="no test rows of 'stsb' in 'rte'"):
            merging_table(cosine_of(NAMES), merged_of(NAMES), overlap[overlap["other"] != "rte"])


def test_table8_by_hand():
    table = cosine_table(cosine_of(NAMES))
    assert list(table.columns) == [
        *("pair", "task_a", "task_b", "group", "mean", "sd", "least", "most", "count"),
        "shared",
    ]
    assert len(table) == (3 + 3 + 3) * (2 * 2 + 3)
    rows = table.set_index(["pair", "task_a", "task_b", "group"])
    first = rows.loc[("tasks", "stsb", "rte", "all")]
    assert first["count"] == 4
    assert first["sd"] == pytest.approx(0.0008)  # −0.001, 0, 0 and 0.001 about the mean
    assert first["most"] - first["least"] == pytest.approx(0.002)
    null = rows.loc[("seeds", "rte", "rte", "embedding")]
    assert (null["mean"], null["least"], null["count"]) == (0.245, 0.245, 1)
    assert np.isnan(null["sd"])
    assert null["shared"] == 0.25
    assert np.isnan(first["shared"])
    unknown = cosine_table(cosine_of(NAMES).assign(cosine=NAN))
    assert len(unknown) == len(table)
    assert (unknown["count"] == 0).all()


class TestTable9:
    def test_rows_by_hand(self):
        table = negation_table(negated_of(["stsb", "rte"]))
        keys = ["target", "task", "choice"]
        assert table[keys].to_numpy().tolist() == [
            [target, task, choice]
            for target in ("stsb", "rte")
            for choice in ("fixed", "validation")
            for task in ("stsb", "rte")
        ]
        rows = table.set_index(keys)
        row = rows.loc[("stsb", "stsb", "fixed")]
        assert (row["kind"], row["metric"], row["seeds"]) == ("regression", "pearson", 3)
        assert (row["coefficient"], row["kept"], row["score"]) == (1, 0.7, 0.42)
        assert (row["gap"], row["gap_sd"], row["predicted_gap"]) == (0.5, 0.1, 0.25)
        assert (row["linear_score"], row["pretrained"]) == (0.58, 0.6)
        chosen = rows.loc[("stsb", "rte", "validation")]
        assert (chosen["coefficient"], chosen["kept"], chosen["gap"]) == (0.5, 0.95, 0)

    def test_without_a_coefficient_of_one_or_a_chosen_one(self):
        negated = negated_of(["stsb", "rte"], seeds=1).assign(chosen=False)
        negated = negated[negated["coefficient"] != 1]
        table = negation_table(negated)
        assert set(table["choice"]) == {"fixed"}
        assert set(table["coefficient"]) == {1.5}
        assert table["gap_sd"].isna().all()
        assert negated_as_chosen(negated).empty
        assert negated_fully(negated.iloc[:0]).empty
