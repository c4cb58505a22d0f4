"""A tiny random model and a task made from a rule, as tensors and as the study's files."""

import numpy as np
import pytest
import torch

from ntktune.finetune.repeats import Examples
from ntktune.finetune.training import Settings
from ntktune.network.models import TextModel

VOCABULARY, HIDDEN = 60, 16


def tiny_backbone(dtype=torch.float32):
    from transformers import AutoModel, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=2,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return AutoModel.from_config(config, dtype=dtype).eval()


def tiny_text_model(outputs=1, dtype=torch.float32, seed=0):
    head = torch.Generator().manual_seed(seed)
    return TextModel(tiny_backbone(dtype), outputs, head).to(dtype).eval()


@pytest.fixture
def text_model():
    return tiny_text_model


@pytest.fixture
def sentences():
    """Return 60 random token sequences of 3-9 tokens; id 2 is the model's padding id."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 10, (60,), generator=generator).tolist()
    return [torch.randint(1, 40, (n,), generator=generator) for n in lengths]


@pytest.fixture
def examples(sentences):
    """Return a function: the sentences with labels by a rule on their first token."""

    def made(kind="regression"):
        score = np.array([float(s[-1]) / 10 - 2 for s in sentences])
        classes = 2
        if kind == "three classes":
            kind, classes = "classification", 3
            score = np.digitize(score, [-0.7, 0.7]).astype(float)
        elif kind == "classification":
            score = (score > 0).astype(float)
        noise = np.full(len(score), 0.3)
        return Examples("toy", kind, sentences, score, noise, (-4.0, 4.0), classes=classes)

    return made


@pytest.fixture
def subsets():
    """Two seeds of 20 rows each, test rows 40-59; every fifth row is held out."""
    seeds = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(40)[:20].tolist()
        seeds.append({"order": order, "holdout": [i % 5 == 4 for i in range(20)]})
    return {"holdout_fraction": 0.2, "seeds": seeds, "test": list(range(40, 60))}


@pytest.fixture
def settings():
    """Return a function: settings for the tiny task, some of them changed."""

    def made(**changes):
        usual = {
            "learning_rate": 3e-3,
            "weight_decay": 0.01,
            "batch_size": 4,
            "max_epochs": 3,
            "evaluate_every": 2,
            "patience": 5,
            "batch_tokens": 64,
        }
        return Settings(**usual | changes)

    return made
