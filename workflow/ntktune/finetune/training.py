"""Gradient-based fine-tuning, of all weights or of some, stopped on a hold-out set."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ntktune.errors import UserError
from ntktune.finetune.embedding import restricted_embedding
from ntktune.network.device import free_bytes, is_processor
from ntktune.network.matmul import FastLinear
from ntktune.network.models import TextModel, checkpointed, pad, token_batches

# What a pass takes beside the tokens it computes, in tokens (benchmarks/finetune.py): its gradients
# are added to those before. A GPU is best filled by one large pass.
PASS_TOKENS = 96
GPU_PASS_TOKENS = 2_048
OPTIMIZERS = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
METHODS = ("full", "lora", "probe")
SCHEDULES = ("constant", "linear")
HEADS = ("random", "probe")


Stepping = Callable[[torch.optim.Optimizer], None]


def plain_step(stepper: torch.optim.Optimizer) -> None:
    """Take a step as the optimiser does."""
    stepper.step()


class DivergedError(UserError):
    """A loss that is no longer finite."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters: y = W x + s B A x, s = alpha / rank, B = 0 at the start (Hu et al. 2022).

    Names of layers are whole names or their ends, as ``q_proj``.
    """

    rank: int = 8  # r: rows of A, columns of B
    alpha: float = 8.0
    targets: Sequence[str] | None = None  # layers with an adapter; None: every linear layer
    exclude: Sequence[str] = ()  # of these, layers without one
    layers: Sequence[int] | None = None  # blocks with adapters, counted from 0; None: all
    rank_pattern: Mapping[str, int] = field(default_factory=dict)  # name → its own rank
    rslora: bool = False  # s = alpha / sqrt(rank)


@dataclass(frozen=True)
class Settings:
    """How to fine-tune."""

    learning_rate: float  # largest step size; the theory's clock is the sum of the step sizes
    weight_decay: float  # of weight matrices (AdamW's is decoupled); not embeddings, norms, biases
    batch_size: int  # examples per step
    max_epochs: int  # passes over the training part, at most
    evaluate_every: int | None  # steps between evaluations of the hold-out loss; None: one epoch
    # Stop after so many evaluations in a row without a new lowest hold-out loss; None: never.
    patience: int | None
    # Padded tokens in one pass through the network, in evaluation and in training: a step's batch
    # is split and its gradients added up, which changes no step but for rounding.
    batch_tokens: int
    autocast: torch.dtype | None = None  # precision of matrix products; None: that of the weights
    # Keep only the blocks' inputs for the backward pass, and compute each block again in it: a
    # third more work, for a model whose activations do not fit.
    checkpointing: bool = False
    # What is trained: all weights (full), adapters and the head (lora), or the head alone (probe).
    method: str = "full"
    lora: Lora = field(default_factory=Lora)
    layers: Sequence[str] | None = None  # of full: train only these layers and the head; None: all
    optimizer: str = "adamw"  # or sgd: gradient descent, the theory's own where a batch is all rows
    head: str = "random"  # what the head starts from: fresh weights, or a linear probe ("probe")
    max_steps: int | None = None  # steps at most, in place of max_epochs
    warmup: float = 0.0  # share of these steps in which the step size rises
    schedule: str = "constant"  # the step size after that; linear: it falls to 0 at the last step
    max_norm: float | None = None  # a longer gradient of a step is cut to this length; None: never

    def __post_init__(self):
        known = {"method": METHODS, "optimizer": OPTIMIZERS, "head": HEADS, "schedule": SCHEDULES}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise UserError(f"{name} {getattr(self, name)!r} is none of {', '.join(values)}")
        optional = ("evaluate_every", "patience", "max_steps", "max_norm")
        for name in ("learning_rate", "batch_size", "max_epochs", "batch_tokens", *optional):
            value = getattr(self, name)
            if not (name in optional and value is None) and not 0 < value < math.inf:
                raise UserError(f"{name} is {value}, but must be above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}, but must be 0 or above")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup is {self.warmup}, but must be at least 0 and below 1")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation along the training."""

    step: int
    epoch: float  # passes over the training part made so far
    sum_learning_rate: float  # of the steps made so far: the theory's clock
    train_loss: float  # mean over the examples seen since the last evaluation; NaN at step 0
    holdout_loss: float


@dataclass(frozen=True)
class Training:
    """A finished training."""

    history: list[Evaluation]
    steps: int
    best: Evaluation
    at_budget: bool  # the last step that the settings allow has the lowest hold-out loss


def outputs(
    model: nn.Module,
    examples: Sequence[torch.Tensor],
    batch_tokens: int,
    autocast: torch.dtype | None = None,
) -> torch.Tensor:
    """Return a model's outputs, such as (N,) or (N, C), in the order of ``examples``.

    ``examples`` are N 1-D tensors of token ids. The model, used in the mode it is in, is called
    with ids and mask, (B, T) each of at most ``batch_tokens`` padded tokens; matrix products are
    computed in ``autocast``, None for the precision of its weights.
    """
    collected: list[torch.Tensor] = [torch.empty(0)] * len(examples)
    with torch.no_grad():
        for batch in token_batches([len(e) for e in examples], batch_tokens):
            found = _forward(model, [examples[i] for i in batch], autocast).cpu()
            for i, output in zip(batch, found, strict=True):
                collected[i] = output
    return torch.stack(collected)


def _forward(
    model: nn.Module, examples: list[torch.Tensor], autocast: torch.dtype | None
) -> torch.Tensor:
    weight = next(model.parameters())
    ids, mask = (part.to(weight.device, non_blocking=True) for part in pad(examples))
    with FastLinear(), torch.autocast(ids.device.type, autocast, enabled=autocast is not None):
        found = model(ids, mask)
    return found.to(weight.dtype)


def _loss_sum(found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if targets.is_floating_point():
        return functional.mse_loss(found, targets, reduction="sum")
    return functional.cross_entropy(found, targets, reduction="sum")


def mean_loss(
    model: TextModel, examples: Sequence[torch.Tensor], targets: torch.Tensor, settings: Settings
) -> float:
    """Return the mean loss: squared error of floating-point targets, cross-entropy of integers."""
    found = outputs(model, examples, settings.batch_tokens, settings.autocast)
    return _loss_sum(found, targets).item() / len(examples)


def trained_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, kind: str = "adamw"
) -> torch.optim.Optimizer:
    """Return AdamW, or plain gradient descent, over what is trained; only weight matrices decay.

    Norms and biases do not decay, as is usual; nor do embeddings, so that the row of a token that
    never occurs stays as it was pretrained.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decaying, still = [], []
    for parameter in trained_weights(model):
        decays = parameter.ndim >= 2 and id(parameter) not in tables
        (decaying if decays else still).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": still, "weight_decay": 0.0},
    ]
    # one fused pass over the weights: a quarter of the plain loop's time, on a processor too
    return OPTIMIZERS[kind](groups, lr=learning_rate, fused=True)


def batch_rows(
    rows: Sequence[int], lengths: Sequence[int], settings: Settings, generator: np.random.Generator
) -> Iterator[list[int]]:
    """Yield the rows of every step: each epoch in a new random order.

    Rows are shuffled, sorted by length within every four batches, and the batches are shuffled
    again, so that little of a batch is padding.
    """
    pool, left = 4 * settings.batch_size, expected_steps(len(rows), settings)
    while left > 0:
        order = generator.permutation(np.asarray(rows)).tolist()
        batches = []
        for start in range(0, len(order), pool):
            similar = sorted(order[start : start + pool], key=lambda row: lengths[row])
            batches += [
                similar[i : i + settings.batch_size]
                for i in range(0, len(similar), settings.batch_size)
            ]
        yield from (batches[i] for i in generator.permutation(len(batches))[:left])
        left -= len(batches)


def passes(lengths: Sequence[int], batch_tokens: int, device: torch.device) -> list[list[int]]:
    """Split a step's examples into passes through the network, least work in all.

    A pass computes the padded tokens of its examples, of similar lengths, and takes some time
    besides: to add its gradients to those of the passes before. ``lengths`` are the tokens of each
    example; a pass has at most ``batch_tokens`` padded ones, or one longer example. Returns each
    pass's examples, by their place in ``lengths``.
    """
    beside = PASS_TOKENS if is_processor(device) else GPU_PASS_TOKENS
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    least, first = [0], [0]  # of the shortest k examples: the work, where their last pass starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        work, start = min(
            (least[start] + (end - start) * longest + beside, start)
            for start in range(end)
            if start == end - 1 or (end - start) * longest <= batch_tokens
        )
        least.append(work)
        first.append(start)
    found, end = [], len(order)
    while end:
        found.append(order[first[end] : end])
        end = first[end]
    return found


def expected_steps(n_train: int, settings: Settings) -> int:
    """Return the number of steps of a training that is not stopped early."""
    return settings.max_steps or settings.max_epochs * math.ceil(n_train / settings.batch_size)


def step_sizes(steps: int, settings: Settings) -> np.ndarray:
    """Return the step size of each of so many steps, (steps,), as shares of the learning rate.

    Over the first ``warmup`` of them it rises linearly to 1. Then it is constant, or falls linearly
    so that it would be 0 one step after the last (as in Hugging Face's schedule).
    """
    rising = round(settings.warmup * steps)
    shares = np.ones(steps)
    shares[:rising] = np.arange(1, rising + 1) / (rising + 1)
    if settings.schedule == "linear":
        shares[rising:] = np.arange(steps - rising, 0, -1) / (steps - rising)
    return shares


def _room_for(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return memory for a copy of the weights: on their device if it is roomy, else the host's."""
    device = parameters[0].device
    size = sum(p.numel() * p.element_size() for p in parameters)
    # the step's gradients and the optimiser's two moments are still to come
    roomy = is_processor(device) or free_bytes(device) > 8 * size
    return [torch.empty_like(p, device=device if roomy else "cpu") for p in parameters]


def _finite(loss: float, what: str, step: int, settings: Settings) -> float:
    if not math.isfinite(loss):
        raise DivergedError(
            f"the {what} loss is {loss} at step {step}: the training diverged; "
            f"set a learning rate below {settings.learning_rate:g}"
        )
    return loss


def fine_tune(
    model: TextModel,
    examples: Sequence[torch.Tensor],
    targets: torch.Tensor,
    train: Sequence[int],
    holdout: Sequence[int],
    settings: Settings,
    generator: np.random.Generator,
    progress: Callable[[float], None] = lambda step: None,
    on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None,
    looked_at: Sequence[int] = (),
    penalty: Callable[[Sequence[nn.Parameter]], Stepping] = lambda parameters: plain_step,
) -> Training:
    """Fine-tune all weights that are not frozen; the model ends with its best hold-out weights.

    The loss is the mean: squared error, or cross-entropy. The hold-out loss is taken before the
    first step, every ``evaluate_every`` steps (or once per epoch) and after the last; training
    stops after ``patience`` evaluations without a new lowest value, and the weights of the lowest
    are put back (SR26 section 5.1). The model is in evaluation mode throughout: dropout would make
    the network random, and the theory's is not.

    ``examples`` are N 1-D tensors of token ids; ``targets`` has shape (N,), floating point for
    squared error on one output, integers for cross-entropy on C outputs; ``train`` and ``holdout``
    are indices into both; ``generator`` is the source of the batches' order. ``progress`` is called
    with the number of steps done, ``on_evaluation`` with each evaluation while the model has the
    weights that were evaluated; ``looked_at`` are indices of further examples that it looks at.
    ``penalty`` is given the weights that are trained, as they start, and returns what takes each
    step (:class:`ntktune.linearized.penalty.Penalty`).

    Raises UserError if the training or the hold-out part is empty, and its kind DivergedError if
    the loss is no longer finite (seen on a GPU at the next evaluation only: no step waits for it).
    """
    for part, rows in (("training", train), ("hold-out", holdout)):
        if not len(rows):
            raise UserError(
                f"the {part} part is empty; use a larger size or another hold-out fraction"
            )
    model.eval()
    recomputed = settings.checkpointing and settings.method != "probe"  # which computes no block
    targets = targets.cpu()
    per_epoch = math.ceil(len(train) / settings.batch_size)
    every = settings.evaluate_every or per_epoch
    holdout_examples = [examples[i] for i in holdout]
    holdout_targets = targets[torch.as_tensor(np.asarray(holdout))]

    with (
        restricted_embedding(model.backbone, [examples[i] for i in (*train, *holdout, *looked_at)]),
        checkpointed(model.backbone) if recomputed else contextlib.nullcontext(),
    ):
        how = (settings.learning_rate, settings.weight_decay, settings.optimizer)
        stepper = optimizer(model, *how)
        parameters = trained_weights(model)
        best_weights, take_step = _room_for(parameters), penalty(parameters)
        history: list[Evaluation] = []
        last = expected_steps(len(train), settings)
        shares = step_sizes(last, settings)
        clock = settings.learning_rate * np.concatenate([[0.0], np.cumsum(shares)])
        # sums on the device: a GPU is waited for at the evaluations only
        device = parameters[0].device
        total, seen = torch.zeros((), dtype=torch.float64, device=device), 0

        def evaluate(step: int) -> Evaluation:
            spent = _finite(total.item(), "training", step, settings)
            loss = mean_loss(model, holdout_examples, holdout_targets, settings)
            _finite(loss, "hold-out", step, settings)
            mean = spent / seen if seen else math.nan
            found = Evaluation(step, step / per_epoch, float(clock[step]), mean, loss)
            history.append(found)
            on_evaluation(found)
            return found

        def keep() -> None:
            for kept, parameter in zip(best_weights, parameters, strict=True):
                kept.copy_(parameter.detach())

        best = evaluate(0)
        keep()
        step, worse = 0, 0
        lengths = [len(example) for example in examples]
        for step, rows in enumerate(batch_rows(train, lengths, settings, generator), start=1):
            stepper.zero_grad(set_to_none=True)
            for places in passes([lengths[i] for i in rows], settings.batch_tokens, device):
                some = [rows[i] for i in places]
                found = _forward(model, [examples[i] for i in some], settings.autocast)
                part = _loss_sum(found, targets[some].to(found.device, non_blocking=True))
                (part / len(rows)).backward()
                total += part.detach()
            seen += len(rows)
            if is_processor(device):
                _finite(total.item(), "training", step, settings)
            if settings.max_norm:
                nn.utils.clip_grad_norm_(parameters, settings.max_norm)
            for group in stepper.param_groups:
                group["lr"] = settings.learning_rate * shares[step - 1]
            take_step(stepper)
            progress(step)
            if step % every and step < last:
                continue
            found = evaluate(step)
            total.zero_()
            seen = 0
            if found.holdout_loss < best.holdout_loss:
                best, worse = found, 0
                keep()
            else:
                worse += 1
                if worse == settings.patience:
                    break
        with torch.no_grad():
            for kept, parameter in zip(best_weights, parameters, strict=True):
                parameter.copy_(kept)
                parameter.grad = None  # the next training starts without this memory
    return Training(history, step, best, at_budget=best.step == last)
