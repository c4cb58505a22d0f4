"""Does a kernel's spectrum say which layers to train? Fine-tuning of each set of layers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ntktune.errors import UserError
from ntktune.finetune.repeats import Examples, fine_tuned_repeats
from ntktune.finetune.training import DivergedError, Settings
from ntktune.linearized.layers import lora_of, named_sets
from ntktune.network.models import TextModel


def tuned_sets(
    load: Callable[[], TextModel],
    examples: Examples,
    subsets: Mapping,
    size: int,
    settings: Settings,
    root_seed: int,
    names: Sequence[str] | None,
    *,
    rates: Sequence[float],
    seeds: int,
    finished: Callable[[str], list[dict[str, Any]] | None],
    keep: Callable[[str, list[dict[str, Any]]], None],
    progress: Callable[[int], Callable[[float], None]],
) -> list[dict[str, Any]]:
    """Fine-tune sets of layers (:func:`ntktune.linearized.layers.named_sets`), one by one.

    Returns the rows of :func:`tuned_set`, which explains the parameters, with ``layers``, the set's
    name. A set whose rows are ``finished``, by name, is not trained again; ``keep`` is called with
    each other's. ``progress`` is given the number of trainings, rates of all sets, and returns what
    is called with those done.
    """
    sets, rows = named_sets(load().backbone, names), []
    report = progress(len(sets) * len(rates))
    for number, (name, layers) in enumerate(sets.items()):
        before, found = number * len(rates), finished(name)
        if found is None:
            found = tuned_set(
                *(load, examples, subsets, size, settings, root_seed, layers),
                rates=rates,
                seeds=seeds,
                progress=lambda done, before=before: report(before + done),
            )
            keep(name, found)
        report(before + len(rates))
        rows += [{"layers": name} | row for row in found]
    return rows


def tuned_set(
    load: Callable[[], TextModel],
    examples: Examples,
    subsets: Mapping,
    size: int,
    settings: Settings,
    root_seed: int,
    layers: Sequence[str],
    *,
    rates: Sequence[float],
    seeds: int,
    progress: Callable[[float], None] = lambda rates: None,
) -> list[dict[str, Any]]:
    """Fine-tune some layers and the head with the learning rate that suits them; a row per seed.

    Of ``rates`` it is the one with the lowest hold-out loss, on average over the first ``seeds``:
    with one rate for all sets, larger sets would be judged by steps that are too large for their
    kernel. ``settings`` say whether adapters or all weights of the layers are trained. Rows are
    those of :func:`ntktune.finetune.repeats.fine_tuned_repeats` with ``learning_rate``. ``load``
    returns the pretrained model; the other parameters are that function's. ``progress`` is called
    with the number of rates done. Raises UserError if the training diverges with every rate.
    """
    found = []
    for number, rate in enumerate(rates):
        how = dataclasses.replace(settings, learning_rate=rate)
        model = load()
        if settings.method == "lora":
            how = dataclasses.replace(how, lora=lora_of(model.backbone, layers, how.lora))
        else:
            how = dataclasses.replace(how, layers=layers)
        cell = (model, examples, subsets, size, how, root_seed, range(seeds))
        try:
            repeats = fine_tuned_repeats(*cell)
            found.append([repeat.row | {"learning_rate": rate} for repeat in repeats])
        except DivergedError as error:
            diverged = error
        progress(number + 1)
    if not found:
        raise UserError(f"{diverged}; it diverges with every rate that is listed")
    return min(found, key=lambda rows: np.mean([row["holdout_loss"] for row in rows]))
