"""The study `smoke` on a real SLURM of one node, started here on loopback, with pretended GPUs.

It is run once, and meets all that a cluster does to it: its Snakemake is killed, a job is
cancelled, kernels are killed for memory. Merged models are left out, and so are figures, which are
drawn where Snakemake runs. The packages come from Debian and are unpacked into a temporary folder:
nothing is installed. What one node cannot show stays untested: cgroups, several nodes, a shared
file system.
"""

import os
import re
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from checkout import NUMBER_FILES, NUMBERS, Checkout, Running, assert_same_numbers

from ntktune.study.config import load_yaml

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.slurm, pytest.mark.timeout(1800)]
HERE = Path(__file__).parent
NO_PACKAGES = 77
STUDY = ("--configfile", "config/smoke.yaml")
ON_GPUS = {
    "kernel_draws",
    "kernel_learning",
    "finetune_run",
    "taskvectors_tune",
    "theory_trajectory",
}
# jobs whose process need not be SLURM's own: kernels are killed for memory
PRELOADED = tuple(
    f"ntktune {chapter}" for chapter in ("spectrum", "finetune", "taskvectors", "theory")
)
GPUS = "4"  # two of them are held by jobs that stand still
GOING_ON = {"RUNNING", "SUSPENDED", "COMPLETING"}


class Cluster:
    """The SLURM that runs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def call(self, command: str, *arguments: str) -> str:
        return subprocess.run(
            [self.folder / "bin" / command, *arguments], capture_output=True, text=True, check=True
        ).stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """Return what SLURM knows of all jobs so far: id → names as `scontrol` shows them."""
        shown = self.call("scontrol", "--oneliner", "show", "job").splitlines()
        found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown if "JobId=" in line]
        return {job["JobId"]: job for job in found}

    def running(self, rule: str, snakemake: Running) -> str:
        """Return the id of a job of a rule, as soon as one runs; Snakemake must be there."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            for name, job in self.jobs().items():
                if job["JobState"] == "RUNNING" and job["Comment"].startswith(f"rule_{rule}"):
                    return name
            assert snakemake.process.poll() is None, snakemake.process.stdout.read()
            time.sleep(0.5)
        raise AssertionError(f"no job of {rule} ran in 300 s")

    def command(self, folder: Path, file: str) -> psutil.Process:
        """Return the process of a job in a folder that is to write a file, as soon as it runs."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    words = process.cmdline()
                    ours = words[1:3] == ["-m", "ntktune"] and file in words[3:]
                    if ours and process.cwd() == str(folder):
                        return process
            time.sleep(0.1)
        raise AssertionError(f"no job wrote {file} in 300 s")

    def finished(self, name: str) -> str:
        """Wait for a job's end and return its state."""
        end = time.monotonic() + 300
        while (state := self.jobs()[name]["JobState"]) in GOING_ON and time.monotonic() < end:
            time.sleep(0.2)
        return state


@pytest.fixture(scope="module")
def cluster():
    """Start a SLURM for this module, and let its commands be found."""
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
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield Cluster(folder)
    finally:
        subprocess.run(["bash", HERE / "down.sh", "--purge"], env=environment, check=True)


def _profile(folder: Path, **rules: dict[str, str]) -> tuple[str, ...]:
    """Write the shipped profile with what differs on this cluster; return the options."""
    content = load_yaml(HERE.parents[1] / "profiles/slurm/profile.v9+.yaml")
    content |= {
        "slurm-status-command": "squeue",  # no accounting here
        # asked again after 12 s and then ever more seldom, until a job has ended
        "slurm-init-seconds-before-status-checks": 2,
        "latency-wait": 10,
    }
    # one node of two cores: what could run beside each other on a cluster goes together, too
    together = {
        "finetune_fixed": "probes",
        "finetune_baselines": "probes",
        "kernel_learning": "learning",
    }
    content["groups"] |= together
    content["group-components"] |= {"probes": 4, "learning": 2}
    asked = content["set-resources"]
    for rule in ON_GPUS:  # the study itself asks for none: it is `device: cpu`
        asked[rule] = asked.get(rule, {}) | {"gpu": 1}
    for rule in together:
        asked[rule] = asked.get(rule, {}) | {"slot": 2}
    for rule, resources in rules.items():
        asked[rule] = asked.get(rule, {}) | resources
    folder.mkdir()
    (folder / "profile.v9+.yaml").write_text(yaml.safe_dump(content))
    return ("--workflow-profile", str(folder), *STUDY)


@dataclass
class Study:
    """A study that was run, what Snakemake said and what SLURM knows."""

    folder: Path
    said: str
    jobs: dict[str, dict[str, str]]
    begun: list[str]  # ids of jobs of the Snakemake that was killed
    cancelled: str  # job ids
    left: str
    double: str
    forgotten: str
    beside: bool


@pytest.fixture(scope="module")
def study(cluster, smoke_begun, tmp_path_factory):
    """Run the study once, with all that happens to it; beside it runs the one without a cluster."""
    folder = tmp_path_factory.mktemp("study")
    checkout = Checkout(folder / "ntktune")
    # the network is for the login node alone
    fetched = checkout.snakemake(*STUDY, "--cores", "2", "--", "fetch")
    assert fetched.returncode == 0, fetched.stderr

    # a Snakemake that is killed leaves jobs, which stand still until the same jobs run beside them
    one, other = (f"finetune_run_wildcards_smoke-regression_full_{size}" for size in (128, 32))
    metrics = [
        f"results/smoke/finetune/smoke-regression/full/n{n}/metrics.parquet" for n in (128, 32)
    ]
    with checkout.running(*_profile(folder / "plain"), "--", *metrics) as first:
        # where the job itself has begun, which removes what it is to make
        forgotten = cluster.running(other, first)
        command = cluster.command(checkout.folder, metrics[1])
        cluster.call("scontrol", "suspend", forgotten)
        left = cluster.running(one, first)  # later: it waits for weights of the same trainings
        cluster.call("scontrol", "suspend", left)
        first.kill()
    begun = cluster.jobs()
    unlocked = checkout.snakemake(*STUDY, "--unlock")
    assert unlocked.returncode == 0, unlocked.stderr

    # a kernel that asks for too little memory is killed, and gets more when it is sent again
    memory = {"mem_mb": "100 if attempt == 1 else 4000"}
    scarce = _profile(folder / "scarce", kernel_draws=memory)
    with checkout.running(*scarce, "--", *NUMBERS, preload=PRELOADED) as second:
        double = cluster.running(one, second)
        cluster.call("scontrol", "resume", left)
        states = cluster.jobs()
        cancelled = cluster.running("taskvectors_tune", second)
        cluster.call("scancel", cancelled)
        said = second.output(1500)
    assert second.process.returncode == 0, said
    assert cluster.finished(left) == "COMPLETED"
    # the other one fails when its double has finished long since
    cluster.call("scontrol", "resume", forgotten)
    command.kill()
    assert cluster.finished(forgotten) == "FAILED"
    jobs = cluster.jobs()
    for job in jobs.values():
        print(*(job[name] for name in ("JobId", "JobState", "RunTime", "Comment")))
    return Study(
        folder=checkout.folder,
        said=said,
        jobs=jobs,
        begun=sorted(begun),
        cancelled=cancelled,
        left=left,
        double=double,
        forgotten=forgotten,
        beside=states[left]["JobState"] == states[double]["JobState"] == "RUNNING",
    )


def _rule(job: dict[str, str]) -> str:
    """Return the rule of a job, ``group_rule_rule`` for a group."""
    return re.match(r"rule_(\w+?)(_wildcards.*|\.+)?$", job["Comment"]).group(1)


def test_the_numbers_are_those_of_a_local_run(study, smoke_begun):
    local = smoke_begun.result().folder
    assert_same_numbers(study.folder / "results/smoke", local / "results/smoke", *NUMBER_FILES)


def test_snakemake_submitted_what_takes_longer_than_seconds(study):
    ids = re.findall(r"has been submitted with SLURM jobid (\d+)", study.said)
    assert {*ids, *study.begun} == set(study.jobs)
    # two seeds of the larger sample are trained with their weights kept, first
    others = [id_ for id_ in study.begun if id_ not in (study.left, study.forgotten)]
    assert len(study.begun) == 3
    assert [_rule(study.jobs[id_]) for id_ in others] == ["taskvectors_tune"]
    rules = {_rule(job) for job in study.jobs.values()}
    named = {name for rule in rules for name in rule.split("_")}  # within groups, too
    assert {"finetune", "taskvectors", "width", "baselines", "trajectory"} <= named
    assert not {"all", "tokenize", "fig2", "table1"} & named
    assert "epochs" not in rules  # a figure; finetune_fixed is a training
    # small ones went together, one after another on one core
    assert {"spectra_spectrum_fit_theory_rules_theory_stopping"} <= rules
    assert {"models_theory_simulate_theory_width"} <= rules
    assert {job["NumCPUs"] for job in study.jobs.values()} == {"1"}


def test_jobs_on_gpus_asked_for_one(study):
    for job in study.jobs.values():
        needed = any(_rule(job).endswith(rule) for rule in ON_GPUS)  # a group's name comes first
        assert ("gpu" in job.get("TresPerJob", "")) is needed, job


def test_a_job_that_was_killed_for_memory_got_more(study):
    kernels = [job for job in study.jobs.values() if _rule(job) == "kernel_draws"]
    states = {job["MinMemoryNode"]: job["JobState"] for job in kernels}
    assert states == {"100M": "FAILED", "4000M": "COMPLETED"}
    assert len(kernels) == 2 * 2


def test_a_cancelled_job_was_told_and_sent_again(study):
    assert study.jobs[study.cancelled]["JobState"] == "CANCELLED"
    told = rf"SLURM-job '{study.cancelled}' failed, SLURM status is: '?CANCELLED"
    assert re.search(told, study.said)
    failed = [
        job
        for name, job in study.jobs.items()
        if job["JobState"] != "COMPLETED" and name != study.forgotten
    ]
    assert {_rule(job) for job in failed} == {"kernel_draws", _rule(study.jobs[study.cancelled])}
    assert study.said.count("Trying to restart job") == len(failed)


def test_a_job_that_a_killed_snakemake_left_ran_beside_its_double(study):
    assert study.left != study.double
    assert study.beside
    assert study.jobs[study.left]["JobState"] == study.jobs[study.double]["JobState"] == "COMPLETED"
    assert not list((study.folder / "results/smoke").rglob(".*~*"))


def test_a_forgotten_job_that_fails_leaves_its_doubles_file_alone(study):
    job = study.jobs[study.forgotten]
    assert (job["JobState"], _rule(job)) == ("FAILED", "finetune_run")
    assert (
        study.folder / "results/smoke/finetune/smoke-regression/full/n32/metrics.parquet"
    ).is_file()
