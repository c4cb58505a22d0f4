"""A stack of blocks, run block by block: memory for one block's captures, whatever the depth.

The network runs once without a graph, and every block's input is kept. Then the gradient goes back
block by block: each is run again from its input, for all micro-batches, before the one below it.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel.computation import Computation
from ntktune.kernel.general import autograd_grams
from ntktune.kernel.layers import WatchedLayers
from ntktune.kernel.network import trainable
from ntktune.kernel.products import Sides
from ntktune.network.matmul import FastLinear
from ntktune.network.models import replaced
from ntktune.store.files import reserve


class _NotAStackError(Exception):
    """The blocks are not simply one after the other."""


class _Reached(Exception):
    """The first block's input, its argument, is there; nothing after it is wanted."""


@dataclass
class Passage:
    """One micro-batch on its way through the blocks."""

    # each block's input, then the last one's output
    hidden: list[torch.Tensor] = field(default_factory=list)
    # each block's other arguments, positional and by name
    arguments: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors within nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, tuple, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _separated(args: tuple, kwargs: dict[str, Any]) -> tuple[torch.Tensor, tuple, dict]:
    """Return a block's hidden states and its other arguments."""
    if args:
        hidden, args = args[0], args[1:]
    else:
        kwargs = dict(kwargs)
        hidden = kwargs.pop("hidden_states", None)
    if not isinstance(hidden, torch.Tensor) or not hidden.is_floating_point():
        raise _NotAStackError("a block's first argument is no hidden state")
    return hidden, args, kwargs


@dataclass
class Stack:
    """Blocks that a network calls in this order, each fed by the one before."""

    blocks: list[nn.Module]
    scalar: Callable[[Sequence[int]], torch.Tensor]
    width: int = 0  # numbers that all inputs of blocks have for one token
    # what each returns behind its output, without tensors (attention weights); None: nothing
    rest: list[tuple | None] = field(default_factory=list)

    def tried(self, batch: Sequence[int]) -> tuple[Passage, torch.Tensor]:
        """Run the whole network on a micro-batch; return its passage and f.

        Raises _NotAStackError if its blocks are none.
        """
        found, self.rest = Passage(), []
        plain = [block.forward for block in self.blocks]

        def recording(number: int) -> Callable:
            def forward(*args: Any, **kwargs: Any) -> Any:
                hidden, others, named = _separated(args, kwargs)
                if len(self.rest) != number or (number and hidden is not found.hidden[-1]):
                    raise _NotAStackError("the blocks are not called one after the other")
                output = plain[number](*args, **kwargs)
                first = output[0] if isinstance(output, tuple) and output else output
                if not isinstance(first, torch.Tensor) or first.shape != hidden.shape:
                    raise _NotAStackError("a block does not return hidden states")
                found.hidden += [first] if number else [hidden, first]
                found.arguments.append((others, named))
                rest = None
                if output is not first:
                    rest = tuple(None if isinstance(x, torch.Tensor) else x for x in output[1:])
                self.rest.append(rest)
                return output

            return forward

        with replaced(self.blocks, [recording(i) for i in range(len(self.blocks))]):
            values = self.scalar(batch)
        if len(self.rest) != len(self.blocks):
            raise _NotAStackError("not every block is called")
        return found, values

    def entered(self, batch: Sequence[int]) -> Passage:
        """Run what comes before the blocks; return the first one's input, and all arguments."""
        found = Passage()

        def recording(number: int) -> Callable:
            def forward(*args: Any, **kwargs: Any) -> Any:
                hidden, others, named = _separated(args, kwargs)
                found.arguments.append((others, named))
                if not number:
                    found.hidden.append(hidden)
                if number == len(self.blocks) - 1:
                    raise _Reached(hidden)
                rest = self.rest[number]
                return hidden if rest is None else (hidden, *rest)

            return forward

        self._reached(batch, [recording(i) for i in range(len(self.blocks))])
        return found

    def forward(
        self,
        batches: Sequence[Sequence[int]],
        progress: Callable[[float], None] = lambda fraction: None,
        *,
        spilled: bool = False,
    ) -> list[Passage]:
        """Run micro-batches through one block after the other, without a graph.

        With ``spilled`` what goes into the blocks is kept in a file of the temporary folder.
        """
        with torch.no_grad():
            passages = [self.entered(batch) for batch in batches]
            put = (lambda hidden: hidden) if not spilled else self._spill(passages)
            for block in range(len(self.blocks)):
                for passage in passages:
                    hidden = self.output(block, passage, passage.hidden[block])
                    passage.hidden[block] = put(passage.hidden[block])
                    passage.hidden.append(hidden)
                progress((block + 1) / len(self.blocks))
        return passages

    def _spill(self, passages: Sequence[Passage]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what puts a hidden state into a file, which ends with what is in it."""
        # not counted as this process's memory: the system writes it out, and reads it again
        firsts = [passage.hidden[0] for passage in passages]
        numbers = len(self.blocks) * sum(first.numel() for first in firsts)
        size = numbers * firsts[0].element_size()
        try:
            with tempfile.NamedTemporaryFile(prefix="ntktune-") as file:
                reserve(file.fileno(), size)  # a full disk is told here, and not by a signal
                room = torch.from_file(file.name, shared=True, size=numbers, dtype=firsts[0].dtype)
        except OSError as error:
            raise UserError(
                f"what goes into the blocks takes {size / 1e9:.1f} GB, for which there is no room "
                f"in the folder {tempfile.gettempdir()} ({error.strerror}); set TMPDIR to another"
            ) from None
        used = 0

        def put(hidden: torch.Tensor) -> torch.Tensor:
            nonlocal used
            part = room[used : used + hidden.numel()].view(hidden.shape)
            used += hidden.numel()
            return part.copy_(hidden)

        return put

    def output(self, block: int, passage: Passage, hidden: torch.Tensor) -> torch.Tensor:
        """Run one block; return its output."""
        others, named = passage.arguments[block]
        with FastLinear():
            output = self.blocks[block](hidden, *others, **named)
        return output[0] if isinstance(output, tuple) else output

    def _above(self, batch: Sequence[int], passage: Passage, hidden: torch.Tensor) -> torch.Tensor:
        """Run what comes after the blocks, of their output; return f."""
        spilled = [own.to(hidden.device) for own in passage.hidden[1:-1]]
        outputs = zip([*spilled, hidden], self.rest, strict=True)
        returned = [own if rest is None else (own, *rest) for own, rest in outputs]
        stand_ins = [functools.partial(lambda out, /, *_, **__: out, out) for out in returned]
        with replaced(self.blocks, stand_ins):
            return self.scalar(batch)

    def _reached(self, batch: Sequence[int], stand_ins: Sequence[Callable]) -> torch.Tensor | None:
        """Run the network up to the block whose stand-in raises _Reached; return what it has."""
        with replaced(self.blocks[: len(stand_ins)], stand_ins):
            try:
                self.scalar(batch)
            except _Reached as stop:
                return stop.args[0]
        return None

    def _below(self, batch: Sequence[int]) -> torch.Tensor | None:
        """Run what comes before the blocks; return the first one's input."""

        def reached(*args: Any, **kwargs: Any) -> None:
            raise _Reached(_separated(args, kwargs)[0])

        return self._reached(batch, [reached])

    def top(
        self, batch: Sequence[int], passage: Passage, watched: WatchedLayers
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run what comes after the blocks; return f, and the gradient of Σ f at their output."""
        leaf = passage.hidden[-1].detach().requires_grad_()
        values = self._above(batch, passage, leaf)
        return values, watched.backward(values.sum(), beyond=leaf)

    def through(
        self, block: int, passage: Passage, gradient: torch.Tensor, watched: WatchedLayers
    ) -> torch.Tensor:
        """Run one block again; return the gradient at its input from that at its output."""
        leaf = passage.hidden[block].to(gradient.device).detach().requires_grad_()
        return watched.backward(self.output(block, passage, leaf), gradient, beyond=leaf)

    def bottom(self, batch: Sequence[int], gradient: torch.Tensor, watched: WatchedLayers) -> None:
        """Run what comes before the blocks, and send the gradient at their input back."""
        if (hidden := self._below(batch)) is not None:
            watched.backward(hidden, gradient)

    def grams(
        self, computation: Computation, numbers: Sequence[int], sides: Sides
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return each group's Gram of some examples, and f; by autograd on one block at a time.

        Each example is run by itself; their order is that of the ``sides``.
        """
        found: dict[str, torch.Tensor] = {}
        owned = [{id(p) for p in block.parameters()} for block in self.blocks]
        inside = set().union(*owned)

        def add(value: Callable[[Sequence[int]], torch.Tensor], wanted: Callable) -> None:
            some = {n: p for n, p in computation.parameters.items() if wanted(id(p))}
            room = computation.room.max_bytes
            for group, gram in autograd_grams(value, sides, some, computation.groups, room).items():
                found[group] = found.get(group, 0) + gram

        passages = self.forward([[number] for number in numbers])
        nothing = WatchedLayers([], 1, lambda call: None)
        ends = [
            self.top([number], passage, nothing)
            for number, passage in zip(numbers, passages, strict=True)
        ]
        values, gradients = zip(*ends, strict=True)
        for block in reversed(range(len(self.blocks))):

            def value(
                places: Sequence[int], block: int = block, above: Sequence = gradients
            ) -> torch.Tensor:
                passage, gradient = passages[places[0]], above[places[0]]
                output = self.output(block, passage, passage.hidden[block])
                return (output * gradient).sum()[None]

            add(value, owned[block].__contains__)
            gradients = [
                self.through(block, *both, nothing)
                for both in zip(passages, gradients, strict=True)
            ]

        def outside(places: Sequence[int]) -> torch.Tensor:
            batch, passage = [numbers[places[0]]], passages[places[0]]
            value = self._above(batch, passage, passage.hidden[-1]).sum()
            below = self._below(batch)
            value = value if below is None else value + (below * gradients[places[0]]).sum()
            return value[None]

        add(outside, lambda key: key not in inside)
        return found, torch.cat(values).detach()


def _fits(stack: Stack, computation: Computation) -> bool:
    """Whether block by block gives the gradients of the whole, tried on two examples."""
    pair = computation.pair
    with trainable(list(computation.parameters.values())):
        try:
            passage, values = stack.tried(pair)
        except _NotAStackError:
            return False
        # the arguments may hold no path from block to block beside the hidden states
        if not values.requires_grad or any(t.requires_grad for t in _tensors(passage.arguments)):
            return False
        stack.width = sum(hidden.shape[-1] for hidden in passage.hidden[:-1])
        linked = [h for h in passage.hidden if h.requires_grad]
        wanted = torch.autograd.grad(values.sum(), linked, materialize_grads=True)
    try:
        arguments = _tensors(stack.entered(pair).arguments)
        if not all(map(torch.equal, arguments, _tensors(passage.arguments))):
            return False  # a block's arguments depend on what the blocks before it return
        with WatchedLayers([], len(pair), lambda call: None) as watched:
            found = [stack.top(pair, passage, watched)[1]]
            for block in reversed(range(len(stack.blocks))):
                found.insert(0, stack.through(block, passage, found[0], watched))
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False  # a block that needs more of its surroundings than its arguments
    for ours, expected in zip(found[-len(wanted) :], wanted, strict=True):
        # rounding stays far below the root of the precision, another path far above
        tolerance = torch.finfo(ours.dtype).eps ** 0.5 * expected.abs().max()
        if not bool(((ours - expected).abs() <= tolerance).all()):
            return False
    return True


def find_stack(computation: Computation) -> Stack | None:
    """Return the network's stack of blocks, None if it has none that can be run by itself.

    Blocks must be called once each and in order, be linked by their hidden states alone, and share
    no trainable parameter with others; on two examples, gradients by blocks must be the whole's.
    """
    trained = {id(p) for p in computation.parameters.values()}
    modules = list(computation.model.modules())
    lists = [list(m) for m in modules if isinstance(m, nn.ModuleList) and len(m) > 1]
    lists.sort(key=lambda blocks: -sum(p.numel() for b in blocks for p in b.parameters()))
    for blocks in lists:
        owned = [{id(p) for p in block.parameters()} & trained for block in blocks]
        inside = set().union(*owned)
        within = {module for block in blocks for module in block.modules()}
        others = (m for m in modules if m not in within)
        outside = {id(p) for module in others for p in module._parameters.values()}
        alone = sum(map(len, owned)) == len(inside) and not inside & outside
        stack = Stack(blocks, computation.scalar)
        if alone and _fits(stack, computation):
            return stack
    return None
