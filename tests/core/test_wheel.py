"""The package alone: what `pip install` gives, used outside the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions

import pytest
from checkout import REPOSITORY

from ntktune.data.pretrained import write_model

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}


def imported(package):
    """Return the top-level names that the modules of a package import."""
    for path in (REPOSITORY / "workflow" / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0]


def declared(*extras):
    """Return the normal names of the distributions that pyproject.toml asks for."""
    wanted = [*PROJECT["dependencies"]]
    wanted += [name for extra in extras for name in PROJECT["optional-dependencies"][extra]]
    return {re.match(r"[\w-]+", name).group().lower().replace("_", "-") for name in wanted}


@pytest.mark.parametrize(
    ("package", "extras", "through"),
    [
        ("ntktune", ("hub",), {}),
        # Snakemake depends on the interface of its own version
        (
            "snakemake_logger_plugin_ntktune",
            ("workflow",),
            {"snakemake-interface-logger-plugins": "snakemake"},
        ),
    ],
)
def test_everything_that_is_imported_is_declared(package, extras, through):
    distributions = packages_distributions()
    foreign = set(imported(package)) - sys.stdlib_module_names - {"ntktune", package}
    assert foreign
    for name in foreign:
        found = {d.lower().replace("_", "-") for d in distributions[name]}
        assert {through.get(d, d) for d in found} & declared(*extras), f"{name} of {found}"


def test_the_extras_are_what_the_lock_holds():
    lock = (REPOSITORY / "envs/requirements.txt").read_text()
    for name in declared("hub", "workflow") - {"ntktune"}:
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel, install it in a fresh environment; return a function that runs there.

    The environment sees the packages that the tests use, but none of the repository's own files.
    """
    base = tmp_path_factory.mktemp("wheel")
    source, home, environment = base / "source", base / "home", base / "environment"
    ignored = shutil.ignore_patterns(".*", "results", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *build, "--wheel-dir", base, source], check=True)
    shutil.rmtree(source)
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    install = ["--python", python, "install", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, *install, *base.glob("*.whl")], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    # no .pth file in a folder named by one is read: an editable install is not seen
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    home.mkdir()
    shutil.copytree(REPOSITORY / "config", home / "config")
    write_model({"name": "tiny", "random": LLAMA}, home / "tiny")

    def run(program, *arguments):
        done = subprocess.run(
            [environment / "bin" / program, *arguments],
            cwd=home,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.home = home
    return run


def test_the_package_is_the_wheels_own_and_typed(installed):
    said = installed("python", "-c", "import ntktune; print(ntktune.__path__[0])")
    assert "/environment/lib/" in said
    assert os.path.isfile(f"{said.strip()}/py.typed")


def test_a_kernel_is_computed_from_a_csv(installed):
    rows = [f"{i % 5},a text of number {i}" for i in range(20)]
    (installed.home / "reviews.csv").write_text("\n".join(["stars,review", *rows]))
    command = ["kernel", "gram", "--model", "tiny", "--data", "reviews.csv"]
    command += ["--text-column", "review", "--label-column", "stars", "--out", "gram.safetensors"]
    installed("ntktune", *command)
    assert (installed.home / "gram.safetensors").is_file()


def test_a_studys_fine_tuning_is_accounted_for(installed):
    said = installed("ntktune", "finetune", "plan", "--config", "config/smoke.yaml")
    assert said.startswith("study smoke: ")
    assert "\ntogether " in said


def test_the_readmes_python_runs(installed):
    """The README's model folder is a tiny one here; its text is run as it stands.

    docs/library.md goes on from what the README computes.
    """
    pages = "".join((REPOSITORY / page).read_text() for page in ("README.md", "docs/library.md"))
    blocks = re.findall(r"^```python\n(.*?)^```", pages, re.S | re.M)
    assert len(blocks) > 1
    code = "\n".join(blocks)
    folder = re.search(r'folder = "([^"]+)"', code).group(1)
    shutil.copytree(installed.home / "tiny", installed.home / folder)
    installed("python", "-W", "error::SyntaxWarning", "-c", code)
