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


def test_heat_map_is_symmetric_about_zero_with_a_grey_diagonal(figure):
    cosine = cosine_of(NAMES, scale=0.3)
    matrix = cosine["cosine"].to_numpy().reshape(3, 3)
    largest = np.abs(matrix - np.eye(3)).max()
    image = figure.axes[0].images[0]
    np.testing.assert_allclose(image.get_array().data, matrix)
    np.testing.assert_array_equal(image.get_array().mask, np.eye(3, dtype=bool))
    assert image.get_clim() == pytest.approx((-largest, largest))
    texts = [text.get_text() for text in figure.axes[0].texts]
    expected = [
        "1" if i == j else f"{matrix[i, j]:.3f}".replace("-", "−")
        for i in range(3)
        for j in range(3)
    ]
    assert texts == expected
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == NAMES


def test_a_model_that_did_not_move_has_dashes_for_cosines():
    cosine = cosine_of(NAMES)
    unmoved = (cosine[["task_a", "task_b"]] == "rte").any(axis=1)
    cosine.loc[unmoved, "cosine"] = NAN
    axes = draw(cosine, merged_of(NAMES)).axes[0]
    texts = np.array([text.get_text() for text in axes.texts]).reshape(3, 3)
    assert texts[1].tolist() == ["–", "1", "–"]
    assert axes.images[0].get_array().mask[1].all()
    assert np.isfinite(axes.images[0].get_clim()).all()


def test_tiny_cosines_stay_pale_and_print_no_minus_zero():
    cosine = cosine_of(NAMES)
    cosine["cosine"] = np.where(cosine["task_a"] == cosine["task_b"], 1.0, -0.0001)
    figure = draw(cosine, merged_of(NAMES))
    assert figure.axes[0].images[0].get_clim() == (-0.1, 0.1)
    assert {text.get_text() for text in figure.axes[0].texts} == {"1", "0.000"}


def test_writing_is_white_on_dark_cells_and_black_on_light_ones():
    cosine = cosine_of(["stsb", "rte"])
    cosine["cosine"] = [1.0, 0.5, -0.001, 1.0]
    figure = draw(cosine, merged_of(["stsb", "rte"]), ["stsb", "rte"])
    assert [text.get_color() for text in figure.axes[0].texts] == [
        "black",
        "white",
        "black",
        "black",
    ]


def test_scores_of_every_task_and_merge(figure):
    merged = merged_of(NAMES)
    rows = merge_rows(merged, NAMES)
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
    printed = [
        f"{value:.2f}" for column in columns.values() for t in NAMES for value in rows[t][column]
    ]
    assert [text for text in texts if text[0] == "0"] == printed
    assert axes.get_title() == "merged models, coefficient 1"
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
    with pytest.raises(UserError, match="no colour map 'viridian'"):
        draw(cosine, merged, NAMES, "viridian")
    merged.loc[0, "coefficient"] = 0.5
    with pytest.raises(UserError, match=r"several coefficients: 0\.5, 1\.0"):
        draw(cosine, merged)
