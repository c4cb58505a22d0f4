"""Commands of the chapter ``finetune``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ntktune.artifacts import Record, read_json, read_tensors, write_table
from ntktune.cli import Progress, add_command
from ntktune.cli.inputs import check_tokens, model_facts
from ntktune.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ntktune.finetune.repeats import Examples, Repeat


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    parser = add_command(verbs, "run", run)
    add_training_options(parser)
    parser.add_argument("--out-metrics", required=True, help="parquet: one row per seed")
    parser.add_argument("--out-history", required=True, help="parquet: one row per evaluation")


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
    parser.add_argument("--tokens", required=True, help="the task's tokens.safetensors")
    parser.add_argument("--subsets", required=True, help="the task's subsets.json")
    parser.add_argument("--task", required=True, help="the task's name")
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
        "--patience", type=int, required=True, help="evaluations without a new best, then stop"
    )
    parser.add_argument("--dtype", default="float32", help="float32, float64 or bfloat16")


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


def read_subsets(path: str, tokens: str, tokens_facts: dict) -> dict:
    """Return a task's subsets.

    Raises
    ------
    UserError
        They were drawn from other data than the tokens hold.
    """
    subsets = read_json(path)
    drawn_from = subsets.get("provenance", {}).get("data_sha256")
    if drawn_from != tokens_facts.get("data_sha256"):
        raise UserError(
            f"{path} was drawn from data {drawn_from}, but {tokens} holds "
            f"{tokens_facts.get('data_sha256')}; draw the subsets again"
        )
    return subsets


def repeats(
    args: argparse.Namespace, seeds: Sequence[int] | None = None
) -> tuple[dict[str, Any], Any, Iterator[Repeat]]:
    """Return what a fine-tuning command needs: facts, model and the repeats, one per seed.

    The facts are for the provenance. The repeats are computed as they are asked for, and
    the model then holds that seed's fine-tuned weights.
    """
    from ntktune.device import select_device, torch_dtype
    from ntktune.finetune.repeats import OUTPUTS, all_steps, fine_tuned_repeats
    from ntktune.finetune.training import Settings
    from ntktune.models import text_model

    dtype, device = torch_dtype(args.dtype), select_device(args.device)
    # bfloat16 has too few digits for small steps: its weights stay float32, and only the
    # network's matrix products are bfloat16
    mixed = args.dtype == "bfloat16"
    settings = Settings(
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        batch_size=args.batch_size,
        max_epochs=args.max_epochs,
        evaluate_every=args.evaluate_every,
        patience=args.patience,
        batch_tokens=args.batch_tokens,
        autocast=dtype if mixed else None,
    )
    model_is = model_facts(args.model)
    examples, facts = read_examples(args.tokens, args.task, model_is)
    subsets = read_subsets(args.subsets, args.tokens, facts)
    seeds = list(range(len(subsets["seeds"]))) if seeds is None else list(seeds)
    steps = all_steps(examples, subsets, args.size, settings, seeds)
    model = text_model(
        args.model,
        outputs=OUTPUTS[examples.kind],
        head_seed=0,  # each seed draws its own head
        blocks=args.blocks,
        dtype=torch_dtype("float32") if mixed else dtype,
    ).to(device)
    what = f"fine-tuning {args.task}, n={args.size}, {len(seeds)} seeds"
    found = fine_tuned_repeats(
        model, examples, subsets, args.size, settings, args.seed, seeds, Progress(what, steps)
    )
    record = {
        "task": facts["task"],
        "data_sha256": facts.get("data_sha256"),
        "model": model_is,
        "blocks": args.blocks,
        "seeds": {"root": args.seed, "indices": seeds},
        "dtype": args.dtype,
        "device": str(device),
    }
    return record, model, found


def run(args: argparse.Namespace) -> None:
    """Fine-tune a task at one sample size with all its seeds, and measure the test error."""
    import dataclasses

    import pandas as pd

    record = Record("ntktune.cli.finetune:run", args)
    facts, _, found = repeats(args)
    rows, history = [], []
    for repeat in found:
        rows.append(repeat.row)
        history += [{"seed": repeat.seed} | dataclasses.asdict(e) for e in repeat.training.history]
    provenance = record.provenance(**facts)
    write_table(args.out_metrics, pd.DataFrame(rows), provenance)
    write_table(args.out_history, pd.DataFrame(history), provenance)
