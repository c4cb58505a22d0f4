"""A run that is killed again and again."""

import shutil
import subprocess
from contextlib import suppress

import numpy as np
import pytest
from broken_study import CONFIG

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]


def test_a_run_killed_at_ten_moments_ends_with_the_undisturbed_numbers(study):
    """Kills come after random shares of the time that a run takes, from nothing to the end."""
    shutil.rmtree(study.results)
    shutil.rmtree(study.checkout.folder / ".snakemake")
    moments = np.random.default_rng(7).uniform(3, 12, size=10)
    for moment in moments:
        with study.checkout.running(*CONFIG) as running:
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(timeout=moment)
            running.kill()
        # as --unlock does, which takes seconds
        shutil.rmtree(study.checkout.folder / ".snakemake/locks", ignore_errors=True)
    study.finishes()
