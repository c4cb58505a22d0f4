"""Empirical Neural Tangent Kernels of pretrained language models.

One sub-package per chapter of the study, each importing only earlier ones:
data, kernel, spectrum, finetune, taskvectors, theory, figures. The sub-packages
are pure libraries (tensors and tables in, tensors and tables out); files and
command lines live in :mod:`ntktune.cli`.
"""

__version__ = "0.1.0"
