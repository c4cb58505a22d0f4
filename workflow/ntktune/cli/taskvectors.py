"""Commands of the chapter ``taskvectors``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.artifacts import (
    Record,
    StoredTensor,
    read_table,
    stored_tensors,
    stream_tensors,
    write_table,
    write_tensors,
)
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
    import pandas as pd

    from ntktune.taskvectors.edited import EditedModel, TunedTask

BACKBONE, VECTOR = "backbone.", "vector."  # before names: fine-tuned weights, or what was added
HEAD = ("head.weight", "head.bias")
AGAIN = "again"  # a training with the first seed's head and order, on the second's sample


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    parser = add_command(verbs, "tune", tune)
    add_training_options(parser)
    parser.add_argument(
        "--store",
        choices=("float32", "bfloat16"),
        default="float32",
        help="keep the fine-tuned weights, or half as large the task vector in bfloat16",
    )
    what = "safetensors: the weights of seed 0, 1, ..."
    parser.add_argument("--out", required=True, nargs="+", metavar="FILE", help=what)
    what = "safetensors: the same with head and order of seed 0, on the sample of seed 1"
    parser.add_argument("--out-again", metavar="FILE", help=what)

    parser = add_command(verbs, "cosine", cosine)
    _add_base(parser)
    parser.add_argument("--out", required=True, help="parquet: a row per pair and group of layers")

    parser = add_command(verbs, "overlap", overlap)
    for name, what in (("tables", "texts"), ("subsets", "samples")):
        help_ = f"the tasks' {what}, in the same order"
        parser.add_argument(f"--{name}", required=True, nargs="+", metavar="FILE", help=help_)
    parser.add_argument("--size", type=int, required=True, help="examples that are trained on")
    parser.add_argument("--seeds", type=int, required=True, help="samples of each task")
    parser.add_argument("--out-counts", required=True, help="parquet: a row per pair and seed")
    parser.add_argument("--out-leaked", required=True, help="parquet: a row per shared test row")

    for run, what in ((add, "merged"), (negate, "negated, then controls"), (disentangle, "two")):
        parser = add_command(verbs, run.__name__, run)
        add_model_options(parser)
        help_ = f"tasks: {what}"
        parser.add_argument("--tasks", nargs="+", required=True, metavar="NAME", help=help_)
        help_ = "fine-tuned weights of these tasks, any number of seeds each"
        parser.add_argument("--weights", nargs="+", required=True, metavar="FILE", help=help_)
        for name in ("tokens", "subsets"):
            help_ = f"the tasks' {name}, in their order"
            parser.add_argument(f"--{name}", nargs="+", required=True, metavar="FILE", help=help_)
        if run is disentangle:
            help_ = "values of either vector's coefficient"
            parser.add_argument("--grid", nargs="+", type=float, required=True, help=help_)
            help_ = "test rows of each task that are compared, at most"
            parser.add_argument("--rows", type=int, required=True, help=help_)
        else:
            help_ = "what the task vectors are multiplied with"
            parser.add_argument("--coefficients", nargs="+", type=float, required=True, help=help_)
            help_ = "hold-out rows of each task that are answered, at most (default: all)"
            parser.add_argument("--validation-rows", type=int, help=help_)
        parser.add_argument("--out", required=True, metavar="FILE", help="parquet")

    parser = add_command(verbs, "score", score)
    for name in ("added", "negated"):
        parser.add_argument(f"--{name}", nargs="+", required=True, metavar="FILE", help="answers")
    parser.add_argument("--leaked", required=True, help="test rows that a task trained on")
    parser.add_argument("--coefficient", type=float, required=True, help="the fixed coefficient")
    for name in ("sweep", "merged", "negated"):
        parser.add_argument(f"--out-{name}", required=True, metavar="FILE", help="parquet")

    parser = add_command(verbs, "export", export)
    _add_base(parser)
    parser.add_argument(
        "--coefficients", nargs="+", type=float, help="one for each file (default: 1 each)"
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="Hugging Face format, without a head"
    )


def _add_base(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a pretrained model and weights that were fine-tuned from it."""
    parser.add_argument("--model", required=True, help="folder of the pretrained model")
    parser.add_argument("--blocks", type=int, help="the blocks that were kept (default: all)")
    help_ = "fine-tuned weights"
    parser.add_argument("--weights", nargs="*", default=[], metavar="FILE", help=help_)


@dataclass(frozen=True)
class Tuned:
    """A file of fine-tuned weights: its facts, its backbone and its head, read when asked for."""

    path: str
    facts: dict[str, Any]
    backbone: Mapping[str, Any]
    head_weight: StoredTensor
    head_bias: StoredTensor

    @property
    def task(self) -> str:
        """The task it was fine-tuned on."""
        return self.facts["task"]["name"]

    @property
    def run(self) -> str:
        """Its name among the task's runs."""
        return self.facts["run"]


def _base(folder: str, names: Sequence[str]) -> dict[str, StoredTensor]:
    """Return a model's pretrained weights, as far as it has these, read when asked for."""
    stored = stored_tensors(Path(folder) / "model.safetensors")[0]
    return {name: stored[name] for name in names if name in stored}


def read_tuned(paths: Sequence[str], folder: str, blocks: int | None) -> list[Tuned]:
    """Return files of fine-tuned weights.

    Raises
    ------
    UserError
        No file, two of one task and run, or weights that were fine-tuned from another model
        or from other blocks than given.
    """
    from ntktune.taskvectors.arithmetic import Rebuilt, check_same_shapes

    model, found, owner = model_facts(folder), [], {}
    for path in paths:
        stored, facts = stored_tensors(path)
        if "parameters" not in facts:
            raise UserError(f"{path} holds no fine-tuned weights; make them: taskvectors tune")
        for what, key in (("model", "name"), ("revision", "revision"), ("checksum", "sha256")):
            there = facts["model"].get(key)
            if there != model[key]:
                raise UserError(
                    f"{path} was fine-tuned from a model with {what} {there!r}, but that in "
                    f"{folder} has {model[key]!r}; give the same model, or fine-tune again"
                )
        if facts.get("blocks") != blocks:
            raise UserError(
                f"{path} was fine-tuned with blocks {facts.get('blocks')}, not {blocks}; "
                "give the same --blocks, or fine-tune again"
            )
        key = (facts["task"]["name"], facts["run"])
        if key in owner:
            raise UserError(
                f"{owner[key]} and {path} are both of task {key[0]!r}, run {key[1]}; give it once"
            )
        owner[key] = path
        base = _base(folder, facts["parameters"])
        vector = _under(VECTOR, stored)
        weights = Rebuilt(base, vector) if vector else _under(BACKBONE, stored)
        check_same_shapes(base, weights, ("the pretrained", f"{path}'s"))
        found.append(Tuned(path, facts, weights, *(stored[name] for name in HEAD)))
    return found


def _under(prefix: str, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}


def tune(args: argparse.Namespace) -> None:
    """Fine-tune a task with some seeds and keep the weights, or what was added to them."""
    import torch

    from ntktune.taskvectors.arithmetic import task_vector
    from ntktune.taskvectors.edited import backbone_weights

    record = Record("ntktune.cli.taskvectors:tune", args)
    cell = read_cell(args)
    there, wanted = len(cell.subsets["seeds"]), max(len(args.out), 2 * bool(args.out_again))
    if wanted > there:
        raise UserError(
            f"{wanted} samples are asked for (a file of --out each; --out-again needs two), but "
            f"{args.subsets} has {there}; ask for fewer"
        )
    # file, name, seed of head and order, seed of the sample
    runs = [(path, str(seed), seed, seed) for seed, path in enumerate(args.out)]
    runs += [(args.out_again, AGAIN, 0, 1)] * bool(args.out_again)
    model, found = repeats(args, cell, [r[2] for r in runs], samples=[r[3] for r in runs])
    base = stored_tensors(Path(args.model) / "model.safetensors")[0]
    for repeat, (path, run, seed, sample) in zip(found, runs, strict=True):
        weights = backbone_weights(model)
        tensors = {"head.weight": model.head.weight.float(), "head.bias": model.head.bias.float()}
        if args.store == "bfloat16":
            start = {name: base[name] for name in weights}
            ends = {name: weight.cpu() for name, weight in weights.items()}
            for name in weights:  # one at a time: float64 takes room
                (vector,) = task_vector({name: start[name]}, {name: ends[name]}).values()
                tensors[f"{VECTOR}{name}"] = vector.to(torch.bfloat16)
        else:
            tensors |= {f"{BACKBONE}{name}": weight.float() for name, weight in weights.items()}
        provenance = record.provenance(
            **cell.facts,
            seeds={"root": args.seed, "indices": [seed]},
            run=run,
            sample=sample,
            parameters=list(weights),
            label_mean=repeat.label_mean,
            label_sd=repeat.label_sd,
            size=args.size,
            metrics=repeat.row,
        )
        write_tensors(path, tensors, provenance)


def cosine(args: argparse.Namespace) -> None:
    """Compute the cosines of task vectors: of two tasks, and of one task trained twice."""
    import pandas as pd

    from ntktune.kernel.groups import parameter_group
    from ntktune.models import empty_backbone
    from ntktune.taskvectors.arithmetic import grams
    from ntktune.taskvectors.cosines import Run, cosine_rows

    record = Record("ntktune.cli.taskvectors:cosine", args)
    read = read_tuned(args.weights, args.model, args.blocks)
    if len(read) < 2:
        raise UserError(f"--weights has {len(read)} file; a cosine needs two or more")
    skeleton = empty_backbone(args.model, args.blocks)
    found = grams(
        _base(args.model, read[0].facts["parameters"]),
        [tuned.backbone for tuned in read],
        lambda name: parameter_group(skeleton, name),
        Progress(f"cosines of {len(read)} task vectors", 1),
    )
    runs = [
        Run(tuned.task, tuned.run, tuned.facts["seeds"]["indices"][0], tuned.facts["sample"])
        for tuned in read
    ]
    table = pd.DataFrame(cosine_rows(runs, found))
    facts = {
        "model": model_facts(args.model),
        "blocks": args.blocks,
        "sizes": {tuned.task: tuned.facts["size"] for tuned in read},
        "parameters": sum(math.prod(tensor.shape) for tensor in read[0].backbone.values()),
    }
    write_table(args.out, table, record.provenance(**facts))


def overlap(args: argparse.Namespace) -> None:
    """Count test rows of each task whose text another task was trained on."""
    import pandas as pd

    from ntktune.taskvectors.overlap import overlap_counts

    record = Record("ntktune.cli.taskvectors:overlap", args)
    if len(args.tables) != len(args.subsets):
        raise UserError(
            f"there are {len(args.tables)} --tables and {len(args.subsets)} --subsets; give one of "
            "each per task, in the same order"
        )
    texts, samples = {}, {}
    for table, subsets in zip(args.tables, args.subsets, strict=True):
        rows, facts = read_table(table)
        name = facts["task"]["name"] if isinstance(facts["task"], dict) else facts["task"]
        drawn = read_samples(subsets, table, facts)
        texts[name] = rows["text_a"].fillna("") + rows["text_b"].fillna("").map(_second)
        samples[name] = drawn
        if args.seeds > len(drawn["seeds"]):
            raise UserError(
                f"--seeds is {args.seeds}, but {subsets} has {len(drawn['seeds'])}; give at most "
                "as many"
            )
    counts, leaked = [], []
    for task, tested in samples.items():
        for other, trained in samples.items():
            for seed in range(args.seeds):
                order = trained["seeds"][seed]["order"]
                found, shared = overlap_counts(
                    texts[task][tested["test"]].tolist(),
                    texts[other][order[: args.size]].tolist(),
                    texts[other][order].tolist(),
                )
                address = {"task": task, "other": other, "seed": seed}
                counts.append(address | found)
                leaked += [
                    address | {"row": row}
                    for row, known in zip(tested["test"], shared, strict=True)
                    if known
                ]
    provenance = record.provenance(size=args.size)
    write_table(args.out_counts, pd.DataFrame(counts), provenance)
    columns = {"task": str, "other": str, "seed": int, "row": int}
    leaked = pd.DataFrame(leaked, columns=list(columns)).astype(columns)
    write_table(args.out_leaked, leaked, provenance)


def _second(text: str) -> str:
    """Return a pair's second text as it is joined to the first."""
    return f"\n{text}" if text else ""


def _swept(
    args: argparse.Namespace, command: str
) -> tuple[
    Record, dict[str, Any], EditedModel, int, Iterator[tuple[str, list[Tuned], list[TunedTask]]]
]:
    """Return what a sweep works with: the network, and for each seed its files and tasks.

    Also the record, facts for the provenance, and the number of seeds.

    Raises
    ------
    UserError
        Files are missing, of other tasks or of different seeds.
    """
    from ntktune.device import select_device
    from ntktune.finetune.repeats import seed_split
    from ntktune.models import text_model
    from ntktune.taskvectors.edited import EditedModel, TunedTask

    record = Record(f"ntktune.cli.taskvectors:{command}", args)
    repeated = [name for name in args.tasks if args.tasks.count(name) > 1]
    if repeated:
        raise UserError(f"--tasks has {repeated[0]!r} more than once; give each task once")
    counts = {len(args.tasks), len(args.tokens), len(args.subsets)}
    if len(counts) > 1:
        raise UserError(
            f"there are {len(args.tasks)} --tasks, {len(args.tokens)} --tokens and "
            f"{len(args.subsets)} --subsets; give one of each per task, in the same order"
        )
    device, model_is = select_device(args.device), model_facts(args.model)
    files = {(t.task, t.run): t for t in read_tuned(args.weights, args.model, args.blocks)}
    strange = [tuned for (task, _), tuned in files.items() if task not in args.tasks]
    if strange:
        raise UserError(
            f"{strange[0].path} is of task {strange[0].task!r}, which is none of --tasks "
            f"{' '.join(args.tasks)}; leave it out, or name its task"
        )
    runs = sorted({run for _, run in files})
    for run in runs:
        for task in args.tasks:
            if (task, run) not in files:
                raise UserError(
                    f"--weights holds no run {run} of task {task!r}, but of others; give the same "
                    "runs of every task"
                )
    read = {}
    for task, tokens, subsets in zip(args.tasks, args.tokens, args.subsets, strict=True):
        examples, tokens_facts = read_examples(tokens, task, model_is)
        read[task] = examples, read_samples(subsets, tokens, tokens_facts)

    most = getattr(args, "validation_rows", None)
    if most is not None and most < 1:
        raise UserError(f"--validation-rows is {most}; answer 1 or more")

    def tuned_task(tuned: Tuned) -> TunedTask:
        examples, subsets = read[tuned.task]
        facts = tuned.facts
        _, holdout = seed_split(examples, subsets, facts["size"], facts["sample"])
        return TunedTask(
            examples=examples,
            parts={"validation": holdout[:most], "test": subsets["test"]},
            head_weight=tuned.head_weight[...],
            head_bias=tuned.head_bias[...],
            label_mean=facts["label_mean"],
            label_sd=facts["label_sd"],
        )

    def seeds() -> Iterator[tuple[str, list[Tuned], list[TunedTask]]]:
        for run in runs:
            some = [files[task, run] for task in args.tasks]
            yield run, some, [tuned_task(tuned) for tuned in some]

    model = text_model(args.model, outputs=1, head_seed=0, blocks=args.blocks).to(device)
    facts = {
        "model": model_is,
        "blocks": args.blocks,
        "sizes": {tuned.task: tuned.facts["size"] for tuned in files.values()},
        "dtype": "float32",
        "device": str(device),
    }
    return record, facts, EditedModel(model, args.batch_tokens), len(runs), seeds()


def _after(progress: Progress, done: float) -> Callable[[float], None]:
    """Return the progress of one of several seeds, ``done`` before it began."""
    return lambda more: progress(done + more)


def _coefficients(args: argparse.Namespace) -> list[float]:
    """Return the coefficients of a sweep in their order, each once, without 0.

    Raises
    ------
    UserError
        One is negative or not finite, or none is above 0.
    """
    odd = [c for c in args.coefficients if c < 0 or not math.isfinite(c)]
    if odd:
        raise UserError(f"--coefficients has {odd[0]:g}; give numbers of 0 or above")
    found = sorted({c for c in args.coefficients if c})
    if not found:
        raise UserError("--coefficients has only 0, the pretrained model; give others")
    return found


def add(args: argparse.Namespace) -> None:
    """Add task vectors, and let the merged models answer each task that went into them."""
    import pandas as pd

    from ntktune.merges import JOIN
    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.sweeps import addition_sweep

    coefficients = _coefficients(args)
    record, facts, edited, count, seeds = _swept(args, "add")
    if len(args.tasks) < 2:
        raise UserError(f"--tasks has {len(args.tasks)} task; a merge needs two or more")
    steps, name = len(coefficients) * len(args.tasks), JOIN.join(args.tasks)
    progress, found = Progress(f"merging {name}", steps * count), []
    for done, (run, files, tasks) in enumerate(seeds):
        vector = direction(
            _base(args.model, files[0].facts["parameters"]), [t.backbone for t in files]
        )
        report = _after(progress, done * steps)
        table = addition_sweep(edited, vector, tasks, coefficients, report)
        found.append(table.assign(merged=name, seed=int(run)))
    write_table(args.out, pd.concat(found, ignore_index=True), record.provenance(**facts))


def negate(args: argparse.Namespace) -> None:
    """Subtract a task vector, and let the model answer its task and the control tasks."""
    import pandas as pd

    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.sweeps import negation_sweep

    coefficients = _coefficients(args)
    record, facts, edited, count, seeds = _swept(args, "negate")
    target, steps = args.tasks[0], 2 + len(args.tasks) * len(coefficients) + len(args.tasks) - 1
    progress, found = Progress(f"negating {target}", steps * count), []
    for done, (run, files, tasks) in enumerate(seeds):
        vector = direction(_base(args.model, files[0].facts["parameters"]), [files[0].backbone])
        report = _after(progress, done * steps)
        table = negation_sweep(edited, vector, tasks[0], tasks[1:], coefficients, report)
        found.append(table.assign(target=target, seed=int(run)))
    write_table(args.out, pd.concat(found, ignore_index=True), record.provenance(**facts))


def disentangle(args: argparse.Namespace) -> None:
    """Compute the disentanglement error of two tasks' vectors on a grid of coefficients."""
    import dataclasses

    import pandas as pd

    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.disentanglement import disentanglement_rows, evaluations

    if len(args.tasks) != 2:
        raise UserError(f"--tasks has {len(args.tasks)}; the error is that of two tasks")
    if args.rows < 1:
        raise UserError(f"--rows is {args.rows}; compare 1 or more")
    record, facts, edited, count, seeds = _swept(args, "disentangle")
    steps = evaluations(args.grid)
    progress, found = Progress(f"disentangling {' and '.join(args.tasks)}", steps * count), []
    for done, (run, files, tasks) in enumerate(seeds):
        base = _base(args.model, files[0].facts["parameters"])
        vectors = [direction(base, [tuned.backbone]) for tuned in files]
        few = [
            dataclasses.replace(task, parts={"test": task.parts["test"][: args.rows]})
            for task in tasks
        ]
        report = _after(progress, done * steps)
        rows = disentanglement_rows(edited, vectors, few, args.grid, report)
        address = {"task_a": args.tasks[0], "task_b": args.tasks[1], "seed": int(run)}
        found += [address | row for row in rows]
    write_table(args.out, pd.DataFrame(found), record.provenance(**facts))


def _answers(paths: Sequence[str]) -> pd.DataFrame:
    """Read the answers of several sweeps as one table."""
    import pandas as pd

    return pd.concat([read_table(path)[0] for path in paths], ignore_index=True)


def score(args: argparse.Namespace) -> None:
    """Score merged and negated models, with and without test rows that were trained on."""
    from ntktune.taskvectors.scores import merged_table, negated_table, sweep_table

    record = Record("ntktune.cli.taskvectors:score", args)
    added, negated = _answers(args.added), _answers(args.negated)
    leaked = read_table(args.leaked)[0]
    sweep = sweep_table(added, negated)
    merged = merged_table(added, negated, sweep, leaked, args.coefficient)
    provenance = record.provenance()
    write_table(args.out_sweep, sweep, provenance)
    write_table(args.out_merged, merged, provenance)
    write_table(args.out_negated, negated_table(negated), provenance)


def export(args: argparse.Namespace) -> None:
    """Write a merged model in Hugging Face format, in memory for a stretch of one tensor."""
    import json
    import shutil

    from ntktune.artifacts import atomic_path, write_json
    from ntktune.models import configuration, empty_backbone
    from ntktune.taskvectors.arithmetic import check_counts, merged

    record = Record("ntktune.cli.taskvectors:export", args)
    read = read_tuned(args.weights, args.model, args.blocks)
    coefficients = args.coefficients or [1.0] * len(read)
    check_counts([tuned.backbone for tuned in read], coefficients)
    if read:
        names = read[0].facts["parameters"]
    else:
        names = [name for name, _ in empty_backbone(args.model, args.blocks).named_parameters()]
    base = _base(args.model, names)
    facts = {
        "model": model_facts(args.model),
        "blocks": args.blocks,
        "merged": [
            {"task": tuned.task, "run": tuned.run, "coefficient": coefficient}
            for tuned, coefficient in zip(read, coefficients, strict=True)
        ],
    }
    layout = {name: (tensor.shape, tensor.dtype) for name, tensor in base.items()}
    config = json.loads((Path(args.model) / "config.json").read_text(encoding="utf-8"))
    config |= configuration(args.model, args.blocks).to_diff_dict() if args.blocks else {}
    with atomic_path(args.out) as folder:
        folder.mkdir()
        for file in sorted(Path(args.model).iterdir()):
            if file.name not in ("config.json", "model.json", "model.safetensors"):
                shutil.copy2(file, folder / file.name)
        text = json.dumps(config, indent=2)
        (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
        stretched = merged(base, [tuned.backbone for tuned in read], coefficients)
        provenance = record.provenance(**facts)
        stream_tensors(folder / "model.safetensors", layout, stretched, provenance)
        write_json(folder / "merge.json", facts, provenance)
