"""What an archive of a study's results holds, and what a run began and did not finish."""

import os
import platform
import subprocess
import tarfile

import pytest

from ntktune.__main__ import main
from ntktune.artifacts import write_json
from ntktune.unfinished import OWN, begin, finish, unfinished

RESULTS = "results/s"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A study's folder, in the repository's root."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / RESULTS
    (folder / "figures").mkdir(parents=True)
    (folder / "config.yaml").write_text("study: s")
    (folder / "figures/fig2.png").write_text("a figure")
    return folder


def packed(tmp_path):
    assert main(["results", "archive", "--folder", RESULTS, "--out", "s.tar.gz"]) == 0
    with tarfile.open(tmp_path / "s.tar.gz") as archive:
        return {m.name.removeprefix("results/s/"): m for m in archive.getmembers()}


def test_what_stands_elsewhere_is_packed_like_the_rest(results, tmp_path):
    scratch = tmp_path / "scratch/spectrum"
    scratch.mkdir(parents=True)
    (scratch / "decay.parquet").write_text("a table")
    (results / "spectrum").symlink_to(scratch)
    (results / "figures/fig3.png").symlink_to(scratch / "decay.parquet")
    (results / "figures/again").symlink_to(results)  # not for ever
    members = packed(tmp_path)
    assert set(members) == {
        "config.yaml",
        *("figures/fig2.png", "figures/fig3.png", "spectrum/decay.parquet"),
    }
    assert all(member.isreg() for member in members.values())


def test_a_name_that_is_no_utf8_is_packed(results, tmp_path):
    (results / b"figures/\xff.png".decode(errors="surrogateescape")).write_text("")
    assert len(packed(tmp_path)) == 3


FIGURE, MISSING, OTHER = (
    f"{RESULTS}/figures/{name}" for name in ("fig2.png", "größe.png", "3.png")
)


def listed(results, process, *names, machine=None):
    """Write the list of another run's Snakemake."""
    path = results / f"state/unfinished/{machine or platform.node()}~{process}~0123abcd.json"
    write_json(path, {"files": names}, {})
    return path


@pytest.fixture
def ended():
    """Return the number of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_an_unfinished_study_is_packed_with_a_warning(results, tmp_path, capsys, ended):
    assert not [name for name in packed(tmp_path) if name.startswith("state")]
    assert "warning" not in capsys.readouterr().err
    listed(results, ended, FIGURE, f"{RESULTS}/figures/fig3.png")
    (results / "state/finetune").mkdir()
    (results / "state/finetune/seed0.json").write_text("{}")
    members = packed(tmp_path)
    packed_list = [name for name in members if name.startswith("state/unfinished/")]
    assert len(packed_list) == 1
    assert platform.node() not in packed_list[0]
    assert "state/finetune/seed0.json" not in members
    assert "1 of its files are missing (results/s/figures/fig3.png, ...)" in capsys.readouterr().err


def test_what_is_there_is_finished(results, ended):
    assert unfinished(RESULTS) == set()
    listed(results, ended, FIGURE, MISSING)
    assert unfinished(RESULTS) == {MISSING}
    # of a machine that cannot be asked, too
    listed(results, ended, OTHER, machine="elsewhere")
    assert unfinished(RESULTS) == {MISSING, OTHER}


def test_a_run_takes_over_what_is_missing_and_forgets_what_it_made(results, ended):
    old = listed(results, ended, FIGURE, MISSING)
    begin(RESULTS, [FIGURE])
    assert not old.exists()
    assert unfinished(RESULTS) == set()  # this run is about to make it
    finish(RESULTS, whole=False)
    (old.parent / OWN).rename(old)  # this process is gone
    assert unfinished(RESULTS) == {MISSING}
    (results / "figures" / MISSING.rsplit("/", 1)[1]).write_text("")
    begin(RESULTS, [FIGURE])
    finish(RESULTS, whole=False)
    assert not (results / "state/unfinished").exists()


def test_another_process_of_the_same_number_is_not_the_run(results):
    """After a reboot, or in a container, where numbers begin anew."""
    path = listed(results, os.getpid(), MISSING)
    assert unfinished(RESULTS) == set()
    os.utime(path, (1e9, 1e9))  # listed before this process began
    assert unfinished(RESULTS) == {MISSING}


def test_the_list_of_a_run_on_another_machine_stays(results):
    path = listed(results, 7, FIGURE, MISSING, machine="elsewhere")
    begin(RESULTS, [OTHER])
    assert path.exists()
    os.utime(path, (1e9, 1e9))
    begin(RESULTS, [OTHER])
    assert not path.exists()


def test_a_whole_run_forgets_what_is_no_part_of_the_study_any_more(results, ended):
    listed(results, ended, MISSING)
    begin(RESULTS, [OTHER])
    finish(RESULTS, whole=True)
    assert not (results / "state/unfinished").exists()


def test_runs_beside_each_other_keep_lists_of_their_own(results):
    beside = subprocess.Popen(["sleep", "60"])
    try:
        # begun, but its job has not started yet: the old figure is there
        path = listed(results, beside.pid, FIGURE, MISSING)
        begin(RESULTS, [OTHER])
        assert unfinished(RESULTS) == set()
        finish(RESULTS, whole=False)
    finally:
        beside.kill()
        beside.wait()
    assert path.exists()
    (results / "figures/fig2.png").unlink()  # the job started, and died with its run
    assert unfinished(RESULTS) == {FIGURE, MISSING}


@pytest.mark.parametrize("content", [b"\xff", b"{}", b'{"files": 3}'])
def test_a_damaged_list_is_told_and_passed_over(results, tmp_path, ended, capsys, content):
    path = listed(results, ended, MISSING)
    path.write_bytes(content)
    begin(RESULTS, [OTHER])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"warning: {path.relative_to(tmp_path)}, a list of unfinished files, is damaged" in told
    assert not path.exists()
