"""Which parameters the structured rules serve, found by a probe of the network itself."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ntktune.kernel.computation import Computation, runs
from ntktune.kernel.layers import OTHER_ROWS, Call, Layer, UnplannedError, WatchedLayers, layer_kind
from ntktune.kernel.network import check_finite, trainable
from ntktune.network.device import is_out_of_memory

# Ways in which uses of one parameter can be added before the inner product. GPT-2's
# transposed layer shares its weight with no other kind.
TOGETHER = (
    {("weight", "linear"), ("weight", "embedding")},
    {("weight", "conv1d")},
    {("weight", "scale"), ("bias", "scale"), ("bias", "linear"), ("bias", "conv1d")},
)


@dataclass
class Plan:
    """How each trainable parameter's gradient is found."""

    # structured layers in the order of their first call → numbers that are captured per token (or
    # per example, if a layer sees one row)
    numbers: dict[Layer, int]
    idle: list[Layer]  # not called by the probe; a later call of one is not planned for
    general: dict[str, str]  # parameters that go the general way, each with the reason
    dense: set[Layer]  # every token of the probed texts, and nothing else, has a gradient

    def passes(
        self, layers: Sequence[Layer], number_bytes: int, max_bytes: float
    ) -> list[list[Layer]]:
        """Split layers into runs whose captures fit into memory, sharers of a weight together."""
        units: list[list[Layer]] = []
        assigned: set[Layer] = set()
        for layer in layers:
            if layer in assigned:
                continue
            unit, more = [], [layer]
            while more:
                unit += more
                names = {name for x in unit for name in x.parameters}
                more = [x for x in layers if x not in unit and names & set(x.parameters)]
            units.append(unit)
            assigned.update(unit)
        sizes = [sum(self.numbers[x] for x in unit) * number_bytes for unit in units]
        return [list(itertools.chain(*units[run])) for run in runs(sizes, max_bytes)]


def _edges(value: torch.Tensor) -> Counter[int]:
    """Return how often a graph uses each leaf: id of the leaf to the number of edges."""
    counts: Counter[int] = Counter()
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            leaf = getattr(following, "variable", None)
            if leaf is not None:
                counts[id(leaf)] += 1
            else:
                todo.append(following)
    return counts


def _is_scale(call: Call) -> bool:
    """Whether y = w ∘ ŷ(x) + b elementwise, tried at a random w and b."""
    weight = call.layer.module._parameters["weight"]
    if call.shape[-1:] != weight.shape:
        return False
    generator = torch.Generator().manual_seed(0)  # any value will do, the same every time
    w, b = (torch.randn(len(weight), generator=generator).to(weight) for _ in range(2))
    zeros = torch.zeros_like(weight)
    there = call.scale_response(w, b)
    offset = call.scale_response(zeros, zeros)
    shift = b if call.layer.module._parameters.get("bias") is not None else 0
    expected = offset + w * call.scale_response() + shift
    # rounding stays far below the root of the precision, a wrong rule far above
    tolerance = torch.finfo(weight.dtype).eps ** 0.5 * expected.abs().max()
    return there.shape == expected.shape and bool(((there - expected).abs() <= tolerance).all())


class _Probe:
    """What two examples in one batch show about the layers."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        self.sparse: set[Layer] = set()
        self.calls: list[Call] = []
        self.connected: Counter[Layer] = Counter()
        self.misfits: dict[Layer, str] = {}
        self.example = 0  # whose f is being differentiated

    def on_call(self, call: Call) -> Callable[[torch.Tensor], None]:
        self.calls.append(call)
        if call.layer.kind == "scale" and not _is_scale(call):
            self.misfits[call.layer] = "its output is not an elementwise w∘ŷ(x)+b"
        return functools.partial(self.receive, call.layer)

    def receive(self, layer: Layer, gradient: torch.Tensor) -> None:
        self.connected[layer] += self.example == 0
        rows = gradient.numel() // gradient.shape[-1]
        if rows % 2:
            self.misfits[layer] = OTHER_ROWS
            return
        nonzero = (gradient.reshape(2, rows // 2, -1) != 0).any(dim=2).sum(dim=1).tolist()
        if nonzero[1 - self.example]:
            self.misfits[layer] = OTHER_ROWS
        if rows // 2 != max(self.lengths) or nonzero[self.example] != self.lengths[self.example]:
            self.sparse.add(layer)


def make_plan(computation: Computation, general: dict[str, str]) -> Plan:
    """Return which parameters the structured rules serve.

    A rule is used for a parameter only if the autograd graph uses the parameter exactly as often
    as watched layers do, each row of these layers belongs to one example, and the layer's own
    code fits the rule; all this is tried out on two examples. ``general`` are parameters known to
    need the general way already, with the reason.
    """
    parameters, scalar, pair = computation.parameters, computation.scalar, computation.pair
    names = {id(p): name for name, p in parameters.items()}
    layers: list[Layer] = []
    reasons = dict(general)
    roles: dict[str, set[tuple[str, str]]] = {name: set() for name in parameters}
    for module in computation.model.modules():
        kind = layer_kind(module)
        own = {role: names.get(id(p)) for role, p in module._parameters.items() if p is not None}
        for role, name in own.items():
            if name and kind:
                roles[name].add((role, kind))
            elif name:
                reasons.setdefault(name, f"{type(module).__name__} has no structured rule")
        weight, bias = (own.get(role) for role in ("weight", "bias"))
        weight, bias = (None if name in general else name for name in (weight, bias))
        if kind and (weight or bias):
            layers.append(Layer(module, kind, weight, bias))

    probe = _Probe(computation.lengths(pair))
    try:
        with WatchedLayers(layers, len(pair), probe.on_call) as watched:
            values = scalar(pair)
            check_finite(values.detach(), "output", computation.texts_of(pair))
            for call in probe.calls:
                if call.overwritten:
                    probe.misfits[call.layer] = "its input is changed in place"
            for probe.example in range(2):
                watched.backward(values[probe.example], again=probe.example == 0)
    except UnplannedError as error:
        return make_plan(computation, dict.fromkeys(error.layer.parameters, error.reason) | reasons)
    except RuntimeError as error:
        if not watched.expanded or is_out_of_memory(error):
            raise
        repeated = (name for layer in watched.expanded for name in layer.parameters)
        more = dict.fromkeys(repeated, "the model repeats its output itself")
        return make_plan(computation, more | reasons)
    with trainable(list(parameters.values())):
        edges = _edges(scalar(pair).sum())

    for layer, reason in probe.misfits.items():
        for name in layer.parameters:
            reasons.setdefault(name, reason)
    for name, parameter in parameters.items():
        calls = sum(probe.connected[x] for x in layers if name in x.parameters)
        used = edges[id(parameter)]
        if not any(roles[name] <= allowed for allowed in TOGETHER):
            reasons.setdefault(name, "it is used in ways that cannot be added")
        elif used != calls:
            reasons.setdefault(name, f"the graph uses it {used} times, layers {calls}")
    return _plan(layers, probe, reasons)


def _plan(layers: list[Layer], probe: _Probe, reasons: dict[str, str]) -> Plan:
    """Return the plan from what was found: layers keep only their structured parameters."""
    for layer in layers:
        layer.weight = None if layer.weight in reasons else layer.weight
        layer.bias = None if layer.bias in reasons else layer.bias
    called = {call.layer for call in probe.calls}
    idle = [layer for layer in layers if layer.parameters and layer not in called]
    numbers = {call.layer: 0 for call in probe.calls if call.layer.parameters}
    inputs: set[int] = set()
    for call in probe.calls:
        layer = call.layer
        if layer.weight and layer.kind != "scale":
            numbers[layer] += call.shape[-1]
            if id(call.input) not in inputs and layer.kind != "embedding":
                numbers[layer] += call.input.shape[-1]  # counted once for q, k and v
            inputs.add(id(call.input))
    return Plan(numbers, idle, reasons, set(layers) - probe.sparse)
