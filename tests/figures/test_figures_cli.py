import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from made_up_study import SIZES, TASKS, history_of, metrics_table, stopping_of

from ntktune.__main__ import main
from ntktune.figures import tables
from ntktune.figures.catalogue import FIGURES, RESULT_TABLES
from ntktune.store.code_digest import followed
from ntktune.store.files import file_sha256
from ntktune.store.records import write_json, write_table

VERBS = [*FIGURES, *RESULT_TABLES]
STARTS = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG\r\n"}
FOUR = ["#000000", "#009E73", "#CC79A7", "#0072B2"]
# options that are not the defaults
LOOKS = {
    "fig2": ["--colors", *FOUR[1:]],
    "fig3": ["--colormap", "RdBu", "--colors", *FOUR[1:3]],
    "layers": ["--colors", *FOUR[:3]],
    "addition": ["--colors", *FOUR[1:3]],
    "negation": ["--colors", *FOUR[1:3]],
    "disentanglement": ["--colormap", "viridis"],
    "decay": ["--colors", FOUR[1]],
    "prediction": ["--colors", *FOUR[1:3]],
    "descent": ["--colors", *FOUR],
}


def inputs(study, *names, **changed):
    """Return the options that hand tables of the study to a command."""
    files = study.files | changed
    return [w for name in names for w in (f"--{name.replace('_', '-')}", *files[name])]


def drawing(name, study, **changed):
    """Return the arguments of a figure's command, all but --out."""
    entry = FIGURES[name]
    if name == "decay":
        changed = {table: study.files[table][:1] for table in entry.tables} | changed
    tasks = {"merged": study.merging, "watched": study.tasks[:2]}.get(entry.tasks, study.tasks)
    words = ["--tasks", *tasks] if entry.tasks else []
    words += LOOKS.get(name, [])
    return ["draw", name, *inputs(study, *entry.tables, **changed), *words, "--dpi", "60"]


def tabulating(name, study, **changed):
    """Return the arguments of a table's command, all but --out."""
    return ["table", name, *inputs(study, *RESULT_TABLES[name].tables, **changed)]


def outputs(folder, name):
    """Return the files that a figure is drawn into: all formats of two, of the others the quickest.

    Each figure is drawn in all formats by the study in tests/workflow.
    """
    endings = STARTS if name in ("fig2", "decay") else ["svg"]
    return [folder / f"{name}.{ending}" for ending in endings]


# Draws what it is told, as a fresh process; prints the statuses, what it imported, and the titles
# and labels of axes that leave their figure.
FRESH = """
import json, sys
from ntktune.__main__ import main
from ntktune.figures import style
cut, seen, figure_bytes = [], [], style.figure_bytes

def watched(figure, *how):
    low, high = -1, figure.bbox.size + 1
    new = figure not in seen  # afterwards places are those of another resolution
    seen.append(figure)
    for axes in filter(lambda axes: new and axes.get_visible(), figure.axes):
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            box = text.get_window_extent()
            if text.get_text() and ((box.min < low) | (box.max > high)).any():
                cut.append(text.get_text())
    return figure_bytes(figure, *how)

style.figure_bytes = watched
statuses = [main(["figures", *arguments]) for arguments in json.load(sys.stdin)]
heavy = {"torch", "transformers", "safetensors", "matplotlib.pyplot"}
print(statuses, sorted(heavy & set(sys.modules)))
print(cut)
"""


@pytest.fixture(scope="module")
def fresh(study, tmp_path_factory):
    """Draw every figure and table in a fresh process; return it and the folder of them."""
    folder = tmp_path_factory.mktemp("drawn")
    commands = [[*drawing(v, study), "--out", *outputs(folder / v, v)] for v in FIGURES]
    for verb in RESULT_TABLES:
        arguments = tabulating(verb, study, table1=[folder / "table1.csv"])
        commands.append([*arguments, "--out", folder / f"{verb}.csv"])
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        input=json.dumps([[str(word) for word in arguments] for arguments in commands]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{[0] * len(commands)}")
    return done, folder


@pytest.fixture(scope="module")
def drawn(fresh):
    """Return the folder of every figure."""
    return fresh[1]


def test_figures_are_written_in_three_formats(drawn):
    for path in (path for verb in FIGURES for path in outputs(drawn / verb, verb)):
        content = path.read_bytes()
        assert content.startswith(STARTS[path.suffix[1:]])
        assert len(content) > 4000


def test_no_title_or_label_leaves_its_figure(fresh):
    assert fresh[0].stdout.splitlines()[1] == "[]"


def test_vector_files_hold_text_and_no_date(drawn):
    for verb, words in (("fig2", "predicting the training mean or majority"), ("decay", "SemRel")):
        svg, pdf = drawn / verb / f"{verb}.svg", drawn / verb / f"{verb}.pdf"
        assert words in svg.read_text(encoding="utf-8")
        assert "<dc:date>" not in svg.read_text(encoding="utf-8")
        assert b"CreationDate" not in pdf.read_bytes()


def test_titles_and_score_ranges_come_from_the_provenance(drawn):
    text = (drawn / "fig2/fig2.svg").read_text(encoding="utf-8")
    assert "STS-B, scores 0 to 5" in text
    assert "Amazon polarity" in text
    assert "Amazon polarity, scores" not in text


def test_provenance_stands_beside_a_figure(drawn, study):
    provenance = json.loads((drawn / "decay/decay.json").read_text())["provenance"]
    assert provenance["command"] == "figures draw"
    assert provenance["settings"]["name"] == "decay"
    assert provenance["settings"]["colors"] == ["#009E73"]
    assert provenance["inputs"] == {
        str(path): file_sha256(path)
        for path in (study.files[name][0] for name in ("eigenvalues", "decay", "summary"))
    }
    assert len(provenance["code"]) == 16
    written = sorted(path.name for path in (drawn / "decay").iterdir())
    assert written == ["decay.json", "decay.pdf", "decay.png", "decay.svg"]


def test_tables_and_verdicts(study, figures, tmp_path):
    for verb in RESULT_TABLES:
        arguments = tabulating(verb, study, table1=[tmp_path / "table1.csv"])
        assert figures(*arguments, "--out", tmp_path / f"{verb}.csv") == 0
        provenance = json.loads((tmp_path / f"{verb}.json").read_text())["provenance"]
        assert provenance["command"] == "figures table"
        assert provenance["settings"]["name"] == verb
    rates = pd.read_csv(tmp_path / "table1.csv", index_col="task")
    assert list(rates.index) == list(TASKS)
    for task, (_, _, _, exponent) in TASKS.items():
        assert rates.loc[task, "measured_exponent"] == pytest.approx(exponent, abs=1e-5)
        own = pd.read_parquet(study.folder / task / "decay.parquet")
        mean = own.loc[own["range"] == "1..n", "exponent"].mean()
        assert rates.loc[task, "exponent"] == pytest.approx(mean, rel=1e-5)
        assert rates.loc[task, "predicted_rate"] == pytest.approx(mean / (mean + 1), rel=1e-5)
    stops = pd.read_csv(tmp_path / "table2.csv", index_col="task")
    assert stops.loc["semrel", "eta"] == pytest.approx(122)
    scores = pd.read_csv(tmp_path / "table4.csv").set_index(["method", "task", "n"])
    assert len(scores) == 2 * 6 * len(SIZES) + 3 * 6 * 2  # fine-tuned, and predictions without
    assert scores.loc[("full", "stsb", 64), "pearson"] == pytest.approx(1 - 4**-0.4, rel=1e-5)
    errors = scores["mse"].dropna()
    assert errors["lora"].to_numpy() == pytest.approx(0.9 * errors["full"].to_numpy(), rel=1e-4)
    merges = pd.read_csv(tmp_path / "table3.csv")
    assert len(merges) == 2 * (6 * 2 + 4)
    cosines = pd.read_csv(tmp_path / "table8.csv")
    assert len(cosines) == (6 + 4 + 4) * (2 * 2 + 3)
    negated = pd.read_csv(tmp_path / "table9.csv")
    assert len(negated) == 2 * 4 * 4
    claims = pd.read_csv(tmp_path / "verdicts.csv")
    assert set(claims["verdict"]) == {"reproduced", "contradicted", "inconclusive"}
    assert claims["value"].notna().all()
    assert claims["control"].notna().all()
    assert claims["power"].notna().all()
    # a study that has none of it
    needed = RESULT_TABLES["verdicts"].inputs.split()
    fewer = ["table", "verdicts", *inputs(study, *needed, table1=[tmp_path / "table1.csv"])]
    assert figures(*fewer, "--out", tmp_path / "fewer.csv") == 0
    lacking = pd.read_csv(tmp_path / "fewer.csv").set_index("claim")["verdict"]
    assert (lacking == "not tested").sum() == 1 + 3 + 12  # stopping, vectors, theory
    kept = lacking[lacking != "not tested"]
    pd.testing.assert_series_equal(kept, claims.set_index("claim")["verdict"][kept.index])


def test_learning_curves_of_a_study_without_spectrum(study, figures, tmp_path):
    """It has no summaries of a decay, so no slope is predicted."""
    words = drawing("fig2", study, summary=[])
    assert figures(*words, "--out", tmp_path / "fig2.svg") == 0
    drawn = (tmp_path / "fig2.svg").read_text(encoding="utf-8")
    assert "fine-tuned, mean and" in drawn
    assert "slope predicted" not in drawn


def test_a_fresh_process_imports_no_torch_and_draws_the_same_bytes(fresh, study, tmp_path):
    """This process may have imported torch for other tests, and has another seed of hashes.

    A format is asked for alone that the fresh process drew as the second: that moves nothing. It
    names its parts by hashes.
    """
    done, folder = fresh
    assert done.stdout.splitlines()[0].endswith("] []")
    figures = [", ".join(map(str, outputs(folder / verb, verb))) for verb in FIGURES]
    assert done.stderr.splitlines() == [f"wrote {files}" for files in figures]
    for verb in ("decay", "fig2", "fig3", "negation", "width"):
        words = [*drawing(verb, study), "--out", tmp_path / "a.svg"]
        assert main(["figures", *map(str, words)]) == 0
        assert (tmp_path / "a.svg").read_bytes() == (folder / verb / f"{verb}.svg").read_bytes()


@pytest.mark.parametrize("name", VERBS)
def test_a_rule_reruns_for_its_own_figure_only(name):
    modules = {m for m, _ in followed((FIGURES | RESULT_TABLES)[name].code).places}
    own = {m.rsplit(".", 1)[1] for m in modules if m.startswith("ntktune.figures.")}
    drawn = {name} if name in FIGURES else {"result_tables"} if name[:5] == "table" else set()
    # the verdicts are given for what tables would say of each seed
    made = {"verdicts", "result_tables"} if name == "verdicts" else drawn
    made |= {"decay"} & own if name == "decays" else set()  # means over draws
    assert own & {*VERBS, "result_tables"} == made
    chapters = {m.split(".")[1] for m in modules}
    read = {*(FIGURES | RESULT_TABLES)[name].tables}
    others = {"selection"} if read & {"curves", "benchmark"} else set()  # laws, ways to choose
    others |= {"advise"} if "benchmark" in read else set()
    assert chapters <= {"figures", "intervals", "study"} | others


class TestMistakes:
    @pytest.fixture
    def refused(self, figures, study, tmp_path, capsys):
        """Make a figure or table of changed inputs, which must fail; return what is said."""

        def run(name, *options, **changed):
            made = drawing if name in FIGURES else tabulating
            out = tmp_path / ("a.png" if name in FIGURES else "a.csv")
            arguments = [*made(name, study, **changed), "--out", out, *options]
            assert figures(*arguments) == 1
            message = capsys.readouterr().err
            assert message.startswith(f"ntktune figures {arguments[0]}: error: ")
            assert message.count("\n") == 1
            assert not out.exists()
            return message

        return run

    @pytest.fixture
    def written(self, tmp_path):
        """Write one table, of a task if its provenance is given; return its path in a list."""

        def write(name, table, provenance=None):
            write_table(tmp_path / f"{name}.parquet", table, provenance or {})
            return [tmp_path / f"{name}.parquet"]

        return write

    def test_a_missing_or_damaged_file(self, refused, tmp_path):
        message = refused("fig2", metrics=[tmp_path / "no.parquet"])
        assert "no.parquet does not exist" in message
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
        message = refused("fig10", metrics=[tmp_path / "bad.parquet"])
        assert "bad.parquet is damaged" in message

    @pytest.mark.parametrize(
        ("name", "table", "other", "message"),
        [
            (
                "fig2",
                "metrics",
                "cosine",
                "cosine.parquet lacks the columns task, kind, metric, method, n",
            ),
            ("table8", "cosine", "merged", "merged.parquet lacks the columns pair, task_a, run_a"),
            ("table9", "negated", "sweep", "sweep.parquet lacks the columns target, "),
            ("addition", "sweep", "overlap", "overlap.parquet lacks the columns merged, part"),
        ],
    )
    def test_a_table_of_another_kind(self, refused, study, name, table, other, message):
        assert message in refused(name, **{table: study.files[other]})

    def test_an_empty_table(self, refused, written):
        files = written("empty", metrics_table("rte", 64).iloc[:0])
        assert "empty.parquet has no rows" in refused("fig10", metrics=files)

    def test_an_unknown_kind(self, refused, written):
        files = written("m", metrics_table("rte", 64).assign(kind="ranking"))
        assert "m.parquet has tasks of kind 'ranking'" in refused("fig2", metrics=files)

    @pytest.mark.parametrize(
        ("name", "table", "message"),
        [
            ("fig2", "metrics", f"--metrics holds task 'semrel', n {SIZES[0]} more than once"),
            ("epochs", "history", "--history holds task 'semrel' more than once"),
            (
                "disentanglement",
                "disentanglement",
                "--disentanglement holds task_a 'semrel', task_b 'sts12' more than once",
            ),
            ("table6", "trajectory_ridge", "--trajectory-ridge holds task 'semrel' more than once"),
        ],
    )
    def test_a_file_given_twice(self, refused, study, name, table, message):
        assert message in refused(name, **{table: [study.files[table][0]] * 2})

    def test_text_where_a_number_belongs(self, refused, written):
        for column in ("mse", "n"):
            table = metrics_table("stsb", 64).astype({column: object})
            table[column] = "many"
            message = refused("table4", metrics=written("m", table))
            assert f"the column {column} of " in message
            assert "m.parquet holds 'many', which is no number" in message

    def test_a_table_that_does_not_say_of_which_task_or_kind_it_is(self, refused, written):
        files = written("h", history_of("rte"), {"task": "rte"})
        assert "h.parquet lacks the columns kind" in refused("epochs", history=files)
        message = refused("table2", stopping=written("s", stopping_of("rte")))
        assert "s.parquet does not say which task it is of" in message

    def test_tables_of_different_tasks(self, refused, study):
        for name, table in (("descent", "ridge"), ("table5", "rules"), ("table6", "stops")):
            message = refused(name, **{table: study.files[table][1:]})
            assert f"{table} lacks the task 'semrel', which another table has" in message

    def test_tasks_that_a_figure_cannot_draw(self, refused):
        message = refused("fig2", "--tasks", "sst2")
        assert "the metrics hold no task 'sst2'" in message
        message = refused("fig10", "--tasks", "stsb")
        assert "none of the tasks stsb is a classification" in message

    def test_unknown_format_writes_nothing(self, refused, tmp_path):
        message = refused("decay", "--out", tmp_path / "a.png", tmp_path / "a.gif")
        assert "cannot draw a 'gif' file; choose from: pdf, svg, png" in message
        assert list(tmp_path.iterdir()) == []

    def test_looks(self, refused):
        message = refused("decay", "--dpi", "0")
        assert "a resolution of 0 dots per inch draws nothing" in message
        assert "'blueish' is no colour" in refused("negation", "--colors", "blueish")

    def test_several_tasks_in_one_decay(self, refused, study):
        several = {name: study.files[name][:2] for name in FIGURES["decay"].tables}
        message = refused("decay", **several)
        assert "a decay is drawn of one task, not of semrel, sts12" in message

    def test_samples_of_another_task(self, refused, study):
        message = refused("table1", subsets=study.files["subsets"][1:])
        assert f"--subsets lacks the tasks {study.tasks[0]}" in message

    def test_incomplete_summary(self, refused, tmp_path):
        write_json(tmp_path / "summary.json", {"task": "rte", "n": 100}, {})
        message = refused("table1", summary=[tmp_path / "summary.json"])
        assert "summary.json lacks the keys draws, shared, noise_floor" in message

    def test_verdicts_without_table1(self, refused, tmp_path):
        message = refused("verdicts", table1=[tmp_path / "table1.csv"])
        assert "table1.csv does not exist" in message
        assert "make it with: ntktune figures table table1" in message

    def test_verdicts_with_another_csv(self, refused, tmp_path):
        (tmp_path / "t.csv").write_text("a,b\n1,2\n")
        message = refused("verdicts", table1=[tmp_path / "t.csv"])
        assert "t.csv lacks the columns task, kind, metric" in message
        (tmp_path / "t.csv").write_text("")
        message = refused("verdicts", table1=[tmp_path / "t.csv"])
        assert "t.csv is damaged or not what it should be (No columns to parse" in message

    def test_fits_that_do_not_match_the_summaries(self, refused, study, written):
        message = refused("verdicts", decay=study.files["decay"][:2])
        assert "decay lacks the task 'amazon', which another table has" in message
        fits = pd.read_parquet(study.files["decay"][0])
        other = written("d", fits.assign(exponent=1.0), {"task": {"name": "semrel"}})
        for name in ("verdicts", "decay"):
            message = refused(
                name, decay=[*other, *study.files["decay"][1:]][: 6 * (name[0] == "v") or 1]
            )
            assert "the fits of task 'semrel' do not belong to its summary" in message


def test_a_task_named_as_text_in_the_provenance_is_understood(study, figures, tmp_path):
    """A table may state its task's name only."""
    write_table(tmp_path / "stopping.parquet", stopping_of("rte"), {"task": "rte"})
    arguments = tabulating("table2", study, stopping=[tmp_path / "stopping.parquet"])
    assert figures(*arguments, "--out", tmp_path / "a.csv") == 0
    assert np.array_equal(pd.read_csv(tmp_path / "a.csv")["task"], ["rte"])


@pytest.mark.parametrize(
    "verb", ["fig2", "fig10", "decay", "prediction", "epochs", "descent", "linearisation"]
)
@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_users_words_are_drawn_as_they_are(verb, study, tmp_path, monkeypatch):
    """Two dollars begin no mathematics, and letters that the font lacks stop nothing."""
    words, read = "電_$5 or $10_", tables.task_facts
    monkeypatch.setattr(tables, "task_facts", lambda facts: read(facts) | {"title": words})
    arguments = [*drawing(verb, study), "--out", tmp_path / f"{verb}.svg"]
    assert main(["figures", *map(str, arguments)]) == 0
    assert words in (tmp_path / f"{verb}.svg").read_text(encoding="utf-8")


def test_a_notebooks_backend_stops_no_figure(study, tmp_path):
    """A command that a notebook starts inherits its backend, which may not be installed."""
    arguments = [*drawing("decay", study), "--out", tmp_path / "a.svg"]
    done = subprocess.run(
        [sys.executable, "-m", "ntktune", "figures", *map(str, arguments)],
        env=os.environ | {"MPLBACKEND": "module://not_installed.backend"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
