"""Names of parameter groups; a kernel is the sum of its groups' kernels."""

import re

from torch import nn

HEADS = {"head", "lm_head", "score", "classifier"}


def _path(model: nn.Module, name: str) -> tuple[list[nn.Module], list[str]]:
    """Return the modules above a parameter and the parts of its name."""
    parts = name.split(".")
    modules = [model]
    for part in parts[:-1]:
        modules.append(getattr(modules[-1], part))
    return modules, parts


def layer_name(parameter: str) -> str:
    """Return the name of the module that a parameter belongs to."""
    return parameter.rpartition(".")[0]


def parameter_group(model: nn.Module, name: str) -> str:
    """Return the group of a parameter, from its name and the modules above it.

    ``norm`` (every normalisation, inside blocks and outside), ``block{i}.attention``,
    ``block{i}.mlp`` (all else in a block), ``embedding``, ``head`` or ``other``. The block's number
    is the first index into a ``ModuleList`` on the parameter's path.
    """
    modules, parts = _path(model, name)
    owner = modules[-1]
    # parts[-1] is the parameter's own name, parts[-2] its module's
    own_name = parts[-2] if len(parts) > 1 else ""
    if "norm" in type(owner).__name__.lower() or re.search(r"norm|^ln(_|$)", own_name.lower()):
        return "norm"
    for depth, module in enumerate(modules[:-1]):
        if isinstance(module, nn.ModuleList):
            inside = parts[depth + 1 : -1]
            kind = (
                "attention"
                if any(re.search("attn|attention", p.lower()) for p in inside)
                else "mlp"
            )
            return f"block{parts[depth]}.{kind}"
    if isinstance(owner, nn.Embedding) or any("embed" in p.lower() for p in parts):
        return "embedding"
    return "head" if parts[0] in HEADS else "other"
