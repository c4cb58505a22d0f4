"""Merging models in stretches beside other ways to the same file, on the same work.

    python benchmarks/merging.py --repeats 3 --mergekit mergekit-yaml

Two models of 125 million float32 weights (500 MB each) are added to their base,
θ_P + 0.5 (τ_1 + τ_2), and the sum is written. Every measurement is a fresh process, the methods
take turns, and the table has medians: seconds, and the highest memory above that of an interpreter
which has imported torch.

ours       ntktune taskvectors export
whole      all three models in memory: load_file, the sum in float32, save_file
mergekit   mergekit's task_arithmetic on the same models in Hugging Face format, if it is given
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from ntktune.store.files import file_sha256
from ntktune.store.records import write_json
from ntktune.store.tensors import write_tensors

CONFIG = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "vocab_size": 50_257}
CONFIG |= {"attention_types": [[["global", "local"], 6]]}
TASKS = ("a", "b")
COEFFICIENT = 0.5


def make_models(folder: Path) -> None:
    """Write a random GPT-Neo, and two models at a small distance, in the study's formats."""
    from transformers import AutoModel, GPTNeoConfig

    torch.manual_seed(0)
    model = AutoModel.from_config(GPTNeoConfig(**CONFIG))
    model.save_pretrained(folder / "base")
    facts = {"name": "125M", "revision": None}
    facts["sha256"] = file_sha256(folder / "base" / "model.safetensors")
    write_json(folder / "base" / "model.json", facts, {})
    start = {name: p.detach() for name, p in model.named_parameters()}
    for task in TASKS:
        end = {name: p + 1e-3 * torch.randn_like(p) for name, p in start.items()}
        head = {"head.weight": torch.zeros(1, 768), "head.bias": torch.zeros(1)}
        provenance = {"task": {"name": task}, "run": "0", "parameters": list(start)}
        provenance |= {"model": facts, "blocks": None, "size": 0, "data_sha256": None}
        provenance |= {"seeds": {"indices": [0]}, "sample": 0, "rows": {}}
        weights = {f"backbone.{name}": weight for name, weight in end.items()} | head
        write_tensors(folder / f"{task}.safetensors", weights, provenance)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(end[name])
        model.save_pretrained(folder / task)
    print(f"{sum(p.numel() for p in start.values()):,} weights", flush=True)


def whole(folder: str, out: str) -> None:
    """Merge with all models in memory."""
    base, *ends = (
        load_file(Path(folder) / name / "model.safetensors") for name in ("base", *TASKS)
    )
    merged = {
        name: start + COEFFICIENT * sum(end[name] - start for end in ends)
        for name, start in base.items()
    }
    Path(out).mkdir()
    save_file(merged, Path(out) / "model.safetensors")


def command(method: str, folder: Path, out: Path, mergekit: str | None) -> list[str]:
    """Return the command line that merges with one method; None imports torch only."""
    if method == "torch":
        return [sys.executable, "-c", "import torch"]
    if method == "ours":
        files = [str(folder / f"{task}.safetensors") for task in TASKS]
        options = ["--model", str(folder / "base"), "--weights", *files, "--out", str(out)]
        options += ["--coefficients", *[str(COEFFICIENT)] * len(TASKS)]
        return [sys.executable, "-m", "ntktune", "taskvectors", "export", *options]
    if method == "whole":
        code = f"import merging; merging.whole({str(folder)!r}, {str(out)!r})"
        return [sys.executable, "-c", code]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(folder / "base"),
        "models": [
            {"model": str(folder / task), "parameters": {"weight": COEFFICIENT}} for task in TASKS
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))  # JSON is YAML
    return [mergekit, str(folder / "recipe.json"), str(out), "--lazy-unpickle"]


# a process's highest memory counts that of the process it was started from: this one is small
LAUNCHER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(json.loads(sys.argv[1]), check=True, stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"seconds": seconds, "mb": peak * 1024 / 1e6}))
"""


def merged_once(words: list[str]) -> dict[str, float]:
    """Run a command line; return its seconds and its highest memory, in MB."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, json.dumps(words)],
        check=True,
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def largest_difference(folder: Path, first: Path, second: Path) -> float:
    """Return the largest difference of two merged models' weights."""
    one, two = (load_file(path) for path in (first, second))
    return max(float((one[name] - two[name].to(one[name])).abs().max()) for name in one)


def main() -> None:
    """Run all methods, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mergekit", help="its program mergekit-yaml, if it is to be compared")
    parser.add_argument("--folder", help="for the models, 3 GB (default: a temporary folder)")
    parser.add_argument("--out", help="CSV of the medians")
    args = parser.parse_args()
    methods = ["torch", "ours", "whole"] + ["mergekit"] * bool(args.mergekit)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make_models(folder)
        rows = []
        for repeat in range(args.repeats):
            for method in methods:
                out = folder / f"{method}{repeat}"
                words = command(method, folder, out, args.mergekit)
                found = merged_once(words)
                if method not in ("torch", "ours"):
                    files = [
                        folder / f"{m}{repeat}" / "model.safetensors" for m in ("ours", method)
                    ]
                    files = [f for f in files if f.is_file()]
                    if len(files) == 2:
                        found["largest_difference"] = largest_difference(folder, *files)
                rows.append({"method": method, "repeat": repeat} | found)
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    own = statistics.median(table.loc[table["method"] == "torch", "mb"])
    medians = table.groupby("method", sort=False).median(numeric_only=True).drop(columns="repeat")
    medians = medians.assign(mb_above_torch=medians["mb"] - own).drop(index="torch").reset_index()
    print(medians.to_string(index=False))
    if args.out:
        medians.to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
