"""One computation of Grams: its texts and batches, the passes, and a check of the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel.capture import Capture, PaddingError
from ntktune.kernel.general import autograd_grams
from ntktune.kernel.layers import Layer, UnplannedError
from ntktune.kernel.network import check_finite, network_outputs
from ntktune.kernel.plan import Plan, make_plan
from ntktune.kernel.products import SIGN_FLOORS, Sides, Workspace
from ntktune.kernel.stack import Stack, find_stack
from ntktune.network.models import token_batches

# The share of a group's largest entry by which the kernel may differ from plain
# autograd. Hugging Face computes parts in float32 even in a float64 model; bfloat16 differs by a
# tenth between a batch and a single text after 30 blocks.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.5}
# A group's own tolerance never falls below this share of the kernel's largest entry:
# attention's key biases, for one, have a gradient of nothing but rounding.
FLOOR = 1e-3
CHANCE_SIGNS = (
    "; a layer whose whole gradient is zero but for rounding has signs by chance (queries and keys "
    "in a text of one token): leave such texts out"
)
# Padded tokens per micro-batch that a processor takes at once: more are slower, and need more
# memory.
PROCESSOR_TOKENS = 512


@dataclass
class Task:
    """One computation: which function of which texts, and what its parts share.

    Values are numbered in the order in which they are computed: those of ``examples`` first, then
    those of ``other``, each sorted by length.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    groups: dict[str, str]
    examples: Sequence[torch.Tensor]
    other: Sequence[torch.Tensor] | None
    outputs: str
    classes: list[int]
    variant: str
    projection: int | None
    max_tokens: int
    max_bytes: float
    tile_bytes: float
    device: torch.device
    check: bool
    progress: Callable[[float], None]
    starts: tuple[int, int] = (0, 0)  # of both sides' texts in what the caller gave

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
        columns = counts[1] if self.other is not None else None
        dtype = next(iter(self.parameters.values())).dtype
        floor = SIGN_FLOORS[dtype] if self.variant != "sgd" else 0.0
        self.sides = Sides(counts[0], columns, self.variant, floor)
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
        first, second = self.starts
        shift = len(self.examples)
        texts = [self.values[number][0] for number in numbers]
        return [t + first if t < shift else t - shift + second for t in texts]

    def places(self) -> torch.Tensor:
        """Return each value's number, in the order of the caller's texts and of the outputs."""
        keys = torch.tensor([text * len(self.classes) + c for text, c in self.values])
        return keys.argsort()


@dataclass
class Computed:
    """Grams by group (of the sides' shape), f of the examples (N, classes), and facts."""

    grams: dict[str, torch.Tensor]
    outputs: torch.Tensor
    facts: dict[str, Any]


def computed(task: Task) -> Computed:
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
    return Computed(
        {name: grams[name].cpu()[rows][:, columns] for name in names},
        values.double().cpu()[rows].view(-1, len(task.classes)),
        facts | {"micro_batches": len(task.batches)},
    )


def probe_pair(task: Task) -> list[int]:
    """Return two short examples, but not so short that attention has nothing to weigh.

    They are of different lengths if there are any: rows that a model packs show then.
    """
    lengths = task.lengths(range(task.sides.total))
    enough = min(8, max(lengths))
    ordered = sorted((n, i) for i, n in enumerate(lengths) if n >= enough)
    first = ordered[0]
    other = next((pair for pair in ordered if pair[0] > first[0]), None)
    shorter = [(n, i) for i, n in enumerate(lengths) if n < enough]
    other = other or max(shorter, default=None) or (ordered[1:2] or [first])[0]
    return [first[1], other[1]]


def _structured_and_general(
    task: Task,
) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]:
    """Return group Grams and outputs in the order of the micro-batches, and facts about them.

    If a layer does what the probe did not show, its parameters go the general way and all starts
    again; if padding has a gradient, all starts again with every row looked at.
    """
    pair = probe_pair(task)
    check_finite(task.scalar(pair), "output", task.texts_of(pair))
    lengths = task.lengths(pair)
    general: dict[str, str] = {}
    unseen = True
    while True:
        plan = make_plan(task.model, task.scalar, task.parameters, pair, lengths, general)
        if not unseen:
            plan.dense.clear()
        try:
            return _Sums(task, plan).result(pair)
        except PaddingError:
            unseen = False
        except UnplannedError as error:
            known = len(plan.general)
            general = plan.general | dict.fromkeys(error.layer.parameters, error.reason)
            if len(general) == known:  # cannot happen; an endless loop would be worse
                raise


class _Sums:
    """The sums that a computation builds up, pass by pass, and how it is going."""

    def __init__(self, task: Task, plan: Plan):
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
        self.workspace = Workspace()
        self.structured_share = 0.5 if plan.general else 1.0

    def result(
        self, pair: Sequence[int]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]:
        """Compute everything; return Grams, outputs and facts."""
        task, plan = self.task, self.plan
        captured = sum(plan.numbers.values()) * task.tokens * self.item_bytes
        stack = None
        if captured > task.max_bytes / 2:
            stack = find_stack(task.model, task.scalar, pair, task.parameters)
        passes = self.split(plan.layers) or [[]]
        if stack is None:
            self.whole_passes(passes)
        else:
            self.by_block(stack)
        general = [name for name in task.parameters if name in plan.general]
        for group, block in autograd_grams(
            task.scalar,
            task.sides,
            {name: task.parameters[name] for name in general},
            task.groups,
            task.max_bytes,
            lambda done: task.progress(1 - (1 - self.structured_share) * (1 - done)),
        ).items():
            self.grams[group] += block
        facts = {
            "passes": "block by block" if stack else len(passes),
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

    def capture(self, layers: Sequence[Layer], idle: Sequence[Layer]) -> Capture:
        """Return a capture of some layers."""
        return Capture(
            layers, idle, self.plan.dense, self.task.sides, self.workspace, self.task.projection
        )

    def keep(self, batch: range, found: torch.Tensor) -> None:
        """Check and keep a micro-batch's outputs."""
        check_finite(found, "output", self.task.texts_of(batch))
        self.values[batch.start : batch.stop] = found.detach()

    def contract(self, capture: Capture, progress: Callable[[float], None]) -> None:
        """Add the Grams of what was captured, and free it."""
        capture.check_padding()
        groups = self.task.groups
        self.used |= capture.uses.keys() | capture.vectors.keys()
        units = [part for unit in capture.units() for part in _by_group(unit, groups)]
        costs = [capture.cost(unit) for unit in units]
        spent, total = 0.0, sum(costs) or 1.0
        for unit, cost in zip(units, costs, strict=True):
            block, form = capture.unit_gram(unit)
            self.grams[groups[unit[0]]] += block
            self.forms.setdefault(form, []).extend(unit)
            spent += cost
            progress(spent / total)
        for name, block in capture.vector_grams().items():
            self.grams[groups[name]] += block

    def whole_passes(self, passes: list[list[Layer]]) -> None:
        """Run the whole network once for each part of its layers."""
        task = self.task
        share = self.structured_share / len(passes)
        for number, layers in enumerate(passes):
            capture = self.capture(layers, self.plan.idle)
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
        ends = self.capture(
            [layer for layer in plan.layers if id(layer.module) not in inside],
            [layer for layer in plan.idle if id(layer.module) not in inside],
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
                capture = self.capture(layers, part(plan.idle, block))
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


def _self_check(task: Task, grams: dict[str, torch.Tensor], values: torch.Tensor) -> dict[str, Any]:
    """Compare the longest and the shortest example with plain autograd, group by group.

    The outputs are compared with those of each example by itself. Raises UserError if they
    disagree: the structured rules do not fit this model.
    """
    sides = task.sides
    rows = sorted({0, sides.rows - 1})
    columns = rows if sides.columns is None else sorted({sides.rows, sides.total - 1})
    chosen = rows if sides.columns is None else rows + columns
    reference = autograd_grams(
        lambda numbers: task.scalar([chosen[number] for number in numbers]),
        dataclasses.replace(
            sides, rows=len(rows), columns=None if sides.columns is None else len(columns)
        ),
        task.parameters,
        task.groups,
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
                f"computes each text by itself{CHANCE_SIGNS if sides.variant != 'sgd' else ''}"
            )
        worst = max(worst, error / scale if scale else 0.0)
    return {"examples": texts, "largest_relative_error": worst}
