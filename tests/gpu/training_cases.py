"""Fine-tuning in all its settings, and what is computed along the weights."""

import copy
import functools
import math
from unittest import mock

import numpy as np
import torch
from kernel_cases import text_model

from ntktune.finetune import training
from ntktune.finetune.repeats import Examples, fine_tuned_repeats
from ntktune.finetune.training import Settings
from ntktune.network.models import Features
from ntktune.network.tangent import (
    LogitDifference,
    difference,
    directional_derivative,
    length,
    moved,
    weighted_gradient,
)

SUBSETS = {
    "holdout_fraction": 0.25,
    "seeds": [
        {"order": list(range(first, first + 8)), "holdout": [i % 4 == 0 for i in range(8)]}
        for first in (0, 8)
    ],
    "test": list(range(16, 20)),
}
USUAL = {
    "learning_rate": 0.01,
    "weight_decay": 0.01,
    "batch_size": 3,
    "max_epochs": 2,
    "evaluate_every": 2,
    "patience": 3,
    "batch_tokens": 32,
}


def examples(kind):
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 40, (n % 4 + 3,), generator=generator) for n in range(20)]
    score = np.array([float(text[-1]) / 10 for text in ids])
    label = (score > np.median(score)).astype(float) if kind == "classification" else score
    return Examples("toy", kind, ids, label, np.full(20, 0.2), (0.0, 4.0))


def placed(name, kind, dtype, device):
    """Return a copy of a model, where it is to compute."""
    model = text_model(name, 2 if kind == "classification" else 1)
    return copy.deepcopy(model).to(dtype).to(device)


def tuned(
    device,
    model="llama",
    kind="regression",
    dtype=torch.float64,
    room=math.inf,
    repeats=(),
    **changes,
):
    """Return a seed's or two's metrics, histories and weights; ``room``: the GPU's free memory."""
    network = placed(model, kind, dtype, device)
    found = {}
    with mock.patch.object(training, "free_bytes", return_value=room):
        settings = Settings(**USUAL | changes)
        runs = fine_tuned_repeats(
            network, examples(kind), SUBSETS, 8, settings, 5, **dict(repeats) or {"seeds": [0]}
        )
        for repeat in runs:
            history = [list(vars(e).values()) for e in repeat.training.history]
            weights = {k: v.detach().cpu().clone() for k, v in network.named_parameters()}
            found[f"seed {repeat.seed}"] = {
                "row": repeat.row,
                "history": history,
                "test": [
                    [value for name, value in metrics.items() if name != "class_f1"]
                    for metrics in repeat.test_history
                ],
                "weights": weights,
            }
    return found


def linearised(device, kind):
    """Return J v, Jᵀ w and the outputs at moved weights."""
    model = placed("llama", kind, torch.float64, device)
    scalar = LogitDifference(model) if kind == "classification" else model
    ids = examples(kind).ids[:5]
    gradient = weighted_gradient(scalar, torch.linspace(-1, 1, 5).double(), ids, 16)
    before = copy.deepcopy(scalar)
    with moved(scalar, gradient):
        change, outputs = difference(scalar, before), training.outputs(model, ids, 16)
    value, slope = directional_derivative(scalar, gradient, ids, 16)
    gradient = {name: part.cpu() for name, part in gradient.items()}
    return {"value": value, "slope": slope, "outputs": outputs, "length": length(change)} | gradient


def states(device):
    model = placed("gpt2", "regression", torch.float32, device)
    return training.outputs(Features(model.backbone), examples("regression").ids, 16)


def case(tolerance=1e-9, **how):
    return functools.partial(tuned, **how), tolerance


both = {"test_history": True, "seeds": [0, 1]}
CASES = {
    "AdamW, two seeds, test history": case(repeats=both),
    "gradient descent on all rows": case(optimizer="sgd", batch_size=6, patience=None),
    "two classes": case(kind="classification"),
    "a probe's head, a rising and falling step, clipped": case(
        head="probe", warmup=0.2, schedule="linear", max_norm=0.5, max_steps=7
    ),
    "two classes from a probe's head": case(kind="classification", head="probe"),
    "adapters": case(method="lora", repeats=both),
    "adapters, checkpointed, two classes": case(
        method="lora", kind="classification", checkpointing=True
    ),
    "the head alone": case(method="probe", head="probe", repeats=both),
    "activation checkpointing": case(checkpointing=True),
    "a pass for each text": case(batch_tokens=1),
    "fixed epochs": case(evaluate_every=None, patience=None),
    "best weights in the processor's memory": case(room=0),
    "float32": case(1e-4, dtype=torch.float32),
    "bfloat16 products": case(0.3, dtype=torch.float32, autocast=torch.bfloat16),
    "bfloat16 products, checkpointed, two classes": case(
        0.3,
        kind="classification",
        dtype=torch.float32,
        autocast=torch.bfloat16,
        checkpointing=True,
    ),
    **{
        f"last rows and embedding of {name}": case(1e-6, model=name)
        for name in ("gpt2", "bert", "opt")
    },
    "linearised": (functools.partial(linearised, kind="regression"), 1e-9),
    "linearised, two classes": (functools.partial(linearised, kind="classification"), 1e-9),
    "last hidden states": (states, 1e-5),
}
