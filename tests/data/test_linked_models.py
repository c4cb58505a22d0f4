"""The weights of a user's own folder are linked, and give the numbers that converted ones give."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_study import tuning_flags, write_task
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from ntktune.__main__ import main
from ntktune.data import pretrained
from ntktune.data.pretrained import byte_tokenizer
from ntktune.errors import UserError
from ntktune.network.models import load_backbone
from ntktune.store.files import file_sha256
from ntktune.store.records import read_json, read_table
from ntktune.store.tensors import read_tensors

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 257,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
LLAMA = SMALL | {"model_type": "llama", "tie_word_embeddings": False}
NEO = SMALL | {"model_type": "gpt_neo", "num_layers": 2, "num_heads": 2}
NEO |= {"attention_types": [[["global", "local"], 1]]}
MIXTRAL = SMALL | {"model_type": "mixtral", "num_local_experts": 2, "num_key_value_heads": 2}
BERT = SMALL | {"model_type": "bert"}


def _save(kind, content, folder, dtype=torch.float32, **how):
    torch.manual_seed(0)
    model = kind.from_config(AutoConfig.for_model(**content))
    model.to(dtype).save_pretrained(folder, **how)
    byte_tokenizer().save_pretrained(folder)


def _language_head(folder):
    _save(AutoModelForCausalLM, LLAMA, folder, torch.bfloat16)


def _classifier(folder):
    _save(AutoModelForSequenceClassification, NEO, folder, torch.float16)


def _shards(folder):
    _save(AutoModelForCausalLM, LLAMA, folder, max_shard_size="12KB")


def _shards_of_bfloat16(folder):
    _save(AutoModelForSequenceClassification, BERT, folder, torch.bfloat16, max_shard_size="12KB")


def _masked(folder):
    """Without a pooler, and with names of old, which transformers changes while it loads."""
    _save(AutoModelForMaskedLM, BERT, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    assert any("gamma" in key for key in tensors)
    save_file(tensors, file, {"format": "pt"})


def _experts(folder):
    """Each expert's weights apart, which transformers joins."""
    _save(AutoModelForCausalLM, MIXTRAL, folder, torch.bfloat16)


KINDS = [_language_head, _classifier, _shards, _shards_of_bfloat16, _masked, _experts]


def _run(*words):
    assert main([str(word) for word in words]) == 0


def _fetch(out, own):
    source = {"name": "own", "folder": str(own)}
    _run("data", "fetch-model", "--source", json.dumps(source), "--out", out)


def _numbers(study):
    """Return what a study's chapters make of the model in its folder."""
    facts = read_json(study / "model/model.json")
    write_task(study, "a", "regression", {k: facts[k] for k in ("name", "revision", "sha256")})
    (study / "a.csv").write_text(
        "\n".join(["stars,text", *(f"{i % 3},number {i}" for i in range(9))])
    )
    gram, model = study / "gram.safetensors", ("--model", study / "model")
    columns = ("--text-column", "text", "--label-column", "stars")
    _run("kernel", "gram", *model, "--data", study / "a.csv", *columns, "--device", "cpu",
         "--out", gram)  # fmt: skip
    made = {"gram": read_tensors(gram)[0]}
    flags = tuning_flags(study, "a", max_epochs=1)
    files = [study / f"{i}.safetensors" for i in (0, 1)]
    _run("taskvectors", "tune", *flags, "--store", "bfloat16", "--out", *files)
    _run("taskvectors", "cosine", *model, "--weights", *files, "--out", study / "c.parquet")
    _run("taskvectors", "export", *model, "--weights", *files, "--out", study / "merged")
    made |= {file.stem: read_tensors(file)[0] for file in files}
    cosines = read_table(study / "c.parquet")[0]["cosine"].to_numpy()
    made["cosines"] = {"all": torch.tensor(cosines)}
    (merged,) = (study / "merged").glob("*.safetensors*")
    made["merged"] = load_file(merged)
    made["merged as loaded"] = load_backbone(study / "merged").state_dict()
    for dtype in (torch.float32, torch.float64):
        for blocks in (None, 1):
            made[f"{dtype} {blocks}"] = load_backbone(study / "model", blocks, dtype).state_dict()
    return made


@pytest.mark.parametrize("write", KINDS)
def test_linked_weights_give_the_numbers_of_converted_ones(write, tmp_path, monkeypatch):
    own = tmp_path / "own"
    write(own)
    before = {file: (file_sha256(file), file.stat().st_mtime_ns) for file in own.iterdir()}
    _fetch(tmp_path / "linked/model", own)
    monkeypatch.setattr(pretrained, "_link", lambda *_: False)
    _fetch(tmp_path / "converted/model", own)
    weights = sorted(own.glob("*.safetensors*"))
    for file in weights:
        assert (tmp_path / "linked/model" / file.name).resolve() == file
    linked, converted = (_numbers(tmp_path / name) for name in ("linked", "converted"))
    assert linked.keys() == converted.keys()
    for what, tensors in converted.items():
        assert linked[what].keys() == tensors.keys(), what
        for name, tensor in tensors.items():
            torch.testing.assert_close(
                linked[what][name], tensor, rtol=0, atol=0, equal_nan=True, msg=f"{what} {name}"
            )
    # of common kinds next to nothing is copied
    taken = [f for f in (tmp_path / "linked/model").glob("*.safetensors") if not f.is_symlink()]
    assert bool(taken) == (write in (_masked, _experts))
    after = {file: (file_sha256(file), file.stat().st_mtime_ns) for file in own.iterdir()}
    assert after == before


def test_label_words_find_the_language_head_of_linked_weights(tmp_path):
    _language_head(tmp_path / "own")
    _fetch(tmp_path / "model", tmp_path / "own")
    head = load_backbone(tmp_path / "model", language_head=True).lm_head.weight
    stored = load_file(tmp_path / "own/model.safetensors")["lm_head.weight"]
    assert torch.equal(head, stored.float())


@pytest.mark.parametrize("write", [_language_head, _shards])
def test_linked_weights_that_changed_are_told(write, tmp_path, capsys):
    write(tmp_path / "own")
    _fetch(tmp_path / "model", tmp_path / "own")
    before = read_json(tmp_path / "model/model.json")["sha256"]
    file = sorted((tmp_path / "own").glob("*.safetensors"))[-1]
    tensors = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    command = ["taskvectors", "export", "--model", str(tmp_path / "model")]
    assert main([*command, "--out", str(tmp_path / "x")]) == 1
    said = capsys.readouterr().err
    assert f"{file.name} does not match the checksum in model.json" in said
    with pytest.raises(Exception, match="does not match the checksum"):
        load_backbone(tmp_path / "model")
    _fetch(tmp_path / "model", tmp_path / "own")
    assert read_json(tmp_path / "model/model.json")["sha256"] != before


def _float64(folder):
    _save(AutoModelForCausalLM, LLAMA, folder, torch.float64)


def _shards_of_other_names(folder, write=_shards):
    """An index may name any file: what a link of that name could hit is not written."""
    write(folder)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = sorted(set(content["weight_map"].values()))[0]
    (folder / shard).rename(folder.parent / "converted.safetensors")
    moved = {
        n: f.replace(shard, "../converted.safetensors") for n, f in content["weight_map"].items()
    }
    index.write_text(json.dumps(content | {"weight_map": moved}))


def _bfloat16_of_other_names(folder):
    _shards_of_other_names(folder, _shards_of_bfloat16)


@pytest.mark.parametrize(
    ("write", "dtype"),
    [
        (_float64, torch.float32),
        (_shards_of_other_names, torch.float32),
        (_bfloat16_of_other_names, torch.bfloat16),
    ],
)
def test_weights_that_links_cannot_stand_for_are_converted(write, dtype, tmp_path):
    write(tmp_path / "own")
    before = {f: file_sha256(f) for f in tmp_path.rglob("*.safetensors")}
    _fetch(tmp_path / "model", tmp_path / "own")
    assert [file.name for file in (tmp_path / "model").glob("*.safetensors*")] == [
        "model.safetensors"
    ]
    assert not (tmp_path / "model/model.safetensors").is_symlink()
    assert {t.dtype for t in load_file(tmp_path / "model/model.safetensors").values()} == {dtype}
    assert {f: file_sha256(f) for f in before} == before


@pytest.mark.parametrize("content", ['{"weight', "{}", "[]"])
def test_an_index_that_is_damaged_is_one_line(content, tmp_path, capsys):
    _shards(tmp_path / "own")
    (tmp_path / "own/model.safetensors.index.json").write_text(content)
    source = json.dumps({"name": "own", "folder": str(tmp_path / "own")})
    assert main(["data", "fetch-model", "--source", source, "--out", str(tmp_path / "m")]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "cannot be read" in x]
    assert f"the model in {tmp_path / 'own'} cannot be read" in line
    with pytest.raises(UserError, match="cannot be read"):
        load_backbone(tmp_path / "own", stream_to=torch.device("cpu"))
    assert not (tmp_path / "m").exists()
