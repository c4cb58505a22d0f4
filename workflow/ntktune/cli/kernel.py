"""Commands of the chapter ``kernel``."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ntktune.cli import Progress, add_command
from ntktune.cli.inputs import (
    TOKEN_TENSORS,
    check_names,
    check_tokens,
    model_facts,
    read_samples,
)
from ntktune.cli.model_option import add_model, from_hub, located_model
from ntktune.errors import UserError, not_there
from ntktune.store.records import Record
from ntktune.store.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

# Outputs of the head and the scalar f that the kernel is of. Two classes: the logit
# difference (Malladi et al. 2023).
FUNCTIONS = {"regression": (1, "scalar"), "classification": (2, "difference")}


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    from ntktune.cli import kernel_tiles

    kernel_tiles.add_commands(verbs)
    out = "safetensors: kernels, outputs and labels"
    study = ("model", "tokens", "task")
    tile = {"nargs": 3, "type": int, "metavar": ("I", "J", "BANDS")}
    tile["help"] = (
        "only band I of the rows with band J, of so many bands, counted from 0; `kernel gather` "
        "puts them together (default: the whole)"
    )
    parser = add_command(verbs, "draws", draws, *study, draws="the task's draws.json", out=out)
    parser.add_argument("--tile", **tile)
    parser = add_command(verbs, "learning", learning, *study, "subsets", out=out)
    parser.add_argument("--tile", **tile)
    _add_gram(verbs, out)
    parser = add_command(verbs, "plan", plan, network=from_hub)
    add_model(parser, "model folder, of which config.json is enough")
    parser.add_argument("--examples", type=int, default=100, help="N (default: 100)")
    parser.add_argument(
        "--lengths",
        nargs=2,
        type=int,
        default=[10, 64],
        metavar=("SHORTEST", "LONGEST"),
        help="tokens per text, evenly spread (default: 10 64)",
    )
    parser.add_argument(
        "--tflops", type=float, help="speed of the device (default: measured here, in a second)"
    )


def _add_gram(verbs: argparse._SubParsersAction, out: str) -> None:
    data = "csv, tsv, json, jsonl or parquet file"
    parser = add_command(verbs, "gram", of_file, network=from_hub, data=data, out=out)
    add_model(parser)
    parser.add_argument("--text-column", default="text", help="the texts (default: text)")
    parser.add_argument("--second-text-column", help="the second texts, of a task on pairs")
    parser.add_argument("--label-column", default="label", help="the labels (default: label)")
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="LABEL",
        help="the two labels of a classification, class 0 first, as they stand in the file "
        "(default: scores)",
    )
    parser.add_argument(
        "--template", help="how a row becomes one text (default: the text, or both on two lines)"
    )
    parser.add_argument(
        "--label-words",
        nargs=2,
        metavar=("ZERO", "ONE"),
        help="use the language model's own head, at the first tokens of these two words as the "
        "template would go on with them, as ' terrible' ' great' (default: a fresh head)",
    )


def _checked_inputs(
    args: argparse.Namespace, tokens: dict[str, torch.Tensor], facts: dict
) -> tuple[list[list[int]], dict]:
    """Return the rows of each draw, and name, revision and checksum of the model.

    Raises
    ------
    UserError
        Tokens, draws, task and model do not belong together.
    """
    model = model_facts(args.model)
    check_tokens(args.tokens, facts, args.task, model)
    rows, available = (
        read_samples(args.draws, args.tokens, facts, ["draws"])["draws"],
        len(tokens["offsets"]) - 1,
    )
    if not rows or len({len(draw) for draw in rows}) != 1:
        raise UserError(
            f"{args.draws} must hold one or more draws of equal size; "
            f"their sizes are {[len(draw) for draw in rows]}"
        )
    for number, draw in enumerate(rows):
        wrong = [row for row in draw if not 0 <= row < available]
        if wrong:
            raise UserError(
                f"draw {number} of {args.draws} has row {wrong[0]}, but {args.tokens} has "
                f"rows 0 to {available - 1}; draw again"
            )
    return rows, model


def draws(args: argparse.Namespace) -> None:
    """Compute the Neural Tangent Kernels of all of a task's draws."""
    record = Record("ntktune.cli.kernel:draws", args)
    tokens, facts = read_tensors(args.tokens)
    check_names(args.tokens, tokens, TOKEN_TENSORS, "tensors")
    rows, model_is = _checked_inputs(args, tokens, facts)
    examples = tokens["ids"].long().split(tokens["offsets"].diff().tolist())
    _compute(args, record, examples, tokens, rows, facts, model_is)


def learning(args: argparse.Namespace) -> None:
    """Compute the kernels that predict learning curves: of training subsets and test rows."""
    record = Record("ntktune.cli.kernel:learning", args)
    tokens, facts = read_tensors(args.tokens)
    check_names(args.tokens, tokens, TOKEN_TENSORS, "tensors")
    model_is = model_facts(args.model)
    check_tokens(args.tokens, facts, args.task, model_is)
    subsets = read_samples(args.subsets, args.tokens, facts)
    there = len(subsets["seeds"])
    if not 1 <= args.seeds <= there:
        raise UserError(
            f"--seeds is {args.seeds}, but {args.subsets} has {there}; give 1 to {there}"
        )
    available = len(subsets["seeds"][0]["order"])
    if not 2 <= args.rows <= available:
        raise UserError(f"--rows is {args.rows}, but the task has {available} training rows")
    rows = [
        [*seed["order"][: args.rows], *subsets["test"]] for seed in subsets["seeds"][: args.seeds]
    ]
    examples = tokens["ids"].long().split(tokens["offsets"].diff().tolist())
    _compute(args, record, examples, tokens, rows, facts, model_is)


def of_file(args: argparse.Namespace) -> None:
    """Compute the Neural Tangent Kernel of a model on the texts of one file."""
    import numpy as np
    import torch

    from ntktune.data.cleaning import content_sha256, counts_line, label_name, task_table
    from ntktune.data.sampling import kernel_draws
    from ntktune.data.sources import read_sources
    from ntktune.data.tokens import row_tokens, text_encoder, token_limit
    from ntktune.study.config import SUMMARY, complete_definition

    record = Record("ntktune.cli.kernel:of_file", args)
    if Path(args.data).is_dir():
        raise UserError(f"--data {args.data} is a folder; give one file")
    if not Path(args.data).exists():
        raise not_there(args.data, "correct --data")
    if args.classes and len(args.classes) != 2:
        raise UserError(
            f"--classes {' '.join(args.classes)}: give exactly two labels; rows with others are "
            "left out"
        )
    task = Path(args.data).stem
    pair = args.second_text_column is not None
    definition = complete_definition(
        {
            "title": task,
            "kind": "classification" if args.classes else "regression",
            "classes": args.classes,
            "label_map": dict(zip(args.classes, (0, 1), strict=True)) if args.classes else None,
            "columns": {
                "text_a": args.text_column,
                "text_b": args.second_text_column,
                "label": args.label_column,
            },
            "template": args.template or ("{text_a}\n{text_b}" if pair else "{text_a}"),
            "sources": [{"files": {"train": args.data}}],
        },
        task,
    )
    advice = "name the file's own with --text-column, --second-text-column, --label-column"
    frames = read_sources(definition, task, columns_advice=advice).frames
    _check_labels(args, {label_name(value) for value in frames["train"]["label"]} - {None})
    table, counts = task_table(frames, definition, divide=False)
    print(counts_line({f"{task}:": counts["train"]}), file=sys.stderr)
    model_is = located_model(args)
    limit, vocabulary = token_limit(args.model, args.max_tokens)
    encoder = text_encoder(args.model)
    words = _word_ids(args, encoder.encode)
    ids, overlong = row_tokens(
        table,
        definition["template"],
        encoder,
        max_tokens=limit,
        prefix_token=args.prefix_token,
        vocabulary=vocabulary,
    )
    if overlong:
        print(f"{task}: {overlong} rows were cut to {limit} tokens", file=sys.stderr)
    size = min(100, len(table)) if args.rows is None else args.rows
    if not 2 <= size <= len(table):
        raise UserError(
            f"--rows is {size}, but {args.data} has {len(table)} rows that can be used; a kernel "
            "takes two of them or more"
        )
    chosen = kernel_draws(np.arange(len(table)), rows=size, draws=1, root=args.seed, task=task)
    print(f"{task}: {size} of {len(table)} rows drawn", file=sys.stderr)
    labels = {name: torch.tensor(table[name].to_numpy(float)) for name in ("label", "label_noise")}
    facts = {
        "task": {"name": task} | {key: definition[key] for key in SUMMARY},
        "data_sha256": content_sha256(table),
    }
    examples = [torch.tensor(row) for row in ids]
    _compute(args, record, examples, labels, chosen, facts, model_is, words)


def _check_labels(args: argparse.Namespace, labels: set[str]) -> None:
    """Raise UserError if a file's labels are not what the command line says they are."""
    from ntktune.data.cleaning import label_name, number

    shown = ", ".join(repr(label) for label in sorted(labels)[:5]) or "nothing"
    shown += ", …" if len(labels) > 5 else ""
    missing = [name for name in args.classes or () if label_name(name) not in labels]
    if missing:
        raise UserError(
            f"--classes {' '.join(args.classes)}: no row of {args.data} has {missing[0]!r} in the "
            f"column {args.label_column}, which holds {shown}"
        )
    if not args.classes and not any(math.isfinite(number(label)) for label in labels):
        raise UserError(
            f"the column {args.label_column} of {args.data} holds no score but {shown}; for two "
            "classes give --classes ZERO ONE"
        )


def _word_ids(
    args: argparse.Namespace, encode: Callable[[Sequence[str]], list[list[int]]]
) -> list[int] | None:
    """Return the token ids of the label words: the first token of each.

    Raises
    ------
    UserError
        Words without classes, or two words with the same first token.
    """
    if not args.label_words:
        return None
    if not args.classes:
        raise UserError("--label-words needs --classes: which label each word stands for")
    start = len(encode([""])[0])  # what the tokenizer puts before every text
    encoded = [tokens[start:] for tokens in encode(args.label_words)]
    if not all(encoded):
        raise UserError(f"--label-words {args.label_words}: a word has no tokens")
    ids = [tokens[0] for tokens in encoded]
    if ids[0] == ids[1]:
        raise UserError(
            f"--label-words {args.label_words} begin with the same token ({ids[0]}); their "
            "logits are one and the same: choose words that differ in their first token"
        )
    return ids


def plan(args: argparse.Namespace) -> None:
    """Print what a kernel will cost: FLOPs, memory and time, before anything is computed."""
    from ntktune.kernel.account import account
    from ntktune.network.matmul import measured_rate
    from ntktune.network.models import block_list, empty_backbone, positions

    shortest, longest = args.lengths
    if args.examples < 1 or not 1 <= shortest <= longest:
        raise UserError(
            f"--examples {args.examples} --lengths {shortest} {longest}: give 1 example or more, "
            "and the shorter length first"
        )
    if args.tflops is not None and not 0 < args.tflops < float("inf"):
        raise UserError(f"--tflops is {args.tflops}; it must be a number above 0")
    steps = max(1, args.examples - 1)
    lengths = [shortest + (longest - shortest) * i // steps for i in range(args.examples)]
    located_model(args, ["config.json"])
    backbone = empty_backbone(args.model, args.blocks)
    most = positions(backbone)
    if most is not None and longest > most:
        raise UserError(
            f"--lengths {shortest} {longest}: this model has {most} positions; give fewer"
        )
    found = account(backbone, list(block_list(backbone)), lengths)
    rate = args.tflops * 1e12 if args.tflops else measured_rate()
    gib = 2**30
    print(
        f"{found.parameters / 1e6:,.1f} million parameters, {args.examples} texts, "
        f"{found.tokens:,} tokens, float32\n"
        f"FLOPs    forward {found.forward:.2e}  backward {found.backward:.2e}  "
        f"Gram {found.gram:.2e}  together {found.flops:.2e}\n"
        f"memory   weights {found.weights / gib:.2f}  blocks' inputs {found.kept / gib:.2f}  "
        f"one block's captures {found.captured / gib:.2f}  together {found.peak / gib:.2f} GiB\n"
        f"         (the Jacobian, which is never stored: {found.jacobian / gib:.2f} GiB)\n"
        f"time     {found.flops / rate:,.1f} s at {rate / 1e12:.2f} TFLOP/s, if all of it were "
        "large products"
    )


def _bands(tile: Sequence[int] | None, rows: int) -> tuple[slice, slice]:
    """Return the rows and the columns of a tile, all of them without one.

    Raises
    ------
    UserError
        There is no such tile.
    """
    from ntktune.kernel.bands import bands

    if tile is None:
        return slice(0, rows), slice(0, rows)
    i, j, count = tile
    if count < 1:
        raise UserError(f"--tile {i} {j} {count}: the number of bands must be 1 or more")
    if not (0 <= i < count and 0 <= j < count):
        raise UserError(f"--tile {i} {j} {count}: the bands are counted from 0 to {count - 1}")
    split = bands(rows, count)
    return tuple(slice(split[n].start, split[n].stop) for n in (i, j))


def _compute(
    args: argparse.Namespace,
    record: Record,
    examples: Sequence[torch.Tensor],
    labels: Mapping[str, torch.Tensor],
    rows: list[list[int]],
    facts: dict,
    model_is: dict,
    words: list[int] | None = None,
) -> None:
    """Compute the kernels of some samples of a task's rows, in one model load; write them."""
    import torch

    from ntktune.kernel import gram
    from ntktune.network.device import select_device, torch_dtype
    from ntktune.network.models import label_word_model, text_model
    from ntktune.study.seeds import integer_seed

    # what only the engine or the end would find, before a large model is loaded
    tile = getattr(args, "tile", None)
    left, right = _bands(tile, len(rows[0]))
    if Path(args.out).is_dir():
        raise UserError(f"--out {args.out} is a folder; name a file in it")
    task = facts["task"]["name"]
    dtype, device = torch_dtype(args.dtype), select_device(args.device)
    outputs, function = FUNCTIONS[facts["task"]["kind"]]
    seeds = [integer_seed(args.seed, "kernel.head", task, 0, draw) for draw in range(len(rows))]
    if words is None:
        model = text_model(
            args.model, outputs=outputs, head_seed=seeds[0], blocks=args.blocks, dtype=dtype
        )
    else:
        model = label_word_model(args.model, words, blocks=args.blocks, dtype=dtype)
    model = model.to(device)
    many = f", {len(rows)} draws" if len(rows) > 1 else ""
    progress = Progress(f"kernel{'s' * (len(rows) > 1)} of {task}{many}", len(rows))
    found = []
    for draw, chosen in enumerate(rows):
        if words is None:
            model.reset_head(torch.Generator().manual_seed(seeds[draw]))
        found.append(
            gram(
                model,
                [examples[row] for row in chosen[left]],
                None if left == right else [examples[row] for row in chosen[right]],
                outputs=function,
                max_tokens=args.batch_tokens,
                dtype=dtype,
                device=device,
                progress=lambda done, draw=draw: progress(draw + done),
                variant=args.variant,
            )
        )
    index = torch.tensor(rows, dtype=torch.long)[:, left]  # (draws, N)
    tensors = {
        "kernel": torch.stack([r.kernel for r in found]),
        "outputs": torch.stack([r.outputs for r in found]),
        "label": labels["label"].double()[index],
        "label_noise": labels["label_noise"].double()[index],
        "row": index,
    }
    if tile:
        tensors["column"] = torch.tensor(rows, dtype=torch.long)[:, right]
    for group in found[0].groups:
        tensors[f"group/{group}"] = torch.stack([r.groups[group] for r in found])
    provenance = record.provenance(
        task=facts["task"],
        data_sha256=facts["data_sha256"],
        model=model_is,
        blocks=args.blocks,
        function=function,
        variant=args.variant,
        label_words=words,
        dtype=args.dtype,
        device=str(device),
        seeds={"root": args.seed, "address": ["kernel.head", task, 0, "draw"]},
        head_seeds=seeds,
        kernel=[r.provenance for r in found],
        **({"tile": tile[:2], "bands": tile[2]} if tile else {}),
    )
    write_tensors(args.out, tensors, provenance)
    print(f"wrote {args.out}", file=sys.stderr)
