"""Training on the rows of the embedding table that the data reach.

A sample of a few hundred sentences reaches a few thousand of a vocabulary's 50,000
rows. The others receive a gradient of exactly zero, and without weight decay AdamW
leaves such rows where they are. Taking them out while training changes no number
and spares the optimiser most of a small model's parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn


def shares_weight(model: nn.Module, weight: nn.Parameter) -> bool:
    """Return whether a weight is used by more than one module of a model.

    A tied weight or a module with two names is used in ways that a change of the
    embedding table alone would break.
    """
    uses = sum(
        parameter is weight
        for _, module in model.named_modules(remove_duplicate=False)
        for parameter in module.parameters(recurse=False)
    )
    return uses != 1


def reachable_rows(
    backbone: nn.Module, examples: Sequence[torch.Tensor]
) -> tuple[nn.Embedding, torch.Tensor] | None:
    """Return a backbone's embedding and the rows of it, sorted, that examples look up.

    The row of id 0, which is under the padding, is among them. None where the table is not
    the embedding's alone: a use elsewhere reaches every row.
    """
    embedding = backbone.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding) or shares_weight(backbone, embedding.weight):
        return None
    used = torch.cat([torch.zeros(1, dtype=torch.long), *(e.long().cpu() for e in examples)])
    return embedding, used.unique().to(embedding.weight.device)


class Snapshot:
    """A backbone's weights as they are now, to be put back after trainings on some examples.

    Of the embedding table it keeps the rows that such a training can change: a small
    model's table is most of its weights.

    Parameters
    ----------
    backbone
        A Hugging Face base model.
    examples
        1-D tensors of token ids: all that are trained on before :meth:`restore`.
    """

    def __init__(self, backbone: nn.Module, examples: Sequence[torch.Tensor]):
        self.reach = reachable_rows(backbone, examples)
        state = backbone.state_dict(keep_vars=True)
        table = self.reach[0].weight if self.reach else None
        self.whole = [(t, t.detach().clone()) for t in state.values() if t is not table]
        self.rows = table.detach()[self.reach[1]] if self.reach else None

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back, in place."""
        for tensor, kept in self.whole:
            tensor.copy_(kept)
        if self.reach:
            embedding, used = self.reach
            embedding.weight[used] = self.rows


@contextlib.contextmanager
def restricted_embedding(backbone: nn.Module, examples: Sequence[torch.Tensor]) -> Iterator[None]:
    """Keep only the embedding rows of the token ids in ``examples``; put the rest back after.

    Within the context the backbone is called with the same token ids as ever: they are
    translated at the door of the embedding, so that a model which computes something
    else from the ids (positions, masks) sees the true ones. On leaving, the full table
    has the trained rows in their places and all other rows bit for bit as they were.
    Ids that are neither in ``examples`` nor 0 (the id under the padding) must not be
    looked up within the context. A table that is tied to another module is left whole.

    Parameters
    ----------
    backbone
        A Hugging Face base model; its ``get_input_embeddings()`` says which table.
    examples
        1-D tensors of token ids.
    """
    reach = reachable_rows(backbone, examples)
    if reach is None:
        yield
        return
    embedding, used = reach
    full, padding_index = embedding.weight, embedding.padding_idx
    row = torch.zeros(len(full), dtype=torch.long, device=full.device)
    row[used] = torch.arange(len(used), device=full.device)
    embedding.weight = nn.Parameter(full.detach()[used], requires_grad=full.requires_grad)
    if padding_index is not None:
        # this row's gradient is left out by torch, so it must stay the same row
        embedding.padding_idx = int(row[padding_index]) if padding_index in used else None
    door = embedding.register_forward_pre_hook(lambda _, inputs: (row[inputs[0]], *inputs[1:]))
    try:
        yield
    finally:
        door.remove()
        with torch.no_grad():
            full[used] = embedding.weight
        embedding.weight, embedding.padding_idx = full, padding_index
