"""Task definitions: the shipped files, the schema, and definitions that contradict themselves."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from ntktune.data import definition
from ntktune.data.definition import complete_definition, template_filler
from ntktune.errors import UserError

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/ntktune/schemas/task.schema.yaml").read_text("utf-8"))
TASKS = sorted((ROOT / "config/tasks").glob("*.yaml"))
FILES = [{"files": {"train": "a.csv"}}]
SCORES = {"title": "T", "kind": "regression", "sources": FILES}
CLASSES = {"title": "T", "kind": "classification", "classes": ["no", "yes"], "sources": FILES}


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_every_shipped_task_is_valid_and_makes_sense(path):
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(task)
    complete = complete_definition(task, path.stem)
    assert complete["metric"] in definition.METRICS[complete["kind"]]
    assert min(complete["train_rows"], complete["test_rows"]) > 0


def _keys(schema, path=""):
    for name, value in {
        **schema.get("properties", {}),
        **schema.get("patternProperties", {}),
    }.items():
        yield f"{path}{name}", value, name in schema.get("required", [])
        yield from _keys(value, f"{path}{name}.")
    if "items" in schema:
        yield from _keys(schema["items"], path)


def test_every_key_of_the_schema_is_described_and_every_optional_key_has_a_default():
    exclusive = {f"sources.{kind}" for kind in definition.SOURCES}
    for path, value, required in _keys(SCHEMA):
        assert value.get("description"), path
        if not required and not path.endswith(("$",)) and path not in exclusive:
            assert "default" in value, path
        if "object" in value.get("type", ()):
            assert value["additionalProperties"] is False, path
    assert SCHEMA["additionalProperties"] is False


def test_the_schemas_defaults_are_the_codes_defaults():
    def defaults(schema):
        return {k: v["default"] for k, v in schema["properties"].items() if "default" in v}

    assert defaults(SCHEMA) == definition.DEFAULTS
    assert tuple(SCHEMA["required"]) == definition.REQUIRED
    for key, expected in (
        ("columns", definition.COLUMNS),
        ("splits", definition.SPLITS),
        ("limits", definition.LIMITS),
    ):
        assert defaults(SCHEMA["properties"][key]) == expected
    for kind, spec in SCHEMA["properties"]["sources"]["items"]["properties"].items():
        assert defaults(spec) == definition.SOURCES[kind]
        assert tuple(spec["required"]) == definition.SOURCE_REQUIRED[kind]


def test_a_short_definition_is_completed():
    task = complete_definition(SCORES | {"columns": {"label": "score"}}, "t")
    assert task["metric"] == "pearson"
    assert task["columns"]["label"] == "score"
    assert task["columns"]["text_a"] == "text"
    assert task["splits"] == {"train": ["train"], "test": ["test"]}
    assert task["sources"] == [{"files": {"train": "a.csv", "test": None, "format": None}}]
    assert complete_definition(CLASSES, "t")["metric"] == "accuracy"


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (SCORES, {"kind": "ranking"}, r"t.kind is 'ranking'; it must be regression or classif"),
        (SCORES, {"colour": 1}, r"t: unknown key 'colour'; known are "),
        (SCORES, {"columns": {"txt": "a"}}, r"t.columns: unknown key 'txt'"),
        (SCORES, {"title": None}, r"t: the key 'title' is missing or empty"),
        (SCORES, {"sources": []}, r"t: the key 'sources' is missing or empty"),
        (SCORES, {"sources": [{"web": {}}]}, r"exactly one of the keys hub, files, .* has web"),
        (SCORES, {"sources": [{"files": {}, "hub": {}}]}, r"t.sources\[0\]: a source has exactly"),
        (SCORES, {"sources": [{"hub": {"id": "a"}}]}, r"t.sources\[0\].hub: the key 'revision'"),
        (SCORES, {"sources": [{"generated": {"rows": {"train": 3}}}]}, r"rows: the key 'test'"),
        (SCORES, {"metric": "accuracy"}, r"t.metric is 'accuracy'; for regression .* pearson, spe"),
        (SCORES, {"classes": ["a", "b"]}, r"t.classes is for classification"),
        (SCORES, {"score_range": [5, 0]}, r"t.score_range \[5, 0\] must be \[lowest, highest\]"),
        (SCORES, {"test_fraction": 1}, r"t.test_fraction is 1; it must be in \(0, 1\)"),
        (SCORES, {"splits": {"train": []}}, r"t.splits.train is empty"),
        (SCORES, {"template": "{text_c}"}, r"template '\{text_c\}': it must contain"),
        (SCORES, {"template": "{text_a} {text_b}"}, r"columns.text_b is None: a pair needs both"),
        (SCORES, {"columns": {"text_b": "b"}}, r"columns.text_b is b: a pair needs both"),
        (CLASSES, {"classes": None}, r"t.classes is None; .* exactly two classes"),
        (CLASSES, {"classes": ["a", "b", "c"]}, r"exactly two classes"),
        (CLASSES, {"label_map": {"a": 0, "b": 0}}, r"exactly two classes"),
        (CLASSES, {"score_range": [0, 1]}, r"t.score_range needs a polarity_band"),
        (CLASSES, {"polarity_band": [1, -1]}, r"must be \[low, high\] with low <= high"),
        (CLASSES, {"polarity_band": [-9, 9], "score_range": [-4, 4]}, r"lies outside score_range"),
        (CLASSES, {"polarity_band": [0, 0], "label_map": {"a": 0, "b": 1}}, r"not both"),
    ],
)  # fmt: skip
def test_a_contradiction_is_told_with_its_key(base, changes, message):
    with pytest.raises(UserError, match=message):
        complete_definition(base | changes, "t")


def test_a_template_is_filled_literally():
    fill = template_filler("Q: {text_a} A: {text_b}!")
    assert fill("{text_b}", "b") == "Q: {text_b} A: b!"
    assert template_filler("{text_a}")("a", None) == "a"
    for template in ("{text_b}", "{text_a", "{text_a.x}", "{text_a} {}"):
        with pytest.raises(UserError, match="no other braces"):
            template_filler(template)
