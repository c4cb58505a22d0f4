"""The command ``finetune run``, end to end on files."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_study import tuning_flags, write_task

from ntktune.__main__ import main
from ntktune.store.records import read_json, read_table, write_json
from ntktune.store.tensors import read_tensors, write_tensors

METRICS = [
    "task", "kind", "metric", "method", "n", "seed", "n_train", "n_holdout", "steps", "best_step",
    "best_epoch", "sum_learning_rate", "at_budget", "holdout_loss", "mse", "mse_unit", "pearson",
    "spearman", "baseline_mse", "noise_variance", "accuracy", "f1", "cross_entropy",
    "baseline_accuracy", "baseline_f1", "chance_accuracy", "class_f1",
]  # fmt: skip


@pytest.fixture
def study(tmp_path, text_model, examples, subsets):
    """Write model, tokens and subsets of the tiny tasks ``score`` and ``class``."""
    folder = tmp_path / "model"
    text_model().backbone.save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    model = {"name": "tiny", "revision": "r1", "sha256": digest}
    write_json(folder / "model.json", model, {})
    for name, kind in (("score", "regression"), ("class", "classification")):
        data = examples(kind)
        lengths = [len(s) for s in data.ids]
        tensors = {
            "ids": torch.cat(data.ids).int(),
            "offsets": torch.tensor([0, *np.cumsum(lengths).tolist()]),
            "label": torch.as_tensor(data.label),
            "label_noise": torch.as_tensor(data.label_noise),
            "is_test": (torch.arange(60) >= 40).to(torch.uint8),
        }
        score_range = [-4.0, 4.0] if kind == "regression" else None
        task = {"name": name, "kind": kind, "score_range": score_range}
        facts = {"task": task, "data_sha256": name, "model": model}
        write_tensors(tmp_path / f"{name}.safetensors", tensors, facts)
        write_json(tmp_path / f"{name}.json", subsets, {"data_sha256": name})
    return tmp_path


def command(study, task="score", **changes):
    options = {
        "model": study / "model",
        "tokens": study / f"{task}.safetensors",
        "subsets": study / f"{task}.json",
        "task": task,
        "size": 20,
        "seed": 5,
        "learning_rate": 0.003,
        "weight_decay": 0.01,
        "batch_size": 4,
        "max_epochs": 3,
        "evaluate_every": 2,
        "patience": 5,
        "batch_tokens": 64,
        "device": "cpu",
        "out_metrics": study / "metrics.parquet",
        "out_history": study / "history.parquet",
    }
    words = ["finetune", "run"]
    for key, value in (options | changes).items():
        values = value if isinstance(value, list | tuple) else [value]
        words += ["--" + key.replace("_", "-"), *map(str, values)]
    return words


def run(study, task="score", **changes):
    return main(command(study, task, **changes))


@pytest.mark.parametrize("task", ["score", "class"])
def test_run_writes_metrics_and_history(study, capsys, task):
    assert run(study, task, max_epochs=8, learning_rate=0.01, head="random") == 0
    metrics, facts = read_table(study / "metrics.parquet")
    assert list(metrics) == METRICS
    assert metrics["seed"].tolist() == [0, 1]
    assert (metrics["task"] == task).all()
    history, _ = read_table(study / "history.parquet")
    columns = ["n", "seed", "step", "epoch", "sum_learning_rate", "train_loss", "holdout_loss"]
    assert list(history) == columns
    for _, row in metrics.iterrows():
        own = history[history["seed"] == row["seed"]]
        best = own.loc[own["holdout_loss"].idxmin()]
        assert (best["step"], best["holdout_loss"]) == (row["best_step"], row["holdout_loss"])
        assert own["step"].iloc[-1] == row["steps"]
    first = history[history["step"] == 0]["holdout_loss"].to_numpy()
    assert (metrics["holdout_loss"] < first).all()  # both seeds learned something
    assert facts["task"]["name"] == task
    assert facts["model"]["name"] == "tiny"
    assert facts["data_sha256"] == task
    assert facts["seeds"] == {"root": 5, "indices": [0, 1], "resumed_at": [0, 1]}
    assert (facts["dtype"], facts["device"], facts["blocks"]) == ("float32", "cpu", None)
    assert facts["settings"]["learning_rate"] == 0.01
    assert f"fine-tuning {task}, n=20, 2 trainings: 100 %" in capsys.readouterr().err


def test_test_metrics_at_every_evaluation_change_no_step(study):
    assert run(study, evaluate_every=4) == 0
    plain = {n: read_table(study / f"{n}.parquet")[0] for n in ("metrics", "history")}
    words = command(study, evaluate_every=4)
    assert main([*words, "--test-history"]) == 0
    assert read_table(study / "metrics.parquet")[0].equals(plain["metrics"])
    history = read_table(study / "history.parquet")[0]
    assert history[list(plain["history"])].equals(plain["history"])
    # at the best evaluation the tested model is the one whose metrics are reported
    for _, row in plain["metrics"].iterrows():
        own = history[(history["seed"] == row["seed"]) & (history["step"] == row["best_step"])]
        assert own["mse"].item() == pytest.approx(row["mse"], rel=1e-6)
        assert own["baseline_mse"].item() == row["baseline_mse"]


def test_without_a_step_it_evaluates_once_per_epoch(study):
    words = command(study, patience=99)
    place = words.index("--evaluate-every")
    assert main(words[:place] + words[place + 2 :]) == 0
    history = read_table(study / "history.parquet")[0]
    assert history.groupby("seed")["epoch"].apply(list).tolist() == [[0.0, 1.0, 2.0, 3.0]] * 2


def test_same_command_same_numbers(study):
    tables = []
    for _ in range(2):
        assert run(study, blocks=1) == 0
        tables.append(read_table(study / "metrics.parquet")[0])
    assert tables[0].equals(tables[1])
    assert run(study, blocks=1, seed=6) == 0
    assert not tables[0].equals(read_table(study / "metrics.parquet")[0])


def test_precisions_agree(study):
    found = {}
    for dtype in ("float64", "float32", "bfloat16"):
        assert run(study, dtype=dtype, max_epochs=1, patience=99) == 0
        found[dtype] = read_table(study / "metrics.parquet")[0]["mse"].to_numpy()
    np.testing.assert_allclose(found["float32"], found["float64"], rtol=1e-3)
    np.testing.assert_allclose(found["bfloat16"], found["float64"], rtol=0.1)
    assert (found["bfloat16"] != found["float32"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 21}, "a subset of 21 rows is asked for, but the task has 20"),
        ({"learning_rate": 1e30}, "the training diverged; set a learning rate below 1e+30"),
        ({"patience": 0}, "--patience is 0: must be at least 1"),
        ({"blocks": 3}, "3 blocks are asked for (model.blocks, --blocks), but this model has 2"),
        ({"tokens": "nowhere.safetensors"}, "nowhere.safetensors does not exist"),
    ],
)
def test_mistakes(study, capsys, changes, message):
    assert run(study, **changes) == 1
    assert message in capsys.readouterr().err
    assert not (study / "metrics.parquet").exists()


def test_tokens_of_another_task(study, capsys):
    assert run(study, tokens=study / "class.safetensors") == 1
    assert "class.safetensors holds task 'class', not 'score'" in capsys.readouterr().err


def test_subsets_of_other_data(study, capsys):
    assert run(study, subsets=study / "class.json") == 1
    assert "class.json was drawn from data class, but" in capsys.readouterr().err


def test_tokens_of_another_model(study, capsys):
    manifest = read_json(study / "model" / "model.json")
    write_json(study / "model" / "model.json", manifest | {"name": "new", "sha256": "beef"}, {})
    assert run(study) == 1
    assert "was made for model tiny" in (error := capsys.readouterr().err)
    assert "but the model here is new (beef); tokenise again" in error


def test_a_killed_command_goes_on_from_its_last_finished_seed(study):
    subsets = read_json(study / "score.json")
    subsets["seeds"] += subsets["seeds"]  # four seeds, so that the kill comes in time
    write_json(study / "score.json", subsets, {"data_sha256": "score"})
    long = {"max_epochs": 30, "patience": 999}
    assert run(study, **long) == 0
    undisturbed = {n: read_table(study / f"{n}.parquet")[0] for n in ("metrics", "history")}
    for name in undisturbed:
        (study / f"{name}.parquet").unlink()

    state, kept_in = study / "state", study / "state/n20"
    job = subprocess.Popen([sys.executable, "-m", "ntktune", *command(study, state=state, **long)])
    deadline = time.monotonic() + 120
    while not (kept_in / "seed1.json").is_file() and time.monotonic() < deadline:
        assert job.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert not (study / "metrics.parquet").exists()
    kept = {file.name: file.stat().st_mtime_ns for file in kept_in.glob("seed*.json")}
    assert {"seed0.json", "seed1.json"} <= kept.keys() < {f"seed{i}.json" for i in range(4)}

    assert run(study, state=state, **long) == 0
    for name, expected in undisturbed.items():
        found, facts = read_table(study / f"{name}.parquet")
        assert found.equals(expected)
        assert facts["seeds"]["resumed_at"] == list(range(len(kept), 4))
    assert all((kept_in / name).stat().st_mtime_ns == when for name, when in kept.items())


def test_finished_seeds_of_other_settings_or_damaged_do_not_count(study, capsys):
    state = study / "state"
    assert run(study, state=state) == 0
    whole = read_table(study / "metrics.parquet")[0]
    capsys.readouterr()
    (state / "n20/seed0.json").write_text("{")
    assert run(study, state=state) == 0
    assert "seeds 1 were finished before" in capsys.readouterr().err
    assert read_table(study / "metrics.parquet")[0].equals(whole)
    # a change of what is tried, of the rows, or of the data
    for changes in ({"learning_rate": 0.001}, {"size": 15}, {"blocks": 1}):
        assert run(study, state=state, **changes) == 0
        assert "finished before" not in capsys.readouterr().err
    assert run(study, state=state) == 0
    subsets = read_json(study / "score.json")
    subsets["seeds"][0]["order"][:2] = subsets["seeds"][0]["order"][1::-1]
    write_json(study / "score.json", subsets, {"data_sha256": "score"})
    capsys.readouterr()
    assert run(study, state=state) == 0
    assert "seeds 1 were finished before" in capsys.readouterr().err
    # the same data, tokenised otherwise
    tokens, facts = read_tensors(study / "score.safetensors")
    kept = tokens["ids"].clone()
    tokens["ids"][::2] = tokens["ids"].max() - tokens["ids"][::2]
    write_tensors(study / "score.safetensors", tokens, facts)
    assert run(study, state=state) == 0
    assert "finished before" not in capsys.readouterr().err
    write_tensors(study / "score.safetensors", tokens | {"ids": kept}, facts | {"wall_seconds": 9})
    assert run(study, state=state) == 0
    capsys.readouterr()
    # the same weights in another configuration
    model = read_json(study / "model/model.json")
    write_json(study / "model/model.json", model | {"files": {"vocab.json": "0"}}, {})
    assert run(study, state=state) == 0
    assert "finished before" not in capsys.readouterr().err
    write_json(study / "model/model.json", model, {})
    assert run(study, state=state) == 0
    capsys.readouterr()
    # what changes no number does: another place of the outputs, a seed more
    subsets["seeds"].append(subsets["seeds"][0])
    write_json(study / "score.json", subsets, {"data_sha256": "score"})
    assert run(study, state=state, out_history=study / "other.parquet") == 0
    assert "seeds 0, 1 were finished before" in capsys.readouterr().err
    assert json.loads((state / "n20/seed2.json").read_text())["content"]["row"]["seed"] == 2


def baselines(study, *flags, task="score"):
    return main(
        [
            *("finetune", "baselines", "--model", str(study / "model"), "--task", task),
            *("--tokens", str(study / f"{task}.safetensors"), "--device", "cpu"),
            *("--subsets", str(study / f"{task}.json"), "--sizes", "15", "20"),
            *("--out", str(study / "baselines.parquet"), *flags),
        ]
    )


def learning_kernels(study, *flags, task="score"):
    return main(
        [
            *("kernel", "learning", "--model", str(study / "model"), "--task", task),
            *("--tokens", str(study / f"{task}.safetensors"), "--device", "cpu", "--seed", "5"),
            *("--subsets", str(study / f"{task}.json"), "--rows", "20", "--seeds", "1"),
            *("--out", str(study / "learning.safetensors"), *flags),
        ]
    )


@pytest.mark.parametrize("task", ["score", "class"])
def test_baselines_from_files(study, task):
    assert learning_kernels(study, task=task) == 0
    assert baselines(study, "--kernels", str(study / "learning.safetensors"), task=task) == 0
    found, facts = read_table(study / "baselines.parquet")
    assert facts["task"]["name"] == task
    assert found.groupby("method").size().to_dict() == {
        "kernel-descent": 2, "kernel-ridge": 2, "linear-probe": 4
    }  # fmt: skip
    assert found["baseline_mse" if task == "score" else "baseline_accuracy"].notna().all()
    # the same test rows and training labels as fine-tuning has
    assert run(study, task) == 0
    tuned = read_table(study / "metrics.parquet")[0].set_index("seed")
    for name in ("baseline_mse", "noise_variance", "baseline_accuracy", "n_train"):
        same = found[found["n"] == 20].groupby("seed")[name].first()
        assert same.to_numpy() == pytest.approx(tuned[name].to_numpy(), nan_ok=True)


def test_baselines_of_features_alone(study):
    assert baselines(study) == 0
    assert set(read_table(study / "baselines.parquet")[0]["method"]) == {"linear-probe"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rows", "99"], "--rows is 99, but the task has 20 training rows"),
        (["--seeds", "3"], "3 seeds are asked for, but "),
        (["--task", "class"], "holds task 'score', not 'class'"),
    ],
)
def test_mistakes_with_learning_kernels(flags, message, study, capsys):
    assert learning_kernels(study, *flags) == 1
    assert message in capsys.readouterr().err


def test_kernels_of_another_task_or_model_are_refused(study, capsys):
    assert learning_kernels(study, "--blocks", "1") == 0
    kernels = ["--kernels", str(study / "learning.safetensors")]
    assert baselines(study, *kernels) == 1
    assert "was made for blocks 1, not None" in capsys.readouterr().err
    assert baselines(study, *kernels, "--blocks", "1", task="class") == 1
    assert "was made for task score, not class" in capsys.readouterr().err


def test_a_chosen_learning_rate_is_taken_and_recorded(study, capsys):
    rates = study / "rates.json"
    words = [word for word in command(study, head="random") if "out" not in word]
    words = [word for word in words if not word.endswith(("metrics.parquet", "history.parquet"))]
    words[1] = "choose"
    place = words.index("--learning-rate")
    del words[place : place + 2]
    state = study / "tried"
    listed = ["--learning-rates", "1e-6", "0.01", "--out", str(rates), "--state", str(state)]
    assert main([*words, *listed]) == 0
    chosen = read_json(rates)
    # as if it had been killed at the second rate
    first = (state / "rate1e-06.json").stat().st_mtime_ns
    (state / "rate0.01.json").unlink()
    assert main([*words, *listed]) == 0
    assert read_json(rates)["rates"] == chosen["rates"]
    assert (state / "rate1e-06.json").stat().st_mtime_ns == first
    assert chosen["size"] == 20
    assert chosen["rates"][0]["learning_rate"] == 0.01
    assert run(study, rates=rates, head="random") == 0
    _, facts = read_table(study / "metrics.parquet")
    assert facts["settings"]["learning_rate"] == 0.01
    with_rates, _ = read_table(study / "history.parquet")
    assert run(study, learning_rate=0.01, head="random") == 0
    assert read_table(study / "history.parquet")[0].equals(with_rates)
    capsys.readouterr()
    assert run(study, "class", rates=rates, head="random") == 1
    assert f"{rates} was made for task score, not class; make it again" in capsys.readouterr().err
    assert main([*words, "--learning-rates", "1e30", "1e31", "--out", str(rates)]) == 1
    assert "diverges with each of the learning rates 1e+30, 1e+31" in capsys.readouterr().err


def test_a_head_on_the_mean_over_tokens(study, capsys):
    assert run(study, head="probe") == 0
    last, _ = read_table(study / "metrics.parquet")
    assert run(study, head="probe", pooling="mean", learning_rate=1e-12) == 0
    metrics, facts = read_table(study / "metrics.parquet")
    assert facts["pooling"] == "mean"
    assert baselines(study, "--pooling", "mean") == 0
    found = read_table(study / "baselines.parquet")[0].query("n == 20")
    assert metrics["mse"].to_numpy() == pytest.approx(found["mse"].to_numpy(), rel=1e-4)
    assert not np.allclose(metrics["mse"], last["mse"], rtol=1e-3)
    assert learning_kernels(study, "--pooling", "mean") == 0
    kernels = ["--kernels", str(study / "learning.safetensors")]
    assert baselines(study, *kernels) == 1
    assert "was made for pooling mean, not last; make it again" in capsys.readouterr().err
    assert baselines(study, *kernels, "--pooling", "mean") == 0


METHODS = {
    "lora": {"lora_rank": 2, "lora_targets": ["q_proj", "down_proj"]},
    "probe": {"checkpointing": []},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["score", "class"])
def test_every_method_goes_on_where_it_was_killed(study, capsys, method, task):
    how = METHODS[method] | {"method": method, "state": study / "state"}
    state = study / "state/n20"
    assert run(study, task, **how) == 0
    metrics, facts = read_table(study / "metrics.parquet")
    assert list(metrics) == METRICS
    assert (metrics["method"] == method).all()
    assert facts["settings"]["method"] == method
    capsys.readouterr()
    (state / "seed0.json").unlink()  # as if it had been killed in the second seed
    (state / "seed1.json").rename(state / "kept")
    assert run(study, task, **how) == 0
    assert read_table(study / "metrics.parquet")[0].equals(metrics)
    (state / "seed1.json").unlink()
    (state / "kept").rename(state / "seed1.json")
    (state / "seed0.json").unlink()
    assert run(study, task, **how) == 0
    assert "seeds 1 were finished before" in capsys.readouterr().err
    assert read_table(study / "metrics.parquet")[0].equals(metrics)
    assert run(study, task, state=state) == 0  # of all weights
    assert "finished before" not in capsys.readouterr().err


@pytest.mark.parametrize("method", ["full", "lora", "probe"])
def test_several_sizes_give_what_each_gives_alone(study, capsys, method):
    how = METHODS.get(method, {}) | {"method": method, "patience": 99}
    alone = []
    for size in (15, 20):
        assert run(study, size=size, **how) == 0
        alone.append([read_table(study / f"{n}.parquet")[0] for n in ("metrics", "history")])
    how |= {"size": (15, 20), "state": study / "state"}
    tables = ("metrics", "history")
    assert run(study, **how) == 0
    together = [read_table(study / f"{name}.parquet")[0] for name in tables]
    # features are of other batches, and so differ in their last digits
    close = {"rtol": 1e-4 if method == "probe" else 1e-6}
    for found, one, two in zip(together, *alone, strict=True):
        pd.testing.assert_frame_equal(found, pd.concat([one, two], ignore_index=True), **close)
    (study / "state/n15/seed1.json").unlink()
    capsys.readouterr()
    assert run(study, **how) == 0
    assert "n=15: seeds 0 were finished before\n" in (said := capsys.readouterr().err)
    assert "n=20: seeds 0, 1 were finished before\n" in said
    for name, found in zip(tables, together, strict=True):
        assert read_table(study / f"{name}.parquet")[0].equals(found)
    # features of another largest size are of other batches
    assert run(study, **how | {"size": 15}) == 0
    assert ("n=15: seeds 0, 1 were finished" in capsys.readouterr().err) == (method != "probe")
    how |= {"seeds": (2, 1), "state": study / "other"}
    assert run(study, **how) == 0
    few = read_table(study / "metrics.parquet")[0]
    assert few.equals(together[0].iloc[:3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (20, 20)}, "--size has a number twice: 20 20"),
        ({"size": (15, 20), "seeds": (1, 1, 1)}, "--seeds has 3 numbers; give one for each --size"),
        ({"size": (15, 20), "seeds": (2, 0)}, "--seeds is 0; give 1 or more"),
        (
            {"size": (15, 20), "method": "lora", "adapters": "a"},
            "--adapters takes one --size",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_told(study, capsys, changes, message):
    assert run(study, **changes) == 1
    assert message in capsys.readouterr().err


def test_adapters_are_kept_and_made_again_where_they_are_missing(study, capsys):
    how = {"method": "lora", "lora_rank": 2, "learning_rate": 0.02, "state": study / "state"}
    assert run(study, adapters=study / "adapters", **how) == 0
    first = read_table(study / "metrics.parquet")[0]
    capsys.readouterr()
    (study / "adapters/seed0/adapter_model.safetensors").rename(study / "kept.safetensors")
    shutil.rmtree(study / "adapters/seed0")
    assert run(study, adapters=study / "adapters", **how) == 0
    assert "seeds 1 were finished before" in capsys.readouterr().err
    assert read_table(study / "metrics.parquet")[0].equals(first)
    found, kept = (
        read_tensors(study / name)[0]
        for name in ("adapters/seed0/adapter_model.safetensors", "kept.safetensors")
    )
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    # a folder that another size has written to since
    assert run(study, adapters=study / "adapters", **how | {"size": 15, "state": study / "s"}) == 0
    capsys.readouterr()
    assert run(study, adapters=study / "adapters", **how) == 0
    assert "finished before" not in capsys.readouterr().err
    head, _ = read_tensors(study / "adapters/seed0/head.safetensors")
    assert head["weight"].shape == (1, 16)
    assert run(study, adapters=study / "adapters") == 1
    assert "--adapters is for --method lora, not full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("targets", ["q_proj", "qproj"], "lora targets 'qproj' is no layer of the model; did"),
        ("layers", [0, 9], "lora layers has 9, but the blocks are 0 to 1"),
        ("rank", 0, "--lora-rank is 0: must be at least 1"),
        ("alpha", -1, "--lora-alpha is -1.0: must be greater than 0"),
        ("rank_pattern", ["q_proj"], "--lora-rank-pattern has 'q_proj'"),
        ("rank_pattern", ["qproj=2"], "lora rank_pattern 'qproj' is no layer of the model"),
        ("exclude", ["qproj"], "lora exclude 'qproj' is no layer of the model"),
    ],
)
def test_a_wrong_option_of_adapters_is_told_in_a_line(study, capsys, option, value, told):
    assert run(study, method="lora", **{f"lora_{option}": value}) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert told in line
    assert not (study / "metrics.parquet").exists()


def test_what_takes_two_classes_says_so_of_three(study, capsys):
    manifest = read_json(study / "model" / "model.json")
    write_task(study, "three", "classification", manifest, classes=3)
    outs = ("out-evaluations", "out-ridge", "out-stops")
    flags = [word for out in outs for word in (f"--{out}", str(study / out))]
    flags += ["--seeds", "1"]
    assert main(["theory", "trajectory", *tuning_flags(study, "three"), *flags]) == 1
    assert "task three has 3 classes; this command takes" in capsys.readouterr().err
