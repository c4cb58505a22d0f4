"""The kernel of a network on some texts, and the kernels of several samples of a task's rows."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.kernel import network
from ntktune.kernel.chunks import computed_in_chunks, computed_within, token_bytes
from ntktune.kernel.computation import TOLERANCES, Computation, Room
from ntktune.kernel.groups import parameter_group
from ntktune.kernel.network import LOGITS, OUTPUTS, Named
from ntktune.kernel.passes import Computed
from ntktune.kernel.products import VARIANTS, one_thread_each
from ntktune.network.device import free_bytes, is_processor, peak_memory_bytes, reset_peak_memory
from ntktune.network.models import TextModel
from ntktune.network.streaming import reader_of

PROCESSOR_TOKENS = 512  # padded, per micro-batch on a processor: more are slower
PROCESSOR_BYTES = 2**30  # room there for captured inputs and gradients
SUMMED = ("trace", "mean")  # outputs whose kernels are added up


@dataclass(frozen=True)
class GramResult:
    """An empirical NTK on N examples, or between N and M examples.

    Attributes
    ----------
    kernel
        float64, on the processor. Outputs ``scalar`` and ``difference``: (N, M), K[i, j] =
        ⟨∇θ f(x_i), ∇θ f(x'_j)⟩, not divided by N. ``full``: (N, M, C, C), K[i, j, c, d] =
        ⟨∇θ f_c(x_i), ∇θ f_d(x'_j)⟩; ``diagonal``: (N, M, C), its entries with c = d; ``trace``:
        (N, M), their sum; ``mean``: (N, M), their mean over C.
    groups
        Kernels of parameter groups, of the same shape; they sum to ``kernel``.
    outputs
        f_0 of the N examples, float64: (N,) for ``scalar`` and ``difference``, else (N, C).
    provenance
        How it was computed: form of the products by parameter, parameters that went the general
        way and why, passes, seconds, peak memory (of the process or the GPU), the self-check.
    """

    kernel: torch.Tensor
    groups: dict[str, torch.Tensor]
    outputs: torch.Tensor
    provenance: dict[str, Any]


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
    variant: str = "sgd",
    projection: int | None = None,
    max_bytes: float | None = None,
    chunk_bytes: float | None = None,
    check: bool = True,
) -> GramResult:
    """Return the empirical NTK of a network on some texts, exact, over all its parameters.

    K(x, x') = ⟨∇θ f(x), ∇θ f(x')⟩ over all parameters with ``requires_grad``, in evaluation mode
    (SR26 eq 5 without the 1/n). Linear layers, embeddings and norms are contracted from their
    inputs and output gradients (Novak et al. 2022); every other parameter takes the slow general
    way, which the provenance lists. The model is returned as it came.

    Parameters
    ----------
    model
        Called with ``input_ids`` and ``attention_mask``, both (B, T), right-padded; returns
        (B,) or (B, C), or an object whose ``logits`` are that.
    examples, other
        N and M one-dimensional tensors of token ids; ``other`` None: the examples once more.
    outputs
        ``scalar``: f is the model's one output. ``difference``: f = l1 - l0 of two logits.
        ``full``, ``diagonal``, ``trace``, ``mean``: all C outputs, see :class:`GramResult`.
    groups
        A parameter's name to its group; None: :func:`ntktune.kernel.groups.parameter_group`.
    max_tokens
        Padded tokens per micro-batch (a processor takes 512 at most). If memory runs out all the
        same, the computation warns and starts again with half of this and of the rooms below.
    dtype, device
        Of the computation; a model that is elsewhere is copied. Device None: where the model is.
    progress
        Called with the fraction done, from 0 to 1.
    variant
        ``sgd``: ⟨∇f(x), ∇f(x')⟩. ``signgd``: ⟨sign ∇f(x), sign ∇f(x')⟩, of training with the
        gradient's signs; ``asymmetric-signgd``: ⟨sign ∇f(x), ∇f(x')⟩ (Malladi et al. 2023).
        They take longer: a sign needs the gradient itself. An entry that is zero but for
        rounding has sign 0 (:data:`ntktune.kernel.products.SIGN_FLOORS`).
    projection
        For very many texts, not exact: dimensions that inputs and output gradients of linear layers
        are projected to by random signs, which keeps every entry's expectation. The provenance
        states the error, measured on a few texts. None: exact.
    max_bytes
        Room for captured inputs and gradients. Where they need more than half of it, a
        stack of blocks is run block by block; a network that is none runs once for each part
        of its layers that fits. None: 1 GiB, on a GPU half of its free memory.
    chunk_bytes
        Room for all that grows with the number of tokens. Where it needs more, the kernel is
        computed in chunks, and each runs its own texts again. None: a quarter of the free memory.
    check
        Compare some examples with plain autograd at the end.

    Raises
    ------
    UserError
        Texts, a setting or outputs do not fit, no parameter is trainable, a value is not finite,
        or plain autograd does not confirm the result.
    """
    rooms = {"max_bytes": max_bytes, "chunk_bytes": chunk_bytes}
    _check_settings(outputs, groups, max_tokens, dtype, variant, projection, rooms)
    texts = _named_texts(examples, other)
    network.check_ids(model, texts)
    started = time.perf_counter()
    model, device = network.network_copy(model, dtype, device)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise UserError(
            "the model has no trainable parameter (requires_grad is False everywhere); "
            "the kernel is over trainable parameters: switch some on"
        )
    reset_peak_memory(device)
    report, done_before = progress or (lambda fraction: None), 0.0

    def progress(fraction: float) -> None:
        """Report what is done, never less than before: some things are done again."""
        nonlocal done_before
        done_before = max(done_before, fraction)
        report(done_before)

    on_processor = is_processor(device)
    room = Room(
        min(max_tokens, PROCESSOR_TOKENS) if on_processor else max_tokens,
        max_bytes or (PROCESSOR_BYTES if on_processor else free_bytes(device) / 2),
        chunk_bytes or free_bytes(device) / 4,
    )
    named = groups or functools.partial(parameter_group, model)
    computation = functools.partial(
        Computation,
        model=model,
        parameters=parameters,
        groups={name: named(name) for name in parameters},
        examples=examples,
        other=other,
        outputs=outputs,
        variant=variant,
        projection=projection,
        device=device,
        check=check and projection is None,
    )
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        one_thread_each(),
        network.evaluation_state(model),
        network.usable_padding(model, texts),
        network.ids_that_fit(model, texts, device),
    ):
        classes = [[0]]
        if outputs not in LOGITS:
            with torch.no_grad():
                count = network.network_outputs(model, examples[:1], outputs, device).shape[1]
            classes = [list(range(count))] if outputs == "full" else [[c] for c in range(count)]

        def all_classes(room: Room) -> list[Computed]:
            done: list[Computed] = []
            for n, some in enumerate(classes):
                part = computed_in_chunks(
                    computation(
                        classes=some,
                        progress=lambda done, n=n: progress((n + done) / len(classes)),
                        room=room,
                    )
                )
                if done and outputs in SUMMED:  # a hundred classes take the memory of two
                    for name, kernel in part.grams.items():
                        done[0].grams[name] += kernel
                    part.grams.clear()
                done.append(part)
            return done

        tokens = sum(len(text) for _, text in texts) * sum(map(len, classes))
        need = tokens * token_bytes(parameters.values()) or math.inf
        parts, room = computed_within(all_classes, room, need, device)
    found = {
        name: _all_outputs([part.grams.get(name) for part in parts], outputs, len(classes[0]))
        for name in parts[0].grams
    }
    progress(1.0)
    values = torch.cat([part.outputs for part in parts], dim=1)
    provenance = {
        "function": outputs,
        "variant": variant,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "parameters": sum(p.numel() for p in parameters.values()),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_bytes": peak_memory_bytes(device),
        "tokens_at_once": room.max_tokens,
    } | parts[-1].facts
    if reader := reader_of(parameters.values()):
        provenance["streamed_bytes"] = reader.read
    kernel = torch.zeros_like(next(iter(found.values())))
    for group in found.values():
        kernel += group
    if other is None and not bool(kernel.any()):
        raise UserError(
            f"the gradient of every example is zero in all {len(parameters)} trainable "
            "parameters: the model's output does not depend on them (it may hold them twice, "
            "detach a tensor or multiply by zero)"
        )
    if projection is not None:
        again = functools.partial(gram, model, outputs=outputs, dtype=dtype, check=check)
        error = _projection_error(kernel, again, examples, other)
        provenance["projection"] = {"dimensions": projection, "relative_error": error}
    return GramResult(kernel, found, values[:, 0] if outputs in LOGITS else values, provenance)


def _projection_error(
    kernel: torch.Tensor,
    exact: Callable[..., GramResult],
    examples: Sequence[torch.Tensor],
    other: Sequence[torch.Tensor] | None,
) -> float:
    """Return ‖K̂ − K‖ / ‖K‖ (Frobenius) on a few texts of all lengths."""

    def some(texts: Sequence[torch.Tensor]) -> list[int]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        return sorted({order[i * (len(order) - 1) // 7] for i in range(8)})

    rows = some(examples)
    columns = rows if other is None else some(other)
    right = None if other is None else [other[i] for i in columns]
    expected = exact([examples[i] for i in rows], right).kernel
    return ((kernel[rows][:, columns] - expected).norm() / expected.norm()).item()


def _all_outputs(grams: list[torch.Tensor | None], outputs: str, count: int) -> torch.Tensor:
    """Return a group's kernel in the shape of :class:`GramResult`."""
    # "full" comes as one Gram over N · C values, sums as the first, else there is one per output
    if outputs == "full":
        return grams[0].unflatten(1, (-1, count)).unflatten(0, (-1, count)).transpose(1, 2)
    if outputs == "diagonal":
        return torch.stack(grams, dim=-1)
    return grams[0] / len(grams) if outputs == "mean" else grams[0]


def _check_settings(
    outputs: str,
    groups: Callable[[str], str] | None,
    max_tokens: int,
    dtype: torch.dtype,
    variant: str,
    projection: int | None,
    rooms: dict[str, float | None],
) -> None:
    for name, chosen, known in (("variant", variant, VARIANTS), ("outputs", outputs, OUTPUTS)):
        if chosen not in known:
            raise UserError(f"{name}={chosen!r} is unknown; choose one of {', '.join(known)}")
    if projection is not None and not (type(projection) is int and projection > 0):
        raise UserError(f"projection={projection!r}: give a number of dimensions from 1, or None")
    if projection is not None and variant != "sgd":
        raise UserError(
            f"projection={projection} needs variant='sgd' (it is {variant!r}): the signs of a "
            "gradient need the gradient"
        )
    if dtype not in TOLERANCES:
        known = ", ".join(map(str, TOLERANCES))
        raise UserError(f"dtype={dtype} is not supported for a kernel; choose one of {known}")
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens} is too few; a micro-batch needs at least 1")
    for name, room in rooms.items():
        if room is not None and not (isinstance(room, (int, float)) and room > 0):
            raise UserError(f"{name} must be a positive number of bytes, or None, not {room!r}")
    if not (groups is None or callable(groups)):
        raise UserError(
            f"groups is a {type(groups).__name__}; give a function of a parameter's name, or None"
        )


def _named_texts(
    examples: Sequence[torch.Tensor], other: Sequence[torch.Tensor] | None
) -> list[Named]:
    """Return all texts with what an error calls each, or raise UserError if one is none."""
    sides = [("example", "N=0", examples)]
    if other is not None:
        sides.append(("example of `other`", "M=0, `other` is empty", other))
    named: list[Named] = []
    for what, none, texts in sides:
        if not isinstance(texts, (Sequence, torch.Tensor)):
            raise UserError(
                f"the {what.replace('example', 'examples')} are a {type(texts).__name__}; give a "
                "sequence: list(texts) makes one"
            )
        if len(texts) == 0:
            raise UserError(f"there are no examples ({none}); a kernel needs at least one text")
        named += [(f"{what} {number}", text) for number, text in enumerate(texts)]
    for name, text in named:
        whole = isinstance(text, torch.Tensor) and text.dtype in (torch.int64, torch.int32)
        if not whole or text.dim() != 1:
            shape = tuple(getattr(text, "shape", ()))
            kind = getattr(text, "dtype", type(text).__name__)
            raise UserError(
                f"{name} is not a one-dimensional tensor of token ids ({kind}, shape {shape}); "
                "tokenise the texts and give torch.tensor(ids) of each"
            )
        if len(text) == 0:
            raise UserError(f"{name} has no tokens; remove empty texts")
    return named


def sampled_kernels(
    model: TextModel,
    examples: Sequence[torch.Tensor],
    labels: Mapping[str, torch.Tensor],
    rows: Sequence[Sequence[int]],
    places: tuple[slice, slice] | None = None,
    *,
    head_seeds: Sequence[int] | None,
    progress: Callable[[float], None],
    **how: Any,
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Return the kernels of D samples of N rows each, and the provenance of each.

    The ``model`` is on the device to compute on. ``examples`` are all of the task's texts as token
    ids, ``labels`` have ``label`` and ``label_noise`` of all rows. ``rows`` are the samples' rows;
    ``places`` says which of a sample's are the kernel's rows and columns (None: all).
    ``head_seeds`` has the seed of each sample's fresh head; None keeps the model's head.
    ``progress`` gets the number of samples done, ``how`` goes to :func:`gram`.

    The tensors are ``kernel`` and ``group/<name>`` (D, N, M); ``outputs`` (of all C: (D, N, C)),
    ``label``, ``label_noise`` and ``row`` (D, N); with ``places`` also ``column`` (D, M).
    """
    left, right = places or (slice(None), slice(None))
    found = []
    for draw, chosen in enumerate(rows):
        if head_seeds is not None:
            model.reset_head(torch.Generator().manual_seed(head_seeds[draw]))
        one = [examples[row] for row in chosen[left]]
        other = None if left == right else [examples[row] for row in chosen[right]]
        found.append(
            gram(model, one, other, progress=lambda done, draw=draw: progress(draw + done), **how)
        )
    index = torch.tensor(rows, dtype=torch.long)
    tensors = {
        "kernel": torch.stack([r.kernel for r in found]),
        "outputs": torch.stack([r.outputs for r in found]),
        "label": labels["label"].double()[index[:, left]],
        "label_noise": labels["label_noise"].double()[index[:, left]],
        "row": index[:, left],
    }
    if places:  # a copy: safetensors writes no two tensors of one memory
        tensors["column"] = index[:, right].clone()
    for group in found[0].groups:
        tensors[f"group/{group}"] = torch.stack([r.groups[group] for r in found])
    return tensors, [r.provenance for r in found]
