"""Commands of the chapter ``kernel``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command, many, model_options, optional
from ntktune.cli.inputs import (
    class_count,
    from_hub,
    located_model,
    model_facts,
    read_samples,
    read_tokens,
)
from ntktune.cli.record import record
from ntktune.errors import UserError, not_there
from ntktune.network.device import free_bytes, select_device, torch_dtype
from ntktune.store.files import read_rate
from ntktune.store.tensors import StoredTensor, stored_tensors, stream_tensors, write_tensors

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ntktune.network.models import TextModel

Shard = tuple[int, int]
# Facts in which all shards of a kernel agree.
SHARED = (
    *("command", "code", "task", "data_sha256", "model", "blocks", "function", "variant"),
    *("pooling", "label_words", "dtype", "seeds", "head_seeds", "bands"),
)
# Tensors of a shard with one entry per row, beside the row numbers.
WHOLE = ("label", "label_noise", "outputs")


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    out = "safetensors: kernels, outputs and labels"
    shard = optional(
        "compute only the shard of row band I and column band J; rows are cut into BANDS bands, "
        "counted from 0; `kernel gather` puts shards together (default: the whole)",
        nargs=3,
        type=int,
        metavar=("I", "J", "BANDS"),
    )
    study = ("model", "tokens", "task")
    add_command(verbs, "draws", draws, *study, draws="the task's draws.json", out=out, shard=shard)
    add_command(verbs, "learning", learning, *study, "subsets", out=out, shard=shard)
    shards = "all shards of one file of kernels, in any order, or the folder that they alone are in"
    add_command(verbs, "gather", gather, shards=many(shards), out=out)
    _add_gram(verbs, out)
    add_command(
        *(verbs, "plan", plan),
        network=from_hub,
        **model_options("model folder, of which config.json is enough"),
        examples=optional("N (default: 100)", type=int, default=100),
        lengths=optional(
            "tokens per text, evenly spread (default: 10 64)",
            nargs=2,
            type=int,
            default=[10, 64],
            metavar=("SHORTEST", "LONGEST"),
        ),
        classes=optional("of the task (default: 2; a score is as much)", type=int, default=2),
        tflops=optional("speed of the device (default: measured here, in a second)", type=float),
    )


def _add_gram(verbs: argparse._SubParsersAction, out: str) -> None:
    words = optional(
        "use the language model's own head, at the first tokens of these two words as the template "
        "would go on with them, as ' terrible' ' great' (default: a fresh head)",
        nargs=2,
        metavar=("ZERO", "ONE"),
    )
    options = model_options() | file_options() | {"out": out, "label_words": words}
    add_command(verbs, "gram", of_file, network=from_hub, **options)


def file_options() -> dict[str, Any]:
    """Return the options of a command that takes its texts from one file, without a study."""
    return {
        "data": "csv, tsv, json, jsonl or parquet file",
        "text_column": optional("the texts (default: text)", default="text"),
        "second_text_column": optional("the second texts, of a task on pairs"),
        "label_column": optional("the labels (default: label)", default="label"),
        "classes": optional(
            "the labels of a classification, class 0 first, as they stand in the file; none after "
            "the flag: all that are there (default: scores)",
            nargs="*",
            metavar="LABEL",
        ),
        "template": optional(
            "how a row becomes one text (default: the text, or both on two lines)"
        ),
    }


def task_texts(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``_compute``, all but the rows, of a task and its model."""
    model = model_facts(args.model)
    tokens, facts = read_tokens(args.tokens, args.task, model)
    examples = tokens["ids"].long().split(tokens["offsets"].diff().tolist())
    facts |= {"model": model}
    return {"folder": args.model, "examples": examples, "labels": tokens, "facts": facts}


def draws(args: argparse.Namespace) -> None:
    """Compute the Neural Tangent Kernels of all of a task's draws."""
    texts = task_texts(args)
    _compute(args, **texts, rows=read_draws(args, texts))


def read_draws(args: argparse.Namespace, texts: Mapping[str, Any]) -> list[list[int]]:
    """Return the rows of each draw of ``--draws``; raise UserError if they are not the texts'."""
    rows = read_samples(args.draws, args.tokens, texts["facts"], ["draws"])["draws"]
    if len({len(draw) for draw in rows}) != 1:
        raise UserError(
            f"{args.draws} must hold one or more draws of equal size; "
            f"their sizes are {[len(draw) for draw in rows]}"
        )
    for number, draw in enumerate(rows):
        last = len(texts["examples"]) - 1
        if wrong := [row for row in draw if not 0 <= row <= last]:
            raise UserError(
                f"draw {number} of {args.draws} has row {wrong[0]}, but {args.tokens} has "
                f"rows 0 to {last}; draw again"
            )
    return rows


def learning(args: argparse.Namespace) -> None:
    """Compute the kernels that predict learning curves: of training subsets and test rows."""
    texts = task_texts(args)
    subsets = read_samples(args.subsets, args.tokens, texts["facts"], seeds=args.seeds)
    available = len(subsets["seeds"][0]["order"])
    if args.rows > available:
        raise UserError(f"--rows is {args.rows}, but the task has {available} training rows")
    seeds = subsets["seeds"][: args.seeds]
    rows = [[*seed["order"][: args.rows], *subsets["test"]] for seed in seeds]
    # predictions need no kernel between two test rows: the columns are training rows only
    _compute(args, **texts, rows=rows, places=(slice(None), slice(args.rows)))


def of_file(args: argparse.Namespace) -> None:
    """Compute the Neural Tangent Kernel of a model on the texts of one file."""
    texts, encode = file_texts(args)
    _compute(args, **texts, words=_word_ids(args, encode))


def file_texts(args: argparse.Namespace, usual: int = 100) -> tuple[dict[str, Any], Callable]:
    """Return the arguments of ``_compute`` of a file's texts, and what turns a text into tokens.

    Without ``--rows`` the ``usual`` number is drawn.
    """
    import torch

    from ntktune.data.cleaning import content_sha256
    from ntktune.data.tokens import row_tokens, text_encoder, token_limit
    from ntktune.study.config import SUMMARY

    task, definition = _file_task(args)
    table = _file_table(args, task, definition)
    folder, model_is = located_model(args)
    limit, vocabulary = token_limit(folder, args.max_tokens)
    encoder = text_encoder(folder)
    texts = (table, definition["template"], encoder)
    ids, overlong = row_tokens(*texts, limit, vocabulary, args.prefix_token)
    if overlong:
        print(f"{task}: {overlong} rows were cut to {limit} tokens", file=sys.stderr)
    rows = _file_rows(args, task, len(table), usual)
    labels = {name: torch.tensor(table[name].to_numpy(float)) for name in ("label", "label_noise")}
    about = {"name": task} | {key: definition[key] for key in SUMMARY}
    facts = {"task": about, "data_sha256": content_sha256(table), "model": model_is}
    found = {"folder": folder, "examples": [torch.tensor(row) for row in ids], "labels": labels}
    return found | {"facts": facts, "rows": rows}, encoder.encode


def _file_task(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    from ntktune.study.config import complete_definition

    if Path(args.data).is_dir():
        raise UserError(f"--data {args.data} is a folder; give one file")
    if not Path(args.data).exists():
        raise not_there(args.data, "correct --data")
    if args.classes and len(args.classes) < 2:
        raise UserError(
            f"--classes {' '.join(args.classes)}: give two labels or more (rows with others are "
            "left out), or none for all that are there"
        )
    task, pair = Path(args.data).stem, args.second_text_column is not None
    columns = {"text_a": args.text_column, "text_b": args.second_text_column}
    definition = {
        "title": task,
        "kind": "regression" if args.classes is None else "classification",
        "classes": args.classes or None,
        "label_map": {name: i for i, name in enumerate(args.classes or ())} or None,
        "columns": columns | {"label": args.label_column},
        "template": args.template or ("{text_a}\n{text_b}" if pair else "{text_a}"),
        "sources": [{"files": {"train": args.data}}],
    }
    return task, complete_definition(definition, task)


def _file_table(args: argparse.Namespace, task: str, definition: dict) -> pd.DataFrame:
    from ntktune.data.cleaning import counts_line, found_classes, label_name, task_table
    from ntktune.data.sources import read_sources

    advice = "name the file's own with --text-column, --second-text-column, --label-column"
    frames = read_sources(definition, task, columns_advice=advice).frames
    _check_labels(args, {label_name(value) for value in frames["train"]["label"]} - {None})
    if args.classes == []:
        definition["classes"] = found_classes(frames)
    table, counts = task_table(frames, definition, divide=False)
    print(counts_line({f"{task}:": counts["train"]}), file=sys.stderr)
    return table


def _file_rows(args: argparse.Namespace, task: str, available: int, usual: int) -> list[list[int]]:
    import numpy as np

    from ntktune.data.sampling import kernel_draws

    size = min(usual, available) if args.rows is None else args.rows
    if not 2 <= size <= available:
        raise UserError(
            f"--rows is {size}, but {args.data} has {available} rows that can be used; a kernel "
            "takes two of them or more"
        )
    print(f"{task}: {size} of {available} rows drawn", file=sys.stderr)
    return kernel_draws(np.arange(available), rows=size, draws=1, root=args.seed, task=task)


def _check_labels(args: argparse.Namespace, labels: set[str]) -> None:
    from ntktune.data.cleaning import first_few, label_name, number

    shown = first_few(sorted(labels)) or "nothing"
    if missing := [name for name in args.classes or () if label_name(name) not in labels]:
        raise UserError(
            f"--classes {' '.join(args.classes)}: no row of {args.data} has {missing[0]!r} in the "
            f"column {args.label_column}, which holds {shown}"
        )
    if args.classes is None and not any(math.isfinite(number(label)) for label in labels):
        raise UserError(
            f"the column {args.label_column} of {args.data} holds no score but {shown}; for "
            "classes give --classes, alone or with their labels"
        )


def _word_ids(args: argparse.Namespace, encode: Callable) -> list[int] | None:
    """Return the first token of each label word; raise UserError if these are not two."""
    if not args.label_words:
        return None
    if len(args.classes or ()) != 2:
        raise UserError("--label-words needs two --classes: which label each word stands for")
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
    if args.classes < 2:
        raise UserError(f"--classes is {args.classes}; a task has 2 or more, a score none")
    if args.tflops is not None and not 0 < args.tflops < float("inf"):
        raise UserError(f"--tflops is {args.tflops}; it must be a number above 0")
    steps = max(1, args.examples - 1)
    lengths = [shortest + (longest - shortest) * i // steps for i in range(args.examples)]
    folder = located_model(args, ["config.json"])[0]
    backbone = empty_backbone(folder, args.blocks)
    most = positions(backbone)
    if most is not None and longest > most:
        raise UserError(
            f"--lengths {shortest} {longest}: this model has {most} positions; give fewer"
        )
    found = account(backbone, block_list(backbone), lengths, args.classes)
    device = select_device(lease=False)
    speed = args.tflops * 1e12 if args.tflops else measured_rate(device)
    print(plan_text(found, args.examples, speed, free_bytes(device), _files_read(folder)))


def _files_read(folder: str) -> tuple[int, float] | None:
    """Return the bytes of a folder's files of weights, and how many are read a second, if any."""
    from ntktune.network.loading import weight_files

    files = [Path(folder, name) for name in weight_files(folder)]
    files = [file for file in files if file.is_file()]
    return (sum(file.stat().st_size for file in files), read_rate(files[-1])) if files else None


def _bands(shard: Sequence[int], rows: int) -> tuple[slice, slice]:
    """Return the rows and the columns of a shard; raise UserError if there is no such shard."""
    from ntktune.kernel.bands import bands

    i, j, count = shard
    if count < 1:
        raise UserError(f"--shard {i} {j} {count}: the number of bands must be 1 or more")
    if not (0 <= i < count and 0 <= j < count):
        raise UserError(f"--shard {i} {j} {count}: the bands are counted from 0 to {count - 1}")
    split = bands(rows, count)
    return tuple(slice(split[n].start, split[n].stop) for n in (i, j))


def loaded(
    args: argparse.Namespace,
    folder: str,
    words: list[int] | None,
    stream_to: torch.device | None = None,
    **head: int,
) -> TextModel:
    """Return the model with a fresh head, or with its language-model head at two words."""
    from ntktune.network.models import label_word_model, text_model

    how = {"blocks": args.blocks, "dtype": torch_dtype(args.dtype), "stream_to": stream_to}
    if words and args.pooling != "last":
        raise UserError("--label-words are read at the last token; leave out --pooling mean")
    if words:
        return label_word_model(folder, words, **how)
    return text_model(folder, **head, **how, pooling=args.pooling)


def kernel_network(
    args: argparse.Namespace,
    folder: str,
    words: list[int] | None,
    device: torch.device,
    **head: int,
) -> TextModel:
    """Return the model of :func:`loaded` for a kernel on a device.

    Its weights stay in their files by wish (``--stream``) or if they do not fit.
    """
    from ntktune.network.models import weights_fit

    fit = weights_fit(folder, args.blocks, torch_dtype(args.dtype), device)
    if not fit:
        print(
            "the weights take more than three quarters of free memory: they stay in their files",
            file=sys.stderr,
        )
    if getattr(args, "stream", False) or not fit:
        return loaded(args, folder, words, device, **head)
    return loaded(args, folder, words, **head).to(device)


def kernel_function(task: Mapping[str, Any]) -> tuple[int, str]:
    """Return the outputs of a task's head, and what of them the kernel is of."""
    if task["kind"] == "regression":
        return 1, "scalar"
    classes = class_count(task)  # of two the logit difference (Malladi et al. 2023)
    return classes, "difference" if classes == 2 else "mean"


def _compute(
    args: argparse.Namespace,
    folder: str,
    examples: Sequence[torch.Tensor],
    labels: Mapping[str, torch.Tensor],
    facts: dict[str, Any],
    rows: Sequence[Sequence[int]],
    words: list[int] | None = None,
    places: tuple[slice, slice] | None = None,
) -> None:
    """Compute the kernels of some samples of a task's rows, in one model load; write them.

    ``words`` are the token ids of two label words (None: a fresh head), ``places`` which of a
    sample's rows are the kernel's rows and columns (None: all).
    """
    from ntktune.kernel.engine import sampled_kernels
    from ntktune.study.seeds import integer_seed

    if Path(args.out).is_dir():  # told before a large model is loaded
        raise UserError(f"--out {args.out} is a folder; name a file in it")
    shard, task = getattr(args, "shard", None), facts["task"]
    places = _bands(shard, len(rows[0])) if shard else places
    address = ("kernel.head", task["name"], 0)
    seeds = [integer_seed(args.seed, *address, draw) for draw in range(len(rows))]
    outputs, function = kernel_function(task)
    device, dtype = select_device(args.device), torch_dtype(args.dtype)
    network = kernel_network(args, folder, words, device, outputs=outputs, head_seed=seeds[0])
    counted = f", {len(rows)} draws" if len(rows) > 1 else ""
    tensors, made = sampled_kernels(
        *(network, examples, labels, rows, places),
        head_seeds=None if words else seeds,
        progress=Progress(f"kernel{'s' * bool(counted)} of {task['name']}{counted}", len(rows)),
        outputs=function,
        max_tokens=args.batch_tokens,
        dtype=dtype,
        device=device,
        variant=args.variant,
    )
    stated = {key: facts[key] for key in ("task", "data_sha256", "model")}
    stated |= {key: getattr(args, key) for key in ("blocks", "pooling", "variant", "dtype")}
    stated |= {"function": function, "label_words": words, "kernel": made}
    stated |= {"seeds": {"root": args.seed, "address": [*address, "draw"]}, "head_seeds": seeds}
    stated |= {"shard": shard[:2], "bands": shard[2]} if shard else {}
    write_tensors(args.out, tensors, record(args, **stated, device=str(device)))
    print(f"wrote {args.out}", file=sys.stderr)


def gather(args: argparse.Namespace) -> None:
    """Put the shards of kernels together, and check that they belong together."""
    import torch

    from ntktune.kernel.bands import assembled, bands, check_shards

    paths = [file for path in args.shards for file in _files(path)]
    files, facts = _read_shards(paths)
    diagonal = [files[i, i] for i in range(facts["bands"])]
    rows = torch.cat([shard["row"][...] for shard in diagonal], dim=1)  # (draws, N)
    _check_rows(files, rows, bands(rows.shape[1], facts["bands"]))
    check_shards(files, torch_dtype(facts["dtype"]), symmetric=facts["symmetric"])
    names = [name for name in diagonal[0] if name == "kernel" or name.startswith("group/")]
    shape = tuple(rows.shape)
    layout = dict.fromkeys(names, ((*shape, shape[1]), torch.float64))
    layout |= {name: ((*shape, *diagonal[0][name][...].shape[2:]), torch.float64) for name in WHOLE}
    layout["row"] = (shape, torch.int64)

    def stretches() -> Iterator[tuple[str, torch.Tensor]]:
        yield from assembled(files, names, facts["bands"])
        for name in WHOLE:
            yield name, torch.cat([shard[name][...] for shard in diagonal], dim=1)
        yield "row", rows

    stated = {key: facts.get(key) for key in (*SHARED[2:], "kernel", "shards")}
    stream_tensors(args.out, layout, stretches(), record(args, **stated))


def _files(path: str) -> list[str]:
    """Return a file, or those in a folder but for hidden ones and such as were set aside."""
    if not Path(path).is_dir():
        return [path]
    found = sorted(str(file) for file in Path(path).glob("[!.]*.safetensors"))
    if not found:
        raise UserError(f"{path} holds no shards; make them first, or correct the path")
    return found


def _read_shards(paths: list[str]) -> tuple[dict[Shard, dict[str, StoredTensor]], dict[str, Any]]:
    """Return the shards of one kernel by place, and the facts that they share."""
    from ntktune.kernel.bands import shards
    from ntktune.kernel.products import Sides

    files, first, made = {}, None, []
    for path in paths:
        stored, facts = stored_tensors(path)
        if "shard" not in facts:
            raise UserError(f"{path} is no shard of a kernel; make one by kernel draws --shard")
        first = first or facts
        for key in SHARED:
            if facts.get(key) != first.get(key):
                raise UserError(
                    f"{path} was made with {key} {facts.get(key)!r}, but {paths[0]} with "
                    f"{first.get(key)!r}; gather shards of one kernel, or make them again"
                )
        i, j = place = tuple(facts["shard"])
        if place in files:
            raise UserError(f"{files[place]['row'].path} and {path} are both shard {i}-{j}")
        files[place] = stored
        made.append(_about(facts))
    symmetric = Sides(1, None, first["variant"]).symmetric
    for i, j in shards(first["bands"], symmetric=symmetric):
        if (i, j) not in files:
            told = f"shard {i}-{j} of {first['bands']} bands is missing"
            raise UserError(f"{told}; {len(files)} were given")
    made.sort(key=lambda shard: shard["shard"])
    return files, first | {"shards": made, "symmetric": symmetric}


def _about(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the provenance of a whole kernel says of one of its shards."""
    checks = [found["self_check"] for found in facts["kernel"]]
    errors = [check and check["largest_relative_error"] for check in checks]
    told = {key: facts[key] for key in ("device", "wall_seconds", "peak_memory_bytes")}
    return {"shard": tuple(facts["shard"]), **told, "largest_relative_error": errors}


def _check_rows(files: dict[Shard, dict], rows: torch.Tensor, split: list[range]) -> None:
    for (i, j), shard in files.items():
        for axis, band in (("row", i), ("column", j)):
            wanted = rows[:, split[band].start : split[band].stop]
            if not wanted.equal(shard[axis][...]):
                raise UserError(
                    f"the {axis}s of shard {i}-{j} are not those of shard {band}-{band}; they were "
                    f"drawn from other data or cut elsewhere; make all anew: {shard[axis].path}, …"
                )
