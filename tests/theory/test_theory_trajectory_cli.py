"""``theory rules``, ``trajectory`` and ``width``: from a study's files to tables."""

import numpy as np
import pytest
from tiny_study import write_model, write_task

from ntktune.__main__ import main
from ntktune.data.sampling import training_subset
from ntktune.store.records import read_json, read_table
from ntktune.store.tensors import read_arrays
from ntktune.theory.rules import four_rules


@pytest.fixture
def study(tmp_path):
    model = write_model(tmp_path / "model")
    write_task(tmp_path, "score", "regression", model)
    write_task(tmp_path, "class", "classification", model)
    return tmp_path


def files(study, task):
    paths = {name: str(study / f"{task}.{name}") for name in ("safetensors", "json")}
    return ["--tokens", paths["safetensors"], "--subsets", paths["json"], "--task", task]


def kernel_learning(study, task):
    words = ["kernel", "learning", "--model", str(study / "model"), *files(study, task)]
    words += ["--seed", "5", "--rows", "17", "--seeds", "2", "--device", "cpu"]
    assert main([*words, "--out", str(study / "learning.safetensors")]) == 0


def rules(study, task, *changes):
    words = ["theory", "rules", "--kernels", str(study / "learning.safetensors")]
    words += ["--subsets", str(study / f"{task}.json"), "--sizes", "15", "17", "20"]
    words += ["--out-rules", str(study / "rules.parquet")]
    return main([*words, "--out-ridge", str(study / "ridge.parquet"), *changes])


@pytest.mark.parametrize("task", ["score", "class"])
def test_rules_of_every_sample_that_the_kernel_covers(study, task):
    kernel_learning(study, task)
    assert rules(study, task, "--step-size-factor", "0.5") == 0
    found, facts = read_table(study / "rules.parquet")
    assert facts["task"]["name"] == task
    assert found.groupby(["seed", "n"]).size().to_dict() == {
        (seed, n): 4 for seed in (0, 1) for n in (15, 17)
    }
    ridge, _ = read_table(study / "ridge.parquet")
    assert set(zip(ridge["seed"], ridge["n"], strict=True)) == {
        (seed, n) for seed in (0, 1) for n in (15, 17)
    }
    # one of them by hand: the rows' places, labels and noise
    tensors, _ = read_arrays(str(study / "learning.safetensors"))
    kernel, start, label, rows = (
        tensors[name][1] for name in ("kernel", "outputs", "label", "row")
    )
    subsets = read_json(study / f"{task}.json")
    by_row = dict(zip(rows.tolist(), label, strict=True))
    classes = np.array([by_row.get(row, -1) for row in range(60)])
    train, holdout = training_subset(subsets, 15, 1, classes if task == "class" else None)
    train, holdout, test = (
        [rows.tolist().index(row) for row in part] for part in (train, holdout, subsets["test"])
    )
    mean, sd = label[train].mean(), label[train].std()
    target = 2 * label - 1 if task == "class" else (label - mean) / sd
    expected = four_rules(
        kernel,
        start - start[train].mean(),
        target,
        train,
        holdout,
        test,
        sigma=0.3 / sd if task == "score" else None,
        step_size_factor=0.5,
        precision=2.0**-23,
    )
    own = found[(found["seed"] == 1) & (found["n"] == 15)]
    for row, wanted in zip(own.to_dict("records"), expected, strict=True):
        assert row["rule"] == wanted["rule"]
        assert row["time"] == wanted["time"]
        assert row["test_error"] == pytest.approx(wanted["test_error"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "18", "20"], "covers none of the sizes 18, 20; give smaller ones"),
        (["--step-size-factor", "2"], "--step-size-factor is 2.0: must be at most 1"),
        (["--subsets", "class.json"], "was drawn from data data of class"),
    ],
)
def test_rules_that_cannot_be(study, flags, message, capsys, monkeypatch):
    monkeypatch.chdir(study)
    kernel_learning(study, "score")
    assert rules(study, "score", *flags) == 1
    assert message in capsys.readouterr().err
    assert not (study / "rules.parquet").exists()


def trajectory(study, task, *changes):
    words = ["theory", "trajectory", "--model", str(study / "model"), *files(study, task)]
    words += ["--size", "20", "--seed", "5", "--learning-rate", "0.01", "--weight-decay", "0.01"]
    words += ["--batch-size", "4", "--max-epochs", "3", "--evaluate-every", "2", "--device", "cpu"]
    words += ["--test-rows", "6", "--descent-steps", "5", "--seeds", "2", "--dtype", "float64"]
    for name in ("evaluations", "ridge", "stops"):
        words += [f"--out-{name}", str(study / f"{name}.parquet")]
    return main([*words, *changes])


@pytest.mark.parametrize("task", ["score", "class"])
def test_a_trajectory_is_written(study, task, capsys):
    assert trajectory(study, task) == 0
    assert f"watching {task}, n=20: 100 %" in capsys.readouterr().err
    evaluations, facts = read_table(study / "evaluations.parquet")
    assert facts["seeds"]["indices"] == [0, 1]
    assert set(evaluations["task"]) == {task}
    steps = evaluations[~evaluations["best"]].groupby(["seed", "method"])["step"].apply(list)
    assert steps.to_dict() == {
        (seed, method): found
        for seed in (0, 1)
        for method, found in (("adamw", [2, 4, 8]), ("gradient-descent", [1, 2, 4, 5]))
    }
    stops, _ = read_table(study / "stops.parquet")
    assert stops["seed"].tolist() == [0, 1]
    assert (stops["network_steps"] == 5).all()
    ridge, _ = read_table(study / "ridge.parquet")
    assert ridge.groupby("seed")["holdout"].sum().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "3"], "3 seeds are asked for, but "),
        (["--max-steps", "0"], "--max-steps is 0: must be at least 1"),
        (["--step-size-factor", "0"], "--step-size-factor is 0.0: must be greater than 0"),
        (["--task", "class"], "holds task 'score', not 'class'"),
    ],
)
def test_trajectories_that_cannot_be(study, flags, message, capsys):
    assert trajectory(study, "score", *flags) == 1
    assert message in capsys.readouterr().err
    assert not list(study.glob("*.parquet"))


def test_widths_are_written(tmp_path):
    words = ["theory", "width", "--widths", "4", "8", "--seeds", "2", "--seed", "1"]
    words += ["--out", str(tmp_path / "w.parquet"), "--out-slopes", str(tmp_path / "s.parquet")]
    assert main(words) == 0
    networks, facts = read_table(tmp_path / "w.parquet")
    assert len(networks) == 2 * 2 * 3
    assert facts["seeds"]["root"] == 1
    slopes, _ = read_table(tmp_path / "s.parquet")
    assert len(slopes) == 9
