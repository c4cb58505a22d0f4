import numpy as np
import pytest
from made_up_study import NAN, TASKS, cosine_of, merged_of

from ntktune.errors import UserError
from ntktune.figures.fig3 import merge_rows, task_vector_figure

COLORS = ["#0072B2", "#D55E00"]
NAMES = ["stsb", "rte", "mrpc"]


def draw(cosine, merged, tasks=NAMES, colormap="PuOr"):
    return task_vector_figure(cosine, merged, tasks, colormap, COLORS)


@pytest.fixture(scope="module")
def figure():
    return draw(cosine_of(NAMES, scale=0.3), merged_of(NAMES))


def printed(axes, size=3):
    """The means in the cells, and the standard deviations below some of them."""
    texts = [text.get_text() for text in axes.texts]
    means = [text for text in texts if text[0] != "±"]
    return np.array(means).reshape(size, size), [text for text in texts if text[0] == "±"]


def test_heat_map_is_symmetric_about_zero_and_its_diagonal_has_no_colour(figure):
    cosine = cosine_of(NAMES, scale=0.3)
    whole = cosine[cosine["group"] == "all"]
    pairs = whole[whole["pair"] == "tasks"].groupby(["task_a", "task_b"])["cosine"].mean()
    axes = figure.axes[0]
    image = axes.images[0]
    shown = image.get_array()
    for (a, b), value in pairs.items():
        i, j = NAMES.index(a), NAMES.index(b)
        assert shown[i, j] == shown[j, i] == pytest.approx(value)
    np.testing.assert_array_equal(shown.mask, np.eye(3, dtype=bool))
    assert image.get_clim() == pytest.approx((-pairs.abs().max(), pairs.abs().max()))
    means, spreads = printed(axes)
    assert means[0, 1] == means[1, 0] == f"{pairs['stsb', 'rte']:.3f}".replace("-", "−")
    # four pairs of runs, at −0.001, 0, 0 and 0.001 about their mean; one pair of samples
    assert spreads == ["± 0.001"] * 6
    assert [t.get_text() for t in axes.get_xticklabels()] == NAMES


def test_the_framed_diagonal_compares_a_task_with_itself(figure):
    axes = figure.axes[0]
    assert np.diag(printed(axes)[0]).tolist() == ["0.500", "0.490", "0.480"]
    frames = [patch.get_xy() for patch in axes.patches if patch.get_width() == 0.9]
    assert frames == [(i - 0.45, i - 0.45) for i in range(3)]
    title = "cosine between task vectors\n(framed: one task, two trainings)"
    assert axes.get_title() == title


def test_two_samples_stand_in_where_a_task_was_trained_once():
    cosine, merged = cosine_of(NAMES, runs=1), merged_of(NAMES, seeds=1)
    axes = draw(cosine, merged).axes[0]
    means, spreads = printed(axes)
    assert np.diag(means).tolist() == ["0.700", "0.690", "0.680"]
    assert spreads == []
    assert axes.get_title().endswith("(framed: one task and head, two samples)")
    cosine.loc[(cosine["pair"] == "subsets") & (cosine["task_a"] == "rte"), "cosine"] = NAN
    assert np.diag(printed(draw(cosine, merged).axes[0])[0]).tolist() == ["0.700", "–", "0.680"]
    axes = draw(cosine[cosine["pair"] == "tasks"], merged).axes[0]
    assert np.diag(printed(axes)[0]).tolist() == ["–", "–", "–"]
    assert "unknown" in axes.get_title()
    mixed = cosine_of(NAMES)
    mixed = mixed[(mixed["pair"] != "seeds") | (mixed["task_a"] == "rte")]
    title = draw(mixed, merged).axes[0].get_title()
    assert "two trainings or one task" in title.replace("\n", " ")


def test_the_order_of_the_command_is_kept():
    cosine, merged = cosine_of(NAMES), merged_of(NAMES)
    means = printed(draw(cosine, merged, NAMES[::-1]).axes[0])[0]
    np.testing.assert_array_equal(means, printed(draw(cosine, merged).axes[0])[0][::-1, ::-1])


def test_a_task_that_is_named_twice():
    with pytest.raises(UserError, match="--tasks has 'rte' more than once"):
        draw(cosine_of(NAMES), merged_of(NAMES), ["rte", "stsb", "rte"])


def test_a_model_that_did_not_move_has_dashes_for_cosines():
    cosine = cosine_of(NAMES)
    unmoved = (cosine[["task_a", "task_b"]] == "rte").any(axis=1)
    cosine.loc[unmoved, "cosine"] = NAN
    axes = draw(cosine, merged_of(NAMES)).axes[0]
    assert printed(axes)[0][1].tolist() == ["–", "–", "–"]
    assert axes.images[0].get_array().mask[1].all()
    assert np.isfinite(axes.images[0].get_clim()).all()


def test_tiny_cosines_stay_pale_and_print_no_minus_zero():
    cosine = cosine_of(NAMES, runs=1)
    cosine.loc[cosine["pair"] == "tasks", "cosine"] = -0.0001
    figure = draw(cosine, merged_of(NAMES))
    assert figure.axes[0].images[0].get_clim() == (-0.1, 0.1)
    means = printed(figure.axes[0])[0]
    assert set(means[~np.eye(3, dtype=bool)]) == {"0.000"}


def test_writing_is_white_on_dark_cells_and_black_on_light_ones():
    cosine = cosine_of(NAMES, runs=1)
    pairs = cosine["pair"] == "tasks"
    cosine.loc[pairs, "cosine"] = np.where(cosine.loc[pairs, "task_b"] == "rte", 0.5, -0.001)
    colors = [text.get_color() for text in draw(cosine, merged_of(NAMES)).axes[0].texts]
    assert colors == ["black", "white", *["black"], "white", *["black"] * 5]


def test_scores_of_every_task_and_merge(figure):
    merged = merged_of(NAMES)
    rows = merge_rows(merged, NAMES)
    # the middle one of three seeds has the mean; the coefficient that was chosen is not drawn
    chosen = merged[(merged["seed"] == 1) & (merged["choice"] == "fixed")]
    pairs = chosen[chosen["merged"] == "stsb + rte"].set_index("task")
    assert rows["rte"]["single"].iloc[0] == pytest.approx(pairs.loc["rte", "single"])
    assert rows["rte"]["merged_score"].iloc[0] == pytest.approx(pairs.loc["rte", "single"] * 0.96)
    assert list(rows["rte"]["label"]) == ["+ stsb", "+ mrpc", "+ all 2 others"]
    axes = figure.axes[1]
    dots = {line.get_label(): line for line in axes.lines if line.get_marker() != "None"}
    assert list(dots) == ["pretrained", "single task", "merged"]
    columns = {"pretrained": "pretrained", "single task": "single", "merged": "merged_score"}
    for label, column in columns.items():
        wanted = np.concatenate([rows[task][column] for task in NAMES])
        np.testing.assert_allclose(dots[label].get_xdata(), wanted)
    assert len({line.get_marker() for line in dots.values()}) == 3
    assert dots["single task"].get_markerfacecolor() == COLORS[0]
    assert dots["merged"].get_markerfacecolor() == COLORS[1]
    assert [t.get_text() for t in axes.get_yticklabels()][:3] == [
        "+ rte",
        "+ mrpc",
        "+ all 2 others",
    ]
    texts = [text.get_text() for text in axes.texts]
    assert "stsb (Pearson r)" in texts
    assert "rte (accuracy)" in texts
    # each of the nine rows prints its three scores
    scores = [
        f"{value:.2f}" for column in columns.values() for t in NAMES for value in rows[t][column]
    ]
    assert [text for text in texts if text[0] == "0"] == scores
    assert axes.get_title() == "merged models, coefficient 1\n(3 seeds)"
    assert axes.get_xlabel() == "test score"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["pretrained", "single task", "merged"]


def test_rows_do_not_run_into_each_other():
    """Twelve tasks are 144 rows; the figure grows with them."""
    names = [f"task{i}" for i in range(12)]
    TASKS.update(dict.fromkeys(names, TASKS["stsb"]))
    try:
        figure = draw(cosine_of(names), merged_of(names), names)
    finally:
        for name in names:
            del TASKS[name]
    places = figure.axes[1].get_yticks()
    assert len(places) == 12 * 12
    height = figure.axes[1].get_position().height * figure.get_figheight()
    rows = abs(np.subtract(*figure.axes[1].get_ylim()))
    assert height / rows * 72 > 7  # points per row, for letters of 6.5


def test_a_correlation_that_does_not_exist_is_a_dash():
    merged = merged_of(["stsb", "rte"])
    merged.loc[merged["task"] == "stsb", "pretrained"] = NAN
    figure = draw(cosine_of(["stsb", "rte"]), merged, ["stsb", "rte"])
    assert "–" in [text.get_text() for text in figure.axes[1].texts]


def test_mistakes_are_named():
    cosine, merged = cosine_of(NAMES), merged_of(NAMES)
    with pytest.raises(UserError, match="stsb is one task only"):
        draw(cosine, merged, ["stsb"])
    with pytest.raises(UserError, match="the cosines hold no task 'amazon', only: stsb, rte, mrpc"):
        draw(cosine, merged, ["stsb", "amazon"])
    with pytest.raises(UserError, match="no merge of the tasks holds 'rte'"):
        draw(cosine, merged[merged["task"] != "rte"], NAMES)
    with pytest.raises(UserError, match="no merge of the tasks holds 'stsb'"):
        draw(cosine, merged[merged["choice"] != "fixed"], NAMES)
    with pytest.raises(UserError, match="'#12' is no colour"):
        task_vector_figure(cosine, merged, NAMES, "PuOr", ["#12", "#D55E00"])
    with pytest.raises(UserError, match="no colour map 'viridian'"):
        draw(cosine, merged, NAMES, "viridian")
    merged.loc[0, "coefficient"] = 0.5
    with pytest.raises(UserError, match=r"several coefficients: 0\.5, 1\.0"):
        draw(cosine, merged)
