"""The study `smoke` on a real SLURM of one node, started here on loopback, with pretended GPUs.

The packages come from Debian and are unpacked into a temporary folder: nothing is installed. What
one node cannot show stays untested: cgroups, several nodes, a shared file system.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from checkout import Checkout, assert_same_numbers

from ntktune.config import load_yaml

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.slurm, pytest.mark.timeout(1800)]
HERE = Path(__file__).parent
NO_PACKAGES = 77
REGRESSION = "smoke-regression"
GRAM = f"kernel/{REGRESSION}/gram.safetensors"
ON_GPUS = {"kernel", "learning_kernel", "finetune", "tuned_weights", "trace"}
GPUS = "3"


class Cluster:
    """The SLURM that runs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def call(self, command: str, *arguments: str) -> str:
        return subprocess.run(
            [self.folder / "bin" / command, *arguments], capture_output=True, text=True, check=True
        ).stdout

    def jobs(self) -> list[dict[str, str]]:
        """Return what SLURM knows of all jobs so far: names as `scontrol show job` has them."""
        shown = self.call("scontrol", "--oneliner", "show", "job").splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown if "JobId=" in line]


@pytest.fixture(scope="module")
def cluster():
    """Start a SLURM for this module."""
    # sockets have short names
    folder = Path(tempfile.mkdtemp(prefix="ntktune-slurm-", dir="/tmp"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"TEST_SLURM_DIR": str(folder), "TEST_SLURM_PORT": str(port)}
    environment |= {"TEST_SLURM_GPUS": GPUS}
    up = subprocess.run(
        ["bash", HERE / "up.sh"], env=environment, capture_output=True, text=True, check=False
    )
    try:
        if up.returncode == NO_PACKAGES:
            pytest.skip(f"SLURM's packages cannot be had here: {up.stderr.splitlines()[-1]}")
        assert up.returncode == 0, up.stdout + up.stderr
        yield Cluster(folder)
    finally:
        subprocess.run(["bash", HERE / "down.sh", "--purge"], env=environment, check=True)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """Return a function that writes the shipped profile with what differs on this cluster."""

    def written(**rules):
        content = load_yaml(HERE.parents[1] / "profiles/slurm/profile.v9+.yaml")
        content |= {
            "slurm-status-command": "squeue",  # no accounting here
            "slurm-init-seconds-before-status-checks": 6,
            "latency-wait": 10,
        }
        asked = content["set-resources"]
        for rule in ON_GPUS:  # the study itself asks for none: it is `device: cpu`
            asked[rule] = asked.get(rule, {}) | {"gpu": 1}
        for rule, resources in rules.items():
            asked[rule] = asked.get(rule, {}) | resources
        folder = tmp_path_factory.mktemp("profile")
        (folder / "profile.v9+.yaml").write_text(yaml.safe_dump(content))
        return ("--workflow-profile", str(folder), "--configfile", "config/smoke.yaml")

    return written


@pytest.fixture
def on_path(cluster, monkeypatch):
    """Let SLURM's commands be found."""
    monkeypatch.setenv("PATH", f"{cluster.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", str(cluster.folder / "slurm.conf"))


def _running(snakemake, cluster, rule):
    """Return the id of a rule's job, as soon as it runs."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for job in cluster.jobs():
            if job["JobState"] == "RUNNING" and job["Comment"].startswith(f"rule_{rule}_"):
                return job["JobId"]
        assert snakemake.process.poll() is None, snakemake.process.stdout.read()
        time.sleep(0.2)
    raise AssertionError(f"no job of {rule} ran in 300 s")


def test_the_study_runs_on_slurm(cluster, on_path, profile, smoke, tmp_path):
    checkout = Checkout(tmp_path / "ntktune")
    # the network is for the login node alone
    fetched = checkout.snakemake("--configfile", "config/smoke.yaml", "--cores", "1", "--", "fetch")
    assert fetched.returncode == 0, fetched.stderr
    # a kernel that asks for too little memory is killed, and gets more when it is sent again
    arguments = profile(kernel={"mem_mb": "100 if attempt == 1 else 4000"})
    with checkout.running(*arguments) as running:
        cancelled = _running(running, cluster, "finetune")
        cluster.call("scancel", cancelled)
        said = running.output(1500)
    assert running.process.returncode == 0, said
    ids = set(re.findall(r"has been submitted with SLURM jobid (\d+)", said))
    jobs = {job["JobId"]: job for job in cluster.jobs()}
    for job in jobs.values():
        print(*(job[name] for name in ("JobId", "JobState", "RunTime", "Comment")))
    assert ids
    assert ids <= set(jobs)
    for job in jobs.values():
        rule = re.match(r"rule_(\w+?)(_wildcards.*|\.+)?$", job["Comment"]).group(1)
        asked = "gpu" in job.get("TresPerJob", "")
        assert asked is (rule in ON_GPUS), job
    assert jobs[cancelled]["JobState"] == "CANCELLED"
    assert re.search(rf"SLURM-job '{cancelled}' failed, SLURM status is: '?CANCELLED", said)
    failed = [job for job in jobs.values() if job["JobState"] != "COMPLETED"]
    others = [job for job in failed if job["JobId"] != cancelled]
    assert {job["Comment"].split("_wildcards")[0] for job in others} == {"rule_kernel"}
    assert said.count("Trying to restart job") == len(failed)
    steps = int(re.search(r"(\d+) of \1 steps \(100%\) done", said).group(1))
    assert len(ids) < 0.6 * steps  # small jobs went together
    assert "rule_fig2" not in {job["Comment"] for job in jobs.values()}
    assert_same_numbers(checkout.folder / "results/smoke", smoke.folder / "results/smoke")


def test_a_job_that_a_killed_snakemake_left_may_run_beside_its_double(
    cluster, on_path, profile, smoke, tmp_path
):
    checkout = Checkout.of(smoke, tmp_path / "ntktune")
    (checkout.folder / "results/smoke" / GRAM).unlink()
    arguments = (*profile(), "--", f"results/smoke/{GRAM}")
    with checkout.running(*arguments) as running:
        left = _running(running, cluster, "kernel")
        running.kill()
    unlocked = checkout.snakemake("--configfile", "config/smoke.yaml", "--unlock")
    assert unlocked.returncode == 0, unlocked.stderr
    again = checkout.snakemake(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    end = time.monotonic() + 300
    while any(job["JobState"] == "RUNNING" for job in cluster.jobs()) and time.monotonic() < end:
        time.sleep(0.2)
    states = {job["JobId"]: job["JobState"] for job in cluster.jobs()}
    assert states[left] == "COMPLETED"
    assert list(states.values())[-1] == "COMPLETED"
    assert_same_numbers(checkout.folder / "results/smoke", smoke.folder / "results/smoke", GRAM)
    left_over = [path.name for path in (checkout.folder / "results/smoke/kernel").rglob(".*")]
    assert not left_over
    shutil.rmtree(checkout.folder)
