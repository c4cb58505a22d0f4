"""Options of commands come from the configuration's schema alone."""

import argparse
import ast
import importlib
import re
from pathlib import Path

import pytest

from ntktune.__main__ import main
from ntktune.cli import CHAPTERS, finetune
from ntktune.cli.options import (
    COMMANDS,
    LORA,
    OVERRIDES,
    command_options,
    declaration,
    option_words,
)
from ntktune.data.study import CHOSEN_CHAPTERS
from ntktune.study.config import schema

RULES = Path(__file__).parents[2] / "workflow/rules"


def keys(spec=None, path=""):
    """Yield the keys of the configuration that have no keys themselves."""
    for name, inner in (spec or schema("config"))["properties"].items():
        if "properties" in inner and name != "source":
            yield from keys(inner, f"{path}{name}.")
        else:
            yield path + name


@pytest.fixture(scope="module")
def parsers():
    """Return each command's parser."""
    found = {}
    for chapter in CHAPTERS:
        verbs = argparse.ArgumentParser(prog=f"ntktune {chapter}").add_subparsers()
        importlib.import_module(f"ntktune.cli.{chapter}").add_commands(verbs)
        found |= {f"{chapter} {verb}": parser for verb, parser in verbs.choices.items()}
    return found


def test_every_key_is_an_option_of_a_command_or_tested_with_the_plan():
    options = {key for command in COMMANDS for key, _ in command_options(command).values()}
    # tests/workflow/test_plan.py and, of the architecture, tests/finetune/test_account.py
    planned = {"study", "chapters", "tasks", "task_folders", "kernel.shard_rows"}
    planned |= {f"model.{name}" for name in ("name", "licence", "source", "architecture")}
    planned |= {"finetune.fixed_epochs", "finetune.fixed_size", "taskvectors.seeds"}
    planned |= {"finetune.large_size", "finetune.large_seeds", "finetune.probe_rate_factor"}
    planned |= {"finetune.lora.rate_factor"}
    planned |= {f"model.adapter.{name}" for name in ("hub.id", "hub.revision", "folder")}
    planned |= {f"{chapter}.tasks" for chapter in CHOSEN_CHAPTERS}
    planned |= {"linearized.held", "selection.models"}
    planned |= {
        f"figures.{name}" for name in schema("config")["properties"]["figures"]["properties"]
    }
    assert set(keys()) == options | planned


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_uses_each_of_its_options(command):
    folder = Path(finetune.__file__).parent
    own = "".join(file.read_text() for file in folder.glob(f"{command.split()[0]}*.py"))
    imported = {"finetune", *re.findall(r"from ntktune\.cli\.(\w+) import", own)}
    text = own + "".join((folder / f"{name}.py").read_text() for name in imported)
    for name in command_options(command):
        # of adapters, all that the commands' table has
        assert name[5:] in LORA or re.search(rf"args\.{name}\b|\"{name}\"", text), name


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_is_as_the_schema_declares_it(parsers, command):
    actions = {action.dest: action for action in parsers[command]._actions}
    for name, (key, _) in command_options(command).items():
        action, spec = actions[name], declaration(key)
        changed = OVERRIDES.get(f"{command} {name}", OVERRIDES.get(key, {}))
        assert action.help, (command, name)
        # what can be null is null if it is left out
        types = spec.get("type", ())
        nullable = "null" in types if isinstance(types, list) else False
        wanted = None if nullable else spec["default"]
        assert action.default == changed.get("default", wanted), (command, name)
        assert not action.required or changed, (command, name)


def test_only_what_is_declared_is_overridden():
    used = {key for command in COMMANDS for key, _ in command_options(command).values()}
    used |= {f"{command} {name}" for command in COMMANDS for name in command_options(command)}
    assert set(OVERRIDES) <= used


TRAJECTORY = (
    *("--model", "m", "--tokens", "t", "--subsets", "s", "--task", "a", "--size", "8"),
    *("--out-evaluations", "e", "--out-ridge", "r", "--out-stops", "o"),
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning-rate", "0"], "--learning-rate is 0.0: must be greater than 0"),
        (["--step-size-factor", "1.5"], "--step-size-factor is 1.5: must be at most 1"),
        (["--constant", "nan"], "--constant is nan: must be a finite number"),
        (["--size", "7"], "--size is 7: must be at least 8"),
        (["--blocks", "0", "--test-rows", "1"], "--blocks is 0: must be at least 1; --test-rows"),
    ],
)
def test_a_limit_is_told_in_one_line_before_any_file_is_read(words, message, capsys):
    assert main(["theory", "trajectory", *TRAJECTORY, *words]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"ntktune theory trajectory: error: {message}")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "3", "80"], "--sizes has 3: must be at least 4"),
        (["--sizes", "20", "20"], "--sizes is [20, 20]: 20 appears twice"),
    ],
)
def test_a_limit_of_a_list_is_told(words, message, capsys):
    assert main(["theory", "simulate", *words, "--out-errors", "e", "--out-radii", "r"]) == 1
    assert capsys.readouterr().err == f"ntktune theory simulate: error: {message}\n"


def test_rules_hand_over_a_commands_keys_and_no_others():
    class Study(dict):
        """A configuration that notes what is read."""

        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    read = []
    tuning = {"seeds": 3, "holdout_fraction": 0.25, "test_rows": None, "patience": 5}
    study = Study(seed=1, finetune=Study(tuning))
    words = ["--seed", "1", "--seeds", "3", "--holdout-fraction", "0.25"]
    assert option_words(study, "data subsets") == words
    assert set(read) == {"seed", "finetune", "seeds", "holdout_fraction", "test_rows"}
    assert option_words(study, "data subsets", test_rows=9, seeds=None) == [
        *("--seed", "1", "--holdout-fraction", "0.25", "--test-rows", "9")
    ]
    with pytest.raises(KeyError, match="data subsets has no options row"):
        option_words(study, "data subsets", row=1)


def test_a_list_is_many_words_and_true_a_bare_flag():
    study = {"taskvectors": {"coefficient": 1.0, "coefficients": [0, 0.5]}}
    words = ["--coefficient", "1.0", "--candidates", "0", "0.5"]
    assert option_words(study, "taskvectors score") == words
    keys = [key for key, _ in command_options("finetune run").values()]
    study = {"seed": 1, "device": "cpu", "finetune": {}, "model": {"blocks": None}}
    study["model"]["pooling"] = None
    study["finetune"] = {key.split(".")[1]: None for key in keys if key.startswith("finetune")}
    study["finetune"]["lora"] = dict.fromkeys(LORA) | {"exclude": [], "rank_pattern": {}}
    for checkpointing in (True, False):
        study["finetune"]["checkpointing"] = checkpointing
        words = ["--seed", "1", *["--checkpointing"] * checkpointing, "--device", "cpu"]
        assert option_words(study, "finetune run") == words


def test_a_command_is_thin():
    """Loops over seeds, samples and sweeps stand in the chapters' libraries."""
    for file in Path(finetune.__file__).parent.glob("*.py"):
        lines = file.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                code = [line.strip() for line in lines[body[0].lineno - 1 : node.end_lineno]]
                long = [line for line in code if line and not line.startswith("#")]
                assert len(long) <= 30, f"{file.name}: {node.name}"


def test_arrows_between_rooms_run_one_way():
    """cli → figures → … → data → network, study → store; a later chapter imports earlier ones."""
    rooms = ["errors", "intervals", "store", "study", "network", *CHAPTERS, "cli", "__main__"]
    rooms.remove("results")
    package = Path(finetune.__file__).parents[1]
    for file in package.rglob("*.py"):
        own = file.relative_to(package).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ntktune."):
                other = node.module.split(".")[1]
                if own != "__init__":
                    assert rooms.index(other) <= rooms.index(own), f"{file.name}: {node.module}"
