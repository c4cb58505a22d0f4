"""Memory, disks and the network, when there is too little of them or they fail."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from broken_study import GRAM, REGRESSION
from checkout import assert_same_numbers
from loopback_hub import COMMIT, loopback_hub

from ntktune.store.tensors import read_arrays

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]


MEASURED = """
import re, sys
from pathlib import Path
from ntktune.__main__ import main
status = main(sys.argv[1:])
print(re.search(r"VmPeak:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


@pytest.mark.usefixtures("freed_memory_goes_back")
def test_a_kernel_beyond_a_limit_of_memory_goes_on_with_less_at_once(study):
    """A layer of 60,000 units: the inputs and gradients of 16 texts take some 60 MB each."""
    text = (study.checkout.folder / "config/smoke.yaml").read_text()
    for old, new in (
        ("study: smoke", "study: wide"),
        ("      hidden_size: 32\n", "      hidden_size: 32\n      intermediate_size: 60000\n"),
        ("  draws: 2\n", "  draws: 1\n"),
        ("  rows: 40\n", "  rows: 16\n"),
        ("  pilots: [12, 32]\n", "  pilots: [12]\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (study.checkout.folder / "wide.yaml").write_text(text)
    folder, data = study.checkout.folder / "results/wide", f"results/wide/data/{REGRESSION}"
    wide = ("--configfile", "wide.yaml", "--cores", "1", "--")
    done = study.checkout.snakemake(*wide, f"{data}/draws.json")
    assert done.returncode == 0, done.stderr
    options = {
        "model": "results/wide/data/model",
        "tokens": f"{data}/tokens.safetensors",
        "draws": f"{data}/draws.json",
        "task": REGRESSION,
        "seed": 1,
        "device": "cpu",
        "out": "measured.safetensors",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURED, "kernel", "draws", *words],
        cwd=study.checkout.folder,
        env=study.checkout.environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    undisturbed = read_arrays(study.checkout.folder / "measured.safetensors")[0]["kernel"]
    limit = int(measured.stdout) * 1024 - 60 * 2**20
    done = study.checkout.snakemake(
        *wide, f"results/wide/{GRAM}", under=("prlimit", f"--as={limit}")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = (folder / f"logs/kernel/{REGRESSION}.log").read_text()
    assert re.search(r"memory ran out on cpu \(.*\); going on with half as much at once: \d+", said)
    found = read_arrays(folder / GRAM)[0]["kernel"]
    np.testing.assert_allclose(found, undisturbed, rtol=0, atol=1e-5 * np.abs(undisturbed).max())


# a mount namespace of its own: nothing outside of it sees the mount
NAMESPACE = ("unshare", "--map-root-user", "--mount", "sh", "-c")
MOUNTS = {
    "full": (
        "mount -t tmpfs -o size=64k tmpfs results/smoke/kernel",
        r"draws.safetensors cannot be written: No space left on device; free some space and run",
    ),
    "read-only": (
        "mount --bind results/smoke results/smoke && mount -o remount,bind,ro results/smoke",
        r"results/smoke/\S+ cannot be written: Read-only file system; make the folder writable",
    ),
}


@pytest.mark.parametrize("fault", MOUNTS)
def test_a_disk_that_cannot_be_written_is_told(study, fault):
    if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount in a namespace of their own (unshare)")
    mount, message = MOUNTS[fault]
    study.remove(GRAM)
    target = f"results/smoke/{GRAM}"
    said = study.refused(target, under=(*NAMESPACE, f'{mount} && exec "$@"', "sh"))
    assert re.search(message, said), said
    study.finishes(target, parts=(GRAM,))


def test_a_file_beyond_the_quota_is_told(study):
    study.remove(GRAM)
    target = f"results/smoke/{GRAM}"
    said = study.refused(target, under=("prlimit", "--fsize=60000"))
    assert re.search(r"draws.safetensors cannot be written: File too large; free some space", said)
    study.finishes(target, parts=(GRAM,))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"failing": 2}, "cannot be fetched from the hub: "),
        ({"damaged": ["model.safetensors"]}, "model.safetensors came with the checksum"),
    ],
    ids=["fails twice", "wrong checksum"],
)
def test_a_hub_in_trouble_is_asked_again(study, tmp_path, fault, message):
    """The hub serves the study's own random model: the kernel must be the same."""
    shutil.copytree(
        study.results / "data/model", tmp_path / "hub", ignore=lambda *_: ["model.json"]
    )
    text = (study.checkout.folder / "config/smoke.yaml").read_text()
    start, end = text.index("    random:\n"), text.index("  blocks: null")
    source = f"    hub: {{id: us/tiny, revision: {COMMIT}}}\n"
    (study.checkout.folder / "hub.yaml").write_text(text[:start] + source + text[end:])
    for part in ("data/model", "kernel"):
        shutil.rmtree(study.results / part)
    arguments = ("--configfile", "hub.yaml", "--cores", "1", "--", f"results/smoke/{GRAM}")
    with loopback_hub({("model", "us/tiny"): tmp_path / "hub"}, fault) as (endpoint, _):
        done = study.checkout.snakemake(
            *arguments, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE=""
        )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert message in said
    assert "Trying to restart job" in said
    assert_same_numbers(study.results, study.undisturbed, GRAM)
