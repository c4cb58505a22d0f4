"""What goes wrong on real machines: one clear line, nothing wrong kept, the same numbers after it.

Every case starts from a copy of the finished study `smoke`, of which some results are removed, so
that the jobs which make them run again under the fault.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from checkout import Checkout, assert_same_numbers
from loopback_hub import COMMIT, loopback_hub

from ntktune.artifacts import read_arrays, read_json

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]
CONFIG = ("--configfile", "config/smoke.yaml", "--cores", "2")
REGRESSION, CLASSIFICATION = "smoke-regression", "smoke-classification"
GRAM = f"kernel/{REGRESSION}/gram.safetensors"
SPECTRUM = f"spectrum/{REGRESSION}/eigenvalues.parquet"


class Study:
    """A copy of the finished study, to be broken."""

    def __init__(self, smoke: Checkout, folder: Path):
        self.checkout = Checkout.of(smoke, folder)
        self.results = folder / "results/smoke"
        self.undisturbed = smoke.folder / "results/smoke"

    def remove(self, *names: str) -> None:
        for name in names:
            (self.results / name).unlink()

    def make(self, *targets: str, **how) -> subprocess.CompletedProcess:
        return self.checkout.snakemake(*CONFIG, "--", *targets, **how)

    def refused(self, *targets: str, **how) -> str:
        """Run, expect a failure without a traceback, and return what was said."""
        done = self.make(*targets, **how)
        output = done.stdout + done.stderr
        assert done.returncode == 1, output
        assert "Traceback (most recent call last)" not in output, output
        return output

    def finishes(self, *targets: str, parts: tuple[str, ...] = ()) -> None:
        """Run the same again; the numbers are those of the undisturbed run."""
        done = self.make(*targets)
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same_numbers(self.results, self.undisturbed, *parts)
        # no temporary file is left
        left = [p for p in self.results.rglob(".*") if p.name != ".snakemake_timestamp"]
        assert not left


@pytest.fixture
def study(smoke, tmp_path):
    return Study(smoke, tmp_path / "ntktune")


# ---- damaged files ---------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, position: float) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[int(position * len(content)) if position < 1 else int(position)] ^= 4
    path.write_bytes(content)


def other_number(path: Path) -> None:
    text = path.read_text()
    place = re.search(r"\d(?=\D*$)", text).start() if path.suffix == ".csv" else text.index("0")
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


# Damaged file -> how, and what is removed so that a job reads it. In one round no job needs
# another's: a second damage would be found by the second run only.
ROUNDS = (
    {
        f"data/{REGRESSION}/draws.json": (other_number, GRAM),
        f"spectrum/{CLASSIFICATION}/eigenvalues.parquet": (
            lambda path: flip(path, 60),
            "figures/fig5.png",
        ),
        f"finetune/{CLASSIFICATION}/n32/metrics.parquet": (truncate, "figures/fig10.png"),
        f"taskvectors/{REGRESSION}/seed0.safetensors": (
            lambda path: flip(path, 0.7),
            "taskvectors/cosine.parquet",
        ),
        "theory/simulation.parquet": (truncate, "figures/simulation.png"),
        "theory/width.parquet": (lambda path: flip(path, 60), "figures/width.png"),
    },
    {"figures/table5.csv": (other_number, "figures/verdicts.csv")},
    {
        f"data/{CLASSIFICATION}/subsets.json": (
            truncate,
            f"finetune/{CLASSIFICATION}/n32/metrics.parquet",
        )
    },
)


@pytest.fixture(scope="module", params=range(len(ROUNDS)))
def healed(request, smoke, tmp_path_factory):
    """Return a study that was damaged, what the first run said, and how the second one ended."""
    damage = ROUNDS[request.param]
    study = Study(smoke, tmp_path_factory.mktemp("damaged") / "ntktune")
    for name, (change, consumer) in damage.items():
        change(study.results / name)
        study.remove(consumer)
    targets = [f"results/smoke/{consumer}" for _, consumer in damage.values()]
    said = study.refused(*targets)
    aside = {name for name in damage if (study.results / f"{name}.damaged").is_file()}
    kept = {name for name in damage if (study.results / name).exists()}
    again = study.make(*targets)
    return study, damage, said, aside - kept, again


def test_damage_is_told_and_set_aside(healed):
    _, damage, said, aside, _ = healed
    for name in damage:
        line = rf"error: results/smoke/{re.escape(name)} is damaged or not what it should be .*"
        assert re.search(f"{line}: run the same command again to rebuild it", said), said
    assert aside == set(damage)
    assert "Traceback (most recent call last)" not in said


def test_the_same_command_rebuilds_what_was_damaged(healed):
    study, damage, _, _, again = healed
    assert again.returncode == 0, again.stdout + again.stderr
    for name, (_, consumer) in damage.items():
        for part in (name, consumer):
            if part.endswith((".json", ".png")):
                assert _content(study.results / part) == _content(study.undisturbed / part)
            else:
                assert_same_numbers(study.results, study.undisturbed, part)


def _content(path: Path):
    """Return what a figure or a manifest says, without times."""
    if path.suffix == ".json":
        return {key: value for key, value in read_json(path).items() if key != "provenance"}
    return path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: flip(folder / "model.safetensors", 0.5),
            "model.safetensors does not match",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (
            lambda folder: truncate(folder / "config.json"),
            "config.json does not match the checksum",
        ),
        (
            lambda folder: (folder / "model.json").unlink(),
            "data/model is damaged or not what it should be (model.json: it is missing)",
        ),
        (
            lambda folder: truncate(folder / "model.json"),
            "data/model is damaged or not what it should be (model.json: ",
        ),
    ],
    ids=["flipped", "missing", "configuration", "no manifest", "manifest"],
)
def test_a_damaged_model_is_fetched_again(study, damage, message):
    damage(study.results / "data/model")
    study.remove(GRAM)
    target = f"results/smoke/{GRAM}"
    assert message in study.refused(target)
    study.finishes(target, parts=(GRAM, "data/model/*.safetensors"))


def test_a_check_finds_damage_in_what_no_job_reads(study):
    """Figures and final tables, a figure's second format among them, and a model."""
    check = ("results", "check", "--folder", "results/smoke")
    whole = study.checkout.command(*check)
    assert whole.returncode == 0, whole.stderr
    assert re.fullmatch(r"results/smoke: \d+ files, none damaged\n", whole.stdout)
    flip(study.results / "figures/fig4.pdf", 0.5)
    other_number(study.results / "figures/table4.csv")
    other_number(study.results / "figures/table5.json")  # the table itself is whole
    truncate(study.results / "taskvectors/cosine.parquet")
    (study.results / "figures/mine.csv").write_text("a,b\n1,2\n")  # no rule made it
    found = study.checkout.command(*check)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    for name, why in {
        "figures/fig4.pdf": "its content does not match the checksum in fig4.json",
        "figures/table4.csv": "its content does not match the checksum in table4.json",
        "figures/table5.json": "its content does not match its checksum",
        "taskvectors/cosine.parquet": ".*",
    }.items():
        line = rf"^results/smoke/{re.escape(name)} is damaged or not what it should be \({why}\); "
        assert re.search(rf"{line}it was renamed to .* again to rebuild it$", found.stderr, re.M), (
            name
        )
        assert not (study.results / name).exists()
    assert f"error: 4 of {whole.stdout.split()[1]} files are damaged\n" in found.stderr
    study.finishes()
    whole = study.checkout.command(*check)
    assert whole.returncode == 0, whole.stderr
    for name in ("fig4.pdf", "table4.csv"):
        wanted = study.undisturbed / "figures" / name
        assert (study.results / "figures" / name).read_bytes() == wanted.read_bytes()
    # the model is one thing; that it is fetched anew is seen below
    flip(study.results / "data/model/tokenizer.json", 0.5)
    told = study.checkout.command(*check).stderr
    assert "data/model is damaged or not what it should be (tokenizer.json does not match" in told
    assert "it was renamed to model.damaged: run the same command again to rebuild it" in told


def test_damaged_results_are_not_packed(study):
    truncate(study.results / "figures/fig2.png")
    command = ("results", "archive", "--folder", "results/smoke", "--out", "smoke.tar.gz")
    refused = study.checkout.command(*command)
    assert refused.returncode == 1
    assert "figures/fig2.png is damaged" in refused.stderr
    assert not (study.checkout.folder / "smoke.tar.gz").exists()
    study.finishes()
    assert study.checkout.command(*command).returncode == 0


# ---- processes that die ----------------------------------------------------------------------


def test_a_killed_job_is_told_and_done_again(study):
    study.remove(GRAM)
    target = f"results/smoke/{GRAM}"
    with study.checkout.running(*CONFIG, "--", target) as running:
        running.job("kernel", "draws").kill()
        said = running.output()
    assert running.process.returncode == 1
    assert "Error in rule kernel" in said
    assert not (study.results / GRAM).exists()
    study.finishes(target, parts=(GRAM,))


def test_a_job_killed_while_a_finished_study_is_made_anew_is_done_again(study):
    """What was made of its old files is still there: Snakemake alone would find nothing to do."""
    trace = f"theory/{CLASSIFICATION}/trace.parquet"
    with study.checkout.running(*CONFIG, "--forcerun", "trace") as running:
        running.job("theory", "trace").kill()
        said = running.output()
    assert running.process.returncode == 1
    assert "Error in rule trace" in said
    assert not (study.results / trace).exists()
    listed = read_json(next((study.results / "state/unfinished").iterdir()))["files"]
    assert f"results/smoke/{trace}" in listed
    assert "results/smoke/figures/table6.csv" in listed  # made of it
    study.finishes()
    assert (study.results / trace).is_file()
    assert not (study.results / "state/unfinished").exists()
    assert study.checkout.planned("--configfile", "config/smoke.yaml") == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "ctrl-c"])
def test_a_stopped_run_ends_cleanly_and_goes_on(study, number):
    study.remove(GRAM)
    target = f"results/smoke/{GRAM}"
    with study.checkout.running(*CONFIG, "--", target) as running:
        job = running.job("kernel", "draws")
        while job.memory_info().rss < 100e6:  # Python itself has started
            time.sleep(0.02)
        if number == signal.SIGINT:
            os.killpg(running.process.pid, number)  # as a terminal does
        else:
            running.process.send_signal(number)
        said = running.output()
    if number == signal.SIGINT and running.process.returncode == 0:
        # the job was quicker than the key: it is whole
        assert_same_numbers(study.results, study.undisturbed, GRAM)
        return
    assert running.process.returncode == 1
    if number == signal.SIGTERM:  # lets running jobs finish
        assert "Will exit after finishing currently running jobs" in said
        assert_same_numbers(study.results, study.undisturbed, GRAM)
    else:
        assert "Terminating processes on user request" in said
        assert not (study.results / GRAM).exists()
    assert "Traceback (most recent call last)" not in said
    study.finishes(target, parts=(GRAM,))


def test_after_a_killed_snakemake_the_lock_is_told_and_the_run_goes_on(study):
    study.remove(GRAM)
    target = f"results/smoke/{GRAM}"
    with study.checkout.running(*CONFIG, "--", target) as running:
        running.job("kernel", "draws")
        running.kill()
    said = study.refused(target)
    assert "can be removed with the --unlock argument" in " ".join(said.split())
    unlocked = study.checkout.snakemake(*CONFIG, "--unlock")
    assert unlocked.returncode == 0, unlocked.stderr
    study.finishes(target, parts=(GRAM,))


def test_a_second_snakemake_waits_outside(study):
    study.remove(GRAM)
    target = f"results/smoke/{GRAM}"
    with study.checkout.running(*CONFIG, "--", target) as running:
        job = running.job("kernel", "draws")
        job.suspend()
        said = study.refused(target)
        job.resume()
        running.output()
    assert "make sure that no other Snakemake process" in " ".join(said.split())
    assert running.process.returncode == 0
    study.finishes(target, parts=(GRAM,))


def test_a_killed_fine_tuning_goes_on_from_its_finished_seed(study):
    folder = f"finetune/{REGRESSION}/n128"
    study.remove(f"{folder}/metrics.parquet", f"{folder}/history.parquet")
    shutil.rmtree(study.results / f"state/{folder}", ignore_errors=True)
    target = f"results/smoke/{folder}/metrics.parquet"
    with study.checkout.running(*CONFIG, "--", target) as running:
        job = running.job("finetune", "run")
        while not (study.results / f"state/{folder}/seed0.json").is_file():
            assert running.process.poll() is None
        job.kill()
        said = running.output()
    assert "Error in rule finetune" in said
    study.finishes(target, parts=(f"{folder}/*.parquet",))
    log = study.results / "logs" / f"{folder}.log"
    assert "n=128: seeds 0 were finished before" in log.read_text()


def test_a_run_killed_at_ten_moments_ends_with_the_undisturbed_numbers(smoke, tmp_path):
    """Kills come after random shares of the time that a run takes, from nothing to the end."""
    study = Study(smoke, tmp_path / "ntktune")
    shutil.rmtree(study.results)
    shutil.rmtree(study.checkout.folder / ".snakemake")
    moments = np.random.default_rng(7).uniform(3, 12, size=10)
    for moment in moments:
        with study.checkout.running(*CONFIG) as running:
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(timeout=moment)
            running.kill()
        unlocked = study.checkout.snakemake(*CONFIG, "--unlock")
        assert unlocked.returncode == 0, unlocked.stderr
    study.finishes()


# ---- memory ----------------------------------------------------------------------------------

MEASURED = """
import re, sys
from pathlib import Path
from ntktune.__main__ import main
status = main(sys.argv[1:])
print(re.search(r"VmPeak:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


def test_a_kernel_beyond_a_limit_of_memory_goes_on_with_less_at_once(study):
    """A layer of 60,000 units: a batch's inputs and gradients take 118 MB each."""
    text = (study.checkout.folder / "config/smoke.yaml").read_text()
    for old, new in (
        ("study: smoke", "study: wide"),
        ("      hidden_size: 32\n", "      hidden_size: 32\n      intermediate_size: 60000\n"),
        ("  draws: 2\n", "  draws: 1\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (study.checkout.folder / "wide.yaml").write_text(text)
    wide = ("--configfile", "wide.yaml", "--cores", "1", "--", "results/wide/" + GRAM)
    done = study.checkout.snakemake(*wide)
    assert done.returncode == 0, done.stderr
    folder = study.checkout.folder / "results/wide"
    undisturbed = read_arrays(folder / GRAM)[0]["kernel"]
    data = f"results/wide/data/{REGRESSION}"
    measured = subprocess.run(
        [
            *(sys.executable, "-c", MEASURED, "kernel", "draws", "--device", "cpu", "--seed", "1"),
            *("--model", "results/wide/data/model", "--tokens", f"{data}/tokens.safetensors"),
            *(
                "--draws",
                f"{data}/draws.json",
                "--task",
                REGRESSION,
                "--out",
                "measured.safetensors",
            ),
        ],
        cwd=study.checkout.folder,
        env=study.checkout.environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    limit = int(measured.stdout) * 1024 - 200 * 2**20
    (folder / GRAM).unlink()
    done = study.checkout.snakemake(*wide, under=("prlimit", f"--as={limit}"))
    assert done.returncode == 0, done.stdout + done.stderr
    said = (folder / f"logs/kernel/{REGRESSION}.log").read_text()
    assert re.search(r"memory ran out on cpu \(.*\); going on with half as much at once: \d+", said)
    found = read_arrays(folder / GRAM)[0]["kernel"]
    np.testing.assert_allclose(found, undisturbed, rtol=0, atol=1e-5 * np.abs(undisturbed).max())


# ---- disks -----------------------------------------------------------------------------------

# a mount namespace of its own: nothing outside of it sees the mount
NAMESPACE = ("unshare", "--map-root-user", "--mount", "sh", "-c")
MOUNTS = {
    "full": (
        "mount -t tmpfs -o size=64k tmpfs results/smoke/kernel",
        r"gram.safetensors cannot be written: No space left on device; free some space and run",
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
    assert re.search(r"gram.safetensors cannot be written: File too large; free some space", said)
    study.finishes(target, parts=(GRAM,))


# ---- the network -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"failing": 2}, "cannot be had from the hub: "),
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
