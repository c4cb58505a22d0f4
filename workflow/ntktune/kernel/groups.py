"""Names of parameter groups; a kernel is the sum of its groups' kernels."""

import itertools
import re

from torch import nn

HEADS = {"head", "lm_head", "score", "classifier"}


def layer_name(parameter: str) -> str:
    """Return the name of the module that a parameter belongs to."""
    return parameter.rpartition(".")[0]


def parameter_group(model: nn.Module, name: str) -> str:
    """Return the group of a parameter, from its name and the modules above it.

    ``norm`` (every normalisation, inside blocks and outside), ``block{i}.attention``,
    ``block{i}.mlp`` (all else in a block), ``embedding``, ``head`` or ``other``. The block's number
    is the first index into a ``ModuleList`` on the parameter's path.
    """
    parts = name.split(".")
    modules = [*itertools.accumulate(parts[:-1], getattr, initial=model)]  # from the model down
    owner, own_name = modules[-1], layer_name(name).rpartition(".")[2]
    if "norm" in type(owner).__name__.lower() or re.search(r"norm|^ln(_|$)", own_name.lower()):
        return "norm"
    for depth, module in enumerate(modules[:-1]):
        if isinstance(module, nn.ModuleList):
            inside = parts[depth + 1 : -1]
            attends = any(re.search("attn|attention", part.lower()) for part in inside)
            return f"block{parts[depth]}.{'attention' if attends else 'mlp'}"
    if isinstance(owner, nn.Embedding) or any("embed" in part.lower() for part in parts):
        return "embedding"
    return "head" if parts[0] in HEADS else "other"
