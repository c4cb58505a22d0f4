"""Figure 3: cosines between task vectors, and merged models against single-task models."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ntktune.errors import UserError
from ntktune.figures.merges import parts
from ntktune.figures.style import BASELINE, WIDTH, checked_color, laid_out, styled

LEAST_SCALE = 0.1  # a colour scale below this would paint rounding as structure
METRICS = {"pearson": "Pearson r", "accuracy": "accuracy"}
ROW_HEIGHT = 0.165  # inches
TITLE_PAD = 30  # points: the scale and the legend stand between title and panel


def cosine_matrix(cosine: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return the cosines of all ordered pairs as a matrix in the order of ``tasks``.

    Raises
    ------
    UserError
        Fewer than two tasks, or a task without its cosines.
    """
    if len(tasks) < 2:
        raise UserError(f"task vectors are compared in pairs; {', '.join(tasks)} is one task only")
    matrix = cosine.pivot(index="task_a", columns="task_b", values="cosine")
    matrix = matrix.reindex(index=tasks, columns=tasks)
    # a model whose best step is 0 did not move: its cosines are there, and NaN
    missing = [task for task in tasks if task not in set(cosine["task_a"])]
    if missing:
        known = ", ".join(cosine["task_a"].unique())
        raise UserError(f"the cosines hold no task {missing[0]!r}, only: {known}")
    return matrix


def _number(value: float, decimals: int = 2) -> str:
    """Return a number as printed in a figure: a true minus, no minus zero, a dash for NaN."""
    if np.isnan(value):
        return "–"
    rounded = round(float(value), decimals) + 0.0  # −0.0 + 0.0 is 0.0
    return f"{rounded:.{decimals}f}".replace("-", "−")


def _draw_cosines(axes: Axes, matrix: pd.DataFrame, colormap: str) -> None:
    """Draw the heat map; the diagonal is grey, for its 1 would wash out all the rest."""
    values = matrix.to_numpy()
    tasks = list(matrix.index)
    hidden = np.eye(len(tasks), dtype=bool) | np.isnan(values)
    off_diagonal = np.ma.masked_array(values, mask=hidden)
    scale = max(LEAST_SCALE, float(np.ma.filled(np.abs(off_diagonal), 0).max()))
    colors = matplotlib.colormaps[colormap].with_extremes(bad="#D9D9D9")
    image = axes.imshow(off_diagonal, cmap=colors, norm=Normalize(-scale, scale))
    decimals = 2 if len(tasks) > 4 else 3
    size = 7 if len(tasks) <= 4 else 6.2 if len(tasks) <= 6 else 38 / len(tasks)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            red, green, blue, _ = image.cmap(image.norm(value))
            is_dark = not hidden[i, j] and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(
                j,
                i,
                "1" if i == j else _number(value, decimals),
                ha="center",
                va="center",
                fontsize=size,
                color="white" if is_dark else "black",
            )
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
    axes.set_title("cosine between task vectors", pad=TITLE_PAD)
    axes.set_anchor("N")


def merge_rows(merged: pd.DataFrame, tasks: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return task → its rows of the merged models' table, in the order they are drawn.

    Merges of fewer tasks come first, then in the order of the partners. The column
    ``label`` names what was added: ``"+ b"``, or ``"+ all 3 others"``.

    Raises
    ------
    UserError
        A task that no merged model was tested on.
    """
    order = {task: i for i, task in enumerate(tasks)}
    rows = {}
    for task in tasks:
        own = merged[merged["task"] == task].copy()
        own = own[[order.keys() >= set(parts(name)) for name in own["merged"]]]
        if own.empty:
            known = ", ".join(merged["task"].unique())
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
    labels, places, headers, y = [], [], [], 0.0
    points: dict[str, list[float]] = {name: [] for name in series}
    for task, own in rows.items():
        headers.append((y, f"{task} ({METRICS.get(own['metric'].iloc[0], own['metric'].iloc[0])})"))
        for row in own.itertuples():
            y += 1
            labels.append(row.label)
            places.append(y)
            for name in series:
                points[name].append(getattr(row, name))
        y += 1.5
    scores = np.array(list(points.values()))
    for place, (start, single, end) in zip(places, scores.T, strict=True):
        axes.plot([np.nanmin([start, single, end]), np.nanmax([start, single, end])], [place] * 2,
                  color="#C8C8C8", linewidth=0.8, zorder=1)  # fmt: skip
    for name, (label, marker, face, edge) in series.items():
        axes.plot(
            points[name],
            places,
            linestyle="none",
            marker=marker,
            markerfacecolor=face,
            markeredgecolor=edge,
            markersize=4.2,
            label=label,
            zorder=3 if name == "merged_score" else 2,
        )
    across = axes.get_yaxis_transform()  # x in shares of the panel, y in rows
    for i, (name, (label, *_)) in enumerate(series.items()):
        column = [(-0.9, label.split()[0]), *zip(places, map(_number, points[name]), strict=True)]
        for place, text in column:
            axes.annotate(
                text,
                (1.0, place),
                xycoords=across,
                xytext=(34 + 31 * i, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=6.5 if place > 0 else 5.8,
            )
    for place, text in headers:
        axes.text(
            0.0, place, text, transform=across, ha="left", va="center", fontsize=7, weight="bold"
        )
    axes.set_yticks(places, labels)
    axes.set_ylim(y - 0.9, -1.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("test score")


def task_vector_figure(
    cosine: pd.DataFrame,
    merged: pd.DataFrame,
    tasks: Sequence[str],
    colormap: str,
    colors: Sequence[str],
) -> Figure:
    """Return Figure 3 of SR26: task vectors (section 5.2, eqs 22-25).

    Parameters
    ----------
    cosine
        ``task_a``, ``task_b``, ``cosine``: all ordered pairs, the diagonal included.
    merged
        ``merged`` (``"a + b"``), ``task`` (the one tested, with its own head), ``metric``,
        ``coefficient``, ``pretrained``, ``single``, ``merged_score``.
    tasks
        The tasks to draw, in order.
    colormap
        A diverging colour map of matplotlib, for the cosines; symmetric about 0.
    colors
        Colours of the single-task and of the merged models.

    Returns
    -------
    Figure
        Left, the cosines; right, for each task and each merge that holds it, the score
        of the pretrained, the single-task and the merged weights with the task's head.

    Raises
    ------
    UserError
        Fewer than two tasks, a task without its numbers, an unknown colour or colour map,
        or merges at several coefficients.
    """
    for color in colors:
        checked_color(color)
    if colormap not in matplotlib.colormaps:
        raise UserError(
            f"matplotlib has no colour map {colormap!r}; take a diverging one: PuOr, RdBu, BrBG"
        )
    matrix = cosine_matrix(cosine, tasks)
    rows = merge_rows(merged, tasks)
    coefficients = sorted({value for own in rows.values() for value in own["coefficient"]})
    if len(coefficients) > 1:
        raise UserError(
            f"the merged models have several coefficients: {', '.join(map(str, coefficients))}; "
            "merge all tasks with one"
        )
    with styled():
        lines = sum(len(own) + 1.5 for own in rows.values())
        figure = Figure(figsize=(WIDTH, max(3.4, lines * ROW_HEIGHT + 0.9)))
        left, right = figure.subplots(1, 2, width_ratios=(0.9, 1.1))
        _draw_cosines(left, matrix, colormap)
        _draw_merges(right, rows, colors)
        right.set_title(f"merged models, coefficient {coefficients[0]:g}", pad=TITLE_PAD)
        right.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.01),
            ncols=3,
            handletextpad=0.0,
            columnspacing=1.0,
        )
        return laid_out(figure)
