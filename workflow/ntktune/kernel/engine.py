"""The Gram matrix of a network's gradients: planning, passes, and a check of the result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel.capture import Capture
from ntktune.kernel.general import autograd_grams
from ntktune.kernel.groups import parameter_group
from ntktune.kernel.layers import UnplannedError
from ntktune.kernel.network import (
    OUTPUTS,
    check_finite,
    evaluation_state,
    network_copy,
    scalar_outputs,
)
from ntktune.kernel.plan import Plan, make_plan
from ntktune.models import token_batches

# The share of a group's largest entry by which the kernel may differ from plain
# autograd. Hugging Face computes parts in float32 even in a float64 model; bfloat16 differs by a
# tenth between a batch and a single text after 30 blocks.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.5}
# A group's own tolerance never falls below this share of the kernel's largest entry:
# attention's key biases, for one, have a gradient of nothing but rounding.
FLOOR = 1e-3


@dataclass(frozen=True)
class GramResult:
    """An empirical NTK on N examples.

    Attributes
    ----------
    kernel
        G, shape (N, N), float64: G[i, j] = ⟨∇θ f(x_i), ∇θ f(x_j)⟩, not divided by N.
    groups
        Grams of parameter groups, (N, N) each; they sum to ``kernel``.
    outputs
        f_0, shape (N,), float64: f at the given parameters.
    provenance
        How it was computed: parameters, dtype, device, which parameters went the general
        way and why, forms of the products, and the result of the self-check.
    """

    kernel: torch.Tensor
    groups: dict[str, torch.Tensor]
    outputs: torch.Tensor
    provenance: dict[str, Any] = field(default_factory=dict)


def gram(
    model: nn.Module,
    examples: Sequence[torch.Tensor],
    outputs: str = "scalar",
    max_tokens: int = 4096,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    progress: Callable[[float], None] | None = None,
    *,
    max_bytes: float = 2**31,
    check: bool = True,
) -> GramResult:
    """Return the empirical NTK of a network on some texts, exact, over all its parameters.

    K(x, x') = ⟨∇θ f(x), ∇θ f(x')⟩ over all parameters with ``requires_grad``, in
    evaluation mode (SR26 eq 5 without the 1/n). Linear layers, embeddings and norms are
    contracted from their inputs and output gradients (Novak et al. 2022); every other
    parameter takes the slow general way, which the provenance lists. The model is
    returned as it came.

    Parameters
    ----------
    model
        Called with ``input_ids`` and ``attention_mask``, both (B, T), right-padded; returns
        (B,) or (B, 2), or an object whose ``logits`` are that.
    examples
        N one-dimensional tensors of token ids.
    outputs
        ``scalar``: f is the model's one output. ``difference``: f = l1 - l0 of two logits.
    max_tokens
        Padded tokens per micro-batch; memory for activations grows with it.
    dtype, device
        Precision and place of the computation; a model that is elsewhere is copied. None:
        where the model is.
    progress
        Called with the fraction done, from 0 to 1.
    max_bytes
        Room for captured inputs and gradients; where they need more, the network is run
        once for each part of its layers.
    check
        Compare two examples with plain autograd at the end.

    Returns
    -------
    GramResult
        Kernel, its groups, outputs and provenance, in float64 on the processor.

    Raises
    ------
    UserError
        No examples, an empty example, no trainable parameter, outputs that do not fit, a
        value that is not finite, or a result that plain autograd does not confirm.
    """
    _check_arguments(examples, outputs, max_tokens, dtype)
    model, device = network_copy(model, dtype, device)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise UserError(
            "the model has no trainable parameter (requires_grad is False everywhere); "
            "the kernel is over trainable parameters: switch some on"
        )
    batches = list(token_batches([len(e) for e in examples], max_tokens))
    order = [i for batch in batches for i in batch]
    scalar = functools.partial(scalar_outputs, model, outputs=outputs, device=device)
    task = _Task(
        model=model,
        scalar=scalar,
        parameters=parameters,
        groups={name: parameter_group(model, name) for name in parameters},
        examples=examples,
        batches=batches,
        order=order,
        max_bytes=max_bytes,
        progress=progress or (lambda fraction: None),
    )
    with evaluation_state(model):
        grams, values, facts = _structured_and_general(task)
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        # in the order of the parameters, whatever the order of computation was
        groups = {g: grams[g].cpu()[back][:, back] for g in dict.fromkeys(task.groups.values())}
        kernel = torch.stack(list(groups.values())).sum(0)
        check_finite(kernel.diagonal(), "squared gradient", range(len(order)))
        facts["self_check"] = _self_check(task, groups, values[back], dtype) if check else None
    task.progress(1.0)
    provenance = {
        "function": outputs,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "parameters": sum(p.numel() for p in parameters.values()),
        "micro_batches": len(batches),
    } | facts
    return GramResult(kernel, groups, values.double().cpu()[back], provenance)


def _check_arguments(
    examples: Sequence[torch.Tensor], outputs: str, max_tokens: int, dtype: torch.dtype
) -> None:
    if outputs not in OUTPUTS:
        raise UserError(f"outputs={outputs!r} is unknown; choose one of {', '.join(OUTPUTS)}")
    if dtype not in TOLERANCES:
        known = ", ".join(str(d) for d in TOLERANCES)
        raise UserError(f"dtype={dtype} is not supported for a kernel; choose one of {known}")
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens} is too few; a micro-batch needs at least 1")
    if len(examples) == 0:
        raise UserError("there are no examples (N=0); a kernel needs at least one text")
    for i, example in enumerate(examples):
        whole = isinstance(example, torch.Tensor) and not example.is_floating_point()
        if not whole or example.dim() != 1:
            shape = tuple(getattr(example, "shape", ()))
            raise UserError(
                f"example {i} is not a one-dimensional tensor of token ids "
                f"({type(example).__name__}, shape {shape}); tokenise the texts first"
            )
        if len(example) == 0:
            raise UserError(f"example {i} has no tokens; remove empty texts")


@dataclass
class _Task:
    """What the parts of one computation share."""

    model: nn.Module
    scalar: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    parameters: dict[str, nn.Parameter]
    groups: dict[str, str]
    examples: Sequence[torch.Tensor]
    batches: list[list[int]]
    order: list[int]
    max_bytes: float
    progress: Callable[[float], None]

    @property
    def ordered(self) -> list[torch.Tensor]:
        """The examples in the order of the micro-batches."""
        return [self.examples[i] for i in self.order]

    def members(self, names: Sequence[str]) -> dict[str, list[nn.Parameter]]:
        """Parameters by group."""
        found: dict[str, list[nn.Parameter]] = {}
        for name in names:
            found.setdefault(self.groups[name], []).append(self.parameters[name])
        return found


def _probe_pair(examples: Sequence[torch.Tensor]) -> list[int]:
    """Return two short examples, but not so short that attention has nothing to weigh."""
    lengths = [len(e) for e in examples]
    enough = min(8, max(lengths))
    chosen = [i for _, i in sorted((n, i) for i, n in enumerate(lengths) if n >= enough)[:2]]
    return chosen * (2 // len(chosen))


def _structured_and_general(
    task: _Task,
) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]:
    """Return group Grams and outputs in the order of the micro-batches, and facts about them.

    A layer that does what the probe did not show sends its parameters the general way,
    and all starts again.
    """
    chosen = _probe_pair(task.examples)
    pair = [task.examples[i] for i in chosen]
    check_finite(task.scalar(pair), "output", chosen)
    general: dict[str, str] = {}
    while True:
        plan = make_plan(task.model, task.scalar, task.parameters, pair, general)
        try:
            return _grams(task, plan)
        except UnplannedError as error:
            known = len(plan.general)
            general = plan.general | dict.fromkeys(error.layer.parameters, error.reason)
            if len(general) == known:  # cannot happen; an endless loop would be worse
                raise


def _batches(task: _Task) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Yield each micro-batch with the number of its first example in the order."""
    first = 0
    for batch in task.batches:
        yield first, [task.examples[i] for i in batch]
        first += len(batch)


def _grams(task: _Task, plan: Plan) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]:
    count = len(task.order)
    first_parameter = next(iter(task.parameters.values()))
    grams = {
        group: torch.zeros(count, count, dtype=torch.float64, device=first_parameter.device)
        for group in set(task.groups.values())
    }
    tokens = sum(len(e) for e in task.examples)
    passes = plan.passes(tokens, first_parameter.element_size(), task.max_bytes) or [[]]
    used, forms = set(), {}
    general_share = 0.5 if plan.general else 0.0
    share = (1 - general_share) / len(passes)
    values = torch.zeros(count, device=first_parameter.device, dtype=first_parameter.dtype)
    for number, layers in enumerate(passes):
        capture = Capture(layers, plan.idle, count)
        done = 0
        for first, batch in _batches(task):
            found = capture.add_batch(task.scalar, batch, first)
            check_finite(found, "output", task.order[first : first + len(batch)])
            values[first : first + len(batch)] = found
            done += sum(len(e) for e in batch)
            task.progress(share * (number + 0.5 * done / tokens))
        used |= capture.uses.keys() | capture.vectors.keys()
        for name, block in capture.vector_grams().items():
            grams[task.groups[name]] += block
        units = [part for unit in capture.units() for part in _by_group(unit, task.groups)]
        costs = [capture.cost(unit) for unit in units]
        spent, total = 0.0, sum(costs) or 1.0
        for unit, cost in zip(units, costs, strict=True):
            block, form = capture.unit_gram(unit)
            grams[task.groups[unit[0]]] += block
            forms[form] = forms.get(form, 0) + len(unit)
            spent += cost
            task.progress(share * (number + 0.5 + 0.5 * spent / total))
    general = [name for name in task.parameters if name in plan.general]
    for group, block in autograd_grams(
        task.scalar,
        task.ordered,
        task.members(general),
        task.max_bytes,
        lambda done: task.progress(1 - general_share * (1 - done)),
    ).items():
        grams[group] += block
    facts = {
        "passes": len(passes),
        "forms": dict(sorted(forms.items())),
        "general": {name: plan.general[name] for name in general},
        "without_gradient": [n for n in task.parameters if n not in used and n not in plan.general],
    }
    return grams, values, facts


def _by_group(unit: list[str], groups: dict[str, str]) -> list[list[str]]:
    """Split a unit whose weights belong to different groups."""
    parts: dict[str, list[str]] = {}
    for name in unit:
        parts.setdefault(groups[name], []).append(name)
    return list(parts.values())


def _self_check(
    task: _Task, groups: dict[str, torch.Tensor], values: torch.Tensor, dtype: torch.dtype
) -> dict[str, Any]:
    """Compare the longest and the shortest example with plain autograd, group by group.

    The outputs are compared with those of each example by itself.

    Raises
    ------
    UserError
        They disagree: the structured rules do not fit this model.
    """
    pair = sorted({task.order[0], task.order[-1]})
    chosen = [task.examples[i] for i in pair]
    reference = autograd_grams(
        task.scalar, chosen, task.members(list(task.parameters)), task.max_bytes
    )
    whole = torch.stack(list(reference.values())).sum(0).abs().max().item()
    compared = {
        f"kernel of parameter group {group!r}": (groups[group][pair][:, pair], expected, whole)
        for group, expected in reference.items()
    }
    alone = torch.cat([task.scalar([example]).detach() for example in chosen])
    compared["output"] = (values[pair], alone, values.abs().max().item())
    worst = 0.0
    for what, (found, expected, largest) in compared.items():
        found, expected = found.double().cpu(), expected.double().cpu()
        scale = max(expected.abs().max().item(), FLOOR * largest)
        error = (found - expected).abs().max().item()
        if not error <= TOLERANCES[dtype] * scale:
            raise UserError(
                f"the {what} is wrong on examples {pair}: found {found.tolist()}, plain autograd "
                f"on each by itself gives {expected.tolist()}; the model computes something that "
                "the engine does not see (it may depend on padding, on the other texts of a "
                "batch, or on chance): dtype float64 shows whether it is rounding, max_tokens=1 "
                "computes each text by itself"
            )
        worst = max(worst, error / scale if scale else 0.0)
    return {"examples": pair, "largest_relative_error": worst}
