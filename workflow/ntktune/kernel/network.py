"""The network as a function with one scalar per example, in a known and restored state."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.network.device import full_precision_products
from ntktune.network.matmul import FastLinear, WideSoftmax
from ntktune.network.models import fuse_activations, pad, positions
from ntktune.network.streaming import reader_of

# Functions with one value, and the shape that a model must return for each.
LOGITS = {"scalar": "(N,)", "difference": "(N, 2)"}
OUTPUTS = (*LOGITS, "full", "trace", "mean", "diagonal")

Named = tuple[str, torch.Tensor]  # a text with what an error calls it


def network_copy(
    model: nn.Module, dtype: torch.dtype, device: torch.device | None
) -> tuple[nn.Module, torch.device]:
    """Return the model in a precision and on a device (a copy if need be), and the device."""
    tensors = [t for t in model.parameters() if t.is_floating_point()]
    if device is None:
        device = tensors[0].device if tensors else torch.device("cpu")
    try:
        device = torch.empty(0, device=device).device  # "cuda" has become "cuda:0"
    except (RuntimeError, AssertionError) as error:  # torch's own, by kind of mistake
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device={str(device)!r} cannot be used ({reason}); choose cpu, cuda, cuda:1 or None"
        ) from error
    reader = reader_of(tensors)
    if reader and (reader.dtype, reader.device) != (dtype, device):
        raise UserError(
            f"the model's weights are read from their files as {reader.dtype} on {reader.device}; "
            f"load it with dtype={dtype} and stream_to={str(device)!r} for this kernel"
        )
    if any(t.dtype != dtype or t.device != device for t in tensors):
        with torch.inference_mode(False):  # its copies could not be differentiated
            model = copy.deepcopy(model).to(device=device, dtype=dtype)
    return model, device


@contextlib.contextmanager
def evaluation_state(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode with no parameter trainable; restore both."""
    # Keys and values are not cached, which only costs memory. In float64 experts are computed one
    # by one: grouped products have no float64.
    wide = any(p.dtype == torch.float64 for p in model.parameters())
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    with contextlib.ExitStack() as restored:

        def put(owner: Any, name: str, value: Any) -> None:
            restored.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        for module in model.modules():
            restored.callback(setattr, module, "training", module.training)
        model.eval()
        for parameter in model.parameters():
            put(parameter, "requires_grad", False)
        for config in configs.values():
            if getattr(config, "use_cache", False) is True:
                put(config, "use_cache", False)
            if wide and hasattr(config, "_experts_implementation"):
                put(config, "_experts_implementation", "eager")
        for activation in fuse_activations(model):
            restored.callback(delattr, activation, "forward")
        restored.enter_context(full_precision_products())
        restored.enter_context(WideSoftmax() if wide else contextlib.nullcontext())
        reader = reader_of(model.parameters())
        restored.enter_context(reader.saving_names() if reader else contextlib.nullcontext())
        yield


@contextlib.contextmanager
def trainable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let these parameters alone require gradients, inside :func:`evaluation_state`."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


@contextlib.contextmanager
def leaves(parameters: Sequence[nn.Parameter]) -> Iterator[list[torch.Tensor]]:
    """Let these parameters alone require gradients; yield what these are asked of, in their order.

    That is a parameter itself, or of a stored one a converted copy that stands for it.
    """
    made = {}
    for parameter in parameters:
        if reader := reader_of([parameter]):
            made[id(parameter)] = reader.values(parameter).clone().requires_grad_()
            reader.leaves[id(parameter)] = made[id(parameter)]
    try:
        with trainable([p for p in parameters if id(p) not in made]):
            yield [made.get(id(p), p) for p in parameters]
    finally:
        for parameter in parameters:
            if reader := reader_of([parameter]):
                del reader.leaves[id(parameter)]


def network_outputs(
    model: nn.Module, examples: Sequence[torch.Tensor], outputs: str, device: torch.device
) -> torch.Tensor:
    """Return f of B texts with its graph, shape (B, C).

    The model is called and ``outputs`` are as in :func:`ntktune.kernel.engine.gram`: ``scalar`` is
    what it returns, (B,) or (B, 1); ``difference`` is f = l1 - l0 of two logits (Malladi et al.
    2023), C = 1 for both; else f is all C outputs. Raises UserError for another shape.
    """
    # Hugging Face's classifiers find the last token by this id
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    ids, mask = pad(examples, padding if isinstance(padding, int) and padding >= 0 else 0)
    with FastLinear():
        result = model(input_ids=ids.to(device), attention_mask=mask.to(device))
    result = getattr(result, "logits", result)
    if not isinstance(result, torch.Tensor):
        raise UserError(
            f"the model returned {type(result).__name__}; a kernel needs a tensor, or an object "
            "with `logits`: put a head on the backbone (ntktune.network.models.TextModel)"
        )
    count, shape = len(examples), tuple(result.shape)
    classes = 1 if shape == (count,) else shape[1] if len(shape) == 2 and shape[0] == count else 0
    if outputs == "difference" and classes == 2:
        return result[:, 1:] - result[:, :1]
    if (classes == 1 and outputs == "scalar") or (classes and outputs not in LOGITS):
        return result.reshape(count, classes)
    wanted = LOGITS.get(outputs, "(N,) or (N, C)")
    advice = "give the model a head of one output (outputs='scalar') or two ('difference')"
    if len(shape) == 3:
        advice = (
            "it seems to have a language-model head; use its backbone with "
            "ntktune.network.models.TextModel, one scalar per text"
        )
    elif outputs == "scalar" and classes == 2:
        advice = "for two classes ask for outputs='difference' (f = l1 - l0)"
    elif classes > 2:
        advice = "for several outputs ask for outputs='trace', 'mean', 'diagonal' or 'full'"
    raise UserError(
        f"outputs={outputs!r} needs a model that returns {wanted}, but for N={count} texts "
        f"it returned {shape}; {advice}"
    )


def _limits(model: nn.Module) -> tuple[int | None, int | None]:
    """Return the sizes of a Hugging Face model's vocabulary and of its positions, if stated."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(module, "get_input_embeddings"):
            words = module.get_input_embeddings()
            vocabulary = words.num_embeddings if isinstance(words, nn.Embedding) else None
            return vocabulary, positions(module)
    return None, None


def check_ids(model: nn.Module, texts: Sequence[Named]) -> None:
    """Raise UserError naming the first text that the model's vocabulary or positions do not fit."""
    vocabulary, most = _limits(model)
    for name, text in texts:
        if most is not None and len(text) > most:
            raise UserError(
                f"{name} has {len(text)} tokens, but the model has {most} positions; cut the text"
            )
        lowest, highest = int(text.min()), int(text.max())
        if lowest < 0 or (vocabulary is not None and highest >= vocabulary):
            raise UserError(
                f"{name} has token id {lowest if lowest < 0 else highest}, but the model knows "
                f"the ids 0 to {'…' if vocabulary is None else vocabulary - 1}; tokenise the "
                "texts with the model's own tokenizer"
            )


@contextlib.contextmanager
def usable_padding(model: nn.Module, texts: Sequence[Named]) -> Iterator[None]:
    """Give a classifier a padding id from its vocabulary, if its own is None or outside."""
    # Hugging Face's classifiers read the last token that has another id. So any id that is not the
    # last token of a text gives each text's own kernel.
    config, (vocabulary, _) = getattr(model, "config", None), _limits(model)
    padding = getattr(config, "pad_token_id", 0)
    if vocabulary is None or (isinstance(padding, int) and 0 <= padding < vocabulary):
        yield
        return
    last = {int(text[-1]) for _, text in texts}
    free = next((number for number in range(vocabulary) if number not in last), None)
    if free is None:
        raise UserError(
            f"the model's padding token, config.pad_token_id = {padding}, is none of its "
            f"{vocabulary} tokens, and each of these ends some text; give it a token of its own"
        )
    try:
        config.pad_token_id = free
        yield
    finally:
        config.pad_token_id = padding


@contextlib.contextmanager
def ids_that_fit(model: nn.Module, texts: Sequence[Named], device: torch.device) -> Iterator[None]:
    """Name the text that an embedding cannot look up, of a model that states no limits."""
    try:
        yield
    except IndexError as error:
        for name, text in texts:
            try:
                network_outputs(model, [text], "trace", device)
            except IndexError:
                raise UserError(
                    f"the model cannot look up {name} ({len(text)} tokens, ids up to "
                    f"{int(text.max())}): {error}; it is longer than the model's positions, or "
                    "of another tokenizer"
                ) from error
        raise


def check_finite(values: torch.Tensor, what: str, indices: Sequence[int]) -> None:
    """Raise UserError naming the first example whose value is not finite."""
    if bad := (~torch.isfinite(values)).nonzero().flatten().tolist():
        raise UserError(
            f"the {what} of example {indices[bad[0]]} is not finite ({values[bad[0]].item()}; "
            f"{len({indices[i] for i in bad})} such examples); check the weights, "
            "or use a wider dtype (float32)"
        )
