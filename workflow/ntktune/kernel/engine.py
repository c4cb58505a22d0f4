"""The Gram matrix of a network's gradients: planning, passes, and a check of the result."""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel.capture import Capture
from ntktune.kernel.general import autograd_grams
from ntktune.kernel.groups import parameter_group
from ntktune.kernel.layers import Layer, UnplannedError
from ntktune.kernel.network import (
    LOGITS,
    OUTPUTS,
    check_finite,
    evaluation_state,
    network_copy,
    network_outputs,
)
from ntktune.kernel.plan import Plan, make_plan
from ntktune.kernel.products import Sides
from ntktune.kernel.stack import Stack, find_stack
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
    """An empirical NTK on N examples, or between N and M examples.

    Attributes
    ----------
    kernel
        float64, on the processor. Outputs ``scalar`` and ``difference``: (N, M),
        K[i, j] = ⟨∇θ f(x_i), ∇θ f(x'_j)⟩, not divided by N. ``full``: (N, M, C, C),
        K[i, j, c, d] = ⟨∇θ f_c(x_i), ∇θ f_d(x'_j)⟩; ``diagonal``: (N, M, C), its entries
        with c = d; ``trace``: (N, M), their sum.
    groups
        Kernels of parameter groups, of the same shape; they sum to ``kernel``.
    outputs
        f_0 of the N examples at the given parameters, float64: (N,), or (N, C) for
        ``full``, ``diagonal`` and ``trace``.
    provenance
        How it was computed: parameters, dtype, device, form of the products by parameter,
        which parameters went the general way and why, passes, seconds, peak memory (of the
        process, or on a GPU of the device), and the result of the self-check.
    """

    kernel: torch.Tensor
    groups: dict[str, torch.Tensor]
    outputs: torch.Tensor
    provenance: dict[str, Any] = field(default_factory=dict)


def gram(
    model: nn.Module,
    examples: Sequence[torch.Tensor],
    other: Sequence[torch.Tensor] | None = None,
    outputs: str = "scalar",
    groups: Callable[[str], str] | None = None,
    max_tokens: int = 4096,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    progress: Callable[[float], None] | None = None,
    *,
    max_bytes: float = 2**29,
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
        (B,) or (B, C), or an object whose ``logits`` are that.
    examples
        N one-dimensional tensors of token ids.
    other
        M more of them: the cross kernel between ``examples`` and these; None: the kernel of
        ``examples`` with themselves.
    outputs
        ``scalar``: f is the model's one output. ``difference``: f = l1 - l0 of two logits.
        ``full``, ``diagonal``, ``trace``: all C outputs, see :class:`GramResult`.
    groups
        A parameter's name to its group; by default embedding, each block's attention and
        the rest of it, norms, and head.
    max_tokens
        Padded tokens per micro-batch; memory for activations grows with it.
    dtype, device
        Precision and place of the computation; a model that is elsewhere is copied. None:
        where the model is.
    progress
        Called with the fraction done, from 0 to 1.
    max_bytes
        Room for captured inputs and gradients. Where they need more, a stack of blocks is
        run block by block; a network that is none runs once for each part of its layers.
    check
        Compare some examples with plain autograd at the end.

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
    _check_arguments(examples, other, outputs, max_tokens, dtype)
    started = time.perf_counter()
    model, device = network_copy(model, dtype, device)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise UserError(
            "the model has no trainable parameter (requires_grad is False everywhere); "
            "the kernel is over trainable parameters: switch some on"
        )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    progress = progress or (lambda fraction: None)
    named = groups or functools.partial(parameter_group, model)
    task = functools.partial(
        _Task,
        model=model,
        parameters=parameters,
        groups={name: named(name) for name in parameters},
        examples=examples,
        other=other,
        outputs=outputs,
        max_tokens=max_tokens,
        max_bytes=max_bytes,
        device=device,
        check=check,
    )
    with evaluation_state(model):
        classes = [[0]]
        if outputs not in LOGITS:
            with torch.no_grad():
                count = network_outputs(model, examples[:1], outputs, device).shape[1]
            classes = [list(range(count))] if outputs == "full" else [[c] for c in range(count)]
        parts = [
            _computed(
                task(
                    classes=some,
                    progress=lambda done, n=n: progress((n + done) / len(classes)),
                )
            )
            for n, some in enumerate(classes)
        ]
    found = {
        name: _all_outputs([part.grams[name] for part in parts], outputs, len(classes[0]))
        for name in parts[0].grams
    }
    progress(1.0)
    values = torch.cat([part.outputs for part in parts], dim=1)
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    provenance = {
        "function": outputs,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "parameters": sum(p.numel() for p in parameters.values()),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_bytes": peak,
    } | parts[-1].facts
    return GramResult(
        kernel=torch.stack(list(found.values())).sum(0),
        groups=found,
        outputs=values[:, 0] if outputs in LOGITS else values,
        provenance=provenance,
    )


def _all_outputs(grams: list[torch.Tensor], outputs: str, count: int) -> torch.Tensor:
    """Return a group's kernel in the shape of :class:`GramResult`.

    ``full`` comes as one Gram over N · C values, ``diagonal`` and ``trace`` as one per output.
    """
    if outputs == "full":
        return grams[0].unflatten(1, (-1, count)).unflatten(0, (-1, count)).transpose(1, 2)
    if outputs in LOGITS:
        return grams[0]
    stacked = torch.stack(grams, dim=-1)
    return stacked.sum(-1) if outputs == "trace" else stacked


def _check_arguments(
    examples: Sequence[torch.Tensor],
    other: Sequence[torch.Tensor] | None,
    outputs: str,
    max_tokens: int,
    dtype: torch.dtype,
) -> None:
    if outputs not in OUTPUTS:
        raise UserError(f"outputs={outputs!r} is unknown; choose one of {', '.join(OUTPUTS)}")
    if dtype not in TOLERANCES:
        known = ", ".join(str(d) for d in TOLERANCES)
        raise UserError(f"dtype={dtype} is not supported for a kernel; choose one of {known}")
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens} is too few; a micro-batch needs at least 1")
    for what, texts in (("example", examples), ("example of `other`", other)):
        if texts is None:
            continue
        if len(texts) == 0:
            size = "N=0" if texts is examples else "M=0, `other` is empty"
            raise UserError(f"there are no examples ({size}); a kernel needs at least one text")
        for i, text in enumerate(texts):
            whole = isinstance(text, torch.Tensor) and not text.is_floating_point()
            if not whole or text.dim() != 1:
                shape = tuple(getattr(text, "shape", ()))
                raise UserError(
                    f"{what} {i} is not a one-dimensional tensor of token ids "
                    f"({type(text).__name__}, shape {shape}); tokenise the texts and give "
                    "torch.tensor(ids) of each"
                )
            if len(text) == 0:
                raise UserError(f"{what} {i} has no tokens; remove empty texts")


@dataclass
class _Task:
    """One computation: which function of which texts, and what its parts share.

    The texts' values are numbered in the order in which they are computed: those of
    ``examples`` first, then those of ``other``, each sorted by length.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    groups: dict[str, str]
    examples: Sequence[torch.Tensor]
    other: Sequence[torch.Tensor] | None
    outputs: str
    classes: list[int]
    max_tokens: int
    max_bytes: float
    device: torch.device
    check: bool
    progress: Callable[[float], None]

    def __post_init__(self) -> None:
        self.texts = [*self.examples, *(self.other or [])]
        self.values: list[tuple[int, int]] = []  # number → text, output
        self.batches: list[range] = []
        counts = []
        for first, last in ((0, len(self.examples)), (len(self.examples), len(self.texts))):
            lengths = [len(text) for text in self.texts[first:last] for _ in self.classes]
            for batch in token_batches(lengths, self.max_tokens):
                start = len(self.values)
                self.values += [
                    (first + i // len(self.classes), self.classes[i % len(self.classes)])
                    for i in batch
                ]
                self.batches.append(range(start, len(self.values)))
            counts.append(len(lengths))
        self.sides = Sides(counts[0], counts[1] if self.other is not None else None)
        self.tokens = sum(len(self.texts[text]) for text, _ in self.values)

    def scalar(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return f of one micro-batch, shape (B,), with its graph."""
        chosen = [self.values[number] for number in numbers]
        texts = [self.texts[text] for text, _ in chosen]
        found = network_outputs(self.model, texts, self.outputs, self.device)  # (B, C)
        wanted = torch.tensor([output for _, output in chosen], device=found.device)
        return found.gather(1, wanted[:, None]).squeeze(1)

    def lengths(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of tokens."""
        return [len(self.texts[self.values[number][0]]) for number in numbers]

    def texts_of(self, numbers: Sequence[int]) -> list[int]:
        """Return the texts' places in what the caller gave."""
        shift = len(self.examples)
        return [t if t < shift else t - shift for t, _ in (self.values[n] for n in numbers)]

    def places(self) -> torch.Tensor:
        """Return each value's number, in the order of the caller's texts and of the outputs."""
        keys = torch.tensor([text * len(self.classes) + c for text, c in self.values])
        return keys.argsort()

    def members(self, names: Sequence[str]) -> dict[str, list[nn.Parameter]]:
        """Parameters by group."""
        found: dict[str, list[nn.Parameter]] = {}
        for name in names:
            found.setdefault(self.groups[name], []).append(self.parameters[name])
        return found


@dataclass
class _Computed:
    """Grams by group (of the sides' shape), f of the examples (N, classes), and facts."""

    grams: dict[str, torch.Tensor]
    outputs: torch.Tensor
    facts: dict[str, Any]


def _computed(task: _Task) -> _Computed:
    """Compute one task's Grams, in the order of the caller's texts."""
    grams, values, facts = _structured_and_general(task)
    whole = torch.stack(list(grams.values())).sum(0)
    if task.other is None:
        check_finite(whole.diagonal(), "squared gradient", task.texts_of(range(task.sides.rows)))
    else:
        check_finite(whole.sum(1), "kernel row", task.texts_of(range(task.sides.rows)))
    facts["self_check"] = _self_check(task, grams, values) if task.check else None
    places = task.places()
    rows, columns = task.sides.split(places)
    columns = columns if task.other is None else columns - task.sides.rows
    # in the order of the parameters, whatever the order of computation was
    names = dict.fromkeys(task.groups.values())
    return _Computed(
        {name: grams[name].cpu()[rows][:, columns] for name in names},
        values.double().cpu()[rows].view(-1, len(task.classes)),
        facts | {"micro_batches": len(task.batches)},
    )


def _probe_pair(task: _Task) -> list[int]:
    """Return two short examples, but not so short that attention has nothing to weigh."""
    lengths = task.lengths(range(task.sides.total))
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
    pair = _probe_pair(task)
    check_finite(task.scalar(pair), "output", task.texts_of(pair))
    general: dict[str, str] = {}
    while True:
        plan = make_plan(task.model, task.scalar, task.parameters, pair, general)
        try:
            return _Sums(task, plan).result(pair)
        except UnplannedError as error:
            known = len(plan.general)
            general = plan.general | dict.fromkeys(error.layer.parameters, error.reason)
            if len(general) == known:  # cannot happen; an endless loop would be worse
                raise


class _Sums:
    """The sums that a computation builds up, pass by pass, and how it is going."""

    def __init__(self, task: _Task, plan: Plan):
        self.task, self.plan = task, plan
        first = next(iter(task.parameters.values()))
        self.item_bytes = first.element_size()
        self.grams = {
            group: torch.zeros(task.sides.shape, dtype=torch.float64, device=first.device)
            for group in set(task.groups.values())
        }
        self.values = torch.zeros(task.sides.total, device=first.device, dtype=first.dtype)
        self.used: set[str] = set()
        self.forms: dict[str, list[str]] = {}
        self.structured_share = 0.5 if plan.general else 1.0

    def result(
        self, pair: Sequence[int]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]:
        """Compute everything; return Grams, outputs and facts."""
        task, plan = self.task, self.plan
        passes = self.split(plan.layers)
        stack = None
        if len(passes) > 1:
            stack = find_stack(task.model, task.scalar, pair, task.parameters)
        if stack is None:
            self.whole_passes(passes or [[]])
        else:
            self.by_block(stack)
        general = [name for name in task.parameters if name in plan.general]
        for group, block in autograd_grams(
            task.scalar,
            task.sides,
            task.members(general),
            task.max_bytes,
            lambda done: task.progress(1 - (1 - self.structured_share) * (1 - done)),
        ).items():
            self.grams[group] += block
        facts = {
            "passes": "block by block" if stack else max(1, len(passes)),
            "forms": {form: sorted(names) for form, names in sorted(self.forms.items())},
            "general": {name: plan.general[name] for name in general},
            "without_gradient": [
                n for n in task.parameters if n not in self.used and n not in plan.general
            ],
        }
        return self.grams, self.values, facts

    def split(self, layers: Sequence[Layer]) -> list[list[Layer]]:
        """Split layers into passes whose captures fit into memory."""
        task = self.task
        return self.plan.passes(layers, task.tokens, self.item_bytes, task.max_bytes)

    def keep(self, batch: range, found: torch.Tensor) -> None:
        """Check and keep a micro-batch's outputs."""
        check_finite(found, "output", self.task.texts_of(batch))
        self.values[batch.start : batch.stop] = found.detach()

    def contract(self, capture: Capture, progress: Callable[[float], None]) -> None:
        """Add the Grams of what was captured, and free it."""
        groups = self.task.groups
        self.used |= capture.uses.keys() | capture.vectors.keys()
        for name, block in capture.vector_grams().items():
            self.grams[groups[name]] += block
        units = [part for unit in capture.units() for part in _by_group(unit, groups)]
        costs = [capture.cost(unit) for unit in units]
        spent, total = 0.0, sum(costs) or 1.0
        for unit, cost in zip(units, costs, strict=True):
            block, form = capture.unit_gram(unit)
            self.grams[groups[unit[0]]] += block
            self.forms.setdefault(form, []).extend(unit)
            spent += cost
            progress(spent / total)

    def whole_passes(self, passes: list[list[Layer]]) -> None:
        """Run the whole network once for each part of its layers."""
        task = self.task
        share = self.structured_share / len(passes)
        for number, layers in enumerate(passes):
            capture = Capture(layers, self.plan.idle, task.sides)
            done = 0
            for batch in task.batches:
                lengths = task.lengths(batch)
                with capture.watching(lengths, batch.start) as watched:
                    values = task.scalar(batch)
                    watched.backward(values.sum())
                self.keep(batch, values)
                done += sum(lengths)
                task.progress(share * (number + 0.5 * done / task.tokens))
            self.contract(
                capture, lambda part, n=number: task.progress(share * (n + 0.5 + 0.5 * part))
            )

    def by_block(self, stack: Stack) -> None:
        """Run the network forward once, then back one block after the other."""
        task, plan = self.task, self.plan
        stages = len(stack.blocks) + 2
        within = [{id(m) for m in block.modules()} for block in stack.blocks]

        def part(layers: Sequence[Layer], block: int) -> list[Layer]:
            return [layer for layer in layers if id(layer.module) in within[block]]

        def step(stage: int, fraction: float) -> None:
            task.progress(self.structured_share * (stage + fraction) / stages)

        inside = set().union(*within)
        ends = Capture(
            [layer for layer in plan.layers if id(layer.module) not in inside],
            [layer for layer in plan.idle if id(layer.module) not in inside],
            task.sides,
        )
        passages, gradients = [], []
        for n, batch in enumerate(task.batches):
            with torch.no_grad():
                passage, values = stack.passage(task.scalar, batch)
            self.keep(batch, values)
            with ends.watching(task.lengths(batch), batch.start) as watched:
                gradients.append(stack.top(task.scalar, batch, passage, watched))
            passage.hidden.pop()  # nothing below needs the last block's output
            passages.append(passage)
            step(0, (n + 1) / len(task.batches))
        for stage, block in enumerate(reversed(range(len(stack.blocks))), start=1):
            above, gradients = gradients, []
            for layers in self.split(part(plan.layers, block)) or [[]]:
                capture = Capture(layers, part(plan.idle, block), task.sides)
                gradients = []
                for batch, passage, gradient in zip(task.batches, passages, above, strict=True):
                    with capture.watching(task.lengths(batch), batch.start) as watched:
                        gradients.append(stack.through(block, passage, gradient, watched))
                self.contract(capture, lambda fraction, stage=stage: step(stage, fraction))
            for passage in passages:
                passage.hidden.pop()
        for batch, gradient in zip(task.batches, gradients, strict=True):
            with ends.watching(task.lengths(batch), batch.start) as watched:
                stack.bottom(task.scalar, batch, gradient, watched)
        self.contract(ends, lambda fraction: step(stages - 1, fraction))


def _by_group(unit: list[str], groups: dict[str, str]) -> list[list[str]]:
    """Split a unit whose weights belong to different groups."""
    parts: dict[str, list[str]] = {}
    for name in unit:
        parts.setdefault(groups[name], []).append(name)
    return list(parts.values())


def _self_check(
    task: _Task, grams: dict[str, torch.Tensor], values: torch.Tensor
) -> dict[str, Any]:
    """Compare the longest and the shortest example with plain autograd, group by group.

    The outputs are compared with those of each example by itself.

    Raises
    ------
    UserError
        They disagree: the structured rules do not fit this model.
    """
    sides = task.sides
    rows = sorted({0, sides.rows - 1})
    columns = rows if sides.columns is None else sorted({sides.rows, sides.total - 1})
    chosen = rows if sides.columns is None else rows + columns
    reference = autograd_grams(
        lambda numbers: task.scalar([chosen[number] for number in numbers]),
        Sides(len(rows), None if sides.columns is None else len(columns)),
        task.members(list(task.parameters)),
        task.max_bytes,
    )
    shift = 0 if sides.columns is None else sides.rows
    places = [column - shift for column in columns]
    whole = torch.stack(list(reference.values())).sum(0).abs().max().item()
    compared = {
        f"kernel of parameter group {group!r}": (grams[group][rows][:, places], expected, whole)
        for group, expected in reference.items()
    }
    alone = torch.cat([task.scalar([number]).detach() for number in chosen])
    compared["output"] = (values[chosen], alone, values.abs().max().item())
    worst = 0.0
    dtype = next(iter(task.parameters.values())).dtype
    texts = sorted(task.texts_of(chosen))
    for what, (found, expected, largest) in compared.items():
        found, expected = found.double().cpu(), expected.double().cpu()
        scale = max(expected.abs().max().item(), FLOOR * largest)
        error = (found - expected).abs().max().item()
        if not error <= TOLERANCES[dtype] * scale:
            raise UserError(
                f"the {what} is wrong on examples {texts}: found {found.tolist()}, plain autograd "
                f"on each by itself gives {expected.tolist()}; the model computes something that "
                "the engine does not see (it may depend on padding, on the other texts of a "
                "batch, or on chance): dtype float64 shows whether it is rounding, max_tokens=1 "
                "computes each text by itself"
            )
        worst = max(worst, error / scale if scale else 0.0)
    return {"examples": texts, "largest_relative_error": worst}
