"""Commands of the chapter ``kernel``."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command
from ntktune.cli.inputs import (
    TOKEN_TENSORS,
    check_names,
    check_tokens,
    model_facts,
    read_samples,
)
from ntktune.cli.model_option import add_model, from_hub, located_model
from ntktune.cli.record import Record
from ntktune.errors import UserError, not_there
from ntktune.store.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    import torch

    from ntktune.network.models import TextModel


@dataclass(frozen=True)
class Sample:
    """What kernels are computed of.

    A task's texts and labels, the rows of each draw, provenance of the task and of the model, the
    token ids of two label words, None for a fresh head, and which of the rows are the kernel's
    columns, None for all.
    """

    examples: Sequence[torch.Tensor]
    labels: Mapping[str, torch.Tensor]
    rows: Sequence[Sequence[int]]
    facts: dict[str, Any]
    model: dict[str, Any]
    words: list[int] | None = None
    columns: slice | None = None


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


def _task_texts(args: argparse.Namespace) -> tuple[list[torch.Tensor], dict, dict, dict]:
    """Return a task's texts, its labels, and provenance of the task and of the model.

    Raises
    ------
    UserError
        Tokens, task and model do not belong together.
    """
    tokens, facts = read_tensors(args.tokens)
    check_names(args.tokens, tokens, TOKEN_TENSORS, "tensors")
    model = model_facts(args.model)
    check_tokens(args.tokens, facts, args.task, model)
    examples = tokens["ids"].long().split(tokens["offsets"].diff().tolist())
    return examples, tokens, facts, model


def draws(args: argparse.Namespace) -> None:
    """Compute the Neural Tangent Kernels of all of a task's draws."""
    record = Record("ntktune.cli.kernel:draws", args)
    examples, labels, facts, model = _task_texts(args)
    rows = read_samples(args.draws, args.tokens, facts, ["draws"])["draws"]
    if not rows or len({len(draw) for draw in rows}) != 1:
        raise UserError(
            f"{args.draws} must hold one or more draws of equal size; "
            f"their sizes are {[len(draw) for draw in rows]}"
        )
    for number, draw in enumerate(rows):
        wrong = [row for row in draw if not 0 <= row < len(examples)]
        if wrong:
            raise UserError(
                f"draw {number} of {args.draws} has row {wrong[0]}, but {args.tokens} has "
                f"rows 0 to {len(examples) - 1}; draw again"
            )
    _compute(args, record, Sample(examples, labels, rows, facts, model))


def learning(args: argparse.Namespace) -> None:
    """Compute the kernels that predict learning curves: of training subsets and test rows."""
    record = Record("ntktune.cli.kernel:learning", args)
    examples, labels, facts, model = _task_texts(args)
    subsets = read_samples(args.subsets, args.tokens, facts, seeds=args.seeds)
    available = len(subsets["seeds"][0]["order"])
    if args.rows > available:
        raise UserError(f"--rows is {args.rows}, but the task has {available} training rows")
    rows = [
        [*seed["order"][: args.rows], *subsets["test"]] for seed in subsets["seeds"][: args.seeds]
    ]
    # predictions take no kernel between test rows
    columns = slice(args.rows)
    _compute(args, record, Sample(examples, labels, rows, facts, model, columns=columns))


def of_file(args: argparse.Namespace) -> None:
    """Compute the Neural Tangent Kernel of a model on the texts of one file."""
    import torch

    from ntktune.data.cleaning import content_sha256
    from ntktune.data.tokens import row_tokens, text_encoder, token_limit
    from ntktune.study.config import SUMMARY

    record = Record("ntktune.cli.kernel:of_file", args)
    task, definition = _file_task(args)
    table = _file_table(args, task, definition)
    model_is = located_model(args)
    limit, vocabulary = token_limit(args.model, args.max_tokens)
    encoder = text_encoder(args.model)
    words = _word_ids(args, encoder.encode)
    ids, overlong = row_tokens(
        *(table, definition["template"], encoder),
        max_tokens=limit,
        prefix_token=args.prefix_token,
        vocabulary=vocabulary,
    )
    if overlong:
        print(f"{task}: {overlong} rows were cut to {limit} tokens", file=sys.stderr)
    rows = _file_rows(args, task, len(table))
    labels = {name: torch.tensor(table[name].to_numpy(float)) for name in ("label", "label_noise")}
    about = {"name": task} | {key: definition[key] for key in SUMMARY}
    facts = {"task": about, "data_sha256": content_sha256(table)}
    examples = [torch.tensor(row) for row in ids]
    _compute(args, record, Sample(examples, labels, rows, facts, model_is, words))


def _file_task(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the name and the definition of the task that a file holds."""
    from ntktune.study.config import complete_definition

    if Path(args.data).is_dir():
        raise UserError(f"--data {args.data} is a folder; give one file")
    if not Path(args.data).exists():
        raise not_there(args.data, "correct --data")
    if args.classes and len(args.classes) != 2:
        raise UserError(
            f"--classes {' '.join(args.classes)}: give exactly two labels; rows with others are "
            "left out"
        )
    task, pair = Path(args.data).stem, args.second_text_column is not None
    columns = {"text_a": args.text_column, "text_b": args.second_text_column}
    definition = {
        "title": task,
        "kind": "classification" if args.classes else "regression",
        "classes": args.classes,
        "label_map": dict(zip(args.classes, (0, 1), strict=True)) if args.classes else None,
        "columns": columns | {"label": args.label_column},
        "template": args.template or ("{text_a}\n{text_b}" if pair else "{text_a}"),
        "sources": [{"files": {"train": args.data}}],
    }
    return task, complete_definition(definition, task)


def _file_table(args: argparse.Namespace, task: str, definition: dict) -> pd.DataFrame:
    """Return the rows of a file that can be used."""
    from ntktune.data.cleaning import counts_line, label_name, task_table
    from ntktune.data.sources import read_sources

    advice = "name the file's own with --text-column, --second-text-column, --label-column"
    frames = read_sources(definition, task, columns_advice=advice).frames
    _check_labels(args, {label_name(value) for value in frames["train"]["label"]} - {None})
    table, counts = task_table(frames, definition, divide=False)
    print(counts_line({f"{task}:": counts["train"]}), file=sys.stderr)
    return table


def _file_rows(args: argparse.Namespace, task: str, available: int) -> list[list[int]]:
    """Return the rows that are drawn from a file, as one sample."""
    import numpy as np

    from ntktune.data.sampling import kernel_draws

    size = min(100, available) if args.rows is None else args.rows
    if not 2 <= size <= available:
        raise UserError(
            f"--rows is {size}, but {args.data} has {available} rows that can be used; a kernel "
            "takes two of them or more"
        )
    print(f"{task}: {size} of {available} rows drawn", file=sys.stderr)
    return kernel_draws(np.arange(available), rows=size, draws=1, root=args.seed, task=task)


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
    from ntktune.kernel.account import account, plan_text
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
    print(plan_text(found, args.examples, args.tflops * 1e12 if args.tflops else measured_rate()))


def _bands(tile: Sequence[int], rows: int) -> tuple[slice, slice]:
    """Return the rows and the columns of a tile.

    Raises
    ------
    UserError
        There is no such tile.
    """
    from ntktune.kernel.bands import bands

    i, j, count = tile
    if count < 1:
        raise UserError(f"--tile {i} {j} {count}: the number of bands must be 1 or more")
    if not (0 <= i < count and 0 <= j < count):
        raise UserError(f"--tile {i} {j} {count}: the bands are counted from 0 to {count - 1}")
    split = bands(rows, count)
    return tuple(slice(split[n].start, split[n].stop) for n in (i, j))


def _check_out(out: str) -> None:
    """Raise UserError if a file cannot be written there, before a large model is loaded."""
    if Path(out).is_dir():
        raise UserError(f"--out {out} is a folder; name a file in it")


def _loaded(args: argparse.Namespace, words: list[int] | None, **head: int) -> TextModel:
    """Return the model with a fresh head, or with its own at two words."""
    from ntktune.network.device import torch_dtype
    from ntktune.network.models import label_word_model, text_model

    how = {"blocks": args.blocks, "dtype": torch_dtype(args.dtype)}
    if words:
        return label_word_model(args.model, words, **how)
    return text_model(args.model, **head, **how)


def _compute(args: argparse.Namespace, record: Record, sample: Sample) -> None:
    """Compute the kernels of some samples of a task's rows, in one model load; write them."""
    from ntktune.kernel.samples import sampled_kernels
    from ntktune.network.device import select_device, torch_dtype
    from ntktune.study.seeds import integer_seed

    _check_out(args.out)
    tile, rows, task = getattr(args, "tile", None), sample.rows, sample.facts["task"]
    bands = (slice(None), sample.columns) if sample.columns else None
    bands = _bands(tile, len(rows[0])) if tile else bands
    address = ("kernel.head", task["name"], 0)
    seeds = [integer_seed(args.seed, *address, draw) for draw in range(len(rows))]
    outputs, function = FUNCTIONS[task["kind"]]
    device = select_device(args.device)
    model = _loaded(args, sample.words, outputs=outputs, head_seed=seeds[0]).to(device)
    many = f", {len(rows)} draws" if len(rows) > 1 else ""
    tensors, made = sampled_kernels(
        *(model, sample.examples, sample.labels, rows, bands),
        head_seeds=None if sample.words else seeds,
        progress=Progress(f"kernel{'s' * bool(many)} of {task['name']}{many}", len(rows)),
        outputs=function,
        max_tokens=args.batch_tokens,
        dtype=torch_dtype(args.dtype),
        device=device,
        variant=args.variant,
    )
    facts = {"task": task, "data_sha256": sample.facts["data_sha256"], "model": sample.model}
    facts |= {key: getattr(args, key) for key in ("blocks", "variant", "dtype")}
    facts |= {"function": function, "label_words": sample.words, "kernel": made}
    facts |= {"seeds": {"root": args.seed, "address": [*address, "draw"]}, "head_seeds": seeds}
    facts |= {"tile": tile[:2], "bands": tile[2]} if tile else {}
    write_tensors(args.out, tensors, record.provenance(**facts, device=str(device)))
    print(f"wrote {args.out}", file=sys.stderr)
