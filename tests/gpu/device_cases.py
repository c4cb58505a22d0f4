"""What a pretended GPU refuses, as a real one does, and what it allows."""

import functools

import numpy as np
import torch
from torch.nn import functional

REFUSED = {
    "a sum": lambda here, there: here + there,
    "a product": lambda here, there: here @ there.T,
    "a number of the GPU's": lambda here, there: here * there[0, 0],
    "a list of both": lambda here, there: torch.cat([here, there]),
    "a list of numbers": lambda here, there: torch.stack([here[0, 0], there[0, 0]]),
    "places on the GPU": lambda here, there: here[(there[0] > 0).nonzero().flatten() // 3],
    "rows written": lambda here, there: there.index_put_((torch.tensor([0]),), here[:1]),
    "ids looked up": lambda here, there: functional.embedding(torch.tensor([0]), there),
    "in place": lambda here, there: there.add_(here),
    "a generator": lambda here, there: torch.randn(
        2, device=there.device, generator=torch.Generator().manual_seed(0)
    ),
    "numpy": lambda here, there: there.numpy(),
    "an array": lambda here, there: np.asarray(there),
    "a layer elsewhere": lambda here, there: torch.nn.Linear(3, 2)(there),
}
ALLOWED = {
    "a number of the processor's": lambda here, there: there * here[0, 0],
    "places on the processor": lambda here, there: there[torch.tensor([1, 0])],
    "a copy": lambda here, there: there.copy_(2 * here),
    "a copy back": lambda here, there: here.copy_(2 * there),
    "a mask of the processor's": lambda here, there: there[here > 0],
    "a number written": lambda here, there: there.index_put_(
        (torch.tensor([0]),), torch.tensor(2.0)
    ),
    "a layer that is there": lambda here, there: torch.nn.Linear(3, 2).to(there.device)(there),
    "made there": lambda here, there: torch.arange(3, device=there.device) + there,
}


def tensors(device):
    """Return a tensor on the processor, and its copy on a device."""
    torch.manual_seed(0)
    here = torch.randn(2, 3)
    return here, here.clone().to(device)


def refuses(operation, device):
    """Return whether an operation is done on the processor alone, and refused elsewhere."""
    try:
        operation(*tensors(device))
    except (RuntimeError, TypeError):
        return {"as it must": device.type != "cpu"}
    return {"as it must": device.type == "cpu"}


def allows(operation, device):
    return {"result": operation(*tensors(device)).detach().cpu()}


CASES = {
    f"{name}: {word}": (functools.partial(function, operation), 0.0)
    for name, function, operations in (
        ("refused", refuses, REFUSED),
        ("allowed", allows, ALLOWED),
    )
    for word, operation in operations.items()
}
