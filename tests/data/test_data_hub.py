"""The hub: the real client against a hub of our own on the loopback interface."""

import json
import os
import re
import subprocess
import sys

import preloaded
import pytest
import torch
from loopback_hub import COMMIT, loopback_hub
from safetensors.torch import load_file
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from ntktune.__main__ import main
from ntktune.data.pretrained import byte_tokenizer
from ntktune.store.records import read_json, read_table
from ntktune.store.tensors import read_tensors


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with one model (also as a pickle), one model without safetensors, one data set."""
    root = tmp_path_factory.mktemp("hub")
    config = GPTNeoConfig(
        vocab_size=257,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=32,
    )
    torch.manual_seed(1)
    GPTNeoForCausalLM(config).save_pretrained(root / "model")
    byte_tokenizer().save_pretrained(root / "model")
    (root / "model" / "pytorch_model.bin").write_bytes(b"must never be fetched")
    (root / "model" / "code.py").write_text("raise RuntimeError")
    (root / "model" / "onnx").mkdir()
    (root / "model" / "onnx" / "model.safetensors").write_bytes(b"another format")
    (root / "pickled").mkdir()
    config.save_pretrained(root / "pickled")
    (root / "pickled" / "pytorch_model.bin").write_bytes(b"must never be fetched")
    (root / "data").mkdir()
    for split, count in (("train", 200), ("validation", 40)):
        rows = [{"text": f"{split} {i}", "label": i % 2, "extra": [i]} for i in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "data" / f"{split}.jsonl").write_text(text)
    (root / "data" / "README.md").write_text("---\nlicense: mit\n---\n")
    (root / "words").mkdir()
    words = ["null", "None", "NA", "nan", "n/a", *(f"word {i}" for i in range(20))]
    for split in ("train", "test"):
        text = "".join(f"{word} of {split},{i % 2}.0\n" for i, word in enumerate(words))
        text = text.replace(" of train", "") + '"a \\"quoted\\" text",1\n'
        (root / "words" / f"{split}.csv").write_text(f"text,label,\n{text}")
    repositories = {
        ("model", "us/tiny"): root / "model",
        ("model", "us/pickled"): root / "pickled",
        ("dataset", "us/sentences"): root / "data",
        ("dataset", "us/words"): root / "words",
    }
    faults = {}
    with loopback_hub(repositories, faults) as (endpoint, seen):
        yield root, endpoint, seen, faults


@pytest.fixture
def faults(hub):
    """What the hub does wrong, for one test."""
    yield hub[3]
    hub[3].clear()


@pytest.fixture
def run(hub, tmp_path):
    """Run a command in a process of its own: the hub's address is read at import."""
    _, endpoint, seen, _ = hub
    seen.clear()
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache")}
    dropped = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN")
    environment = {k: v for k, v in os.environ.items() if k not in dropped} | settings
    environment |= preloaded.environment("ntktune", hub=True)

    def run_command(*args, chapter="data", **changes):
        done = subprocess.run(
            [sys.executable, "-m", "ntktune", chapter, *args],
            env=environment | changes,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    return run_command


def _model(repository, revision="main"):
    return json.dumps({"name": "tiny", "hub": {"id": repository, "revision": revision}})


def _task(hub_keys=None, **changes):
    source = {"id": "us/sentences", "revision": "main"} | (hub_keys or {})
    task = {"title": "S", "kind": "classification", "classes": ["even", "odd"]}
    task |= {"splits": {"test": ["validation"]}, "sources": [{"hub": source}]}
    return json.dumps(task | changes)


def test_a_model_comes_from_the_hub_with_its_commit_and_without_pickles(hub, run, tmp_path):
    root, _, seen, _ = hub
    status, said = run("fetch-model", "--source", _model("us/tiny"), "--out", str(tmp_path / "m"))
    assert status == 0, said
    facts = read_json(tmp_path / "m" / "model.json")
    assert facts["revision"] == COMMIT
    assert facts["origin"] == {"source": "hub", "id": "us/tiny", "revision": "main"}
    theirs = load_file(root / "model" / "model.safetensors")
    ours = load_file(tmp_path / "m" / "model.safetensors")
    assert all(torch.equal(w, theirs[f"transformer.{name}"]) for name, w in ours.items())
    fetched = {path.rsplit("/", 1)[-1] for path in seen if path.startswith("GET us/tiny/resolve")}
    assert fetched == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not any("onnx" in path for path in seen if "resolve" in path)


def test_a_file_that_comes_with_another_checksum_is_fetched_again(hub, run, faults, tmp_path):
    command = ("fetch-model", "--source", _model("us/tiny"), "--out", str(tmp_path / "m"))
    faults["damaged"] = ["model.safetensors", "tokenizer.json"]
    for name in list(faults["damaged"]):
        status, said = run(*command)
        assert status == 1
        assert re.search(
            rf"{name} came with the checksum \w+, but the hub states \w+; it was", said
        )
        assert "run the same command again" in said
        assert not (tmp_path / "m").exists()
    status, said = run(*command)
    assert status == 0, said
    ours = load_file(tmp_path / "m" / "model.safetensors")
    theirs = load_file(hub[0] / "model" / "model.safetensors")
    assert all(torch.equal(w, theirs[f"transformer.{name}"]) for name, w in ours.items())


def test_a_model_without_safetensors_is_refused(run, tmp_path):
    out = tmp_path / "m"
    status, said = run("fetch-model", "--source", _model("us/pickled", COMMIT), "--out", str(out))
    assert status == 1
    assert "has no safetensors weights" in said
    assert len(said.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("repository", "revision", "endpoint", "reason"),
    [
        ("us/tiny", "v9", None, "Revision Not Found"),
        ("us/tiny", "main", "http://127.0.0.1:9", "Connection refused"),
    ],
)
def test_a_model_that_cannot_be_had_is_told_in_one_line(
    run, tmp_path, repository, revision, endpoint, reason
):
    source = _model(repository, revision)
    changes = {"HF_ENDPOINT": endpoint} if endpoint else {}
    status, said = run("fetch-model", "--source", source, "--out", str(tmp_path / "m"), **changes)
    assert status == 1
    assert f"the model {repository} at {revision} cannot be fetched from the hub: " in said
    assert reason in said
    assert len(said.splitlines()) == 1


def test_a_task_comes_from_the_hub_and_offline_from_its_cache(run, tmp_path):
    out = tmp_path / "table.parquet"
    command = ["fetch-task", "--name", "s", "--out", str(out), "--definition"]
    status, said = run(*command, _task(limits={"train": 50}))
    assert status == 0, said
    table, provenance = read_table(out)
    assert provenance["origin"]["commit"] == COMMIT
    counts = provenance["counts"]
    assert counts["train"]["read"] == 200
    assert counts["train"]["kept"] == 50
    assert counts["train"]["beyond_limit"] == 150
    assert counts["test"]["kept"] == 40
    assert set(table["label"]) == {0, 1}
    assert said.splitlines()[-1] == (
        "s (hub): train 50 rows of 200 (150 beyond limit); test 40 rows of 40"
    )
    # and offline; the rows of the smaller limit are among those of the larger one
    pinned = _task({"revision": COMMIT}, limits={"train": 120})
    status, said = run(*command, pinned, HF_HUB_OFFLINE="1")
    assert status == 0, said
    assert set(table["text_a"]) < set(read_table(out)[0]["text_a"])


def test_the_same_rows_come_from_the_hub_and_from_its_files(run, hub, tmp_path):
    """One reader for one format: words such as "null" are texts, wherever they come from."""
    files = {split: str(hub[0] / "words" / f"{split}.csv") for split in ("train", "test")}
    revision = {"id": "us/words", "revision": COMMIT}
    sources = {"hub": {"hub": revision}, "files": {"files": files}}
    checksums = set()
    for kind, source in (*sources.items(), ("offline", sources["hub"])):
        out = tmp_path / f"{kind}.parquet"
        task = json.dumps({"title": "W", "kind": "classification", "classes": ["no", "yes"]}
                          | {"sources": [source]})  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1"} if kind == "offline" else {}
        command = ("fetch-task", "--name", "w", "--definition", task, "--out", str(out))
        status, said = run(*command, **offline)
        assert status == 0, said
        table, provenance = read_table(out)
        assert {"null", "None", "NA", "nan", "n/a", 'a "quoted" text'} < set(table["text_a"])
        checksums.add(provenance["data_sha256"])
    assert len(checksums) == 1


def test_a_data_file_that_comes_with_another_checksum_is_fetched_again(run, faults, tmp_path):
    """A flipped bit can leave a file that reads well, with another label."""
    out = tmp_path / "table.parquet"
    command = ("fetch-task", "--name", "s", "--definition", _task(), "--out", str(out))
    faults["damaged"] = ["train.jsonl", "validation.jsonl"]
    for name in list(faults["damaged"]):
        status, said = run(*command)
        assert status == 1
        assert re.search(rf"{name} came with the checksum \w+, but the hub states \w+; it", said)
        assert not out.exists()
    status, said = run(*command)
    assert status == 0, said
    table = read_table(out)[0]
    assert len(table) == 240
    assert (table["label"] == table["text_a"].str.split().str[1].astype(int) % 2).all()


def test_a_hub_in_trouble_is_asked_again_and_not_passed_over(run, faults, tmp_path):
    out = tmp_path / "table.parquet"
    sources = [
        {"hub": {"id": "us/sentences", "revision": "main"}},
        {"generated": {"rows": {"train": 20, "test": 20}}},
    ]
    command = ("fetch-task", "--name", "s", "--definition", _task(sources=sources))
    faults["failing"] = 20
    status, said = run(*command, "--out", str(out))
    assert status == 1
    assert "us/sentences at main cannot be fetched from the hub: " in said
    assert "503" in said
    assert "try again" in said
    assert len(said.splitlines()) == 1
    assert not out.exists()
    # it fails only when its files are asked for
    faults.clear()
    faults["failing_files"] = 20
    status, said = run(*command, "--out", str(out))
    assert status == 1
    assert "us/sentences at main cannot be loaded: " in said
    assert not out.exists()
    faults.clear()
    status, said = run(*command, "--out", str(out))
    assert status == 0, said
    assert read_table(out)[1]["origin"]["source"] == "hub"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (_task(splits={"test": ["tset"]}), "no split 'tset'; it has train, validation; correct"),
        (_task(columns={"text_a": "sentence"}),
         "us/sentences, train.jsonl has no column 'sentence' (text_a); its columns are text, "),
    ],
)  # fmt: skip
def test_a_mistake_about_a_data_set_is_told(run, tmp_path, task, message):
    out = tmp_path / "table.parquet"
    status, said = run("fetch-task", "--name", "s", "--definition", task, "--out", str(out))
    assert status == 1
    assert message in said.splitlines()[-1]
    assert not out.exists()


def test_without_the_hub_the_next_source_is_used(run, tmp_path):
    out = tmp_path / "table.parquet"
    sources = [
        {"hub": {"id": "us/sentences", "revision": "main"}},
        {"generated": {"rows": {"train": 20, "test": 20}}},
    ]
    task = _task(sources=sources)
    command = ["fetch-task", "--name", "s", "--definition", task, "--out", str(out)]
    status, said = run(*command, HF_ENDPOINT="http://127.0.0.1:9")
    assert status == 0, said
    origin = read_table(out)[1]["origin"]
    assert origin["source"] == "generated"
    assert origin["passed_over"][0]["source"] == "hub"
    assert "Connection refused" in origin["passed_over"][0]["reason"]
    assert "s: source hub passed over: us/sentences at main cannot be fetched from the hub" in said


def _gram(tmp_path, model, *more):
    (tmp_path / "scores.csv").write_text("text,label\n" + "".join(f"a {i},{i}\n" for i in range(9)))
    words = ["gram", "--model", str(model), *more, "--data", str(tmp_path / "scores.csv")]
    return [*words, "--max-tokens", "8", "--out", str(tmp_path / "gram.safetensors")]


def test_commands_without_a_study_take_a_model_of_the_hub(hub, run, tmp_path):
    root, _, seen, _ = hub
    status, said = run(*_gram(tmp_path, "us/tiny", "--revision", COMMIT), chapter="kernel")
    assert status == 0, said
    assert f"model us/tiny of the hub, commit {COMMIT}" in said
    found, facts = read_tensors(tmp_path / "gram.safetensors")
    assert facts["model"] == {"name": "us/tiny", "revision": COMMIT, "sha256": None}
    assert main(["kernel", *_gram(tmp_path, root / "model")]) == 0
    assert torch.equal(found["kernel"], read_tensors(tmp_path / "gram.safetensors")[0]["kernel"])

    seen.clear()
    words = ["plan", "--model", "us/tiny", "--lengths", "9", "32", "--tflops", "1"]
    status, said = run(*words, chapter="kernel", HF_HOME=f"{tmp_path}/new")
    assert status == 0, said
    assert {path for path in seen if "safetensors" in path or "tokenizer" in path} == set()

    out = tmp_path / "exported"
    status, said = run("export", "--model", "us/tiny", "--out", str(out), chapter="taskvectors")
    assert status == 0, said
    assert read_json(out / "merge.json")["model"]["revision"] == COMMIT
    theirs = load_file(root / "model/model.safetensors")
    for name, weight in load_file(out / "model.safetensors").items():
        assert torch.equal(weight, theirs[f"transformer.{name}"])


def test_a_model_that_is_neither_a_folder_nor_on_the_hub_is_told_as_missing(run, tmp_path):
    status, said = run(*_gram(tmp_path, "us/none"), chapter="kernel")
    assert status == 1
    assert "--model us/none: there is no such folder, and the model us/none at main can" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["kernel gram", "kernel plan", "taskvectors export"])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/none/model", "/none/model does not exist (there is no folder /none); correct --model"),
        ("./model", "correct --model, or give an id of the hub (owner/name)"),
        ("a/model/folder", "a/model/folder does not exist (there is no folder a in "),
        ("file", "--model file is a file; give the model's folder"),
        ("", "--model is empty; give a model's folder"),
        ("here", "--revision v1 is for models of the hub, but --model here is a folder; leave"),
    ],
)
def test_a_missing_model_folder_is_told_without_the_hub(
    command, model, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    words = [*command.split(), *_gram(tmp_path, model)[1:]] if command == "kernel gram" else None
    words = words or [*command.split(), "--model", model, *["--out", "new"] * ("export" in command)]
    assert main([*words, *["--revision", "v1"] * (model == "here")]) == 1
    assert message in capsys.readouterr().err
