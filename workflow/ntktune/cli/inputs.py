"""What several commands read, and checks that the files of one command belong together."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.errors import UserError, check_names, not_there
from ntktune.store.files import MODEL_MANIFEST, damaged, in_results
from ntktune.store.records import read_json, write_json
from ntktune.store.tensors import read_arrays, read_tensors

if TYPE_CHECKING:
    import numpy as np

SUBSET_KEYS = ("seeds", "test", "holdout_fraction")
# Facts of a kernel that hold for what is computed from it.
OF_KERNEL = ("task", "data_sha256", "model", "function", "dtype")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def model_manifest(folder: str) -> dict[str, Any]:
    """Return the manifest of a model folder; raise UserError if it is damaged or not there."""
    path = Path(folder) / MODEL_MANIFEST
    if not Path(folder).exists():
        raise not_there(folder, "correct the path of the model's folder")
    if in_results(folder) and Path(folder).is_dir() and not path.is_file():
        raise damaged(path, "it is missing")
    return read_json(path)


def model_facts(folder: str) -> dict[str, Any]:
    """Return name, revision and checksum of a model folder, from its manifest."""
    manifest = model_manifest(folder)
    return {key: manifest.get(key) for key in ("name", "revision", "sha256")}


def read_tokens(
    path: str,
    task: str,
    model: dict[str, Any] | None = None,
    read: Callable[[str], tuple[dict, dict]] = read_tensors,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a task's tokens and labels, and their provenance.

    Raises UserError if they are another task's, or were made for another model than ``model``,
    which is what :func:`model_facts` returns.
    """
    tokens, facts = read(path)
    check_names(path, tokens, ("ids", "offsets", "label", "label_noise", "is_test"), "tensors")
    found, made_for = facts.get("task", {}).get("name"), facts.get("model", {})
    if found != task:
        raise UserError(f"{path} holds task {found!r}, not {task!r}; give that task's tokens")
    if model and made_for.get("sha256") != model["sha256"]:
        raise UserError(
            f"{path} was made for model {made_for.get('name')} ({made_for.get('sha256')}), "
            f"but the model here is {model['name']} ({model['sha256']}); tokenise again"
        )
    return tokens, facts


def read_kernels(path: str, names: Iterable[str]) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays in a file of kernels, and its facts that hold for what they are used for.

    Raises UserError if it lacks one of the ``names``.
    """
    tensors, facts = read_arrays(path)
    check_names(path, tensors, names, "tensors")
    check_names(path, facts, OF_KERNEL, "facts")
    return tensors, {key: facts[key] for key in OF_KERNEL}


def read_samples(
    path: str, tokens: str, tokens_facts: dict, keys: Iterable[str] = SUBSET_KEYS, seeds: int = 0
) -> dict:
    """Return a task's samples of rows: its subsets, or what has other ``keys``.

    Raises UserError if the file is of another kind, has fewer ``seeds``, or was drawn from other
    data than the tokens hold.
    """
    samples = read_json(path)
    check_names(path, samples, keys, "keys")
    drawn_from = samples.get("provenance", {}).get("data_sha256")
    if drawn_from != tokens_facts.get("data_sha256"):
        raise UserError(
            f"{path} was drawn from data {drawn_from}, but {tokens} holds "
            f"{tokens_facts.get('data_sha256')}; draw again"
        )
    if seeds > len(samples.get("seeds", ())):
        raise UserError(
            f"{seeds} seeds are asked for, but {path} has {len(samples['seeds'])}; give fewer"
        )
    return samples


def from_hub(args: argparse.Namespace) -> bool:
    """Return whether ``--model`` is an id of the hub: no folder, and not written like one.

    Raises UserError if it is neither, or if a folder has ``--revision``.
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


def of_model(args: argparse.Namespace, name: str) -> argparse.Namespace:
    """Return the arguments of a command on several models as of one on this model."""
    return argparse.Namespace(**vars(args) | {"model": name, "revision": None})


def check_models(args: argparse.Namespace, names: Sequence[str], option: str) -> None:
    """Raise UserError if an option names a model twice, or one that cannot be read.

    Before the first is loaded, which may take minutes.
    """
    from ntktune.network.models import configuration

    places = Counter(str(Path(n).resolve()) if Path(n).is_dir() else n for n in names)
    if repeated := [place for place, count in places.items() if count > 1]:
        raise UserError(f"{option} names {repeated[0]} more than once")
    for name in names:
        configuration(located_model(of_model(args, name), ["config.json"])[0])


def located_model(
    args: argparse.Namespace, files: Sequence[str] | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the folder of any model, and its name, revision and checksum.

    A model of the hub is downloaded: the files of some patterns, or all that a model has.
    """
    from ntktune.data.hub import MODEL_FILES, download_model

    name = args.model
    if from_hub(args):
        with _missing_folder_first(name):
            folder, commit = download_model(name, args.revision or "main", files or MODEL_FILES)
        print(f"model {name} of the hub, commit {commit}", file=sys.stderr)
        return str(folder), {"name": name, "revision": commit, "sha256": None}
    # a folder that another program wrote has no manifest
    if (Path(name) / MODEL_MANIFEST).is_file():
        return name, model_facts(name)
    return name, {"name": Path(name).resolve().name, "revision": None, "sha256": None}


@contextlib.contextmanager
def study_model(args: argparse.Namespace) -> Iterator[str]:
    """Yield a model's folder as studies have it; the hub's is made in a temporary folder."""
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


def check_new_folder(out: str, sources: Sequence[str], mark: str) -> None:
    """Raise UserError if writing a folder would replace more than an earlier one with a ``mark``.

    ``sources`` are read; the mark is a file that this command alone writes.
    """
    folder = Path(out).resolve()
    for source in sources:
        if folder == Path(source).resolve() or folder in Path(source).resolve().parents:
            raise UserError(f"--out {out} would replace {source}, which is read; choose another")
    if folder.is_file():
        raise UserError(f"--out {out} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise UserError(f"--out {out} holds other files, which would be lost; choose another")


def classes_of(task: Mapping[str, Any]) -> int | None:
    """Return the number of a task's classes, None for a regression."""
    return None if task["kind"] == "regression" else class_count(task)


def class_count(task: Mapping[str, Any]) -> int:
    """Return a task's number of classes; two where it names none, as before its data are read."""
    return len(task.get("classes") or (0, 1))


def check_classes(task: Mapping[str, Any]) -> None:
    """Raise UserError for a task of more than two classes, where scores and two are known alone."""
    if class_count(task) > 2:
        raise UserError(
            f"task {task['name']} has {class_count(task)} classes; this command takes scores or "
            "two classes"
        )
