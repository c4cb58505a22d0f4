"""The commands that compute with a model, from a study's files to tables, in the working folder."""

import functools
import tempfile
from pathlib import Path
from unittest import mock

import torch
from tiny_study import tuning_flags, write_model, write_task

from ntktune.__main__ import main
from ntktune.store.records import read_table, write_json
from ntktune.store.tensors import read_tensors

TASKS = {"a": "regression", "b": "regression", "c": "classification"}


def run(*words, device):
    """Run a command on a device, whatever it is told; watch few ridges and steps."""
    with (
        mock.patch("ntktune.network.device.select_device", return_value=device),
        mock.patch("ntktune.theory.trajectory.RIDGE_TIMES", (8,)),
        # later the hold-out error is flat: rounding chooses
        mock.patch("ntktune.theory.trajectory.LATEST", 16),
    ):
        assert main([str(word) for word in words]) == 0


@functools.cache
def study():
    """Write a tiny study, and weights of it that the processor fine-tuned."""
    model = write_model(Path("model"))
    for task, kind in TASKS.items():
        write_task(Path(), task, kind, model)
        write_json(Path(f"{task}.draws.json"), {"draws": [[0, 3, 7, 8]]}, drawn_from(task))
        outs = ["--out", *(f"{task}.{seed}.weights" for seed in range(2))]
        flags = [*tuning_flags(Path(), task, max_epochs=1), *outs, "--out-again", f"{task}.again"]
        run("taskvectors", "tune", *flags, device=torch.device("cpu"))
    learning = ["kernel", "learning", *sampled("a"), "--rows", 10, "--seeds", 1]
    run(*learning, "--out", "a.kernels", device=torch.device("cpu"))


def drawn_from(task):
    return {"data_sha256": f"data of {task}"}


def one_task(task):
    """Return the flags of a command on one task."""
    return ["--model", "model", "--task", task, "--tokens", f"{task}.safetensors"]


def sampled(task):
    return [*one_task(task), "--subsets", f"{task}.json", "--seed", 5]


def trained(task, *changes):
    size = 20 if TASKS[task] == "classification" else 10  # both classes in the hold-out
    words = [*sampled(task), "--size", size, "--learning-rate", 0.01, "--weight-decay", 0.01]
    words += ["--batch-size", 4, "--max-epochs", 2, "--evaluate-every", 2]
    return [*words, *(changes or ["--dtype", "float64"])]


def swept(*tasks):
    """Return the flags of a sweep of one seed of some tasks."""
    words = ["--model", "model", "--tasks", *tasks, "--batch-tokens", 64]
    for flag, file in (("weights", "0.weights"), ("tokens", "safetensors"), ("subsets", "json")):
        words += [f"--{flag}", *(f"{task}.{file}" for task in tasks)]
    return words


def written(*words, device, outs):
    """Return what a command writes: the columns of its tables, its tensors."""
    study()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for flag, names in outs.items():
            words = [*words, f"--{flag}", *(Path(folder, name) for name in names.split())]
        run(*words, device=device)
        for path in Path(folder).iterdir():
            read = read_table if path.suffix == ".parquet" else read_tensors
            found[path.name] = dict(read(path)[0].items())
    return found


def case(*words, tolerance=1e-9, **outs):
    outs = {flag.replace("_", "-"): names for flag, names in outs.items()}
    return functools.partial(written, *words, outs=outs), tolerance


# evaluated at the end alone: of close evaluations rounding would choose
ONCE = ["--max-epochs", 1, "--evaluate-every", 99]
TABLE = {"out": "out.parquet"}
GRID = {"out_metrics": "metrics.parquet", "out_history": "history.parquet"}
TRAJECTORY = {f"out_{name}": f"{name}.parquet" for name in ("evaluations", "ridge", "stops")}
DISENTANGLED = ["--grid", -1, 1, "--rows", 3, "--tangent"]
HELD = ["--max-epochs", 1, "--seeds", 1, "--shares", 0.1, "--test-rows", 3]
HELD += ["--radii", 0.01, "--radius-draws", 1]
WATCHED = ["--max-epochs", 1, "--descent-steps", 1, "--test-rows", 3, "--seeds", 1]
CASES = {
    "kernel draws": case(
        *("kernel", "draws", *one_task("a"), "--seed", 5, "--draws", "a.draws.json"),
        out="gram.safetensors",
        tolerance=1e-5,
    ),
    "kernel learning, two classes": case(
        *("kernel", "learning", *sampled("c"), "--rows", 10, "--seeds", 1),
        out="gram.safetensors",
        tolerance=1e-5,
    ),
    "finetune run": case("finetune", "run", *trained("a"), "--test-history", **GRID),
    "finetune run, two classes in bfloat16": case(
        *("finetune", "run", *trained("c", "--dtype", "bfloat16", "--checkpointing"), *ONCE),
        **GRID,
        tolerance=0.3,
    ),
    "finetune baselines": case(
        *("finetune", "baselines", *sampled("a")[:-2], "--sizes", 10, "--kernels", "a.kernels"),
        **TABLE,
        tolerance=1e-4,
    ),
    "taskvectors tune": case(
        *("taskvectors", "tune", *trained("a")),
        out="0.weights 1.weights",
        out_again="again.weights",
    ),
    "taskvectors add": case(
        *("taskvectors", "add", *swept(*TASKS), "--coefficients", 0.5), **TABLE, tolerance=1e-4
    ),
    "taskvectors negate": case(
        *("taskvectors", "negate", *swept("a", "c"), "--coefficients", 0.5), **TABLE, tolerance=1e-4
    ),
    "taskvectors negate, two classes": case(
        *("taskvectors", "negate", *swept("c", "b"), "--coefficients", 0.5), **TABLE, tolerance=1e-4
    ),
    "taskvectors disentangle": case(
        *("taskvectors", "disentangle", *swept("a", "c"), *DISENTANGLED), **TABLE, tolerance=1e-4
    ),
    "theory trajectory": case(
        "theory", "trajectory", *trained("a"), *WATCHED, **TRAJECTORY, tolerance=1e-6
    ),
    "linearized sets": case(
        *("linearized", "sets", *one_task("a"), "--seed", 5, "--draws", "a.draws.json"),
        out="sets.parquet",
        out_layers="layers.parquet",
        out_grams="grams.safetensors",
        tolerance=1e-4,
    ),
    "linearized hold, adapters": case(
        *("linearized", "hold", *trained("c", "--method", "lora", "--dtype", "float64"), *HELD),
        out="hold.parquet",
        out_radius="radius.parquet",
        tolerance=1e-6,
    ),
    "theory trajectory, two classes, checkpointed": case(
        *("theory", "trajectory", *trained("c"), "--checkpointing", *WATCHED),
        **TRAJECTORY,
        tolerance=1e-6,
    ),
}
