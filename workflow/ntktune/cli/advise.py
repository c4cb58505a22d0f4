"""Commands of the chapter ``advise``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command, optional
from ntktune.cli.inputs import (
    check_models,
    check_new_folder,
    class_count,
    from_hub,
    of_model,
    read_kernels,
)
from ntktune.cli.kernel import file_options, file_texts
from ntktune.cli.linearized import adapters, ranked_layers, write_adapter
from ntktune.cli.record import record, write_tables
from ntktune.network.device import machine_epsilon

if TYPE_CHECKING:
    import numpy as np

USUAL = "pilot"
MOST_ROWS = 400  # of a file: a kernel per parameter is kept
ADVICE = "advice.json"


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    models = "model folders, or ids of the Hugging Face hub (owner/name); several are compared"
    targets = "scores of which to say how many labels they take, as .9"
    out = f"folder: {ADVICE}, the figure, a page with both, and adapters for peft"
    add_command(
        *(verbs, "benchmark", benchmark, "gram"),
        out="parquet: a row per pilot, way to predict and number of labels",
        out_exponents="parquet: decay and source, a row per draw",
    )
    add_command(
        *(verbs, USUAL, pilot),
        network=lambda args: any(from_hub(of_model(args, name)) for name in args.model),
        model={"nargs": "+", "action": "extend", "metavar": "MODEL", "help": models},
        **file_options(),
        target=optional(targets, nargs="+", type=float, default=[]),
        most=optional("labels at most (default: 8 times those of the file)", type=int),
        least_gain=optional(
            "of the score, by twice the labels: with less, stop labelling (default: .01)",
            type=float,
            default=0.01,
        ),
        cost_per_label=optional("in any currency", type=float),
        out=optional(out),
    )


def pilot(args: argparse.Namespace) -> None:
    """Predict from labelled texts how many more are needed, and how to train, without training."""
    if args.out:
        check_new_folder(args.out, [*args.model, args.data], ADVICE)
    check_models(args, args.model, "--model")
    found = [_advice(of_model(args, name)) for name in args.model]
    print("\n\n".join(one["text"] for one in found))
    best = max(found, key=lambda one: one["at"][one["method"]][one["texts"]][1])
    if len(found) > 1:
        print(f"\nmodel: {best['model']['name']} has the highest predicted score now")
    if args.out:
        _write(args, found, best)


def benchmark(args: argparse.Namespace) -> None:
    """Predict from pilots of a kernel's texts what larger samples of them reach."""
    import pandas as pd

    from ntktune.advise.benchmark import kernel_cases, whole_exponents
    from ntktune.finetune.repeats import kernel_targets
    from ntktune.study.seeds import generator

    tensors, facts = read_kernels(args.gram, ["kernel", "label"])
    task = facts["task"]
    classes = None if task["kind"] == "regression" else class_count(task)
    labels = [kernel_targets(own, classes).reshape(len(own), -1) for own in tensors["label"]]
    precision = machine_epsilon(facts["dtype"])
    every = {"all": tensors["kernel"], "head": tensors.get("group/head")}
    found = []
    for name, kernels in every.items():
        if kernels is None:
            continue
        rows = kernel_cases(
            *(kernels, labels),
            *(args.pilots, args.sizes, generator(args.seed, "advise.pilots", task["name"])),
            repeats=args.repeats,
            classes=classes is not None,
            precision=precision,
            progress=Progress(f"pilots of {task['name']}", len(args.pilots) * args.repeats),
        )
        found.append(pd.DataFrame(rows).assign(kernel=name))
    tables = {args.out: pd.concat(found, ignore_index=True)}
    tables[args.out_exponents] = whole_exponents(tensors["kernel"], labels, precision)
    write_tables(args, tables, **facts)


def _advice(args: argparse.Namespace) -> dict[str, Any]:
    """Return the advice of one model, with its text and its layers."""
    from ntktune.advise import advice, curve_counts, forecast, repeated
    from ntktune.figures.advice import told
    from ntktune.finetune.repeats import kernel_targets

    texts, _ = file_texts(args, MOST_ROWS)
    task, rows = texts["facts"]["task"], texts["rows"][0]
    classes = None if task["kind"] == "regression" else class_count(task)
    label = texts["labels"]["label"].numpy()[rows]
    kernels, about = _kernels(args, texts, rows)
    how = {"classes": classes is not None, "seed": args.seed}
    how["precision"] = machine_epsilon(args.dtype)
    different = max(len({*repeated(own, how["precision"])}) for own in kernels.values())
    counts, target = curve_counts(different, args.most), kernel_targets(label, classes)
    found = advice(
        *(counts, {name: forecast(own, target, counts, **how) for name, own in kernels.items()}),
        targets=args.target,
        least_gain=args.least_gain,
        class_counts=Counter(task["classes"][int(place)] for place in label) if classes else {},
        texts=len(rows),
    )
    metric = "accuracy" if classes else "Pearson r"
    title = f"{task['name']}: {len(rows)} labelled texts, {texts['facts']['model']['name']}"
    found |= {"model": texts["facts"]["model"], "task": task, "metric": metric, "title": title}
    return found | about | {"text": f"{title}\n{told(found, metric, args.cost_per_label)}"}


def _kernels(
    args: argparse.Namespace, texts: dict[str, Any], rows: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the kernel of each way to train; and which layers adapters go on, and what they are.

    All from one backward pass: of the head alone, of adapters on all layers, of all weights.
    """
    from ntktune.linearized.layers import HEAD, layer_sets, lora_of, set_kernel

    args.method, lora = "lora", adapters(args)
    sets, _, grams, backbone = ranked_layers(args, texts, rows, None)
    every, best = layer_sets(backbone), sets[0]["layers"]
    kernels = {
        "probe": grams[HEAD],
        "lora": set_kernel(grams, backbone, every["all"], lora),
        "full": sum(grams.values()),
    }
    about = {"layers": best, "adapters": lora_of(backbone, every[best], lora)}
    return {name: kernel.numpy() for name, kernel in kernels.items()}, about


def _write(args: argparse.Namespace, found: list[dict[str, Any]], best: dict[str, Any]) -> None:
    """Write the folder: the advice of all models, the best one's figure, page and adapters."""
    from ntktune.figures.advice import advice_figure, page
    from ntktune.figures.style import figure_bytes
    from ntktune.store.files import atomic_path
    from ntktune.store.records import write_json

    image = figure_bytes(advice_figure(best, best["metric"]), "png", 200)
    kept = [{k: v for k, v in one.items() if k not in ("adapters", "text")} for one in found]
    for one in kept:  # JSON has no infinity: more labels than the curve has
        one["n_for"] = {
            target: [n if n < float("inf") else None for n in labels]
            for target, labels in one["n_for"].items()
        }
    with atomic_path(args.out) as folder:
        folder.mkdir()
        write_json(folder / ADVICE, {"models": kept}, record(args, task=best["task"]))
        (folder / "advice.png").write_bytes(image)
        text = page(best["title"], "\n\n".join(one["text"] for one in found), image)
        (folder / "advice.html").write_text(text, encoding="utf-8")
        write_adapter(str(folder / "adapter"), best["model"], best["adapters"])
    print(f"wrote {args.out}", file=sys.stderr)
