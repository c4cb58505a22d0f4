"""Commands of the chapter ``selection``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command, many, optional
from ntktune.cli.inputs import (
    check_models,
    classes_of,
    from_hub,
    model_facts,
    of_model,
    read_samples,
)
from ntktune.cli.kernel import file_options, file_texts, kernel_function
from ntktune.cli.record import write_tables
from ntktune.errors import UserError
from ntktune.network.device import machine_epsilon, select_device, torch_dtype

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from ntktune.network.models import TextModel


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "benchmark", benchmark),
        folder="folder with the benchmark's three files: names end in flan.csv, wmt19.csv, "
        "gigaword.csv",
        out=optional("parquet: how well each method selects at each budget"),
        out_laws=optional("parquet: how well two laws fit each model's losses"),
        out_extrapolated=optional("parquet: how well laws predict the loss with all data"),
    )
    add_command(
        *(verbs, "rank", rank),
        network=lambda args: any(from_hub(of_model(args, name)) for name in args.models),
        models=many("model folders, or ids of the Hugging Face hub (owner/name)", "MODEL"),
        **file_options(),
        out=optional("parquet: a row per model and pooling, with all scores"),
    )
    add_command(
        *(verbs, "score", score, "model", "tokens", "subsets", "task"),
        out="parquet: a row per seed, pooling, and what is scored",
    )
    add_command(
        *(verbs, "gather", gather, "task"),
        folder="folder of the task's candidates",
        models=many("names of the candidates", "NAME"),
        out_scores="parquet: the scores of all candidates",
        out_curves="parquet: the fine-tunings of all candidates",
    )


def rank(args: argparse.Namespace) -> None:
    """Rank models for the texts of one file by scores that need no training."""
    from ntktune.selection.ranking import ranked

    check_models(args, args.models, "--models")
    rows = ranked([row for name in args.models for row in _scored(of_model(args, name))])
    print(_ranking(rows))
    if args.out:
        write_tables(args, {args.out: rows})


def score(args: argparse.Namespace) -> None:
    """Score a candidate on a task's largest samples, without training."""
    from ntktune.cli.finetune import read_examples
    from ntktune.selection.candidates import scored_candidates

    model_is = model_facts(args.model)
    examples, facts = read_examples(args.tokens, args.task, model_is)
    subsets = read_samples(args.subsets, args.tokens, facts, seeds=args.seeds)
    load, kernel = _network(args, facts["task"], examples.outputs)
    rows = scored_candidates(
        *(load, kernel, examples, subsets, args.size, args.poolings),
        **{name: getattr(args, name) for name in ("seeds", "kernel_seeds", "batch_tokens")},
        kernel_rows=args.rows,
        precision=machine_epsilon(args.dtype),
        progress=Progress(f"scores of {model_is['name']}, {args.task}", args.seeds),
    )
    stated = {"data_sha256": facts.get("data_sha256"), "model": model_is, "blocks": args.blocks}
    write_tables(args, {args.out: rows}, task=facts["task"], **stated)


def _network(args: argparse.Namespace, task: dict[str, Any], outputs: int) -> tuple[Any, Any]:
    """Return what puts a pooling and a seed's head on the model, and what computes its kernel."""
    import torch

    from ntktune.kernel.engine import gram
    from ntktune.network.models import text_model
    from ntktune.study.seeds import integer_seed

    device, dtype = select_device(args.device), torch_dtype(args.dtype)
    how = {"outputs": outputs, "head_seed": 0, "blocks": args.blocks, "dtype": dtype}
    model = text_model(args.model, **how).to(device).eval()

    def load(pooling: str, seed: int) -> TextModel:
        head = integer_seed(args.seed, "kernel.head", task["name"], 0, seed)
        model.reset_head(torch.Generator().manual_seed(head))
        model.backbone.pooling = pooling
        return model

    how = {"outputs": kernel_function(task)[1], "max_tokens": args.batch_tokens, "dtype": dtype}

    def kernel(network: TextModel, texts: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
        found = gram(network, texts, device=device, **how)
        return found.kernel.numpy(), found.outputs.double().numpy()

    return load, kernel


def gather(args: argparse.Namespace) -> None:
    """Put a task's candidates into one table of scores and one of learning curves."""
    from ntktune.selection.candidates import gathered
    from ntktune.store.records import read_table
    from ntktune.study.candidates import cells

    folder, facts = Path(args.folder), {}

    def read(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        table, made = read_table(str(folder / name))
        facts.setdefault("task", made["task"])
        if made["task"]["name"] != args.task:
            raise UserError(f"{folder / name} is of task {made['task']['name']}, not {args.task}")
        return table, made

    every = cells(args.models, args.poolings, args.methods)
    curves, scores = gathered(every, read)
    write_tables(args, {args.out_curves: curves, args.out_scores: scores}, **facts)


def _scored(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the scores of one model, a row for each way to pool its states."""
    import numpy as np

    from ntktune.finetune.training import outputs
    from ntktune.network.models import load_backbone
    from ntktune.selection.ranking import POOLINGS, Pooled, check_labels, scored

    started = time.monotonic()
    texts, _ = file_texts(args)
    task, rows = texts["facts"]["task"], texts["rows"][0]
    classes = classes_of(task)
    label = texts["labels"]["label"].numpy()[rows].astype(int if classes else float)
    check_labels(label, classes)
    device = select_device(args.device)
    backbone = load_backbone(texts["folder"], None, torch_dtype(args.dtype)).to(device).eval()
    examples = [texts["examples"][row] for row in rows]
    found = outputs(Pooled(backbone), examples, args.batch_tokens).double().numpy()
    majority = max(np.bincount(label)) / len(label) if classes else None
    about = {"metric": "accuracy" if classes else "Pearson r", "majority": majority}
    about |= {"model": args.model, "weights": sum(p.numel() for p in backbone.parameters())}
    tokens = sum(map(len, examples)) / len(examples)
    if not np.isfinite(found).all():
        raise UserError(f"{args.model} gives features that are not finite; try --dtype float32")
    about |= {"texts": len(rows), "tokens": tokens}
    poolings = {
        pooling: scored(found[:, place], label, classes, args.seed)
        for place, pooling in enumerate(POOLINGS)
    }
    about["seconds"] = time.monotonic() - started
    return [about | {"pooling": pooling} | own for pooling, own in poolings.items()]


def _ranking(rows: list[dict[str, Any]]) -> str:
    """Return the table of models, best first."""
    from ntktune.figures.overview import plain_table

    lines = [
        ["model", "pooling", "probe", "95 % interval", "GCV", "evidence", "weights", "seconds"]
    ]
    for row in rows:
        numbers = [f"{row[key]:.3f}" for key in ("gcv", "evidence")]
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append([row["model"], row["pooling"], f"{row['probe']:.3f}", interval, *numbers])
        lines[-1] += [f"{row['weights'] / 1e6:,.1f} M", f"{row['seconds']:.0f}"]
    best = rows[0]
    alike = {row["model"]: None for row in rows if row["high"] > best["low"]}
    others = ", ".join(name for name in alike if name != best["model"])
    simple = best["majority"]
    guessing = "" if simple is None else f"; predicting the most frequent class has {simple:.3f}"
    said = (
        f"{best['texts']} texts; best first by a linear probe of the pretrained model, "
        f"cross-validated ({best['metric']}{guessing}):\n\n{plain_table(lines)}"
    )
    if others:
        said += (
            f"\n\nThe intervals of {best['model']} and of {others} overlap: with other texts their "
            "order may be another."
        )
    return said


def benchmark(args: argparse.Namespace) -> None:
    """Repeat the model selection of Lin et al. 2024 on its 30 models; print ours beside theirs."""
    from ntktune.selection.benchmark import extrapolated, law_errors, read_benchmark, selected

    curves = read_benchmark(Path(args.folder))
    methods, laws, further = selected(curves), law_errors(curves), extrapolated(curves)
    print(_told(methods, laws, further))
    tables = {args.out: methods, args.out_laws: laws, args.out_extrapolated: further}
    write_tables(args, {path: table for path, table in tables.items() if path})


def _told(methods: pd.DataFrame, laws: pd.DataFrame, further: pd.DataFrame) -> str:
    """Return how methods select, beside the published numbers, and what laws do."""
    from ntktune.figures.overview import plain_table
    from ntktune.selection.benchmark import DIVISORS, printed

    lines = [["data", "measure", "method", *(f"1/{n}" for n in DIVISORS)]]
    for (name, measure, method), own in methods.groupby(["data", "measure", "method"], sort=False):
        values = [f"{printed(value / 100):.1f}" for value in own["value"]]
        lines.append([name, measure, method, *values])
        if method == "AtS":
            lines.append([name, measure, "published", *(f"{v:.1f}" for v in own["published"])])
    ats = methods[methods["method"] == "AtS"]
    same = sum(ats["value"].div(100).map(printed) == ats["published"])
    cost = ats.groupby("divisor")["cost"].first()
    costs = ", ".join(f"1/{n} {share:.1%}" for n, share in cost.items())
    return (
        f"{plain_table(lines)}\n\nAtS as published: {same} of {len(ats)}. Of the examples that "
        "training each model once on all data takes, it needs, at a budget of "
        f"{costs}.\n{_laws_told(laws, further)}"
    )


def _laws_told(laws: pd.DataFrame, further: pd.DataFrame) -> str:
    """Return how laws fit, beside the published numbers, and how they predict."""
    from ntktune.figures.overview import plain_table
    from ntktune.selection.benchmark import PUBLISHED_ERRORS

    errors = laws.groupby("law", sort=False)["rmsd"].mean()
    published = ", ".join(
        f"{law} {errors[law]:.5f} (published {value})" for law, value in PUBLISHED_ERRORS.items()
    )
    by_law = further.pivot_table(index="law", columns="divisor", values="error", sort=False)
    lines = [["law", *(f"1/{divisor}" for divisor in by_law)]]
    lines += [[law, *(f"{error:.3f}" for error in own)] for law, own in by_law.iterrows()]
    return (
        f"Root mean squared error of log L over {len(laws) // len(PUBLISHED_ERRORS)} curves: "
        f"{published}.\nMean |log error| of the loss with all data, predicted from a budget:\n\n"
        f"{plain_table(lines)}"
    )
