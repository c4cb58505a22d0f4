"""Model folders as transformers reads them: local files only, and none of their code is run."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ntktune.errors import UserError, one_line
from ntktune.network.device import is_out_of_memory
from ntktune.store.files import MODEL_WEIGHTS
from ntktune.store.records import check_model_files
from ntktune.store.tensors import StoredTensor, stored_layout, stored_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig

POOLER = "pooler."  # a layer on top of the last hidden state, which the study never reads


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn any error but lack of memory into one line that names what is read."""
    # a damaged or foreign model raises errors of several libraries, of any class
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        raise UserError(f"{what} cannot be read: {one_line(error)}") from error


def quiet_transformers() -> ModuleType:
    """Return the library transformers, without its progress bars and warnings."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def from_folder(kind: str, folder: str | os.PathLike, **how: Any) -> Any:
    """Return what a class of transformers, such as ``AutoTokenizer``, reads from a local folder."""
    # All calls of from_pretrained go through here: without trust_remote_code=False transformers
    # asks on standard input whether to run the folder's own Python code.
    reader = getattr(quiet_transformers(), kind)
    return reader.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **how)


def from_configuration(config: PreTrainedConfig, kind: str = "AutoModel", **how: Any) -> nn.Module:
    """Return a network with random weights; the model's own code is never run."""
    maker = getattr(quiet_transformers(), kind)
    return maker.from_config(config, trust_remote_code=False, **how)


def check_model_folder(folder: str | os.PathLike) -> None:
    """Raise UserError if a folder has no config.json, and so is no model's."""
    if (Path(folder) / "config.json").is_file():
        return
    adapter = (Path(folder) / "adapter_config.json").is_file()
    raise UserError(
        f"{folder} is no model folder: config.json is missing; "
        + ("it holds an adapter: name it model.adapter" if adapter else "correct the path")
    )


def stated_configuration(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what a folder's config.json states, without importing transformers; else UserError."""
    check_model_files(folder, ["config.json"])
    check_model_folder(folder)
    file = Path(folder) / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no model: {file} cannot be read ({error})") from None
    return content if isinstance(content, dict) else {}


def folder_configuration(folder: str | os.PathLike) -> PreTrainedConfig:
    """Return the configuration in a model folder; UserError if the study cannot read or use it."""
    from transformers import CONFIG_MAPPING

    model_type, file = stated_configuration(folder).get("model_type"), Path(folder) / "config.json"
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{file} cannot be read: transformers has no architecture {model_type!r}; "
            "models that bring their own Python code are not run"
        )
    with reading(str(file)):
        config = from_folder("AutoConfig", folder)
    if "/" in str(config._attn_implementation):
        config._attn_implementation = None  # attention code to be fetched from a hub
    return usable(config, str(file))


def usable(config: PreTrainedConfig, where: str) -> PreTrainedConfig:
    """Return a configuration if it is that of one encoder or decoder of text; else UserError."""
    if config.is_encoder_decoder:
        raise UserError(
            f"{where}: {config.model_type} is an encoder-decoder; the study needs a decoder or "
            "an encoder"
        )
    text = config.get_text_config(decoder=True)
    if text is not config:
        raise UserError(
            f"{where}: {config.model_type} has several parts, and its text model "
            f"({text.model_type}) is one of them; give a folder with the text model alone"
        )
    return config


def load_weights(
    kind: str, folder: str | os.PathLike, *, as_stored: bool = False, **how: Any
) -> nn.Module:
    """Return a pretrained network; raise UserError if the weights cannot be read or do not fill it.

    transformers fills gaps with random numbers. Only a pooler may be missing; it is zero, in every
    precision. ``kind`` and ``how`` are those of :func:`from_folder`. With ``as_stored`` each weight
    has the precision of its file, from which it is mapped.
    """
    import torch

    where = Path(folder, how.get("gguf_file", ""))
    with reading(f"the model in {where}"), torch.random.fork_rng(devices=[]):
        if as_stored:
            how["dtype"] = stored_dtype(folder)
        model, info = from_folder(kind, folder, output_loading_info=True, **how)
    check_filled(info["missing_keys"], info.get("mismatched_keys") or (), where)
    weights = model.state_dict()
    for name in info["missing_keys"]:
        weights[name].zero_()
    if as_stored:
        _keep_precisions(model, folder, how["dtype"], set(info["unexpected_keys"]))
    return model


def _keep_precisions(
    model: nn.Module, folder: str | os.PathLike, dtype: torch.dtype, unread: set[str]
) -> None:
    """Put the weights that are stored in another precision than ``dtype`` back as they are.

    ``unread`` are names in the folder's files that the network has no use for.
    """
    weights, prefix = model.state_dict(keep_vars=True), f"{model.base_model_prefix}."
    for file, name, stored, _ in _stored_weights(folder):
        if stored in (dtype, None) or name in unread:
            continue
        own = {name, name.removeprefix(prefix), prefix + name} & weights.keys()
        if not own:
            raise UserError(
                f"{name} in {folder} is {stored}, most weights are {dtype}, and it has another "
                "name in the model: save the model in one precision"
            )
        weights[own.pop()].data = StoredTensor(file, name)[...]


def weight_files(folder: str | os.PathLike) -> list[str]:
    """Return the names of a folder's files of weights: one file, or an index and its shards."""
    index = Path(folder) / f"{MODEL_WEIGHTS}.index.json"
    if (Path(folder) / MODEL_WEIGHTS).is_file() or not index.is_file():
        return [MODEL_WEIGHTS]
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [index.name, *sorted(set(shards))]


def _stored_weights(
    folder: str | os.PathLike,
) -> Iterator[tuple[Path, str, torch.dtype | None, int]]:
    """Yield file, name, precision (None: no floating-point one) and size of a folder's weights."""
    import torch

    known = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
    known["BF16"] = torch.bfloat16
    for file in weight_files(folder):
        if file.endswith(".safetensors"):
            path = Path(folder) / file
            for name, (dtype, shape) in stored_layout(path).items():
                yield path, name, known.get(dtype), math.prod(shape)


def stored_dtype(folder: str | os.PathLike) -> torch.dtype:
    """Return the precision of most numbers in a folder's files of weights."""
    import torch

    numbers = {torch.float32: 0}
    for _, _, dtype, size in _stored_weights(folder):
        if dtype is not None:
            numbers[dtype] = numbers.get(dtype, 0) + size
    return max(numbers, key=numbers.get)


def backbone_tensors(
    folder: str | os.PathLike, files: Iterable[str], prefix: str
) -> dict[str, StoredTensor]:
    """Return the weights in a folder's files under the backbone's own names, read when asked for.

    The last file's tensor of a name counts. ``prefix`` stands before those names in the files of a
    model with a head; "" for none.
    """
    return {
        name.removeprefix(f"{prefix}."): tensor
        for file in files
        if file.endswith(".safetensors")
        for name, tensor in stored_tensors(Path(folder) / file)[0].items()
    }


def check_filled(missing: Iterable[str], wrong: Iterable[Any], where: str | os.PathLike) -> None:
    """Raise UserError if tensors of a model are missing in its weights or have another shape."""
    missing = [name for name in sorted(missing) if not name.startswith(POOLER)]
    wrong = sorted(map(str, wrong))
    if missing or wrong:
        raise UserError(
            f"the weights in {where} do not fill the model: {len(missing)} tensors are missing "
            f"and {len(wrong)} have another shape, such as {(missing + wrong)[0]}; they belong to "
            "another architecture or configuration, or were saved without the language head"
        )
