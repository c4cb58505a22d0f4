"""What an archive of a study's results holds, and what a run began and did not finish."""

import tarfile

import pytest

from ntktune.__main__ import main
from ntktune.unfinished import remember, unfinished

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


def test_an_unfinished_study_is_packed_with_a_warning(results, tmp_path, capsys):
    assert "state/unfinished.txt" not in packed(tmp_path)
    assert "warning" not in capsys.readouterr().err
    names = [f"{RESULTS}/figures/fig2.png", f"{RESULTS}/figures/fig3.png"]
    remember(RESULTS, names)
    (results / "state/finetune").mkdir()
    (results / "state/finetune/seed0.json").write_text("{}")
    members = packed(tmp_path)
    assert "state/unfinished.txt" in members
    assert "state/finetune/seed0.json" not in members
    assert "1 of its files are missing (results/s/figures/fig3.png, ...)" in capsys.readouterr().err


def test_what_is_there_is_finished(results):
    assert unfinished(RESULTS) == set()
    remember(RESULTS, [f"{RESULTS}/figures/fig2.png", f"{RESULTS}/figures/größe 2.png"])
    assert unfinished(RESULTS) == {f"{RESULTS}/figures/größe 2.png"}
    remember(RESULTS, [])
    assert unfinished(RESULTS) == set()
    assert not (results / "state/unfinished.txt").exists()
