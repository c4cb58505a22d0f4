"""What fine-tuning costs in FLOPs and bytes, counted before anything is trained."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ntktune.errors import UserError
from ntktune.finetune.devices import DEVICES
from ntktune.finetune.last_rows import last_rows_only, read_layers
from ntktune.finetune.methods import Adapter
from ntktune.finetune.training import (
    Lora,
    Settings,
    batch_rows,
    expected_steps,
    fine_tune,
    passes,
)
from ntktune.kernel.account import account as kernel_account
from ntktune.kernel.engine import gram
from ntktune.network import models
from ntktune.network.device import free_bytes
from ntktune.network.loading import from_configuration, usable
from ntktune.network.matmul import seconds_alone
from ntktune.network.models import TextModel, block_list, pad, positions, token_batches

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PROBE_VOCABULARY = 64
LONGEST_PROBE = 48  # tokens
# forward, backward for activations and for weights; a head alone has no pass, and adapters' own
# products, of a few in a hundred, are left out
WORK = {"full": 3, "lora": 2, "probe": 0}
TIMED_STEPS = 4
TIMED_SECONDS = 0.5  # of a timed step, and of a timed kernel, at the speed of a large product
TIMED_TEXTS = 32  # of a timed kernel, at most


@dataclass(frozen=True)
class Shape:
    """What an architecture costs per token."""

    parameters: int  # numbers in the backbone
    rows: int  # of the embedding table
    row_width: int  # numbers in one of them
    width: int  # D
    blocks: int
    dense: float  # sum of d_in · d_out over the linear layers that compute every token
    read: float  # the same over those that compute the read tokens only (last_rows_only)
    mixing: float  # sum over blocks of the width of queries and of values: attention's cost
    # Bytes that a block keeps for its backward pass, measured on two blocks with random weights:
    # per pass (copies of the weights in the products' precision), per token, and per pair of tokens
    # (attention weights).
    kept: tuple[float, float, float]
    uncounted: int = 0  # numbers in weights of more than two dimensions, as experts': no FLOPs
    adapters: int = 0  # numbers in the adapters, where they are trained


@dataclass(frozen=True)
class Cost:
    """What some trainings cost: steps, tokens and FLOPs, and the largest pass (B, T)."""

    steps: int
    tokens: int
    flops: float
    largest: tuple[int, int]


@dataclass(frozen=True)
class Memory:
    """Bytes held at once in a training."""

    weights: int
    gradients: int  # of the embedding rows in use only, as the next three
    optimizer: int  # AdamW's two moments
    best_weights: int  # a copy of the best on the hold-out
    start_weights: int  # a copy of what the next seed starts from; adapters are drawn anew
    activations: int  # kept by the largest pass, with the weights' copies in products' precision

    @property
    def together(self) -> int:
        """Sum of all parts."""
        return sum(dataclasses.astuple(self))


def _probe(config: PreTrainedConfig, blocks: int, dtype: torch.dtype) -> TextModel:
    """Return a model of a few blocks with random weights, of full width and few token ids."""
    config = models.cut_configuration(copy.deepcopy(config), blocks)
    config.vocab_size = PROBE_VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if hasattr(config, name):
            setattr(config, name, 0)
    with torch.random.fork_rng(devices=[]):
        backbone = from_configuration(config).eval()
    backbone.config.use_cache = False
    return TextModel(backbone, 1, torch.Generator().manual_seed(0)).to(dtype)


def _few_blocks(config: PreTrainedConfig) -> int:
    return min(2, len(block_list(models.skeleton(config))))


def _adapt(probe: TextModel, lora: Lora) -> None:
    """Give a model of a few blocks adapters: by the names of layers alone, in whichever block."""
    ends = lora.targets and sorted({target.rpartition(".")[2] for target in lora.targets})
    Adapter(probe.backbone, Lora(lora.rank, targets=ends))


def _kept_bytes(model: TextModel, length: int, autocast: torch.dtype | None) -> int:
    """Return the bytes that the forward pass of one text keeps beside the weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def look(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids, mask = pad([torch.arange(length) % (PROBE_VOCABULARY - 1) + 1])
    with (
        torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor),
        torch.autocast("cpu", autocast, enabled=autocast is not None),
    ):
        found = model(ids, mask)  # kept until all is counted: its storages stay distinct
        total = sum(seen.values())
        del found
    return total


def architecture(
    config: PreTrainedConfig,
    autocast: torch.dtype | None = None,
    dtype: torch.dtype = torch.float32,
    lora: Lora | None = None,
    pooling: str = "last",
) -> Shape:
    """Return what an architecture costs per token; its weights need not exist.

    ``config`` is the Hugging Face configuration of a decoder or an encoder, cut to the blocks that
    are used; ``autocast`` the precision of the matrix products, None for that of the weights
    (``dtype``); ``lora`` adapters, if they are what is trained; ``pooling`` what the head reads.
    Raises UserError for another kind of network, impossible numbers in ``config``, or adapters that
    find no layer.
    """
    usable(config, "the model")
    try:
        return _counted(config, autocast, dtype, lora, pooling)
    except UserError:
        raise
    except Exception as error:  # models break on foreign settings without bound
        raise UserError(
            f"the cost of a model of type {config.model_type} cannot be counted: "
            f"{type(error).__name__}: {error}; correct its configuration, or time one training"
        ) from error


def _counted(
    config: PreTrainedConfig,
    autocast: torch.dtype | None,
    dtype: torch.dtype,
    lora: Lora | None,
    pooling: str,
) -> Shape:
    backbone = models.skeleton(config)
    blocks = list(block_list(backbone))
    table = backbone.get_input_embeddings().weight
    probes = [_probe(config, count, dtype) for count in range(1, min(2, len(blocks)) + 1)]
    for probe in probes:
        probe.backbone.pooling = pooling
    pair = [torch.arange(1, n + 1) for n in (5, 3)]
    longest = min(LONGEST_PROBE, positions(backbone) or LONGEST_PROBE)
    lengths = [longest // 3, 2 * longest // 3, longest]
    reading = {
        name
        for name, layer in block_list(probes[0].backbone)[0].named_modules()
        if layer in read_layers(probes[0], *pad(pair))
    }
    weights = models.linear_weights(blocks[-1])
    read = sum(weight.numel() for name, weight in weights.items() if name in reading)
    parameters, adapters = sum(p.numel() for p in backbone.parameters()), 0
    uncounted = sum(p.numel() for p in backbone.parameters() if p.dim() > 2)
    every = models.linear_weights(backbone)
    dense = float(sum(weight.numel() for weight in every.values()) - read)
    if lora:
        Adapter(backbone, lora)
        adapters = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        for probe in probes:
            _adapt(probe, lora)
    kept = np.array([[_kept_bytes(p, n, autocast) for n in lengths] for p in probes])
    # a block's own, without what is around them
    one = kept[-1] - (kept[0] if len(probes) > 1 else 0)
    powers = np.array([[1, n, n * n] for n in lengths], dtype=float)
    heads = getattr(config, "num_attention_heads", 1)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        parameters=parameters,
        rows=len(table),
        row_width=table.shape[1],
        width=probes[0].head.in_features,
        blocks=len(blocks),
        dense=dense,
        read=float(read),
        mixing=2.0 * heads * head * len(blocks),
        kept=tuple(np.linalg.solve(powers, one).clip(min=0).tolist()),
        uncounted=uncounted,
        adapters=adapters,
    )


def forward_flops(shape: Shape, count: int, length: int, outputs: int = 1) -> float:
    """Return the FLOPs of the forward pass of ``count`` texts, padded to ``length`` tokens."""
    linear = 2.0 * (count * length * shape.dense + count * shape.read)
    attention = 2.0 * count * length**2 * shape.mixing
    return linear + attention + 2.0 * count * shape.width * outputs


def training_cost(
    shape: Shape,
    train: Sequence[int],
    holdout: Sequence[int],
    test: Sequence[int],
    settings: Settings,
    device: torch.device,
    outputs: int = 1,
    *,
    test_history: bool = False,
    tested: bool = True,
) -> Cost:
    """Return what one training costs that is not stopped early, its test included.

    The batches of one epoch are made as the training makes them, in an order of their own, and
    stand for all epochs. ``train``, ``holdout`` and ``test`` are the tokens of each text; passes
    are larger where ``device`` is a GPU; ``outputs`` is C, the head's outputs. With
    ``test_history`` the test rows are measured at every evaluation too; unless ``tested``, never.
    """
    forward = functools.partial(forward_flops, shape, outputs=outputs)
    work = WORK[settings.method]
    work += settings.checkpointing and work > 0  # forward again where activations are not kept

    def evaluated(lengths: Sequence[int]) -> float:
        batches = token_batches(lengths, settings.batch_tokens)
        return sum(forward(len(rows), max(lengths[i] for i in rows)) for rows in batches)

    per_epoch = math.ceil(len(train) / settings.batch_size)
    steps = expected_steps(len(train), settings)
    epochs = steps / per_epoch
    once = dataclasses.replace(settings, max_epochs=1, max_steps=None)
    flops, tokens, largest = 0.0, 0, (0, 0)
    for rows in batch_rows(range(len(train)), train, once, np.random.default_rng(0)):
        for places in passes([train[i] for i in rows], settings.batch_tokens, device):
            count, length = len(places), max(train[rows[i]] for i in places)
            flops += work * forward(count, length)
            tokens += count * length
            largest = max(largest, (count, length), key=lambda p: p[0] * p[1])
    evaluations = 1 + math.ceil(steps / (settings.evaluate_every or per_epoch))
    flops *= epochs
    # the head is centred on the training part, or fitted and chosen; the best model is tested once
    looks = evaluations if work else 1
    flops += evaluated(train) + (looks + (settings.head == "probe")) * evaluated(holdout)
    flops += (tested + looks * test_history) * evaluated(test)
    return Cost(steps, round(epochs * tokens), flops, largest)


def training_rate(
    config: PreTrainedConfig,
    settings: Settings,
    lengths: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    product: float,
) -> float:
    """Return the FLOPs per second of training steps on a device of this machine.

    Steps are timed on the first blocks, two at most, with random weights and texts as long as the
    mean of ``lengths``; with their optimiser they are slower than one large product. The speed of
    that, ``product`` in FLOPs per second, bounds the batch that is timed. It is also what is
    returned for a head alone, which has no such steps, and where a step of one text takes long or
    has no room.
    """
    work, few = WORK[settings.method], _few_blocks(config)
    shape = architecture(models.cut_configuration(copy.deepcopy(config), few), dtype=dtype)
    length = round(sum(lengths) / len(lengths))
    one = work * forward_flops(shape, 1, length)
    held = 8 * shape.parameters * dtype.itemsize  # gradients, moments, copies
    if not 0 < one < 4 * product * TIMED_SECONDS or held > free_bytes(device):
        return product
    model = _probe(config, few, dtype).to(device)
    if settings.method == "lora":
        _adapt(model, settings.lora)
    count = min(settings.batch_size, len(lengths), max(1, int(product * TIMED_SECONDS / one)))
    texts = [torch.arange(length) % (PROBE_VOCABULARY - 1) + 1] * (count + 1)
    rows = (texts, torch.zeros(count + 1), range(count), [count])  # the last is the hold-out part
    how = {"batch_size": count, "patience": None, "checkpointing": False, "learning_rate": 1e-6}
    took = {}
    with last_rows_only(model, texts):
        for steps in (1, 1, 1 + TIMED_STEPS):  # the first training is slower than those that follow
            own = dataclasses.replace(settings, **how, max_steps=steps, evaluate_every=steps)
            train = functools.partial(fine_tune, model, *rows, own, np.random.default_rng(0))
            took[steps] = seconds_alone(train, device)
    further = took[1 + TIMED_STEPS] - took[1]  # without what a training does but once
    return TIMED_STEPS * count * one / further if further > 0 else product


def kernel_rate(
    config: PreTrainedConfig, lengths: Sequence[int], device: torch.device, product: float
) -> float:
    """Return the FLOPs per second of a kernel on a device of this machine, as it is counted.

    Timed on two blocks and few texts as :func:`training_rate` times steps, with one output.
    """
    model = _probe(config, _few_blocks(config), torch.float32).to(device)
    length, blocks = round(sum(lengths) / len(lengths)), block_list(model.backbone)

    def flops(count: int) -> float:
        return kernel_account(model.backbone, blocks, [length] * count).flops

    count = min(TIMED_TEXTS, max(2, int(2 * product * TIMED_SECONDS / flops(2))))
    if flops(count) > 4 * product * TIMED_SECONDS:
        return product
    texts = [torch.arange(length) % (PROBE_VOCABULARY - 1) + 1] * count
    gram(model, texts[:2], check=False)  # the first is slower
    return flops(count) / seconds_alone(lambda: gram(model, texts, check=False), device)


def memory(
    shape: Shape, largest: tuple[int, int], rows: int, settings: Settings, item_bytes: int = 4
) -> Memory:
    """Return the bytes that a training holds at once.

    ``largest`` has the texts and the padded tokens of the largest pass; ``rows`` of the embedding
    table are in use; a weight has ``item_bytes``.
    """
    full = settings.method == "full"
    trained = shape.parameters - (shape.rows - min(rows, shape.rows)) * shape.row_width
    trained = trained if full else shape.adapters
    count, length = largest
    tokens = count * length
    fixed, per_token, per_pair = shape.kept
    block = per_token * tokens + per_pair * count * length**2
    if settings.checkpointing:
        kept = item_bytes * shape.width * tokens * shape.blocks + block
    else:
        kept = block * shape.blocks
    kept += fixed * shape.blocks  # autocast keeps its copies to the end of the pass
    kept *= settings.method != "probe"
    size, weights = item_bytes * trained, item_bytes * (shape.parameters + shape.adapters)
    return Memory(weights, size, 2 * size, size, size * full, int(kept))


def _time(hours: float) -> str:
    return f"{hours:.2f} h" if hours >= 1 else f"{60 * hours:.2f} min"


def plan_text(
    shape: Shape,
    held: Mapping[str, Memory],
    trainings: Sequence[tuple[str, int, Sequence[Cost]]],
    device_name: str | None,
    share: float,
    measured: tuple[float, float] | None,
    mixed: bool,
) -> str:
    """Return a plan as lines of text.

    ``held`` has each method's memory. ``trainings``, and kernels, of 0 steps, have a name, the
    number of seeds or draws, and the cost of one for each task. Hours are counted for
    ``device_name`` (a key of :data:`ntktune.finetune.devices.DEVICES`) at a ``share`` of its peak
    speed, or for this machine at ``measured`` FLOPs per second of kernels and of trainings;
    ``mixed`` products, of trainings alone, are bfloat16.
    """
    blocks = "1 block" if shape.blocks == 1 else f"{shape.blocks} blocks"
    lines = [f"model    {blocks}, {shape.parameters / 1e6:,.1f} million parameters"]
    if shape.uncounted:
        part = shape.uncounted / shape.parameters
        lines.append(f"         {part:.0%} of them in experts, whose FLOPs are not counted")
    capacity = DEVICES[device_name][2] * 1e9 if device_name else 0.0
    for method, own in held.items():
        parts = "  ".join(
            f"{name.replace('_', ' ')} {value / 2**30:.2f}" for name, value in vars(own).items()
        )
        lines.append(f"memory   {method}: {parts}  together {own.together / 2**30:.2f} GiB")
        if device_name:
            lines[-1] += (
                f", {'less' if own.together < capacity else 'more'} than the "
                f"{capacity / 2**30:.1f} GiB of one {device_name} (its own software takes some)"
            )
    if device_name:
        exact, rough, _ = DEVICES[device_name]
        kernels, speed = share * 1e12 * exact, share * 1e12 * (rough if mixed else exact)
        where = f"one {device_name} at {share:.0%} of its peak speed (a guess)"
    else:
        kernels, speed = measured
        where = "this machine with nothing beside it, as timed now"
    together, hours = 0.0, 0.0
    for name, seeds, costs in trainings:
        flops = seeds * sum(cost.flops for cost in costs)
        together += flops
        took = flops / (speed if costs[0].steps else kernels) / 3600  # kernels are not mixed
        hours += took
        each = f" seeds  at most {costs[0].steps} steps each" if costs[0].steps else ""
        lines.append(
            f"{name}: {len(costs)} task{'s' * (len(costs) > 1)} x {seeds}{each}  tokens "
            f"{seeds * sum(cost.tokens for cost in costs):,}  FLOPs {flops:.2e}  "
            f"{_time(took)}"
        )
    lines.append(
        f"together {together:.2e} FLOPs, {_time(hours)} for the whole study, "
        f"what is made already included, on {where}, "
        f"{speed / 1e12:.3g} TFLOP/s; less where training stops early, "
        "more by the seconds that each job takes to start"
    )
    if not device_name and hours >= 1:
        lines.append(
            "less     fewer `model.blocks` save most (4: the model's first four); then smaller "
            "`finetune.sizes`, fewer `finetune.max_steps`, and 1 for `kernel.draws`"
        )
    return "\n".join(lines)
