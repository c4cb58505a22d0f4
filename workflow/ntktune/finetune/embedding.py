"""Training on the rows of the embedding table that the data reach.

A few hundred sentences reach a few thousand of a vocabulary's 50,000 rows. The other rows have a
gradient of exactly zero, and AdamW without weight decay leaves them as they are. Taking them out
while training changes no number and saves most of a small model's optimiser.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn


def shares_weight(model: nn.Module, weight: nn.Parameter) -> bool:
    """Return whether other modules use a weight too: tied, or under a second name."""
    uses = sum(
        parameter is weight
        for _, module in model.named_modules(remove_duplicate=False)
        for parameter in module.parameters(recurse=False)
    )
    return uses != 1


def reachable_rows(
    backbone: nn.Module, examples: Sequence[torch.Tensor]
) -> tuple[nn.Embedding, torch.Tensor] | None:
    """Return a backbone's embedding and the sorted rows of it that examples look up.

    Row 0, which padding looks up, is among them. None, for all, if other modules use the table.
    """
    embedding = backbone.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding) or shares_weight(backbone, embedding.weight):
        return None
    used = torch.cat([torch.zeros(1, dtype=torch.long), *(e.long().cpu() for e in examples)])
    return embedding, used.unique().to(embedding.weight.device)


class Snapshot:
    """A backbone's weights, to be put back after trainings on some examples.

    Of the embedding table it keeps only the rows of ``examples`` (1-D tensors of token ids: all
    that are trained on before :meth:`restore`): a small model's table is most of its weights.
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

    The ids are translated at the embedding itself, so a model that computes positions or masks from
    ids sees the true ones. Afterwards the full table has the trained rows in their places, and the
    others bit for bit as they were. Within the context no id may be looked up but those of
    ``examples`` (1-D tensors) and 0, which is under the padding. A tied table is left whole.
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
