"""``kernel draws`` and ``kernel gram``: from files to kernels."""

import argparse
import json

import pytest
import torch

from ntktune.__main__ import main
from ntktune.cli import kernel
from ntktune.data.cleaning import label_name
from ntktune.data.pretrained import write_model
from ntktune.errors import UserError
from ntktune.network.models import text_model
from ntktune.store.tensors import read_tensors
from ntktune.study.seeds import integer_seed

ROWS = [[0, 3, 1, 8], [5, 6, 2, 4]]


@pytest.mark.parametrize(
    ("kind", "function"), [("regression", "scalar"), ("classification", "difference")]
)
def test_kernels_of_all_draws(kind, function, study, tmp_path, texts, reference, capsys):
    assert main([*study(kind), "--blocks", "1"]) == 0
    assert "kernels of toy, 2 draws: 100 %" in capsys.readouterr().err
    tensors, facts = read_tensors(tmp_path / "gram.safetensors")
    for draw, rows in enumerate(ROWS):
        seed = integer_seed(7, "kernel.head", "toy", 0, draw)
        model = text_model(
            tmp_path / "model",
            outputs=1 if kind == "regression" else 2,
            head_seed=seed,
            blocks=1,
            dtype=torch.float64,
        )
        expected, values = reference(model, [texts[i] for i in rows], function)
        assert facts["head_seeds"][draw] == seed
        torch.testing.assert_close(tensors["kernel"][draw], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(tensors["outputs"][draw], values, rtol=1e-6, atol=1e-6)
    groups = {name: t for name, t in tensors.items() if name.startswith("group/")}
    assert set(groups) == {
        *("group/embedding", "group/block0.attention", "group/block0.mlp"),
        *("group/norm", "group/head"),
    }
    torch.testing.assert_close(torch.stack(list(groups.values())).sum(0), tensors["kernel"])
    assert tensors["row"].tolist() == ROWS
    label = torch.tensor(ROWS, dtype=torch.float64)
    assert torch.equal(tensors["label"], label if kind == "regression" else label % 2)
    assert tensors["label_noise"].isnan().all()
    assert (facts["function"], facts["dtype"], facts["device"]) == (function, "float64", "cpu")
    assert (facts["task"]["kind"], facts["data_sha256"], facts["blocks"]) == (kind, "d1", 1)
    assert facts["model"]["revision"] == "r1"
    assert [k["self_check"]["examples"] for k in facts["kernel"]] == [[0, 2], [1, 2]]


def test_of_three_classes_the_kernel_is_the_mean_over_outputs(study, tmp_path, texts, reference):
    assert main([*study("classification", classes=3), "--blocks", "1"]) == 0
    tensors, facts = read_tensors(tmp_path / "gram.safetensors")
    for draw, rows in enumerate(ROWS):
        model = text_model(
            tmp_path / "model",
            outputs=3,
            head_seed=facts["head_seeds"][draw],
            blocks=1,
            dtype=torch.float64,
        )
        expected, values = reference(model, [texts[i] for i in rows], "full")
        mean = expected.diagonal(dim1=2, dim2=3).mean(-1)
        torch.testing.assert_close(tensors["kernel"][draw], mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(tensors["outputs"][draw], values, rtol=1e-6, atol=1e-6)
    assert facts["function"] == "mean"
    assert tensors["label"].tolist() == (torch.tensor(ROWS) % 3).tolist()


def test_same_command_same_numbers(study, tmp_path):
    arguments = study()
    assert main(arguments) == 0
    first, _ = read_tensors(tmp_path / "gram.safetensors")
    assert main(arguments) == 0
    again, _ = read_tensors(tmp_path / "gram.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in ("kernel", "outputs", "row"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "other"}, "holds task 'other', not 'toy'"),
        ({"model": {"name": "big", "sha256": "x"}}, "was made for model big (x)"),
        ({"data_sha256": "d2"}, "was drawn from data d1, but"),
        ({"draws": [[0, 9]]}, "has row 9, but"),
        ({"draws": [[0, 1], [2]]}, "their sizes are [2, 1]"),
        ({"draws": []}, "must hold one or more draws"),
    ],
)
def test_files_that_do_not_belong_together(changes, message, study, tmp_path, capsys):
    assert main(study(**changes)) == 1
    error = capsys.readouterr().err
    assert error.startswith("ntktune kernel draws: error: ")
    assert message in error
    assert not (tmp_path / "gram.safetensors").exists()


def test_damaged_tokens_are_named(study, tmp_path, capsys):
    arguments = study()
    path = tmp_path / "tokens.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(arguments) == 1
    assert "tokens.safetensors is damaged" in capsys.readouterr().err


def test_provenance_is_json(study, tmp_path):
    assert main(study()) == 0
    _, facts = read_tensors(tmp_path / "gram.safetensors")
    assert json.loads(json.dumps(facts))["command"] == "kernel draws"


@pytest.fixture
def folder(tmp_path):
    """A plain model folder, as any program writes it, and a table of its own making."""
    random = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,  # the language head is the embedding: no weights of its own
    }
    write_model({"name": "tiny", "random": random}, tmp_path / "model")
    rows = [f"{i % 5},a text of number {i},{'yes' if i % 3 else 'no'}" for i in range(40)]
    rows += ["1,,yes", "2,a text of number 3,yes"]  # an empty text, a repeated one
    (tmp_path / "reviews.csv").write_text("\n".join(["stars,review,good", *rows]))
    return tmp_path


def from_file(folder, *more):
    out = str(folder / "gram.safetensors")
    return main(
        [
            *("kernel", "gram", "--model", str(folder / "model")),
            *("--data", str(folder / "reviews.csv"), "--text-column", "review"),
            *("--rows", "12", "--max-tokens", "40", "--device", "cpu", "--out", out, *more),
        ]
    )


def test_a_file_and_a_model_folder_are_enough(folder, capsys):
    assert from_file(folder, "--label-column", "stars", "--dtype", "float64") == 0
    told = capsys.readouterr().err
    assert "1 empty" in told
    assert "reviews: 12 of 40 rows drawn" in told
    assert told.splitlines()[-1] == f"wrote {folder / 'gram.safetensors'}"
    tensors, facts = read_tensors(folder / "gram.safetensors")
    assert tensors["kernel"].shape == (1, 12, 12)
    assert len(set(tensors["row"][0].tolist())) == 12
    assert set(tensors["label"][0].tolist()) <= {0, 1, 2, 3, 4}
    assert facts["task"]["kind"] == "regression"
    assert facts["model"]["name"] == "model"
    assert facts["kernel"][0]["self_check"]["largest_relative_error"] < 1e-5
    outs = {name: str(folder / f"{name}.out") for name in ("eigenvalues", "fits", "summary")}
    flags = [word for name, path in outs.items() for word in (f"--out-{name}", path)]
    assert main(["spectrum", "fit", "--gram", str(folder / "gram.safetensors"), *flags]) == 0
    assert "reviews: eigenvalues decay as k^-" in capsys.readouterr().err


@pytest.mark.parametrize("free", [None, 20_000], ids=["asked for", "too large"])
def test_weights_that_stay_in_their_files_give_the_same_kernel(free, folder, capsys, monkeypatch):
    assert from_file(folder, "--label-column", "stars") == 0
    tensors, facts = read_tensors(folder / "gram.safetensors")
    assert "streamed_bytes" not in facts["kernel"][0]
    if free:  # the weights take more than three quarters of that
        monkeypatch.setattr("ntktune.network.models.free_bytes", lambda device: free)
    capsys.readouterr()
    assert from_file(folder, "--label-column", "stars", *([] if free else ["--stream"])) == 0
    told = "three quarters of free memory: they stay in their files"
    assert (told in capsys.readouterr().err) == bool(free)
    streamed, facts = read_tensors(folder / "gram.safetensors")
    assert facts["kernel"][0]["streamed_bytes"] > 0
    for name, tensor in tensors.items():
        assert torch.equal(tensor, streamed[name]) or tensor.isnan().all(), name


def test_a_small_file_is_taken_whole(folder, capsys):
    rows = (folder / "reviews.csv").read_text().splitlines()[:8]
    (folder / "reviews.csv").write_text("\n".join(rows))
    arguments = ["--label-column", "stars", "--text-column", "review", "--device", "cpu"]
    out = folder / "gram.safetensors"
    arguments += ["--model", str(folder / "model"), "--data", str(folder / "reviews.csv")]
    assert main(["kernel", "gram", *arguments, "--out", str(out)]) == 0
    assert read_tensors(out)[0]["kernel"].shape == (1, 7, 7)
    assert "reviews: 7 rows of 7" in capsys.readouterr().err


@pytest.mark.parametrize("ones", [[11], [3, 4]])
@pytest.mark.parametrize("count", [4, 30])
def test_a_kernel_of_all_rows_needs_no_division(ones, count, folder):
    """A class of one row, and a file of four, go as they are, in the file's order."""
    ones = [i % count for i in ones]
    rows = [f"a text of number {i},{'spam' if i in ones else 'ham'}" for i in range(count)]
    (folder / "reviews.csv").write_text("\n".join(["review,kind", *rows]))
    arguments = ["--label-column", "kind", "--classes", "ham", "spam", "--text-column", "review"]
    arguments += ["--model", str(folder / "model"), "--data", str(folder / "reviews.csv")]
    out = folder / "gram.safetensors"
    assert main(["kernel", "gram", *arguments, "--device", "cpu", "--out", str(out)]) == 0
    tensors, _ = read_tensors(out)
    assert tensors["kernel"].shape == (1, count, count)
    assert sorted(tensors["row"][tensors["label"] == 1].tolist()) == sorted(ones)


def test_two_labels_are_two_classes(folder):
    flags = ("--label-column", "good", "--classes", "no", "yes")
    assert from_file(folder, *flags) == 0
    first, facts = read_tensors(folder / "gram.safetensors")
    assert facts["function"] == "difference"
    assert set(first["label"][0].tolist()) == {0, 1}
    assert from_file(folder, *flags, "--seed", "1") == 0
    other, _ = read_tensors(folder / "gram.safetensors")
    assert other["row"].tolist() != first["row"].tolist()


@pytest.mark.parametrize("named", [["0", "1", "2"], []])
def test_classes_are_named_or_all_that_are_there(named, folder):
    lines = (folder / "reviews.csv").read_text().splitlines()
    lines = [f"{line},{'kind' if i == 0 else i % 3}" for i, line in enumerate(lines)]
    (folder / "reviews.csv").write_text("\n".join(lines))
    assert from_file(folder, "--label-column", "kind", "--classes", *named) == 0
    tensors, facts = read_tensors(folder / "gram.safetensors")
    assert facts["function"] == "mean"
    assert facts["task"]["classes"] == ["0", "1", "2"]
    assert set(tensors["label"][0].tolist()) == {0, 1, 2}
    assert tensors["outputs"].shape[2] == 3


def test_label_words_and_signs(folder):
    flags = ("--label-column", "good", "--classes", "no", "yes", "--dtype", "float64")
    assert from_file(folder, *flags) == 0
    fresh, _ = read_tensors(folder / "gram.safetensors")
    assert from_file(folder, *flags, "--label-words", "a", "number") == 0
    words, facts = read_tensors(folder / "gram.safetensors")
    assert len(set(facts["label_words"])) == 2
    assert facts["variant"] == "sgd"
    assert "model.embed_tokens.weight" not in facts["kernel"][0]["general"]
    assert not torch.allclose(words["kernel"], fresh["kernel"])
    assert from_file(folder, *flags, "--variant", "signgd") == 0
    signs, facts = read_tensors(folder / "gram.safetensors")
    assert facts["variant"] == facts["kernel"][0]["variant"] == "signgd"
    assert (signs["kernel"] - signs["kernel"].round()).abs().max() < 1e-9  # counts of signs


def test_classes_are_named_as_they_stand_in_the_file_or_as_numbers():
    """A program may write 1.0 for the class 1."""
    args = argparse.Namespace(classes=["0.0", "1"], data="a.csv", label_column="label")
    kernel._check_labels(args, {label_name(cell) for cell in ("0.0", "1.0", "1")})
    with pytest.raises(UserError, match=r"no row of a.csv has '1' in .* which holds '0', '2'"):
        kernel._check_labels(args, {label_name(cell) for cell in ("0", "2.0")})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label-column", "stars", "--label-words", "a", "of"], "--label-words needs two"),
        (
            [
                *("--label-column", "good", "--classes", "no", "yes"),
                *("--label-words", "number", "number 1"),
            ],
            "begin with the same token",
        ),
        (["--label-column", "sters"], "name the file's own with --text-column, --second-text-"),
        (["--data", "my/reviews.csv"], "my/reviews.csv does not exist (there is no folder my in "),
        (["--data", "/"], "--data / is a folder; give one file"),
        (["--label-column", "stars", "--batch-tokens", "0"], "--batch-tokens is 0"),
        (["--label-column", "mark"], "mark"),
        (["--label-column", "good"], "holds no score but 'no', 'yes'; for classes give"),
        (["--label-column", "good", "--classes", "no", "sure"], "has 'sure' in the column good"),
        (["--label-column", "stars", "--rows", "99"], "--rows is 99, but"),
        (["--label-column", "stars", "--rows", "1"], "--rows is 1: must be at least 4"),
        (["--label-column", "good", "--classes", "no"], "--classes no: give two labels or more"),
        (["--label-column", "stars", "--out", "/"], "--out / is a folder"),
        (["--label-column", "stars", "--max-tokens", "65"], "max_tokens is 65"),
        (
            ["--label-column", "stars", "--model", "/"],
            "/ is no model folder: config.json is m",
        ),
        (["--label-column", "stars", "--template", "none"], "template is 'none'"),
    ],
)
def test_a_mistake_with_a_file_is_one_clear_error(flags, message, folder, capsys):
    assert from_file(folder, *flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ntktune kernel gram: error: ")
    assert message in error
    assert not (folder / "gram.safetensors").exists()
