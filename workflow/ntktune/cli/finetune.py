"""Commands of the chapter ``finetune``."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command, many, optional
from ntktune.cli.inputs import class_count, model_facts, model_manifest, read_samples, read_tokens
from ntktune.cli.options import LORA, command_options
from ntktune.cli.record import record, write_tables
from ntktune.errors import UserError, check_names
from ntktune.finetune.devices import DEVICES
from ntktune.network.device import select_device, training_dtypes
from ntktune.store.code_digest import code_digest
from ntktune.store.files import MODEL_MANIFEST
from ntktune.store.records import json_checksum, read_json, write_json
from ntktune.store.tensors import content_sha256, read_tensors, stored_tensors
from ntktune.store.unfinished import finished_part, keep_part

if TYPE_CHECKING:
    import torch

    from ntktune.finetune.account import Cost, Memory, Shape
    from ntktune.finetune.repeats import Examples, Repeat
    from ntktune.finetune.training import Settings
    from ntktune.network.models import TextModel


# Settings of a training that are options and keys of the configuration of the same name.
SETTINGS = (
    *("head", "learning_rate", "warmup", "schedule", "max_norm", "weight_decay", "batch_size"),
    *("max_epochs", "max_steps", "evaluate_every", "patience", "batch_tokens", "checkpointing"),
)
# What a fine-tuning reads.
TRAINED = ("model", "tokens", "subsets", "task")
CHOSEN = {
    "rates": optional("JSON of finetune choose: its best rate takes the place of --learning-rate")
}


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "choose", choose, *TRAINED),
        out="the rates, best first (JSON)",
        state=optional("folder that keeps the rates that a killed run has tried"),
    )
    add_command(
        *(verbs, "run", run, *TRAINED),
        **CHOSEN,
        out_metrics="parquet: one row per size and seed",
        out_history="parquet: one row per evaluation",
        size=many("labelled examples, the hold-out included", "N") | {"type": int},
        seeds=optional(
            "train only so many seeds, from the first, of each size (default: all)",
            type=int,
            nargs="+",
        ),
        state=optional("folder that keeps a killed run's finished seeds, and taskvectors tune's"),
        adapters=optional("of lora: folder for each seed's adapters and head, in peft's format"),
        test_history=optional(
            "measure the test rows at every evaluation; it changes no step and no choice",
            action="store_true",
        ),
    )
    _add_plan(verbs)
    add_command(
        *(verbs, "baselines", baselines, *TRAINED),
        out="parquet: one row per method, size and seed",
        kernels=optional("safetensors: kernels of the subsets and the test rows"),
    )


def _add_plan(verbs: argparse._SubParsersAction) -> None:
    add_command(
        *(verbs, "plan", plan),
        config="a study's configuration",
        results=optional("its results, for the texts' lengths (default: its own)"),
        device_name=optional(
            "count for this GPU (default: this machine's processor)", choices=list(DEVICES)
        ),
        share=optional(
            "share of a named GPU's peak speed that is reached (default: 0.4, a guess)",
            type=float,
            default=0.4,
        ),
    )


def read_examples(tokens: str, task: str, model: dict[str, Any]) -> tuple[Examples, dict]:
    """Return a task's tokenised examples, made for a model, and the tokens' provenance."""
    from ntktune.finetune.repeats import Examples

    tensors, facts = read_tokens(tokens, task, model)
    lengths = tensors["offsets"].diff().tolist()
    score_range = facts["task"].get("score_range")
    examples = Examples(
        task=task,
        kind=facts["task"]["kind"],
        ids=list(tensors["ids"].long().split(lengths)),
        label=tensors["label"].double().numpy(),
        label_noise=tensors["label_noise"].double().numpy(),
        score_range=tuple(score_range) if score_range else None,
        metric=facts["task"].get("metric", ""),
        classes=class_count(facts["task"]),
    )
    return examples, facts


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a fine-tuning command works on; ``facts`` are for the provenance."""

    settings: Settings
    examples: Examples
    subsets: dict[str, Any]
    device: torch.device
    facts: dict[str, Any]


def read_cell(args: argparse.Namespace, seeds: int = 0) -> Cell:
    """Return what a fine-tuning command works on; the model's weights are not read yet.

    Without the option of a method all weights train. Raises UserError if files do not belong
    together, or have fewer ``seeds``.
    """
    from ntktune.finetune.training import Lora, Settings

    autocast, device = training_dtypes(args.dtype)[1], select_device(args.device)
    model_is = model_facts(args.model)
    examples, facts = read_examples(args.tokens, args.task, model_is)
    if getattr(args, "rates", None):
        method = getattr(args, "method", "full")
        args.learning_rate = _chosen_rate(args.rates, method, facts, model_is)
    how = {name: getattr(args, name) for name in SETTINGS} | {"autocast": autocast}
    if "method" in args:
        lora = {key: getattr(args, f"lora_{key}") for key in LORA if f"lora_{key}" in args}
        ranks = (entry.rpartition("=") for entry in lora.get("rank_pattern", ()))
        lora["rank_pattern"] = {layer: int(rank) for layer, _, rank in ranks}
        how |= {"method": args.method, "lora": Lora(**lora)}
    settings = Settings(**how)
    subsets = read_samples(args.subsets, args.tokens, facts, seeds=seeds)
    stated = _facts(args, facts, model_is, device, args.dtype)
    return Cell(settings, examples, subsets, device, stated)


def _chosen_rate(path: str, method: str, tokens: dict, model: dict) -> float:
    """Return the best learning rate of a file of finetune choose; UserError if of another task."""
    found = read_json(path)
    check_names(path, found, ("method", "rates", "provenance"), "keys")
    own = {"method": (found["method"], method)}
    _check_made_for(path, found["provenance"], tokens, model, **own)
    return found["rates"][0]["learning_rate"]


def _check_made_for(path: str, made: dict, tokens: dict, model: dict, **more: tuple) -> None:
    """Raise UserError if a file is of another task, data or model; ``more`` is stated, wanted."""
    facts = {
        "task": (made.get("task", {}).get("name"), tokens["task"]["name"]),
        "data": (made.get("data_sha256"), tokens.get("data_sha256")),
        "model": (made.get("model", {}).get("sha256"), model["sha256"]),
    }
    for what, (stated, wanted) in (facts | more).items():
        if stated != wanted:
            raise UserError(f"{path} was made for {what} {stated}, not {wanted}; make it again")


def _facts(
    args: argparse.Namespace, tokens: dict, model: dict, device: torch.device, dtype: str
) -> dict[str, Any]:
    """Return what the provenance says of a task, its data, the model and where it ran."""
    data = {"task": tokens["task"], "data_sha256": tokens.get("data_sha256")}
    read = {"blocks": args.blocks, "pooling": args.pooling}
    return data | {"model": model, **read, "dtype": dtype, "device": str(device)}


def pretrained_model(args: argparse.Namespace, cell: Cell) -> TextModel:
    """Load a cell's model where it computes; each seed puts its own head on it."""
    from ntktune.network.models import text_model

    how = {"blocks": args.blocks, "pooling": args.pooling, "dtype": training_dtypes(args.dtype)[0]}
    model = text_model(args.model, outputs=cell.examples.outputs, head_seed=0, **how)
    return model.to(cell.device)


def repeats(
    args: argparse.Namespace,
    cell: Cell,
    size: int,
    seeds: Sequence[int],
    *,
    samples: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    test_history: bool = False,
) -> tuple[TextModel, Iterator[Repeat]]:
    """Return the model and each seed's outcome; at its turn the model holds that seed's weights.

    ``size`` is the largest of ``sizes``, which every seed has by default.
    """
    from ntktune.finetune.repeats import all_steps, fine_tuned_repeats

    sizes = sizes or [size] * len(seeds)
    steps = sum(
        all_steps(cell.examples, cell.subsets, n, cell.settings, [sample])
        for n, sample in zip(sizes, samples or seeds, strict=True)
    )
    ns = " ".join(map(str, dict.fromkeys(sizes)))
    progress = Progress(f"fine-tuning {args.task}, n={ns}, {len(seeds)} trainings", steps)
    model, cell_is = pretrained_model(args, cell), (cell.examples, cell.subsets, size)
    how = {"samples": samples, "sizes": sizes, "test_history": test_history}
    run = (cell.settings, args.seed, seeds, progress)
    return model, fine_tuned_repeats(model, *cell_is, *run, **how)


def _study_model(study: dict[str, Any], folder: str) -> Any:
    """Return the configuration of a study's model: fetched, of its folder, described, or None."""
    from ntktune.data.tokens import MOST_TOKENS
    from ntktune.network.models import configuration, described_configuration, positions, skeleton

    model, source = study["model"], study["model"]["source"]
    fetched = Path(folder) / "data" / "model"
    if (fetched / MODEL_MANIFEST).is_file():
        there = model_facts(str(fetched))["name"]
        if there != model["name"]:
            raise UserError(f"{fetched} holds the model {there}, not {model['name']}")
        found = configuration(fetched, model["blocks"])
    elif source.get("folder"):
        found = configuration(source["folder"], model["blocks"])
    elif described := model["architecture"] or source.get("random"):
        settings = {key: value for key, value in described.items() if key != "seed"}
        found = described_configuration(settings, model["blocks"])
    else:
        return None
    most = positions(skeleton(found))
    if model["max_tokens"] is None:
        model["max_tokens"] = min(MOST_TOKENS, most or MOST_TOKENS)
    if most and model["max_tokens"] > most:
        raise UserError(
            f"model.max_tokens is {model['max_tokens']}, but the model has {most} positions"
        )
    return found


def _study_texts(
    study: dict[str, Any], folder: str, task: str, size: int
) -> tuple[dict[str, list[int]], int | None]:
    """Return the lengths of the texts of a task's first sample, and the embedding rows they reach.

    Without data the rows are None; texts of a file that is here have a token per 4 characters, as
    its quantiles have them in an order of which each part is like the whole, others as many as
    they can have.
    """
    from ntktune.data.sampling import holdout_pattern, training_subset
    from ntktune.data.study import own_rows

    data = Path(folder) / "data" / task
    tokens, subsets = data / "tokens.safetensors", data / "subsets.json"
    tuning, definition = study["finetune"], study["task_definitions"][task]
    if not (tokens.is_file() and subsets.is_file()):
        held = int(holdout_pattern(size, tuning["holdout_fraction"]).sum())
        own = own_rows(study, task)
        limits = [tuning["test_rows"], definition["test_rows"], own.test if own else None]
        tests = min(filter(None, limits), default=0)
        counts = {"train": size - held, "holdout": held, "test": tests}
        longest = study["model"]["max_tokens"]
        characters = own.characters if own else [4 * longest]
        lengths = [min(longest, round(c / 4) + 1) for c in characters]
        dealt = [lengths[(50 + 37 * i) % len(lengths)] for i in range(max(counts.values()))]
        return {part: dealt[:count] for part, count in counts.items()}, None
    tensors, facts = read_tokens(str(tokens), task, model_facts(f"{folder}/data/model"))
    samples = read_samples(str(subsets), str(tokens), facts)
    lengths = tensors["offsets"].diff().tolist()
    train, holdout = training_subset(samples, size, 0)
    rows = {"train": train, "holdout": holdout, "test": samples["test"]}
    ids = tensors["ids"].split(lengths)
    used = {0}.union(*(ids[row].tolist() for row in (*train, *holdout)))
    return {part: [lengths[row] for row in some] for part, some in rows.items()}, len(used)


def _classes(study: dict[str, Any], task: str) -> int:
    """Return a task's classes: those it names, else those of its files that are here, else two."""
    from ntktune.data.study import own_rows

    named = study["task_definitions"][task]
    own = None if named["classes"] else own_rows(study, task)
    return max(2, own.classes) if own else class_count(named)


def _study_trainings(study: dict[str, Any]) -> list[tuple[str, list[str], int, int, dict]]:
    """Return a study's trainings: name, tasks, size, seeds, and what differs from the grid's."""
    from ntktune.data.study import cell_seeds

    tuning, merging, theory = study["finetune"], study["taskvectors"], study["theory"]
    found, first = [], {"method": tuning["methods"][0]}
    seeds = {n: cell_seeds(study, n) for n in tuning["sizes"]}
    grid = "finetune" in study["chapters"]
    for method in tuning["methods"]:
        how, tasks = {"method": method}, study["tasks"]
        if grid:
            found += [(f"{method}, n {n}", tasks, n, count, how) for n, count in seeds.items()]
    found += _rate_trainings(study)
    if grid and tuning["fixed_epochs"]:
        size = tuning["fixed_size"]
        fixed = first | {"max_epochs": tuning["fixed_epochs"], "max_steps": None}
        fixed |= {"evaluate_every": None, "patience": None}
        found.append((f"fixed epochs, n {size}", study["tasks"], size, tuning["seeds"], fixed))
    if merging["tasks"]:
        size, seeds = merging["size"], merging["seeds"] + (tuning["seeds"] > 1)  # one more sample
        found.append((f"task vectors, n {size}", merging["tasks"], size, seeds, first))
    if theory["tasks"]:
        size, seeds = theory["size"], theory["seeds"]
        descent = {"max_steps": theory["descent_steps"], "batch_size": size, "optimizer": "sgd"}
        descent |= {"evaluate_every": 1, "patience": None, "method": "full"}
        one_batch = tuning["batch_size"] * study["model"]["max_tokens"]
        descent["batch_tokens"] = min(tuning["batch_tokens"], one_batch)
        found.append((f"watched, n {size}", theory["tasks"], size, seeds, {"method": "full"}))
        found.append((f"descent, n {size}", theory["tasks"], size, seeds, descent))
    return found + _linear_trainings(study["linearized"])


def _rate_trainings(study: dict[str, Any]) -> list[tuple[str, list[str], int, int, dict]]:
    """Return the trainings that choose learning rates, as :func:`_study_trainings` does."""
    tuning, linear, size = study["finetune"], study["linearized"], study["finetune"]["rate_size"]
    grid = "finetune" in study["chapters"] or study["taskvectors"]["tasks"]
    methods = [*tuning["methods"] * bool(grid or study["theory"]["tasks"])]
    methods += [linear["method"]] * bool(linear["tasks"])
    methods += [linear["held_method"]] * bool(linear["held"])
    count, tasks = len(tuning["learning_rates"] or ()), [*study["task_definitions"]]
    name, seeds = f"{count} learning rates, n {size}", tuning["seeds"] * count
    methods = dict.fromkeys(methods if count else ())
    return [(f"{method}, {name}", tasks, size, seeds, {"method": method}) for method in methods]


def _linear_trainings(linear: dict[str, Any]) -> list[tuple[str, list[str], int, int, dict]]:
    """Return the trainings of the chapter linearized, as :func:`_study_trainings` does."""
    found, size, seeds = [], linear["size"], linear["seeds"]
    if linear["tasks"]:
        name = f"{len(linear['sets'])} sets of layers, n {size}"
        count = seeds * len(linear["rate_factors"]) * len(linear["sets"])
        found.append((name, linear["tasks"], size, count, {"method": linear["method"]}))
    if linear["held"]:
        count = seeds * (1 + 2 * len(linear["shares"]))
        how = {"method": linear["held_method"]}
        found.append((f"penalties, n {size}", linear["held"], size, count, how))
    return found


def plan(args: argparse.Namespace) -> None:
    """Print what a study will cost: memory of its trainings, FLOPs and hours of kernels too."""
    import torch

    from ntktune.data.study import resolved_study
    from ntktune.finetune.account import plan_text
    from ntktune.linearized.layers import layer_sets
    from ntktune.network.models import skeleton
    from ntktune.study.config import load_yaml

    if not 0 < args.share <= 1:
        raise UserError(f"--share is {args.share}; it must be above 0 and at most 1")
    if args.results and not Path(args.results).is_dir():
        raise UserError(f"--results {args.results} is no folder; correct it, or leave it out")
    study = resolved_study(load_yaml(args.config), args.config)
    folder = args.results or f"results/{study['study']}"
    mixed = training_dtypes(study["finetune"]["dtype"])[1] is not None
    if (config := _study_model(study, folder)) is None:
        print(_not_fetched(study, args.config))
        return
    if study["linearized"]["sets"] is None and study["linearized"]["tasks"]:
        study["linearized"]["sets"] = [*layer_sets(skeleton(config))]
    shapes = _study_shapes(study, config)
    # a study for a GPU may be planned where there is none
    here = "cpu" if study["device"] == "cpu" else "auto"
    device = torch.device("cuda") if args.device_name else select_device(here, lease=False)
    trained = _study_trainings(study)
    pairs = {(task, size) for _, tasks, size, *_ in trained for task in tasks}
    pairs |= {(task, max(study["finetune"]["sizes"])) for task in study["tasks"]}  # of kernels
    cells = {pair: _study_texts(study, folder, *pair) for pair in sorted(pairs)}
    held, trainings = _study_costs(study, cells, shapes, device)
    trainings += _study_kernels(study, cells, config)
    speed = None if args.device_name else _measured_rates(study, cells, shapes, device, config)
    print(_about(study, cells, trained, args.config, mixed=mixed))
    print(plan_text(shapes["full"][0], held, trainings, args.device_name, args.share, speed, mixed))


def _not_fetched(study: dict[str, Any], config: str) -> str:
    fetch = f"snakemake fetch --configfile {shlex.quote(config)} --cores 1"
    name = study["model"]["name"]
    return f"hours    not known before model {name} is there: run `{fetch}`, then this again"


def _study_shapes(study: dict[str, Any], config: Any) -> dict[str, tuple[Shape, Settings]]:
    """Return what the model costs per token under each method of a study, and how it trains."""
    from ntktune.finetune.account import architecture
    from ntktune.finetune.training import METHODS, Lora, Settings

    tuning = study["finetune"]
    weights, autocast = training_dtypes(tuning["dtype"])
    plain = {name: tuning[name] for name in SETTINGS} | {"autocast": autocast}
    lora = Lora(**{key: tuning["lora"][key] for key in LORA})
    pooling = study["model"]["pooling"]
    shapes = dict.fromkeys(METHODS, architecture(config, autocast, weights, pooling=pooling))
    linear = study["linearized"]
    if "lora" in {*tuning["methods"], linear["method"], linear["held_method"]}:
        shapes["lora"] = architecture(config, autocast, weights, lora, pooling)
    return {method: (shapes[method], Settings(**plain, method=method)) for method in METHODS}


def _measured_rates(
    study: dict[str, Any], cells: dict, shapes: dict, device: torch.device, config: Any
) -> tuple[float, float]:
    """Return this machine's FLOPs per second of a study's kernels, and of its first training.

    A head alone takes next to no FLOPs, so that it is not timed.
    """
    import torch

    from ntktune.finetune.account import kernel_rate, training_rate
    from ntktune.network.matmul import measured_rate

    product, trained = measured_rate(device), _study_trainings(study)
    texts = [length for parts, _ in cells.values() for length in parts["train"]]
    kernels = kernel_rate(config, texts, device, product)
    steps = [training for training in trained if training[4]["method"] != "probe"]
    if not steps:
        return kernels, product
    _, tasks, size, _, changes = steps[0]
    lengths = cells[tasks[0], size][0]["train"]
    weights, autocast = training_dtypes(study["finetune"]["dtype"])
    settings, dtype = shapes[changes["method"]][1], autocast or weights
    mixed = product if dtype == torch.float32 else measured_rate(device, dtype)
    return kernels, training_rate(config, settings, lengths, device, weights, mixed)


def _study_costs(
    study: dict[str, Any], cells: dict, shapes: dict, device: torch.device
) -> tuple[dict[str, Memory], list[tuple[str, int, list[Cost]]]]:
    """Return each method's memory, and name, seeds and costs by task of a study's trainings."""
    from ntktune.finetune.account import memory, training_cost

    found, largest = [], {}
    for name, tasks, size, seeds, changes in _study_trainings(study):
        shape, settings = shapes[changes["method"]]
        how = {"settings": dataclasses.replace(settings, **changes), "device": device}
        how |= {"test_history": name.startswith("fixed"), "tested": "learning rates" not in name}
        costs = []
        for task in tasks:
            definition = study["task_definitions"][task]
            outputs = 1 if definition["kind"] == "regression" else _classes(study, task)
            costs.append(training_cost(shape, **cells[task, size][0], **how, outputs=outputs))
        found.append((name, seeds, costs))
        largest.setdefault(changes["method"], []).extend(cost.largest for cost in costs)
    reached = [shapes["full"][0].rows if rows is None else rows for _, rows in cells.values()]
    item_bytes = training_dtypes(study["finetune"]["dtype"])[0].itemsize
    held = {}
    for method, batches in largest.items():
        shape, settings = shapes[method]
        most = max(batches, key=math.prod)
        held[method] = memory(shape, most, max(reached), settings, item_bytes)
    return held, found


def _study_kernels(
    study: dict[str, Any], cells: dict, config: Any
) -> list[tuple[str, int, list[Cost]]]:
    """Return name, number and costs by task of a study's kernels.

    Their texts are as long as those of ``cells``, repeated as often as needed.
    """
    from ntktune.data.study import learning_seeds
    from ntktune.finetune.account import Cost
    from ntktune.kernel.account import account
    from ntktune.network.models import block_list, skeleton

    kernel, backbone, found = study["kernel"], skeleton(config), []
    most = kernel["learning_rows"]
    for name, count, rows, columns in (
        ("(kernel.draws)", kernel["draws"], kernel["rows"], None),
        ("and all test rows (kernel.learning_seeds)", learning_seeds(study), most, most),
    ):
        costs = []
        for task in study["tasks"] if "kernel" in study["chapters"] else ():
            texts = cells[task, max(study["finetune"]["sizes"])][0]
            drawn = itertools.cycle(texts["train"] + texts["holdout"])
            lengths = [*itertools.islice(drawn, rows)]
            lengths += texts["test"] if columns else []
            cost = account(backbone, block_list(backbone), lengths, _classes(study, task), columns)
            costs.append(Cost(0, cost.tokens, cost.flops, (0, 0)))
        if costs and count:
            found.append((f"kernels of {rows} texts {name}", count, costs))
    return found


def _about(study: dict[str, Any], cells: dict, trained: list, config: str, *, mixed: bool) -> str:
    """Return what is counted, what of it is not known yet, and the rank that is always enough."""
    from ntktune.linearized.bounds import smallest_rank

    unknown = sorted({task for (task, _), (_, reached) in cells.items() if reached is None})
    tests = {task: len(texts["test"]) for (task, _), (texts, _) in cells.items()}
    precision = "bfloat16 products of float32 weights" if mixed else study["finetune"]["dtype"]
    lines = [f"study {study['study']}: {study['model']['name']}, {precision}"]
    if unknown:
        lines.append(
            f"lengths  of the texts of {', '.join(unknown)}: a guess, 4 characters a token where "
            f"their file is here, else {study['model']['max_tokens']} tokens, the most there can "
            f"be; `snakemake data --configfile {shlex.quote(config)} --cores 1` counts them"
        )
    lines += _rows_about(study, tests)
    if study["selection"]["tasks"]:
        lines.append("left out the candidates of the chapter selection, which are not counted")
    ranks, adapted = [], [each for each in trained if each[4]["method"] == "lora"]
    for size, task in {(size, task) for _, tasks, size, *_ in adapted for task in tasks}:
        classes = _classes(study, task)  # of two, the difference of the logits is one output
        ranks.append((smallest_rank(size, classes if classes > 2 else 1), size))
    if ranks:
        rank, (enough, most) = study["finetune"]["lora"]["rank"], max(ranks)
        lines.append(
            f"rank     {rank} of LoRA; from {enough} on the linearised training of {most} examples "
            "has no spurious minimum (Jang, Lee & Ryu 2024)"
        )
    return "\n".join(lines)


def _rows_about(study: dict[str, Any], tests: dict[str, int]) -> list[str]:
    """Return what a study's rows can tell; ``tests`` has the number of test rows by task."""
    from ntktune.data.sampling import fewer_shared
    from ntktune.data.study import cell_seeds, own_rows
    from ntktune.intervals import most_half_width

    lines = []
    for task, rows in sorted(tests.items()):
        scored = study["task_definitions"][task]["kind"] == "regression"
        told, what = "rows unknown, left out", "correlation" if scored else "share of right classes"
        if rows:
            half = most_half_width(rows, scored=scored)
            told = f"{rows} rows; they tell a {what} to ±{half:.2f} or better (95 %)"
            told += "; a test file or a larger test_fraction tells more" * (half > 0.1)
        lines.append(f"test     of {task}: {told}")
    most = max(study["finetune"]["sizes"])
    several = "finetune" in study["chapters"] and cell_seeds(study, most) > 1
    for task in study["tasks"] if several else ():
        own = own_rows(study, task)
        if own and own.train / 2 < most <= own.train:
            lines.append(
                f"rows     of {task}: {own.train} for training, so that two seeds' samples of "
                f"{most} share {most / own.train:.0%} and may leave open how many are needed; "
                f"{fewer_shared(most, own.train)}"
            )
    return lines


def seed_keys(
    args: argparse.Namespace, cell: Cell, size: int, largest: int | None = None
) -> list[dict[str, Any]]:
    """Return what each seed's result at one size depends on.

    That of a head alone also does on ``largest``, as the features of all sizes come from the same
    batches: in their last digits.
    """
    from importlib.metadata import version

    settings = {name: getattr(args, name) for name in command_options("finetune run")}
    shared = {
        "code": code_digest("ntktune.cli.finetune:run"),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "numpy")},
        # any GPU of a machine does
        "settings": settings | {"device": cell.device.type, "size": size, "largest": largest},
        "test_history": getattr(args, "test_history", False),
        "facts": cell.facts | {"device": cell.device.type},
        "model_files": model_manifest(args.model).get("files"),
        "tokens": content_sha256(args.tokens),
        "test": cell.subsets["test"],
    }
    parts, seeds = ("order", "holdout"), cell.subsets["seeds"]
    return [shared | {"rows": [seed[part][:size] for part in parts]} for seed in seeds]


def seed_part(size: int, seed: int) -> str:
    """Return the name under which a seed's result at one size is kept."""
    return f"n{size}/seed{seed}"


def keep_seed(state: str | None, key: dict[str, Any], repeat: Repeat) -> dict[str, Any]:
    """Return a seed's row and its history, and keep them in the folder ``state``."""
    tested = repeat.test_history or [{}] * len(repeat.training.history)
    history = [
        dataclasses.asdict(evaluation) | metrics
        for evaluation, metrics in zip(repeat.training.history, tested, strict=True)
    ]
    found = {"row": repeat.row, "history": history}
    keep_part(state, seed_part(repeat.row["n"], repeat.seed), key, found)
    return found


def choose(args: argparse.Namespace) -> None:
    """Choose a task's learning rate by the hold-out, at one sample size."""
    from ntktune.finetune.repeats import compared_rates

    rates = args.learning_rates
    args.learning_rate = rates[0]  # each takes its turn
    cell = read_cell(args)
    key = {"seeds": seed_keys(args, cell, args.size)}
    parts = {rate: finished_part(args.state, f"rate{rate:g}", key) for rate in rates}
    known = {rate: row for rate, row in parts.items() if row}
    progress = Progress(f"{len(rates)} learning rates of {args.task}", len(rates))

    def keep(row: dict[str, Any]) -> None:
        known[row["learning_rate"]] = row
        keep_part(args.state, f"rate{row['learning_rate']:g}", key, row)
        progress(len(known))

    load = functools.partial(pretrained_model, args, cell)
    cell_is = (cell.examples, cell.subsets, args.size, cell.settings, args.seed)
    found = compared_rates(load, *cell_is, rates, dict(known), keep)
    if found[0]["holdout_loss"] is None:
        raise UserError(
            f"task {args.task} diverges with each of the learning rates "
            f"{', '.join(f'{rate:g}' for rate in rates)}; list smaller ones"
        )
    seeds = {"root": args.seed, "indices": list(range(len(cell.subsets["seeds"])))}
    content = {"method": args.method, "size": args.size, "rates": found}
    write_json(args.out, content, record(args, **cell.facts, seeds=seeds))


def _holds(folder: Path, key: dict[str, Any]) -> bool:
    """Return whether a folder has the adapters of the training that a key describes."""
    file = folder / "head.safetensors"
    return file.is_file() and stored_tensors(file)[1].get("key") == json_checksum(key)


def run(args: argparse.Namespace) -> None:
    """Fine-tune a task at some sample sizes with all its seeds, and measure the test error."""
    from ntktune.finetune.methods import save_adapter

    cell, runs = _runs(args)
    largest = max(args.size) if args.method == "probe" else None
    by_size = {n: seed_keys(args, cell, n, largest) for n in args.size}
    keys = {(n, seed): by_size[n][seed] for n, seed in runs}
    done = {run: finished_part(args.state, seed_part(*run), keys[run]) for run in runs}
    kept = {run: Path(args.adapters or "", f"seed{run[1]}") for run in runs}
    if args.adapters:
        done = {run: found if _holds(kept[run], keys[run]) else None for run, found in done.items()}
    left = [run for run in runs if done[run] is None]
    for size in args.size:
        if ready := ", ".join(str(s) for n, s in runs if n == size and (n, s) not in left):
            print(f"{args.task}, n={size}: seeds {ready} were finished before", file=sys.stderr)
    if left:
        sizes, seeds = zip(*left, strict=True)
        how = {"sizes": sizes, "test_history": args.test_history}
        model, found = repeats(args, cell, max(args.size), seeds, **how)
        for repeat, run in zip(found, left, strict=True):
            if args.adapters:
                about = (kept[run], cell.facts["model"], json_checksum(keys[run]))
                save_adapter(repeat.adapter, model.head, *about)
            done[run] = keep_seed(args.state, keys[run], repeat)
    stated = {"root": args.seed, "indices": sorted({seed for _, seed in runs})}
    stated["resumed_at"] = sorted({seed for _, seed in left})
    history = [{"n": n, "seed": s} | row for n, s in runs for row in done[n, s]["history"]]
    tables = {args.out_metrics: [done[run]["row"] for run in runs], args.out_history: history}
    write_tables(args, tables, **cell.facts, seeds=stated)


def _runs(args: argparse.Namespace) -> tuple[Cell, list[tuple[int, int]]]:
    """Return what a run works on, and the sizes and seeds of its trainings."""
    if args.adapters and args.method != "lora":
        raise UserError(f"--adapters is for --method lora, not {args.method}")
    if args.adapters and len(args.size) > 1:
        raise UserError(f"--adapters takes one --size, not {len(args.size)}")
    if len({*args.size}) < len(args.size):
        raise UserError(f"--size has a number twice: {' '.join(map(str, args.size))}")
    counts = args.seeds or [0]
    if args.seeds and min(counts) < 1:
        raise UserError(f"--seeds is {min(counts)}; give 1 or more")
    if len(counts) not in (1, len(args.size)):
        raise UserError(f"--seeds has {len(counts)} numbers; give one for each --size, or one")
    cell = read_cell(args, max(counts))
    every = len(cell.subsets["seeds"])
    counts = counts * len(args.size) if len(counts) == 1 else counts
    sizes = zip(args.size, counts, strict=True)
    return cell, [(n, seed) for n, count in sizes for seed in range(count or every)]


def baselines(args: argparse.Namespace) -> None:
    """Predict a task's test rows without fine-tuning: linear probe and kernel regression."""
    import torch

    from ntktune.finetune.baselines import baseline_rows
    from ntktune.finetune.training import outputs
    from ntktune.network.models import Features, text_model

    model_is = model_facts(args.model)
    examples, facts = read_examples(args.tokens, args.task, model_is)
    subsets = read_samples(args.subsets, args.tokens, facts)
    kernels = _kernels(args, facts, model_is) if args.kernels else {}
    device = select_device(args.device)
    orders = [seed["order"][: max(args.sizes)] for seed in subsets["seeds"]]
    rows = sorted({row for order in [*orders, subsets["test"]] for row in order})
    how = {"blocks": args.blocks, "pooling": args.pooling}
    model = text_model(args.model, outputs=1, head_seed=0, **how).to(device)
    read = Features(model.backbone)
    states = outputs(read, [examples.ids[row] for row in rows], args.batch_tokens)
    features = dict(zip(rows, states.to(torch.float64).numpy(), strict=True))
    found = baseline_rows(examples, subsets, args.sizes, features, kernels)
    write_tables(args, {args.out: found}, **_facts(args, facts, model_is, device, "float32"))


def _kernels(args: argparse.Namespace, facts: dict, model: dict) -> dict[int, tuple]:
    """Return each seed's kernel, f_0 and rows; raise UserError if they are of something else."""
    tensors, made = read_tensors(args.kernels)
    names = ("kernel", "outputs", "row")
    check_names(args.kernels, tensors, names, "tensors")
    same = {name: (made.get(name), getattr(args, name)) for name in ("blocks", "pooling")}
    _check_made_for(args.kernels, made, facts, model, **same)
    gram, start, rows = (tensors[name] for name in names)
    return dict(enumerate(zip(gram.numpy(), start.numpy(), rows.tolist(), strict=True)))
