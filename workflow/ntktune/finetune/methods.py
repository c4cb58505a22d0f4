"""What a fine-tuning trains: all weights, low-rank adapters and the head, or the head alone."""

import contextlib
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ntktune.errors import UserError, one_line
from ntktune.finetune.embedding import Snapshot
from ntktune.finetune.training import Lora, Settings, outputs
from ntktune.network.models import Features, TextModel, block_list, linear_weights
from ntktune.store.files import atomic_path
from ntktune.store.tensors import write_tensors
from ntktune.study.config import suggestion

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "default"  # peft's own name of the only adapter


def adapted_layers(backbone: nn.Module, lora: Lora) -> list[str]:
    """Return the names of a backbone's layers that get an adapter.

    peft passes over a target that matches no layer as long as another one does. Here each target,
    exception, block and rank must find its layer: UserError says which does not.
    """
    linear = linear_weights(backbone)
    embeddings = [name for name, m in backbone.named_modules() if isinstance(m, nn.Embedding)]

    def found(part: str, names: Iterable[str], key: str) -> set[str]:
        names = list(names)
        some = {name for name in names if f".{name}".endswith(f".{part}")}
        if not some:
            ends = {name.rpartition(".")[2] for name in names}
            raise UserError(
                f"lora {key} {part!r} is no layer of the model; {suggestion(part, ends)}"
            )
        return some

    chosen = set(linear)
    if lora.targets is not None:
        chosen = set().union(*(found(t, [*linear, *embeddings], "targets") for t in lora.targets))
    for part in lora.exclude:
        chosen -= found(part, chosen, "exclude")
    if lora.layers is not None:
        blocks = block_list(backbone)
        for index in lora.layers:
            if not 0 <= index < len(blocks):
                raise UserError(
                    f"lora layers has {index}, but the blocks are 0 to {len(blocks) - 1}"
                )
        kept = {id(module) for index in lora.layers for module in blocks[index].modules()}
        inside = {name for name, module in backbone.named_modules() if id(module) in kept}
        for part in lora.targets or ():
            if not found(part, chosen, "targets") & inside:
                raise UserError(f"lora targets {part!r} is in none of the blocks {lora.layers}")
        chosen &= inside
    if not chosen:
        raise UserError("lora leaves no layer with an adapter; give other targets or exceptions")
    for part in lora.rank_pattern:
        found(part, chosen, "rank_pattern")
    return [name for name, _ in backbone.named_modules() if name in chosen]


def lora_config(layers: Sequence[str], lora: Lora) -> "LoraConfig":
    """Return peft's description of adapters on some layers, by name."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(layers),
        rank_pattern={re.escape(part): rank for part, rank in lora.rank_pattern.items()},
        use_rslora=lora.rslora,
        lora_dropout=0.0,
    )


class Adapter:
    """Low-rank adapters in a backbone, in place, by peft; its own weights are frozen.

    Raises UserError as :func:`adapted_layers` does, or if peft has no adapter for a layer.
    """

    def __init__(self, backbone: nn.Module, lora: Lora):
        from peft import get_peft_model

        config = lora_config(adapted_layers(backbone, lora), lora)
        try:
            with warnings.catch_warnings():  # of transformers, at names that peft still uses
                warnings.simplefilter("ignore", FutureWarning)
                self.model = get_peft_model(backbone, config)
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"peft takes no such adapter: {one_line(error)}") from error
        self.model.eval()
        self.start: dict[str, torch.Tensor] = {}

    def reset(self, seed: int) -> None:
        """Draw fresh adapters, in place: A as peft does, the same on every device, and B = 0."""
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if ".lora_A." in name:  # Kaiming with a = √5: uniform within ±1/√d_in
                    drawn = torch.rand(weight.shape, generator=source) * 2 - 1
                    weight.copy_(drawn / math.sqrt(weight.shape[1]))
                elif ".lora_embedding_B." in name:
                    weight.copy_(torch.randn(weight.shape, generator=source))
                elif ".lora_" in name:
                    weight.zero_()
        self.start = {name: weight.clone() for name, weight in self._weights()}

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        named = self.model.named_parameters()
        return ((name, weight.detach()) for name, weight in named if ".lora_" in name)

    def factors(self) -> list[tuple[nn.Parameter, nn.Parameter, float]]:
        """Return A, (r, d_in), B, (d_out, r), and s of each layer, to which s B A is added."""
        found = []
        for layer in self.model.modules():
            for kind in ("lora_{}", "lora_embedding_{}"):
                a, b = (getattr(layer, kind.format(end), {}) for end in "AB")
                if ADAPTER in a:
                    pair = (getattr(part[ADAPTER], "weight", part[ADAPTER]) for part in (a, b))
                    found.append((*pair, layer.scaling[ADAPTER]))
        return found

    def change(self) -> dict[str, torch.Tensor]:
        """Return what training has added to A and B of each layer, by peft's names."""
        return {name: weight - self.start[name] for name, weight in self._weights()}

    def remove(self) -> None:
        """Leave the backbone as it was before, without adapters."""
        self.model.unload()


def save_adapter(
    adapter: Adapter,
    head: nn.Module,
    folder: str | os.PathLike,
    base: Mapping[str, Any],
    key: str = "",
) -> None:
    """Write an adapter in peft's format, and the head beside it (``head.safetensors``).

    ``base`` are the facts of its model, with ``name`` and ``revision``; ``key`` says what training
    it is of, in the head's facts. An adapter that is there is replaced.
    """
    config = adapter.model.peft_config[ADAPTER]
    config.base_model_name_or_path, config.revision = base["name"], base.get("revision")
    config.inference_mode = True
    with atomic_path(folder) as new:
        # "auto" would ask the hub for the model
        adapter.model.save_pretrained(new, save_embedding_layers=False)
        write_tensors(new / "head.safetensors", dict(head.named_parameters()), {"key": key})
    config.inference_mode = False


def plain_weights(backbone: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a backbone's weights under its own names, adapters added: W + s B A."""
    for name, weight in backbone.named_parameters():
        layer, _, kind = name.rpartition(".base_layer.")
        if kind == "weight":
            weight = weight + backbone.get_submodule(layer).get_delta_weight(ADAPTER)
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), weight.detach()


class StoredStates(nn.Module):
    """What a frozen backbone answers to N texts, which are asked for by number.

    ``states`` are their features (:func:`ntktune.network.models.features`), (N, D).
    """

    def __init__(self, states: torch.Tensor, config: object):
        super().__init__()
        self.states, self.config = nn.Parameter(states, requires_grad=False), config

    def get_input_embeddings(self) -> None:
        """Return that there is no table of tokens."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Return hidden states, (N, 1, D), of texts of one token each, (N, 1): their number."""
        return SimpleNamespace(last_hidden_state=self.states[input_ids])


@contextlib.contextmanager
def trained_by(
    model: TextModel,
    ids: Sequence[torch.Tensor],
    trained: set[int],
    tested: set[int],
    settings: Settings,
) -> Iterator[tuple[Sequence[torch.Tensor], Callable[[int], None], Adapter | None]]:
    """Let a pretrained model train what the method says, in a context.

    ``ids`` are the task's texts, 1-D tensors of token ids; ``trained`` and ``tested`` the rows that
    it will train on, hold-outs included, and be measured on. Yields the texts as the model takes
    them meanwhile; a function that puts the backbone back to a training's start, given a seed for
    adapters; and these, if it has any. In the end the model trains all weights again; adapters are
    taken off, and weights that were trained (``full``) stay as they are.
    """
    backbone = model.backbone
    whole = settings.method == "full" and settings.layers is None
    if not whole:
        backbone.requires_grad_(False)
    adapter = None
    try:
        if settings.method == "full":
            for name in settings.layers or ():
                backbone.get_submodule(name).requires_grad_(True)
            pretrained = Snapshot(backbone, [ids[row] for row in sorted(trained)])
            yield ids, lambda seed: pretrained.restore(), None
        elif settings.method == "lora":
            adapter = Adapter(backbone, settings.lora)
            yield ids, adapter.reset, adapter
        else:
            rows = sorted(trained | tested)
            place = {row: number for number, row in enumerate(rows)}
            how = (settings.batch_tokens, settings.autocast)
            states = outputs(Features(backbone), [ids[row] for row in rows], *how)
            stored = StoredStates(states, backbone.config)
            model.backbone = stored.to(model.head.weight.device)
            numbers = [torch.tensor([place.get(row, 0)]) for row in range(len(ids))]
            yield numbers, lambda seed: None, None
    finally:
        model.backbone = backbone
        if adapter:
            adapter.remove()
        if not whole:
            backbone.requires_grad_(True)
