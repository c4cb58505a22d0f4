"""A pretrained backbone, or its first blocks, with a fresh linear head (SR26 section 5.1)."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ntktune.errors import UserError, one_line
from ntktune.network import loading
from ntktune.network.device import free_bytes, is_out_of_memory
from ntktune.network.matmul import WideSoftmax
from ntktune.store.records import check_model_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class TextModel(nn.Module):
    """Backbone and linear head; the head reads the :func:`features` of a text.

    The backbone is a Hugging Face base model: called with ``input_ids`` and ``attention_mask`` it
    returns an object with ``last_hidden_state``, (N, T, D). With one output (C = 1) the model
    returns shape (N,), else (N, C). ``generator``, the source of the head's random weights, is on
    the processor, so that every device starts from the same head.
    """

    def __init__(self, backbone: nn.Module, outputs: int, generator: torch.Generator):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_width(backbone), outputs)
        self.reset_head(generator)

    def reset_head(self, generator: torch.Generator) -> None:
        """Draw a fresh head: weights from N(0, initializer_range^2), bias 0."""
        # the scale of Hugging Face's classification heads sets the head's share of the kernel
        scale = getattr(self.backbone.config, "initializer_range", 0.02)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * scale)
            self.head.bias.zero_()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the outputs, shape (N,) or (N, C), of token ids of shape (N, T)."""
        return self.head(features(self.backbone, input_ids, attention_mask)).squeeze(1)


class Features(nn.Module):
    """What a head reads (:func:`features`). The backbone is used, not copied."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return features, shape (N, D), of token ids of shape (N, T)."""
        return features(self.backbone, input_ids, attention_mask)


def hidden_states(
    backbone: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, **how: bool
) -> Any:
    """Return what a backbone returns of token ids of shape (N, T), with ``last_hidden_state``."""
    wide = next(backbone.parameters()).dtype == torch.float64
    with WideSoftmax() if wide else contextlib.nullcontext():
        return backbone(input_ids=input_ids, attention_mask=attention_mask, **how)


def last_hidden(
    backbone: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return the last hidden states, (N, T, D), of token ids of shape (N, T)."""
    return hidden_states(backbone, input_ids, attention_mask).last_hidden_state


def hidden_width(backbone: nn.Module) -> int:
    """Return D, the width of the last hidden state (OPT-350M's is not its ``hidden_size``).

    Raises UserError if the network gives no hidden states of token ids and their mask alone.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device=next(backbone.parameters()).device)
    why = "returns no hidden state for each token"
    hidden = None
    with torch.no_grad():
        try:
            found = backbone(input_ids=token, attention_mask=torch.ones_like(token))
            hidden = getattr(found, "last_hidden_state", None)
        except Exception as error:  # networks of images or sound fail without bound
            if is_out_of_memory(error):
                raise
            why = f"cannot be run on a text ({one_line(error)})"
    if not isinstance(hidden, torch.Tensor) or hidden.shape[:2] != token.shape:
        raise UserError(
            f"{type(backbone).__name__} {why}; the study needs a decoder or an encoder of text"
        )
    return hidden.shape[2]


def fuse_activations(model: nn.Module) -> list[nn.Module]:
    """Let GPT-2's GELU, eight operations in Hugging Face, run as PyTorch's own; return where."""
    # transformers is not imported for this: a model that has it has imported it
    gelu = getattr(sys.modules.get("transformers.activations"), "NewGELUActivation", None)
    found = []
    for module in model.modules():
        if type(module) is gelu and "forward" not in vars(module):
            module.forward = functools.partial(nn.functional.gelu, approximate="tanh")
            found.append(module)
    return found


@contextlib.contextmanager
def replaced(modules: Sequence[nn.Module], forwards: Sequence[Callable]) -> Iterator[None]:
    """Let modules do something else when they are called, in a context."""
    saved = [vars(module).get("forward") for module in modules]
    try:
        for module, forward in zip(modules, forwards, strict=True):
            module.forward = forward
        yield
    finally:
        for module, forward in zip(modules, saved, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward


@contextlib.contextmanager
def checkpointed(backbone: nn.Module) -> Iterator[None]:
    """Let the blocks keep nothing but their inputs for the backward pass, in a context."""
    # Hugging Face's own switch for activation checkpointing does nothing in evaluation mode
    from torch.utils.checkpoint import checkpoint

    blocks = block_list(backbone)
    again = [functools.partial(checkpoint, block.forward, use_reentrant=False) for block in blocks]
    caching = getattr(backbone.config, "use_cache", False)
    try:
        backbone.config.use_cache = False  # the second time it would attend to its own keys
        with replaced(blocks, again):
            yield
    finally:
        backbone.config.use_cache = caching


class LabelWordModel(nn.Module):
    """A causal language model with its own head, read at C words after the last real token.

    This is prompting as Malladi et al. (2023) study it: the text ends where the model
    would say the label, and f of a class is the logit of its word, given by its token id.
    """

    def __init__(self, model: nn.Module, words: Sequence[int]):
        super().__init__()
        self.model, self.words = model, list(words)
        self.scale = logit_scale(model)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the words' logits, shape (N, C), of token ids of shape (N, T)."""
        hidden = features(self.model.base_model, input_ids, attention_mask)  # (N, D)
        logits = self.model.get_output_embeddings()(hidden)[:, self.words]
        return logits if self.scale == 1 else logits * self.scale


def logit_scale(model: nn.Module) -> float:
    """Return what a language model multiplies its head's outputs by, or raise UserError."""
    # 1 but for Granite, Cohere and MiniCPM3; where logits are capped they are not proportional
    ids = torch.arange(2, device=next(model.parameters()).device)[None]
    mask = torch.ones_like(ids)
    training = [module for module in model.modules() if module.training]
    model.eval()  # dropout would make the two differ
    with torch.no_grad():
        hidden = last_hidden(model.base_model, ids, mask)
        plain = model.get_output_embeddings()(hidden).flatten().double()
        own = model(input_ids=ids, attention_mask=mask).logits.flatten().double()
    for module in training:
        module.training = True
    largest = plain.abs().argmax()
    scale = 1.0 if torch.equal(own, plain) else (own[largest] / plain[largest]).item()
    rounding = 8 * torch.finfo(hidden.dtype).eps
    capped = getattr(model.config, "final_logit_softcapping", None)
    if capped or not bool(((own - scale * plain).abs() <= rounding * own.abs().max()).all()):
        raise UserError(
            f"{type(model).__name__} computes its logits by more than a linear layer and a factor"
            f"{' (final_logit_softcapping)' if capped else ''}, which label words do not read; "
            "use a fresh head"
        )
    return scale


def last_tokens(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the places of the last real tokens, (N,) of (N, T)."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * positions).argmax(dim=1)  # right or left padding alike


def features(
    backbone: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return what a head reads, (N, D), of token ids of shape (N, T).

    That is the last real token's hidden state, or the mean over the real tokens where the backbone
    has the attribute ``pooling`` = ``mean`` (:func:`text_model`).
    """
    hidden = last_hidden(backbone, input_ids, attention_mask)
    return pooled(hidden, attention_mask, getattr(backbone, "pooling", "last"))


def pooled(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return hidden states, (N, T, D), at the ``last`` real token or as their ``mean``, (N, D)."""
    if pooling == "mean":
        real = attention_mask[:, :, None] > 0
        return hidden.where(real, 0).sum(dim=1) / real.sum(dim=1)
    last = last_tokens(attention_mask)
    return hidden[torch.arange(len(last), device=hidden.device), last]


def block_list(backbone: nn.Module) -> nn.ModuleList:
    """Return the backbone's list of ``config.num_hidden_layers`` blocks; UserError without one."""
    wanted = getattr(backbone.config, "num_hidden_layers", None)
    lists = [m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == wanted]
    if not lists:
        raise UserError(
            f"no list of {wanted} blocks was found in {type(backbone).__name__}, which can neither "
            "be cut nor counted block by block; use the whole model (no model.blocks, no --blocks)"
        )
    return lists[0]


def linear_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of a module's linear layers (GPT-2's Conv1D is one), by layer."""
    return {
        name: layer.weight
        for name, layer in module.named_modules()
        if not isinstance(layer, nn.Embedding)
        and isinstance(getattr(layer, "weight", None), nn.Parameter)
        and layer.weight.dim() == 2
    }


def configuration(folder: str | os.PathLike, blocks: int | None = None) -> PreTrainedConfig:
    """Return a model's configuration, or that of its first blocks; UserError if there is none."""
    return _first_blocks(loading.folder_configuration(folder), blocks)


def described_configuration(
    settings: Mapping[str, Any], blocks: int | None = None
) -> PreTrainedConfig:
    """Return the configuration that ``model_type`` and its other keys describe, or UserError."""
    from transformers import AutoConfig

    where = f"the configuration {dict(settings)}"
    with loading.reading(where):
        config = AutoConfig.for_model(**settings)
    return _first_blocks(loading.usable(config, where), blocks)


def _first_blocks(config: PreTrainedConfig, blocks: int | None) -> PreTrainedConfig:
    """Return a configuration cut to the first blocks, in place, or as it is without a number."""
    if blocks is None:
        return config
    there = getattr(config, "num_hidden_layers", None)
    if not isinstance(there, int):
        raise UserError(
            f"a model of type {config.model_type} states no number of blocks (num_hidden_layers); "
            "use all of it: leave model.blocks, --blocks out"
        )
    if not 1 <= blocks <= there:
        raise UserError(
            f"{blocks} blocks are asked for (model.blocks, --blocks), but this model has {there}; "
            f"give 1 to {there}, or none of it for all"
        )
    return cut_configuration(config, blocks)


def cut_configuration(config: PreTrainedConfig, blocks: int) -> PreTrainedConfig:
    """Return a configuration cut to the first blocks, in place, its lists per block too."""
    # transformers refuses a list of another length than the number of blocks. GPT-Neo keeps a list
    # twice: attention_types is attention_layers with counts.
    there = config.num_hidden_layers
    for name, value in vars(config).items():
        per_block = isinstance(value, (list, tuple)) and len(value) == there
        if per_block and name != "architectures" and not name.endswith("token_id"):
            setattr(config, name, value[:blocks])
    if hasattr(config, "attention_layers") and hasattr(config, "attention_types"):
        config.attention_types = [[list(config.attention_layers), 1]]
    config.num_hidden_layers = blocks
    return config


def positions(model: nn.Module) -> int | None:
    """Return how many tokens a model has positions for, None if it states no limit."""
    # RoBERTa and its kin count positions from the padding id on: they never use the first rows of
    # their table, and that many of the max_position_embeddings.
    stated = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(stated, int) or stated < 1:  # XLNet says -1: no limit
        return None
    for module in model.modules():
        table = isinstance(module, nn.Embedding) and module is not model.get_input_embeddings()
        if table and module.num_embeddings == stated and module.padding_idx is not None:
            return stated - module.padding_idx - 1
    return stated


def load_backbone(
    folder: str | os.PathLike,
    blocks: int | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    language_head: bool = False,
    stream_to: torch.device | None = None,
) -> nn.Module:
    """Load a pretrained backbone, or its first blocks (SR26 section 5.1), in evaluation mode.

    The folder is in Hugging Face format with safetensors weights; with ``language_head`` the head
    that predicts the next token comes too. With ``stream_to`` the weights stay in their files, and
    are converted for this device when they are used (:mod:`ntktune.network.streaming`). Raises
    UserError if there is no model that can be read.
    """
    check_model_files(folder, ["config.json", "*.safetensors*"])
    kind = "AutoModelForCausalLM" if language_head else "AutoModel"
    config = configuration(folder, blocks)
    how = {"config": config, "dtype": dtype, "use_safetensors": True}
    backbone = loading.load_weights(kind, folder, as_stored=stream_to is not None, **how)
    if blocks is not None:
        block_list(backbone)  # the architecture may not follow its configuration
    if hasattr(backbone.config, "use_cache"):
        backbone.config.use_cache = False  # cached keys only cost memory here
    if dtype == torch.float64:
        backbone.config._experts_implementation = "eager"  # grouped products have no float64
    if stream_to is not None:
        from ntktune.network.streaming import stored

        files = [Path(folder, name) for name in loading.weight_files(folder)]
        stored(backbone, kind, dtype, stream_to, files)
    return backbone.eval()


def empty_backbone(folder: str | os.PathLike, blocks: int | None = None) -> nn.Module:
    """Return a backbone without weights (``meta`` device), from config.json; UserError without."""
    config = configuration(folder, blocks)
    with loading.reading(f"the configuration in {folder}"):
        return skeleton(config)


def weights_fit(
    folder: str | os.PathLike, blocks: int | None, dtype: torch.dtype, device: torch.device
) -> bool:
    """Return whether a model's weights :func:`fit` on a device."""
    need = sum(p.numel() for p in empty_backbone(folder, blocks).parameters()) * dtype.itemsize
    return fit(need, free_bytes(device))


def fit(need: int, free: int) -> bool:
    """Return whether weights take three quarters of the free bytes at most."""
    return need <= 0.75 * free


def skeleton(config: PreTrainedConfig) -> nn.Module:
    """Return a configuration's backbone without weights, on the ``meta`` device."""
    with torch.device("meta"):
        return loading.from_configuration(config)


def text_model(
    folder: str | os.PathLike,
    *,
    outputs: int,
    head_seed: int,
    blocks: int | None = None,
    pooling: str = "last",
    dtype: torch.dtype = torch.float32,
    stream_to: torch.device | None = None,
) -> TextModel:
    """Load a backbone and put a fresh head of ``outputs`` outputs on it (evaluation mode).

    The head reads the last real token, or with the ``pooling`` ``mean`` the mean of all.
    ``stream_to`` is that of :func:`load_backbone`.
    """
    backbone = load_backbone(folder, blocks, dtype, stream_to=stream_to)
    backbone.pooling = pooling
    fuse_activations(backbone)
    generator = torch.Generator().manual_seed(head_seed)
    model = TextModel(backbone, outputs, generator).eval()
    if stream_to is None:
        return model.to(dtype)
    model.head.to(stream_to, dtype)  # the only part that is not stored
    return model


def label_word_model(
    folder: str | os.PathLike,
    words: Sequence[int],
    *,
    blocks: int | None = None,
    dtype: torch.dtype = torch.float32,
    stream_to: torch.device | None = None,
) -> LabelWordModel:
    """Load a causal language model to be read at some words, by token id (evaluation mode)."""
    model = load_backbone(folder, blocks, dtype, language_head=True, stream_to=stream_to)
    fuse_activations(model)
    return LabelWordModel(model, words).eval()


def pad(examples: Sequence[torch.Tensor], padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad 1-D token ids on the right with an id; return ids and mask, both (N, T)."""
    ids = nn.utils.rnn.pad_sequence(list(examples), batch_first=True, padding_value=padding)
    lengths = torch.tensor([len(e) for e in examples])
    mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
    return ids.long(), mask.long()


def token_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield indices of similar lengths, at least one, with at most ``max_tokens`` padded tokens."""
    # longest first: little is padded, and a batch that does not fit into memory shows at once
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
