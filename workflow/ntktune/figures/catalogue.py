"""The catalogue: every figure and table of a study, one entry each.

Rules, commands, targets and reasons why a study lacks one follow from the entry.
"""

import importlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ntktune.errors import UserError
from ntktune.figures.tables import TABLES
from ntktune.study.config import suggestion

PACKAGE = "ntktune.figures"
Lists = Mapping[str, Sequence[Any]]


class Entry(NamedTuple):
    """One figure or table.

    ``name`` is its name in commands, captions and files; a decay's files have their own.
    ``function`` makes it, in this package's module of the same name; tables in ``result_tables``.
    It takes each table of ``inputs`` as a parameter of that name, and may take ``tasks`` (what to
    draw, in order), ``titles`` (task → title; a task without one has its name), ``ranges`` (task →
    lowest and highest score), ``colors``, ``color`` (the first of them), ``colormap``.

    ``inputs`` are the tables that it needs, ``optional`` those that it reads where the study has
    them, by the names of :data:`ntktune.figures.tables.TABLES`. ``shows`` says in a few words what
    it shows. ``tasks`` is which list of the study's tasks it draws, in order; "" if it does not
    ask. ``colors`` are the places of its colours in the palette, ``colormap`` the key of its colour
    map in the configuration. ``needs`` are chapters that the study must list, and lists (keys of
    :data:`LACKING`) that must not be empty, beyond those of the inputs.
    """

    name: str
    function: str
    inputs: str
    shows: str
    tasks: str = ""
    colors: tuple[int, ...] = ()
    colormap: str = ""
    optional: str = ""
    needs: str = ""

    @property
    def code(self) -> str:
        """The function as the code digest names it."""
        module = "result_tables" if self.name.startswith("table") else self.name
        return f"{PACKAGE}.{module}:{self.function}"

    @property
    def tables(self) -> list[str]:
        """Names of all tables that it may read."""
        return [*self.inputs.split(), *self.optional.split()]

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, name = self.code.split(":")
        return getattr(importlib.import_module(module), name)

    def make(self, tables: Mapping[str, Any], look: Mapping[str, Any]) -> Any:
        """Return the figure or table; the function takes what it has a parameter for."""
        function = self.load()
        known = inspect.signature(function).parameters
        return function(**{name: v for name, v in {**tables, **look}.items() if name in known})


PLACES = ("method", "compared", "size", "fixed_size", "pair")  # in files' names, beside the task
EACH = tuple(range(6))  # one colour per task, in turn
RULES = (0, 1, 2, 5)  # theory, hold-out, SURE, oracle

# fmt: off
DECAY = Entry("decay", "task_figure", "eigenvalues decay summary", "eigenvalue decay", colors=(0,))
FIGURES = {entry.name: entry for entry in (
    Entry("fig2", "learning_curve_figure", "metrics baselines subsets", "learning curves", "tasks",
          (0, 2, 3), optional="compared summary"),
    Entry("fig3", "task_vector_figure", "cosine merged", "task vectors", "merged", (0, 1),
          "diverging"),
    DECAY,
    Entry("decays", "decays_figure", "eigenvalues decay summary", "eigenvalue decay of all tasks",
          "tasks", (0, 1)),
    Entry("fig10", "f1_figure", "metrics subsets", "F1", "tasks", (0,), needs="classified"),
    Entry("prediction", "prediction_figure", "table1 summary", "predicted against measured",
          colors=(0, 1), needs="finetune several"),
    Entry("epochs", "epochs_figure", "history subsets", "test error against the epoch", "tasks",
          (0,)),
    Entry("simulation", "simulation_figure", "simulation radii", "stopping rules on a known target",
          colors=RULES),
    Entry("layers", "layer_figure", "cosine", "task vectors by layer", colors=(0, 1, 2)),
    Entry("addition", "addition_figure", "sweep merged", "addition of task vectors", colors=EACH),
    Entry("negation", "negation_figure", "negated", "negation of task vectors", colors=EACH),
    Entry("disentanglement", "disentanglement_figure", "disentanglement", "weight disentanglement",
          colormap="sequential"),
    Entry("descent", "descent_figure", "rules ridge subsets", "kernel descent and four stops",
          "ruled", RULES, needs="kernel"),
    Entry("linearisation", "linearisation_figure", "trajectory", "linearisation and drift",
          "watched", (0, 1)),
    Entry("penalty", "penalty_figure", "held", "fine-tuning held near its start", "held",
          (0, 1, 2)),
    Entry("layersets", "sets_figure", "sets tuned", "sets of layers: kernel against score",
          "layered", EACH),
    Entry("layermap", "layer_map_figure", "layers", "kernels of layers", "layered",
          colormap="sequential"),
    Entry("laws", "laws_figure", "curves scores", "learning curves of candidates, and laws",
          "selected", EACH),
    Entry("ranks", "ranks_figure", "curves scores", "candidates: scores against truth", "selected",
          EACH),
    Entry("regret", "regret_figure", "curves scores subsets",
          "what a choice loses, and what it costs", "selected", EACH),
    Entry("advised", "advised_figure", "benchmark metrics", "how far pilots' predictions are off",
          colors=EACH, optional="compared"),
    Entry("width", "width_figure", "width slopes", "networks of several widths", colors=(5, 0, 1)),
)}
RESULT_TABLES = {entry.name: entry for entry in (
    Entry("table1", "study_table", "summary metrics subsets", "decay rates"),
    Entry("table2", "stopping_table", "stopping metrics", "stopping times"),
    Entry("table3", "merging_table", "cosine merged overlap", "merged models"),
    Entry("table4", "score_table", "metrics", "test scores", optional="compared baselines"),
    Entry("table5", "rules_table", "rules ridge", "stopping rules and ridge", needs="kernel"),
    Entry("table6", "linear_table", "trajectory trajectory_ridge stops",
          "linearisation, drift and stops"),
    Entry("table7", "sensitivity_table", "sensitivity", "sensitivity of the stopping time"),
    Entry("table8", "cosine_table", "cosine", "cosines"),
    Entry("table9", "negation_table", "negated", "negated models"),
    Entry("table10", "held_table", "held radius", "fine-tuning held near its start"),
    Entry("table11", "sets_table", "sets tuned", "sets of layers"),
    Entry("table12", "candidates_table", "curves scores", "candidates"),
    Entry("table13", "choices_table", "curves scores subsets", "ways to choose a model"),
    Entry("table14", "laws_table", "curves scores", "laws of the loss"),
    Entry("table15", "pilots_table", "benchmark metrics", "pilots' predictions",
          optional="compared"),
    Entry("verdicts", "study_verdicts", "table1 summary decay metrics", "verdicts",
          optional="stopping cosine merged negated radii slopes rules ridge trajectory "
                   "trajectory_ridge stops baselines held sets tuned curves scores exponents"),
)}
# fmt: on
# list of a study → why a figure or table that needs it is not made where it is empty
LACKING = {
    "several": "it compares tasks, and `tasks` lists one, {}; add another",
    "merged": "taskvectors.tasks is empty; name two tasks or more",
    "classified": "it draws the F1 score, and no task is a classification",
    "fixed": "finetune.fixed_epochs is null; set it to a number of epochs without early stopping",
    "layered": "linearized.tasks is empty; name tasks, or null for all",
    "held": "linearized.held is empty; name tasks of scores or two classes",
    "selected": "selection.tasks is empty; name tasks, or null for all",
    "advised": "advise.tasks is empty; name tasks, or null for all",
    "watched": "theory.tasks is empty; name tasks, or null for all",
    "ruled": "no kernel predicts a sample; raise kernel.learning_seeds or kernel.learning_rows",
}


def study_figures(tasks: Sequence[str]) -> dict[str, tuple[Entry, list[str] | None]]:
    """Return a study's figures, made or not: name → entry, and the task of a decay.

    Decays are SR26's figures 4-9; from the seventh task on they are named.
    """
    decays = {
        f"fig{4 + place}" if place < 6 else f"decay-{task}": (DECAY, [task])
        for place, task in enumerate(tasks)
    }
    others = {name: (entry, None) for name, entry in FIGURES.items() if entry is not DECAY}
    return decays | others


def _chapter(table: str) -> str:
    return TABLES[table].file.split("/")[0]


def input_files(
    entry: Entry, lists: Lists, tasks: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Return table → its files in a study's results, of the tables that the study has.

    ``lists`` has ``chapters``, and what there may be a file for: ``tasks`` and further lists of
    tasks that :data:`~ntktune.figures.tables.TABLES` names, and :data:`PLACES`. ``tasks`` are the
    entry's, where it is not of all.
    """
    found = {}
    for table in entry.tables:
        spec = TABLES[table]
        if _chapter(table) not in lists["chapters"] and table in entry.optional.split():
            continue
        of_tasks = list(tasks or lists[spec.lists])
        places = {"task": of_tasks} | {name: lists[name] for name in PLACES}
        named = {name: values for name, values in places.items() if f"{{{name}}}" in spec.file}
        every = itertools.product(*named.values()) if of_tasks else ()
        files = [spec.file.format(**dict(zip(named, values, strict=True))) for values in every]
        if files:
            found[table] = files
    return found


def why_absent(entry: Entry, lists: Lists) -> str:
    """Return why a study makes no such figure or table, and which key changes that; "" if it does.

    ``lists`` are as for :func:`input_files`.
    """
    needs, lists = entry.needs.split(), {**lists, "several": lists["tasks"][1:]}
    chapters = [*map(_chapter, entry.inputs.split()), *(n for n in needs if n not in LACKING)]
    wanted = dict.fromkeys(name for name in chapters if name not in ("data", "figures"))
    missing = [name for name in wanted if name not in lists["chapters"]]
    of_tables = [TABLES[table].lists for table in entry.inputs.split()]
    empty = [n for n in [*needs, *of_tables] if n in LACKING and not lists[n]]
    if {"several", "merged"} & {*empty} and not lists["several"]:  # no chapter would help
        return LACKING["several"].format(*lists["tasks"])
    if missing:
        return f"`chapters` does not list {', '.join(missing)}; add it there"
    return LACKING[empty[0]] if empty else ""


def colors_of(name: str, entry: Entry, look: Mapping[str, Any]) -> list[str]:
    """Return a figure's colours: its own in the configuration, or those of the palette.

    Raises UserError if the configuration gives it another number of colours than it has.
    """
    own = look["colors"].get(name)
    if own is None:
        return [look["palette"][place % len(look["palette"])] for place in entry.colors]
    if len(own) != len(entry.colors) and entry.colors != EACH:
        raise UserError(
            f"figures.colors.{name} has {len(own)} colours; it draws with {len(entry.colors)}"
        )
    return own


def check_colors(colors: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise UserError if the configuration colours a figure that there is not."""
    for name in colors:
        if name not in names:
            near = suggestion(name, names)
            raise UserError(f"figures.colors has {name!r}, which is no figure; {near}")


def look_words(name: str, entry: Entry, lists: Lists, look: Mapping[str, Any]) -> list[str]:
    """Return the options of the command that draws a figure, without its tables.

    ``look`` is the configuration's ``figures``; ``lists`` are as for :func:`input_files`.
    """
    words = ["--tasks", *lists[entry.tasks]] if entry.tasks else []
    if entry.colors:
        words += ["--colors", *colors_of(name, entry, look)]
    if entry.colormap:
        words += ["--colormap", look[entry.colormap]]
    return [*words, "--dpi", str(look["dpi"])]
