"""Kernels of many architectures, in all ways in which one is computed."""

import copy
import functools
import tempfile
from unittest import mock

import torch
from torch import nn

from ntktune.kernel import engine, gram
from ntktune.network.models import LabelWordModel, TextModel, described_configuration
from ntktune.network.models import text_model as pretrained

WIDTHS = {"vocab_size": 50, "hidden_size": 16, "initializer_range": 0.2}
USUAL = WIDTHS | {"num_hidden_layers": 2, "num_attention_heads": 2}
WIDER = USUAL | {"intermediate_size": 24, "max_position_embeddings": 32}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
MODELS = {
    "bert": WIDER,
    "bloom": WIDTHS | {"n_layer": 2, "n_head": 2},
    "gpt2": GPT2,
    "gpt_neo": WIDTHS
    | {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
    | {"window_size": 4, "max_position_embeddings": 32},
    "gpt_neox": WIDER,
    "llama": WIDER | {"num_key_value_heads": 1, "pad_token_id": 0},
    "opt": USUAL
    | {"ffn_dim": 24, "max_position_embeddings": 32, "word_embed_proj_dim": 16, "pad_token_id": 0},
    "qwen2": WIDER | {"num_key_value_heads": 1},
    "roberta": WIDER | {"pad_token_id": 0},
}


@functools.cache
def backbone(name):
    """Return a random backbone without zeros or ones, which would hide mistakes."""
    from transformers import AutoModel

    torch.manual_seed(0)
    made = AutoModel.from_config(described_configuration({"model_type": name} | MODELS[name]))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made.eval()


def text_model(name, outputs=1):
    return TextModel(backbone(name), outputs, torch.Generator().manual_seed(0)).eval()


class Bare(nn.Module):
    """A network with a parameter that is no layer's, a layer called twice, and a padding id."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 12, padding_idx=7)
        self.linear, self.head = nn.Linear(12, 12), nn.Linear(12, 1)
        self.scale = nn.Parameter(torch.randn(12))

    def forward(self, input_ids, attention_mask):
        hidden = torch.tanh(self.linear(torch.tanh(self.linear(self.embed(input_ids)))))
        hidden = hidden * self.scale
        return self.head((hidden * attention_mask[:, :, None]).sum(1)).squeeze(1)


def label_words():
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    # the pretended GPU unties what it moves
    untied = {"model_type": "gpt2", "tie_word_embeddings": False}
    configuration = described_configuration(untied | GPT2)
    return LabelWordModel(AutoModelForCausalLM.from_config(configuration), [5, 20]).eval()


def texts():
    generator = torch.Generator().manual_seed(3)
    found = [torch.randint(0, 50, (n,), generator=generator) for n in (3, 7, 2, 5)]
    found[1][3] = found[1][4] = found[3][0] = 7
    return found


def kernel(device, model="llama", classes=1, other=None, there=False, **how):
    """Return a kernel, its groups and the outputs; ``there``: of a model that is on the device."""
    model, some = model() if callable(model) else text_model(model, classes), texts()
    if there:
        model = copy.deepcopy(model).to(device)
    some, other = (some[:other], some[other:]) if other else (some, None)
    place = None if there else device
    found = gram(model, some, other, device=place, **{"max_tokens": 20, "check": False} | how)
    # the case is what its name says
    assert ("max_bytes" in how) == (found.provenance["passes"] != 1), found.provenance["passes"]
    assert ("chunk_bytes" in how) == (found.provenance.get("chunks", 1) > 1)
    names = {name: list(found.provenance[name]) for name in ("general", "without_gradient")}
    return {"outputs": found.outputs, "kernel": found.kernel} | found.groups | names


def out_of_memory_once(device):
    """Return a kernel whose first attempt finds no memory."""
    left, plain = [torch.OutOfMemoryError("CUDA out of memory")], engine.computed_in_chunks

    def computed(computation):
        if left:
            raise left.pop()
        return plain(computation)

    with mock.patch.object(engine, "computed_in_chunks", computed):
        return kernel(device, max_bytes=2**30)


def streamed(device, **how):
    """Return a kernel of a model whose weights stay in their files."""
    with tempfile.TemporaryDirectory() as folder:
        backbone("llama").save_pretrained(folder)
        model = pretrained(folder, outputs=1, head_seed=0, stream_to=device)
        found = gram(model, texts(), device=device, max_tokens=20, **how)
    return {"outputs": found.outputs, "kernel": found.kernel} | found.groups


WAYS = {
    "two logits, block by block": {"classes": 2, "outputs": "difference", "max_bytes": 9e3},
    "all outputs": {"classes": 2, "outputs": "full"},
    "their trace, block by block": {"classes": 2, "outputs": "trace", "max_bytes": 9e3},
    "their diagonal": {"classes": 2, "outputs": "diagonal"},
    "signs": {"variant": "signgd"},
    "signs on one side": {"variant": "asymmetric-signgd"},
    "signs block by block": {"variant": "signgd", "max_bytes": 9e3},
    "cross": {"other": 2},
    "cross, in chunks, block by block": {"other": 2, "chunk_bytes": 1.8e3, "max_bytes": 9e3},
    "projected": {"projection": 8},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "a model that is there": {"there": True},
    "a bare parameter": {"model": Bare},
    "in chunks": {"model": Bare, "chunk_bytes": 1.4e3, "variant": "asymmetric-signgd"},
    "a bare parameter in many passes": {"model": Bare, "max_bytes": 900, "variant": "signgd"},
    "label words": {"model": label_words, "outputs": "difference"},
    "label words in passes": {"model": label_words, "outputs": "difference", "max_bytes": 9e3},
}
# plain autograd compares the kernel of each architecture; the ways share its code
ARCHITECTURES = {name: {"model": name, "check": True} for name in MODELS}
CASES = {
    name: (functools.partial(kernel, **way), 1e-5) for name, way in (ARCHITECTURES | WAYS).items()
} | {
    "memory runs out once": (out_of_memory_once, 1e-5),
    "streamed": (streamed, 1e-5),
    "streamed, block by block": (functools.partial(streamed, max_bytes=9e3), 1e-5),
    # two ways to the same products, each rounded to 8 bits
    "bfloat16": (functools.partial(kernel, **WAYS["bfloat16"]), 3e-2),
}
