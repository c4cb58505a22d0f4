"""Empirical Neural Tangent Kernels of pretrained language models.

Public, and kept between minor versions:

- ``ntktune.kernel``, ``ntktune.spectrum``, ``ntktune.taskvectors``, ``ntktune.theory``: the names
  in their ``__all__``; and ``merged`` and ``grams`` of ``ntktune.taskvectors.arithmetic``
- ``ntktune.network.models``: ``text_model``, ``label_word_model``
- ``ntktune.errors.UserError``: a mistake in the input, which any of these may raise
- the commands ``ntktune CHAPTER VERB``, a study's configuration, and the files of its results

All else may change. Chapters are sub-packages, each importing only earlier ones: data, kernel,
spectrum, finetune, taskvectors, theory, linearized, figures. They are pure libraries (tensors and
tables in, tensors and tables out); files and command lines live in :mod:`ntktune.cli`.
"""

__version__ = "0.1.0"
