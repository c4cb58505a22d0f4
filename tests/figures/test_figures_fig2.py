import itertools

import numpy as np
import pandas as pd
import pytest
from made_up_study import NAN, SIZES, TASKS, metrics_table, orders_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.fig2 import learning_curve_figure
from ntktune.figures.panels import draw_log_axis, size_labels
from ntktune.figures.style import styled
from ntktune.intervals import half_width, shared_rows

COLORS = ["#0072B2", "#009E73", "#CC79A7"]
NOISE = 0.5
UNTUNED_FACTORS = {"linear-probe": 2.0, "kernel-descent": 3.0, "kernel-ridge": 4.0}

OTHERS = {"full": 2.0, "probe": 3.0}


def metrics_of(tasks, sizes=SIZES, **kwargs):
    return pd.concat(
        [metrics_table(t, s, **{"noise": NOISE} | kwargs) for t in tasks for s in sizes]
    )


@pytest.fixture(scope="module")
def metrics():
    return metrics_of(TASKS)


@pytest.fixture(scope="module")
def figure(metrics):
    return learning_curve_figure(
        metrics, list(TASKS), COLORS, {"stsb": "STS-B"}, ranges={"stsb": [0, 5]}
    )


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_dots_are_means_and_bars_are_intervals_over_seeds(figure, metrics):
    for axes, task in zip(figure.axes, TASKS, strict=True):
        rows = metrics[metrics["task"] == task]
        error = rows["mse"] if TASKS[task][1] == "regression" else 1 - rows["accuracy"]
        error = error.to_numpy().reshape(len(SIZES), 3)
        line, _, (bars,) = axes.containers[0]
        np.testing.assert_array_equal(line.get_xdata(), SIZES)
        np.testing.assert_allclose(line.get_ydata(), error.mean(axis=1), rtol=1e-12)
        segments = np.array(bars.get_segments())  # (sizes, low and high, x and y)
        half = (segments[:, 1, 1] - segments[:, 0, 1]) / 2
        np.testing.assert_allclose(half, half_width(error.T), rtol=1e-9)


def test_reference_lines(figure):
    def levels(axes):
        return {
            line.get_linestyle(): line.get_ydata()[0]
            for line in axes.lines
            if line.get_linestyle() in ("--", ":")
        }

    assert levels(figure.axes[0]) == pytest.approx({"--": 2.2, ":": NOISE})
    assert levels(figure.axes[3]) == pytest.approx({"--": 0.45})


def test_the_baseline_is_a_mean_over_sizes(metrics):
    changed = metrics.copy()
    changed.loc[changed["n"] < max(SIZES), "baseline_mse"] = 4.2
    axes = learning_curve_figure(changed, ["stsb"], COLORS).axes[0]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed[0].get_ydata()[0] == pytest.approx(4.2 - 2.0 / len(SIZES))


def test_predictions_without_fine_tuning_are_thin_lines(metrics):
    untuned = pd.concat(
        [metrics.assign(method=m, mse=metrics["mse"] * f) for m, f in UNTUNED_FACTORS.items()]
    )
    untuned = untuned[(untuned["method"] == "linear-probe") | (untuned["n"] < max(SIZES))]
    figure = learning_curve_figure(metrics, ["stsb", "sts12"], COLORS, baselines=untuned)
    for axes, task in zip(figure.axes, ["stsb", "sts12"], strict=True):
        means = metrics[metrics["task"] == task].groupby("n")["mse"].mean()
        drawn = {line.get_linestyle(): line for line in axes.lines if line.get_linewidth() == 1.0}
        np.testing.assert_allclose(drawn["-."].get_ydata(), 2 * means)
        np.testing.assert_allclose(drawn["-"].get_ydata(), 3 * means[means.index < max(SIZES)])
    assert {"linear probe", "prediction by the NTK"} < set(legend_texts(figure))
    assert "kernel-ridge" not in " ".join(legend_texts(figure))


def test_a_long_legend_stays_inside_the_figure(metrics):
    untuned = pd.concat([metrics.assign(method=m) for m in UNTUNED_FACTORS])
    figure = learning_curve_figure(metrics, list(TASKS), COLORS, baselines=untuned)
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width
    assert 0 <= legend.y0 < legend.y1 < figure.axes[-1].get_window_extent().y0
    assert len(legend_texts(figure)) == 5


def test_regressions_stand_in_the_first_row_and_classifications_in_the_second(metrics):
    mixed = ["rte", "stsb", "mrpc", "sts12", "amazon", "semrel"]
    figure = learning_curve_figure(metrics, mixed, COLORS)
    places = {
        axes.get_title(): (spec.rowspan.start, spec.colspan.start)
        for axes in figure.axes
        for spec in [axes.get_subplotspec()]
    }
    assert places == {
        "stsb": (0, 0),
        "sts12": (0, 1),
        "semrel": (0, 2),
        "rte": (1, 0),
        "mrpc": (1, 1),
        "amazon": (1, 2),
    }


def test_words_and_ticks(figure):
    first, fourth = figure.axes[0], figure.axes[3]
    assert first.get_xlabel() == "labelled examples n"
    assert first.get_ylabel() == "test MSE\n(squared score units)"
    assert fourth.get_ylabel() == "test error rate\n(1 − accuracy)"
    assert figure.axes[1].get_ylabel() == ""
    assert first.get_xscale() == first.get_yscale() == "log"
    assert first.get_title() == "semrel"
    assert figure.axes[2].get_title() == "STS-B, scores 0 to 5"
    assert [t.get_text() for t in first.get_xticklabels()] == ["32", "64", "128", "256"]
    np.testing.assert_array_equal(first.get_xticks(), SIZES)
    assert legend_texts(figure) == [
        "fine-tuned, mean and 95 % interval over 3 seeds",
        "predicting the training mean or majority",
        "variance of the label noise",
    ]


def test_test_texts_shared_samples_and_the_predicted_slope(metrics):
    subsets = {"stsb": {"seeds": [{"order": rows} for rows in orders_of("stsb")], "test": [1, 2]}}
    summary = {"stsb": {"predicted_rate": {"mean": 0.7}}}
    axes = learning_curve_figure(
        metrics, ["stsb"], COLORS, {"stsb": "STS-B"}, subsets=subsets, summary=summary
    ).axes[0]
    assert axes.get_title() == "STS-B\n2 test texts"
    errors = metrics.query("task == 'stsb'")["mse"].to_numpy().reshape(len(SIZES), 3)
    slope = next(line for line in axes.lines if len(line.get_xdata()) == 50)
    sizes, drawn = slope.get_data()
    expected = NOISE + (errors[0].mean() - NOISE) * (sizes / SIZES[0]) ** -0.7
    np.testing.assert_allclose(drawn, expected)
    segments = np.array(axes.containers[0][2][0].get_segments())
    half = (segments[:, 1, 1] - segments[:, 0, 1]) / 2
    shared = [shared_rows(orders_of("stsb")[:, :n]) for n in SIZES]
    assert shared[-1] > shared[0] == 0
    expected = [half_width(own, part) for own, part in zip(errors, shared, strict=True)]
    np.testing.assert_allclose(half, expected)


def test_each_method_of_fine_tuning_has_a_curve(metrics):
    others = [metrics.assign(method=m, mse=f * metrics["mse"]) for m, f in OTHERS.items()]
    drawn = learning_curve_figure(
        metrics.assign(method="lora"), ["stsb", "rte"], COLORS, compared=pd.concat(others)
    )
    levels = [c[0].get_ydata() / drawn.axes[0].containers[0][0].get_ydata()
              for c in drawn.axes[0].containers]  # fmt: skip
    np.testing.assert_allclose(levels, [[1] * len(SIZES), [2] * len(SIZES), [3] * len(SIZES)])
    looks = [c[0].get_color() for c in drawn.axes[0].containers]
    assert looks == COLORS
    assert legend_texts(drawn)[:3] == [
        "fine-tuned by LoRA, mean and 95 % interval over 3 seeds",
        "all weights fine-tuned",
        "head alone trained",
    ]
    # beside each other, so that no bar hides another
    places = [c[0].get_xdata()[0] / SIZES[0] for c in drawn.axes[0].containers]
    np.testing.assert_allclose(places, [1, 1.04, 1.04**2])


def test_an_error_of_zero_is_shown_on_a_linear_axis(metrics):
    easy = metrics[metrics["task"].isin(["rte", "amazon"])].copy()
    assert set(easy["kind"]) == {"classification"}
    easy.loc[(easy["task"] == "rte") & (easy["n"] > min(SIZES)), "accuracy"] = 1.0
    rte, amazon = learning_curve_figure(easy, ["rte", "amazon"], COLORS).axes
    assert (rte.get_yscale(), amazon.get_yscale()) == ("linear", "log")
    low, high = rte.get_ylim()
    line = rte.containers[0].lines[0]
    assert line.get_ydata()[-1] == 0 > low
    assert max(line.get_ydata()) < high


def test_one_seed_and_one_size(metrics):
    single = metrics[(metrics["seed"] == 0) & (metrics["n"] == 64)]
    figure = learning_curve_figure(single, ["rte"], COLORS)
    assert legend_texts(figure) == ["fine-tuned, 1 seed", "predicting the training majority"]
    line = figure.axes[0].containers[0][0]
    assert line.get_xdata() == [64]
    low, high = figure.axes[0].get_xlim()
    assert low < 64 < high
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["64"]


def test_seeds_without_a_value_are_not_counted(metrics):
    broken = metrics.reset_index(drop=True)
    broken.loc[(broken["n"] == 32) & (broken["seed"] == 0), "mse"] = NAN
    figure = learning_curve_figure(broken, ["stsb"], COLORS)
    assert legend_texts(figure)[0] == "fine-tuned, mean and 95 % interval over 2–3 seeds"
    assert legend_texts(figure)[1] == "predicting the training mean"


@pytest.mark.parametrize(("noise", "drawn"), [(0.4, True), (0.01, False)])
def test_label_noise_far_below_the_curves_is_a_number_and_squeezes_none(noise, drawn):
    metrics = metrics_of(["stsb"], noise=noise).assign(mse=0.8, baseline_mse=1.0)
    figure = learning_curve_figure(metrics, ["stsb"], COLORS)
    axes = figure.axes[0]
    assert ("variance of the label noise" in legend_texts(figure)) == drawn
    words = [text.get_text() for text in axes.texts]
    assert words == ([] if drawn else ["label noise 0.01 ↓"])
    low, high = axes.get_ylim()
    assert (low < noise) == drawn
    assert low > 0.3
    assert high > 1


def test_unknown_label_noise_is_not_drawn():
    figure = learning_curve_figure(
        metrics_of(["stsb"], noise=NAN).assign(mse=1.0), ["stsb"], COLORS
    )
    assert len(legend_texts(figure)) == 2


@pytest.mark.parametrize(
    ("regressions", "classifications"), [(1, 0), (1, 1), (2, 1), (4, 0), (1, 4), (7, 2), (6, 6)]
)
def test_any_number_of_tasks_has_a_panel_each_inside_the_figure(regressions, classifications):
    names = [f"score{i}" for i in range(regressions)] + [
        f"class{i}" for i in range(classifications)
    ]
    rows = {"score": metrics_table("stsb", 64), "class": metrics_table("rte", 64)}
    metrics = pd.concat([rows[name[:5]].assign(task=name) for name in names])
    figure = learning_curve_figure(metrics, names, COLORS)
    assert [axes.get_title() for axes in figure.axes] == names
    boxes = [axes.get_position() for axes in figure.axes]
    legend = figure.legends[0].get_window_extent().transformed(figure.transFigure.inverted())
    boxes.append(legend)
    for i, box in enumerate(boxes):
        assert 0 < box.x0 < box.x1 < 1
        assert 0 < box.y0 < box.y1 < 1
        for other in boxes[:i]:
            assert not box.overlaps(other)


def test_crowded_sizes_keep_their_ticks_and_lose_labels():
    assert size_labels([32, 64, 128]) == ["32", "64", "128"]
    assert size_labels([16, 24, 32, 48, 64, 1024]) == ["16", "", "32", "", "64", "1024"]
    assert size_labels([64]) == ["64"]


def test_mistakes_are_named(metrics):
    with pytest.raises(UserError, match="the metrics hold no task 'sst2', only: semrel, sts12"):
        learning_curve_figure(metrics, ["stsb", "sst2"], COLORS)
    with pytest.raises(UserError, match="'bluish' is no colour"):
        learning_curve_figure(metrics, ["stsb"], ["bluish"])
    with pytest.raises(UserError, match="task 'stsb' has no value of 'error' at any size"):
        learning_curve_figure(metrics.assign(mse=NAN), ["stsb"], COLORS)


@pytest.mark.parametrize("limits", [(1, 1.5), (0.3, 2), (0.05, 5), (1e-4, 2), (2, 1e-4), (1e-9, 3)])
def test_labels_of_a_logarithmic_axis_do_not_overlap(limits):
    with styled():
        figure = Figure(figsize=(2.6, 2))
        axes = figure.subplots()
        axes.set(xscale="log", xlim=limits)
        draw_log_axis(axes.xaxis)
        FigureCanvasAgg(figure).draw()
        low, high = sorted(limits)
        inside = [t for t in axes.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
        boxes = sorted(t.label1.get_window_extent().intervalx.tolist() for t in inside)
    assert len(boxes) >= 2
    assert all(first[1] < second[0] for first, second in itertools.pairwise(boxes))
