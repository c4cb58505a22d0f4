"""The command ``finetune run``, end to end on files."""

import hashlib

import numpy as np
import pytest
import torch

from ntktune.__main__ import main
from ntktune.artifacts import read_json, read_table, write_json, write_tensors

METRICS = [
    "task", "kind", "n", "seed", "n_train", "n_holdout", "steps", "best_step", "best_epoch",
    "sum_learning_rate", "holdout_loss", "mse", "mse_unit", "pearson", "spearman",
    "baseline_mse", "noise_variance", "accuracy", "f1", "cross_entropy", "baseline_accuracy",
    "baseline_f1",
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


def run(study, task="score", **changes):
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
        words += ["--" + key.replace("_", "-"), str(value)]
    return main(words)


@pytest.mark.parametrize("task", ["score", "class"])
def test_run_writes_metrics_and_history(study, capsys, task):
    assert run(study, task, max_epochs=8, learning_rate=0.01) == 0
    metrics, facts = read_table(study / "metrics.parquet")
    assert list(metrics) == METRICS
    assert metrics["seed"].tolist() == [0, 1]
    assert (metrics["task"] == task).all()
    history, _ = read_table(study / "history.parquet")
    assert list(history) == ["seed", "step", "epoch", "train_loss", "holdout_loss"]
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
    assert facts["seeds"] == {"root": 5, "indices": [0, 1]}
    assert (facts["dtype"], facts["device"], facts["blocks"]) == ("float32", "cpu", None)
    assert facts["settings"]["learning_rate"] == 0.01
    assert f"fine-tuning {task}, n=20, 2 seeds: 100 %" in capsys.readouterr().err


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
        ({"patience": 0}, "patience is 0, but must be above 0"),
        ({"blocks": 3}, "3 blocks are asked for (model.blocks, --blocks), but this model has 2"),
        ({"dtype": "float8"}, "dtype 'float8' is unknown"),
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
