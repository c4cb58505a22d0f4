"""Empirical Neural Tangent Kernels, exact, over all trainable parameters.

One forward and one backward pass per micro-batch serve all its examples; layers are contracted
from their inputs and output gradients, and no N x P Jacobian is stored.
"""

from ntktune.kernel.engine import GramResult, gram

__all__ = ["GramResult", "gram"]
