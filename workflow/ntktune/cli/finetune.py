"""Commands of the chapter ``finetune``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ntktune.artifacts import Record, read_tensors, write_table
from ntktune.cli import Progress, add_command
from ntktune.cli.inputs import check_tokens, model_facts, read_subsets
from ntktune.cli.resume import Finished
from ntktune.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from ntktune.finetune.repeats import Examples, Repeat
    from ntktune.finetune.training import Settings
    from ntktune.models import TextModel


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    parser = add_command(verbs, "run", run)
    add_training_options(parser)
    parser.add_argument("--state", help="folder for finished seeds, to go on from after a kill")
    parser.add_argument("--out-metrics", required=True, help="parquet: one row per seed")
    parser.add_argument("--out-history", required=True, help="parquet: one row per evaluation")

    parser = add_command(verbs, "baselines", baselines)
    add_model_options(parser)
    add_task_options(parser)
    parser.add_argument("--sizes", nargs="+", type=int, required=True, help="sample sizes")
    parser.add_argument("--kernels", help="safetensors: kernels of the subsets and the test rows")
    parser.add_argument("--out", required=True, help="parquet: one row per method, size and seed")


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which task, and which samples of it."""
    parser.add_argument("--tokens", required=True, help="the task's tokens.safetensors")
    parser.add_argument("--subsets", required=True, help="the task's subsets.json")
    parser.add_argument("--task", required=True, help="the task's name")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model is used and where it computes."""
    parser.add_argument("--model", required=True, help="folder of the pretrained model")
    parser.add_argument("--blocks", type=int, help="keep the first blocks only (default: all)")
    parser.add_argument(
        "--batch-tokens", type=int, default=512, help="padded tokens in one pass (default: 512)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a fine-tuning: model, task, sample and how to train."""
    add_model_options(parser)
    add_task_options(parser)
    parser.add_argument("--size", type=int, required=True, help="labelled examples, hold-out in")
    parser.add_argument("--seed", type=int, required=True, help="the study's root seed")
    parser.add_argument("--learning-rate", type=float, required=True, help="AdamW's step size")
    parser.add_argument("--weight-decay", type=float, required=True, help="of weight matrices")
    parser.add_argument("--batch-size", type=int, required=True, help="examples per step")
    parser.add_argument("--max-epochs", type=int, required=True, help="passes, at most")
    parser.add_argument(
        "--evaluate-every", type=int, required=True, help="steps between hold-out evaluations"
    )
    parser.add_argument(
        "--patience", type=int, help="evaluations without a new best, then stop (default: never)"
    )
    parser.add_argument("--dtype", default="float32", help="float32, float64 or bfloat16")
    parser.add_argument(
        "--checkpointing",
        action="store_true",
        help="keep only the blocks' inputs for the backward pass: less memory, a third more work",
    )


def read_examples(tokens: str, task: str, model: dict[str, Any]) -> tuple[Examples, dict]:
    """Return a task's tokenised examples and the tokens' provenance.

    Raises
    ------
    UserError
        The tokens are another task's, or were made for another model.
    """
    from ntktune.finetune.repeats import Examples

    tensors, facts = read_tensors(tokens)
    check_tokens(tokens, facts, task, model)
    lengths = tensors["offsets"].diff().tolist()
    score_range = facts["task"].get("score_range")
    examples = Examples(
        task=task,
        kind=facts["task"]["kind"],
        ids=list(tensors["ids"].long().split(lengths)),
        label=tensors["label"].double().numpy(),
        label_noise=tensors["label_noise"].double().numpy(),
        score_range=tuple(score_range) if score_range else None,
    )
    return examples, facts


@dataclass(frozen=True)
class Cell:
    """One cell of the grid, as a command is asked for it: a task at one sample size.

    ``facts`` are for the provenance.
    """

    settings: Settings
    examples: Examples
    subsets: dict[str, Any]
    device: torch.device
    facts: dict[str, Any]


def read_cell(args: argparse.Namespace) -> Cell:
    """Return what a fine-tuning command works on; the model's weights are not read yet."""
    from ntktune.device import select_device, torch_dtype
    from ntktune.finetune.training import Settings

    dtype, device = torch_dtype(args.dtype), select_device(args.device)
    settings = Settings(
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        batch_size=args.batch_size,
        max_epochs=args.max_epochs,
        evaluate_every=args.evaluate_every,
        patience=args.patience,
        batch_tokens=args.batch_tokens,
        # bfloat16 has too few digits for small steps: its weights stay float32, and only the
        # network's matrix products are bfloat16
        autocast=dtype if args.dtype == "bfloat16" else None,
        checkpointing=args.checkpointing,
    )
    model_is = model_facts(args.model)
    examples, facts = read_examples(args.tokens, args.task, model_is)
    record = {
        "task": facts["task"],
        "data_sha256": facts.get("data_sha256"),
        "model": model_is,
        "blocks": args.blocks,
        "dtype": args.dtype,
        "device": str(device),
    }
    subsets = read_subsets(args.subsets, args.tokens, facts)
    return Cell(settings, examples, subsets, device, record)


def repeats(
    args: argparse.Namespace, cell: Cell, seeds: Sequence[int]
) -> tuple[TextModel, Iterator[Repeat]]:
    """Return the model and a cell's repeats, one per seed.

    The repeats are computed as they are asked for, and the model then holds that seed's
    fine-tuned weights.
    """
    from ntktune.device import torch_dtype
    from ntktune.finetune.repeats import OUTPUTS, all_steps, fine_tuned_repeats
    from ntktune.models import text_model

    steps = all_steps(cell.examples, cell.subsets, args.size, cell.settings, seeds)
    model = text_model(
        args.model,
        outputs=OUTPUTS[cell.examples.kind],
        head_seed=0,  # each seed draws its own head
        blocks=args.blocks,
        dtype=torch_dtype("float32" if cell.settings.autocast else args.dtype),
    ).to(cell.device)
    what = f"fine-tuning {args.task}, n={args.size}, {len(seeds)} seeds"
    found = fine_tuned_repeats(
        model,
        cell.examples,
        cell.subsets,
        args.size,
        cell.settings,
        args.seed,
        seeds,
        Progress(what, steps),
    )
    return model, found


# Options that change no number of a seed's result.
PLACES = ("model", "tokens", "subsets", "state", "device", "out_metrics", "out_history")


def _key(record: Record, cell: Cell, size: int, seed: int) -> dict[str, Any]:
    """Return what a seed's result depends on."""
    from importlib.metadata import version

    chosen = cell.subsets["seeds"][seed]
    return {
        "code": record.provenance()["code"],
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "settings": {k: v for k, v in record.settings.items() if k not in PLACES},
        "facts": cell.facts,
        "rows": [chosen["order"][:size], chosen["holdout"][:size], cell.subsets["test"]],
    }


def run(args: argparse.Namespace) -> None:
    """Fine-tune a task at one sample size with all its seeds, and measure the test error."""
    import dataclasses

    import pandas as pd

    record = Record("ntktune.cli.finetune:run", args)
    cell, finished = read_cell(args), Finished(args.state)
    seeds = range(len(cell.subsets["seeds"]))
    keys = {seed: _key(record, cell, args.size, seed) for seed in seeds}
    done = {seed: finished.get(f"seed{seed}", keys[seed]) for seed in seeds}
    left = [seed for seed in seeds if done[seed] is None]
    if len(left) < len(seeds):
        ready = ", ".join(str(seed) for seed in seeds if seed not in left)
        print(f"{args.task}, n={args.size}: seeds {ready} were finished before", file=sys.stderr)
    if left:
        for repeat in repeats(args, cell, left)[1]:
            history = [dataclasses.asdict(e) for e in repeat.training.history]
            done[repeat.seed] = {"row": repeat.row, "history": history}
            finished.put(f"seed{repeat.seed}", keys[repeat.seed], done[repeat.seed])
    provenance = record.provenance(
        **cell.facts, seeds={"root": args.seed, "indices": list(seeds), "resumed_at": left}
    )
    history = [{"seed": seed} | row for seed in seeds for row in done[seed]["history"]]
    write_table(args.out_metrics, pd.DataFrame([done[s]["row"] for s in seeds]), provenance)
    write_table(args.out_history, pd.DataFrame(history), provenance)


def baselines(args: argparse.Namespace) -> None:
    """Predict a task's test rows without fine-tuning: linear probe and kernel regression."""
    import pandas as pd
    import torch

    from ntktune.device import select_device
    from ntktune.finetune.baselines import baseline_rows
    from ntktune.finetune.training import last_states
    from ntktune.models import text_model

    record = Record("ntktune.cli.finetune:baselines", args)
    model_is = model_facts(args.model)
    examples, facts = read_examples(args.tokens, args.task, model_is)
    subsets = read_subsets(args.subsets, args.tokens, facts)
    kernels = _kernels(args, facts, model_is) if args.kernels else {}
    device = select_device(args.device)
    orders = [seed["order"][: max(args.sizes)] for seed in subsets["seeds"]]
    rows = sorted({row for order in [*orders, subsets["test"]] for row in order})
    model = text_model(args.model, outputs=1, head_seed=0, blocks=args.blocks).to(device)
    states = last_states(model, [examples.ids[row] for row in rows], args.batch_tokens)
    features = dict(zip(rows, states.to(torch.float64).numpy(), strict=True))
    found = baseline_rows(examples, subsets, args.sizes, features, kernels)
    provenance = record.provenance(
        task=facts["task"],
        data_sha256=facts.get("data_sha256"),
        model=model_is,
        blocks=args.blocks,
        dtype="float32",
        device=str(device),
    )
    write_table(args.out, pd.DataFrame(found), provenance)


def _kernels(args: argparse.Namespace, facts: dict, model: dict) -> dict[int, tuple]:
    """Return each seed's kernel, f_0 and rows.

    Raises
    ------
    UserError
        They are of another task, other data, another model or other blocks.
    """
    tensors, made = read_tensors(args.kernels)
    for what, stated, wanted in (
        ("task", made.get("task", {}).get("name"), args.task),
        ("data", made.get("data_sha256"), facts.get("data_sha256")),
        ("model", made.get("model", {}).get("sha256"), model["sha256"]),
        ("blocks", made.get("blocks"), args.blocks),
    ):
        if stated != wanted:
            raise UserError(
                f"{args.kernels} was computed for {what} {stated}, not {wanted}; compute it again"
            )
    parts = (tensors["kernel"], tensors["outputs"], tensors["row"])
    return {
        seed: (gram.numpy(), start.numpy(), rows.tolist())
        for seed, (gram, start, rows) in enumerate(zip(*parts, strict=True))
    }
