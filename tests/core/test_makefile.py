"""What make would run: its help, the set-up, and where torch comes from."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY


@pytest.fixture
def make(tmp_path):
    """Return a function that calls make in a folder with the Makefile and its inputs."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    shutil.copytree(REPOSITORY / "envs", tmp_path / "envs")

    def run(*words):
        done = subprocess.run(
            ["make", "--no-print-directory", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.folder = tmp_path
    return run


def test_make_alone_prints_its_targets_and_settings(make):
    told = make()
    assert told == make("help")
    targets = re.search(r"^\.PHONY: (help .*)$", (REPOSITORY / "Makefile").read_text(), re.M)[1]
    for target in set(targets.split()) - {"help"}:
        assert re.search(rf"^make {target}  ", told, re.M), target
    for setting in ("CONFIG", "CORES", "PYTHON", "TORCH_INDEX"):
        assert re.search(rf"^  {setting}=", told, re.M), setting
    assert max(map(len, told.splitlines())) <= 100
    assert not list(make.folder.glob(".venv"))


def test_a_plan_is_a_dry_run(make):
    python, smoke = f"BIN={Path(sys.executable).parent}", REPOSITORY / "config/smoke.yaml"
    command = f"/snakemake --configfile '{smoke}' --dry-run --logger ntktune"
    told = make("-n", "plan", python, f"CONFIG={smoke}")
    assert command in told
    assert f"-m ntktune finetune plan --config '{smoke}'" in told


@pytest.mark.parametrize("target", ["reproduce", "plan"])
def test_a_configuration_that_is_not_there_is_told_plainly(target):
    python = f"BIN={Path(sys.executable).parent}"
    done = subprocess.run(
        ["make", "--dry-run", target, python, "CONFIG=my/studdy.yaml"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("my/studdy.yaml ")
    assert "CONFIG=my/studdy.yaml cannot be used; the reason stands above" in done.stderr
    assert not re.search(r"UserError|Traceback|SyntaxError", done.stderr)


def pip(told):
    """Return the options with which pip would install the lock."""
    return re.search(r"--requirement envs/requirements.txt (.*)", told)[1]


def test_torch_comes_from_pypi_with_its_cuda_packages_pinned(make):
    assert pip(make("-n", "setup")) == "--constraint envs/cuda.txt"


def test_torch_comes_from_another_index_into_a_new_environment(make):
    url = "https://index.example/cpu"
    told = make("-n", "setup", f"TORCH_INDEX={url}")
    assert pip(told) == f"--extra-index-url '{url}'"
    assert "-m venv --clear .venv" in told
    assert f"echo '{url}' > .venv/.ready" in told

    # set up with it: it is kept, and another one begins anew
    (make.folder / ".venv").mkdir()
    (make.folder / ".venv/.ready").write_text(f"{url}\n")
    assert "Nothing to be done" in make("-n", "setup")
    assert "Nothing to be done" in make("-n", "setup", f"TORCH_INDEX={url}")
    assert "Nothing to be done" in make("-n", "setup", f"TORCH_INDEX= {url} ")
    assert pip(make("-n", "setup", "TORCH_INDEX=")) == "--constraint envs/cuda.txt"
    assert pip(make("-n", "setup", "TORCH_INDEX=https://b")) == "--extra-index-url 'https://b'"
    assert pip(make("-n", "-W", "envs/requirements.txt", "setup")) == f"--extra-index-url '{url}'"


def test_what_torch_asks_for_on_linux_is_locked_apart_from_the_rest():
    locked = [
        dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "envs" / name).read_text(), re.M))
        for name in ("requirements.txt", "cuda.txt")
    ]
    assert len(locked[1]) == 19
    assert {"triton", "cuda-toolkit", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} <= set(locked[1])
    assert not set(locked[0]) & set(locked[1])
    assert not [name for name in locked[0] if name.startswith(("nvidia", "cuda", "triton"))]
