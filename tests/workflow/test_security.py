"""Nothing foreign is run: no unpickling, no remote code, no shell words from configuration."""

import ast
import re
import subprocess
import sys

import pytest
import yaml
from checkout import REPOSITORY

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
                assert keyword.arg != "trust_remote_code", ast.unparse(node)
            if getattr(node.func, "attr", None) in ("extractall", "extract"):
                assert any(keyword.arg == "filter" for keyword in node.keywords), ast.unparse(node)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.smk")), ids=lambda path: path.stem)
def test_every_word_that_a_rule_hands_to_the_shell_is_quoted(path):
    text = path.read_text()
    shells = re.findall(r'shell:\s*"""(.*?)"""', text, re.DOTALL)
    assert text.count("shell:") == len(shells)
    assert not re.search(r"^\s*(run|script|notebook|wrapper):|\bshell\(", text, re.MULTILINE)
    assert shells or path.stem in ("common", "collect")
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
    study["theory"] = {"tasks": []}
    (checkout.folder / "evil $(touch pwned).yaml").write_text(yaml.safe_dump(study))
    before = set(checkout.folder.rglob("*"))
    done = checkout.snakemake(
        "--configfile", "evil $(touch pwned).yaml", "--cores", "2", "--", "fig4", "grid"
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
            "study is '../../elsewhere': '../../elsewhere' does not match",
        ),
        (
            {"study": "a b; touch pwned"},
            "study is 'a b; touch pwned': 'a b; touch pwned' does not match",
        ),
        ({"tasks": ["../config"]}, "tasks.0 is '../config': '../config' does not match"),
        (
            {"tasks": ["x$(touch pwned)"]},
            "tasks.0 is 'x$(touch pwned)': 'x$(touch pwned)' does not match",
        ),
    ],
)
def test_names_that_become_paths_are_plain(checkout, change, message):
    (checkout.folder / "mine.yaml").write_text(yaml.safe_dump(change))
    done = checkout.snakemake("--dry-run", "--configfile", "mine.yaml")
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert not (checkout.folder / "pwned").exists()


def test_code_in_a_model_folder_is_not_imported(tmp_path):
    """A folder whose configuration asks for its own Python code is refused, the code not run."""
    (tmp_path / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoModel": "code.Model", "AutoConfig": "code.C"}}'
    )
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "model.safetensors").write_bytes(b"")
    source = '{"name": "m", "folder": "' + str(tmp_path) + '"}'
    command = [sys.executable, "-m", "ntktune", "data", "fetch-model", "--source", source]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "models that bring their own Python code are not run" in done.stderr
    assert not (tmp_path / "ran").exists()
