"""A random float64 GPT-2, which casts nothing to float32, and a task that its texts make."""

import numpy as np
import torch

from ntktune.finetune.repeats import Examples
from ntktune.finetune.training import Settings
from ntktune.network.models import TextModel, described_configuration

SUBSETS = {
    "holdout_fraction": 0.25,
    "seeds": [{"order": list(range(20)), "holdout": [i % 4 == 0 for i in range(20)]}],
    "test": list(range(20, 30)),
}
SETTINGS = Settings(
    learning_rate=0.01,
    weight_decay=0.01,
    batch_size=4,
    max_epochs=3,
    evaluate_every=1,
    patience=None,
    batch_tokens=30,
)


def text_model(outputs):
    from transformers import AutoModel

    torch.manual_seed(2)
    shape = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    backbone = AutoModel.from_config(described_configuration({"model_type": "gpt2", **shape}))
    head = torch.Generator().manual_seed(0)
    return TextModel(backbone, outputs, head).double().eval()


def made_up(kind):
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 50, (n % 5 + 3,), generator=generator) for n in range(30)]
    score = np.array([float(text[-1]) / 10 for text in ids])
    label = (score > np.median(score)).astype(float) if kind == "classification" else score
    return Examples("toy", kind, ids, label, np.full(30, 0.2))
