"""A run that is killed again and again."""

import shutil
import time

import numpy as np
import pytest
from broken_study import CONFIG

# from the first file to a figure, in a third of the study's jobs
TARGETS = ("spectrum", "finetune", "fig2", "table1")
# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]


def test_a_run_killed_at_ten_moments_ends_with_the_undisturbed_numbers(study):
    """Kills come anywhere between its first job and its last, in the midst of jobs."""
    run = (*CONFIG, "--", *TARGETS)
    jobs = sum(study.checkout.planned("--forceall", *run).values())
    shutil.rmtree(study.results)
    shutil.rmtree(study.checkout.folder / ".snakemake")
    random, finished, kills = np.random.default_rng(7), 0, 0
    for share in np.sort(random.uniform(0, 0.9, size=10)):
        with study.checkout.running(*run, preload=("ntktune",)) as running:
            # also those that were done before and had to be done again
            while finished < share * jobs and (line := running.process.stdout.readline()):
                finished += line.startswith("Finished jobid: ")
            if running.process.poll() is None:
                time.sleep(random.uniform(0, 0.3))  # less than most jobs take
            kills += running.process.poll() is None
            running.kill()
        # as --unlock does, which takes seconds
        shutil.rmtree(study.checkout.folder / ".snakemake/locks", ignore_errors=True)
    assert kills >= 8  # the last run may be quicker
    parts = ("kernel/**/*.safetensors", "spectrum/**/*.parquet", "finetune/**/*.parquet")
    study.finishes(*TARGETS, parts=(*parts, "figures/table1.csv"))
