"""Fine-tuning by ntktune beside transformers' Trainer, on the same work.

    python benchmarks/finetune.py --study results/quickstart --seeds 2
    python benchmarks/finetune.py --study results/quickstart --seeds 2 --tune lora

The same model, texts, seeds, batches in the same order, steps, precision and evaluations, of a
study whose data are there (``snakemake data`` or any later target makes them). Every measurement
is a fresh process for one task, all its sizes and seeds; the methods take turns.

ours          ntktune.finetune: one model load, weights reset between the seeds
trainer       one transformers.Trainer per seed in one process, the model loaded once and reset:
              fused AdamW, batches of similar length padded to their own longest text, large
              evaluation batches without gradient, the best weights kept in memory by a callback
              (faster than the checkpoints that Trainer itself would write and load)

With ``--tune lora`` both train peft's low-rank adapters on every linear layer, from the same start.

The table has, per task and method, the seconds, the highest memory above the loaded model, and
the mean test score (Pearson correlation or accuracy); the summary the ratios, and how far the
two methods' scores of the same task, size and seed are apart.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measuring import in_fresh_process, measured
from torch import nn

from ntktune.cli.finetune import read_examples
from ntktune.cli.inputs import model_facts
from ntktune.finetune.methods import trained_by
from ntktune.finetune.repeats import (
    Examples,
    fine_tuned_repeats,
    measured_metrics,
    start_seed,
)
from ntktune.finetune.training import Settings, batch_rows, optimizer, trained_weights
from ntktune.network.models import TextModel, pad, text_model
from ntktune.store.records import read_json
from ntktune.study.seeds import integer_seed

METHODS = ("ours", "trainer")
SCORE = {"regression": "pearson", "classification": "accuracy"}


def ours(
    model: TextModel, examples: Examples, subsets: dict, size: int, settings: Settings, case: dict
) -> list[dict]:
    """Return one row of metrics per seed."""
    found = fine_tuned_repeats(
        model, examples, subsets, size, settings, case["root"], range(case["seeds"])
    )
    return [repeat.row for repeat in found]


def trainer(
    model: TextModel, examples: Examples, subsets: dict, size: int, settings: Settings, case: dict
) -> list[dict]:
    """Return the same rows from transformers' Trainer, on peft's adapters if asked for."""
    rows = {row for seed in subsets["seeds"] for row in seed["order"][:size]}
    with trained_by(model, examples.ids, rows, set(), settings) as (_, again, _):
        return trainings(model, examples, subsets, size, settings, case, again)


def trainings(
    model: TextModel,
    examples: Examples,
    subsets: dict,
    size: int,
    settings: Settings,
    case: dict,
    again: Callable[[int], None],
) -> list[dict]:
    """Return one row per seed; ``again`` puts the model back to a training's start."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    seeds, parameters = range(case["seeds"]), trained_weights(model)
    regression = examples.kind == "regression"

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            found = self.inner(input_ids, attention_mask)
            lose = nn.functional.mse_loss if regression else nn.functional.cross_entropy
            return {"loss": lose(found, labels), "logits": found}

        def train(self, mode: bool = True) -> nn.Module:
            return super().train(False)  # without dropout, as ours

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        ids, mask = pad([row["input_ids"] for row in rows])
        labels = torch.stack([row["labels"] for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    class KeepBest(TrainerCallback):
        """Stop and keep the best weights by the rule of ours, and evaluate after the last step."""

        def __init__(self) -> None:
            self.lowest, self.step, self.worse, self.weights = float("inf"), 0, 0, None

        def on_step_end(self, args, state, control, **kwargs):
            control.should_evaluate |= state.global_step == state.max_steps

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            if metrics["eval_loss"] < self.lowest:
                self.lowest, self.step, self.worse = metrics["eval_loss"], state.global_step, 0
                if self.weights is None:
                    self.weights = [torch.empty_like(value) for value in parameters]
                for kept, value in zip(self.weights, parameters, strict=True):
                    kept.copy_(value.detach())
            else:
                self.worse += 1
                control.should_training_stop |= self.worse == settings.patience

    class SameBatches(Trainer):
        def __init__(self, batches: list[list[int]], **settings) -> None:
            super().__init__(**settings)
            self.batches = batches

        def get_train_dataloader(self) -> torch.utils.data.DataLoader:
            return torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator
            )

        def create_optimizer(self, *args) -> torch.optim.Optimizer:
            self.optimizer = optimizer(model, settings.learning_rate, settings.weight_decay)
            return self.optimizer

    rows = []
    for seed in seeds:
        again(integer_seed(case["root"], "finetune.adapter", repeat=seed))
        start = start_seed(model, examples, subsets, size, seed, settings, case["root"])
        data = [
            {"input_ids": ids, "labels": target}
            for ids, target in zip(examples.ids, start.targets, strict=True)
        ]
        lengths = [len(ids) for ids in examples.ids]
        batches = list(batch_rows(start.train, lengths, settings, start.order))
        best = KeepBest()
        once = SameBatches(
            batches,
            model=WithLoss(),
            args=TrainingArguments(
                output_dir=case["scratch"],
                max_steps=len(batches),
                per_device_eval_batch_size=32,
                eval_strategy="steps",
                eval_steps=settings.evaluate_every,
                eval_on_start=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                lr_scheduler_type="constant",
                max_grad_norm=0.0,
                prediction_loss_only=True,
                optim="adamw_torch_fused",
                dataloader_pin_memory=False,
                remove_unused_columns=False,
                label_names=["labels"],
            ),
            train_dataset=data,
            eval_dataset=[data[i] for i in sorted(start.holdout, key=lambda i: lengths[i])],
            data_collator=collate,
            callbacks=[best],
        )
        with contextlib.redirect_stdout(sys.stderr):
            once.train()
        with torch.no_grad():
            for kept, value in zip(best.weights, parameters, strict=True):
                value.copy_(kept)
        model.zero_grad(set_to_none=True)
        found = measured_metrics(model, examples, subsets["test"], start.train, settings)
        rows.append(
            found
            | {"n": size, "seed": seed, "best_step": best.step, "steps": once.state.global_step}
        )
    return rows


def read_case(case: dict) -> tuple[TextModel, Examples, dict, Settings]:
    """Return the model, the task's examples and subsets, and the study's training settings."""
    import yaml

    study = Path(case["study"])
    config = yaml.safe_load((study / "config.yaml").read_text())
    folder, data = str(study / "data/model"), study / "data" / case["task"]
    examples, _ = read_examples(str(data / "tokens.safetensors"), case["task"], model_facts(folder))
    subsets = read_json(data / "subsets.json")
    names = ("learning_rate", "weight_decay", "batch_size", "evaluate_every", "patience")
    names += ("max_epochs", "batch_tokens", "max_steps", "head")
    how = {name: config["finetune"][name] for name in names} | {"method": case["tune"]}
    how["learning_rate"] *= 10 if case["tune"] == "lora" else 1
    settings = Settings(**how)
    model = text_model(folder, outputs=examples.outputs, head_seed=0, blocks=case["blocks"])
    return model, examples, subsets, settings


def measure(case: dict) -> None:
    """Run one method on one task, all sizes and seeds; print seconds, memory and metrics."""
    torch.set_num_threads(case["threads"])
    model, examples, subsets, settings = read_case(case)
    run = {"ours": ours, "trainer": trainer}[case["method"]]
    # load lazily; not what is measured
    for name in ("transformers.trainer", *["peft"] * (case["tune"] == "lora")):
        importlib.import_module(name)
    rows, seconds, peak = measured(
        lambda: [
            row
            for size in case["sizes"]
            for row in run(model, examples, subsets, size, settings, case)
        ]
    )
    score = float(np.mean([row[SCORE[examples.kind]] for row in rows]))
    found = {"seconds": seconds, "peak_mb": peak / 1e6, "score": score}
    steps = sum(row["steps"] for row in rows)
    scores = [row[SCORE[examples.kind]] for row in rows]
    print(json.dumps(found | {"steps": steps, "scores": scores}))


def main() -> None:
    """Measure all tasks and methods and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True, help="results folder of a study with its data")
    tasks = ["amazon-intensity", "film-intensity", "amazon-polarity"]
    parser.add_argument("--tasks", nargs="+", default=tasks)
    parser.add_argument("--sizes", nargs="+", type=int, default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--root", type=int, default=0, help="root seed (default: 0)")
    parser.add_argument("--blocks", type=int, default=4, help="first blocks (default: 4)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--tune", default="full", choices=("full", "lora"), help="what is trained")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", default="results/benchmarks")
    parser.add_argument("--out", default="results/benchmarks/finetune.csv")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    if "--case" in sys.argv:
        measure(json.loads(sys.argv[sys.argv.index("--case") + 1]))
        return
    args = parser.parse_args()
    runs: dict[tuple[str, str], list[dict]] = {}
    for _ in range(args.repeats):
        for task in args.tasks:
            for method in args.methods:
                case = vars(args) | {"task": task, "method": method}
                found = in_fresh_process(__file__, case)
                runs.setdefault((task, method), []).append(found)
                print(task, method, found, flush=True)
    rows = [
        {"task": task, "method": method, "blocks": args.blocks, "threads": args.threads}
        | {name: statistics.median(r[name] for r in found) for name in ("seconds", "peak_mb")}
        | {"score": found[0]["score"], "steps": found[0]["steps"], "runs": len(found)}
        for (task, method), found in runs.items()
    ]
    table = pd.DataFrame(rows)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, index=False, float_format="%.5g")
    sums = table.groupby("method")[["seconds", "peak_mb"]].agg({"seconds": "sum", "peak_mb": "max"})
    print(sums)
    if set(METHODS) <= set(sums.index):
        ratio = sums.loc["trainer"] / sums.loc["ours"]
        print(f"Trainer: {ratio['seconds']:.2f} x the time, {ratio['peak_mb']:.2f} x the memory")
        for task in args.tasks:
            ours, theirs = (np.array(runs[task, method][0]["scores"]) for method in METHODS)
            print(
                f"{task}: mean score {ours.mean():.4f} and {theirs.mean():.4f}, sd over sizes and "
                f"seeds {ours.std():.4f}, largest difference of one {abs(ours - theirs).max():.1e}"
            )


if __name__ == "__main__":
    main()
