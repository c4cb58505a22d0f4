"""The look that all figures share, and how a figure becomes bytes.

Colours come from the configuration; what a reader of a grey print needs is said a
second time by line style, line width and marker. The same figure gives the same
bytes: no dates, no random identifiers.
"""

import contextlib
import io
import textwrap
from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure

from ntktune.errors import UserError

WIDTH = 7.1  # inches: the text width of a two-column journal page
BASELINE = "#444444"
REFERENCE = "#8A8A8A"
MARKERS = "osD^vP"
EDGED = {"markeredgecolor": "white", "markeredgewidth": 0.5}  # markers that may overlap
DASHED = {"color": BASELINE, "linestyle": "--", "linewidth": 1.0}  # what needs no learning
DOTTED = {"color": BASELINE, "linestyle": ":", "linewidth": 1.0, "zorder": 1}  # a score to compare
NOISE = {"color": REFERENCE, "linestyle": ":", "linewidth": 1.4}  # a level of noise
# stopping rule → what it is called, and the marker that tells it apart in a grey print
RULES = {
    "theory": ("theory (T̂)", "o"),
    "holdout": ("hold-out", "s"),
    "sure": ("SURE", "^"),
    "oracle": ("oracle", "D"),
}

# fmt: off
STYLE = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same on every machine
    "font.size": 8, "mathtext.fontset": "dejavusans",
    "axes.titlesize": 8.5, "axes.labelsize": 8, "axes.linewidth": 0.7,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.5,
    "xtick.labelsize": 7, "xtick.major.width": 0.7, "xtick.major.size": 3,
    "ytick.labelsize": 7, "ytick.major.width": 0.7, "ytick.major.size": 3,
    "lines.linewidth": 1.4, "lines.markersize": 4.5,
    "legend.fontsize": 7, "legend.frameon": False, "legend.handlelength": 2.6,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none", "pdf.fonttype": 42,  # text stays text: it can be searched and edited
    "svg.hashsalt": "ntktune",  # element identifiers are random without it
}
# fmt: on

# what each format would otherwise state: the time, and the version of matplotlib
METADATA = {
    "pdf": {"Creator": "ntktune", "Producer": "matplotlib", "CreationDate": None},
    "svg": {"Creator": "ntktune", "Date": None},
    "png": {"Software": "ntktune"},
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Apply the shared style on top of matplotlib's defaults, whatever the user's own are."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def checked_color(color: str) -> str:
    """Return a colour; raise UserError if matplotlib does not know it."""
    if not is_color_like(color):
        raise UserError(f"{color!r} is no colour; give a hexadecimal code such as #0072B2")
    return color


def check_colormap(name: str, kind: str, known: str) -> None:
    """Raise UserError if matplotlib has no such colour map; ``known`` are some of this kind."""
    if name not in matplotlib.colormaps:
        raise UserError(f"matplotlib has no colour map {name!r}; take a {kind} one: {known}")


def laid_out(figure: Figure) -> Figure:
    """Return a figure with its layout fixed; otherwise it would move a little with each format."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def figure_bytes(figure: Figure, ending: str, dpi: int) -> bytes:
    """Return a finished figure as the content of a ``"pdf"``, ``"svg"`` or ``"png"`` file.

    ``dpi`` is the resolution of a PNG. Raises UserError for another format, or a resolution that is
    not positive.
    """
    if ending not in METADATA:
        raise UserError(f"cannot draw a {ending!r} file; choose from: {', '.join(METADATA)}")
    if dpi <= 0:
        raise UserError(f"a resolution of {dpi} dots per inch draws nothing; give 200, say")
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=ending, dpi=dpi, metadata=METADATA[ending])
    return buffer.getvalue()


def plain(words: str) -> str:
    """Return a user's words so that they are drawn as they are: two ``$`` begin no mathematics."""
    return words.replace("$", r"\$")


def wrapped(title: str, width: int) -> str:
    """Return a title, to be drawn as it is, in lines of at most ``width`` characters."""
    lines = textwrap.wrap(title, width, break_long_words=False, break_on_hyphens=False)
    return plain("\n".join(lines) or title)


def count(number: int, noun: str) -> str:
    """Return ``"1 seed"``, ``"3 seeds"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def count_range(numbers: Any, noun: str) -> str:
    """Return ``"3 seeds"`` where all numbers agree, ``"2–3 seeds"`` where they do not."""
    low, high = min(numbers), max(numbers)
    return count(low, noun) if low == high else f"{low}–{high} {noun}s"
