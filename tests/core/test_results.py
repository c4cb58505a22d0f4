"""What an archive of a study's results holds, and what a run began and did not finish."""

import json
import os
import platform
import subprocess
import tarfile
from contextlib import contextmanager

import pytest

from ntktune.__main__ import main
from ntktune.artifacts import write_json
from ntktune.errors import UserError
from ntktune.unfinished import OWN, begin, finish, unfinished

RESULTS, LIST = "results/s", "state/unfinished/archive.json"


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
    # of a run whose files are there, as models are that stay here
    listed(results, 7, FIGURE, machine="elsewhere")
    assert {name for name in packed(tmp_path) if name.startswith("state")} == {LIST}
    assert "1 of its files are missing (results/s/figures/fig3.png, ...)" in capsys.readouterr().err
    with tarfile.open("s.tar.gz") as archive:
        content = json.load(archive.extractfile(f"{RESULTS}/{LIST}"))
    assert content == {"files": [f"{RESULTS}/figures/fig3.png"]}


def test_a_list_out_of_an_archive_is_read_like_a_runs(results, ended):
    listed(results, ended, MISSING).rename(results / LIST)
    assert unfinished(RESULTS) == {MISSING}
    begin(RESULTS, [OTHER])
    assert not (results / LIST).exists()


def test_what_is_there_is_finished(results, ended):
    assert unfinished(RESULTS) == set()
    listed(results, ended, FIGURE, MISSING)
    assert unfinished(RESULTS) == {MISSING}
    # of a machine that cannot be asked, too
    listed(results, ended, OTHER, machine="elsewhere")
    assert unfinished(RESULTS) == {MISSING, OTHER}


def test_what_was_finished_may_be_deleted(results, ended):
    """As weights are, for their size. The run was killed between its last job and its end."""
    listed(results, ended, FIGURE)
    assert unfinished(RESULTS) == set()
    (results / "figures/fig2.png").unlink()
    assert unfinished(RESULTS) == set()
    assert not (results / "state/unfinished").exists()


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


def test_a_whole_run_forgets_the_lists_before_it_on_other_machines(results):
    before = listed(results, 7, FIGURE, MISSING, machine="before")
    os.utime(before, (os.stat(before).st_mtime - 9,) * 2)
    begin(RESULTS, [OTHER])
    after = listed(results, 7, FIGURE, MISSING, machine="elsewhere")
    os.utime(after, (os.stat(after).st_mtime + 9,) * 2)
    finish(RESULTS, whole=True)
    assert [path.name for path in after.parent.iterdir()] == [after.name]


@contextmanager
def going_on():
    """Yield the number of a process that is there."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_runs_beside_each_other_keep_lists_of_their_own(results):
    with going_on() as process:
        # begun, but its job has not started yet: the old figure is there
        path = listed(results, process, FIGURE, MISSING)
        begin(RESULTS, [OTHER])
        assert unfinished(RESULTS) == set()
        finish(RESULTS, whole=True)
    assert path.exists()
    (results / "figures/fig2.png").unlink()  # the job started, and died with its run
    assert unfinished(RESULTS) == {FIGURE, MISSING}


def test_a_file_that_another_run_makes_is_refused(results):
    """Also when a third run has ended, and Snakemake's own locks are gone with it."""
    with going_on() as process:
        path = listed(results, process, FIGURE, MISSING)
        with pytest.raises(UserError, match=rf"\(process {process}\) makes {FIGURE} at .*, 1 of"):
            begin(RESULTS, [FIGURE, OTHER])
        assert [other.name for other in path.parent.iterdir()] == [path.name]
    begin(RESULTS, [FIGURE, OTHER])


def test_a_study_that_is_made_at_the_moment_is_not_checked(results, tmp_path, capsys):
    check = ["results", "check", "--folder", RESULTS]
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()  # another study's
    assert main(check) == 0
    with going_on() as process:
        path = listed(results, process, FIGURE)
        assert main(check) == 1
        told = f"a Snakemake (process {process}) makes {RESULTS}: let it finish first\n"
        assert told in capsys.readouterr().err
        path.unlink()
    path = listed(results, 7, FIGURE, machine="elsewhere")
    assert main(check) == 1
    told = f"a Snakemake on elsewhere makes {RESULTS}, or was killed: let it finish, or remove "
    assert told + str(path.relative_to(tmp_path)) in capsys.readouterr().err
    lock.unlink()
    assert main(check) == 0


def test_a_check_that_is_interrupted_remembers_what_it_set_aside(results, monkeypatch, capsys):
    damaged_one = results / "figures/a.json"
    damaged_one.write_text("{")
    (results / "figures/b.parquet").touch()
    monkeypatch.setattr("ntktune.cli.results._record", lambda path: path)  # rules made them

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("ntktune.cli.results.read_table", interrupted)
    assert main(["results", "check", "--folder", RESULTS]) == 130
    assert f"{RESULTS}/figures/a.json is damaged" in capsys.readouterr().err
    assert not damaged_one.exists()
    own = results / "state/unfinished" / OWN
    assert json.loads(own.read_text())["files"] == [f"{RESULTS}/figures/a.json"]


@pytest.mark.parametrize("content", [b"\xff", b"{}", b'{"files": 3}'])
def test_a_damaged_list_is_told_and_passed_over(results, tmp_path, ended, capsys, content):
    path = listed(results, ended, MISSING)
    path.write_bytes(content)
    begin(RESULTS, [OTHER])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"warning: {path.relative_to(tmp_path)}, a list of unfinished files, is damaged" in told
    assert not path.exists()


def test_a_damaged_list_of_a_run_that_goes_on_stays(results):
    with going_on() as process:
        path = listed(results, process, MISSING)
        path.write_bytes(b"{}")
        begin(RESULTS, [OTHER])
        assert unfinished(RESULTS) == set()
        assert path.exists()
    begin(RESULTS, [OTHER])
    assert not path.exists()
