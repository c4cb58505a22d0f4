"""Processes that die, one at a time."""

import os
import shutil
import signal
import time

import pytest
from broken_study import CLASSIFICATION, CONFIG, GRAM, REGRESSION
from checkout import assert_same_numbers

from ntktune.store.records import read_json
from ntktune.store.unfinished import FILE

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]


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
    trajectory = f"theory/{CLASSIFICATION}/trajectory.parquet"
    with study.checkout.running(*CONFIG, "--forcerun", "theory_trajectory") as running:
        running.job("theory", "trajectory").kill()
        said = running.output()
    assert running.process.returncode == 1
    assert "Error in rule theory_trajectory" in said
    assert not (study.results / trajectory).exists()
    listed = read_json(study.results / FILE)["files"]
    assert f"results/smoke/{trajectory}" in listed
    assert "results/smoke/figures/table6.csv" in listed  # made of it
    study.finishes()
    assert (study.results / trajectory).is_file()
    assert not (study.results / FILE).exists()
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
    folder = f"finetune/{REGRESSION}/full/n128"
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
