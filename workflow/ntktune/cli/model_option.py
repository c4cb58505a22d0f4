"""``--model`` of the stand-alone commands: a folder, or an id of the Hugging Face hub."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ntktune.cli.inputs import model_facts
from ntktune.errors import UserError, not_there
from ntktune.store.files import MODEL_MANIFEST
from ntktune.store.records import write_json

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def add_model(parser: argparse.ArgumentParser, help_: str = "model folder") -> None:
    """Add the options that name a model: its folder, or an id of the hub and a revision."""
    help_ += ", or an id of the Hugging Face hub (owner/name)"
    parser.add_argument("--model", required=True, help=help_)
    help_ = "of a model of the hub: commit, tag or branch (default: main)"
    parser.add_argument("--revision", help=help_)


def from_hub(args: argparse.Namespace) -> bool:
    """Return whether ``--model`` is an id of the hub: no folder, and not written like one.

    Raises
    ------
    UserError
        It is neither, or a folder has ``--revision``.
    """
    if args.model and Path(args.model).is_dir():
        if args.revision is not None:
            raise UserError(
                f"--revision {args.revision} is for models of the hub, but --model {args.model} is "
                "a folder; leave --revision out"
            )
        return False
    if not args.model:
        raise UserError("--model is empty; give a model's folder or an id of the hub (owner/name)")
    if Path(args.model).exists():
        raise UserError(f"--model {args.model} is a file; give the model's folder")
    if not HUB_ID.fullmatch(args.model):
        raise not_there(args.model, "correct --model, or give an id of the hub (owner/name)")
    return True


def located_model(args: argparse.Namespace, files: Sequence[str] | None = None) -> dict[str, Any]:
    """Download a model of the hub; return name, revision and checksum of any model.

    Parameters
    ----------
    args
        ``model`` is a folder afterwards.
    files
        Patterns of the files to download; None downloads all that a model has.

    Raises
    ------
    UserError
        The model cannot be downloaded.
    """
    from ntktune.data.hub import MODEL_FILES, download_model

    if from_hub(args):
        name = args.model
        with _missing_folder_first(name):
            folder, commit = download_model(name, args.revision or "main", files or MODEL_FILES)
        print(f"model {name} of the hub, commit {commit}", file=sys.stderr)
        args.model = str(folder)
        return {"name": name, "revision": commit, "sha256": None}
    # a folder that another program wrote has no manifest
    if (Path(args.model) / MODEL_MANIFEST).is_file():
        return model_facts(args.model)
    return {"name": Path(args.model).resolve().name, "revision": None, "sha256": None}


@contextlib.contextmanager
def study_model(args: argparse.Namespace) -> Iterator[str]:
    """Yield a model's folder as studies have it; the hub's is made in a temporary folder.

    Raises
    ------
    UserError
        The model cannot be downloaded or used.
    """
    if not from_hub(args):
        yield args.model
        return
    from ntktune.data.pretrained import write_model

    source = {"name": args.model, "hub": {"id": args.model, "revision": args.revision or "main"}}
    with tempfile.TemporaryDirectory(prefix="ntktune-") as temporary:
        folder = Path(temporary) / "model"
        with _missing_folder_first(args.model):
            facts = write_model(source, folder)
        write_json(folder / MODEL_MANIFEST, facts, {})
        yield str(folder)


@contextlib.contextmanager
def _missing_folder_first(model: str) -> Iterator[None]:
    """Add to the hub's error that there is no such folder either."""
    try:
        yield
    except UserError as error:
        raise UserError(f"--model {model}: there is no such folder, and {error}") from None
