"""Nothing foreign is run: no unpickling, no remote code, no shell words from configuration."""

import ast
import io
import json
import re

import pandas as pd
import pytest
import yaml
from checkout import REPOSITORY
from tiny_study import tuning_flags, write_model, write_task

from ntktune.__main__ import main
from ntktune.data.pretrained import byte_tokenizer
from ntktune.store.records import write_json, write_table

PACKAGE = REPOSITORY / "workflow"
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "torch.load", "np.load", "numpy.load", "os.system", "os.popen"),
    *("yaml.load", "yaml.unsafe_load", "pd.read_pickle", "pandas.read_pickle"),
}


def _sources():
    workflows = [*PACKAGE.rglob("*.smk"), *PACKAGE.glob("Snakefile"), REPOSITORY / "Snakefile"]
    return sorted([*PACKAGE.rglob("*.py"), *workflows])


def test_there_are_sources_to_look_at():
    assert len(_sources()) > 100


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_unpickles_evaluates_or_runs_a_shell(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_IMPORTS
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS, ast.unparse(node)
            for keyword in node.keywords:
                named = f"{keyword.arg}={ast.unparse(keyword.value)}"
                assert named not in ("shell=True", "allow_pickle=True", "weights_only=False")
                assert keyword.arg != "trust_remote_code" or path.stem == "loading"
            if getattr(node.func, "attr", None) in ("from_pretrained", "from_config"):
                assert path.stem == "loading", f"{path}: {ast.unparse(node)} has a helper there"
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert said["trust_remote_code"] == "False"
            if getattr(node.func, "attr", None) in ("extractall", "extract"):
                assert any(keyword.arg == "filter" for keyword in node.keywords), ast.unparse(node)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.smk")), ids=lambda path: path.stem)
def test_every_word_that_a_rule_hands_to_the_shell_is_quoted(path):
    text = path.read_text()
    shells = re.findall(r'shell:\s*"""(.*?)"""', text, re.DOTALL)
    assert text.count("shell:") == len(shells)
    assert not re.search(r"^\s*(run|script|notebook|wrapper):|\bshell\(", text, re.MULTILINE)
    assert shells or path.stem in ("common", "collect", "run_state")
    for shell in shells:
        fields = re.findall(r"\{[^{}]*\}", shell)
        assert fields
        assert [field for field in fields if not field.endswith(":q}")] == []


EVIL = "x'; touch pwned; $(touch pwned) `touch pwned` \" && touch pwned #"


@pytest.mark.workflow
def test_names_paths_and_values_of_a_configuration_are_never_run(checkout):
    """A study whose every text is a shell command."""
    folder = checkout.folder / "my tasks; touch pwned"
    folder.mkdir()
    rows = "".join(f'"{{""a"": {i}}} it is {i % 2} $(touch pwned)",{i % 2}\n' for i in range(60))
    data = folder / "$(touch pwned).csv"
    data.write_text(f'"{EVIL[:9]}",label\n{rows}')
    task = {
        "title": EVIL,
        "kind": "classification",
        "classes": [EVIL, "`touch pwned`"],
        "label_map": {"0": 0, "1": 1},
        "columns": {"text_a": EVIL[:9], "label": "label"},
        "template": "{text_a} $(touch pwned)",
        "licence": EVIL,
        "test_fraction": 0.3,
        "sources": [{"files": {"train": str(data)}}],
    }
    (folder / "evil.yaml").write_text(yaml.safe_dump(task))
    study = yaml.safe_load((checkout.folder / "config/smoke.yaml").read_text())
    study |= {"study": "evil", "task_folders": [folder.name], "tasks": ["evil"]}
    study["model"] |= {"name": EVIL + " {input}", "licence": EVIL}
    study["kernel"] = {"rows": 10, "draws": 1}
    study["finetune"] |= {"sizes": [16], "test_rows": 10}
    study["taskvectors"] = {"tasks": []}
    for chapter in ("theory", "linearized", "selection", "advise"):
        study[chapter] = {"tasks": []}
    (checkout.folder / "evil $(touch pwned).yaml").write_text(yaml.safe_dump(study))
    before = set(checkout.folder.rglob("*"))
    done = checkout.snakemake(
        "--configfile", "evil $(touch pwned).yaml", "--cores", "2", "--", "fig4", "finetune"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    new = {path.relative_to(checkout.folder) for path in set(checkout.folder.rglob("*")) - before}
    assert not [path for path in new if "pwned" in path.name]
    # nor is anything written outside of the results, Snakemake's own folder and Python's caches
    elsewhere = [p for p in new if p.parts[0] not in ("results", ".snakemake")]
    assert [p for p in elsewhere if "__pycache__" not in p.parts] == []


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"study": "../../elsewhere"},
            "study is '../../elsewhere': Name of the study",
        ),
        (
            {"study": "a b; touch pwned"},
            "study is 'a b; touch pwned': Name of the study",
        ),
        ({"tasks": ["../config"]}, "tasks.0 is '../config': A task's name, of letters"),
        (
            {"tasks": ["x$(touch pwned)"]},
            "tasks.0 is 'x$(touch pwned)': A task's name, of letters",
        ),
    ],
)
def test_names_that_become_paths_are_plain(checkout, change, message):
    (checkout.folder / "mine.yaml").write_text(yaml.safe_dump(change))
    done = checkout.snakemake("--dry-run", "--configfile", "mine.yaml")
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert not (checkout.folder / "pwned").exists()


@pytest.fixture
def code_folder(tmp_path, monkeypatch):
    """A study whose model folder has code of its own, and somebody who says yes to everything."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("something was asked"))
    folder = tmp_path / "model"
    facts = write_model(folder)
    write_task(tmp_path, "steps", "regression", facts)
    draws = {"draws": [[0, 1, 2]], "provenance": {}}
    write_json(tmp_path / "draws.json", draws, {"data_sha256": "data of steps"})
    ran = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    (folder / "own.py").write_text(
        f"{ran}from transformers import PreTrainedConfig, PreTrainedTokenizer\n"
        "class T(PreTrainedTokenizer): pass\nclass C(PreTrainedConfig): model_type = 'mine'\n"
    )
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"FILM{i},{i}\n" for i in range(9)))
    table = {
        "text_a": ["a"],
        "text_b": [None],
        "label": [1.0],
        "label_noise": [0.0],
        "split": ["train"],
    }
    definition = {"name": "steps", "kind": "regression", "template": "{text_a}"}
    write_table(
        tmp_path / "t.parquet",
        pd.DataFrame(table),
        {"task": definition, "data_sha256": "x"},
    )
    return tmp_path


def _commands(study):
    """Return the commands that read a model folder: those that need its tokenizer come last."""
    model, out = ["--model", str(study / "model")], ["--out", str(study / "out")]
    tokens = ["--tokens", str(study / "steps.safetensors"), "--task", "steps", "--seed", "1"]
    tuned = ["--out-metrics", str(study / "m"), "--out-history", str(study / "h")]
    source = json.dumps({"name": "x", "folder": str(study / "model")})
    return [
        ["kernel", "plan", *model],
        ["kernel", "draws", *model, *tokens, "--draws", str(study / "draws.json"), *out],
        ["finetune", "run", *tuning_flags(study, "steps"), *tuned],
        ["taskvectors", "export", *model, *out],
        ["kernel", "gram", *model, "--data", str(study / "rows.csv"), *out],
        ["linearized", "layers", *model, "--data", str(study / "rows.csv"), *out],
        ["data", "fetch-model", "--source", source, *out],
        [
            "data",
            "tokenize",
            "--table",
            str(study / "t.parquet"),
            "--max-tokens",
            "8",
            *model,
            *out,
        ],
    ]


@pytest.mark.parametrize("command", range(7))
def test_code_of_a_model_is_not_run_and_nothing_is_asked(code_folder, capsys, command):
    file = code_folder / "model" / "config.json"
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "own.C"}, "vocab_size": 257}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    byte_tokenizer().save_pretrained(code_folder / "model")
    assert main(_commands(code_folder)[command]) == 1
    assert "models that bring their own Python code are not run" in capsys.readouterr().err
    assert not (code_folder / "ran").exists()


@pytest.mark.parametrize("command", range(1, 7))
def test_no_command_fills_gaps_in_weights_with_random_numbers(code_folder, capsys, command):
    file = code_folder / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}))
    byte_tokenizer().save_pretrained(code_folder / "model")
    assert main(_commands(code_folder)[command]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "error: the weights in" in said
    assert "do not fill the model: 9 tensors are missing and 0 have another shape" in said
    assert not (code_folder / "out").exists()


@pytest.mark.parametrize("command", [4, 5, 6])
def test_code_of_a_tokenizer_is_not_run_and_nothing_is_asked(code_folder, capsys, command):
    own = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["own.T", None]}}
    (code_folder / "model" / "tokenizer_config.json").write_text(json.dumps(own))
    assert main(_commands(code_folder)[command]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search("error: the tokenizer in .* cannot be read: ", said)
    assert not (code_folder / "ran").exists()
