"""Which layers to train: the kernel of any set of them from Grams by weight, and what it says."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from ntktune.errors import UserError
from ntktune.finetune.methods import adapted_layers
from ntktune.finetune.training import Lora
from ntktune.kernel import gram
from ntktune.kernel.groups import parameter_group
from ntktune.linearized.bounds import addition
from ntktune.linearized.statistics import (
    EPS,
    alignment,
    best_gcv,
    centred_spectrum,
    condition_number,
    log_evidence,
)
from ntktune.network.models import TextModel, block_list, linear_weights
from ntktune.spectrum import centred_gram
from ntktune.study.config import suggestion

HEAD = "head"  # trained with every set
MOST_ROWS = 500  # of a draw: there is a kernel per parameter


def weight_grams(
    model: TextModel, examples: Sequence[torch.Tensor], outputs: str = "scalar", **how: Any
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return each parameter's own Gram, (N, N), by its name, and :data:`HEAD`'s; and f_0.

    Their sum is the kernel. The rest goes to :func:`ntktune.kernel.gram`, which takes one forward
    and one backward pass for all.
    """
    prefix = "backbone."
    how["groups"] = lambda name: name.removeprefix(prefix) if name.startswith(prefix) else HEAD
    found = gram(model, examples, outputs=outputs, **how)
    return found.groups, found.outputs


def layer_sets(backbone: nn.Module) -> dict[str, list[str]]:
    """Return sets of a backbone's linear layers in blocks, by name: those that are compared.

    ``all``, ``attention`` and ``mlp`` of all blocks, each ``block3``, and where there are more
    blocks the ``first2`` and ``last2`` of them, 4, 8 and so on. Sets that hold the same layers are
    one. Layers that peft has no adapter for, such as routers of experts, are in none.
    """
    blocks = len(block_list(backbone))
    parts: dict[tuple[int, str], list[str]] = {}
    for name in linear_weights(backbone):
        if not is_linear(backbone.get_submodule(name)):
            continue
        block, _, part = parameter_group(backbone, f"{name}.weight").partition(".")
        if block.startswith("block") and part:
            parts.setdefault((int(block.removeprefix("block")), part), []).append(name)

    def chosen(numbers: Iterable[int], kinds: Sequence[str] = ("attention", "mlp")) -> list[str]:
        return [name for n in numbers for kind in kinds for name in parts.get((n, kind), [])]

    every = range(blocks)
    sets = {"all": chosen(every)}
    sets |= {kind: chosen(every, [kind]) for kind in ("attention", "mlp")}
    sets |= {f"block{n}": chosen([n]) for n in every}
    for count in (2**n for n in range(1, blocks.bit_length()) if 2**n < blocks):
        sets |= {f"first{count}": chosen(every[:count]), f"last{count}": chosen(every[-count:])}
    different = {frozenset(names): name for name, names in reversed(sets.items()) if names}
    return {name: names for name, names in sets.items() if name in different.values()}


def is_linear(layer: nn.Module) -> bool:
    """Return whether a layer is y = W x + b: ``nn.Linear``, or GPT-2's Conv1D."""
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def named_sets(backbone: nn.Module, names: Sequence[str] | None) -> dict[str, list[str]]:
    """Return some of :func:`layer_sets`, None for all; raise UserError if there is no such set."""
    sets = layer_sets(backbone)
    for name in names or ():
        if name not in sets:
            raise UserError(
                f"the model has no set of layers {name!r}; {suggestion(name, sets)} (it has "
                f"{', '.join(sets)})"
            )
    return {name: sets[name] for name in names or sets}


def set_kernel(
    grams: Mapping[str, torch.Tensor],
    backbone: nn.Module,
    layers: Iterable[str],
    lora: Lora | None = None,
) -> torch.Tensor:
    """Return the kernel of a network of which some layers and the head are trained, (N, N).

    ``grams`` are those of :func:`weight_grams`; of each layer its weight and its bias count. With
    ``lora`` it is what low-rank adapters on these layers have at their start on average over the
    draws of A: their B alone has a gradient, and E[K_LoRA] = s² r/(3 d_in) K_W of peft's A, uniform
    within ±1/√d_in, with s the adapters' scale. Biases are not adapted.
    """
    weights, total = linear_weights(backbone), grams[HEAD].clone()
    for name in layers:
        if lora is None:
            total += grams[f"{name}.weight"] + grams.get(f"{name}.bias", 0.0)
            continue
        shape, layer = weights[name].shape, backbone.get_submodule(name)
        inputs = shape[1] if isinstance(layer, nn.Linear) else shape[0]  # Conv1D has it transposed
        rank = adapter_rank(name, lora)
        scale = lora.alpha / (rank**0.5 if lora.rslora else rank)
        total += scale**2 * rank / (3 * inputs) * grams[f"{name}.weight"]
    return total


def adapter_rank(layer: str, lora: Lora) -> int:
    """Return the rank of one layer's adapter, as peft takes it from ``rank_pattern``."""
    ends = [rank for part, rank in lora.rank_pattern.items() if f".{layer}".endswith(f".{part}")]
    return ends[0] if ends else lora.rank


def set_statistics(kernel: ArrayLike, label: ArrayLike, precision: float) -> dict[str, float]:
    """Return what a kernel at initialisation says of training: a row of a table.

    ``condition``, ``largest`` and ``trace`` of the centred kernel, ``gcv`` and ``gcv_ridge``
    (:func:`~ntktune.linearized.statistics.best_gcv`), ``evidence``, ``alignment``. ``label`` is y
    less f_0, (N,) or (N, C); ``precision`` is eps of the kernel's.
    """
    spectrum = centred_spectrum(kernel, precision)
    error, ridge = best_gcv(spectrum, label)
    return {
        "condition": condition_number(spectrum),
        "largest": float(spectrum.values[-1]),
        "trace": float(spectrum.values.sum()),
        "gcv": error,
        "gcv_ridge": ridge,
        "evidence": log_evidence(kernel, label),
        "alignment": alignment(kernel, label),
    }


def ranked_sets(
    backbone: nn.Module,
    grams: Mapping[str, torch.Tensor],
    shift: ArrayLike,
    sets: Mapping[str, Sequence[str]],
    lora: Lora | None = None,
    precision: float = EPS,
) -> list[dict[str, Any]]:
    """Return :func:`set_statistics` of each set, with ``layers`` and ``parameters``, best first.

    The best has the lowest error that kernel regression predicts from these layers' own kernel
    (``gcv_layers``): beside the head's, which is trained with each set, it often hardly counts.
    ``shift`` is y − f_0. ``all_...`` is :func:`~ntktune.linearized.bounds.addition` of all other
    layers at ``gcv_ridge``.
    """
    whole, rows = set_kernel(grams, backbone, layer_sets(backbone)["all"], lora), []
    for name, layers in sets.items():
        kernel = set_kernel(grams, backbone, layers, lora)
        row = set_statistics(kernel, shift, precision)
        own = centred_spectrum(kernel - grams[HEAD], precision)
        row["gcv_layers"] = best_gcv(own, shift)[0]
        others = addition(kernel, whole - kernel, shift, row["gcv_ridge"])
        row = {"layers": name, "parameters": set_parameters(backbone, layers, lora)} | row
        rows.append(row | {f"all_{key}": value for key, value in others.items()})
    return sorted(rows, key=lambda row: row["gcv_layers"])


def layer_rows(
    backbone: nn.Module,
    grams: Mapping[str, torch.Tensor],
    shift: ArrayLike,
    lora: Lora | None = None,
) -> list[dict[str, Any]]:
    """Return what each linear layer in the blocks says alone: where the kernel is, and its use.

    Rows have ``block``; ``layer``, the name within it; ``parameters``; and of the layer's own
    centred kernel, without the head's, ``trace`` and ``alignment`` with ``shift``, y − f_0.
    """
    rows = []
    for name in layer_sets(backbone)["all"]:
        group = parameter_group(backbone, f"{name}.weight").partition(".")[0]
        number = group.removeprefix("block")
        kernel = (set_kernel(grams, backbone, [name], lora) - grams[HEAD]).numpy()
        rows.append(
            {
                "block": int(number),
                "layer": name.partition(f".{number}.")[2],
                "parameters": set_parameters(backbone, [name], lora),
                "trace": float(np.trace(centred_gram(kernel))),
                "alignment": alignment(kernel, shift),
            }
        )
    return rows


def set_parameters(backbone: nn.Module, layers: Iterable[str], lora: Lora | None = None) -> int:
    """Return how many numbers are trained in a set of layers, without the head."""
    count = 0
    for name in layers:
        module = backbone.get_submodule(name)
        if lora is None:
            count += sum(p.numel() for p in module.parameters(recurse=False))
        else:
            count += adapter_rank(name, lora) * sum(module.weight.shape)
    return count


def lora_of(backbone: nn.Module, layers: Sequence[str], lora: Lora) -> Lora:
    """Return adapters on these layers alone; raise UserError if one has no adapter."""
    adapted_layers(backbone, Lora(targets=layers))
    patterns = {n: adapter_rank(n, lora) for n in layers if adapter_rank(n, lora) != lora.rank}
    return Lora(lora.rank, lora.alpha, list(layers), rank_pattern=patterns, rslora=lora.rslora)
