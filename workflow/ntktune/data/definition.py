"""A task's definition: what its configuration file says, checked and complete.

The form of the file (keys, types) is checked by the schema of ntktune/schemas; here
stands what a schema cannot say, such as which keys belong to which kind of task.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ntktune.errors import UserError
from ntktune.scores import METRICS

# The defaults of schemas/task.schema.yaml, for definitions written by hand.
DEFAULTS: dict[str, Any] = {
    "columns": {},
    "classes": None,
    "label_map": None,
    "polarity_band": None,
    "score_range": None,
    "template": "{text_a}",
    "metric": None,
    "splits": {},
    "test_fraction": 0.2,
    "limits": {},
    "train_rows": None,
    "test_rows": None,
    "licence": None,
    "citation": None,
}
COLUMNS: dict[str, str | None] = {
    "id": None,
    "text_a": "text",
    "text_b": None,
    "label": "label",
    "label_noise": None,
    "group": None,
}
SPLITS = {"train": ["train"], "test": ["test"]}
LIMITS = {"train": None, "test": None}
SOURCES: dict[str, dict[str, Any]] = {
    "hub": {"config": None, "files": None},
    "files": {"test": None, "format": None},
    "package": {"sdist": False},
    "generated": {"seed": 0, "words": 6, "noise": 0.3},
}
REQUIRED = ("title", "kind", "sources")
SOURCE_REQUIRED = {
    "hub": ("id", "revision"),
    "files": ("train",),
    "package": ("name", "version", "sha256", "reader", "member"),
    "generated": ("rows",),
}
# the part of a definition that later chapters see, in the provenance of the tables
SUMMARY = ("title", "kind", "classes", "score_range", "template", "metric", "licence", "citation")


def template_filler(template: str) -> Callable[[str, str | None], str]:
    """Return the function that puts texts into a template.

    Parameters
    ----------
    template
        Text with ``{text_a}`` and, for pairs, ``{text_b}``.

    Raises
    ------
    UserError
        Another field or a single brace stands in it, or ``{text_a}`` does not.
    """
    parts = re.split(r"(\{text_a\}|\{text_b\})", template)
    if "{text_a}" not in parts or any(c in p for p in parts[::2] for c in "{}"):
        raise UserError(
            f"template {template!r}: it must contain {{text_a}} and may contain {{text_b}}, "
            "and no other braces"
        )

    def filled(text_a: str, text_b: str | None) -> str:
        texts = {"{text_a}": text_a, "{text_b}": text_b or ""}
        return "".join(texts.get(part, part) for part in parts)

    return filled


def _keys(found: dict, known: set[str], required: tuple[str, ...], where: str) -> None:
    if not isinstance(found, dict):
        raise UserError(f"{where} is {found!r:.60}; it must hold keys and values")
    unknown = sorted(set(found) - known)
    if unknown:
        raise UserError(
            f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    missing = [key for key in required if not found.get(key)]
    if missing:
        raise UserError(f"{where}: the key {missing[0]!r} is missing or empty")


def _complete_source(source: dict, where: str) -> dict:
    if not isinstance(source, dict) or len(source) != 1 or next(iter(source)) not in SOURCES:
        raise UserError(
            f"{where}: a source has exactly one of the keys {', '.join(SOURCES)}, "
            f"this one has {', '.join(map(str, source)) or 'none'}"
        )
    kind, content = next(iter(source.items()))
    required = SOURCE_REQUIRED[kind]
    _keys(content, {*SOURCES[kind], *required}, required, f"{where}.{kind}")
    if kind == "package" and content["reader"] != "scored-sentences":
        raise UserError(
            f"{where}.package.reader is {content['reader']!r}; the one reader is 'scored-sentences'"
        )
    if kind == "generated":
        _keys(content["rows"], {"train", "test"}, ("train", "test"), f"{where}.generated.rows")
    return {kind: SOURCES[kind] | content}


def complete_definition(definition: dict, name: str) -> dict:
    """Return a task's definition with its defaults filled in, checked for sense.

    Parameters
    ----------
    definition
        The content of a file of config/tasks.
    name
        The task's name, for messages.

    Raises
    ------
    UserError
        A key is unknown or missing, or two keys contradict each other.
    """
    _keys(definition, {*DEFAULTS, *REQUIRED}, REQUIRED, name)
    task = DEFAULTS | definition
    for key, defaults in (("columns", COLUMNS), ("splits", SPLITS), ("limits", LIMITS)):
        _keys(task[key], set(defaults), (), f"{name}.{key}")
        task[key] = defaults | task[key]
    kind = task["kind"]
    if kind not in METRICS:
        raise UserError(f"{name}.kind is {kind!r}; it must be {' or '.join(METRICS)}")
    task["metric"] = task["metric"] or METRICS[kind][0]
    if task["metric"] not in METRICS[kind]:
        raise UserError(
            f"{name}.metric is {task['metric']!r}; for {kind} it must be one of "
            + ", ".join(METRICS[kind])
        )
    if kind == "classification":
        _check_classes(task, name)
    else:
        for key in ("classes", "label_map", "polarity_band"):
            if task[key] is not None:
                raise UserError(f"{name}.{key} is for classification; this task is a regression")
    bounds = task["score_range"]
    if bounds is not None and not bounds[0] < bounds[1]:
        raise UserError(f"{name}.score_range {bounds} must be [lowest, highest]")
    if not 0 < task["test_fraction"] < 1:
        raise UserError(f"{name}.test_fraction is {task['test_fraction']}; it must be in (0, 1)")
    template_filler(task["template"])
    if (task["columns"]["text_b"] is None) == ("{text_b}" in task["template"]):
        raise UserError(
            f"{name}.template is {task['template']!r}, but columns.text_b is "
            f"{task['columns']['text_b']}: a pair needs both, a single text neither"
        )
    if not task["splits"]["train"]:
        raise UserError(f"{name}.splits.train is empty; name at least one split to train on")
    task["sources"] = [
        _complete_source(s, f"{name}.sources[{i}]") for i, s in enumerate(task["sources"])
    ]
    return task


def _check_classes(task: dict, name: str) -> None:
    classes = task["classes"]
    if classes is None or len(classes) != 2 or classes[0] == classes[1]:
        raise UserError(
            f"{name}.classes is {classes}; a classification task has exactly two classes: "
            "name both, class 0 first (of more classes choose two with label_map)"
        )
    band, bounds = task["polarity_band"], task["score_range"]
    if band is not None:
        if task["label_map"] is not None:
            raise UserError(f"{name}: give either label_map or polarity_band, not both")
        if not band[0] <= band[1]:
            raise UserError(f"{name}.polarity_band {band} must be [low, high] with low <= high")
        if bounds is not None and not bounds[0] <= band[0] <= band[1] <= bounds[1]:
            raise UserError(f"{name}.polarity_band {band} lies outside score_range {bounds}")
    elif bounds is not None:
        raise UserError(
            f"{name}.score_range needs a polarity_band in a classification task: "
            "without one its labels are classes, not scores"
        )
    if task["label_map"] is not None and set(task["label_map"].values()) != {0, 1}:
        raise UserError(
            f"{name}.label_map {task['label_map']} must send labels to 0 and to 1: "
            "a classification task has exactly two classes"
        )
