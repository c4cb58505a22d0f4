"""A copy of the repository, and one in which the study smoke has been run."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from checkout import NUMBERS, Checkout
from filelock import FileLock


def pytest_collection_modifyitems(items):
    """Put the long ones first: at the end of the short ones no process waits long for another."""
    items.sort(key=lambda item: item.get_closest_marker("workflow") is None)


@pytest.fixture
def checkout(tmp_path):
    """Return a fresh copy of the repository."""
    return Checkout(tmp_path / "ntktune")


@pytest.fixture
def freed_memory_goes_back(monkeypatch):
    """Let what a process frees leave its address space, which is what RLIMIT_AS is on.

    How much of it the C library keeps for later differs by hundreds of MB from run to run.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))


@pytest.fixture(scope="session")
def smoke_begun(request, tmp_path_factory, worker_id):
    """Run the study smoke in a copy of the repository beside what follows; return its end.

    The first of pytest's processes runs it, the others wait for it. Where tests of SLURM alone are
    run, figures are left out.
    """
    numbers = all(item.get_closest_marker("slurm") for item in request.session.items)
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def run():
        with FileLock(shared / "smoke.lock"):
            finished = shared / "smoke-finished"
            if not finished.exists():
                first = Checkout(shared / "smoke-running")
                study = ("--configfile", "config/smoke.yaml", "--cores", "2", "--")
                done = first.snakemake(*study, *NUMBERS * numbers)
                assert done.returncode == 0, done.stdout + done.stderr
                first.folder.rename(finished)
        return Checkout.at(finished)

    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit(run)


@pytest.fixture(scope="session")
def smoke(smoke_begun, tmp_path_factory):
    """Return a copy of the repository, for this process alone, with the study smoke run."""
    return Checkout.of(smoke_begun.result(), tmp_path_factory.mktemp("smoke") / "ntktune")
