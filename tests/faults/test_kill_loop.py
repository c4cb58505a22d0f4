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
    random, finished = np.random.default_rng(7), 0
    for share in np.sort(random.uniform(size=10)):
        with study.checkout.running(*run, preload=("ntktune",)) as running:
            # also those that were done before and had to be done again
            while finished < share * (jobs - 1):
                line = running.process.stdout.readline()
                assert line, "the run has ended"
                finished += line.startswith("Finished jobid: ")
            time.sleep(random.uniform(0, 2))
            running.kill()
        # as --unlock does, which takes seconds
        shutil.rmtree(study.checkout.folder / ".snakemake/locks", ignore_errors=True)
    parts = ("kernel/**/*.safetensors", "spectrum/**/*.parquet", "finetune/**/*.parquet")
    study.finishes(*TARGETS, parts=(*parts, "figures/table1.csv"))
