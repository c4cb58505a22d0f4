"""A study in small: a random two-block model, tasks made from a rule, and flags to tune it by."""

import hashlib

import numpy as np
import torch

from ntktune.store.records import write_json
from ntktune.store.tensors import write_tensors


def write_model(folder, seed=0):
    """Write a random Llama with its manifest; return the manifest."""
    from transformers import AutoModel, LlamaConfig

    config = LlamaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=2,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    facts = {"name": f"tiny-{seed}", "revision": "r1", "sha256": digest}
    write_json(folder / "model.json", facts, {})
    return facts


def write_task(folder, name, kind, model, sign=1.0, metric=None, classes=2):
    """Write tokens and subsets (20 rows, two seeds) of a task made from a rule."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 10, (60,), generator=generator).tolist()
    sentences = [torch.randint(1, 40, (n,), generator=generator) for n in lengths]
    for i, sentence in enumerate(sentences):
        sentence[-1] = (5, 15, 25, 35)[i % 4]  # few cases: 16 examples teach the rule
    label = torch.tensor([sign * (float(s[-1]) / 10 - 2) for s in sentences]).double()
    if kind == "classification":
        label = (label > 0).double() if classes == 2 else label.argsort().argsort() % classes
        label = label.double()
    facts = {
        "task": {
            "name": name,
            "kind": kind,
            "metric": metric or ("pearson" if kind == "regression" else "accuracy"),
            "score_range": [-4.0, 4.0] if kind == "regression" else None,
            "classes": [*"abcdefgh"[:classes]] if kind == "classification" else None,
        },
        "data_sha256": f"data of {name}",
        "model": model,
    }
    tensors = {
        "ids": torch.cat(sentences).int(),
        "offsets": torch.tensor([0, *np.cumsum(lengths).tolist()]),
        "label": label,
        "label_noise": torch.full((60,), 0.3, dtype=torch.float64),
        "is_test": (torch.arange(60) >= 40).to(torch.uint8),
    }
    write_tensors(folder / f"{name}.safetensors", tensors, facts)
    seeds = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(40)[:20].tolist()
        seeds.append({"order": order, "holdout": [i % 5 == 4 for i in range(20)]})
    subsets = {
        "holdout_fraction": 0.2,
        "seeds": seeds,
        "test": list(range(40, 60)),
    }
    write_json(folder / f"{name}.json", subsets, {"data_sha256": f"data of {name}"})


TRAINING = {
    "head": "random",  # from which even a tiny model moves
    "size": 20,
    "seed": 1,
    "learning-rate": 0.01,
    "weight-decay": 0.01,
    "batch-size": 4,
    "max-epochs": 8,
    "evaluate-every": 2,
    "patience": 5,
    "batch-tokens": 64,
    "device": "cpu",
}


def tuning_flags(study, task, **changes):
    """Return the flags of a fine-tuning of a study's task, some of them changed."""
    settings = TRAINING | {
        "model": study / "model",
        "tokens": study / f"{task}.safetensors",
        "subsets": study / f"{task}.json",
        "task": task,
    }
    settings |= {key.replace("_", "-"): value for key, value in changes.items()}
    several = {key: v if isinstance(v, tuple) else [v] for key, v in settings.items()}
    return [part for key, values in several.items() for part in (f"--{key}", *map(str, values))]
