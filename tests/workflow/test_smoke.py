"""The study smoke, run whole: its files, and what reruns after which change."""

import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pandas as pd
import pytest
from checkout import Checkout

from ntktune.__main__ import main
from ntktune.figures.catalogue import RESULT_TABLES, study_figures
from ntktune.store.records import write_json
from ntktune.store.tensors import read_arrays
from ntktune.store.unfinished import FILE

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]
CONFIG = ("--configfile", "config/smoke.yaml")


def test_it_makes_every_figure_and_table(smoke):
    figures = smoke.folder / "results/smoke/figures"
    for name in study_figures(["smoke-regression", "smoke-classification"]):
        for ending, start in (("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")):
            content = (figures / f"{name}.{ending}").read_bytes()
            assert content.startswith(start)
            assert len(content) > 2000
    for name in RESULT_TABLES:
        assert len(pd.read_csv(figures / f"{name}.csv")) >= 1
        assert json.loads((figures / f"{name}.json").read_text())["provenance"]["code"]


def test_it_learns_what_its_generator_put_there(smoke):
    """Labels depend on the words: the test error at the largest size beats the baseline."""
    for task, error, baseline in (
        ("smoke-regression", "mse", "baseline_mse"),
        ("smoke-classification", "accuracy", "baseline_accuracy"),
    ):
        metrics = pd.read_parquet(
            smoke.folder / f"results/smoke/finetune/{task}/full/n128/metrics.parquet"
        )
        better = metrics[error].mean() - metrics[baseline].mean()
        assert better < 0 if error == "mse" else better > 0


def test_the_effective_configuration_stands_beside_the_results(smoke):
    text = (smoke.folder / "results/smoke/config.yaml").read_text()
    assert "evaluate_every" in text  # a default
    assert "smoke-regression" in text


def test_after_a_full_run_nothing_is_planned(smoke):
    assert smoke.planned(*CONFIG) == {}


def test_touching_every_file_plans_nothing(smoke):
    for folder, _, files in os.walk(smoke.folder):
        if "results" not in folder and ".snakemake" not in folder:
            for name in files:
                os.utime(os.path.join(folder, name))
    assert smoke.planned(*CONFIG) == {}


@pytest.fixture
def edited(smoke):
    """Edit a file of the finished study for one test."""
    kept = {}

    def edit(name, old, new):
        kept[name] = (smoke.folder / name).read_text()
        smoke.edit(name, old, new)
        return smoke.planned(*CONFIG)

    yield edit
    for name, text in kept.items():
        (smoke.folder / name).write_text(text)


def test_comments_docstrings_and_messages_of_all_modules_plan_nothing(smoke):
    modules = [p for p in (smoke.folder / "workflow/ntktune").rglob("*.py") if p.read_text()]
    kept = {path: path.read_text() for path in modules}
    try:
        for path, text in kept.items():
            text = text.replace('"""', '"""Edited. ', 1).replace('UserError(f"', 'UserError(f"So: ')
            path.write_text(text + "\n# a comment\n")
        assert smoke.planned(*CONFIG) == {}
    finally:
        for path, text in kept.items():
            path.write_text(text)


def test_editing_the_decay_fit_reruns_spectra_and_what_hangs_on_them(edited):
    jobs = edited("workflow/ntktune/spectrum/decay.py", "LEAST_VALUES = 3", "LEAST_VALUES = 4")
    assert jobs["spectrum_fit"] == 2
    assert {"fig4", "fig5", "table1", "verdicts"} <= set(jobs)
    assert not {
        "finetune_run",
        "kernel_draws",
        "taskvectors_tune",
        "fig10",
        "data_fetch_task",
    } & set(jobs)


def test_editing_kernel_code_reruns_kernels_and_no_fine_tuning(edited):
    jobs = edited("workflow/ntktune/kernel/engine.py", "for i in range(8)", "for i in range(7)")
    assert jobs["kernel_draws"] == jobs["spectrum_fit"] == jobs["theory_stopping"] == 2
    # the kernel's own learning curves stand in figure 2
    assert jobs["kernel_learning"] == jobs["finetune_baselines"] == 2
    assert not {"finetune_run", "taskvectors_tune", "fig10", "data_fetch_task"} & set(jobs)


def test_another_penalty_reruns_its_trainings_and_what_is_drawn_of_them(edited):
    jobs = edited("config/smoke.yaml", "  shares: [1]", "  shares: [2]")
    assert {k: v for k, v in jobs.items() if k not in ("all", "linearized")} == {
        "linearized_hold": 1,
        "penalty": 1,
        "table10": 1,
        "verdicts": 1,
    }


def test_another_candidate_trains_its_own_curves_only(edited):
    jobs = edited(
        "config/smoke.yaml", "{ name: whole }", "{ name: whole }\n    - { name: first, blocks: 1 }"
    )
    drawn = ["laws", "ranks", "regret", "table12", "table13", "table14", "verdicts"]
    assert {k: v for k, v in jobs.items() if k not in ("all", "selection")} == {
        "selection_score": 1,
        "selection_run": 1,
        "selection_gather": 1,
        **dict.fromkeys(drawn, 1),
    }


def test_a_colour_redraws_its_figure_only(edited):
    jobs = edited("config/smoke.yaml", "  dpi: 100", '  dpi: 100\n  colors: {fig4: ["#000000"]}')
    assert {k: v for k, v in jobs.items() if k != "all"} == {"fig4": 1}


def test_a_colour_in_a_figures_code_redraws_that_figure_only(edited):
    name = "workflow/ntktune/figures/fig10.py"
    jobs = edited(name, "return finished(", "return None or finished(")
    assert {k: v for k, v in jobs.items() if k != "all"} == {"fig10": 1}


@pytest.mark.parametrize(("name", "text"), [("fig2", "Learning"), ("negation", "Negation of")])
def test_a_caption_reruns_nothing(edited, name, text):
    assert edited(f"workflow/report/{name}.rst", text, text + " ") == {}


def test_other_coefficients_rerun_the_sweeps_and_what_is_drawn_of_them(edited):
    jobs = edited("config/smoke.yaml", "coefficients: [0, 0.5, 1]", "coefficients: [0, 0.4, 1]")
    assert {name: count for name, count in jobs.items() if name != "all"} == {
        "taskvectors_add": 1,
        "taskvectors_negate": 2,
        "taskvectors_score": 1,
        **dict.fromkeys(("fig3", "addition", "negation"), 1),
        **dict.fromkeys(("table3", "table9", "verdicts"), 1),
    }


def test_another_grid_reruns_the_disentanglement_only(edited):
    jobs = edited("config/smoke.yaml", "grid: [-1, 0, 1]", "grid: [0, 1]")
    assert jobs == {"all": 1, "taskvectors_disentangle": 1, "disentanglement": 1}


def test_another_learning_rate_reruns_fine_tuning_and_no_kernel(edited):
    jobs = edited("config/smoke.yaml", "learning_rate: 0.003", "learning_rate: 0.002")
    assert jobs["finetune_run"] == 4
    assert "kernel_draws" not in jobs


# file -> a column of numbers that follow from the seed
SEEDED = {
    "finetune/smoke-regression/full/n32/metrics.parquet": "mse",
    "theory/smoke-classification/stopping.parquet": "critical_radius",
    "spectrum/smoke-classification/decay.parquet": "exponent",
}


# That the same seed gives the same numbers is seen in tests/faults and tests/slurm, on whole runs.
def test_another_seed_gives_other_numbers(smoke):
    other = smoke.snakemake(
        *(*CONFIG, "--config", "seed=2", "study=other", "--cores", "2", "--"),
        *(f"results/other/{file}" for file in SEEDED),
    )
    assert other.returncode == 0, other.stderr
    for file, column in SEEDED.items():
        first, table = (
            pd.read_parquet(smoke.folder / f"results/{study}/{file}")
            for study in ("smoke", "other")
        )
        assert (table[column] != first[column]).all()


def test_kernels_in_shards_are_those_of_one_job(smoke, tmp_path):
    copy = Checkout.of(smoke, tmp_path / "ntktune")
    copy.edit("config/smoke.yaml", "  draws: 2", "  draws: 2\n  shard_rows: 20")
    folder = "results/smoke/kernel/smoke-classification"
    (copy.folder / folder / "draws.safetensors").unlink()
    done = copy.snakemake(*CONFIG, "--cores", "2", "--", f"{folder}/draws.safetensors")
    assert done.returncode == 0, done.stderr
    assert len(list((copy.folder / folder / "shards/draws-2").iterdir())) == 3
    found, facts = read_arrays(copy.folder / folder / "draws.safetensors")
    wanted, _ = read_arrays(smoke.folder / folder / "draws.safetensors")
    assert len(facts["shards"]) == 3
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        room = 1e-5 * np.nanmax(np.abs(array), initial=1e-30)
        np.testing.assert_allclose(found[name], array, rtol=0, atol=room, err_msg=name)


@pytest.fixture(scope="module")
def unpacked(smoke, tmp_path_factory):
    """Return a fresh copy of the repository with the study's results from an archive.

    Its last run was killed before it could say that it had made all that it set out to make.
    """
    results = smoke.folder / "results/smoke"
    made = [path.relative_to(smoke.folder) for path in results.glob("*/**/*") if path.is_file()]
    write_json(results / FILE, {"files": [str(path) for path in made]}, {})
    packed = subprocess.run(
        [
            *(sys.executable, "-m", "ntktune", "results", "archive"),
            *("--folder", "results/smoke", "--out", "smoke.tar.gz"),
        ],
        cwd=smoke.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (results / FILE).exists()
    assert packed.returncode == 0, packed.stderr
    assert "left out: models, texts and weights" in packed.stderr
    copy = Checkout(tmp_path_factory.mktemp("unpacked") / "ntktune")
    with tarfile.open(smoke.folder / "smoke.tar.gz") as archive:
        assert not {m.uname for m in archive} - {""}
        archive.extractall(copy.folder, filter="data")
    return copy


def test_unpacked_results_rerun_nothing(unpacked):
    assert not (unpacked.folder / "results/smoke/data/model").exists()
    assert not list(unpacked.folder.glob("results/smoke/data/*/table.parquet"))
    touched = unpacked.snakemake(*CONFIG, "--touch", "--cores", "1")
    assert touched.returncode == 0, touched.stderr
    assert unpacked.planned(*CONFIG) == {}


def test_figures_are_redrawn_from_unpacked_results_without_model_and_data(smoke, unpacked):
    figures = unpacked.folder / "results/smoke/figures"
    for path in figures.iterdir():
        path.unlink()
    done = unpacked.snakemake(*CONFIG, "--cores", "2", "--", "fig2", "table2")
    assert done.returncode == 0, done.stderr
    assert not (unpacked.folder / "results/smoke/data/model").exists()
    for name in ("fig2.png", "fig2.pdf", "table2.csv"):
        wanted = smoke.folder / "results/smoke/figures" / name
        assert (figures / name).read_bytes() == wanted.read_bytes()
    # a later change of the configuration is noticed, for the records came along
    unpacked.edit("config/smoke.yaml", "dpi: 100", "dpi: 101")
    jobs = unpacked.planned(*CONFIG, "--", "fig2")
    assert jobs["fig2"] == 1
    assert "finetune_run" not in jobs


@pytest.mark.parametrize(
    ("folder", "out", "message"),
    [
        ("results/none", "a.tar.gz", "results/none does not exist (looked in"),
        ("{root}/results/smoke", "a.tar.gz", "is no study's results: give results/<study>, from"),
        ("results/smoke", "a.zip", "--out a.zip must end in .tar.gz"),
        ("results/smoke", "results/smoke/a.tar.gz", "would stand in what it packs"),
    ],
)
def test_what_cannot_be_archived_is_told(smoke, monkeypatch, capsys, folder, out, message):
    monkeypatch.chdir(smoke.folder)
    arguments = ["--folder", folder.format(root=smoke.folder), "--out", out]
    assert main(["results", "archive", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (smoke.folder / out).exists()


R = "results/smoke"
TOKENS, GRAM = (
    f"{R}/data/smoke-regression/tokens.safetensors",
    f"{R}/kernel/smoke-regression/draws.safetensors",
)
SUBSETS, DRAWS = (f"{R}/data/smoke-regression/{name}.json" for name in ("subsets", "draws"))
METRICS = f"{R}/finetune/smoke-regression/full/n32/metrics.parquet"
SEED, TASK = ("--seed", "1"), ("--task", "smoke-regression")
KERNEL = ("kernel", "draws", "--model", f"{R}/data/model", *TASK, *SEED)


@pytest.mark.parametrize(
    ("command", "file", "lacks"),
    [
        (("spectrum", "fit", "--gram"), TOKENS, "tensors kernel; it is"),
        (("spectrum", "fit", "--gram"), f"{R}/data/model/model.safetensors", "tensors kernel; it"),
        (("theory", "stopping", "--gram"), TOKENS, "tensors kernel, outputs; it"),
        ((*KERNEL, "--tokens", TOKENS, "--draws"), SUBSETS, "keys draws"),
        ((*KERNEL, "--draws", DRAWS, "--tokens"), GRAM, "tensors ids, offsets, is_test"),
        (
            (
                "data",
                "subsets",
                *TASK,
                *SEED,
                "--seeds",
                "1",
                "--holdout-fraction",
                "0.2",
                "--tokens",
            ),
            GRAM,
            "tensors ids, offsets, is_test",
        ),
        (
            ("data", "draws", *TASK, *SEED, "--rows", "9", "--draws", "1", "--tokens"),
            GRAM,
            "tensors ids, offsets, is_test",
        ),
        (
            ("data", "tokenize", "--model", f"{R}/data/model", "--max-tokens", "9", "--table"),
            METRICS,
            "columns text_a, text_b, label, label_noise, split",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[:2]),
)
def test_a_file_of_another_kind_is_told(smoke, monkeypatch, tmp_path, capsys, command, file, lacks):
    monkeypatch.chdir(smoke.folder)
    outputs = ["--out"]
    if command[0] == "spectrum":
        outputs = ["--out-eigenvalues", "--out-fits", "--out-summary"]
    named = [word for option in outputs for word in (option, str(tmp_path / option))]
    assert main([*command, file, *named]) == 1
    said = capsys.readouterr().err
    assert f"error: {file} lacks the {lacks}" in said
    assert "it is of another kind or was made by another version: give the right file" in said
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_one_file_that_needs_no_network(smoke):
    done = smoke.snakemake(*CONFIG, "--report", "report.html")
    assert done.returncode == 0, done.stderr
    text = (smoke.folder / "report.html").read_text()
    assert "data:image/png;" in text
    assert 'src="http' not in text
    assert '<link href="http' not in text
