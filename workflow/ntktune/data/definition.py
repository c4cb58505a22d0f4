"""A task's definition: what its configuration file says, checked and complete.

The schema of ntktune/schemas has keys, types and defaults. This module checks what a schema
cannot say, such as which keys belong to which kind of task.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ntktune.config import validated
from ntktune.errors import UserError
from ntktune.scores import METRICS

# the part of a definition that later chapters see, in the provenance of the tables
SUMMARY = ("title", "kind", "classes", "score_range", "template", "metric", "licence", "citation")


def template_filler(template: str, where: str = "") -> Callable[[str, str | None], str]:
    """Return the function that puts texts into a template.

    Parameters
    ----------
    template
        Text with ``{text_a}`` and, for pairs, ``{text_b}``.
    where
        What a message begins with.

    Raises
    ------
    UserError
        Another field or a single brace stands in it, or ``{text_a}`` does not.
    """
    parts = re.split(r"(\{text_a\}|\{text_b\})", template)
    if "{text_a}" not in parts or any(c in p for p in parts[::2] for c in "{}"):
        raise UserError(
            f"{where}template {template!r}: it must contain {{text_a}} and may contain {{text_b}}, "
            "and no other braces"
        )

    def filled(text_a: str, text_b: str | None) -> str:
        texts = {"{text_a}": text_a, "{text_b}": text_b or ""}
        return "".join(texts.get(part, part) for part in parts)

    return filled


def complete_definition(definition: dict, name: str) -> dict:
    """Return a task's definition with its defaults filled in, checked for sense.

    Parameters
    ----------
    definition
        The content of a file of config/tasks.
    name
        The task's name or file, for messages.

    Raises
    ------
    UserError
        The definition violates the schema, or two keys contradict each other.
    """
    task = validated(definition, "task", name)
    kind = task["kind"]
    task["metric"] = task["metric"] or METRICS[kind][0]
    if task["metric"] not in METRICS[kind]:
        raise UserError(
            f"{name}: metric is {task['metric']!r}; for {kind} it must be one of "
            + ", ".join(METRICS[kind])
        )
    if kind == "classification":
        _check_classes(task, name)
    else:
        for key in ("classes", "label_map", "polarity_band"):
            if task[key] is not None:
                raise UserError(f"{name}: {key} is for classification; this task is a regression")
    bounds = task["score_range"]
    if bounds is not None and not bounds[0] < bounds[1]:
        raise UserError(f"{name}: score_range {bounds} must be [lowest, highest]")
    template_filler(task["template"], f"{name}: ")
    if (task["columns"]["text_b"] is None) == ("{text_b}" in task["template"]):
        raise UserError(
            f"{name}: template is {task['template']!r}, but columns.text_b is "
            f"{task['columns']['text_b']}: a pair needs both, a single text neither"
        )
    return task


def _check_classes(task: dict, name: str) -> None:
    classes = task["classes"]
    if classes is None:
        raise UserError(
            f"{name}: classes is {classes}; a classification task has exactly two classes: "
            "name both, class 0 first (of more classes choose two with label_map)"
        )
    band, bounds = task["polarity_band"], task["score_range"]
    if band is not None:
        if task["label_map"] is not None:
            raise UserError(f"{name}: give either label_map or polarity_band, not both")
        if not band[0] <= band[1]:
            raise UserError(f"{name}: polarity_band {band} must be [low, high] with low <= high")
        if bounds is not None and not bounds[0] <= band[0] <= band[1] <= bounds[1]:
            raise UserError(f"{name}: polarity_band {band} lies outside score_range {bounds}")
    elif bounds is not None:
        raise UserError(
            f"{name}: score_range needs a polarity_band in a classification task: "
            "without one its labels are classes, not scores"
        )
    if task["label_map"] is not None and set(task["label_map"].values()) != {0, 1}:
        raise UserError(
            f"{name}: label_map {task['label_map']} must send labels to 0 and to 1: "
            "a classification task has exactly two classes"
        )
