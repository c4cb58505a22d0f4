"""Commands of the chapter ``selection``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ntktune.cli import add_command, optional
from ntktune.cli.record import write_tables

if TYPE_CHECKING:
    import pandas as pd


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "benchmark", benchmark),
        folder="folder with the benchmark's three files: names end in flan.csv, wmt19.csv, "
        "gigaword.csv",
        out=optional("parquet: how well each method selects at each budget"),
        out_laws=optional("parquet: how well two laws fit each model's losses"),
    )


def benchmark(args: argparse.Namespace) -> None:
    """Repeat the model selection of Lin et al. 2024 on its 30 models; print ours beside theirs."""
    from ntktune.selection.benchmark import law_errors, read_benchmark, selected

    curves = read_benchmark(Path(args.folder))
    methods, laws = selected(curves), law_errors(curves)
    print(_told(methods, laws))
    tables = {args.out: methods, args.out_laws: laws}
    write_tables(args, {path: table for path, table in tables.items() if path})


def _told(methods: pd.DataFrame, laws: pd.DataFrame) -> str:
    """Return how methods select, and how laws fit, beside the published numbers."""
    from ntktune.figures.overview import plain_table
    from ntktune.selection.benchmark import PUBLISHED_ERRORS, SHARES, printed

    lines = [["data", "measure", "method", *(f"1/{share}" for share in SHARES)]]
    for (name, measure, method), own in methods.groupby(["data", "measure", "method"], sort=False):
        values = [f"{printed(value / 100):.1f}" for value in own["value"]]
        lines.append([name, measure, method, *values])
        if method == "AtS":
            lines.append([name, measure, "published", *(f"{v:.1f}" for v in own["published"])])
    ats = methods[methods["method"] == "AtS"]
    same = sum(ats["value"].div(100).map(printed) == ats["published"])
    saved = ats.groupby("share")["saved"].first()
    costs = ", ".join(f"1/{share} {left:.1%}" for share, left in saved.items())
    errors = laws.groupby("law", sort=False)["rmsd"].mean()
    published = ", ".join(
        f"{law} {errors[law]:.5f} (published {value})" for law, value in PUBLISHED_ERRORS.items()
    )
    return "\n".join(
        [
            plain_table(lines),
            "",
            f"AtS as published: {same} of {len(ats)}. Of all fine-tunings' examples it saves, at a "
            f"budget of {costs}.",
            f"Root mean squared error of log L over 90 curves: {published}.",
        ]
    )
