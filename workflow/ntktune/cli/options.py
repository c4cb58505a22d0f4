"""Options of commands that are keys of a study's configuration.

The schema declares a key: type, limits, default, and a description, which is the option's help.
``COMMANDS`` lists the keys that each command takes. From both come the command line's options,
their checks, and the words that the rules hand to a command.
"""

import argparse
import functools
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntktune.errors import UserError
from ntktune.network.device import DTYPES

# What adapters are: keys of finetune.lora, and fields of ntktune.finetune.training.Lora.
LORA = ("rank", "alpha", "targets", "exclude", "layers", "rank_pattern", "rslora")
_PASSES = "model.blocks model.pooling finetune.batch_tokens device"
_KERNELS = (
    "seed model.blocks model.pooling model.dtype kernel.variant kernel.batch_tokens kernel.stream "
    "device"
)
_TRAINING = (
    "seed finetune.head finetune.learning_rate finetune.warmup finetune.schedule finetune.max_norm "
    "finetune.weight_decay finetune.batch_size finetune.max_epochs finetune.max_steps "
    "finetune.evaluate_every finetune.patience finetune.dtype finetune.checkpointing " + _PASSES
)
_LORA = " ".join(f"lora_{k}=finetune.lora.{k}" for k in ("rank", "alpha", "rslora"))
_METHOD = " ".join(["method=finetune.methods", *(f"lora_{k}=finetune.lora.{k}" for k in LORA)])
# Command -> its keys. The option is named for the key's last word, or as stands before "=".
COMMANDS = {
    "data tokenize": "model.max_tokens model.prefix_token",
    "data draws": "seed kernel.rows kernel.draws",
    "data subsets": "seed finetune.seeds finetune.holdout_fraction finetune.test_rows",
    "kernel draws": _KERNELS,
    "kernel learning": f"rows=kernel.learning_rows seeds=kernel.learning_seeds {_KERNELS}",
    "kernel gram": f"kernel.rows model.max_tokens model.prefix_token {_KERNELS}",
    "kernel plan": "model.blocks",
    "finetune choose": f"finetune.learning_rates size=finetune.rate_size {_METHOD} "
    + _TRAINING.replace("finetune.learning_rate ", ""),
    "finetune run": f"{_METHOD} {_TRAINING}",
    "finetune baselines": f"finetune.sizes {_PASSES}",
    "taskvectors tune": f"taskvectors.size taskvectors.store {_METHOD} {_TRAINING}",
    "taskvectors cosine": "model.blocks",
    "taskvectors export": "model.blocks",
    "taskvectors overlap": "taskvectors.size seeds=taskvectors.merged_seeds",
    "taskvectors add": f"taskvectors.coefficients taskvectors.validation_rows {_PASSES}",
    "taskvectors negate": (
        f"coefficients=taskvectors.negated_coefficients taskvectors.validation_rows {_PASSES}"
    ),
    "taskvectors disentangle": (
        f"taskvectors.grid rows=taskvectors.grid_rows taskvectors.tangent {_PASSES}"
    ),
    "taskvectors score": "taskvectors.coefficient candidates=taskvectors.coefficients",
    "theory stopping": "theory.step_size_factor",
    "theory rules": "finetune.sizes theory.step_size_factor",
    "theory trajectory": (
        "theory.size theory.seeds theory.test_rows theory.descent_steps theory.step_size_factor "
        f"theory.constant {_TRAINING}"
    ),
    "linearized layers": (
        f"method=linearized.method {_LORA} kernel.rows model.max_tokens model.prefix_token "
        + _KERNELS.replace("kernel.variant ", "")
    ),
    "linearized sets": f"linearized.sets method=linearized.method {_LORA} {_KERNELS}".replace(
        "kernel.variant ", ""
    ),
    "linearized tune": (
        f"linearized.size linearized.seeds linearized.sets method=linearized.method {_LORA} "
        f"linearized.rate_factors {_TRAINING}"
    ),
    "linearized hold": (
        f"linearized.size linearized.seeds {_METHOD} linearized.shares linearized.test_rows "
        f"linearized.radii linearized.radius_draws {_TRAINING}"
    ).replace("finetune.methods", "linearized.held_method"),
    "advise curves": "advise.pilots",
    "advise benchmark": "seed advise.pilots advise.repeats finetune.sizes",
    "advise pilot": f"{_LORA} finetune.learning_rate kernel.rows model.max_tokens "
    "model.prefix_token " + _KERNELS.replace("kernel.variant ", ""),
    "selection rank": "kernel.rows seed model.max_tokens model.prefix_token model.dtype "
    "finetune.batch_tokens device",
    "selection score": "seed finetune.seeds size=selection.sizes selection.poolings "
    "selection.kernel_seeds kernel.rows model.blocks model.dtype kernel.batch_tokens device",
    "selection gather": "selection.poolings selection.methods",
    "theory width": "seed theory.widths seeds=theory.width_seeds",
    "theory simulate": "seed sizes=theory.simulation_sizes repeats=theory.simulation_repeats",
}
# A study takes these from its data or from other keys.
_COUNTS = (
    "kernel.rows kernel.learning_rows taskvectors.size theory.size finetune.rate_size "
    "linearized.size linearized.seeds"
)
_LISTS = (
    "finetune.sizes finetune.learning_rates taskvectors.negated_coefficients selection.sizes "
    "advise.pilots "
    "selection.methods"
)
# Key, or command and option -> what its declaration differs in on the command line. An option
# without default that cannot be null must be given.
OVERRIDES = {
    **{key: {"type": "integer"} for key in _COUNTS.split()},
    **{key: {"type": "array"} for key in _LISTS.split()},
    "finetune.methods": {
        "type": "string",
        "enum": ("full", "lora", "probe"),
        "default": "full",
        "description": "What is trained: all weights, adapters and the head, or the head alone",
    },
    "finetune.lora.rank_pattern": {
        "type": "array",
        "items": {"type": "string", "pattern": "^.+=[1-9][0-9]*$"},
        "default": [],
        "description": "Ranks of single layers, as q_proj=4",
    },
    "finetune.dtype": {"enum": DTYPES, "default": "float32"},
    # a command takes more than suits a whole study
    "device": {"enum": None, "description": "Where it runs: auto, cpu, cuda or cuda:N"},
    "model.dtype": {"enum": DTYPES},
    "kernel.variant": {"enum": ("sgd", "signgd", "asymmetric-signgd")},
    "kernel learning seeds": {"minimum": 1},
    "selection score size": {
        "type": "integer",
        "items": None,
        "minItems": None,
        "uniqueItems": None,
        "minimum": 10,
        "default": None,
        "description": "Labelled examples of a sample, hold-out included",
    },
    # one file has no study
    **{
        f"{command} rows": {
            "description": "Rows drawn at random; null for 100, or all of a smaller file"
        }
        for command in ("kernel gram", "linearized layers", "selection rank")
    },
    "advise pilot rows": {"description": "Rows drawn at random; null for 400, or all of less"},
    "advise pilot learning_rate": {
        "type": ("number", "null"),
        "default": None,
        "description": "Of --calibrate; null for that of a study, by the method",
    },
    "advise pilot seed": {"description": "Seed of rows, head and sub-samples", "default": 0},
    "kernel gram seed": {"description": "Seed of the rows and of a fresh head", "default": 0},
    "selection rank seed": {"description": "Seed of the rows and of the folds", "default": 0},
    "linearized layers seed": {"description": "Seed of the rows and of a fresh head", "default": 0},
}


def command_options(command: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the options of a command, as ``"finetune run"``: name → key and declaration."""
    found = {}
    for entry in COMMANDS.get(command, "").split():
        name, _, key = entry.rpartition("=")
        name = name or key.rpartition(".")[2]
        spec = declaration(key)
        changes = OVERRIDES.get(f"{command} {name}", OVERRIDES.get(key, {}))
        found[name] = key, {k: v for k, v in (spec | changes).items() if v is not None}
    return found


def declaration(key: str) -> dict[str, Any]:
    """Return what the schema says of a key, as ``"finetune.learning_rate"``."""
    from ntktune.study.config import schema  # jsonschema takes a tenth of a second

    spec = schema("config")
    for part in key.split("."):
        spec = spec["properties"][part]
    return spec


def add_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of a command to its parser."""
    for name, (_, spec) in command_options(command).items():
        parser.add_argument(option_flag(name), **_argument(spec))


def check_options(args: argparse.Namespace, command: str) -> None:
    """Raise UserError if a parsed option is outside its limits: which, and what would be right."""
    from ntktune.study.config import mistakes

    options = {option_flag(name): spec for name, (_, spec) in command_options(command).items()}
    values = {flag: getattr(args, flag[2:].replace("-", "_")) for flag in options}
    if lines := mistakes(values, {"properties": options}):
        raise UserError("; ".join(re.sub(r"^(\S+)\.\d+ is", r"\1 has", line) for line in lines))


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError if an output would replace a file that is read, or is below no folder."""
    paths = {
        (name, value): Path(value).resolve()
        for name, values in vars(args).items()
        for value in (values if isinstance(values, list) else [values])
        if isinstance(value, str) and not name.startswith("_")
    }
    for (name, value), path in paths.items():
        if not name.startswith("out"):
            continue
        for (other, read), source in paths.items():
            if path == source and path.exists() and not other.startswith("out"):
                raise UserError(
                    f"{option_flag(name)} {value} would replace {option_flag(other)} {read}, which "
                    "is read; choose another"
                )
        above = next((folder for folder in path.parents if folder.exists()), path)
        if not above.is_dir():
            raise UserError(f"{option_flag(name)} {value}: {above} is a file, not a folder")


def option_words(study: Mapping[str, Any], command: str, **changed: Any) -> list[str]:
    """Return the words that hand a command, as ``"finetune run"``, its part of a whole study.

    ``changed`` are values of options that are not the study's. An option that is None is left out.
    """
    options, words = command_options(command), []
    if changed.keys() - options:
        raise KeyError(f"{command} has no options {', '.join(changed.keys() - options)}")
    for name, (key, _) in options.items():
        value = changed.get(name, functools.reduce(operator.getitem, key.split("."), study))
        if value is True:
            words.append(option_flag(name))
        elif value is not None and value is not False and value not in ([], {}):
            if isinstance(value, dict):
                value = [f"{key}={entry}" for key, entry in value.items()]
            words += [option_flag(name), *map(str, value if isinstance(value, list) else [value])]
    return words


def option_flag(name: str) -> str:
    """Return the option of a name, as ``"--trajectory-ridge"`` of ``trajectory_ridge``."""
    return "--" + name.replace("_", "-")


def _argument(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what argparse needs to know of an option. Null is how it reads if left out."""
    types = [spec["type"]] if isinstance(spec.get("type"), str) else spec.get("type", [])
    nullable = "null" in types or None in spec.get("enum", ())
    default = None if nullable else spec.get("default")
    told = _help(spec["description"], nullable, default)
    if "boolean" in types:
        return {"action": "store_true", "help": told}
    one = spec["items"]["type"] if "array" in types else next(iter(types), "string")
    return {
        "type": {"integer": int, "number": float}.get(one, str),
        "nargs": "+" if "array" in types else None,
        "choices": [value for value in spec.get("enum", ()) if value is not None] or None,
        "default": default,
        "required": default is None and not nullable,
        "help": told,
    }


def _help(description: str, nullable: bool, default: Any) -> str:
    """Return a key's description as the help of its option, where nobody writes null."""
    if nullable:
        told = description.replace("; null for", "; leave it out for")
    else:
        told = re.sub(r"; null for(?:[^.;]|\.\w)*", "", description)
    if default is not None and default is not False:
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        told = f"{told.rstrip('.')} (default: {shown})"
    return told.rstrip(".").replace("%", "%%")
