"""A small made-up study: every table that the figures read, with known numbers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from ntktune.artifacts import read_json, read_table, write_csv, write_json, write_table
from ntktune.figures.table1 import decay_table

SIZES = (32, 64, 128, 256)
SEEDS = 3
TASKS = {
    # name: title, kind, decay exponent, learning-curve exponent
    "semrel": ("SemRel 2024", "regression", 1.6, 0.6),
    "sts12": ("STS-12", "regression", 1.3, 0.5),
    "stsb": ("STS-B", "regression", 1.0, 0.4),
    "amazon": ("Amazon polarity", "classification", 1.5, 0.5),
    "mrpc": ("MRPC", "classification", 1.2, 0.35),
    "rte": ("RTE", "classification", 0.9, 0.2),
}
RANGES = ("1..n", "2..n", "1..n/2", "n/10..9n/10")
NAN = float("nan")
REGRESSION_METRICS = ("mse", "mse_unit", "pearson", "spearman", "baseline_mse", "noise_variance")
CLASSIFICATION_METRICS = ("accuracy", "f1", "cross_entropy", "baseline_accuracy", "baseline_f1")
FIT_COLUMNS = ["draw", "range", "first", "last", "exponent", "intercept", "stderr"]
FIT_COLUMNS += ["r_squared", "dropped"]


def task_facts(task):
    title, kind, *_ = TASKS[task]
    bounds = [0, 5] if kind == "regression" else None
    return {"name": task, "title": title, "kind": kind, "score_range": bounds}


def metrics_table(task, size, seeds=SEEDS, noise=0.05, scatter=0.02):
    """Error 6 n^-b (plus label noise for regressions); the exponents b scatter about the known
    one, evenly by seed, so that the slope over all seeds is the known one. The correlation
    rises with n, the sooner the larger b.
    """
    _, kind, _, exponent = TASKS[task]
    rows = []
    for seed in range(seeds):
        excess = 6.0 * size ** -(exponent + scatter * (seed - (seeds - 1) / 2))
        row = dict.fromkeys(
            (*REGRESSION_METRICS, *CLASSIFICATION_METRICS),
            NAN,
        )
        if kind == "regression":
            row |= {"mse": excess + noise, "baseline_mse": 2.2, "noise_variance": noise}
            row |= {"pearson": 1 - (size / 16) ** -exponent, "spearman": 0.6}
            row |= {"mse_unit": excess / 25}
        else:
            error = 0.2 * excess
            row |= {"accuracy": 1 - error, "f1": 1 - 0.9 * error, "cross_entropy": error}
            row |= {"baseline_accuracy": 0.55, "baseline_f1": 0.45}
        rows.append(
            {
                "task": task,
                "kind": kind,
                "n": size,
                "seed": seed,
                "n_train": size * 4 // 5,
                "n_holdout": size // 5,
                "steps": size,
                "best_step": 10 * list(TASKS).index(task) + seed + size // 32,
                "best_epoch": 2.0,
                "sum_learning_rate": 1e-4 * (60 - 10 * list(TASKS).index(task) + seed),
                "holdout_loss": 0.5,
                **row,
            }
        )
    return pd.DataFrame(rows)


def eigenvalue_table(task, n=100, draws=5):
    """Power laws with lognormal wobble, the exponents 0.02 apart from draw to draw."""
    random = np.random.default_rng(list(TASKS).index(task))
    k = np.arange(1, n + 1)
    tables = []
    for draw in range(draws):
        exponent = TASKS[task][2] + 0.02 * (draw - (draws - 1) / 2)
        values = np.sort(40 * k**-exponent * np.exp(0.15 * random.standard_normal(n)))[::-1]
        tables.append(pd.DataFrame({"draw": draw, "k": k, "eigenvalue": values}))
    return pd.concat(tables, ignore_index=True)


def fit_table(eigenvalues, dropped=0):
    rows = []
    for draw, own in eigenvalues.groupby("draw"):
        n = len(own)
        bounds = [(1, n), (2, n), (1, n // 2), (-(-n // 10), 9 * n // 10)]
        for name, (first, last) in zip(RANGES, bounds, strict=True):
            part = own[own["k"].between(first, last)]
            x, y = np.log(part["k"]), np.log(part["eigenvalue"])
            slope, intercept = np.polyfit(x, y, 1)
            r_squared = np.corrcoef(x, y)[0, 1] ** 2
            rows.append((draw, name, first, last, -slope, intercept, 0.01, r_squared, dropped))
    return pd.DataFrame(rows, columns=FIT_COLUMNS)


def summary_of(task, fits, n=100, noise_floor=1e-12):
    main = fits[fits["range"] == "1..n"]
    mean, sd = main["exponent"].mean(), main["exponent"].std()
    low, high = mean - sd, mean + sd
    return {
        "task": task,
        "n": n,
        "draws": len(main),
        "noise_floor": noise_floor,
        "exponent": {"mean": mean, "sd": sd, "low": low, "high": high, "stderr_mean": 0.01},
        "r_squared": {"mean": main["r_squared"].mean(), "min": main["r_squared"].min()},
        "intercept": main["intercept"].mean(),
        "predicted_rate": {
            "mean": mean / (mean + 1),
            "low": low / (low + 1),
            "high": high / (high + 1),
        },
        "sensitivity": {
            name: {"mean": part["exponent"].mean(), "sd": part["exponent"].std()}
            for name, part in fits.groupby("range")
            if name != "1..n"
        },
        "dropped": int(main["dropped"].sum()),
    }


def stopping_of(task, draws=5):
    place = list(TASKS).index(task)
    eta = 120.0 - 15 * place + np.arange(draws)
    return pd.DataFrame(
        {
            "draw": np.arange(draws),
            "n": 100,
            "sigma": 0.4,
            "sigma_source": "residual",
            "radius": 1.5 + 0.1 * np.arange(draws),
            "radius_source": "plug-in",
            "step_size": 0.25,
            "critical_radius": 0.3,
            "stopping_time": (eta / 0.25).astype(int),
            "eta": eta,
        }
    )


def history_of(task, epochs=4, seeds=SEEDS):
    """The test error falls to a third within two epochs, then rises; the hold-out's a bit later."""
    rows = []
    for seed in range(seeds):
        for epoch in range(epochs + 1):
            # the hold-out of seed 0 and 1 is lowest after 2 epochs, that of seed 2 after 3
            lowest = 3 if seed == 2 else 2
            error = 0.3 + 0.1 * (epoch - 2) ** 2 / 4 + 0.01 * seed
            row = {"seed": seed, "step": 5 * epoch, "epoch": float(epoch), "train_loss": 0.5}
            row |= {"holdout_loss": 0.5 + 0.1 * abs(epoch - lowest)}
            row |= dict.fromkeys((*REGRESSION_METRICS, *CLASSIFICATION_METRICS), NAN)
            if TASKS[task][1] == "regression":
                row |= {"mse": error, "baseline_mse": 2.2, "noise_variance": 0.05}
            else:
                row |= {"accuracy": 1 - error, "baseline_accuracy": 0.55}
            rows.append(row)
    return pd.DataFrame(rows)


def simulation_of():
    """Errors that fall as 1/n, a rule's the higher the later it is named; and two radii."""
    rules = ("oracle", "theory", "sure", "holdout")
    rows = [
        (n, rule, (place + 1) / n, 0.1 / n, 50)
        for place, rule in enumerate(rules)
        for n in (20, 40)
    ]
    errors = pd.DataFrame(rows, columns=["n", "rule", "error", "error_stderr", "repeats"])
    radii = {"decay": [1.5, 3.0], "predicted": [-0.6, -0.75], "measured": [-0.59, -0.74]}
    return errors, pd.DataFrame(radii)


def cosine_of(tasks, scale=0.05):
    random = np.random.default_rng(7)
    values = scale * (2 * random.random((len(tasks), len(tasks))) - 1)
    values = np.triu(values, 1) + np.triu(values, 1).T + np.eye(len(tasks))
    return pd.DataFrame(
        [(a, b, values[i, j]) for i, a in enumerate(tasks) for j, b in enumerate(tasks)],
        columns=["task_a", "task_b", "cosine"],
    )


def merged_of(tasks, ratio=0.97):
    merges = [(a, b) for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    merges += [tuple(tasks)] if len(tasks) > 2 else []
    rows = []
    for merge in merges:
        for place, task in enumerate(merge):
            kind = TASKS[task][1]
            single = 0.8 - 0.05 * list(TASKS).index(task)
            share = ratio - 0.01 * place
            rows.append(
                {
                    "merged": " + ".join(merge),
                    "task": task,
                    "kind": kind,
                    "metric": "pearson" if kind == "regression" else "accuracy",
                    "coefficient": 1.0,
                    "pretrained": 0.15 if kind == "regression" else 0.5,
                    "single": single,
                    "merged_score": single * share,
                    "normalised": share,
                }
            )
    return pd.DataFrame(rows)


def write_study(folder: Path, tasks=tuple(TASKS), sizes=SIZES, seeds=SEEDS):
    """Write all tables of a study that the figures read; return their paths."""
    study = SimpleNamespace(
        folder=folder, tasks=list(tasks), metrics=[], summaries=[], fits=[], eigenvalues=[],
        stopping=[], histories=[], table1=folder / "table1.csv",
        cosine=folder / "cosine.parquet", merged=folder / "merged.parquet",
    )  # fmt: skip
    for task in tasks:
        stated = {"task": task_facts(task)}
        for size in sizes:
            study.metrics.append(folder / task / f"n{size}.parquet")
            write_table(study.metrics[-1], metrics_table(task, size, seeds), stated)
        eigenvalues = eigenvalue_table(task)
        fits = fit_table(eigenvalues)
        for name, table in (
            ("eigenvalues", eigenvalues),
            ("fits", fits),
            ("stopping", stopping_of(task)),
            ("histories", history_of(task)),
        ):
            getattr(study, name).append(folder / task / f"{name}.parquet")
            write_table(folder / task / f"{name}.parquet", table, stated)
        study.summaries.append(folder / task / "summary.json")
        write_json(study.summaries[-1], summary_of(task, fits), stated)
    metrics = pd.concat([read_table(path)[0] for path in study.metrics], ignore_index=True)
    summaries = [read_json(path) for path in study.summaries]
    write_csv(study.table1, decay_table(summaries, metrics, 0, 200), {})
    for name, table in zip(("errors", "radii"), simulation_of(), strict=True):
        setattr(study, name, folder / f"{name}.parquet")
        write_table(folder / f"{name}.parquet", table, {})
    write_table(study.cosine, cosine_of(study.tasks), {})
    write_table(study.merged, merged_of(study.tasks), {})
    return study
