"""A copy of the repository, and one in which the study smoke has been run."""

import pytest
from checkout import Checkout
from filelock import FileLock


@pytest.fixture
def checkout(tmp_path):
    """Return a fresh copy of the repository."""
    return Checkout(tmp_path / "ntktune")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, worker_id):
    """Return a copy of the repository in which the study smoke has been run.

    The first of pytest's processes runs it, each has a copy of its own.
    """
    own = tmp_path_factory.mktemp("smoke")
    shared = own.parent if worker_id == "master" else own.parent.parent
    with FileLock(shared / "smoke.lock"):
        finished = shared / "smoke-finished"
        if not finished.exists():
            first = Checkout(shared / "smoke-running")
            run = first.snakemake("--configfile", "config/smoke.yaml", "--cores", "2")
            assert run.returncode == 0, run.stdout + run.stderr
            first.folder.rename(finished)
    return Checkout.of(Checkout.at(finished), own / "ntktune")
