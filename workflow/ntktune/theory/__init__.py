"""When gradient descent on a kernel should stop, and what that needs to know."""

from ntktune.theory.complexity import critical_radius, local_rademacher_complexity, stopping_time
from ntktune.theory.descent import KernelDescent, kernel_descent
from ntktune.theory.shift import ShiftEstimate, shift_estimate, standardised_labels
from ntktune.theory.stopping import stopping_row

__all__ = [
    "KernelDescent",
    "ShiftEstimate",
    "critical_radius",
    "kernel_descent",
    "local_rademacher_complexity",
    "shift_estimate",
    "standardised_labels",
    "stopping_row",
    "stopping_time",
]
