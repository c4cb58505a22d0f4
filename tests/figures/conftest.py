"""The made-up study on disk, and the command line."""

import made_up_study
import pytest

from ntktune.__main__ import main


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return made_up_study.write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def figures():
    """Run ``ntktune figures …`` and return its exit status."""

    def run(*arguments):
        return main(["figures", *map(str, arguments)])

    return run
