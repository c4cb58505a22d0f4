import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_study import SIZES, TASKS, history_of, metrics_table, stopping_of

from ntktune.__main__ import main
from ntktune.artifacts import file_sha256, write_json, write_table
from ntktune.cli import figures as cli_figures
from ntktune.cli import figures_theory
from ntktune.code_digest import code_modules

THEORY = ["descent", "linearisation", "width", "table5", "table6", "table7"]
VECTORS = ["fig3", "layers", "addition", "negation", "disentanglement"]
VECTORS += ["table3", "table8", "table9"]
FIGURES = ["fig2", "decay", "fig10", "prediction", "epochs", "simulation"]
FIGURES += THEORY[:3] + VECTORS[:5]
TABLES = ["table1", "table2", "table4", *THEORY[3:], *VECTORS[5:], "verdicts"]
VERBS = FIGURES + TABLES
STARTS = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG\r\n"}


def drawing(verb, study):
    """Return the arguments of a figure's command, all but --out."""
    return {
        "fig2": ["fig2", "--metrics", *study.metrics, "--tasks", *study.tasks],
        "fig10": ["fig10", "--metrics", *study.metrics, "--tasks", *study.tasks],
        "fig3": [
            *("fig3", "--cosine", study.cosine, "--merged", study.merged),
            *("--tasks", *study.merging, "--colormap", "RdBu", "--colors", "#009E73", "#CC79A7"),
        ],
        "layers": [
            *("layers", "--cosine", study.cosine, "--colors", "#000000", "#009E73", "#CC79A7"),
        ],
        "addition": [
            *("addition", "--sweep", study.sweep, "--merged", study.merged),
            *("--colors", "#009E73", "#CC79A7"),
        ],
        "negation": ["negation", "--negated", study.negated, "--colors", "#009E73", "#CC79A7"],
        "disentanglement": [
            *("disentanglement", "--disentanglement", *study.disentanglement),
            *("--colormap", "viridis"),
        ],
        "decay": [
            *("decay", "--eigenvalues", study.eigenvalues[0], "--fits", study.fits[0]),
            *("--summary", study.summaries[0], "--color", "#009E73"),
        ],
        "prediction": [
            *("prediction", "--table1", study.table1, "--summaries", *study.summaries),
            *("--colors", "#009E73", "#CC79A7"),
        ],
        "simulation": ["simulation", "--errors", study.errors, "--radii", study.radii],
        "descent": [
            *("descent", "--rules", *study.rules, "--paths", *study.ridge, "--tasks", *study.tasks),
            *("--colors", "#000000", "#009E73", "#CC79A7", "#0072B2"),
        ],
        "linearisation": ["linearisation", "--traces", *study.traces, "--tasks", *study.tasks[:2]],
        "width": ["width", "--networks", study.networks, "--slopes", study.slopes],
        "epochs": ["epochs", "--histories", *study.histories, "--tasks", *study.tasks],
    }[verb] + ["--dpi", "60"]


def tabulating(verb, study, table1):
    """Return the arguments of a table's command, all but --out."""
    table1 = Path(table1 or study.table1)
    return {
        "table1": [
            *("table1", "--summaries", *study.summaries, "--metrics", *study.metrics),
            *("--subsets", *study.subsets),
        ],
        "table2": ["table2", "--stopping", *study.stopping, "--metrics", *study.metrics],
        "table3": [
            *("table3", "--cosine", study.cosine, "--merged", study.merged),
            *("--overlap", study.overlap),
        ],
        "table8": ["table8", "--cosine", study.cosine],
        "table9": ["table9", "--negated", study.negated],
        "table4": ["table4", "--metrics", *study.metrics],
        "table5": ["table5", "--rules", *study.rules, "--paths", *study.ridge],
        "table6": [
            *("table6", "--traces", *study.traces, "--solutions", *study.solutions),
            *("--stops", *study.stops),
        ],
        "table7": ["table7", "--sensitivity", *study.sensitivity],
        "verdicts": [
            *("verdicts", "--table1", table1, "--summaries", *study.summaries),
            *("--fits", *study.fits, "--metrics", *study.metrics),
            *("--stopping", *study.stopping, "--rules", *study.rules, "--paths", *study.ridge),
            *("--traces", *study.traces, "--solutions", *study.solutions),
            *("--stops", *study.stops, "--untuned", *study.baselines),
            *("--radii", study.radii, "--slopes", study.slopes),
            *("--cosine", study.cosine, "--merged", study.merged, "--negated", study.negated),
        ],
    }[verb]


def outputs(folder, name):
    return [folder / f"{name}.{ending}" for ending in STARTS]


@pytest.fixture(scope="module")
def drawn(study, tmp_path_factory):
    """Every figure in every format, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("drawn")
    for verb in FIGURES:
        arguments = [*drawing(verb, study), "--out", *outputs(folder / verb, verb)]
        assert main(["figures", *map(str, arguments)]) == 0
    return folder


def test_figures_are_written_in_three_formats(drawn):
    for path in (path for verb in FIGURES for path in outputs(drawn / verb, verb)):
        content = path.read_bytes()
        assert content.startswith(STARTS[path.suffix[1:]])
        assert len(content) > 4000


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
    assert provenance["command"] == "figures decay"
    assert provenance["settings"]["color"] == "#009E73"
    assert provenance["inputs"] == {
        str(path): file_sha256(path)
        for path in (study.eigenvalues[0], study.fits[0], study.summaries[0])
    }
    assert len(provenance["code"]) == 16
    written = sorted(path.name for path in (drawn / "decay").iterdir())
    assert written == ["decay.json", "decay.pdf", "decay.png", "decay.svg"]


def test_tables_and_verdicts(study, figures, tmp_path):
    for verb in TABLES:
        arguments = tabulating(verb, study, tmp_path / "table1.csv")
        assert figures(*arguments, "--out", tmp_path / f"{verb}.csv") == 0
        provenance = json.loads((tmp_path / f"{verb}.json").read_text())["provenance"]
        assert provenance["command"] == f"figures {verb}"
    rates = pd.read_csv(tmp_path / "table1.csv", index_col="task")
    assert list(rates.index) == list(TASKS)
    for task, (_, _, _, exponent) in TASKS.items():
        assert rates.loc[task, "measured_exponent"] == pytest.approx(exponent, abs=1e-5)
        own = pd.read_parquet(study.folder / task / "fits.parquet")
        mean = own.loc[own["range"] == "1..n", "exponent"].mean()
        assert rates.loc[task, "exponent"] == pytest.approx(mean, rel=1e-5)
        assert rates.loc[task, "predicted_rate"] == pytest.approx(mean / (mean + 1), rel=1e-5)
    stops = pd.read_csv(tmp_path / "table2.csv", index_col="task")
    assert stops.loc["semrel", "eta"] == pytest.approx(122)
    scores = pd.read_csv(tmp_path / "table4.csv").set_index(["task", "n"])
    assert len(scores) == 6 * len(SIZES)
    assert scores.loc[("stsb", 64), "pearson"] == pytest.approx(1 - 4**-0.4, rel=1e-5)
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
    fewer = [
        *("verdicts", "--table1", tmp_path / "table1.csv", "--summaries", *study.summaries),
        *("--fits", *study.fits, "--metrics", *study.metrics),
    ]
    assert figures(*fewer, "--out", tmp_path / "fewer.csv") == 0
    lacking = pd.read_csv(tmp_path / "fewer.csv").set_index("claim")["verdict"]
    assert (lacking == "not tested").sum() == 1 + 3 + 12  # stopping, vectors, theory
    kept = lacking[lacking != "not tested"]
    pd.testing.assert_series_equal(kept, claims.set_index("claim")["verdict"][kept.index])


def test_a_fresh_process_imports_no_torch_and_draws_the_same_bytes(drawn, study, tmp_path):
    """This process may have imported torch for other tests, and has one seed of hashes.

    The formats are asked for in another order than ``drawn`` has: that moves nothing.
    """
    commands = [[*drawing(v, study), "--out", *outputs(tmp_path, v)[::-1]] for v in FIGURES]
    for verb in TABLES:
        arguments = tabulating(verb, study, tmp_path / "table1.csv")
        commands.append([*arguments, "--out", tmp_path / f"{verb}.csv"])
    script = """
import json, sys
from ntktune.__main__ import main
statuses = [main(["figures", *arguments]) for arguments in json.load(sys.stdin)]
heavy = {"torch", "transformers", "safetensors", "matplotlib.pyplot"}
print(statuses, sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([[str(word) for word in arguments] for arguments in commands]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{[0] * len(commands)} []\n"
    figures = [", ".join(map(str, outputs(tmp_path, verb)[::-1])) for verb in FIGURES]
    assert done.stderr.splitlines() == [f"wrote {files}" for files in figures]
    for path in (path for verb in FIGURES for path in outputs(drawn / verb, verb)):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("verb", VERBS)
def test_a_rule_reruns_for_its_own_figure_only(verb):
    of_others = dict.fromkeys(THEORY, "figures_theory") | dict.fromkeys(
        VECTORS, "figures_taskvectors"
    )
    commands = of_others.get(verb, "figures")
    modules = code_modules(f"ntktune.cli.{commands}:{verb}")
    own = {m.rsplit(".", 1)[1] for m in modules if m.startswith("ntktune.figures.")}
    # the verdicts are given for what these tables would say of each seed
    assert own & set(VERBS) == {verb, *(THEORY[3:5] if verb == "verdicts" else ())}
    chapters = {m.split(".")[1] for m in modules}
    assert chapters <= {"cli", "figures", "intervals", "merges", "scores"}


class TestMistakes:
    @pytest.fixture
    def refused(self, figures, capsys):
        """Run a command that must fail, and return what it says."""

        def run(*arguments):
            assert figures(*arguments) == 1
            message = capsys.readouterr().err
            assert message.startswith(f"ntktune figures {arguments[0]}: error: ")
            assert message.count("\n") == 1
            return message

        return run

    def test_missing_file(self, refused, study, tmp_path):
        arguments = ["--tasks", "stsb", "--out", tmp_path / "a.png"]
        message = refused("fig2", "--metrics", tmp_path / "no.parquet", *arguments)
        assert "no.parquet does not exist" in message
        assert not (tmp_path / "a.png").exists()

    def test_damaged_file(self, refused, tmp_path):
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 no more")
        message = refused(
            *("fig10", "--metrics", tmp_path / "bad.parquet", "--tasks", "rte"),
            *("--out", tmp_path / "a.png"),
        )
        assert "bad.parquet is damaged" in message

    def test_table_of_another_kind(self, refused, study, tmp_path):
        message = refused(
            *("fig2", "--metrics", study.cosine, "--tasks", "rte", "--out", tmp_path / "a.png")
        )
        assert "cosine.parquet lacks the columns task, kind, metric, n, seed, mse" in message

    def test_empty_table(self, refused, tmp_path):
        write_table(tmp_path / "empty.parquet", metrics_table("rte", 64).iloc[:0], {})
        message = refused(
            *("fig10", "--metrics", tmp_path / "empty.parquet", "--tasks", "rte"),
            *("--out", tmp_path / "a.png"),
        )
        assert "empty.parquet has no rows" in message

    def test_unknown_kind(self, refused, tmp_path):
        write_table(tmp_path / "m.parquet", metrics_table("rte", 64).assign(kind="ranking"), {})
        message = refused(
            *("fig10", "--metrics", tmp_path / "m.parquet", "--tasks", "rte"),
            *("--out", tmp_path / "a.png"),
        )
        assert "m.parquet has tasks of kind 'ranking'" in message

    def test_a_file_given_twice(self, refused, study, tmp_path):
        twice = [study.metrics[0], study.metrics[0]]
        message = refused(
            *("fig2", "--metrics", *twice, "--tasks", "semrel", "--out", tmp_path / "a.png")
        )
        assert f"task 'semrel', n = {SIZES[0]}, seed 0 more than once" in message

    def test_text_where_a_number_belongs(self, refused, study, tmp_path):
        for column in ("mse", "n"):
            table = metrics_table("stsb", 64).astype({column: object})
            table[column] = "many"
            write_table(tmp_path / "m.parquet", table, {})
            message = refused("table4", "--metrics", tmp_path / "m.parquet", "--out", "a.csv")
            assert f"the column {column} of --metrics holds 'many', which is no number" in message

    def test_histories_of_no_task_or_one_twice(self, refused, study, tmp_path):
        arguments = ["--tasks", "semrel", "--out", tmp_path / "a.png"]
        twice = [study.histories[0], study.histories[0]]
        message = refused("epochs", "--histories", *twice, *arguments)
        assert "--histories holds task 'semrel' more than once" in message
        write_table(tmp_path / "h.parquet", history_of("rte"), {"task": "rte"})
        message = refused("epochs", "--histories", tmp_path / "h.parquet", *arguments)
        assert "h.parquet does not say of what kind its task is" in message

    def test_unknown_task(self, refused, study, tmp_path):
        arguments = ["--tasks", "sst2", "--out", tmp_path / "a.png"]
        message = refused("fig2", "--metrics", *study.metrics, *arguments)
        assert "the metrics hold no task 'sst2'" in message

    def test_regressions_have_no_figure10(self, refused, study, tmp_path):
        arguments = ["--tasks", "stsb", "--out", tmp_path / "a.png"]
        message = refused("fig10", "--metrics", *study.metrics, *arguments)
        assert "none of the tasks stsb is a classification" in message

    def test_unknown_format_writes_nothing(self, refused, study, tmp_path):
        arguments = ["--out", tmp_path / "a.png", tmp_path / "a.gif"]
        message = refused(*drawing("decay", study), *arguments)
        assert "cannot draw a 'gif' file; choose from: pdf, svg, png" in message
        assert list(tmp_path.iterdir()) == []

    def test_resolution(self, refused, study, tmp_path):
        message = refused(*drawing("decay", study), "--dpi", "0", "--out", tmp_path / "a.png")
        assert "a resolution of 0 dots per inch draws nothing" in message

    def test_samples_of_another_task(self, refused, study, tmp_path):
        arguments = ["--summaries", *study.summaries, "--metrics", *study.metrics]
        arguments += ["--subsets", *study.subsets[1:], "--out", tmp_path / "a.csv"]
        message = refused("table1", *arguments)
        assert f"--subsets lacks the tasks {study.tasks[0]}" in message

    def test_incomplete_summary(self, refused, study, tmp_path):
        write_json(tmp_path / "summary.json", {"task": "rte", "n": 100}, {})
        message = refused(
            *("table1", "--summaries", tmp_path / "summary.json", "--metrics", *study.metrics),
            *("--subsets", *study.subsets, "--out", tmp_path / "a.csv"),
        )
        assert "summary.json lacks the keys draws, shared, noise_floor" in message

    def test_stopping_times_of_no_task(self, refused, study, tmp_path):
        write_table(tmp_path / "stopping.parquet", stopping_of("rte"), {})
        message = refused(
            *("table2", "--stopping", tmp_path / "stopping.parquet", "--metrics", *study.metrics),
            *("--out", tmp_path / "a.csv"),
        )
        assert "stopping.parquet does not say which task it is of" in message

    def verdict_arguments(self, study, **changed):
        parts = {
            "table1": [study.folder / "table1.csv"],
            "summaries": study.summaries,
            "fits": study.fits,
            "metrics": study.metrics,
            "stopping": study.stopping,
            "cosine": [study.cosine],
            "merged": [study.merged],
        } | changed
        return [v for name, files in parts.items() for v in (f"--{name}", *files)]

    def test_tables_of_task_vectors_of_another_kind(self, refused, study, tmp_path):
        message = refused("table8", "--cosine", study.merged, "--out", tmp_path / "a.csv")
        assert "merged.parquet lacks the columns pair, task_a, run_a" in message
        message = refused("table9", "--negated", study.sweep, "--out", tmp_path / "a.csv")
        assert "sweep.parquet lacks the columns target, pretrained, kept" in message
        arguments = ["--merged", study.merged, "--out", tmp_path / "a.png"]
        message = refused("addition", "--sweep", study.overlap, *arguments)
        assert "overlap.parquet lacks the columns merged, part" in message

    def test_a_pair_given_twice(self, refused, study, tmp_path):
        twice = [study.disentanglement[0], study.disentanglement[0]]
        message = refused(
            *("disentanglement", "--disentanglement", *twice, "--out", tmp_path / "a.png")
        )
        assert "--disentanglement lists the pair semrel, sts12 more than once" in message

    def test_a_wrong_colour_of_a_task(self, refused, study, tmp_path):
        arguments = ["--colors", "blueish", "--out", tmp_path / "a.png"]
        message = refused("negation", "--negated", study.negated, *arguments)
        assert "'blueish' is no colour" in message

    def test_verdicts_without_table1(self, refused, study, tmp_path):
        arguments = self.verdict_arguments(study, table1=[tmp_path / "table1.csv"])
        message = refused("verdicts", *arguments, "--out", tmp_path / "a.csv")
        assert "table1.csv does not exist; make it with: ntktune figures table1" in message

    def test_verdicts_with_another_csv(self, refused, study, tmp_path):
        (tmp_path / "t.csv").write_text("a,b\n1,2\n")
        arguments = self.verdict_arguments(study, table1=[tmp_path / "t.csv"])
        message = refused("verdicts", *arguments, "--out", tmp_path / "a.csv")
        assert "t.csv lacks the columns task, predicted_rate" in message
        (tmp_path / "t.csv").write_text("")
        message = refused("verdicts", *arguments, "--out", tmp_path / "a.csv")
        assert "t.csv is damaged or not what it should be (No columns to parse" in message

    def test_fits_that_do_not_match_the_summaries(self, refused, study, figures, tmp_path):
        rates = tmp_path / "table1.csv"
        assert figures(*tabulating("table1", study, None), "--out", rates) == 0
        arguments = self.verdict_arguments(study, table1=[rates], fits=study.fits[:2])
        message = refused("verdicts", *arguments, "--out", tmp_path / "a.csv")
        assert "--summaries has 6 files and --fits has 2" in message
        arguments = self.verdict_arguments(study, table1=[rates], fits=study.fits[::-1])
        message = refused("verdicts", *arguments, "--out", tmp_path / "a.csv")
        assert "does not belong to the summary of task 'semrel'" in message
        assert "give that task's fits, in the order of the summaries" in message
        arguments = ["--eigenvalues", study.eigenvalues[0], "--summary", study.summaries[0]]
        arguments += ["--color", "#009E73", "--out", tmp_path / "a.png"]
        message = refused("decay", "--fits", study.fits[1], *arguments)
        assert "does not belong to the summary of task" in message


def test_a_task_named_as_text_in_the_provenance_is_understood(study, figures, tmp_path):
    """A table may state its task's name only."""
    write_table(tmp_path / "stopping.parquet", stopping_of("rte"), {"task": "rte"})
    arguments = ["--stopping", tmp_path / "stopping.parquet", "--metrics", *study.metrics]
    assert figures("table2", *arguments, "--out", tmp_path / "a.csv") == 0
    assert np.array_equal(pd.read_csv(tmp_path / "a.csv")["task"], ["rte"])


@pytest.mark.parametrize(
    "verb", ["fig2", "fig10", "decay", "prediction", "epochs", "descent", "linearisation"]
)
@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
def test_users_words_are_drawn_as_they_are(verb, study, tmp_path, monkeypatch):
    """Two dollars begin no mathematics, and letters that the font lacks stop nothing."""
    words = "電_$5 or $10_"
    for module in (cli_figures, figures_theory):
        monkeypatch.setattr(module, "task_titles", lambda facts: dict.fromkeys(facts, words))
    monkeypatch.setattr(cli_figures, "task_facts", lambda provenance: {"title": words})
    arguments = [*drawing(verb, study), "--out", *outputs(tmp_path, verb)]
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
