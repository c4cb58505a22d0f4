"""Commands of the chapter ``advise``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command, optional
from ntktune.cli.finetune import SETTINGS
from ntktune.cli.inputs import (
    check_models,
    check_new_folder,
    classes_of,
    from_hub,
    of_model,
    read_kernels,
)
from ntktune.cli.kernel import file_options, file_texts, loaded
from ntktune.cli.linearized import adapters, differ, ranked_layers, write_adapter
from ntktune.cli.options import OVERRIDES, declaration
from ntktune.cli.record import record, write_tables
from ntktune.errors import UserError
from ntktune.network.device import machine_epsilon, select_device, training_dtypes

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ntktune.advise import Forecast
    from ntktune.finetune.repeats import Examples
    from ntktune.finetune.training import Settings

USUAL = "pilot"
MOST_ROWS = 400  # of a file: a kernel per parameter is kept
MOST_TESTED = 300
TESTED = (
    "labelled texts that the advice is to hold for, if they differ from those of --data: scores "
    f"are shifted by what {MOST_TESTED} of them show"
)
ADVICE = "advice.json"


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    models = "model folders, or ids of the Hugging Face hub (owner/name); several are compared"
    least = "of the score, by twice the labels: with less, stop labelling (default: .01)"
    tried = "train twice on half the texts, by this method, and shift its scores by what comes out"
    targets = "scores of which to say how many labels they take, as .9"
    out = f"folder: {ADVICE}, the figure, a page with both, and adapters for peft"
    add_command(
        *(verbs, "benchmark", benchmark, "gram"),
        out="parquet: a row per pilot, way to predict and number of labels",
        out_exponents="parquet: decay and source, a row per draw",
    )
    add_command(
        *(verbs, "curves", curves),
        data="CSV: columns model, task, n, and score (at most 1) or loss; n = 0: without training",
        out=optional("parquet: a row per pilot and way to predict"),
    )
    add_command(
        *(verbs, USUAL, pilot),
        network=lambda args: any(from_hub(of_model(args, name)) for name in args.model),
        model={"nargs": "+", "action": "extend", "metavar": "MODEL", "help": models},
        **file_options(),
        test_data=optional(TESTED),
        target=optional(targets, nargs="+", type=float, default=[]),
        most=optional("labels at most (default: 8 times those of the file)", type=int),
        least_gain=optional(least, type=float, default=0.01),
        calibrate=optional(tried, choices=OVERRIDES["finetune.methods"]["enum"]),
        cost_per_label=optional("in any currency", type=float),
        out=optional(out),
    )


def pilot(args: argparse.Namespace) -> None:
    """Predict from labelled texts how many more are needed, and how to train, without training."""
    _check_wishes(args)
    if args.out:
        check_new_folder(args.out, [*args.model, args.data], ADVICE)
    check_models(args, args.model, "--model")
    found = [_advice(of_model(args, name)) for name in args.model]
    print("\n\n".join(one["text"] for one in found))
    best = max(found, key=_score_now)
    if len(found) > 1:
        print(f"\n{_models_told(found, best)}")
    if args.out:
        _write(args, found, best)


def _score_now(one: dict[str, Any]) -> float:
    """Return what a model's advice predicts of the labels that are there."""
    return one["at"][one["method"]][one["texts"]][1]


def _models_told(found: list[dict[str, Any]], best: dict[str, Any]) -> str:
    """Return which of several models has the highest predicted score, or which are no different."""
    from ntktune.advise.advice import ALIKE

    near = [one["model"]["name"] for one in found if _score_now(best) - _score_now(one) < ALIKE]
    if len(near) > 1:
        return f"models: {', '.join(near)} have the highest predicted score now, within {ALIKE:g}"
    return f"model: {near[0]} has the highest predicted score now"


def _check_wishes(args: argparse.Namespace) -> None:
    """Raise UserError for what no advice can be given on."""
    shares = [*(("--target", one) for one in args.target), ("--least-gain", args.least_gain)]
    for flag, score in shares:
        if not 0 < score <= 1:
            raise UserError(f"{flag} {score:g}: give a score above 0, and 1 at most")
    if args.cost_per_label is not None and not 0 <= args.cost_per_label < float("inf"):
        raise UserError(f"--cost-per-label {args.cost_per_label:g}: give 0 or more")
    if args.learning_rate and not args.calibrate:
        raise UserError("--learning-rate is that of --calibrate, which is missing")


def benchmark(args: argparse.Namespace) -> None:
    """Predict from pilots of a kernel's texts what larger samples of them reach."""
    import pandas as pd

    from ntktune.advise.benchmark import kernel_cases, whole_exponents
    from ntktune.finetune.repeats import kernel_targets
    from ntktune.study.seeds import generator

    tensors, facts = read_kernels(args.gram, ["kernel", "label"])
    task = facts["task"]
    classes = classes_of(task)
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


def curves(args: argparse.Namespace) -> None:
    """Judge on measured learning curves how far laws through their smaller samples are off."""
    from ntktune.advise.benchmark import curve_cases, read_curves
    from ntktune.figures.overview import plain_table
    from ntktune.figures.pilots import SHOWN, judged_scores

    table, losses = read_curves(args.data)
    cases = curve_cases(table, args.pilots, losses=losses)
    if cases.empty:
        raise UserError(
            f"{args.data}: no curve has samples up to and beyond one of --pilots {args.pilots}"
        )
    found = judged_scores(cases, "last score")
    shown = found[[name for name in SHOWN if name in found]]
    print(plain_table([[*shown], *(_cells(row) for row in shown.itertuples(index=False))]))
    print("\n".join(f"{name}: {SHOWN[name]}" for name in shown if SHOWN[name]))
    if args.out:
        write_tables(args, {args.out: found})
        print(f"wrote {args.out}", file=sys.stderr)


def _cells(row: tuple[Any, ...]) -> list[str]:
    """Return a row's values as a table for people has them."""
    return [
        ("-" if one != one else f"{one:.3g}") if isinstance(one, float) else str(one) for one in row
    ]


def _advice(args: argparse.Namespace) -> dict[str, Any]:
    """Return the advice of one model, with its text and its layers."""
    from ntktune.advise import advice
    from ntktune.figures.advice import told

    texts, _ = file_texts(args, MOST_ROWS)
    task, rows = texts["facts"]["task"], texts["rows"][0]
    classes = classes_of(task)
    label = texts["labels"]["label"].numpy()[rows]
    _check_texts(args, label, classes)
    test = _test_set(args, texts, label) if args.test_data else ([], label[:0])
    kernels, about = _kernels(args, texts, rows, test[0])
    counts, forecasts, more = _forecasts(args, kernels, label, test[1], classes)
    kernels = {name: own[: len(rows), : len(rows)] for name, own in kernels.items()}
    of_class = Counter(label)
    found = advice(
        *(counts, forecasts),
        targets=args.target,
        least_gain=args.least_gain,
        class_counts={name: of_class[place] for place, name in enumerate(task["classes"] or ())},
        texts=len(rows),
        calibrated=_calibrated(args, texts, kernels, counts, forecasts) if args.calibrate else None,
    )
    metric = "accuracy" if classes else "Pearson r"
    title = f"{task['name']}: {len(rows)} labelled texts, {_network_told(args, texts['facts'])}"
    found |= {"model": texts["facts"]["model"], "task": task, "metric": metric, "title": title}
    found |= about | more
    return found | {"text": f"{title}\n{told(found, metric, args.cost_per_label)}"}


def _test_set(
    args: argparse.Namespace, texts: dict[str, Any], label: np.ndarray
) -> tuple[list[torch.Tensor], np.ndarray]:
    """Return texts of ``--test-data``, and their labels as the pilot has them.

    Without those that are among the pilot's ``texts``, and classes that it has not.
    """
    import numpy as np

    about = vars(args) | {"data": args.test_data, "rows": None}
    about["classes"] = None if args.classes is None else []  # its own, which may be fewer
    found, _ = file_texts(argparse.Namespace(**about), MOST_TESTED)
    values = found["labels"]["label"].numpy()
    names, own = (one["facts"]["task"]["classes"] for one in (texts, found))
    if names:
        places = [names.index(name) if name in names else np.nan for name in own]
        values = np.array(places)[values.astype(int)]
    pilot = {tuple(texts["examples"][row].tolist()) for row in texts["rows"][0]}
    drawn, ids = found["rows"][0], found["examples"]
    rows = [
        row for row in drawn if np.isfinite(values[row]) and tuple(ids[row].tolist()) not in pilot
    ]
    if len(rows) < len(drawn):
        left = f"{len(drawn) - len(rows)} of {len(drawn)} texts left out"
        print(
            f"{args.test_data}: {left}: they are among those of --data, or of other classes",
            file=sys.stderr,
        )
    if len({*values[rows]}) < 2:
        raise UserError(
            f"--test-data {args.test_data}: the {len(rows)} texts that can be used have one label "
            "alone; give others, or leave it out"
        )
    return [ids[row] for row in rows], values[rows]


def _forecasts(
    args: argparse.Namespace,
    kernels: dict[str, np.ndarray],
    label: np.ndarray,
    tested: np.ndarray,
    classes: int | None,
) -> tuple[np.ndarray, dict[str, Forecast], dict[str, Any]]:
    """Return numbers of labels, each way's forecast; its stop by theory, and what a test set shows.

    The kernels are of the pilot's texts, and after them of those that are ``tested``.
    """
    import numpy as np

    from ntktune.advise import curve_counts, distinct, forecast
    from ntktune.advise.calibration import on_test_set
    from ntktune.finetune.repeats import kernel_targets
    from ntktune.theory.stopping import labels_stop

    eps = machine_epsilon(args.dtype)
    how = {"classes": classes is not None, "precision": eps}
    every = np.append(label, tested)
    target = kernel_targets(every, classes).reshape(len(every), -1)
    pilot, test = slice(len(label)), np.arange(len(label), len(every))
    own = {name: kernel[pilot, pilot] for name, kernel in kernels.items()}
    places = {name: distinct(kernel, eps) for name, kernel in own.items()}
    counts = curve_counts(max(map(len, places.values())), args.most)
    found = {
        name: forecast(kernel, target[pilot], counts, seed=args.seed, **how)
        for name, kernel in own.items()
    }
    stop = {name: labels_stop(kernel, target[pilot], eps) for name, kernel in own.items()}
    if not len(tested):
        return counts, found, {"theory_stop": stop, "test": None}
    measured, before = {}, {}
    for name, kernel in kernels.items():
        found[name], measured[name], before[name] = on_test_set(
            kernel, target, places[name], test, counts, found[name], **how
        )
    about = {"data": args.test_data, "texts": len(tested), "measured": measured}
    return counts, found, {"theory_stop": stop, "test": about | {"predicted": before}}


def _network_told(args: argparse.Namespace, facts: dict[str, Any]) -> str:
    """Return which network the kernel is of."""
    blocks = [f"first {args.blocks} blocks"] if args.blocks else []
    pooled = "the last token" if args.pooling == "last" else "the mean of its tokens"
    return ", ".join([facts["model"]["name"], *blocks, f"a text being {pooled}"])


def _check_texts(args: argparse.Namespace, label: np.ndarray, classes: int | None) -> None:
    """Raise UserError for labels of different texts that no advice can be given on.

    That is before their kernel is computed.
    """
    import numpy as np

    from ntktune.advise import curve_counts
    from ntktune.advise.calibration import pilot_halves
    from ntktune.advise.pilot import LEAST

    if len(label) < LEAST:
        raise UserError(f"--data {args.data}: {len(label)} different texts; give {LEAST} or more")
    curve_counts(len(label), args.most)
    if not args.calibrate:
        return
    for half in pilot_halves(label if classes else None, len(label), args.seed):
        order, holdout = (np.array(half["seeds"][0][name]) for name in ("order", "holdout"))
        parts = {"train on": order[~holdout], "be tested on": half["test"]}
        parts |= {"be stopped by": order[holdout]} if classes == 2 else {}
        for part, rows in parts.items():
            if len({*label[rows]}) == 1:
                raise UserError(
                    f"--calibrate {args.calibrate}: half of the {len(label)} texts would {part} "
                    "one label alone; label more texts, or leave it out"
                )


def _calibrated(
    args: argparse.Namespace,
    texts: dict[str, Any],
    kernels: dict[str, np.ndarray],
    counts: np.ndarray,
    forecasts: dict[str, Forecast],
) -> tuple[str, Forecast, dict[str, Any]]:
    """Return the method, its forecast shifted by trainings on halves, and what these reached."""
    import numpy as np

    from ntktune.advise import distinct
    from ntktune.advise.calibration import calibrated, compared
    from ntktune.finetune.repeats import kernel_targets

    name, task, precision = args.calibrate, texts["facts"]["task"], machine_epsilon(args.dtype)
    classes = classes_of(task)
    place = distinct(kernels[name], precision)
    rows = [texts["rows"][0][i] for i in place]
    trained, steps = _trained_halves(args, texts, rows, classes)
    target = kernel_targets(texts["labels"]["label"].numpy()[rows], classes)
    own, how = kernels[name][np.ix_(place, place)], {"classes": classes is not None}
    known = compared(own, target.reshape(len(rows), -1), *trained, **how, precision=precision)
    found, known = calibrated(counts, forecasts[name], known, **how)
    if not np.isfinite(known.equivalent):  # JSON has no infinity
        known = known._replace(equivalent=None)
    return name, found, {"method": name, "steps": steps} | known._asdict()


def _trained_halves(
    args: argparse.Namespace, texts: dict[str, Any], rows: list[int], classes: int | None
) -> tuple[tuple[list[tuple[list[int], list[int]]], list[float]], list[int]]:
    """Train on each half of the texts; return the halves, and their scores on the other; and steps.

    A half is the places among ``rows`` of its texts that train, and of the other's. Its hold-out,
    which is neither, stops it.
    """
    from ntktune.advise.calibration import pilot_halves
    from ntktune.finetune.repeats import all_steps, fine_tuned_repeats, seed_split

    examples, settings = _examples(texts, rows, classes), _settings(args)
    halves = pilot_halves(examples.label if classes else None, len(rows), args.seed)
    size = len(halves[0]["seeds"][0]["order"])
    steps = [all_steps(examples, half, size, settings) for half in halves]
    progress, found = Progress(f"training on halves of {len(rows)} texts", sum(steps)), []
    for half in halves:
        model = loaded(args, texts["folder"], None, outputs=examples.outputs, head_seed=0)
        model, before = model.to(select_device(args.device)), sum(steps[: len(found)])
        how = (settings, args.seed, None, lambda step, before=before: progress(before + step))
        found += [repeat.row for repeat in fine_tuned_repeats(model, examples, half, size, *how)]
    places = [(seed_split(examples, half, size, 0)[0], half["test"]) for half in halves]
    scores = [row["accuracy" if classes else "pearson"] for row in found]
    return (places, scores), [row["best_step"] for row in found]


def _examples(texts: dict[str, Any], rows: list[int], classes: int | None) -> Examples:
    """Return the file's labelled texts as a task's examples."""
    from ntktune.finetune.repeats import Examples

    task = texts["facts"]["task"]
    label, noise = (texts["labels"][name].numpy()[rows] for name in ("label", "label_noise"))
    ids = [texts["examples"][row] for row in rows]
    about = {"label": label, "label_noise": noise, "classes": classes or 2}
    return Examples(task=task["name"], kind=task["kind"], ids=ids, **about)


def _settings(args: argparse.Namespace) -> Settings:
    """Return how ``--calibrate`` trains: as a study does without settings of its own."""
    from ntktune.finetune.training import Settings

    how = {name: declaration(f"finetune.{name}")["default"] for name in SETTINGS}
    factors = {"lora": "finetune.lora.rate_factor", "probe": "finetune.probe_rate_factor"}
    factor = declaration(factors[args.calibrate])["default"] if args.calibrate in factors else 1
    how["learning_rate"] = args.learning_rate or factor * how["learning_rate"]
    autocast = training_dtypes(args.dtype)[1]
    return Settings(**how, method=args.calibrate, lora=adapters(args), autocast=autocast)


def _kernels(
    args: argparse.Namespace,
    texts: dict[str, Any],
    rows: list[int],
    further: list[torch.Tensor],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the kernel of each way to train; and which layers adapters go on, and what they are.

    All from one backward pass: of the head alone, of adapters on all layers, of all weights. They
    are of the texts ``rows``, and of ``further`` ones.
    """
    from ntktune.linearized.layers import HEAD, layer_sets, lora_of, set_kernel

    args.method, lora = "lora", adapters(args)
    sets, _, grams, backbone = ranked_layers(args, texts, rows, None, further)
    every, stands_out = layer_sets(backbone), differ(sets)
    best = sets[0]["layers"] if stands_out else "all"
    kernels = {
        "probe": grams[HEAD],
        "lora": set_kernel(grams, backbone, every["all"], lora),
        "full": sum(grams.values()),
    }
    about = {"layers": best, "layers_differ": stands_out}
    about["adapters"] = lora_of(backbone, every[best], lora)
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
