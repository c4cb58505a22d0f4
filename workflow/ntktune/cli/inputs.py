"""Checks that the files given to one command belong together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.errors import UserError, check_names, not_there
from ntktune.store.files import MODEL_MANIFEST, damaged, in_results
from ntktune.store.records import read_json
from ntktune.store.tensors import read_arrays

if TYPE_CHECKING:
    import numpy as np


# What files of tokens, and of samples of rows, hold.
TOKEN_TENSORS = ("ids", "offsets", "label", "label_noise", "is_test")
SUBSET_KEYS = ("seeds", "test", "holdout_fraction")
# Facts of a kernel that hold for what is computed from it.
OF_KERNEL = ("task", "data_sha256", "model", "function", "dtype")


def model_manifest(folder: str) -> dict[str, Any]:
    """Return the manifest of a model folder.

    Raises
    ------
    UserError
        It is damaged, or not there.
    """
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


def check_task(tokens: str, facts: dict[str, Any], task: str) -> None:
    """Raise UserError if tokens, of which ``facts`` is the provenance, are another task's."""
    found = facts.get("task", {}).get("name")
    if found != task:
        raise UserError(f"{tokens} holds task {found!r}, not {task!r}; give that task's tokens")


def check_tokens(tokens: str, facts: dict[str, Any], task: str, model: dict[str, Any]) -> None:
    """Raise UserError if tokens are another task's, or were made for another model.

    Parameters
    ----------
    tokens
        The tokens' path, for the message.
    facts
        Their provenance.
    task
        The name of the task that is wanted.
    model
        What :func:`model_facts` says of the model that is used.
    """
    check_task(tokens, facts, task)
    made_for = facts.get("model", {})
    if made_for.get("sha256") != model["sha256"]:
        raise UserError(
            f"{tokens} was made for model {made_for.get('name')} ({made_for.get('sha256')}), "
            f"but the model here is {model['name']} ({model['sha256']}); tokenise again"
        )


def read_kernels(path: str, names: Iterable[str]) -> tuple[dict[str, np.ndarray], dict]:
    """Return a file of kernels as arrays, those of some names among them, and their provenance.

    Raises
    ------
    UserError
        It is of another kind.
    """
    tensors, facts = read_arrays(path)
    check_names(path, tensors, names, "tensors")
    check_names(path, facts, ("task", "dtype"), "facts")
    return tensors, facts


def read_samples(
    path: str, tokens: str, tokens_facts: dict, keys: Iterable[str] = SUBSET_KEYS, seeds: int = 0
) -> dict:
    """Return a task's samples of rows: its subsets, or what has other ``keys``.

    Raises
    ------
    UserError
        The file is of another kind, has fewer ``seeds``, or was drawn from other data than the
        tokens hold.
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
