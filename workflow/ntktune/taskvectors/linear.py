"""Task vectors of linearised training, exact: Jᵀα in the place of fine-tuning."""

import numpy as np
import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.finetune.regression import kernel_weights
from ntktune.finetune.training import outputs
from ntktune.kernel import gram
from ntktune.network.models import Features
from ntktune.network.tangent import weighted_gradient
from ntktune.taskvectors.edited import TunedTask


class Answer(nn.Module):
    """f of a task of scores or two classes, less its value at features of 0: (N,).

    The head is the task's own and does not move: the parameters are the backbone's alone.
    """

    def __init__(self, reader: Features, task: TunedTask):
        super().__init__()
        self.reader = reader
        slope = torch.from_numpy(task.changes(torch.eye(task.head_weight.shape[1])))
        self.register_buffer("slope", slope.to(next(reader.parameters())))

    @property
    def backbone(self) -> nn.Module:
        """The network's backbone."""
        return self.reader.backbone

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return f, (N,), of token ids of shape (N, T)."""
        return self.reader(input_ids, attention_mask) @ self.slope


def linear_vector(reader: Features, task: TunedTask, batch_tokens: int) -> dict[str, torch.Tensor]:
    """Return the task vector of the linearised network, trained on a task under its own head.

    τ = Jᵀ(K + λI)⁻¹(y − f_0) minimises ½‖y − f_0 − Jτ‖² + (λ/2)‖τ‖² over the rows ``task.train``,
    with the λ whose error on the part ``validation`` is the lowest; y are scores, or −1 and +1 of
    two classes. ``reader`` has the pretrained weights; K is their kernel. It is what tangent task
    arithmetic trains by gradient descent (Ortiz-Jimenez et al. 2023, section 5). Raises UserError
    for more classes, whose outputs have a kernel each.
    """
    if task.examples.classes > 2:
        raise UserError(
            f"task {task.examples.task} has {task.examples.classes} classes; --tangent takes "
            "scores or two classes"
        )
    answer, rows = Answer(reader, task), [*task.train, *task.parts["validation"]]
    texts, label = [task.examples.ids[row] for row in rows], task.examples.label[rows]
    target = label if task.examples.kind == "regression" else 2 * label - 1
    dtype = next(reader.parameters()).dtype
    kernel = gram(answer, texts, dtype=dtype, max_tokens=batch_tokens).kernel.cpu().numpy()
    shift = target - task.answers(outputs(reader, texts, batch_tokens))
    places = np.split(np.arange(len(rows)), [len(task.train)])
    weights, _ = kernel_weights(kernel.astype(float), shift, *places, "ridge")
    own = texts[: len(task.train)]
    found = weighted_gradient(answer, torch.from_numpy(weights), own, batch_tokens)
    return {name.removeprefix("reader.backbone."): part for name, part in found.items()}
