"""Commands of the chapter linearized: from a file or a study to a ranking and to tables."""

import numpy as np
import pandas as pd
import pytest
from peft import PeftConfig, get_peft_model
from tiny_study import tuning_flags, write_task
from tiny_study import write_model as write_tiny_model
from transformers import AutoModelForSequenceClassification

from ntktune.__main__ import main
from ntktune.data.pretrained import write_model
from ntktune.store.records import read_table, write_json
from ntktune.store.tensors import read_arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plain model folder and a table of its own making."""
    folder = tmp_path_factory.mktemp("layers")
    random = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24}
    random |= {"num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 64}
    write_model({"name": "tiny", "random": random}, folder / "model")
    words = ["good", "bad", "fine", "dull", "sharp", "slow"]
    rows = [f"{i % 6},a {words[i % 6]} text of number {i},{words[i % 3]}" for i in range(40)]
    (folder / "reviews.csv").write_text("\n".join(["stars,review,kind", *rows]))
    return folder


@pytest.fixture
def layers(folder, capsys):
    """Run the command; return its exit status, what it prints, and what it says."""

    def run(*more):
        words = ["--model", str(folder / "model"), "--data", str(folder / "reviews.csv")]
        words += [
            "--text-column",
            "review",
            "--rows",
            "16",
            "--max-tokens",
            "40",
            "--device",
            "cpu",
        ]
        status = main(["linearized", "layers", *words, *more])
        return status, *capsys.readouterr()

    return run


def table(printed):
    lines = [line.split() for line in printed.split("\n\n")[1].splitlines()[1:]]
    return {line[0]: line[1:] for line in lines}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(
    "label", [["stars"], ["kind", "--classes"], ["kind", "--classes", "good", "bad"]]
)
def test_the_sets_are_ranked_by_the_error_they_predict(layers, method, label):
    status, printed, said = layers("--method", method, "--label-column", *label)
    assert status == 0, said
    found = table(printed)
    blocks = ["block0", "block1", "block2"]
    assert {*found} == {"all", "attention", "mlp", *blocks, "first2", "last2"}
    errors = [float(row[1]) for row in found.values()]
    assert errors == sorted(errors) != [float(row[2]) for row in found.values()]
    assert 0 < errors[0] < 2  # the labels' variance is the unit
    counts = {name: int(row[0].replace(",", "")) for name, row in found.items()}
    assert counts["all"] == counts["attention"] + counts["mlp"] == 3 * counts["block1"]
    assert counts["all"] == 3 * (8 * (8 * 16 + 3 * (16 + 24)) if method == "lora" else 2176)


def test_sets_that_do_not_differ_are_told():
    from ntktune.cli.linearized import _told

    row = {"parameters": 8, "evidence": -1.0, "alignment": 0.1, "condition": 9.0, "largest": 2.0}
    row["gcv"] = 0.5
    alike, apart = (
        [row | {"layers": n, "gcv_layers": e} for n, e in zip("ab", errors, strict=True)]
        for errors in ((0.5, 0.504), (0.5, 0.506))
    )
    assert "differ by less than 1%" in _told(alike, "lora")
    assert "differ" not in _told(apart, "lora")
    assert "differ" not in _told(alike[:1], "lora")


def test_peft_loads_the_best_sets_adapters(layers, folder, tmp_path):
    out = tmp_path / "best"
    options = ("--lora-rank", "4", "--lora-alpha", "6", "--lora-rslora", "--out", str(out))
    status, printed, said = layers("--label-column", "stars", *options)
    assert status == 0, said
    trained = next(iter(table(printed).values()))[0]
    config = PeftConfig.from_pretrained(out)
    assert (config.r, config.lora_alpha, config.use_rslora) == (4, 6, True)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1)
    adapted = get_peft_model(model, config)
    count = sum(p.numel() for name, p in adapted.named_parameters() if ".lora_" in name)
    assert count == int(trained.replace(",", ""))
    # and it trains the head
    assert any(p.requires_grad for name, p in adapted.named_parameters() if "score" in name)


def test_a_folder_with_other_files_is_kept(layers, folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for out, told in (
        (tmp_path, "holds other files, which would be lost"),
        (folder / "model", "would replace"),
        (tmp_path / "thesis.txt", "is a file"),
    ):
        status, _, said = layers("--label-column", "stars", "--out", str(out))
        assert status == 1
        assert told in said
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_labels_that_are_all_alike_are_told(layers, folder):
    rows = (folder / "reviews.csv").read_text().splitlines()
    lines = [line if i == 0 else "3," + line.split(",", 1)[1] for i, line in enumerate(rows)]
    (folder / "same.csv").write_text("\n".join(lines))
    status, _, said = layers("--label-column", "stars", "--data", str(folder / "same.csv"))
    assert status == 1
    assert "all 16 rows have the same label" in said


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linearized")
    model = write_tiny_model(folder / "model")
    for name, kind, classes in (
        ("score", "regression", 2),
        ("class", "classification", 2),
        ("three", "classification", 3),
    ):
        write_task(folder, name, kind, model, classes=classes)
        rows = {"draws": [list(range(5, 17)), list(range(12))]}
        write_json(folder / f"{name}-draws.json", rows, {"data_sha256": f"data of {name}"})
    return folder


def run(study, verb, task, *more):
    return main(["linearized", verb, *tuning_flags(study, task, seeds=2, max_epochs=2), *more])


@pytest.mark.parametrize(("task", "method"), [("score", "full"), ("three", "lora")])
def test_sets_are_those_of_the_first_draws_rows(study, task, method):
    out, grams, layers = (
        study / f for f in ("sets.parquet", "grams.safetensors", "layers.parquet")
    )
    words = ["--model", study / "model", "--tokens", study / f"{task}.safetensors", "--task", task]
    words += ["--draws", study / f"{task}-draws.json", "--seed", 1, "--device", "cpu"]
    words += ["--method", method, "--sets", "all", "mlp"]
    words += ["--out", out, "--out-grams", grams, "--out-layers", layers]
    assert main(["linearized", "sets", *map(str, words)]) == 0
    found, facts = read_table(out)
    assert {*found["layers"]} == {"all", "mlp"}
    assert facts["task"]["name"] == task
    kernels, _ = read_arrays(str(grams))
    assert {kernel.shape for kernel in kernels.values()} == {(12, 12)}
    assert {"head", "layers.1.mlp.up_proj.weight"} < {*kernels}
    alone = read_table(layers)[0].set_index(["block", "layer"])
    assert len(alone) == 14
    own = kernels["layers.1.mlp.up_proj.weight"].astype(float)
    row = alone.loc[1, "mlp.up_proj"]
    share = 1 if method == "full" else 8 / (3 * 16)  # (α/r)² r/(3 d_in)
    assert row["trace"] == pytest.approx(share * (np.trace(own) - own.mean() * len(own)), rel=1e-5)
    assert 0 < row["alignment"] < 1
    # their sum is the kernel of the first draw
    whole = ["kernel", "draws", *map(str, words[:10]), "--out", str(study / "whole.safetensors")]
    assert main(whole) == 0
    wanted = read_arrays(str(study / "whole.safetensors"))[0]["kernel"][0]
    np.testing.assert_allclose(sum(kernels.values()), wanted, rtol=1e-4)


def test_a_set_that_the_model_lacks_is_told(study, capsys):
    out = str(study / "none.parquet")
    flags = ("--sets", "atention", "--rate-factors", "1", "--out", out)
    assert run(study, "tune", "score", *flags) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "no set of layers 'atention'; did you mean 'attention'?" in told


@pytest.mark.parametrize("method", ["lora", "full"])
def test_each_set_has_a_row_per_seed(study, method):
    out = study / f"{method}.parquet"
    flags = ("--method", method, "--sets", "all", "block1", "--rate-factors", "0.5", "2")
    assert run(study, "tune", "three", *flags, "--out", str(out)) == 0
    found, facts = read_table(out)
    assert found[["layers", "seed"]].to_numpy().tolist() == [
        ["all", 0], ["all", 1], ["block1", 0], ["block1", 1],
    ]  # fmt: skip
    assert {*found["learning_rate"]} <= {0.005, 0.02}
    assert {*found["method"]} == {method}
    assert facts["seeds"] == {"root": 1, "indices": [0, 1]}


def test_a_killed_tuning_goes_on_from_its_finished_sets(study, monkeypatch):
    from ntktune.linearized import choice

    out, state = study / "again.parquet", str(study / "state")
    flags = ["--sets", "all", "block1", "mlp", "--rate-factors", "1", "--state", state]
    trained, own = [], choice.tuned_set

    def dying(*cell, **how):
        trained.append(cell)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return own(*cell, **how)

    monkeypatch.setattr(choice, "tuned_set", dying)
    assert run(study, "tune", "score", *flags, "--out", str(out)) == 130
    assert run(study, "tune", "score", *flags, "--out", str(out)) == 0
    assert len(trained) == 4  # two, the killed one, and that again
    resumed = read_table(out)[0]
    monkeypatch.setattr(choice, "tuned_set", own)
    assert run(study, "tune", "score", *flags[:-2], "--out", str(out)) == 0
    pd.testing.assert_frame_equal(resumed, read_table(out)[0])


@pytest.mark.parametrize(("task", "method"), [("score", "lora"), ("class", "full")])
def test_held_trainings_have_a_row_per_penalty_and_evaluation(study, task, method):
    outs = study / "hold.parquet", study / "radius.parquet"
    flags = ["--shares", "0.1", "10", "--test-rows", "8", "--radii", "0.01", "0.1"]
    flags += [
        "--method",
        method,
        "--radius-draws",
        "1",
        "--out",
        str(outs[0]),
        "--out-radius",
        str(outs[1]),
    ]
    assert run(study, "hold", task, *flags) == 0
    (held, facts), (radius, _) = map(read_table, outs)
    assert facts["task"]["name"] == task
    best = held[held["best"]]
    kinds = best[["seed", "share", "selective"]].to_numpy().tolist()
    every = [(0.0, False), (0.1, False), (0.1, True), (10.0, False), (10.0, True)]
    assert kinds == [[seed, *kind] for seed in (0, 1) for kind in every]
    most = held[~held["selective"]].groupby(["seed", "share"])["distance"].max()
    assert (most.xs(10, level="share") < most.xs(0, level="share")).all()
    assert radius[["seed", "radius", "draw"]].drop_duplicates().shape[0] == len(radius) == 4
    assert np.isfinite(radius["lipschitz"]).all()


def test_more_than_two_classes_are_not_held(study, capsys):
    flags = ["--out", str(study / "no.parquet"), "--out-radius", str(study / "no2.parquet")]
    assert run(study, "hold", "three", *flags) == 1
    assert "task three has 3 classes" in capsys.readouterr().err
