"""Task definitions: the shipped files, the schema, and definitions that contradict themselves."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from ntktune.errors import UserError
from ntktune.study.config import complete_definition
from ntktune.study.scores import METRICS

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load(
    (ROOT / "workflow/ntktune/study/schemas/task.schema.yaml").read_text("utf-8")
)
TASKS = sorted((ROOT / "config/tasks").glob("*.yaml"))
FILES = [{"files": {"train": "a.csv"}}]
HUB = {"hub": {"id": "a", "revision": "b"}}
SCORES = {"title": "T", "kind": "regression", "sources": FILES}
CLASSES = {"title": "T", "kind": "classification", "classes": ["no", "yes"], "sources": FILES}


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_every_shipped_task_is_valid_and_makes_sense(path):
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(task)
    complete = complete_definition(task, path.stem)
    assert complete["metric"] in METRICS[complete["kind"]]
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
    kinds = SCHEMA["properties"]["sources"]["items"]["properties"]
    exclusive = {f"sources.{kind}" for kind in kinds}
    for path, value, required in _keys(SCHEMA):
        assert value.get("description"), path
        if not required and not path.endswith(("$",)) and path not in exclusive:
            assert "default" in value, path
        if "object" in value.get("type", ()):
            assert value["additionalProperties"] is False, path
    assert SCHEMA["additionalProperties"] is False


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
        (SCORES, {"kind": "ranking"}, r"t: kind is 'ranking': choose from: regression, classif"),
        (SCORES, {"colour": 1}, r"t: unknown key 'colour'; did you mean 'columns'"),
        (SCORES, {"columns": {"txt": "a"}}, r"t: unknown key 'columns.txt'; did you mean"),
        (SCORES, {"title": None}, r"t: title is None: must be text"),
        (SCORES, {"sources": []}, r"t: sources is \[\]: 0 entries, must be at least 1"),
        (SCORES, {"sources": [{"web": {}}]}, r"unknown key 'sources.0.web'; choose from"),
        (SCORES, {"sources": [{**FILES[0], **HUB}]}, r"t: sources.0 has files and hub; give exact"),
        (SCORES, {"sources": [{"hub": {"id": "a"}}]}, r"t: sources.0.hub.revision is missing"),
        (SCORES, {"sources": [{"generated": {"rows": {"train": 3}}}]}, r"rows.test is missing"),
        (SCORES, {"metric": "accuracy"}, r"t: metric is 'accuracy': for a regression .* pearson"),
        (SCORES, {"classes": ["a", "b"]}, r"classes is .*: it is for classification; this"),
        (SCORES, {"score_range": [5, 0]}, r"t: score_range \[5, 0\] must be \[lowest, highest\]"),
        (SCORES, {"test_fraction": 1}, r"t: test_fraction is 1: must be less than 1"),
        (SCORES, {"splits": {"train": []}}, r"t: splits.train is \[\]: 0 entries"),
        (SCORES, {"template": "{text_c}"}, r"t: template is '\{text_c\}': .* must contain"),
        *((SCORES, {"template": text}, r"t: template is .* no other braces") for text in (
            "{text_a", "{text_a.x}", "{text_a} {}", "text", "")),
        (SCORES, {"template": "{text_b}", "columns": {"text_b": "b"}}, r"t: template is .* braces"),
        (SCORES, {"template": "{text_a} {text_b}"}, r"t: columns is missing: .* name the sec"),
        (SCORES, {"columns": {"text_b": "b"}}, r"columns.text_b is 'b': .* no .*: for a pair add"),
        (SCORES, {"template": "{text_a} {text_b}", "columns": {}}, r"columns.text_b is missing: "),
        (SCORES, {"label_map": {"a": 0, "b": 1}}, r"t: label_map is .* this task is a regression"),
        (SCORES, {"polarity_band": [0, 1]}, r"t: polarity_band is .* this task is a regression"),
        (CLASSES, {"metric": "mse"}, r"t: metric is 'mse': for a classification .* accuracy, f1"),
        (CLASSES, {"label_map": {}}, r"t: label_map sends labels to the classes \[\]; .* 0 to 1"),
        (CLASSES, {"classes": ["a"]}, r"classes is .*: 1 entries, must be at least 2"),
        (CLASSES, {"classes": None, "label_map": {"a": 0}}, r"classes is None: a label_map needs"),
        (CLASSES, {"label_map": {"a": 0, "b": 2}}, r"to the classes \[0, 2\]; .*each of 0 to 1"),
        (CLASSES, {"label_map": {"a": "x"}}, r"label_map.a is 'x': must be a whole number"),
        (CLASSES, {"classes": None, "polarity_band": [0, 0]}, r"classes is None: a polarity_band"),
        (CLASSES, {"classes": ["a", "b", "c"], "polarity_band": [0, 0]}, r"a polarity_band makes"),
        (SCORES, {"score_range": 5}, r"t: score_range is 5: must be a list"),
        (SCORES, {"test_fraction": "a"}, r"t: test_fraction is 'a': must be a number"),
        (SCORES, {"limits": {"train": "x"}}, r"t: limits.train is 'x': must be a whole number"),
        (SCORES, {"template": 3}, r"t: template is 3: must be text"),
        (SCORES, {"train_rows": "x"}, r"t: train_rows is 'x': must be a whole number"),
        (SCORES, {"kind": ["regression"]}, r"t: kind is \['regression'\]"),
        (SCORES, {"columns": ["text"]}, r"t: columns is \['text'\]: must be keys and values"),
        (SCORES, {"sources": [{"files": {"train": 3}}]}, r"t: sources.0.files.train is 3: must be"),
        (SCORES, {"sources": ["x"]}, r"t: sources.0 is 'x': must be keys and values"),
        (SCORES, {"sources": [{"generated": {"rows": {"train": -5, "test": 3}}}]}, r"train is -5"),
        (CLASSES, {"label_map": [0, 1]}, r"t: label_map is \[0, 1\]: must be keys and values"),
        (CLASSES, {"classes": ["a", "a"]}, r"classes is .*: 'a' appears twice"),
        (CLASSES, {"label_map": {"a": 0, "b": 0}}, r"to the classes \[0\]; it must send some to"),
        (CLASSES, {"score_range": [0, 1]}, r"t: score_range is \[0, 1\]: .*: take score_range out"),
        (CLASSES, {"polarity_band": [1, -1]}, r"must be \[low, high\] with low <= high"),
        (CLASSES, {"polarity_band": [-9, 9], "score_range": [-4, 4]}, r"lies outside score_range"),
        (CLASSES, {"polarity_band": [0, 0], "label_map": {"a": 0, "b": 1}}, r"not both"),
    ],
)  # fmt: skip
def test_a_contradiction_is_told_with_its_key(base, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        complete_definition(base | changes, "t")
    assert len(str(caught.value).splitlines()) == 1
