"""The passes of one computation, the Grams that they add up to, and a check of the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel.capture import Capture, PaddingError
from ntktune.kernel.computation import TOLERANCES, Computation
from ntktune.kernel.general import autograd_grams
from ntktune.kernel.layers import Layer, UnplannedError
from ntktune.kernel.network import check_finite
from ntktune.kernel.plan import Plan, make_plan
from ntktune.kernel.products import Workspace
from ntktune.kernel.stack import Stack, find_stack
from ntktune.network.streaming import reader_of

# A group's own tolerance never falls below this share of the kernel's largest entry:
# attention's key biases, for one, have a gradient of nothing but rounding.
FLOOR = 1e-3
CHANCE_SIGNS = (
    "; a layer whose whole gradient is zero but for rounding has signs by chance (queries and keys "
    "in a text of one token): leave such texts out"
)


@dataclass
class Computed:
    """Grams by group (of the sides' shape), f of the examples (N, classes), and facts."""

    grams: dict[str, torch.Tensor]
    outputs: torch.Tensor
    facts: dict[str, Any]


def computed(computation: Computation) -> Computed:
    """Compute the Grams, in the order of the caller's texts."""
    done, facts = _completed(computation)
    square, count = computation.other is None, computation.sides.rows
    whole = torch.stack(list(done.grams.values())).sum(0)
    told = (whole.diagonal(), "squared gradient") if square else (whole.sum(1), "kernel row")
    check_finite(*told, computation.texts_of(range(count)))
    facts["self_check"] = _self_check(done) if computation.check else None
    rows, columns = computation.sides.split(computation.places())
    columns = columns if square else columns - count
    return Computed(
        {name: gram.cpu()[rows][:, columns] for name, gram in done.grams.items()},
        done.values.double().cpu()[rows].view(-1, len(computation.classes)),
        facts | {"micro_batches": len(computation.batches)},
    )


def _completed(computation: Computation) -> tuple[_Passes, dict[str, Any]]:
    """Return the passes when all are done, and facts about them."""
    # If a layer does what the probe did not show, its parameters go the general way and all starts
    # again; if padding has a gradient, all starts again with every row looked at.
    general: dict[str, str] = {}
    unseen = True
    while True:
        plan = make_plan(computation, general)
        if not unseen:
            plan.dense.clear()
        passes = _Passes(computation, plan)
        try:
            return passes, passes.run()
        except PaddingError:
            unseen = False
        except UnplannedError as error:
            # always more than before: a watched layer has a parameter outside
            general = plan.general | dict.fromkeys(error.layer.parameters, error.reason)


class _Passes:
    """Passes over the network, and the Grams, in the order of the micro-batches."""

    def __init__(self, computation: Computation, plan: Plan):
        self.computation, self.plan = computation, plan
        sides, device = computation.sides, computation.device
        self.grams = {
            group: torch.zeros(sides.shape, dtype=torch.float64, device=device)
            for group in dict.fromkeys(computation.groups.values())
        }
        self.values = torch.zeros(sides.total, device=device, dtype=computation.dtype)
        self.used: set[str] = set()
        self.forms: dict[str, list[str]] = {}
        self.workspace = Workspace()
        self.structured_share = 0.5 if plan.general else 1.0
        self.stack: Stack | None = None
        self.spilled = False

    def run(self) -> dict[str, Any]:
        computation, plan = self.computation, self.plan
        captured = sum(plan.numbers.values()) * computation.tokens * computation.dtype.itemsize
        by_block = captured > computation.room.max_bytes / 2
        stored = reader_of(computation.parameters.values()) is not None
        # all gradients of a streamed network may not fit: the check takes them by block
        self.stack = stack = find_stack(computation) if by_block or stored else None
        passes = self.split(plan.numbers)
        if by_block and stack:
            self.by_block(stack)
        else:
            self.whole_passes(passes)
        share = self.structured_share
        general = [name for name in computation.parameters if name in plan.general]
        for group, gram in autograd_grams(
            computation.scalar,
            computation.sides,
            {name: computation.parameters[name] for name in general},
            computation.groups,
            computation.room.max_bytes,
            lambda done: computation.progress(1 - (1 - share) * (1 - done)),
        ).items():
            self.grams[group] += gram
        return {
            "passes": "block by block" if by_block and stack else len(passes),
            "spilled": self.spilled,
            "forms": {form: sorted(names) for form, names in sorted(self.forms.items())},
            "general": {name: plan.general[name] for name in general},
            "without_gradient": [
                n for n in computation.parameters if n not in self.used and n not in plan.general
            ],
        }

    def split(self, layers: Iterable[Layer]) -> list[list[Layer]]:
        """Split layers into passes whose captures fit into memory; one pass without layers."""
        number_bytes = self.computation.tokens * self.computation.dtype.itemsize
        return self.plan.passes(list(layers), number_bytes, self.computation.room.max_bytes) or [[]]

    def capture(self, layers: Sequence[Layer], idle: Sequence[Layer]) -> Capture:
        sides, projection = self.computation.sides, self.computation.projection
        return Capture(layers, idle, self.plan.dense, sides, self.workspace, projection)

    def keep(self, batch: range, found: torch.Tensor) -> None:
        check_finite(found, "output", self.computation.texts_of(batch))
        self.values[batch.start : batch.stop] = found.detach()

    def contract(self, capture: Capture, progress: Callable[[float], None]) -> None:
        """Add the Grams of what was captured, and free it."""
        if capture.outside and bool(torch.stack(capture.outside).any()):
            raise PaddingError
        groups = self.computation.groups
        self.used |= capture.uses.keys() | capture.vectors.keys()
        units = capture.units(groups)
        costs = [capture.cost(unit) for unit in units]
        spent, total = 0.0, sum(costs) or 1.0
        for unit, cost in zip(units, costs, strict=True):
            gram, form = capture.unit_gram(unit)
            self.grams[groups[unit[0]]] += gram
            self.forms.setdefault(form, []).extend(unit)
            spent += cost
            progress(spent / total)
        for name, gram in capture.vector_grams().items():
            self.grams[groups[name]] += gram

    def whole_passes(self, passes: list[list[Layer]]) -> None:
        """Run the whole network once for each part of its layers."""
        computation, share = self.computation, self.structured_share
        for number, layers in enumerate(passes):

            def step(fraction: float, number: int = number) -> None:
                computation.progress(share * (number + fraction) / len(passes))

            capture = self.capture(layers, self.plan.idle)
            done = 0
            for batch in computation.batches:
                lengths = computation.lengths(batch)
                with capture.watching(lengths, batch.start) as watched:
                    values = computation.scalar(batch)
                    watched.backward(values.sum())
                self.keep(batch, values)
                done += sum(lengths)
                step(0.5 * done / computation.tokens)
            self.contract(capture, lambda part, step=step: step(0.5 + 0.5 * part))

    def by_block(self, stack: Stack) -> None:
        """Run the network forward once, then back one block after the other."""
        computation, plan, share = self.computation, self.plan, self.structured_share
        batches, stages = computation.batches, len(stack.blocks) + 2

        def part(layers: Iterable[Layer], modules: set[nn.Module]) -> list[Layer]:
            return [layer for layer in layers if layer.module in modules]

        def step(stage: int, fraction: float) -> None:
            computation.progress(share * (stage + fraction) / stages)

        within = [set(block.modules()) for block in stack.blocks]
        outside = set(computation.model.modules()).difference(*within)
        ends = self.capture(part(plan.numbers, outside), part(plan.idle, outside))
        inputs = computation.tokens * stack.width * computation.dtype.itemsize
        self.spilled = inputs > computation.room.chunk_bytes / 2
        passages = stack.forward(batches, lambda done: step(0, done), spilled=self.spilled)
        gradients = []
        for batch, passage in zip(batches, passages, strict=True):
            with ends.watching(computation.lengths(batch), batch.start) as watched:
                values, gradient = stack.top(batch, passage, watched)
            self.keep(batch, values)
            gradients.append(gradient)
            passage.hidden.pop()  # nothing below needs the last block's output
        for stage, block in enumerate(reversed(range(len(stack.blocks))), start=1):
            above = gradients
            for layers in self.split(part(plan.numbers, within[block])):
                capture = self.capture(layers, part(plan.idle, within[block]))
                gradients = []
                for batch, passage, gradient in zip(batches, passages, above, strict=True):
                    with capture.watching(computation.lengths(batch), batch.start) as watched:
                        gradients.append(stack.through(block, passage, gradient, watched))
                self.contract(capture, lambda fraction, stage=stage: step(stage, fraction))
            for passage in passages:
                passage.hidden.pop()
        for batch, gradient in zip(batches, gradients, strict=True):
            with ends.watching(computation.lengths(batch), batch.start) as watched:
                stack.bottom(batch, gradient, watched)
        self.contract(ends, lambda fraction: step(stages - 1, fraction))


def _self_check(done: _Passes) -> dict[str, Any]:
    """Compare the longest and shortest example with plain autograd; UserError if they differ."""
    computation, sides = done.computation, done.computation.sides
    rows, columns = (sorted({0, count - 1}) for count in sides.shape)
    square = sides.columns is None
    chosen = rows if square else rows + [sides.rows + column for column in columns]
    few = dataclasses.replace(sides, rows=len(rows), columns=None if square else len(columns))
    if done.stack:
        reference, alone = done.stack.grams(computation, chosen, few)
    else:
        reference = autograd_grams(
            lambda numbers: computation.scalar([chosen[number] for number in numbers]),
            *(few, computation.parameters, computation.groups, computation.room.max_bytes),
        )
        alone = torch.cat([computation.scalar([number]).detach() for number in chosen])
    whole = torch.stack(list(reference.values())).sum(0).abs().max().item()
    compared = {
        f"kernel of parameter group {group!r}": (done.grams[group][rows][:, columns], gram, whole)
        for group, gram in reference.items()
    }
    compared["output"] = (done.values[chosen], alone, done.values.abs().max().item())
    worst = 0.0
    texts = sorted(computation.texts_of(chosen))
    for what, (found, expected, largest) in compared.items():
        found, expected = found.double().cpu(), expected.double().cpu()
        scale = max(expected.abs().max().item(), FLOOR * largest)
        error = (found - expected).abs().max().item()
        if not error <= TOLERANCES[computation.dtype] * scale:
            raise UserError(
                f"the {what} is wrong on examples {texts}: found {found.tolist()}, plain autograd "
                f"on each by itself gives {expected.tolist()}; the model computes something that "
                "the engine does not see (it may depend on padding, on the other texts of a "
                "batch, or on chance): dtype float64 shows whether it is rounding, max_tokens=1 "
                f"computes each text by itself{CHANCE_SIGNS if sides.variant != 'sgd' else ''}"
            )
        worst = max(worst, error / scale if scale else 0.0)
    return {"examples": texts, "largest_relative_error": worst}
