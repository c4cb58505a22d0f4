"""A copy of the repository, and one in which the study smoke has been run."""

import pytest
from checkout import Checkout


@pytest.fixture
def checkout(tmp_path):
    """Return a fresh copy of the repository."""
    return Checkout(tmp_path / "ntktune")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Return a copy of the repository in which the study smoke has been run."""
    copy = Checkout(tmp_path_factory.mktemp("smoke") / "ntktune")
    copy.run = copy.snakemake("--configfile", "config/smoke.yaml", "--cores", "2")
    assert copy.run.returncode == 0, copy.run.stdout + copy.run.stderr
    return copy
