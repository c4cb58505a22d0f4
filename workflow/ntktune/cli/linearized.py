"""Commands of the chapter ``linearized``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ntktune.cli import Progress, add_command, model_options, optional
from ntktune.cli.inputs import from_hub
from ntktune.cli.kernel import file_options, file_texts, kernel_function, loaded
from ntktune.errors import UserError
from ntktune.network.device import select_device, torch_dtype

if TYPE_CHECKING:
    import numpy as np

    from ntktune.finetune.training import Lora


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "layers", layers),
        network=from_hub,
        **model_options(),
        **file_options(),
        out=optional("folder: adapter_config.json of adapters on the best layers, for peft"),
    )


def layers(args: argparse.Namespace) -> None:
    """Rank sets of layers to train by the error that their kernels predict, before training."""
    from ntktune.linearized.layers import layer_sets, lora_of, ranked_sets, weight_grams
    from ntktune.study.seeds import integer_seed

    texts, _ = file_texts(args)
    rows, task = texts["rows"][0], texts["facts"]["task"]
    outputs, function = kernel_function(task)
    seed = integer_seed(args.seed, "kernel.head", task["name"], 0, 0)
    device = select_device(args.device)
    model = loaded(args, texts["folder"], None, outputs=outputs, head_seed=seed).to(device)
    grams, start = weight_grams(
        *(model, [texts["examples"][row] for row in rows], function),
        progress=Progress(f"kernels of {task['name']}'s layers", 1),
        max_tokens=args.batch_tokens,
        dtype=torch_dtype(args.dtype),
        device=device,
    )
    target = _target(task, texts["labels"]["label"].numpy()[rows], outputs)
    scale = target.var(axis=0).sum() ** 0.5  # so that the labels' variance is the unit
    lora = _lora(args) if args.method == "lora" else None
    sets = layer_sets(model.backbone)
    found = ranked_sets(model.backbone, grams, (target - start.numpy()) / scale, sets, lora)
    print(_told(found, args.method))
    if args.out:
        best = sets[found[0]["layers"]]
        _write_adapter(args, texts["facts"]["model"], lora_of(model.backbone, best, _lora(args)))


def _lora(args: argparse.Namespace) -> Lora:
    from ntktune.finetune.training import Lora

    return Lora(args.lora_rank, args.lora_alpha, rslora=args.lora_rslora)


def _target(task: dict[str, Any], label: np.ndarray, outputs: int) -> np.ndarray:
    """Return y: standardised scores, −1 and +1 of two classes, or a column per class."""
    from ntktune.finetune.repeats import class_targets

    if len(set(label)) == 1:
        raise UserError(f"all {len(label)} rows have the same label; no layer can tell them apart")
    if task["kind"] == "regression":
        return (label - label.mean()) / label.std()
    return 2 * label - 1 if outputs == 2 else class_targets(label, outputs)


def _told(found: list[dict[str, Any]], method: str) -> str:
    """Return the table of sets, best first."""
    from ntktune.figures.overview import plain_table

    lines = [["layers", "trained", "predicted error", "evidence", "alignment", "condition", "λ_1"]]
    for row in found:
        numbers = (f"{row[key]:.3f}" for key in ("gcv", "evidence", "alignment"))
        large = (f"{row[key]:.3g}" for key in ("condition", "largest"))
        lines.append([row["layers"], f"{row['parameters']:,}", *numbers, *large])
    how = "low-rank adapters" if method == "lora" else "all weights of these layers"
    return (
        f"{how} and the head, by the error that kernel regression predicts (generalised "
        f"cross-validation, in units of the labels' variance):\n\n{plain_table(lines)}"
    )


def _write_adapter(args: argparse.Namespace, model: dict[str, Any], lora: Lora) -> None:
    from ntktune.finetune.methods import lora_config
    from ntktune.store.files import atomic_path

    config = lora_config(lora.targets, lora)
    config.task_type = "SEQ_CLS"  # so that peft trains and keeps the head too
    config.base_model_name_or_path, config.revision = model["name"], model["revision"]
    with atomic_path(args.out) as folder:
        config.save_pretrained(folder)
    print(f"wrote {args.out}/adapter_config.json", file=sys.stderr)
