"""A naive reference kernel, tiny random networks, and a study's files for the command."""

import copy
import math

import pytest
import torch
from torch import nn

from ntktune.network.models import TextModel
from ntktune.store.files import file_sha256
from ntktune.store.records import write_json
from ntktune.store.tensors import write_tensors

VOCABULARY = 50


def naive_jacobian(model, examples, outputs="scalar"):
    """One text at a time, float64, plain autograd: (N·C, P) and values (N, C)."""
    model = copy.deepcopy(model).double().eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows, values = [], []
    for example in examples:
        result = model(input_ids=example[None], attention_mask=torch.ones_like(example)[None])
        result = getattr(result, "logits", result)[0]
        if outputs == "full":
            functions = list(result.reshape(-1))
        else:
            functions = [result[1] - result[0] if outputs == "difference" else result.squeeze()]
        for value in functions:
            gradients = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
            rows.append(
                torch.cat(
                    [
                        (torch.zeros_like(p) if g is None else g).flatten()
                        for p, g in zip(parameters, gradients, strict=True)
                    ]
                )
            )
        values.append(torch.stack(functions).detach())
    return torch.stack(rows), torch.stack(values)


def naive_gram(model, examples, outputs="scalar"):
    """The whole Jacobian's products: slow and plain. ``full``: (N, N, C, C), values (N, C)."""
    jacobian, values = naive_jacobian(model, examples, outputs)
    kernel = jacobian @ jacobian.T
    if outputs != "full":
        return kernel, values[:, 0]
    count = values.shape[1]
    return kernel.reshape(len(examples), count, -1, count).transpose(1, 2), values


def tiny_backbone(name):
    from transformers import AutoModel, BertConfig, GPT2Config, GPTNeoConfig, LlamaConfig

    heads = {"num_attention_heads": 4, "num_hidden_layers": 2}
    config = {
        "gpt_neo": lambda: GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
            max_position_embeddings=32,
            initializer_range=0.2,
        ),
        "llama": lambda: LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_key_value_heads=2,
            pad_token_id=0,
            initializer_range=0.2,
            **heads,
        ),
        "bert": lambda: BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            max_position_embeddings=32,
            initializer_range=0.2,
            **heads,
        ),
        "gpt2": lambda: GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=32,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=1,
        ),
    }[name]()
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in backbone.parameters():  # ones and zeros would hide mistakes
            parameter += 0.1 * torch.randn_like(parameter)
    return backbone.eval()


def tiny_model(name, outputs=1):
    return TextModel(tiny_backbone(name), outputs, torch.Generator().manual_seed(0)).eval()


class Toy(nn.Module):
    """Embedding, what ``body`` does to the hidden states, mean over real tokens, head."""

    def __init__(self, hidden=12, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, hidden)
        self.linear = nn.Linear(hidden, hidden)
        for name, module in modules.items():
            setattr(self, name, module)
        self.head = nn.Linear(hidden, 1)

    def body(self, hidden):
        return torch.tanh(self.linear(hidden))

    def forward(self, input_ids, attention_mask):
        hidden = self.body(self.embed(input_ids))
        return self.head(self.pooled(hidden, attention_mask)).squeeze(1)

    def pooled(self, hidden, mask):
        mask = mask[:, :, None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


@pytest.fixture(scope="session")
def reference():
    return naive_gram


@pytest.fixture(scope="session")
def jacobian():
    return naive_jacobian


@pytest.fixture(scope="session")
def tiny():
    return tiny_model


@pytest.fixture(scope="session")
def toy():
    return Toy


@pytest.fixture(scope="session")
def texts():
    """Return 9 random texts of 1 to 12 tokens, two of them equal, with repeated tokens."""
    generator = torch.Generator().manual_seed(3)
    lengths = [5, 12, 1, 7, 3, 9, 12, 4]
    found = [torch.randint(0, VOCABULARY, (n,), generator=generator) for n in lengths]
    found[1][3] = found[1][4] = found[6][0]
    return [*found, found[3].clone()]


@pytest.fixture
def float64_inside(monkeypatch):
    """Let Hugging Face compute in float64 where it casts to float32 within a float64 model."""
    from transformers.models.gpt_neo import modeling_gpt_neo
    from transformers.models.llama import modeling_llama

    class Wide:
        def __getattr__(self, name):
            return torch.float64 if name == "float32" else getattr(torch, name)

    monkeypatch.setattr(modeling_gpt_neo, "torch", Wide())

    def norm(self, hidden):
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)


@pytest.fixture
def study(tmp_path, tiny, texts):
    """Return a function that writes a study's files and returns the command's arguments."""
    model = tiny("gpt_neo").backbone
    model.save_pretrained(tmp_path / "model")
    digest = file_sha256(tmp_path / "model" / "model.safetensors")
    manifest = {"name": "tiny", "revision": "r1", "sha256": digest}
    write_json(tmp_path / "model" / "model.json", manifest, {})

    def written(
        kind="regression", draws=((0, 3, 1, 8), (5, 6, 2, 4)), task="toy", classes=2, **changes
    ):
        lengths = torch.tensor([0] + [len(t) for t in texts])
        label = torch.arange(9, dtype=torch.float64)
        facts = {"task": {"name": task, "kind": kind}, "data_sha256": "d1", "model": manifest}
        if classes > 2:
            facts["task"]["classes"] = [f"class {i}" for i in range(classes)]
        tensors = {
            "ids": torch.cat(texts).int(),
            "offsets": lengths.cumsum(0),
            "label": label if kind == "regression" else label % classes,
            "label_noise": torch.full((9,), math.nan, dtype=torch.float64),
            "is_test": torch.zeros(9, dtype=torch.uint8),
        }
        write_tensors(tmp_path / "tokens.safetensors", tensors, facts | changes)
        write_json(tmp_path / "draws.json", {"draws": draws}, {"data_sha256": "d1"})
        return [
            *("kernel", "draws", "--task", "toy", "--seed", "7", "--dtype", "float64"),
            *("--device", "cpu", "--batch-tokens", "40", "--model", str(tmp_path / "model")),
            *("--tokens", str(tmp_path / "tokens.safetensors")),
            *("--draws", str(tmp_path / "draws.json"), "--out", str(tmp_path / "gram.safetensors")),
        ]

    return written
