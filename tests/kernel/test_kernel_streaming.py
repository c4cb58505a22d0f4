"""Weights that stay in their files: the same bits, in less memory, and clear errors."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from ntktune.errors import UserError
from ntktune.kernel.engine import gram
from ntktune.network import matmul, streaming
from ntktune.network.models import label_word_model, text_model
from ntktune.network.streaming import StoredParameter, reader_of

CPU = torch.device("cpu")
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 60,
    "max_position_embeddings": 64,
}
KINDS = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8},  # tables in the files' precision
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "bert": {},
    "gpt_neo": {"num_layers": 3, "num_heads": 4, "attention_types": [[["global"], 3]]},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return a function that writes a tiny bfloat16 model in one file or many, once."""
    made = {}

    def folder(kind, *, sharded=True):
        if (kind, sharded) not in made:
            path = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            model = AutoModel.from_config(AutoConfig.for_model(kind, **COMMON | KINDS[kind]))
            for parameter in model.parameters():
                parameter.data += 0.05 * torch.randn_like(parameter)
            size = "20KB" if sharded else "1GB"
            model.to(torch.bfloat16).save_pretrained(path, max_shard_size=size)
            made[kind, sharded] = path
        return made[kind, sharded]

    return folder


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, 60, (n,), generator=generator) for n in (5, 9, 12, 17, 3)]


def both(folder, texts, outputs=1, dtype=torch.float32, **how):
    """The kernel of the whole model in memory, and of one whose weights stay in their files."""
    about = {"outputs": outputs, "head_seed": 0, "dtype": dtype}
    found = []
    for more in ({}, {"stream_to": CPU}):
        found.append(gram(text_model(folder, **about, **more), texts, dtype=dtype, **how))
    return found


def assert_same(resident, streamed):
    assert torch.equal(resident.kernel, streamed.kernel)
    assert torch.equal(resident.outputs, streamed.outputs)
    for name, group in resident.groups.items():
        assert torch.equal(group, streamed.groups[name]), name
    for fact in ("passes", "forms", "general", "without_gradient"):
        assert resident.provenance[fact] == streamed.provenance[fact]
    assert streamed.provenance["self_check"]["largest_relative_error"] < 1e-5
    assert "streamed_bytes" not in resident.provenance


@pytest.mark.parametrize("room", [None, 2000.0], ids=["whole", "by block"])
@pytest.mark.parametrize("kind", [*KINDS, "llama in one file"])
def test_the_bits_are_those_of_the_model_in_memory(kind, room, folders, texts):
    sharded = " " not in kind
    folder = folders(kind.split()[0], sharded=sharded)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == sharded
    resident, streamed = both(folder, texts, max_bytes=room)
    assert_same(resident, streamed)
    assert (streamed.provenance["passes"] == "block by block") == (room is not None)


@pytest.mark.parametrize(
    "how",
    [
        {"variant": "signgd"},
        {"outputs": "full"},
        {"outputs": "mean"},
        {"max_tokens": 20, "max_bytes": 2000.0},
        {"chunk_bytes": 9_000.0, "max_bytes": 2000.0},
        {"dtype": torch.float64},
    ],
)
def test_any_setting_has_the_same_bits(how, folders, texts):
    count = 3 if "outputs" in how else 1
    about = {"outputs": count, "head_seed": 0, "dtype": how.get("dtype", torch.float32)}
    found = [
        gram(text_model(folders("llama"), **about, **more), texts, **how)
        for more in ({}, {"stream_to": CPU})
    ]
    assert_same(*found)


def test_parameters_without_a_rule_have_their_gradients_in_full(folders, texts, monkeypatch):
    # scales then go the general way, of which a gradient in bfloat16 would have two digits
    monkeypatch.setattr("ntktune.kernel.plan._is_scale", lambda call: False)
    resident, streamed = both(folders("llama"), texts)
    assert len(resident.provenance["general"]) == 7
    assert_same(resident, streamed)


def test_products_of_onednn_take_converted_weights(folders, texts, monkeypatch):
    monkeypatch.setattr(matmul, "PLAIN_LAYERS", False)
    assert_same(*both(folders("llama"), texts, max_bytes=2000.0))


def test_the_kernel_is_that_of_the_stored_weights(folders, texts, reference):
    streamed = both(folders("llama"), texts, dtype=torch.float64)[1]
    model = text_model(folders("llama"), outputs=1, head_seed=0, dtype=torch.float64)
    expected, values = reference(model, texts)
    torch.testing.assert_close(streamed.kernel, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(streamed.outputs, values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("names", ["with a prefix", "without"])
def test_each_weight_keeps_the_precision_of_its_file(names, folders, texts, tmp_path):
    folder = shutil.copytree(folders("llama", sharded=False), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if "norm" in name:
            weights[name] = 1 + 0.1 * torch.randn(weight.shape, generator=generator)
    if names == "with a prefix":  # and a head, which the kernel has no use for
        weights = {f"model.{name}": weight for name, weight in weights.items()}
        weights["lm_head.weight"] = torch.zeros(60, 32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert_same(*both(folder, texts))


def test_a_weight_of_another_precision_and_name_is_one_line(folders, tmp_path):
    folder = shutil.copytree(folders("bert", sharded=False), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): w for name, w in weights.items()}
    old["embeddings.LayerNorm.gamma"] = old["embeddings.LayerNorm.gamma"].float()
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"gamma in .* is torch.float32, most weights are torch.bf"):
        text_model(folder, outputs=1, head_seed=0, stream_to=CPU)
    text_model(folder, outputs=1, head_seed=0)


def test_other_columns_and_label_words(folders, texts, tmp_path):
    from transformers import AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **COMMON | KINDS["llama"], tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    found = []
    for more in ({}, {"stream_to": CPU}):
        model = label_word_model(tmp_path, [3, 7], **more)
        found.append(gram(model, texts[:3], texts[3:], outputs="difference", max_bytes=2000.0))
    assert_same(*found)


def test_one_block_is_converted_at_a_time(folders, texts, monkeypatch):
    monkeypatch.setattr("ntktune.network.streaming.LEAST_KEPT", 0)
    model = text_model(folders("llama"), outputs=1, head_seed=0, stream_to=CPU)
    assert all(isinstance(p, StoredParameter) for p in model.backbone.parameters())
    reader = reader_of(model.parameters())
    block = sum(p.numel() * 4 for p in model.backbone.layers[0].parameters())
    assert reader.most == block
    largest, plain = [], reader.values
    monkeypatch.setattr(reader, "values", lambda one: (largest.append(reader.bytes), plain(one))[1])
    found = gram(model, texts, max_bytes=2000.0, max_tokens=10)
    assert max(largest) <= block
    assert (reader.bytes, reader.kept, reader.owners, reader.leaves) == (0, {}, {}, {})
    whole = sum(p.numel() * 2 for p in model.backbone.parameters())
    # of four micro-batches: once forward and once back, and the trials on two texts
    assert found.provenance["micro_batches"] == 4
    assert found.provenance["streamed_bytes"] < 12 * whole
    assert all(p.data.dtype == torch.bfloat16 for p in model.backbone.parameters())


def test_the_next_block_is_read_ahead_on_both_ways(folders, texts, monkeypatch):
    model = text_model(folders("llama"), outputs=1, head_seed=0, stream_to=CPU)
    reader, read = reader_of(model.parameters()), []
    reader.block = -1  # a trial has run the whole network
    numbers = {id(block): number for number, block in enumerate(reader.blocks)}
    monkeypatch.setattr(
        streaming.threading.Thread,
        "start",
        lambda thread: (read.extend(map(numbers.get, map(id, thread._args))), thread.run()),
    )
    with torch.no_grad():
        for block in (0, 1, 2, 1, 0):
            reader.clear()  # of this tiny model all would be kept
            model.backbone.layers[block].mlp.gate_proj(torch.ones(1, 32))
    assert read == [1, 2, 0]


def test_a_model_read_for_another_precision_is_one_line(folders, texts):
    model = text_model(folders("llama"), outputs=1, head_seed=0, stream_to=CPU)
    with pytest.raises(UserError, match=r"read from their files as torch.float32 on cpu; load it"):
        gram(model, texts, dtype=torch.float64)
    with pytest.raises(UserError, match="cannot be trained"):
        model(texts[0][None], torch.ones_like(texts[0])[None]).sum().backward()


@pytest.mark.parametrize("fault", ["changed", "removed", "cut"])
def test_a_file_that_changes_while_it_is_read_is_one_line(fault, tmp_path, texts):
    AutoModel.from_config(AutoConfig.for_model("llama", **COMMON)).save_pretrained(tmp_path)
    model = text_model(tmp_path, outputs=1, head_seed=0, stream_to=CPU)
    file = tmp_path / "model.safetensors"

    def spoil(fraction):
        if fault == "removed":
            file.unlink(missing_ok=True)
        elif fault == "cut":
            os.truncate(file, 100)
        else:
            os.utime(file, (1, 1))

    said = "cannot be read: No such file" if fault == "removed" else "was changed while"
    with pytest.raises(UserError, match=f"{file}.* {said}"):
        gram(model, texts, max_bytes=2000.0, progress=spoil)


def test_a_missing_shard_is_one_line(folders, tmp_path):
    import shutil

    shutil.copytree(folders("llama"), tmp_path / "model")
    sorted((tmp_path / "model").glob("*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match=r"model-00002-of-\d+.safetensors"):
        text_model(tmp_path / "model", outputs=1, head_seed=0, stream_to=CPU)
