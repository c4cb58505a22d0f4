"""What an archive of a study's results holds, and what a run began and did not finish."""

import json
import tarfile

import pytest

from ntktune.__main__ import main
from ntktune.cli.results import READERS
from ntktune.errors import UserError
from ntktune.store.files import RESULTS_VARIABLE
from ntktune.store.records import read_json
from ntktune.store.unfinished import FILE, begin, finish, unfinished

RESULTS = "results/s"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A study's folder, in the repository's root."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / RESULTS
    monkeypatch.setenv(RESULTS_VARIABLE, str(folder))
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


def test_an_unfinished_study_is_packed_with_a_warning(results, tmp_path, capsys):
    assert not [name for name in packed(tmp_path) if name.startswith("state")]
    assert "warning" not in capsys.readouterr().err
    begin(RESULTS, [FIGURE, MISSING])
    (results / "state/finetune").mkdir()
    (results / "state/finetune/seed0.json").write_text("{}")
    assert {name for name in packed(tmp_path) if name.startswith("state")} == {FILE}
    assert f"1 of its files are missing ({MISSING}, ...)" in capsys.readouterr().err
    # what is there, as models that stay here, is not asked for where the archive is unpacked
    with tarfile.open("s.tar.gz") as archive:
        content = json.load(archive.extractfile(f"{RESULTS}/{FILE}"))
    assert content["files"] == [MISSING]


def test_what_is_missing_of_a_run_that_died_is_unfinished(results):
    assert unfinished(RESULTS) == set()
    begin(RESULTS, [FIGURE, MISSING])
    assert unfinished(RESULTS) == {MISSING}


def test_a_run_takes_over_what_is_missing_and_forgets_what_it_made(results):
    begin(RESULTS, [FIGURE, MISSING])
    begin(RESULTS, [OTHER])
    assert unfinished(RESULTS) == {MISSING, OTHER}
    (results / "figures/3.png").write_text("")
    finish(RESULTS)
    assert read_json(results / FILE)["files"] == [MISSING]
    (results / "figures" / MISSING.rsplit("/", 1)[1]).write_text("")
    finish(RESULTS)
    assert not (results / FILE).exists()


def test_a_whole_run_forgets_what_is_no_part_of_the_study_any_more(results):
    begin(RESULTS, [MISSING])
    begin(RESULTS, [OTHER])
    finish(RESULTS, whole=True)
    assert not (results / FILE).exists()
    assert unfinished(RESULTS) == set()


@pytest.mark.parametrize("content", [b"\xff", b'{"files": 3'])
def test_a_damaged_list_is_told_and_set_aside(results, content):
    begin(RESULTS, [MISSING])
    (results / FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"unfinished.json is damaged.* run the same command again"):
        unfinished(RESULTS)
    assert unfinished(RESULTS) == set()


def test_a_study_that_is_made_at_the_moment_is_not_checked(results, tmp_path, capsys):
    check = ["results", "check", "--folder", RESULTS]
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/s2/figures/fig2.png\n")  # another study's
    assert main(check) == 0
    lock.write_text(f"{FIGURE}\n")
    assert main(check) == 1
    told = f"a Snakemake makes {RESULTS}, or was killed: let it finish, or run snakemake --unlock"
    assert told in capsys.readouterr().err
    lock.unlink()
    assert main(check) == 0


def test_a_check_that_is_interrupted_remembers_what_it_set_aside(results, monkeypatch, capsys):
    damaged_one = results / "figures/a.json"
    damaged_one.write_text("{")
    (results / "figures/b.parquet").touch()
    monkeypatch.setattr("ntktune.cli.results._record", lambda path: path)  # rules made them

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setitem(READERS, ".parquet", interrupted)
    assert main(["results", "check", "--folder", RESULTS]) == 130
    assert f"{RESULTS}/figures/a.json is damaged" in capsys.readouterr().err
    assert not damaged_one.exists()
    assert unfinished(RESULTS) == {f"{RESULTS}/figures/a.json"}
