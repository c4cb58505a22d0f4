"""Figure 3: cosines between task vectors, and merged models against single-task models."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ntktune.errors import UserError
from ntktune.figures.cosines import DIFFERENT, NULLS, whole_cosines
from ntktune.figures.measures import METRIC_LABELS
from ntktune.figures.style import (
    BASELINE,
    WIDTH,
    check_colormap,
    checked_color,
    count,
    laid_out,
    styled,
    wrapped,
)
from ntktune.study.merges import FIXED, parts

LEAST_SCALE = 0.1  # a colour scale below this would paint rounding as structure
ROW_HEIGHT = 0.165  # inches
TITLE_PAD = 30  # points: the scale and the legend stand between title and panel
MOST_SPREADS = 8  # tasks: in the smaller cells of more, standard deviations can't be read


def cosine_matrices(
    cosine: pd.DataFrame, tasks: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return mean and sd of the cosines as matrices in the order of ``tasks``, and the nulls.

    Over runs (``sd`` NaN of one). The diagonal holds the first of :data:`NULLS` that a task has,
    NaN without any; the nulls say which. Raises UserError for fewer than two tasks, one of them
    twice, or a task without its cosines.
    """
    if len(tasks) < 2:
        raise UserError(f"task vectors are compared in pairs; {', '.join(tasks)} is one task only")
    if repeated := [task for task in tasks if list(tasks).count(task) > 1]:
        raise UserError(f"--tasks has {repeated[0]!r} more than once; give each task once")
    pairs = {pair: whole_cosines(cosine, pair) for pair in (DIFFERENT, *NULLS)}
    known = list(dict.fromkeys([*pairs[DIFFERENT]["task_a"], *pairs[DIFFERENT]["task_b"]]))
    # a model whose best step is 0 did not move: its cosines are there, and NaN
    if missing := [task for task in tasks if task not in known]:
        raise UserError(f"the cosines hold no task {missing[0]!r}, only: {', '.join(known)}")
    empty = pd.DataFrame(np.nan, index=list(tasks), columns=list(tasks))
    mean, sd, nulls = empty, empty.copy(), []
    for pair, rows in pairs.items():
        for row in rows[rows["task_a"].isin(tasks) & rows["task_b"].isin(tasks)].itertuples():
            a, b = row.task_a, row.task_b
            if row.count and np.isnan(mean.loc[a, b]):
                mean.loc[a, b] = mean.loc[b, a] = row.mean
                sd.loc[a, b] = sd.loc[b, a] = row.sd
                nulls += [pair] * (pair in NULLS)
    return mean, sd, list(dict.fromkeys(nulls))


def _number(value: float, decimals: int = 2) -> str:
    """Return a number as printed in a figure: a true minus, no minus zero, a dash for NaN."""
    rounded = round(float(value), decimals) + 0.0  # −0.0 + 0.0 is 0.0
    return "–" if np.isnan(value) else f"{rounded:.{decimals}f}".replace("-", "−")


def _draw_cosines(
    axes: Axes, mean: pd.DataFrame, sd: pd.DataFrame, nulls: Sequence[str], colormap: str
) -> None:
    """Draw the heat map; the diagonal has no colour, for it would wash out all the rest."""
    values, spreads = mean.to_numpy(), sd.to_numpy()
    tasks = list(mean.index)
    hidden = np.eye(len(tasks), dtype=bool) | np.isnan(values)
    off_diagonal = np.ma.masked_array(values, mask=hidden)
    scale = max(LEAST_SCALE, float(np.ma.filled(np.abs(off_diagonal), 0).max()))
    colors = matplotlib.colormaps[colormap].with_extremes(bad="#D9D9D9")
    image = axes.imshow(off_diagonal, cmap=colors, norm=Normalize(-scale, scale))
    frame = {"facecolor": "white", "edgecolor": BASELINE}
    for i in range(len(tasks)):
        axes.add_patch(Rectangle((i - 0.45, i - 0.45), 0.9, 0.9, **frame))
    decimals = 2 if len(tasks) > 4 else 3
    size = 7 if len(tasks) <= 4 else 6.2 if len(tasks) <= 6 else 38 / len(tasks)
    for (i, j), value in np.ndenumerate(values):
        red, green, blue, _ = image.cmap(image.norm(value))
        is_dark = not hidden[i, j] and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        look = {"ha": "center", "va": "center", "color": "white" if is_dark else "black"}
        with_spread = len(tasks) <= MOST_SPREADS and np.isfinite(spreads[i, j])
        axes.text(j, i - 0.12 * with_spread, _number(value, decimals), fontsize=size, **look)
        if with_spread:
            spread = f"± {_number(spreads[i, j], decimals)}"
            axes.text(j, i + 0.2, spread, fontsize=0.72 * size, **look)
    axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    # above the map and inset: below it stand names of any length, and the panel beside it
    # may be much taller
    bar = axes.inset_axes((0.0, 1.035, 1.0, 0.03))
    axes.figure.colorbar(image, cax=bar, orientation="horizontal", ticklocation="top")
    bar.grid(visible=False)
    framed = " or ".join(NULLS[null] for null in nulls) or "one task with itself: unknown"
    title = f"cosine between task vectors\n(framed: {framed})"
    axes.set_title(wrapped(title, 42) if len(nulls) > 1 else title, pad=TITLE_PAD)
    axes.set_anchor("N")


def merge_rows(merged: pd.DataFrame, tasks: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return task → its merged models with the configured coefficient, in the order drawn.

    Scores are means over seeds. Merges of fewer tasks come first, then in the order of the
    partners. The column ``label`` names what was added: ``"+ b"``, or ``"+ all 3 others"``.
    Raises UserError for a task that no merged model was tested on.
    """
    fixed = merged[merged["choice"] == FIXED]
    scores = ["coefficient", "pretrained", "single", "merged_score"]
    means = fixed.groupby(["merged", "task", "metric"], sort=False)[scores].mean().reset_index()
    order = {task: i for i, task in enumerate(tasks)}
    rows = {}
    for task in tasks:
        own = means[means["task"] == task].copy()
        own = own[[order.keys() >= set(parts(name)) for name in own["merged"]]]
        if own.empty:
            known = ", ".join(means["task"].unique())
            raise UserError(f"no merge of the tasks holds {task!r}; there are merges of: {known}")
        others = [[part for part in parts(name) if part != task] for name in own["merged"]]
        own["label"] = [
            f"+ all {len(other)} others"
            if len(other) == len(tasks) - 1 > 1
            else " ".join(f"+ {part}" for part in other)
            for other in others
        ]
        places = [(len(other), [order[part] for part in other]) for other in others]
        rows[task] = own.iloc[sorted(range(len(own)), key=places.__getitem__)]
    return rows


def _draw_merges(axes: Axes, rows: dict[str, pd.DataFrame], colors: Sequence[str]) -> None:
    """Draw one line of dots per task and merge, the tasks below each other."""
    series = {
        "pretrained": ("pretrained", "s", "white", BASELINE),
        "single": ("single task", "o", colors[0], colors[0]),
        "merged_score": ("merged", "D", colors[1], colors[1]),
    }
    places, headers, y = [], {}, 0.0
    for task, own in rows.items():
        headers[y] = f"{task} ({METRIC_LABELS[own['metric'].iloc[0]]})"
        places += [y + 1 + row for row in range(len(own))]
        y += len(own) + 1.5
    every = pd.concat(rows.values())
    lowest, highest = every[[*series]].min(axis=1), every[[*series]].max(axis=1)
    for place, *ends in zip(places, lowest, highest, strict=True):
        axes.plot(ends, [place] * 2, color="#C8C8C8", linewidth=0.8, zorder=1)
    for name, (label, marker, face, edge) in series.items():
        look = {"marker": marker, "markerfacecolor": face, "markeredgecolor": edge}
        look |= {"linestyle": "none", "markersize": 4.2, "zorder": 2 + (name == "merged_score")}
        axes.plot(every[name].to_numpy(), places, label=label, **look)
    across = axes.get_yaxis_transform()  # x in shares of the panel, y in rows
    for i, (name, (label, *_)) in enumerate(series.items()):
        look = {"xycoords": across, "xytext": (34 + 31 * i, 0), "textcoords": "offset points"}
        look |= {"ha": "right", "va": "center"}
        axes.annotate(label.split()[0], (1.0, -0.9), fontsize=5.8, **look)
        for place, score in zip(places, every[name], strict=True):
            axes.annotate(_number(score), (1.0, place), fontsize=6.5, **look)
    for place, text in headers.items():
        look = {"transform": across, "ha": "left", "va": "center", "fontsize": 7, "weight": "bold"}
        axes.text(0.0, place, text, **look)
    axes.set_yticks(places, every["label"])
    axes.set(ylim=(y - 0.9, -1.4), xlabel="test score")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")


def task_vector_figure(
    cosine: pd.DataFrame,
    merged: pd.DataFrame,
    tasks: Sequence[str],
    colormap: str,
    colors: Sequence[str],
) -> Figure:
    """Return Figure 3 of SR26: task vectors (section 5.2, eqs 22-25).

    ``colors`` are those of the single-task and the merged weights. Raises UserError for fewer than
    two tasks, or merges at several coefficients.
    """
    colors = [checked_color(color) for color in colors]
    check_colormap(colormap, "diverging", "PuOr, RdBu, BrBG")
    matrices = cosine_matrices(cosine, tasks)
    rows = merge_rows(merged, tasks)
    fixed = merged[merged["choice"] == FIXED]
    coefficients = sorted(fixed["coefficient"].unique())
    if len(coefficients) > 1:
        raise UserError(
            f"the merged models have several coefficients: {', '.join(map(str, coefficients))}; "
            "merge all tasks with one"
        )
    with styled():
        lines = sum(len(own) + 1.5 for own in rows.values())
        figure = Figure(figsize=(WIDTH, max(3.4, lines * ROW_HEIGHT + 0.9)))
        left, right = figure.subplots(1, 2, width_ratios=(0.9, 1.1))
        _draw_cosines(left, *matrices, colormap)
        _draw_merges(right, rows, colors)
        seeds = count(fixed["seed"].nunique(), "seed")
        right.set_title(f"merged models, coefficient {coefficients[0]:g}\n({seeds})", pad=TITLE_PAD)
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.01), "ncols": 3}
        right.legend(**above, handletextpad=0.0, columnspacing=1.0)
        return laid_out(figure)
