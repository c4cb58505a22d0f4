import argparse
import inspect
from pathlib import Path

import pytest

from ntktune.cli.figures import add_commands
from ntktune.errors import UserError
from ntktune.figures.catalogue import (
    FIGURES,
    RESULT_TABLES,
    check_colors,
    input_files,
    look_words,
    study_figures,
    why_absent,
)
from ntktune.figures.tables import TABLES
from ntktune.study.config import schema, with_defaults

EVERY = FIGURES | RESULT_TABLES
LOOK = with_defaults({}, schema("config")["properties"]["figures"])
LISTS = {
    "chapters": ["data", "kernel", "spectrum", "finetune", "taskvectors", "theory", "figures"],
    "tasks": ["a", "b"],
    "classified": ["b"],
    "fixed": ["a", "b"],
    "merged": ["a", "c"],
    "ruled": ["a"],
    "watched": ["b"],
    "layered": ["a", "b"],
    "held": ["b"],
    "selected": ["a", "b"],
    "method": ["full"],
    "compared": ["lora"],
    "size": [16, 32],
    "fixed_size": [16],
    "pair": ["a+c"],
}


@pytest.mark.parametrize("name", EVERY)
def test_an_entry_is_a_function_of_its_tables(name):
    entry = EVERY[name]
    parameters = inspect.signature(entry.load()).parameters
    given = {*entry.tables, "tasks", "titles", "ranges", "colors", "color", "colormap"}
    assert set(parameters) <= given
    needed = {n for n, p in parameters.items() if p.default is p.empty} - {"titles"}
    asked = {"tasks"} & set(parameters) if entry.tasks else set()
    assert needed <= {*entry.tables, *asked, "colors", "color", "colormap"}
    assert bool(entry.tasks) == ("tasks" in parameters)
    assert bool(entry.colors) == bool({"color", "colors"} & set(parameters))
    assert bool(entry.colormap) == ("colormap" in parameters)


def test_the_documentation_lists_every_figure_and_table():
    text = (Path(__file__).parents[2] / "docs/outputs.md").read_text(encoding="utf-8")
    decays = {f"fig{number}" for number in range(5, 9)}  # "fig4 … fig9"
    shown = {*study_figures("abcdef"), *(f"{name}.csv" for name in RESULT_TABLES)} - decays
    assert [name for name in shown if f"`{name}`" not in text and f"`{name}.pdf`" not in text] == []


def test_every_table_is_read_by_something():
    assert {table for entry in EVERY.values() for table in entry.tables} == {*TABLES} - {"verdicts"}


@pytest.mark.parametrize("name", EVERY)
def test_a_rule_hands_over_every_option_that_a_command_has(name):
    """No default of the command line may decide what a study draws."""
    verbs = argparse.ArgumentParser().add_subparsers()
    add_commands(verbs)
    (names,) = verbs.choices["draw" if name in FIGURES else "table"]._subparsers._group_actions
    options = {o for a in names.choices[name]._actions for o in a.option_strings}
    entry = EVERY[name]
    words = {w for w in look_words(name, entry, LISTS, LOOK) if w.startswith("--")}
    of_tables = {f"--{table.replace('_', '-')}" for table in entry.tables}
    if name in RESULT_TABLES:
        words = set()
    assert options == {"-h", "--help", "--out"} | words | of_tables


def test_files_of_the_study_that_a_figure_is_made_of():
    assert input_files(EVERY["fig2"], LISTS) == {
        "metrics": [f"finetune/{t}/full/n{n}/metrics.parquet" for t in "ab" for n in (16, 32)],
        "compared": [f"finetune/{t}/lora/n{n}/metrics.parquet" for t in "ab" for n in (16, 32)],
        "baselines": ["finetune/a/baselines.parquet", "finetune/b/baselines.parquet"],
        "subsets": ["data/a/subsets.json", "data/b/subsets.json"],
        "summary": ["spectrum/a/summary.json", "spectrum/b/summary.json"],
    }
    assert input_files(EVERY["epochs"], LISTS) == {
        "history": [f"finetune/{task}/fixed/n16/history.parquet" for task in "ab"],
        "subsets": ["data/a/subsets.json", "data/b/subsets.json"],
    }
    assert list(study_figures("abcdefg"))[5:7] == ["fig9", "decay-g"]
    entry, tasks = study_figures(LISTS["tasks"])["fig5"]
    assert input_files(entry, LISTS, tasks)["summary"] == ["spectrum/b/summary.json"]
    assert input_files(EVERY["descent"], LISTS)["ridge"] == ["theory/a/ridge.parquet"]
    assert input_files(EVERY["disentanglement"], LISTS) == {
        "disentanglement": ["taskvectors/disentanglement/a+c.parquet"]
    }
    lean = LISTS | {"chapters": ["kernel", "spectrum", "finetune"], "merged": []}
    assert set(input_files(EVERY["verdicts"], lean)) == {
        *("table1", "summary", "decay", "metrics", "baselines")
    }
    assert input_files(EVERY["table3"], lean) == {}


@pytest.mark.parametrize(
    ("name", "changed", "why"),
    [
        ("fig2", {}, ""),
        ("fig2", {"chapters": ["spectrum"]}, "`chapters` does not list finetune; add it there"),
        ("prediction", {"chapters": ["spectrum"]}, "`chapters` does not list finetune; add it"),
        ("descent", {"chapters": ["theory"], "ruled": []}, "`chapters` does not list kernel; add"),
        ("descent", {"ruled": []}, "no kernel predicts a sample; raise kernel.learning_seeds"),
        ("table6", {"watched": []}, "theory.tasks is empty; name tasks, or null for all"),
        ("fig10", {"classified": []}, "it draws the F1 score, and no task is a classification"),
        ("epochs", {"fixed": []}, "finetune.fixed_epochs is null; set it to a number"),
        ("layers", {"merged": []}, "taskvectors.tasks is empty; name two tasks or more"),
        ("layers", {"merged": [], "tasks": ["a"]}, "it compares tasks, and `tasks` lists one, a"),
        (
            "prediction",
            {"tasks": ["a"]},
            "it compares tasks, and `tasks` lists one, a; add another",
        ),
    ],
)
def test_why_a_study_lacks_a_figure(name, changed, why):
    assert why_absent(EVERY[name], LISTS | changed).startswith(why)
    assert bool(why_absent(EVERY[name], LISTS | changed)) == bool(why)


def test_colours_come_from_the_palette_or_are_a_figures_own():
    def colors(name, **changed):
        words = look_words(name, EVERY[name], LISTS, LOOK | changed)
        first = words.index("--colors") + 1
        return [word for word in words[first:] if word.startswith("#")]

    assert colors("width") == ["#444444", "#0072B2", "#D55E00"]
    palette = [f"#00000{i}" for i in range(6)]
    assert colors("simulation", palette=palette) == [palette[i] for i in (0, 1, 2, 5)]
    own = {"width": ["#111111", "#222222", "#333333"], "negation": ["#444444"]}
    assert colors("width", colors=own) == own["width"]
    assert colors("negation", colors=own) == ["#444444"]
    with pytest.raises(UserError, match=r"figures.colors.fig2 has 2 colours; it draws with 3"):
        colors("fig2", colors={"fig2": ["#111111", "#222222"]})
    with pytest.raises(UserError, match=r"figures.colors has 'fig22', .* did you mean 'fig2'"):
        check_colors({"fig22": []}, EVERY)
    with pytest.raises(UserError, match=r"figures.colors has 'zzz', .* choose from: fig2, fig3"):
        check_colors({"zzz": []}, ["fig2", "fig3"])
