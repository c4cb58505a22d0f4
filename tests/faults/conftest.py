"""What goes wrong on real machines: one clear line, nothing wrong kept, the same numbers after it.

Every case starts from a copy of the finished study `smoke`, of which some results are removed, so
that the jobs which make them run again under the fault. The files are many because each is one
process's work where tests run beside each other.
"""

import pytest
from broken_study import BrokenStudy


@pytest.fixture
def study(smoke, tmp_path):
    """Return a copy of the finished study."""
    return BrokenStudy(smoke, tmp_path / "ntktune")
