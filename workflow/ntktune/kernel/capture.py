"""Inputs and output gradients of one group of layers, over all micro-batches."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ntktune.kernel import products
from ntktune.kernel.groups import layer_name
from ntktune.kernel.layers import OTHER_ROWS, Call, Layer, Receive, UnplannedError, WatchedLayers
from ntktune.kernel.products import Rows, Sides, Workspace
from ntktune.study.seeds import integer_seed

# Outputs of a tied head per example up to which it is an embedding's few more rows.
WORDS = 64


class PaddingError(Exception):
    """Places behind a text's end have a gradient: tokens were moved, or padding counts."""


@dataclass
class Uses:
    """All uses of one weight, as a linear layer and as an embedding."""

    linear: list[Rows] = field(default_factory=list)
    embedding: list[Rows] = field(default_factory=list)


class Projection:
    """Projections to ``dimensions`` by random signs, one for each weight and each side of it.

    With S of entries ±1/√k, E⟨Sa, Sa'⟩ = ⟨a, a'⟩. Those of inputs and output gradients are
    independent, so a linear layer's Gram Σ (a_s·a_t)(g_s·g_t) keeps its expectation.
    """

    def __init__(self, dimensions: int):
        self.dimensions = dimensions
        self.signs: dict[tuple[str, str], torch.Tensor] = {}

    def __call__(self, rows: torch.Tensor, weight: str, side: str) -> torch.Tensor:
        """Return rows (R, D) as (R, dimensions); those that are no wider stay as they are."""
        width = rows.shape[1]
        if width <= self.dimensions:
            return rows
        key = (weight, side)
        if key not in self.signs:
            seed = integer_seed(0, f"kernel.projection.{side}", weight)
            generator = torch.Generator().manual_seed(seed)
            chance = torch.randint(0, 2, (width, self.dimensions), generator=generator)
            signs = (2 * chance - 1).to(rows.device, products.working_dtype(rows))
            self.signs[key] = signs / self.dimensions**0.5
        return rows.to(self.signs[key].dtype) @ self.signs[key]


class Capture:
    """Captured rows and per-example gradients of some layers.

    Rows with an output gradient of exactly zero add nothing and are not kept: padding, and in the
    last block all but the token that the head reads. ``idle`` layers must not be called; of
    ``dense`` ones all tokens' rows are kept, unseen, so that a GPU need not be waited for.
    ``projection`` is the dimensions to project the rows of linear layers to, None: not at all.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        idle: Sequence[Layer],
        dense: set[Layer],
        sides: Sides,
        workspace: Workspace,
        projection: int | None = None,
    ):
        self.projection = Projection(projection) if projection else None
        self.words = {layer.weight for layer in layers if layer.kind == "embedding"}
        self.layers, self.sides, self.workspace = layers, sides, workspace
        self.idle, self.dense = set(idle), dense
        # whether padding had a gradient after all, one flag per call, on the device
        self.outside: list[torch.Tensor] = []
        self.uses: dict[str, Uses] = {}
        # gradients of scales and biases, (all examples, D)
        self.vectors: dict[str, torch.Tensor] = {}
        self.largest: dict[str, torch.Tensor] = {}  # by layer, where signs are taken

    def watching(self, lengths: Sequence[int], first: int) -> WatchedLayers:
        """Return a context for one run and backward pass of a micro-batch; ``first`` numbers it."""
        one = _Batch(self, lengths, first)
        return WatchedLayers([*self.layers, *self.idle], len(lengths), one.on_call)

    def units(self, groups: dict[str, str]) -> list[list[str]]:
        """Return runs of weights of one group and shared inputs: their Gram is computed in one."""
        # queries, keys and values meet the same inputs: one product of these serves all
        if self.sides.floor:  # each weight's rounding is judged by its own layer
            return [[name] for name in self.uses]
        together: dict[tuple, dict[str, list[str]]] = {}
        for name, uses in self.uses.items():
            key = tuple(id(rows.met) for rows in uses.linear) if not uses.embedding else (name,)
            together.setdefault(key, {}).setdefault(groups[name], []).append(name)
        return [unit for by_group in together.values() for unit in by_group.values()]

    def cost(self, unit: list[str]) -> float:
        """Return the FLOPs of a unit's Gram, for progress."""
        uses = self.uses[unit[0]]
        if not uses.linear:
            return 0.0
        d_out = sum(self.uses[name].linear[0].gradients.shape[1] for name in unit)
        owner = torch.cat([r.owner for r in uses.linear])
        met = uses.linear[0].met
        forms = products.linear_costs(owner, self.sides, met.shape[1], d_out, met.device)
        return forms["materialised" if uses.embedding else products.cheaper_form(forms)][1]

    def unit_gram(self, unit: list[str]) -> tuple[torch.Tensor, str]:
        """Return a unit's Gram and its form; its captures are freed."""
        uses = [self.uses.pop(name) for name in unit]
        embedding = _joined([uses[0].embedding])
        linear = _joined([use.linear for use in uses])
        device = (linear or embedding).gradients.device
        largest = self.largest_entries(unit[0], device) if self.sides.floor else None
        if linear is not None and len(linear.owner) <= self.sides.total:  # a head's few rows
            linear, words = _words(linear, self.sides.total, tied=embedding is not None)
            embedding = _joined([[rows for rows in (embedding, words) if rows is not None]])
        if linear is None:
            return products.embedding_gram(embedding, self.sides, largest), "equal tokens"
        if embedding is None:
            return products.linear_gram(linear, self.sides, self.workspace, largest)
        both = (linear, self.sides, self.workspace, embedding, largest)
        return products.materialised_gram(*both), "materialised"

    def largest_entries(self, name: str, device: torch.device) -> torch.Tensor:
        """Return the largest entry known of a parameter's layer's gradient, by example."""
        # raised in place by the layer's weight, whose Gram comes before its bias's
        layer = layer_name(name)
        if layer not in self.largest:
            vectors = [v.abs().amax(1) for n, v in self.vectors.items() if layer_name(n) == layer]
            zero = torch.zeros(self.sides.total, dtype=torch.float64, device=device)
            self.largest[layer] = functools.reduce(torch.maximum, vectors, zero)
        return self.largest[layer]

    def vector_grams(self) -> dict[str, torch.Tensor]:
        """Return the Gram of each scale and bias, by parameter name, after the units'."""
        grams = {}
        for name, vector in self.vectors.items():
            if self.sides.floor:
                vector = self.sides.settled(vector, self.largest_entries(name, vector.device))
            grams[name] = products.inner_products(*self.sides.factors(*self.sides.split(vector)))
        return grams


def _joined(weights: list[list[Rows]]) -> Rows | None:
    """Return the rows of all calls as one, sorted by example; None if there are none."""
    # Weights that meet the same inputs have their gradients side by side. The lists are emptied,
    # and what they held is freed as soon as it is copied.
    if not weights[0]:
        return None
    if len(weights) == len(weights[0]) == 1:
        return weights[0].pop()
    owner = torch.cat([rows.owner for rows in weights[0]])
    met = torch.cat([rows.met for rows in weights[0]])
    width = sum(calls[0].gradients.shape[1] for calls in weights)
    gradients = weights[0][0].gradients.new_empty(len(owner), width)
    column = 0
    for calls in weights:
        row, right = 0, column + calls[0].gradients.shape[1]
        for rows in calls:
            gradients[row : row + len(rows.owner), column:right] = rows.gradients
            row += len(rows.owner)
        column = right
        calls.clear()
    if bool((owner.diff() < 0).any()):  # a weight used twice comes twice per micro-batch
        order = owner.argsort(stable=True)
        owner, order = owner[order], order.to(met.device)
        met, gradients = met[order], gradients[order]
    return Rows(met, gradients, owner)


def _words(linear: Rows, examples: int, tied: bool) -> tuple[Rows | None, Rows | None]:
    """Return what remains of a head of which few outputs count, and rows of an embedding."""
    # a tied head's outputs are words: one row of the weight has the gradient g a
    if not tied:
        some = (linear.gradients != 0).any(dim=0)
        return Rows(linear.met, linear.gradients[:, some], linear.owner), None
    row, word = linear.gradients.nonzero().unbind(1)
    if len(row) > WORDS * examples:
        return linear, None
    gradients = linear.gradients[row, word][:, None] * linear.met[row]
    return None, Rows(word, gradients, linear.owner[row.cpu()])


class _Batch:
    """Receives the calls of one micro-batch of texts of some lengths."""

    def __init__(self, capture: Capture, lengths: Sequence[int], first: int):
        self.capture, self.size, self.first = capture, len(lengths), first
        self.length = max(lengths)
        real = torch.arange(self.length)[None, :] < torch.tensor(lengths)[:, None]  # (B, T)
        real = real.flatten()
        self.tokens, self.padding = real.nonzero().flatten(), (~real).nonzero().flatten()
        self.owner = first + self.tokens // self.length
        # by id: inputs, held to keep theirs, and packed once for all layers that share them
        self.packed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def on_call(self, call: Call) -> Receive:
        if call.layer in self.capture.idle:
            raise UnplannedError(call.layer, "it is called for some texts only")
        response = None
        if call.layer.kind == "scale" and call.layer.weight:
            response = call.scale_response()

        def receive(gradient: torch.Tensor) -> None:
            width = gradient.shape[-1]
            rows = gradient.numel() // width
            if rows % self.size:
                raise UnplannedError(call.layer, OTHER_ROWS)
            gradient = gradient.reshape(rows, width)
            if call.layer.bias:
                self.add_vector(call.layer.bias, gradient)
            if response is not None:
                self.add_vector(call.layer.weight, gradient * response.reshape(rows, width))
            elif call.layer.weight:
                self.add_rows(call, gradient)

        return receive

    def add_vector(self, name: str, gradient: torch.Tensor) -> None:
        """Add an example's rows up, into its gradient of a scale or bias."""
        vectors = self.capture.vectors
        width = gradient.shape[1]
        if name not in vectors:
            vectors[name] = torch.zeros(
                self.capture.sides.total, width, dtype=torch.float64, device=gradient.device
            )
        total = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        summed = gradient.view(self.size, -1, width).sum(dim=1, dtype=total)  # (B, D)
        vectors[name][self.first : self.first + self.size] += summed

    def add_rows(self, call: Call, gradient: torch.Tensor) -> None:
        """Keep the rows whose gradient is not zero, with what the weight met there."""
        if call.overwritten:
            raise UnplannedError(call.layer, "its input is changed in place")
        embedding = call.layer.kind == "embedding"
        met = call.input.detach()  # of its graph nothing may stay
        met = met.reshape(-1) if embedding else met.reshape(len(gradient), -1)
        if embedding:
            nonzero = (gradient != 0).any(dim=1)
            if call.layer.module.padding_idx is not None:
                nonzero &= met != call.layer.module.padding_idx  # as autograd does
            rows, owner, shared = *self.some(nonzero), False
        else:
            rows, owner, shared = self.rows(call.layer, gradient)
        if len(rows) == 0:
            return
        weight, key = call.layer.weight, id(call.input)
        projection = self.capture.projection
        if projection and not embedding and weight not in self.capture.words:
            met = projection(met[rows], weight, "inputs")
            gradient = projection(gradient[rows], weight, "gradients")
        elif not shared:
            met = met[rows]
        elif key in self.packed:
            met = self.packed[key][1]
        else:
            # a full set of rows needs no copy
            met = met[rows] if len(rows) < len(met) else met
            self.packed[key] = (call.input, met)
        if len(gradient) > len(rows):
            gradient = gradient[rows]
        uses = self.capture.uses.setdefault(weight, Uses())
        (uses.embedding if embedding else uses.linear).append(Rows(met, gradient, owner))

    def some(self, nonzero: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the places of some rows, and the example of each."""
        rows = nonzero.nonzero().flatten()
        return rows, self.first + rows.cpu() // (len(nonzero) // self.size)

    def rows(self, layer: Layer, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Return the rows to keep, whose they are, and whether they are all tokens."""
        # if most tokens have a gradient all are kept: layers of one input share its rows, products
        if len(gradient) != self.size * self.length:
            return *self.some((gradient != 0).any(dim=1)), False
        tokens = self.tokens = self.tokens.to(gradient.device)
        if layer in self.capture.dense:
            if len(self.padding):
                self.padding = self.padding.to(gradient.device)
                self.capture.outside.append(gradient[self.padding].any())
            return tokens, self.owner, True
        nonzero = (gradient != 0).any(dim=1)
        inside = int(nonzero[tokens].sum())
        if inside == int(nonzero.sum()) and 2 * inside >= len(tokens):
            return tokens, self.owner, True
        return *self.some(nonzero), False
