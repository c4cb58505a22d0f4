"""Commands of the chapter ``taskvectors``: fine-tuned weights, their cosines, merged models."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ntktune.cli import Progress, add_command
from ntktune.cli.finetune import TRAINED, keep_seed, read_cell, repeats, seed_keys
from ntktune.cli.inputs import model_facts
from ntktune.cli.model_option import add_model, from_hub, study_model
from ntktune.cli.record import Record
from ntktune.cli.tuned_files import AGAIN, Tuned, pretrained_weights, read_tuned, tuned_tensors
from ntktune.errors import UserError
from ntktune.store.files import MODEL_MANIFEST, MODEL_WEIGHTS
from ntktune.store.records import write_table
from ntktune.store.tensors import StoredTensor, stream_tensors, write_tensors

if TYPE_CHECKING:
    from ntktune.taskvectors.cosines import Run

MERGED = "merge.json"  # says of a folder what was merged into the model in it


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    from ntktune.cli import taskvectors_sweeps

    taskvectors_sweeps.add_commands(verbs)
    parser = add_command(verbs, "tune", tune, *TRAINED)
    what = "safetensors: the weights of seed 0, 1, ..."
    parser.add_argument("--out", required=True, nargs="+", metavar="FILE", help=what)
    what = "safetensors: the same with head and order of seed 0, on the sample of seed 1"
    parser.add_argument("--out-again", metavar="FILE", help=what)
    what = "folder that keeps these seeds' results for `finetune run`, which then trains the others"
    parser.add_argument("--state", help=what)

    weights = {"nargs": "*", "default": [], "metavar": "FILE", "help": "fine-tuned weights"}
    out = "parquet: a row per pair and group of layers"
    parser = add_command(verbs, "cosine", cosine, "model", out=out)
    parser.add_argument("--weights", **weights)
    out = "a folder in Hugging Face format, without a head"
    parser = add_command(verbs, "export", export, network=from_hub, out=out)
    add_model(parser, "folder of the pretrained model")
    parser.add_argument("--weights", **weights)
    help_ = "one for each file (default: 1 each)"
    parser.add_argument("--coefficients", nargs="+", type=float, help=help_)


def tune(args: argparse.Namespace) -> None:
    """Fine-tune a task with some seeds and keep the weights, or what was added to them."""
    from ntktune.finetune.repeats import seed_split

    record = Record("ntktune.cli.taskvectors:tune", args)
    # a file of --out each; --out-again needs the samples of two
    cell = read_cell(args, max(len(args.out), 2 * bool(args.out_again)))
    keys = seed_keys(args, cell)
    # file, name, seed of head and order, seed of the sample
    runs = [(path, str(seed), seed, seed) for seed, path in enumerate(args.out)]
    runs += [(args.out_again, AGAIN, 0, 1)] * bool(args.out_again)
    model, found = repeats(args, cell, [r[2] for r in runs], samples=[r[3] for r in runs])
    base = pretrained_weights(args.model) if args.store == "bfloat16" else None
    for repeat, (path, run, seed, sample) in zip(found, runs, strict=True):
        if seed == sample:
            keep_seed(args.state, keys[seed], repeat)
        train, holdout = seed_split(cell.examples, cell.subsets, args.size, sample)
        facts = {"run": run, "sample": sample, "size": args.size, "metrics": repeat.row}
        facts |= {"seeds": {"root": args.seed, "indices": [seed]}}
        facts |= {"label_mean": repeat.label_mean, "label_sd": repeat.label_sd}
        facts |= {"rows": {"train": train, "validation": holdout}}
        facts |= {"parameters": [name for name, _ in model.backbone.named_parameters()]}
        write_tensors(path, tuned_tensors(model, base), record.provenance(**cell.facts, **facts))


def cosine(args: argparse.Namespace) -> None:
    """Compute the cosines of task vectors: of two tasks, and of one task trained twice."""
    import pandas as pd

    from ntktune.kernel.groups import parameter_group
    from ntktune.network.models import empty_backbone
    from ntktune.taskvectors.arithmetic import grams
    from ntktune.taskvectors.cosines import cosine_rows

    record = Record("ntktune.cli.taskvectors:cosine", args)
    base, read = read_tuned(args.weights, args.model, args.blocks)
    if len(read) < 2:
        raise UserError(f"--weights has {len(read)} files; a cosine needs two or more")
    skeleton = empty_backbone(args.model, args.blocks)
    found = grams(
        base,
        [tuned.backbone for tuned in read],
        lambda name: parameter_group(skeleton, name),
        Progress(f"cosines of {len(read)} task vectors", 1),
    )
    table = pd.DataFrame(cosine_rows([_training(tuned) for tuned in read], found))
    facts = {
        "model": model_facts(args.model),
        "blocks": args.blocks,
        "sizes": {tuned.task: tuned.size for tuned in read},
        "parameters": sum(math.prod(tensor.shape) for tensor in read[0].backbone.values()),
    }
    write_table(args.out, table, record.provenance(**facts))


def _training(tuned: Tuned) -> Run:
    """Return what cosines need to know of the training that made a file."""
    from ntktune.taskvectors.cosines import Run

    rows = frozenset(row for rows in tuned.facts["rows"].values() for row in rows)
    seed, sample = tuned.facts["seeds"]["indices"][0], tuned.facts["sample"]
    return Run(tuned.task, tuned.run, seed=seed, sample=sample, rows=rows)


def check_new_folder(out: str, sources: Sequence[str]) -> None:
    """Raise UserError if a model written to a folder would replace something else.

    An empty folder may be replaced, and one that an export has written.
    """
    folder = Path(out).resolve()
    for source in sources:
        if folder == Path(source).resolve() or folder in Path(source).resolve().parents:
            raise UserError(f"--out {out} would replace {source}, which is read; choose another")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MERGED).is_file():
        raise UserError(f"--out {out} holds other files, which would be lost; choose another")


def export(args: argparse.Namespace) -> None:
    """Write a merged model in Hugging Face format, in memory for a stretch of one tensor."""
    record = Record("ntktune.cli.taskvectors:export", args)
    check_new_folder(args.out, [args.model, *args.weights])
    with study_model(args) as folder:
        _export(args, record, folder)


def _export(args: argparse.Namespace, record: Record, model: str) -> None:
    """Merge fine-tuned weights into the model in a folder, as a study has it."""
    import json

    from ntktune.network.models import configuration
    from ntktune.store.files import atomic_path
    from ntktune.store.records import write_json
    from ntktune.taskvectors.arithmetic import check_counts, merged

    base, read = read_tuned(args.weights, model, args.blocks)
    coefficients = args.coefficients or [1.0] * len(read)
    check_counts([tuned.backbone for tuned in read], coefficients)
    base = base if read else _whole_backbone(base, model, args.blocks)
    parts = [
        {"task": tuned.task, "run": tuned.run, "coefficient": coefficient}
        for tuned, coefficient in zip(read, coefficients, strict=True)
    ]
    facts = {"model": model_facts(model), "blocks": args.blocks, "merged": parts}
    layout = {name: (tensor.shape, tensor.dtype) for name, tensor in base.items()}
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    config |= configuration(model, args.blocks).to_diff_dict() if args.blocks else {}
    with atomic_path(args.out) as folder:
        folder.mkdir()
        _copy_other_files(Path(model), folder)
        text = json.dumps(config, indent=2)
        (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
        stretched = merged(base, [tuned.backbone for tuned in read], coefficients)
        provenance = record.provenance(**facts)
        stream_tensors(folder / MODEL_WEIGHTS, layout, stretched, provenance)
        write_json(folder / MERGED, facts, provenance)


def _whole_backbone(
    base: dict[str, StoredTensor], model: str, blocks: int | None
) -> dict[str, StoredTensor]:
    """Return the backbone's tensors among a model's; a pooler may be missing.

    Raises
    ------
    UserError
        Others are missing, or of other shapes.
    """
    from ntktune.network.loading import check_filled
    from ntktune.network.models import empty_backbone

    skeleton = empty_backbone(model, blocks)
    wanted = {name: tuple(p.shape) for name, p in skeleton.named_parameters()}
    wrong = [n for n, shape in wanted.items() if n in base and tuple(base[n].shape) != shape]
    check_filled(wanted.keys() - base.keys(), wrong, model)
    return {name: base[name] for name in wanted if name in base}


def _copy_other_files(model: Path, folder: Path) -> None:
    """Copy what belongs to a model besides its configuration and weights: the tokenizer."""
    import shutil

    made = ("config.json", MODEL_MANIFEST, MERGED)
    for file in sorted(model.iterdir()):
        # hidden files are a tool's own marks; weights may be shards with an index
        other = file.name in made or file.name.startswith(".") or ".safetensors" in file.name
        if file.is_file() and not other:
            shutil.copy2(file, folder / file.name)
