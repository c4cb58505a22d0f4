"""The files of the chapter selection, among those of a task."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

PASS = 2  # FLOPs of a weight and token in a forward pass


class Cell(NamedTuple):
    """Fine-tunings of a model under a pooling, one per size and seed."""

    model: str
    pooling: str
    method: str

    @property
    def file(self) -> str:
        """Their table."""
        return f"{self.model}/{self.pooling}/{self.method}/metrics.parquet"


def cells(models: Sequence[str], poolings: Sequence[str], methods: Sequence[str]) -> list[Cell]:
    """Return all fine-tunings of a task."""
    return [Cell(*each) for each in product(models, poolings, methods)]


def score_file(model: str) -> str:
    """Return the table of a model's scores."""
    return f"{model}/scores.parquet"
