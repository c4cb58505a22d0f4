"""What computes on a GPU, on a pretended one: no tensors of two devices meet, and equal numbers."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import command_cases
import device_cases
import kernel_cases
import pytest
import training_cases

# each in a process of its own, few for what an import costs
PROCESSES = ((device_cases, kernel_cases), (training_cases, command_cases))
CASES = [
    (process, f"{module.__name__} {name}")
    for process, modules in enumerate(PROCESSES)
    for module in modules
    for name in module.CASES
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return a function: the outcome of each case of a process, which runs once."""

    @cache
    def made(process):
        folder = tmp_path_factory.mktemp("gpu")
        modules = [module.__name__ for module in PROCESSES[process]]
        support = str(Path(__file__).parents[1] / "support")
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("compare.py")), "report.json", *modules],
            cwd=folder,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": support, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((folder / "report.json").read_text())

    return made


@pytest.mark.parametrize(("process", "case"), CASES, ids=[case for _, case in CASES])
def test_a_gpu_gives_the_processors_numbers(process, case, report):
    assert report(process)[case] == ""
