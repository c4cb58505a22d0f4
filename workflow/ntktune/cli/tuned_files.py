"""Reading the files of fine-tuned weights that the chapter taskvectors works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.cli.inputs import model_facts, model_manifest
from ntktune.errors import UserError
from ntktune.network.loading import backbone_tensors, weight_files
from ntktune.store.files import CONVERTED
from ntktune.store.records import check_model_files
from ntktune.store.tensors import StoredTensor, stored_tensors

if TYPE_CHECKING:
    import torch

    from ntktune.network.models import TextModel

BACKBONE, VECTOR = "backbone.", "vector."  # before names: fine-tuned weights, or what was added
HEAD = ("head.weight", "head.bias")
AGAIN = "again"  # a training with the first seed's head and order, on the second's sample
FACTS = ("task", "model", "run", "seeds", "sample", "rows", "parameters", "size", "data_sha256")


@dataclass(frozen=True)
class Tuned:
    """A file of weights fine-tuned on a task, its backbone and head read when they are asked for.

    ``run`` is its name among the task's runs, ``size`` the labelled examples, hold-out included.
    """

    path: str
    task: str
    run: str
    size: int
    facts: dict[str, Any]
    backbone: Mapping[str, Any]
    head_weight: StoredTensor
    head_bias: StoredTensor


def pretrained_weights(folder: str) -> dict[str, StoredTensor]:
    """Return a model's pretrained weights in float32, read when they are asked for.

    Linked weights may also hold a head's tensors, under names that no backbone has. Raises
    UserError if the weights are not those that the manifest states.
    """
    import torch

    check_model_files(folder, ["*.safetensors*"])
    files = weight_files(folder) + [CONVERTED] * (Path(folder) / CONVERTED).is_file()
    found = backbone_tensors(folder, files, model_manifest(folder).get("prefix", ""))
    return {k: StoredTensor(t.path, t.name, torch.float32) for k, t in found.items()}


def tuned_tensors(
    model: TextModel, base: Mapping[str, StoredTensor] | None
) -> dict[str, torch.Tensor]:
    """Return what a file keeps of a fine-tuned model: its head, and its weights in float32.

    With ``base``, the pretrained weights, the task vector in bfloat16 instead of the weights.
    """
    import torch

    from ntktune.taskvectors.arithmetic import task_vector
    from ntktune.taskvectors.edited import backbone_weights

    tensors = {"head.weight": model.head.weight.float(), "head.bias": model.head.bias.float()}
    for name, weight in backbone_weights(model).items():
        if base is None:
            tensors[f"{BACKBONE}{name}"] = weight.float()
        else:  # one at a time: float64 takes room
            (vector,) = task_vector({name: base[name]}, {name: weight.cpu()}).values()
            tensors[f"{VECTOR}{name}"] = vector.to(torch.bfloat16)
    return tensors


def read_tuned(
    paths: Sequence[str], folder: str, blocks: int | None
) -> tuple[dict[str, StoredTensor], list[Tuned]]:
    """Return the pretrained weights that were fine-tuned (without files: all), and the files.

    Raises UserError if two files are of one task and run, or of one task with other sizes, or if
    weights were fine-tuned from another model or from other blocks than given.
    """
    from ntktune.taskvectors.arithmetic import check_same_shapes, rebuilt

    model, everything = model_facts(folder), pretrained_weights(folder)
    base, found = everything, []
    for path in paths:
        if Path(path).is_dir():
            raise UserError(f"{path} is a folder; give the files of weights in it")
        stored, facts = stored_tensors(path)
        if set(FACTS) - set(facts) or set(HEAD) - set(stored):
            raise UserError(f"{path} holds no fine-tuned weights; make them: taskvectors tune")
        _check_start(path, facts, folder, model, blocks)
        base = {name: everything[name] for name in facts["parameters"] if name in everything}
        vector = _under(VECTOR, stored)
        weights = rebuilt(base, vector) if vector else _under(BACKBONE, stored)
        check_same_shapes(base, weights, ("the pretrained", f"{path}'s"))
        what = (facts["task"]["name"], facts["run"], facts["size"])
        tuned = Tuned(path, *what, facts, weights, *(stored[name] for name in HEAD))
        for other in found:
            _check_beside(tuned, other)
        found.append(tuned)
    return base, found


def _check_start(path: str, facts: dict, folder: str, model: dict, blocks: int | None) -> None:
    """Raise UserError unless weights were fine-tuned from a model and its first blocks."""
    for key, what in (("revision", "revision"), ("sha256", "checksum")):  # names differ freely
        there = facts["model"].get(key)
        if there != model[key]:
            raise UserError(
                f"{path} was fine-tuned from {facts['model'].get('name')}, {what} {there!r}, "
                f"but {model['name']} in {folder} has {model[key]!r}; give the same model, or "
                "fine-tune again"
            )
    if facts.get("blocks") != blocks:
        raise UserError(
            f"{path} was fine-tuned with blocks {facts.get('blocks')}, not {blocks}; "
            "give the same --blocks, or fine-tune again"
        )


def _check_beside(tuned: Tuned, other: Tuned) -> None:
    """Raise UserError if two files are of one run, or of one task with other sizes."""
    if (other.task, other.run) == (tuned.task, tuned.run):
        raise UserError(
            f"{other.path} and {tuned.path} are both of task {tuned.task!r}, run {tuned.run}; "
            "give it once"
        )
    if other.task == tuned.task and other.size != tuned.size:
        raise UserError(
            f"{other.path} was fine-tuned on {other.size} examples, {tuned.path} on "
            f"{tuned.size}; give runs of one size"
        )


def _under(prefix: str, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
