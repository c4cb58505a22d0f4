"""Commands of the chapter ``taskvectors``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ntktune.artifacts import Record, read_tensors, write_table, write_tensors
from ntktune.cli import Progress, add_command
from ntktune.cli.finetune import (
    add_model_options,
    add_training_options,
    read_cell,
    read_examples,
    repeats,
)
from ntktune.cli.inputs import model_facts, read_samples
from ntktune.errors import UserError

if TYPE_CHECKING:
    import torch

BACKBONE = "backbone."


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    parser = add_command(verbs, "tune", tune)
    add_training_options(parser)
    parser.add_argument("--out", required=True, help="safetensors: the fine-tuned weights")

    parser = add_command(verbs, "cosine", cosine)
    parser.add_argument("--model", required=True, help="folder of the pretrained model")
    parser.add_argument("--blocks", type=int, help="the blocks that were kept (default: all)")
    parser.add_argument("--weights", nargs="+", required=True, help="fine-tuned weights")
    parser.add_argument("--out", required=True, help="parquet: one row per ordered pair")

    parser = add_command(verbs, "merge", merge)
    add_model_options(parser)
    parser.add_argument("--weights", nargs="+", required=True, help="fine-tuned weights")
    parser.add_argument("--tokens", nargs="+", required=True, help="tokens, in the same order")
    parser.add_argument("--subsets", nargs="+", required=True, help="subsets, in the same order")
    parser.add_argument(
        "--coefficient", type=float, default=1.0, help="of every task vector (default: 1)"
    )
    parser.add_argument("--out", required=True, help="parquet: one row per merge and task")


def read_weights(
    paths: list[str], model: dict[str, Any], blocks: int | None
) -> list[tuple[dict[str, torch.Tensor], dict]]:
    """Return fine-tuned weights and their provenance, one pair per file.

    Raises
    ------
    UserError
        Fewer than two files, two files of one task, or weights that were fine-tuned from
        another model or from other blocks than given.
    """
    if len(paths) < 2:
        raise UserError(f"--weights has {len(paths)} file; give those of two tasks or more")
    found, owner = [], {}
    for path in paths:
        tensors, facts = read_tensors(path)
        started_from = facts.get("model", {})
        if started_from.get("sha256") != model["sha256"]:
            raise UserError(
                f"{path} was fine-tuned from model {started_from.get('name')} "
                f"({started_from.get('sha256')}), but the model here is {model['name']} "
                f"({model['sha256']}); fine-tune again"
            )
        if facts.get("blocks") != blocks:
            raise UserError(
                f"{path} was fine-tuned with blocks {facts.get('blocks')}, not {blocks}; "
                "give the same --blocks, or fine-tune again"
            )
        task = facts["task"]["name"]
        if task in owner:
            raise UserError(f"{owner[task]} and {path} are both of task {task!r}; give it once")
        owner[task] = path
        found.append((tensors, facts))
    return found


def backbone_part(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the backbone's weights of a file under the backbone's own names."""
    return {k.removeprefix(BACKBONE): v for k, v in tensors.items() if k.startswith(BACKBONE)}


def tune(args: argparse.Namespace) -> None:
    """Fine-tune a task with its first seed and keep the weights."""
    from ntktune.taskvectors.merging import backbone_weights

    record = Record("ntktune.cli.taskvectors:tune", args)
    cell = read_cell(args)
    model, found = repeats(args, cell, seeds=[0])
    (repeat,) = found
    tensors = {f"{BACKBONE}{k}": v.float() for k, v in backbone_weights(model).items()}
    tensors |= {"head.weight": model.head.weight.float(), "head.bias": model.head.bias.float()}
    provenance = record.provenance(
        **cell.facts,
        seeds={"root": args.seed, "indices": [0]},
        label_mean=repeat.label_mean,
        label_sd=repeat.label_sd,
        size=args.size,
        metrics=repeat.row,
    )
    write_tensors(args.out, tensors, provenance)


def cosine(args: argparse.Namespace) -> None:
    """Compute the cosine of every two tasks' task vectors."""
    import pandas as pd

    from ntktune.models import load_backbone
    from ntktune.taskvectors.arithmetic import cosine_matrix

    record = Record("ntktune.cli.taskvectors:cosine", args)
    model_is = model_facts(args.model)
    read = read_weights(args.weights, model_is, args.blocks)
    backbone = load_backbone(args.model, args.blocks)
    base = {name: p.detach() for name, p in backbone.named_parameters()}
    cosines = cosine_matrix(base, [backbone_part(tensors) for tensors, _ in read])
    names = [facts["task"]["name"] for _, facts in read]
    table = pd.DataFrame(
        [
            {"task_a": a, "task_b": b, "cosine": cosines[i, j]}
            for i, a in enumerate(names)
            for j, b in enumerate(names)
        ]
    )
    facts = {
        "model": model_is,
        "blocks": args.blocks,
        "sizes": {f["task"]["name"]: f["size"] for _, f in read},
    }
    write_table(args.out, table, record.provenance(**facts))


def merge(args: argparse.Namespace) -> None:
    """Merge models by adding task vectors, and score each on the tasks that went into it."""
    import pandas as pd

    from ntktune.device import select_device
    from ntktune.models import text_model
    from ntktune.taskvectors.merging import TunedTask, evaluations, merged_scores

    record = Record("ntktune.cli.taskvectors:merge", args)
    counts = {len(args.weights), len(args.tokens), len(args.subsets)}
    if len(counts) > 1:
        raise UserError(
            f"there are {len(args.weights)} --weights, {len(args.tokens)} --tokens and "
            f"{len(args.subsets)} --subsets; give one of each per task, in the same order"
        )
    device = select_device(args.device)
    model_is = model_facts(args.model)
    tasks = []
    read = read_weights(args.weights, model_is, args.blocks)
    for (tensors, facts), tokens, subsets in zip(read, args.tokens, args.subsets, strict=True):
        examples, tokens_facts = read_examples(tokens, facts["task"]["name"], model_is)
        tasks.append(
            TunedTask(
                examples=examples,
                rows=read_samples(subsets, tokens, tokens_facts)["test"],
                backbone=backbone_part(tensors),
                head_weight=tensors["head.weight"],
                head_bias=tensors["head.bias"],
                label_mean=facts["label_mean"],
                label_sd=facts["label_sd"],
            )
        )
    model = text_model(args.model, outputs=1, head_seed=0, blocks=args.blocks).to(device)
    what = Progress(f"merging {len(tasks)} tasks", evaluations(len(tasks)))
    rows = merged_scores(model, tasks, args.coefficient, args.batch_tokens, what)
    facts = {
        "model": model_is,
        "blocks": args.blocks,
        "sizes": {f["task"]["name"]: f["size"] for _, f in read},
        "dtype": "float32",
        "device": str(device),
    }
    write_table(args.out, pd.DataFrame(rows), record.provenance(**facts))
