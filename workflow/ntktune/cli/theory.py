"""Commands of the chapter ``theory``."""

import argparse

from ntktune.cli import Progress, add_command, optional
from ntktune.cli.finetune import CHOSEN, TRAINED, pretrained_model, read_cell
from ntktune.cli.inputs import check_classes, read_kernels, read_samples
from ntktune.cli.record import write_tables
from ntktune.errors import UserError
from ntktune.network.device import machine_epsilon


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "stopping", stopping, "gram"),
        out="parquet: one row per draw",
        out_sensitivity=optional("parquet: by estimate of noise and radius"),
    )
    add_command(
        *(verbs, "rules", rules, "subsets"),
        kernels="the task's learning.safetensors",
        out_rules="parquet: one row per seed, n and rule",
        out_ridge="parquet: descent beside ridge",
    )
    add_command(
        *(verbs, "trajectory", trajectory, *TRAINED),
        **CHOSEN,
        out_evaluations="parquet: a row per evaluation",
        out_ridge="parquet: networks at ridge solutions",
        out_stops="parquet: one row per seed",
    )
    add_command(
        *(verbs, "width", width),
        out="parquet: a row per width, seed and phase",
        out_slopes="parquet: fitted slopes",
    )
    add_command(
        *(verbs, "simulate", simulate),
        out_errors="parquet: one row per size and rule",
        out_radii="parquet: one row per decay exponent",
    )


def simulate(args: argparse.Namespace) -> None:
    """Repeat the simulation of Raskutti, Wainwright & Yu 2014: four stopping rules, f* known."""
    from ntktune.study.seeds import generator
    from ntktune.theory.simulation import DECAYS, RADIUS_SIZES, radius_rows, simulated_rows

    progress = Progress("simulation", sum(n**2 for n in args.sizes))
    rows, done = [], 0
    for n in args.sizes:
        found = simulated_rows(n, args.repeats, generator(args.seed, "theory.simulation", size=n))
        rows += [row | {"repeats": args.repeats} for row in found]
        done += n**2
        progress(done)
    tables = {args.out_errors: rows, args.out_radii: radius_rows(DECAYS, RADIUS_SIZES)}
    write_tables(args, tables, seeds={"root": args.seed, "address": ["theory.simulation", "n"]})


def rules(args: argparse.Namespace) -> None:
    """Stop kernel descent by four rules, and compare it with ridge, on a task's nested samples."""
    from ntktune.theory.rules import nested_rules

    names = ("kernel", "outputs", "label", "label_noise", "row")
    tensors, facts = read_kernels(args.kernels, names)
    check_classes(facts["task"])
    rows, ridge = nested_rules(
        *(tensors, read_samples(args.subsets, args.kernels, facts), facts["task"]["kind"]),
        args.sizes,
        step_size_factor=args.step_size_factor,
        precision=machine_epsilon(facts["dtype"]),
    )
    if not rows:
        raise UserError(
            f"{args.kernels} covers none of the sizes {', '.join(map(str, args.sizes))}; give "
            "smaller ones, or compute a larger kernel"
        )
    write_tables(args, {args.out_rules: rows, args.out_ridge: ridge}, **facts)


def trajectory(args: argparse.Namespace) -> None:
    """Fine-tune and watch: linearisation, drift of the kernel, and stops on the theory's clock."""
    from ntktune.theory.trajectory import watched_seeds

    cell = read_cell(args, args.seeds)
    check_classes(cell.facts["task"])
    tables = watched_seeds(
        *(pretrained_model(args, cell), cell.examples, cell.subsets, args.size, args.seeds),
        *(cell.settings, args.seed),
        test_rows=args.test_rows,
        descent_steps=args.descent_steps,
        step_size_factor=args.step_size_factor,
        constant=args.constant,
        progress=Progress(f"watching {args.task}, n={args.size}", args.seeds),
    )
    outs = (args.out_evaluations, args.out_ridge, args.out_stops)
    seeds = {"root": args.seed, "indices": list(range(args.seeds))}
    write_tables(args, dict(zip(outs, tables, strict=True)), **cell.facts, seeds=seeds)


def width(args: argparse.Namespace) -> None:
    """Train attention networks of several widths, and measure how linear they are."""
    from ntktune.study.seeds import generator
    from ntktune.theory.width import width_rows, width_slopes

    def drawn(size, repeat):
        return generator(args.seed, "theory.width", size=size, repeat=repeat)

    progress = Progress("width study", args.seeds * sum(n**2 for n in args.widths))
    found = width_rows(args.widths, args.seeds, drawn, progress)
    seeds = {"root": args.seed, "address": ["theory.width", "width", "seed"]}
    tables = {args.out: found, args.out_slopes: width_slopes(found)}
    write_tables(args, tables, seeds=seeds, dtype="float32")


def stopping(args: argparse.Namespace) -> None:
    """Compute critical radius and stopping time of a task's kernels."""
    from ntktune.theory.stopping import stopping_rows

    tensors, facts = read_kernels(args.gram, ("kernel", "outputs", "label", "label_noise"))
    check_classes(facts["task"])
    rows, sensitivity = stopping_rows(
        *(tensors, facts["task"]["kind"]),
        precision=machine_epsilon(facts["dtype"]),
        step_size_factor=args.step_size_factor,
        sensitivity=bool(args.out_sensitivity),
    )
    meaning = {
        "regression": "standardised by the draw's mean and standard deviation",
        "classification": "-1 for class 0, +1 for class 1, target of the logit difference",
    }
    tables = {args.out: rows}
    tables |= {args.out_sensitivity: sensitivity} if args.out_sensitivity else {}
    write_tables(args, tables, **facts, labels=meaning[facts["task"]["kind"]])
