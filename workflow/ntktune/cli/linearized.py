"""Commands of the chapter ``linearized``."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command, model_options, optional
from ntktune.cli.finetune import CHOSEN, TRAINED, pretrained_model, read_cell
from ntktune.cli.inputs import check_classes, check_new_folder, from_hub
from ntktune.cli.kernel import (
    file_options,
    file_texts,
    kernel_function,
    kernel_network,
    read_draws,
    task_texts,
)
from ntktune.cli.options import command_options
from ntktune.cli.record import record, write_tables
from ntktune.errors import UserError
from ntktune.network.device import machine_epsilon, select_device, torch_dtype
from ntktune.store.code_digest import code_digest
from ntktune.store.unfinished import finished_part, keep_part

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ntktune.finetune.training import Lora


ADAPTER_FILE = "adapter_config.json"  # peft's
ALIKE = 0.01  # sets whose predicted errors are within such a share are not told apart


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "layers", layers),
        network=from_hub,
        **model_options(),
        **file_options(),
        out=optional("folder: adapter_config.json of adapters on the best layers, for peft"),
    )
    add_command(
        *(verbs, "sets", sets, "model", "tokens", "task"),
        draws="the task's draws.json; the kernels are of the first draw",
        out="parquet: one row per set of layers",
        out_layers="parquet: one row per linear layer",
        out_grams="safetensors: each weight's own kernel",
    )
    add_command(
        *(verbs, "tune", tune, *TRAINED),
        **CHOSEN,
        out="parquet: a row per set and seed",
        state=optional("folder that keeps the sets that a killed run has trained"),
    )
    add_command(
        *(verbs, "hold", hold, *TRAINED),
        **CHOSEN,
        out="parquet: a row per penalty, seed and evaluation",
        out_radius="parquet: how the Jacobian changes with the distance",
    )


def layers(args: argparse.Namespace) -> None:
    """Rank sets of layers to train by the error that their kernels predict, before training."""
    from ntktune.linearized.layers import layer_sets, lora_of

    if args.out:
        check_new_folder(args.out, [args.model, args.data], ADAPTER_FILE)
    texts, _ = file_texts(args)
    found, _, _, backbone = ranked_layers(args, texts, texts["rows"][0], None)
    print(_told(found, args.method))
    if args.out:
        best = layer_sets(backbone)[found[0]["layers"]]
        write_adapter(args.out, texts["facts"]["model"], lora_of(backbone, best, adapters(args)))
        print(f"wrote {args.out}/{ADAPTER_FILE}", file=sys.stderr)


def sets(args: argparse.Namespace) -> None:
    """Compute each weight's own kernel, and what the kernels of sets of layers say of training."""
    from ntktune.linearized.layers import MOST_ROWS
    from ntktune.store.tensors import write_tensors

    texts = task_texts(args)
    rows = read_draws(args, texts)[0][:MOST_ROWS]
    found, alone, grams, _ = ranked_layers(args, texts, rows, args.sets)
    facts = {key: texts["facts"][key] for key in ("task", "data_sha256", "model")}
    write_tensors(args.out_grams, grams, record(args, **facts))
    write_tables(args, {args.out: found, args.out_layers: alone}, **facts)


def tune(args: argparse.Namespace) -> None:
    """Fine-tune sets of layers, each at the learning rate that the hold-out chooses for it."""
    from ntktune.linearized.choice import tuned_sets

    cell = read_cell(args, args.seeds)
    names = command_options("linearized tune").keys() - {"sets"}
    key = {"settings": {name: getattr(args, name) for name in sorted(names)}, "facts": cell.facts}
    key |= {"code": code_digest("ntktune.cli.linearized:tune"), "subsets": cell.subsets}
    kept = {"folder": args.state, "key": key}
    rows = tuned_sets(
        functools.partial(pretrained_model, args, cell),
        *(cell.examples, cell.subsets, args.size, cell.settings, args.seed, args.sets),
        rates=[factor * args.learning_rate for factor in args.rate_factors],
        seeds=args.seeds,
        finished=lambda name: (finished_part(name=name, **kept) or {}).get("rows"),
        keep=lambda name, rows: keep_part(name=name, content={"rows": rows}, **kept),
        progress=lambda whole: Progress(f"sets of layers of {args.task}", whole),
    )
    seeds = {"root": args.seed, "indices": list(range(args.seeds))}
    write_tables(args, {args.out: rows}, **cell.facts, seeds=seeds)


def hold(args: argparse.Namespace) -> None:
    """Hold fine-tuning near its start by penalties: how linear it stays, and what that costs."""
    from ntktune.linearized.held import held_seeds

    cell = read_cell(args, args.seeds)
    check_classes(cell.facts["task"])
    found = held_seeds(
        *(pretrained_model(args, cell), cell.examples, cell.subsets, args.size, args.seeds),
        *(cell.settings, args.seed),
        **{name: getattr(args, name) for name in ("shares", "test_rows", "radii", "radius_draws")},
        progress=Progress(f"holding {args.task}, n={args.size}", args.seeds),
    )
    seeds = {"root": args.seed, "indices": list(range(args.seeds))}
    outs = dict(zip((args.out, args.out_radius), found, strict=True))
    write_tables(args, outs, **cell.facts, seeds=seeds)


def ranked_layers(
    args: argparse.Namespace,
    texts: dict[str, Any],
    rows: Sequence[int],
    names: Sequence[str] | None,
    further: Sequence[torch.Tensor] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, torch.Tensor], nn.Module]:
    """Return what sets of layers, and layers, say of training; weights' kernels; the backbone.

    Kernels are of the texts ``rows`` and of ``further`` ones, whose labels are not looked at.
    """
    from ntktune.finetune.repeats import kernel_targets
    from ntktune.linearized.layers import layer_rows, named_sets, ranked_sets, weight_grams
    from ntktune.study.seeds import integer_seed

    task = texts["facts"]["task"]
    outputs, function = kernel_function(task)
    label = texts["labels"]["label"].numpy()[rows]
    if len(set(label)) == 1:
        raise UserError(f"all {len(rows)} rows have the same label; no layer can tell them apart")
    target = kernel_targets(label, None if task["kind"] == "regression" else outputs)
    seed = integer_seed(args.seed, "kernel.head", task["name"], 0, 0)
    device = select_device(args.device)
    model = kernel_network(args, texts["folder"], None, device, outputs=outputs, head_seed=seed)
    chosen = named_sets(model.backbone, names)
    grams, start = weight_grams(
        *(model, [*(texts["examples"][row] for row in rows), *further], function),
        progress=Progress(f"kernels of layers, {task['name']}", 1),
        max_tokens=args.batch_tokens,
        dtype=torch_dtype(args.dtype),
        device=device,
    )
    scale = target.var(axis=0).sum() ** 0.5  # so that the labels' variance is the unit
    lora = adapters(args) if args.method == "lora" else None
    # training starts at a mean output of 0, too
    start = start[: len(rows)]
    shift = (target - (start - start.mean(dim=0)).numpy()) / scale
    own = {name: gram[: len(rows), : len(rows)] for name, gram in grams.items()}
    about = (model.backbone, own, shift)
    found = ranked_sets(*about, chosen, lora, machine_epsilon(args.dtype))
    return found, layer_rows(*about, lora), grams, model.backbone


def adapters(args: argparse.Namespace) -> Lora:
    """Return what adapters are, by the options."""
    from ntktune.finetune.training import Lora

    return Lora(args.lora_rank, args.lora_alpha, rslora=args.lora_rslora)


def differ(found: list[dict[str, Any]]) -> bool:
    """Return whether the predicted errors of sets of layers, best first, differ at all."""
    errors = [row["gcv_layers"] for row in found]
    return errors[-1] >= (1 + ALIKE) * errors[0]


def _told(found: list[dict[str, Any]], method: str) -> str:
    """Return the table of sets, best first."""
    from ntktune.figures.overview import plain_table

    lines = [["layers", "trained", "predicted error", "with the head", "evidence", "alignment"]]
    lines[0] += ["condition", "λ_1"]
    for row in found:
        numbers = (f"{row[key]:.3f}" for key in ("gcv_layers", "gcv", "evidence", "alignment"))
        large = (f"{row[key]:.3g}" for key in ("condition", "largest"))
        lines.append([row["layers"], f"{row['parameters']:,}", *numbers, *large])
    how = "low-rank adapters" if method == "lora" else "all weights of these layers"
    said = (
        f"{how}, by the error that regression on the layers' own kernel predicts (generalised "
        f"cross-validation, in units of the labels' variance); the head is trained with each, and "
        f"all that follows is with its kernel:\n\n{plain_table(lines)}"
    )
    if len(found) > 1 and not differ(found):
        said += f"\n\nThe predicted errors differ by less than {ALIKE:.0%}: the order says nothing."
    return said


def write_adapter(out: str, model: dict[str, Any], lora: Lora) -> None:
    """Write the folder of peft's configuration of some adapters on a model."""
    from ntktune.finetune.methods import lora_config
    from ntktune.store.files import atomic_path

    config = lora_config(lora.targets, lora)
    config.task_type = "SEQ_CLS"  # so that peft trains and keeps the head too
    config.base_model_name_or_path, config.revision = model["name"], model["revision"]
    with atomic_path(out) as folder:
        config.save_pretrained(folder)
