"""Commands of the chapter ``kernel``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ntktune.artifacts import Record, read_json, read_tensors, write_tensors
from ntktune.cli import Progress, add_command
from ntktune.cli.inputs import check_tokens, model_facts
from ntktune.errors import UserError

if TYPE_CHECKING:
    import torch

# Outputs of the head and the scalar f that the kernel is of. Two classes: the logit
# difference (Malladi et al. 2023).
FUNCTIONS = {"regression": (1, "scalar"), "classification": (2, "difference")}


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    parser = add_command(verbs, "draws", draws)
    parser.add_argument("--model", required=True, help="folder of the pretrained model")
    parser.add_argument("--blocks", type=int, help="keep the first blocks only (default: all)")
    parser.add_argument("--tokens", required=True, help="the task's tokens.safetensors")
    parser.add_argument("--draws", required=True, help="the task's draws.json")
    parser.add_argument("--task", required=True, help="the task's name")
    parser.add_argument("--seed", type=int, required=True, help="the study's root seed")
    parser.add_argument("--dtype", default="float32", help="float32, float64 or bfloat16")
    parser.add_argument(
        "--batch-tokens", type=int, default=1024, help="padded tokens in one pass (default: 1024)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", required=True, help="safetensors: kernels, outputs and labels")


def _checked_inputs(
    args: argparse.Namespace, tokens: dict[str, torch.Tensor], facts: dict
) -> tuple[list[list[int]], dict]:
    """Return the rows of each draw, and name, revision and checksum of the model.

    Raises
    ------
    UserError
        Tokens, draws, task and model do not belong together.
    """
    model = model_facts(args.model)
    check_tokens(args.tokens, facts, args.task, model)
    drawn = read_json(args.draws)
    if drawn["provenance"].get("data_sha256") != facts["data_sha256"]:
        raise UserError(
            f"{args.draws} was drawn from data {drawn['provenance'].get('data_sha256')}, but "
            f"{args.tokens} holds {facts['data_sha256']}; draw again"
        )
    rows, available = drawn["draws"], len(tokens["offsets"]) - 1
    if not rows or len({len(draw) for draw in rows}) != 1:
        raise UserError(
            f"{args.draws} must hold one or more draws of equal size; "
            f"their sizes are {[len(draw) for draw in rows]}"
        )
    for number, draw in enumerate(rows):
        wrong = [row for row in draw if not 0 <= row < available]
        if wrong:
            raise UserError(
                f"draw {number} of {args.draws} has row {wrong[0]}, but {args.tokens} has "
                f"rows 0 to {available - 1}; draw again"
            )
    return rows, model


def draws(args: argparse.Namespace) -> None:
    """Compute the Neural Tangent Kernels of all of a task's draws."""
    import torch

    from ntktune.device import select_device, torch_dtype
    from ntktune.kernel import gram
    from ntktune.models import text_model
    from ntktune.seeds import integer_seed

    record = Record("ntktune.cli.kernel:draws", args)
    dtype, device = torch_dtype(args.dtype), select_device(args.device)
    tokens, facts = read_tensors(args.tokens)
    rows, model_is = _checked_inputs(args, tokens, facts)
    examples = tokens["ids"].long().split(tokens["offsets"].diff().tolist())
    outputs, function = FUNCTIONS[facts["task"]["kind"]]
    seeds = [
        integer_seed(args.seed, "kernel.head", args.task, 0, draw) for draw in range(len(rows))
    ]
    model = text_model(
        args.model, outputs=outputs, head_seed=seeds[0], blocks=args.blocks, dtype=dtype
    ).to(device)
    progress = Progress(f"kernels of {args.task}, {len(rows)} draws", len(rows))
    found = []
    for draw, chosen in enumerate(rows):
        model.reset_head(torch.Generator().manual_seed(seeds[draw]))
        found.append(
            gram(
                model,
                [examples[row] for row in chosen],
                outputs=function,
                max_tokens=args.batch_tokens,
                dtype=dtype,
                device=device,
                progress=lambda done, draw=draw: progress(draw + done),
                max_bytes=2**31,
            )
        )
    index = torch.tensor(rows, dtype=torch.long)  # (draws, N)
    tensors = {
        "kernel": torch.stack([r.kernel for r in found]),
        "outputs": torch.stack([r.outputs for r in found]),
        "label": tokens["label"].double()[index],
        "label_noise": tokens["label_noise"].double()[index],
        "row": index,
    }
    for group in found[0].groups:
        tensors[f"group/{group}"] = torch.stack([r.groups[group] for r in found])
    provenance = record.provenance(
        task=facts["task"],
        data_sha256=facts["data_sha256"],
        model=model_is,
        blocks=args.blocks,
        function=function,
        dtype=args.dtype,
        device=str(device),
        seeds={"root": args.seed, "address": ["kernel.head", args.task, 0, "draw"]},
        head_seeds=seeds,
        kernel=[r.provenance for r in found],
    )
    write_tensors(args.out, tensors, provenance)
