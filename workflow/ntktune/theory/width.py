"""How wide a network must be for the linear picture: drift, linearisation error, distance.

A network of each width starts at random and is trained on a source task, then on a target task:
with all its weights pretrained, or with a fresh random head.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel import gram
from ntktune.network.matmul import FastLinear
from ntktune.network.models import pad
from ntktune.network.tangent import difference, directional_derivative, length
from ntktune.theory.attention import AttentionNetwork
from ntktune.theory.descent import theory_step_size

TOKENS, FEATURES, LENGTH, BLOCKS = 24, 16, 8, 1
EXAMPLES = 32  # of each task, to train on and to test on
SIMILARITY = 0.7  # cosine of the two tasks' directions
NOISE = 0.1
STEPS = 60
PHASES = ("pretraining", "all pretrained", "fresh head")
BATCH_TOKENS = 1024


def made_up_tasks(
    random: np.random.Generator,
) -> tuple[torch.Tensor, list[torch.Tensor], list[np.ndarray]]:
    """Return token features, texts, and labels of the source and the target task.

    A label is the sine of a direction of a text's mean feature, plus noise, standardised.
    """
    features = random.normal(size=(TOKENS, FEATURES))
    ids = random.integers(0, TOKENS, size=(2 * EXAMPLES, LENGTH))
    first, second = np.linalg.qr(random.normal(size=(FEATURES, 2)))[0].T
    other = SIMILARITY * first + np.sqrt(1 - SIMILARITY**2) * second
    means = features[ids].mean(axis=1) * np.sqrt(LENGTH)
    labels = []
    for direction in (first, other):
        label = np.sin(2 * means @ direction) + NOISE * random.normal(size=len(ids))
        labels.append((label - label[:EXAMPLES].mean()) / label[:EXAMPLES].std())
    texts = [torch.as_tensor(row) for row in ids]
    return torch.as_tensor(features, dtype=torch.float32), texts, labels


def trained(
    network: nn.Module, texts: Sequence[torch.Tensor], label: np.ndarray, step_size: float
) -> None:
    """Take 60 steps of gradient descent on (1/2n)‖y − f‖², in place."""
    ids, mask = pad(texts)
    target = torch.as_tensor(label, dtype=torch.float32)
    stepper = torch.optim.SGD(network.parameters(), lr=step_size)
    for _ in range(STEPS):
        with FastLinear():
            found = network(ids, mask)
        (0.5 * (found - target).square().mean()).backward()
        stepper.step()
        stepper.zero_grad()


def _compared(
    start: AttentionNetwork, texts: Sequence[torch.Tensor], label: np.ndarray
) -> tuple[AttentionNetwork, dict[str, float]]:
    """Train a copy of a network, and return it with how far it has gone."""
    some, others = texts[:EXAMPLES], texts[EXAMPLES:]
    before = gram(start, some, max_tokens=BATCH_TOKENS, check=False).kernel.numpy()
    largest = float(np.linalg.eigvalsh(before)[-1]) / len(some)
    network = copy.deepcopy(start)
    trained(network, some, label[:EXAMPLES], theory_step_size(largest))
    after = gram(network, some, max_tokens=BATCH_TOKENS, check=False).kernel.numpy()
    change = difference(network, start)
    base, slope = directional_derivative(start, change, others, BATCH_TOKENS)
    with torch.no_grad():
        found = network(*pad(others)).double()
        fitted = network(*pad(some)).double().numpy()
    apart = (found - base - slope).square().mean().sqrt().item()
    return network, {
        "drift": float(np.linalg.norm(after - before, 2) / np.linalg.norm(before, 2)),
        "linear_gap": apart,
        "linear_gap_relative": apart / (found - base).square().mean().sqrt().item(),
        "distance": length(change) / np.sqrt(start.blocks[0].width),
        "training_error": float(np.mean((fitted - label[:EXAMPLES]) ** 2)),
        "test_error": float(np.mean((found.numpy() - label[EXAMPLES:]) ** 2)),
    }


def width_rows(
    widths: Sequence[int],
    seeds: int,
    random: Callable[[int, int], np.random.Generator],
    progress: Callable[[float], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Return drift, linearisation error and distance at every width, seed and phase.

    ``random``, called with width and seed, is the source of a seed's texts and labels (width 0) and
    of its weights at a width. ``progress`` is called with the work done, Σ N² over networks. Raises
    UserError for a width below 1 or no seed.

    Rows have ``width``, ``seed``, ``phase`` (:data:`PHASES`); ``drift`` ‖K_T − K_0‖/‖K_0‖ in the
    operator norm on the training texts; ``linear_gap``, the root mean square of f − f_lin on other
    texts, and ``linear_gap_relative`` to f − f_0; ``distance`` ‖θ_T − θ_0‖/√N; ``training_error``
    and ``test_error`` after the phase. Drift, gap and distance are O(N^(−1/2)) in the theory (SR26
    Lemma 1, eq 17).
    """
    if min(widths, default=0) < 1 or seeds < 1:
        raise UserError(f"widths {list(widths)} and {seeds} seeds: all must be 1 or more")
    rows, done = [], 0
    for seed in range(seeds):
        features, texts, (source, target) = made_up_tasks(random(0, seed))
        for width in widths:
            generator = torch.Generator().manual_seed(int(random(width, seed).integers(2**63)))
            start = AttentionNetwork(width, features, BLOCKS, generator)
            pretrained, first = _compared(start, texts, source)
            fresh = copy.deepcopy(pretrained)
            fresh.head.reset(generator)
            found = [first, *(_compared(n, texts, target)[1] for n in (pretrained, fresh))]
            for phase, row in zip(PHASES, found, strict=True):
                rows.append({"width": width, "seed": seed, "phase": phase} | row)
            done += width**2
            progress(done)
    return rows


def width_slopes(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return slopes of log quantity on log N, one dict per phase and quantity.

    Least squares over all widths and seeds, with a 95 % t-interval: ``slope``, ``low``, ``high``;
    ``predicted`` is −1/2. Raises UserError for fewer than three networks, or one width only.
    """
    from scipy.stats import linregress, t

    found = []
    for phase in PHASES:
        own = [row for row in rows if row["phase"] == phase]
        if len(own) < 3 or len({row["width"] for row in own}) < 2:
            raise UserError("a slope needs two widths, and three networks in all")
        widths = np.log([row["width"] for row in own])
        for name in ("drift", "linear_gap", "distance"):
            fit = linregress(widths, np.log([row[name] for row in own]))
            half, slope = float(t.ppf(0.975, len(own) - 2) * fit.stderr), float(fit.slope)
            row = {"phase": phase, "quantity": name, "predicted": -0.5, "slope": slope}
            found.append(row | {"low": slope - half, "high": slope + half, "networks": len(own)})
    return found
