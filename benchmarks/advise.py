r"""Advice from a pilot, without training and with two short trainings, by numbers of texts.

    python benchmarks/advise.py --model MODEL --data pilot.csv --text-column text \
        --label-column label --rows 100 200 --more --classes --blocks 15

Every measurement is a fresh process that imports all it needs before the clock starts; the ways
take turns, and the table has medians: seconds, the highest memory above that before, and how many
times as long as the first way.

kernel       ntktune advise
calibrated   ntktune advise --calibrate lora
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import statistics

import pandas as pd
from measuring import in_fresh_process, measured

WAYS = {"kernel": [], "calibrated": ["--calibrate", "lora"]}


def advised(case: dict) -> dict:
    """Run the command on one case in this process; return what it took."""
    for name in ("peft", "torch", "transformers"):
        importlib.import_module(name)
    from ntktune.__main__ import main

    words = ["advise", "pilot", *case["words"], "--rows", str(case["rows"]), *WAYS[case["way"]]]
    with contextlib.redirect_stdout(io.StringIO()):
        status, seconds, memory = measured(lambda: main(words))
    if status:
        raise SystemExit(f"the command ended with status {status}")
    return {"seconds": seconds, "memory": memory}


def main_benchmark() -> None:
    """Measure all cases in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "data", "text-column", "label-column"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(advised(json.loads(args.case))))
        return
    words = ["--model", args.model, "--data", args.data, "--text-column", args.text_column]
    words += ["--label-column", args.label_column, *args.more]
    found = [
        {"rows": rows, "way": way}
        | in_fresh_process(__file__, {"way": way, "rows": rows, "words": words})
        for rows in args.rows
        for _ in range(args.repeats)
        for way in WAYS
    ]
    table = pd.DataFrame(found).groupby(["rows", "way"], sort=False).agg(statistics.median)
    first = table["seconds"].groupby("rows").transform("first")
    told = table.assign(memory=table["memory"] / 2**20, ratio=table["seconds"] / first)
    print(told.round({"seconds": 1, "memory": 0, "ratio": 1}).to_string())


if __name__ == "__main__":
    main_benchmark()
