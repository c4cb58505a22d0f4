"""The commands of the chapter taskvectors that let edited models answer, and score the answers."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command
from ntktune.cli.finetune import read_examples
from ntktune.cli.inputs import check_names, model_facts, read_samples
from ntktune.cli.record import Record
from ntktune.cli.tuned_files import AGAIN, Tuned, read_tuned
from ntktune.errors import UserError
from ntktune.store.records import read_table, write_table
from ntktune.store.tensors import StoredTensor

if TYPE_CHECKING:
    import pandas as pd

    from ntktune.finetune.repeats import Examples
    from ntktune.taskvectors.edited import EditedModel, TunedTask

ANSWER_COLUMNS = (
    *("seed", "task", "kind", "metric", "coefficient", "part", "row", "label", "output"),
)
LEAKED_COLUMNS = {"task": str, "part": str, "other": str, "seed": int, "row": int}


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add these verbs to the chapter."""
    parser = add_command(
        *(verbs, "overlap", overlap),
        out_counts="parquet: a row per pair and seed",
        out_leaked="parquet: a row per shared test row",
    )
    _add_files(parser, tables="the tasks' texts", subsets="the tasks' samples, in the same order")
    _add_sweep(verbs, add, "the tasks to merge")
    _add_sweep(verbs, negate, "the task to negate, then the control tasks")
    _add_sweep(verbs, disentangle, "the two tasks")
    parser = add_command(
        *(verbs, "score", score),
        leaked="rows whose text another task was trained on (leaked.parquet)",
        overlap="how many those are (overlap.parquet)",
        out_sweep="parquet: scores of merged models at every coefficient",
        out_merged="parquet: scores at the fixed and at the chosen coefficient",
        out_negated="parquet: scores of negated models",
    )
    _add_files(
        parser,
        added="answers of merged models, one file each",
        negated="answers of negated models, one file each",
    )


def _add_sweep(verbs: argparse._SubParsersAction, run: Callable, tasks: str) -> None:
    parser = add_command(verbs, run.__name__, run, "model", out="parquet: the answers")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="NAME", help=tasks)
    _add_files(
        parser,
        weights="fine-tuned weights of these tasks, any number of seeds each",
        tokens="the tasks' tokens, in their order",
        subsets="the tasks' subsets, in their order",
    )


def _add_files(parser: argparse.ArgumentParser, **files: str) -> None:
    for name, help_ in files.items():
        parser.add_argument(f"--{name}", required=True, nargs="+", metavar="FILE", help=help_)


@dataclass(frozen=True)
class Sweep:
    """What a sweep works with.

    The record, facts for the provenance, the pretrained weights, the network, and for each seed
    its number, its files and its tasks.
    """

    record: Record
    facts: dict[str, Any]
    base: dict[str, StoredTensor]
    edited: EditedModel
    seeds: list[tuple[int, list[Tuned], list[TunedTask]]]


def overlap(args: argparse.Namespace) -> None:
    """Count rows of each task whose text another task was trained on."""
    import pandas as pd

    from ntktune.data.cleaning import text_or_none
    from ntktune.taskvectors.overlap import overlap_rows

    record = Record("ntktune.cli.taskvectors_sweeps:overlap", args)
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
        task = facts["task"]["name"] if isinstance(facts["task"], dict) else facts["task"]
        if task in texts:
            raise UserError(f"--tables has task {task!r} more than once; give it once")
        pairs = zip(table["text_a"], table["text_b"], strict=True)
        texts[task] = [(text_a, text_or_none(text_b)) for text_a, text_b in pairs]
        samples[task] = read_samples(subsets, path, facts, seeds=args.seeds)
    counts, leaked = overlap_rows(texts, samples, args.size, args.seeds)
    provenance = record.provenance(size=args.size)
    table = pd.DataFrame(leaked, columns=list(LEAKED_COLUMNS)).astype(LEAKED_COLUMNS)
    write_table(args.out_counts, pd.DataFrame(counts), provenance)
    write_table(args.out_leaked, table, provenance)


def _check_tasks(args: argparse.Namespace) -> None:
    """Raise UserError unless there are tokens and subsets of every task, each named once."""
    repeated = [name for name in args.tasks if args.tasks.count(name) > 1]
    if repeated:
        raise UserError(f"--tasks has {repeated[0]!r} more than once; give each task once")
    if len({len(args.tasks), len(args.tokens), len(args.subsets)}) > 1:
        raise UserError(
            f"there are {len(args.tasks)} --tasks, {len(args.tokens)} --tokens and "
            f"{len(args.subsets)} --subsets; give one of each per task, in the same order"
        )


def _runs(files: dict[tuple[str, str], Tuned], tasks: Sequence[str]) -> list[str]:
    """Return the runs that there are of every task.

    Raises
    ------
    UserError
        Weights are of other tasks, of a run that is none of the seeds', or of different runs.
    """
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


def _swept(args: argparse.Namespace, command: str) -> Sweep:
    """Return what a sweep works with.

    Raises
    ------
    UserError
        Files are missing, of other tasks or of different seeds.
    """
    from ntktune.network.device import select_device
    from ntktune.network.models import text_model
    from ntktune.taskvectors.edited import EditedModel

    record = Record(f"ntktune.cli.taskvectors_sweeps:{command}", args)
    _check_tasks(args)
    device, model_is = select_device(args.device), model_facts(args.model)
    base, read = read_tuned(args.weights, args.model, args.blocks)
    files = {(tuned.task, tuned.run): tuned for tuned in read}
    runs = _runs(files, args.tasks)
    tasks = {}
    for task, tokens, subsets in zip(args.tasks, args.tokens, args.subsets, strict=True):
        examples, facts = read_examples(tokens, task, model_is)
        samples = read_samples(subsets, tokens, facts, seeds=len(runs))
        for run in runs:
            holdout = _holdout(files[task, run], examples, samples, facts, subsets)
            parts = {"validation": holdout[: getattr(args, "validation_rows", None)]}
            parts |= {"test": samples["test"]}
            tasks[task, run] = _tuned_task(files[task, run], examples, parts)
    seeds = []
    for run in runs:
        keys = [(task, run) for task in args.tasks]
        seeds.append((int(run), [files[key] for key in keys], [tasks[key] for key in keys]))
    model = text_model(args.model, outputs=1, head_seed=0, blocks=args.blocks).to(device)
    facts = {"model": model_is, "blocks": args.blocks, "dtype": "float32", "device": str(device)}
    facts |= {"sizes": {tuned.task: tuned.size for tuned in read}}
    return Sweep(record, facts, base, EditedModel(model, args.batch_tokens), seeds)


def _tuned_task(tuned: Tuned, examples: Examples, parts: dict[str, list[int]]) -> TunedTask:
    """Return a task with the head in a file, and the rows that are answered."""
    from ntktune.taskvectors.edited import TunedTask

    return TunedTask(
        *(examples, parts, tuned.head_weight[...], tuned.head_bias[...]),
        label_mean=tuned.facts["label_mean"],
        label_sd=tuned.facts["label_sd"],
    )


def _holdout(
    tuned: Tuned, examples: Examples, subsets: dict, tokens_facts: dict, path: str
) -> list[int]:
    """Return the hold-out rows of a file's sample.

    Raises
    ------
    UserError
        It was fine-tuned on other data, or on another sample than the subsets hold.
    """
    from ntktune.finetune.repeats import seed_split

    if tuned.facts["data_sha256"] != tokens_facts.get("data_sha256"):
        raise UserError(
            f"{tuned.path} was fine-tuned on data {tuned.facts['data_sha256']}, but the tokens "
            f"hold {tokens_facts.get('data_sha256')}; fine-tune again"
        )
    train, holdout = seed_split(examples, subsets, tuned.size, tuned.facts["sample"])
    if tuned.facts["rows"] != {"train": train, "validation": holdout}:
        raise UserError(
            f"{tuned.path} was fine-tuned on other rows than {path} holds for its sample; "
            "fine-tune again"
        )
    return holdout


def _coefficients(args: argparse.Namespace) -> list[float]:
    """Return the coefficients of a sweep in their order, each once, without 0.

    Raises
    ------
    UserError
        None is above 0.
    """
    found = sorted({c for c in args.coefficients if c})
    if not found:
        raise UserError("--coefficients has only 0, the pretrained model; give others")
    return found


def _write_rows(
    args: argparse.Namespace,
    sweep: Sweep,
    what: str,
    steps: int,
    rows: Callable[[list[Tuned], list[TunedTask], int, Callable[[float], None]], pd.DataFrame],
) -> None:
    """Write what a sweep finds with every seed: ``rows`` of its files, tasks and number.

    Its last argument reports how many of ``steps`` are done.
    """
    import pandas as pd

    progress, found = Progress(what, steps * len(sweep.seeds)), []
    for done, (seed, files, tasks) in enumerate(sweep.seeds):
        table = rows(files, tasks, seed, lambda more, done=done: progress(done * steps + more))
        found.append(table.assign(seed=seed))
    provenance = sweep.record.provenance(**sweep.facts)
    write_table(args.out, pd.concat(found, ignore_index=True), provenance)


def add(args: argparse.Namespace) -> None:
    """Add task vectors, and let the merged models answer each task that went into them."""
    from ntktune.study.merges import JOIN
    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.sweeps import addition_sweep

    coefficients = _coefficients(args)
    sweep = _swept(args, "add")
    if len(args.tasks) < 2:
        raise UserError(f"--tasks has {len(args.tasks)} task; a merge needs two or more")
    steps, name = len(coefficients), JOIN.join(args.tasks)

    def rows(files, tasks, _, report):
        vector = direction(sweep.base, [tuned.backbone for tuned in files])
        found = addition_sweep(sweep.edited, vector, tasks, coefficients, report)
        return found.assign(merged=name)

    _write_rows(args, sweep, f"merging {name}", steps, rows)


def negate(args: argparse.Namespace) -> None:
    """Subtract a task vector, and let the model answer its task and the control tasks."""
    from ntktune.study.seeds import integer_seed
    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.sweeps import negation_sweep

    coefficients = _coefficients(args)
    sweep = _swept(args, "negate")
    target, steps = args.tasks[0], len(coefficients) + 3

    def rows(files, tasks, seed, report):
        vector = direction(sweep.base, [files[0].backbone])
        random = integer_seed(0, "taskvectors.random", target, repeat=seed)
        how = (coefficients, random, report)
        found = negation_sweep(sweep.edited, vector, tasks[0], tasks[1:], *how)
        return found.assign(target=target)

    _write_rows(args, sweep, f"negating {target}", steps, rows)


def disentangle(args: argparse.Namespace) -> None:
    """Compute the disentanglement error of two tasks' vectors on a grid of coefficients."""
    import dataclasses

    import pandas as pd

    from ntktune.taskvectors.arithmetic import direction
    from ntktune.taskvectors.disentanglement import disentanglement_rows, evaluations

    if len(args.tasks) != 2:
        raise UserError(f"--tasks has {len(args.tasks)}; the error is that of two tasks")
    sweep = _swept(args, "disentangle")

    def rows(files, tasks, seed, report):
        vectors = [direction(sweep.base, [tuned.backbone]) for tuned in files]
        few = [
            dataclasses.replace(task, parts={"test": task.parts["test"][: args.rows]})
            for task in tasks
        ]
        found = disentanglement_rows(sweep.edited, vectors, few, args.grid, report)
        address = {"task_a": args.tasks[0], "task_b": args.tasks[1], "seed": seed}
        return pd.DataFrame([address | row for row in found])

    what = f"disentangling {' and '.join(args.tasks)}"
    _write_rows(args, sweep, what, evaluations(args.grid), rows)


def _answers(paths: Sequence[str], model: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Read the answers of several sweeps as one table, and the files' provenance.

    ``model`` is the column that names the model: ``merged``, or ``target`` of negations.
    """
    import pandas as pd

    tables, facts = [], []
    for path in paths:
        table, provenance = read_table(path)
        more = ("slope", "random") if model == "target" else ()
        check_names(path, table.columns, (model, *more, *ANSWER_COLUMNS), "columns")
        check_names(path, provenance, ("model", "blocks", "sizes"), "facts")
        tables.append(table)
        facts.append({"path": path} | provenance)
    return pd.concat(tables, ignore_index=True), facts


def _check_one_study(answers: list[dict[str, Any]], size: int) -> None:
    """Raise UserError unless sweeps and overlap are of one model and one sample size."""
    first = answers[0]
    for facts in answers:
        for what in ("model", "blocks"):
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

    record = Record("ntktune.cli.taskvectors_sweeps:score", args)
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
    tables = {
        args.out_sweep: sweep,
        args.out_merged: merged_table(sweep, args.coefficient, args.candidates),
        args.out_negated: negated_table(negated, leaks),
    }
    for path, table in tables.items():
        write_table(path, table, record.provenance())
