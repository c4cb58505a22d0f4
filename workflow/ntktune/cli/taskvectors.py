"""Commands of the chapter ``taskvectors``: fine-tuned weights, and what edited models answer."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command, many, model_options, optional
from ntktune.cli.finetune import (
    CHOSEN,
    TRAINED,
    keep_seed,
    read_cell,
    read_examples,
    repeats,
    seed_keys,
)
from ntktune.cli.inputs import (
    check_new_folder,
    from_hub,
    model_facts,
    model_manifest,
    read_samples,
    study_model,
)
from ntktune.cli.record import record, write_tables
from ntktune.errors import UserError, check_names
from ntktune.network.device import select_device
from ntktune.network.loading import backbone_tensors, check_filled, weight_files
from ntktune.store.files import CONVERTED, MODEL_MANIFEST, MODEL_WEIGHTS, atomic_path
from ntktune.store.records import check_model_files, read_table, write_json
from ntktune.store.tensors import StoredTensor, stored_tensors, stream_tensors, write_tensors
from ntktune.study.merges import JOIN

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ntktune.finetune.repeats import Examples
    from ntktune.network.models import TextModel
    from ntktune.taskvectors.edited import TunedTask

BACKBONE, VECTOR = "backbone.", "vector."  # before names: fine-tuned weights, or what was added
ADAPTER = "adapter."  # before names of adapters: what was added to A and B
HEAD = ("head.weight", "head.bias")
AGAIN = "again"  # a training with the first seed's head and order, on the second's sample
FACTS = (
    *("task", "model", "pooling", "run", "seeds", "sample", "rows", "parameters", "size"),
    "data_sha256",
)
MERGED = "merge.json"  # says of a folder what was merged into the model in it
ANSWER_COLUMNS = [
    *("seed", "task", "kind", "metric", "coefficient", "part", "row", "label", "column", "output"),
]
LEAKED_COLUMNS = {"task": str, "part": str, "other": str, "seed": int, "row": int}


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "tune", tune, *TRAINED),
        **CHOSEN,
        out=many("safetensors: the weights of seed 0, 1, ..."),
        out_again=optional(
            "safetensors: the same with head and order of seed 0, on the sample of seed 1",
            metavar="FILE",
        ),
        state=optional(
            "folder that keeps these seeds' results for `finetune run`, which then trains the "
            "others"
        ),
    )
    weights = optional("fine-tuned weights", nargs="*", default=[], metavar="FILE")
    out = "parquet: a row per pair and group of layers"
    add_command(verbs, "cosine", cosine, "model", weights=weights, out=out)
    add_command(
        *(verbs, "export", export),
        network=from_hub,
        **model_options("folder of the pretrained model"),
        weights=weights,
        coefficients=optional("one for each file (default: 1 each)", nargs="+", type=float),
        out="a folder in Hugging Face format, without a head",
    )
    _add_sweeps(verbs)


def _add_sweeps(verbs: argparse._SubParsersAction) -> None:
    add_command(
        *(verbs, "overlap", overlap),
        tables=many("the tasks' texts"),
        subsets=many("the tasks' samples, in the same order"),
        out_counts="parquet: a row per pair and seed",
        out_leaked="parquet: a row per shared test row",
    )
    for run, tasks in (
        (add, "the tasks to merge"),
        (negate, "the task to negate, then the control tasks"),
        (disentangle, "the two tasks"),
    ):
        add_command(
            *(verbs, run.__name__, run, "model"),
            tasks=many(tasks, "NAME"),
            weights=many("fine-tuned weights of these tasks, any number of seeds each"),
            tokens=many("the tasks' tokens, in their order"),
            subsets=many("the tasks' subsets, in their order"),
            out="parquet: the answers",
        )
    add_command(
        *(verbs, "score", score),
        added=many("answers of merged models, one file each"),
        negated=many("answers of negated models, one file each"),
        leaked="rows whose text another task was trained on (leaked.parquet)",
        overlap="how many those are (overlap.parquet)",
        out_sweep="parquet: scores of merged models at every coefficient",
        out_merged="parquet: scores at the fixed and at the chosen coefficient",
        out_negated="parquet: scores of negated models",
    )


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A file of weights fine-tuned on a task, its backbone and head read when they are asked for.

    ``run`` is its name among the task's runs, ``size`` the labelled examples, hold-out included.
    """

    path: str
    task: str
    run: str
    size: int
    facts: dict[str, Any]
    backbone: Mapping[str, Any]
    adapter: Mapping[str, Any]
    head_weight: StoredTensor
    head_bias: StoredTensor


def pretrained_weights(folder: str) -> dict[str, StoredTensor]:
    """Return a model's pretrained weights in float32, read when they are asked for.

    Linked weights may also hold a head's tensors, under names that no backbone has. Raises
    UserError if the weights are not those that the manifest states.
    """
    import torch

    check_model_files(folder, ["*.safetensors*"])
    files = weight_files(folder) + [CONVERTED] * (Path(folder) / CONVERTED).is_file()
    found = backbone_tensors(folder, files, model_manifest(folder).get("prefix", ""))
    return {k: StoredTensor(t.path, t.name, torch.float32) for k, t in found.items()}


def tuned_tensors(
    model: TextModel, base: Mapping[str, StoredTensor] | None
) -> dict[str, torch.Tensor]:
    """Return a model's head, and its weights in float32; given ``base``, its vector in bfloat16."""
    import torch

    from ntktune.finetune.methods import plain_weights
    from ntktune.taskvectors.arithmetic import task_vector

    tensors = {"head.weight": model.head.weight.float(), "head.bias": model.head.bias.float()}
    for name, weight in plain_weights(model.backbone):
        if base is None:
            tensors[f"{BACKBONE}{name}"] = weight.float()
        else:  # one at a time: float64 takes room
            (vector,) = task_vector({name: base[name]}, {name: weight.cpu()}).values()
            tensors[f"{VECTOR}{name}"] = vector.to(torch.bfloat16)
    return tensors


def read_tuned(
    paths: Sequence[str], folder: str, blocks: int | None, pooling: str | None = None
) -> tuple[dict[str, StoredTensor], list[Tuned]]:
    """Return the pretrained weights that were fine-tuned (without files: all), and the files.

    Raises UserError if two files are of one task and run, or of one task with other sizes, or if
    weights were fine-tuned from another model, from other blocks or under another pooling than
    given.
    """
    from ntktune.taskvectors.arithmetic import check_same_shapes, rebuilt

    model, everything = model_facts(folder), pretrained_weights(folder)
    base, found = everything, []
    for path in paths:
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder; give the files of weights in it")
        stored, facts = stored_tensors(path)
        if set(FACTS) - set(facts) or set(HEAD) - set(stored):
            raise UserError(f"{path} holds no fine-tuned weights; make them: taskvectors tune")
        how = {"blocks": blocks} | ({"pooling": pooling} if pooling else {})
        _check_start(path, facts, folder, model, how)
        base = {name: everything[name] for name in facts["parameters"] if name in everything}
        vector = _under(VECTOR, stored)
        weights = rebuilt(base, vector) if vector else _under(BACKBONE, stored)
        check_same_shapes(base, weights, ("the pretrained", f"{path}'s"))
        what = (facts["task"]["name"], facts["run"], facts["size"])
        own = _under(ADAPTER, stored)
        tuned = Tuned(path, *what, facts, weights, own, *(stored[name] for name in HEAD))
        for other in found:
            _check_beside(tuned, other)
        found.append(tuned)
    return base, found


def _check_start(path: str, facts: dict, folder: str, model: dict, how: dict[str, Any]) -> None:
    for key, what in (("revision", "revision"), ("sha256", "checksum")):  # names differ freely
        there = facts["model"].get(key)
        if there != model[key]:
            raise UserError(
                f"{path} was fine-tuned from {facts['model'].get('name')}, {what} {there!r}, "
                f"but {model['name']} in {folder} has {model[key]!r}; give the same model, or "
                "fine-tune again"
            )
    for key, wanted in how.items():
        if facts.get(key) != wanted:
            raise UserError(
                f"{path} was fine-tuned with {key} {facts.get(key)}, not {wanted}; "
                f"give the same --{key}, or fine-tune again"
            )


def _check_beside(tuned: Tuned, other: Tuned) -> None:
    if (other.task, other.run) == (tuned.task, tuned.run):
        raise UserError(
            f"{other.path} and {tuned.path} are both of task {tuned.task!r}, run {tuned.run}; "
            "give it once"
        )
    if other.task == tuned.task and other.size != tuned.size:
        raise UserError(
            f"{other.path} was fine-tuned on {other.size} examples, {tuned.path} on "
            f"{tuned.size}; give runs of one size"
        )


def _under(prefix: str, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}


def tune(args: argparse.Namespace) -> None:
    """Fine-tune a task with some seeds and keep the weights, or what was added to them."""
    from ntktune.finetune.repeats import seed_split

    if args.method == "probe":
        raise UserError("--method probe leaves the backbone as it is: it gives no task vector")
    # a file of --out each; --out-again needs the samples of two
    cell = read_cell(args, max(len(args.out), 2 * bool(args.out_again)))
    keys = seed_keys(args, cell, args.size)
    # file, name, seed of head and order, seed of the sample
    runs = [(path, str(seed), seed, seed) for seed, path in enumerate(args.out)]
    runs += [(args.out_again, AGAIN, 0, 1)] * bool(args.out_again)
    seeds, samples = [run[2] for run in runs], [run[3] for run in runs]
    model, found = repeats(args, cell, args.size, seeds, samples=samples)
    base = pretrained_weights(args.model) if args.store == "bfloat16" else None
    for repeat, (path, run, seed, sample) in zip(found, runs, strict=True):
        if seed == sample:
            keep_seed(args.state, keys[seed], repeat)
        train, holdout = seed_split(cell.examples, cell.subsets, args.size, sample)
        facts = {"run": run, "sample": sample, "size": args.size, "metrics": repeat.row}
        facts |= {"seeds": {"root": args.seed, "indices": [seed]}}
        facts |= {"label_mean": repeat.label_mean, "label_sd": repeat.label_sd}
        facts |= {"rows": {"train": train, "validation": holdout}}
        tensors = tuned_tensors(model, base)
        facts["parameters"] = [name.partition(".")[2] for name in tensors if name not in HEAD]
        if repeat.adapter:
            tensors |= {f"{ADAPTER}{name}": w for name, w in repeat.adapter.change().items()}
        write_tensors(path, tensors, record(args, **cell.facts, **facts))


def cosine(args: argparse.Namespace) -> None:
    """Compute the cosines of task vectors: of two tasks, and of one task trained twice."""
    import numpy as np

    from ntktune.kernel.groups import parameter_group
    from ntktune.network.models import empty_backbone
    from ntktune.taskvectors.arithmetic import dot, grams
    from ntktune.taskvectors.cosines import Run, cosine_rows

    base, read = read_tuned(args.weights, args.model, args.blocks)
    if len(read) < 2:
        raise UserError(f"--weights has {len(read)} files; a cosine needs two or more")
    group = functools.partial(parameter_group, empty_backbone(args.model, args.blocks))
    progress = Progress(f"cosines of {len(read)} task vectors", 1)
    found = grams(base, [tuned.backbone for tuned in read], group, progress)
    if all(own := [tuned.adapter for tuned in read]):  # of A and B, beside what they add to W
        found["adapters"] = np.array([[dot(first, second) for second in own] for first in own])
    runs = []
    for tuned in read:
        sampled = frozenset(row for rows in tuned.facts["rows"].values() for row in rows)
        seed, sample = tuned.facts["seeds"]["indices"][0], tuned.facts["sample"]
        runs.append(Run(tuned.task, tuned.run, seed=seed, sample=sample, rows=sampled))
    facts = {"model": model_facts(args.model), "blocks": args.blocks}
    facts |= {"sizes": {tuned.task: tuned.size for tuned in read}}
    parameters = sum(math.prod(tensor.shape) for tensor in read[0].backbone.values())
    write_tables(args, {args.out: cosine_rows(runs, found)}, **facts, parameters=parameters)


def export(args: argparse.Namespace) -> None:
    """Write a merged model in Hugging Face format, in memory for a stretch of one tensor."""
    from ntktune.network.models import configuration
    from ntktune.taskvectors.arithmetic import check_counts, merged

    check_new_folder(args.out, [args.model, *args.weights], MERGED)
    with study_model(args) as model:
        base, read = read_tuned(args.weights, model, args.blocks)
        coefficients = args.coefficients or [1.0] * len(read)
        backbones = [tuned.backbone for tuned in read]
        check_counts(backbones, coefficients)
        base = base if read else _whole_backbone(base, model, args.blocks)
        parts = [
            {"task": tuned.task, "run": tuned.run, "coefficient": coefficient}
            for tuned, coefficient in zip(read, coefficients, strict=True)
        ]
        facts = {"model": model_facts(model), "blocks": args.blocks, "merged": parts}
        layout = {name: (tensor.shape, tensor.dtype) for name, tensor in base.items()}
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        config |= configuration(model, args.blocks).to_diff_dict() if args.blocks else {}
        with atomic_path(args.out) as folder:
            folder.mkdir()
            _copy_other_files(Path(model), folder)
            text = json.dumps(config, indent=2)
            (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
            stretched = merged(base, backbones, coefficients)
            provenance = record(args, **facts)
            stream_tensors(folder / MODEL_WEIGHTS, layout, stretched, provenance)
            write_json(folder / MERGED, facts, provenance)


def _whole_backbone(base: dict, model: str, blocks: int | None) -> dict[str, StoredTensor]:
    """Return the backbone's tensors among a model's; only a pooler's may be missing."""
    from ntktune.network.models import empty_backbone

    parameters = empty_backbone(model, blocks).named_parameters()
    wanted = {name: tuple(p.shape) for name, p in parameters}
    wrong = [n for n, shape in wanted.items() if n in base and tuple(base[n].shape) != shape]
    check_filled(wanted.keys() - base.keys(), wrong, model)
    return {name: base[name] for name in wanted if name in base}


def _copy_other_files(model: Path, folder: Path) -> None:
    """Copy what belongs to a model besides its configuration and weights: the tokenizer."""
    made = ("config.json", MODEL_MANIFEST, MERGED)
    for file in sorted(model.iterdir()):
        # hidden files are a tool's own marks; weights may be shards with an index
        other = file.name in made or file.name.startswith(".") or ".safetensors" in file.name
        if file.is_file() and not other:
            shutil.copy2(file, folder / file.name)


def overlap(args: argparse.Namespace) -> None:
    """Count rows of each task whose text another task was trained on."""
    import pandas as pd

    from ntktune.data.cleaning import text_or_none
    from ntktune.taskvectors.overlap import overlap_rows

    if len(args.tables) != len(args.subsets):
        raise UserError(
            f"there are {len(args.tables)} --tables and {len(args.subsets)} --subsets; give one of "
            "each per task, in the same order"
        )
    texts, samples = {}, {}
    for path, subsets in zip(args.tables, args.subsets, strict=True):
        table, facts = read_table(path)
        check_names(path, table.columns, ("text_a", "text_b"), "columns")
        check_names(path, facts, ("task", "data_sha256"), "facts")
        task = facts["task"]["name"]
        if task in texts:
            raise UserError(f"--tables has task {task!r} more than once; give it once")
        pairs = zip(table["text_a"], table["text_b"], strict=True)
        texts[task] = [(text_a, text_or_none(text_b)) for text_a, text_b in pairs]
        samples[task] = read_samples(subsets, path, facts, seeds=args.seeds)
    counts, leaked = overlap_rows(texts, samples, args.size, args.seeds)
    table = pd.DataFrame(leaked, columns=list(LEAKED_COLUMNS)).astype(LEAKED_COLUMNS)
    write_tables(args, {args.out_counts: counts, args.out_leaked: table}, size=args.size)


def _check_tasks(args: argparse.Namespace) -> None:
    if repeated := [name for name in args.tasks if args.tasks.count(name) > 1]:
        raise UserError(f"--tasks has {repeated[0]!r} more than once; give each task once")
    if len({len(args.tasks), len(args.tokens), len(args.subsets)}) > 1:
        raise UserError(
            f"there are {len(args.tasks)} --tasks, {len(args.tokens)} --tokens and "
            f"{len(args.subsets)} --subsets; give one of each per task, in the same order"
        )


def _runs(files: dict[tuple[str, str], Tuned], tasks: Sequence[str]) -> list[str]:
    """Return the runs of the weights; raise UserError unless each task has each seed's."""
    for tuned in files.values():
        if tuned.task not in tasks:
            raise UserError(
                f"{tuned.path} is of task {tuned.task!r}, which is none of --tasks "
                f"{' '.join(tasks)}; leave it out, or name its task"
            )
    runs = sorted({run for _, run in files})
    if AGAIN in runs:
        raise UserError(
            f"--weights has the run {AGAIN!r}, which serves for cosines only; give the seeds'"
        )
    for run, task in itertools.product(runs, tasks):
        if (task, run) not in files:
            raise UserError(
                f"--weights holds no run {run} of task {task!r}, but of others; give the same "
                "runs of every task"
            )
    return runs


def _sweep(
    args: argparse.Namespace, what: str, steps: int, rows: Callable[..., pd.DataFrame]
) -> None:
    """Write what ``rows`` returns for each seed.

    It is given the network, the pretrained weights, the seed's files, tasks and number, and what to
    call with the number of steps done.
    """
    import pandas as pd

    from ntktune.network.models import text_model
    from ntktune.taskvectors.edited import EditedModel

    device, model_is = select_device(args.device), model_facts(args.model)
    base, read = read_tuned(args.weights, args.model, args.blocks, args.pooling)
    files = {(tuned.task, tuned.run): tuned for tuned in read}
    runs = _runs(files, args.tasks)
    seeds = [(int(run), [files[task, run] for task in args.tasks], []) for run in runs]
    for place, (tokens, subsets) in enumerate(zip(args.tokens, args.subsets, strict=True)):
        examples, facts = read_examples(tokens, args.tasks[place], model_is)
        samples = read_samples(subsets, tokens, facts, seeds=len(runs))
        for _, own, tasks in seeds:
            tasks.append(_tuned_task(args, own[place], examples, facts, samples, subsets))
    how = {"blocks": args.blocks, "pooling": args.pooling}
    model = text_model(args.model, outputs=1, head_seed=0, **how).to(device)
    edited = EditedModel(model, args.batch_tokens)
    progress, found = Progress(what, steps * len(seeds)), []
    for done, (seed, own, tasks) in enumerate(seeds):
        given = (edited, base, own, tasks, seed)
        table = rows(*given, lambda more, done=done: progress(done * steps + more))
        found.append(table.assign(seed=seed))
    facts = {"model": model_is, **how, "dtype": "float32", "device": str(device)}
    facts |= {"sizes": {tuned.task: tuned.size for tuned in read}}
    write_tables(args, {args.out: pd.concat(found, ignore_index=True)}, **facts)


def _tuned_task(
    args: argparse.Namespace, tuned: Tuned, examples: Examples, tokens: dict, drawn: dict, path: str
) -> TunedTask:
    """Return a task with a file's head, and the hold-out and test rows that it is to answer."""
    from ntktune.finetune.repeats import seed_split
    from ntktune.taskvectors.edited import TunedTask

    facts = tuned.facts
    if facts["data_sha256"] != tokens.get("data_sha256"):
        raise UserError(
            f"{tuned.path} was fine-tuned on data {facts['data_sha256']}, but the tokens "
            f"hold {tokens.get('data_sha256')}; fine-tune again"
        )
    train, holdout = seed_split(examples, drawn, tuned.size, facts["sample"])
    if facts["rows"] != {"train": train, "validation": holdout}:
        raise UserError(
            f"{tuned.path} was fine-tuned on other rows than {path} holds for its sample; "
            "fine-tune again"
        )
    most, tested = getattr(args, "validation_rows", None), getattr(args, "rows", None)
    parts = {"validation": holdout[:most], "test": drawn["test"][:tested]}
    head = (tuned.head_weight[...], tuned.head_bias[...])
    scale = {key: facts[key] for key in ("label_mean", "label_sd")}
    return TunedTask(examples, parts, *head, **scale, train=train)


def _coefficients(args: argparse.Namespace) -> list[float]:
    """Return a sweep's coefficients, sorted, without 0; raise UserError if none is left."""
    if found := sorted({c for c in args.coefficients if c}):
        return found
    raise UserError("--coefficients has only 0, the pretrained model; give others")


def add(args: argparse.Namespace) -> None:
    """Add task vectors, and let the merged models answer each task that went into them."""
    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.sweeps import addition_sweep

    coefficients, name = _coefficients(args), JOIN.join(args.tasks)
    _check_tasks(args)
    if len(args.tasks) < 2:
        raise UserError(f"--tasks has {len(args.tasks)} task; a merge needs two or more")

    def rows(edited, base, files, tasks, _, report):
        vector = direction(base, [tuned.backbone for tuned in files])
        return addition_sweep(edited, vector, tasks, coefficients, report).assign(merged=name)

    _sweep(args, f"merging {name}", len(coefficients), rows)


def negate(args: argparse.Namespace) -> None:
    """Subtract a task vector, and let the model answer its task and the control tasks."""
    from ntktune.study.seeds import integer_seed
    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.sweeps import negation_sweep

    coefficients, target = _coefficients(args), args.tasks[0]
    _check_tasks(args)

    def rows(edited, base, files, tasks, seed, report):
        vector = direction(base, [files[0].backbone])
        random = integer_seed(0, "taskvectors.random", target, repeat=seed)
        how = (coefficients, random, report)
        return negation_sweep(edited, vector, tasks[0], tasks[1:], *how).assign(target=target)

    _sweep(args, f"negating {target}", len(coefficients) + 3, rows)


def disentangle(args: argparse.Namespace) -> None:
    """Compute the disentanglement error of two tasks' vectors on a grid of coefficients."""
    import pandas as pd

    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.disentanglement import disentanglement_rows, evaluations
    from ntktune.taskvectors.linear import linear_vector

    if len(args.tasks) != 2:
        raise UserError(f"--tasks has {len(args.tasks)}; the error is that of two tasks")
    _check_tasks(args)

    def rows(edited, base, files, tasks, seed, report):
        vectors = [direction(base, [tuned.backbone]) for tuned in files]
        trained = [
            linear_vector(edited.reader, task, args.batch_tokens) for task in tasks * args.tangent
        ]
        found = disentanglement_rows(edited, vectors, tasks, args.grid, report, trained)
        address = {"task_a": args.tasks[0], "task_b": args.tasks[1], "seed": seed}
        return pd.DataFrame([address | row for row in found])

    _sweep(args, f"disentangling {' and '.join(args.tasks)}", evaluations(args.grid), rows)


def _answers(paths: Sequence[str], model: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the answers of several sweeps, and each file's facts; ``model`` names the models."""
    import pandas as pd

    tables, facts = [], []
    own = ["target", "slope", "random"] if model == "target" else [model]
    for path in paths:
        table, provenance = read_table(path)
        check_names(path, table.columns, own + ANSWER_COLUMNS, "columns")
        check_names(path, provenance, ("model", "blocks", "pooling", "sizes"), "facts")
        tables.append(table)
        facts.append({"path": path} | provenance)
    return pd.concat(tables, ignore_index=True), facts


def _check_one_study(answers: list[dict[str, Any]], size: int) -> None:
    first = answers[0]
    for facts in answers:
        for what in ("model", "blocks", "pooling"):
            if facts[what] != first[what]:
                raise UserError(
                    f"{facts['path']} is of {what} {facts[what]}, {first['path']} of "
                    f"{first[what]}; give the sweeps of one study"
                )
        for task, found in facts["sizes"].items():
            if found != size:
                raise UserError(
                    f"{facts['path']} has models of {task} fine-tuned on {found} examples, but the "
                    f"overlap was counted for {size}; count it again"
                )


def score(args: argparse.Namespace) -> None:
    """Score merged and negated models, with and without rows that were trained on."""
    from ntktune.taskvectors.scores import Leaks, merged_table, negated_table, sweep_table

    added, of_added = _answers(args.added, "merged")
    negated, of_negated = _answers(args.negated, "target")
    leaked, facts = read_table(args.leaked)
    check_names(args.leaked, leaked.columns, LEAKED_COLUMNS, "columns")
    check_names(args.leaked, facts, ("size",), "facts")
    counted = read_table(args.overlap)[0]
    check_names(args.overlap, counted.columns, ("task", "other", "seed"), "columns")
    _check_one_study([*of_added, *of_negated], facts["size"])
    known = set(zip(counted["task"], counted["other"], counted["seed"], strict=True))
    pairs = set(zip(negated["task"], negated["target"], negated["seed"], strict=True))
    for task, other, seed in sorted(pairs - known):
        raise UserError(
            f"{args.overlap} does not say what {other!r} shares with {task!r}, seed {seed}; count "
            "the overlap of all tasks and seeds"
        )
    leaks = Leaks(leaked)
    sweep = sweep_table(added, negated, leaks)
    merged = merged_table(sweep, args.coefficient, args.candidates)
    tables = {args.out_sweep: sweep, args.out_merged: merged}
    write_tables(args, tables | {args.out_negated: negated_table(negated, leaks)})
