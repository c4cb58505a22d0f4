"""The commands ``taskvectors tune``, ``cosine`` and ``merge``, end to end on files."""

import numpy as np
import pytest
import torch

from ntktune.__main__ import main
from ntktune.artifacts import read_table, read_tensors, write_tensors


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture
def tuned(study, training_flags):
    """Fine-tune the three tasks; return their weight files."""
    files = []
    for task in "abc":
        files.append(study / f"{task}.weights.safetensors")
        assert run("taskvectors", "tune", *training_flags(task), "--out", files[-1]) == 0
    return files


def test_tune_cosine_and_merge(study, training_flags, tuned, capsys):
    model = ["--model", study / "model"]

    # the weights: all of the backbone, rows of the vocabulary that never occur as they were
    tensors, facts = read_tensors(tuned[0])
    start, _ = read_tensors(study / "model" / "model.safetensors")
    assert {k.removeprefix("backbone.") for k in tensors if k.startswith("backbone.")} == set(start)
    assert tensors["head.weight"].shape == (1, 16)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    table = tensors["backbone.embed_tokens.weight"]
    assert torch.equal(table[40:], start["embed_tokens.weight"][40:])
    assert not torch.equal(table[:40], start["embed_tokens.weight"][:40])
    assert (facts["task"]["name"], facts["size"], facts["blocks"]) == ("a", 20, None)
    assert facts["seeds"] == {"root": 1, "indices": [0]}
    assert facts["command"] == "taskvectors tune"
    assert len(facts["code"]) == 16

    # the same numbers as the first seed of the grid
    outs = ["--out-metrics", study / "m.parquet", "--out-history", study / "h.parquet"]
    assert run("finetune", "run", *training_flags("a"), *outs) == 0
    metrics, _ = read_table(study / "m.parquet")
    for name in ("mse", "pearson", "holdout_loss", "best_step"):
        assert facts["metrics"][name] == metrics[name][0]

    out = study / "cosine.parquet"
    assert run("taskvectors", "cosine", *model, "--weights", *tuned, "--out", out) == 0
    cosines, provenance = read_table(out)
    assert list(cosines) == ["task_a", "task_b", "cosine"]
    assert len(cosines) == 9
    assert provenance["sizes"] == {"a": 20, "b": 20, "c": 20}
    square = cosines.pivot_table(index="task_a", columns="task_b", values="cosine").to_numpy()
    assert (np.diag(square) == 1).all()
    flat = [
        np.concatenate(
            [(t[f"backbone.{k}"].double() - w.double()).ravel() for k, w in start.items()]
        )
        for t in (read_tensors(path)[0] for path in tuned)
    ]
    wanted = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert square[0, 1] == square[1, 0] == pytest.approx(wanted, rel=1e-10)

    out = study / "merged.parquet"
    inputs = ["--tokens", *(study / f"{t}.safetensors" for t in "abc")]
    inputs += ["--subsets", *(study / f"{t}.json" for t in "abc")]
    common = ["--batch-tokens", 64, "--device", "cpu", "--out", out]
    assert run("taskvectors", "merge", *model, "--weights", *tuned, *inputs, *common) == 0
    merged, provenance = read_table(out)
    assert provenance["settings"]["coefficient"] == 1.0
    assert list(merged) == [
        "merged", "task", "kind", "metric", "coefficient",
        "pretrained", "single", "merged_score", "normalised",
    ]  # fmt: skip
    assert len(merged) == 9
    # the single score is the one that the fine-tuning reported
    for path in tuned:
        facts = read_tensors(path)[1]
        rows = merged[merged["task"] == facts["task"]["name"]]
        name = rows["metric"].iloc[0]
        assert rows["single"].tolist() == pytest.approx([facts["metrics"][name]] * len(rows))
    assert "merging 3 tasks: 100 %" in capsys.readouterr().err


def test_blocks_are_kept_in_mind(study, training_flags, capsys):
    files = []
    for task in "ab":
        files.append(study / f"{task}.weights.safetensors")
        flags = training_flags(task, blocks=1, max_epochs=1)
        assert run("taskvectors", "tune", *flags, "--out", files[-1]) == 0
    out = ["--out", study / "cosine.parquet"]
    command = ["taskvectors", "cosine", "--model", study / "model", "--weights", *files, *out]
    capsys.readouterr()
    assert run(*command) == 1
    assert "was fine-tuned with blocks 1, not None" in capsys.readouterr().err
    assert not (study / "cosine.parquet").exists()
    assert run(*command, "--blocks", 1) == 0


def test_weights_of_another_model(study, tuned, capsys):
    tensors, facts = read_tensors(tuned[1])
    facts["model"] = {"name": "other", "sha256": "beef"}
    write_tensors(tuned[1], tensors, facts)
    command = ["taskvectors", "cosine", "--model", study / "model", "--out", study / "c.parquet"]
    assert run(*command, "--weights", *tuned) == 1
    assert "b.weights.safetensors was fine-tuned from model other (beef)" in capsys.readouterr().err
    assert run(*command, "--weights", tuned[0]) == 1
    assert "--weights has 1 file; give those of two tasks or more" in capsys.readouterr().err
    assert run(*command, "--weights", tuned[0], tuned[0]) == 1
    assert "are both of task 'a'; give it once" in capsys.readouterr().err


def test_damaged_shape_is_named(study, tuned, capsys):
    tensors, facts = read_tensors(tuned[1])
    tensors["backbone.norm.weight"] = torch.ones(3)
    write_tensors(tuned[1], tensors, facts)
    command = ["taskvectors", "cosine", "--model", study / "model", "--out", study / "c.parquet"]
    assert run(*command, "--weights", *tuned[:2]) == 1
    assert "tensor norm.weight has shape (16,) in one set of weights and (3,) in" in (
        capsys.readouterr().err
    )


def test_merge_inputs_must_belong_together(study, tuned, capsys):
    command = ["taskvectors", "merge", "--model", study / "model", "--out", study / "m.parquet"]
    command += ["--device", "cpu", "--weights", *tuned[:2]]
    tokens = [study / f"{t}.safetensors" for t in "ba"]
    subsets = [study / f"{t}.json" for t in "ab"]
    assert run(*command, "--tokens", *tokens, "--subsets", *subsets) == 1
    assert "b.safetensors holds task 'b', not 'a'" in capsys.readouterr().err
    assert run(*command, "--tokens", *tokens[::-1], "--subsets", *subsets[::-1]) == 1
    assert "b.json was drawn from data data of b" in capsys.readouterr().err
    assert run(*command, "--tokens", tokens[0], "--subsets", *subsets) == 1
    assert "there are 2 --weights, 1 --tokens and 2 --subsets" in capsys.readouterr().err
