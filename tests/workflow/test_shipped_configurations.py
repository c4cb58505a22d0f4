"""Shipped configurations and schemas: valid, and documented key by key."""

import re
from pathlib import Path

import jsonschema
import pytest

from ntktune.data.study import resolved_study
from ntktune.study.config import load_yaml, schema, validated
from snakemake_logger_plugin_ntktune import EXPECTED

REPOSITORY = Path(__file__).parents[2]
CONFIGURATIONS = sorted((REPOSITORY / "config").glob("*.yaml"))
TASKS = sorted((REPOSITORY / "config/tasks").glob("*.yaml"))


def objects(spec, path=""):
    """Yield every object of a schema that lists properties, with its path."""
    if "properties" in spec:
        yield path, spec
    for key, inner in spec.get("properties", {}).items():
        yield from objects(inner, f"{path}.{key}")
    if isinstance(spec.get("items"), dict):
        yield from objects(spec["items"], f"{path}[]")


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    study = resolved_study(load_yaml(path), str(path))
    assert study["study"] in (path.stem, "quickstart")


@pytest.mark.parametrize("path", TASKS, ids=lambda p: p.stem)
def test_every_shipped_task_is_valid(path):
    task = validated(load_yaml(path), "task", str(path))
    # where the makers state no licence, the paper to cite is named instead
    assert task["licence"] or task["citation"]


@pytest.mark.parametrize("name", ["config", "task"])
def test_the_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("name", ["config", "task"])
def test_every_key_has_a_description_and_every_optional_key_a_default(name):
    seen = 0
    for path, spec in objects(schema(name)):
        # random: the keys are Hugging Face's
        assert spec.get("additionalProperties") is False, path
        # of alternatives (hub, folder, ...) exactly one is given, so none has a default
        alternatives = spec.get("maxProperties") == 1 or "oneOf" in spec
        for key, inner in spec["properties"].items():
            seen += 1
            assert len(inner.get("description", "")) > 10, f"{path}.{key}"
            if not alternatives and key not in spec.get("required", []):
                assert "default" in inner, f"{path}.{key}"
    assert seen > 20


def test_every_key_is_explained_in_the_configurations_readme():
    text = (REPOSITORY / "config/README.md").read_text()
    for name in ("config", "task"):
        for path, spec in objects(schema(name)):
            described = (".model.source", ".selection.models[].source", ".sources[]")
            if path.startswith(described):
                continue  # described by examples
            for key in spec["properties"]:
                assert f"`{key}`" in text, f"{path}.{key} is missing in config/README.md"


def locked():
    """Return package → version of the lock."""
    lines = (REPOSITORY / "envs/requirements.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if "==" in line and not line.startswith(" ")]
    return {name.strip(): version.split(";")[0].strip() for name, version in pins}


def test_the_lock_holds_everything_that_was_asked_for():
    wanted = (REPOSITORY / "envs/requirements.in").read_text().splitlines()
    names = {line.split("==")[0] for line in wanted if line and not line.startswith("#")}
    assert names <= set(locked())
    assert locked()["torch"] == "2.13.0"


def _rules(chapter="*"):
    """Return the names of a chapter's rules."""
    return {
        name
        for path in (REPOSITORY / "workflow/rules").glob(f"{chapter}.smk")
        for name in re.findall(r"^(?:rule|use rule \w+ as) (\w+)", path.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("chapter", ["data", "figures"])
def test_rules_that_take_seconds_are_no_jobs_of_a_cluster(chapter):
    text = (REPOSITORY / f"workflow/rules/{chapter}.smk").read_text()
    # a rule made of another one says it, too
    rules = re.findall(r"^ *(?:use )?rule\b", text, re.MULTILINE)
    assert len(re.findall(r"^ +localrule: True\b", text, re.MULTILINE)) == len(rules) > 1


@pytest.mark.workflow
def test_snakemakes_lint_asks_for_environments_of_the_jobs_and_nothing_else(checkout):
    """There are none: jobs run in Snakemake's own Python, which needs the package in any case."""
    told = checkout.snakemake("--lint").stderr
    titles = set(re.findall(r"^    \* (.+):$", told, re.MULTILINE))
    assert titles == {"Specify a conda environment or container for each rule."}, told


def test_profiles_and_expected_times_name_rules_that_exist():
    rules = _rules()
    profile = load_yaml(REPOSITORY / "profiles/slurm/profile.v9+.yaml")
    assert set(profile["set-resources"]) <= rules
    assert set(profile["groups"]) <= rules
    assert set(EXPECTED) <= rules
