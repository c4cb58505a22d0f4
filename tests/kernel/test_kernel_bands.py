"""A kernel computed in shards by several jobs, and gathered: the same numbers, or an error."""

import shutil

import pytest
import torch

from ntktune.__main__ import main
from ntktune.errors import UserError
from ntktune.kernel.bands import bands, check_bound, check_outputs, shards
from ntktune.store.tensors import read_tensors, write_tensors


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (7, 3), (100, 7), (5, 5)])
def test_bands_are_the_rows_in_equal_runs(rows, count):
    found = bands(rows, count)
    assert [row for band in found for row in band] == list(range(rows))
    assert len(found) == count
    assert max(map(len, found)) - min(map(len, found)) <= 1
    for wrong in (0, rows + 1):
        with pytest.raises(UserError, match=f"{rows} rows cannot be split into {wrong} bands"):
            bands(rows, wrong)


def test_a_symmetric_kernel_needs_its_upper_triangle():
    assert shards(2, symmetric=True) == [(0, 0), (0, 1), (1, 1)]
    assert len(shards(5, symmetric=True)) == 15
    assert len(shards(5, symmetric=False)) == 25


@pytest.fixture
def gathered(study, tmp_path):
    """Return a function that computes kernels in shards and gathers them."""

    def run(count, *options, **task):
        command = study(draws=[[0, 3, 1, 8, 5, 6, 2], [5, 6, 2, 4, 1, 7, 0]], **task)[:-1]
        files = []
        symmetric = "asymmetric-signgd" not in options
        for i, j in shards(count, symmetric=symmetric):
            out = tmp_path / f"{count}-{i}-{j}.safetensors"
            assert main([*command, str(out), "--shard", *map(str, (i, j, count)), *options]) == 0
            files.append(str(out))
        out = tmp_path / f"gathered-{count}.safetensors"
        assert main(["kernel", "gather", "--out", str(out), "--shards", *reversed(files)]) == 0
        whole = tmp_path / "whole.safetensors"
        assert main([*command, str(whole), *options]) == 0
        return files, read_tensors(out), read_tensors(whole)

    return run


def _assert_equal(found, wanted):
    # GPT-Neo's attention is float32 in a float64 model, too
    room = 2e-6 * wanted.double().nan_to_num().abs().max().item()
    torch.testing.assert_close(found, wanted, rtol=0, atol=room, equal_nan=True)


def test_shards_of_three_classes_are_gathered_with_all_outputs(gathered):
    _, (found, facts), (wanted, _) = gathered(2, kind="classification", classes=3)
    assert facts["function"] == "mean"
    assert found["outputs"].shape == (2, 7, 3)
    for name, tensor in wanted.items():
        _assert_equal(found[name], tensor)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_number_of_shards_changes_nothing_beyond_rounding(gathered, count):
    files, (found, facts), (wanted, expected) = gathered(count)
    assert len(files) == count * (count + 1) // 2
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        _assert_equal(found[name], tensor)
    for key in ("task", "data_sha256", "model", "blocks", "function", "seeds", "head_seeds"):
        assert facts[key] == expected[key]
    there = [tuple(shard["shard"]) for shard in facts["shards"]]
    assert there == shards(count, symmetric=True)
    _assert_equal(found["kernel"], found["kernel"].transpose(1, 2))


def test_a_folder_of_shards_is_gathered(gathered, refused, tmp_path):
    files, (found, _), _ = gathered(3)
    folder, out = tmp_path / "shards", tmp_path / "again.safetensors"
    folder.mkdir()
    assert "shards holds no shards; make them first" in refused([folder])
    for file in files:
        shutil.copy(file, folder)
    shutil.copy(files[0], folder / "0-0.safetensors.damaged")
    (folder / ".0-0.host~1~0123abcd.safetensors").write_text("half")
    assert main(["kernel", "gather", "--out", str(out), "--shards", str(folder)]) == 0
    assert torch.equal(read_tensors(out)[0]["kernel"], found["kernel"])


@pytest.mark.parametrize("variant", ["signgd", "asymmetric-signgd"])
def test_kernels_of_signs_are_gathered_too(gathered, variant):
    _, (found, _), (wanted, _) = gathered(2, "--variant", variant)
    _assert_equal(found["kernel"], wanted["kernel"])


@pytest.fixture
def refused(capsys, tmp_path):
    """Return a function that gathers files and returns the one line that refuses it."""

    def run(files):
        capsys.readouterr()
        out = tmp_path / "refused.safetensors"
        assert main(["kernel", "gather", "--out", str(out), "--shards", *map(str, files)]) == 1
        assert not out.exists()
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    return run


def _changed(path, change):
    """Write a shard again with other content, its checksum right."""
    tensors, facts = read_tensors(path)
    change(tensors, facts)
    write_tensors(path, tensors, facts)


def test_shards_that_do_not_belong_together_are_refused(gathered, refused, study, tmp_path):
    (first, second, third), _, (_, _) = gathered(2)
    assert "shard 0-1 of 2 bands is missing; 2 were given" in refused([first, third])
    assert "are both shard 0-0" in refused([first, first, second, third])
    whole = tmp_path / "whole.safetensors"
    assert "whole.safetensors is no shard of a kernel" in refused([first, whole])
    original = {path: read_tensors(path) for path in (first, second, third)}
    for path, change, message in (
        (second, lambda t, f: f.update(head_seeds=[1, 2]), "with head_seeds [1, 2], but"),
        (second, lambda t, f: f.update(code="other"), "was made with code 'other', but"),
        (second, lambda t, f: t["row"].add_(1), "the rows of shard 0-1 are not those of shard 0-0"),
        (
            second,
            lambda t, f: t["column"].add_(1),
            "the columns of shard 0-1 are not those of shard",
        ),
        (
            second,
            lambda t, f: t["outputs"].add_(1),
            "shards 0-0 and 0-1 differ by 1 in the outputs",
        ),
        (second, lambda t, f: t["kernel"].mul_(1e6), "shard 0-1 has "),
        (second, lambda t, f: t["kernel"].fill_(float("nan")), "shard 0-1 has nan in row 0"),
    ):
        _changed(path, change)
        assert message in refused([first, second, third])
        write_tensors(path, *original[path])


def test_a_tile_that_there_is_not_is_refused(study, capsys, tmp_path):
    command = study()
    for shard, message in {
        ("0", "2", "2"): "the bands are counted from 0 to 1",
        ("-1", "0", "2"): "the bands are counted from 0 to 1",
        ("0", "0", "0"): "the number of bands must be 1 or more",
    }.items():
        assert main([*command, "--shard", *shard]) == 1
        assert message in capsys.readouterr().err
    assert main([*command, "--shard", "0", "1", "5"]) == 1
    assert "4 rows cannot be split into 5 bands; give 1 to 4" in capsys.readouterr().err


def test_checks_let_rounding_pass_and_nothing_else():
    kernel = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    left, right = torch.tensor([4.0]).double(), torch.tensor([1.0, 1.0]).double()
    check_bound(kernel, left, right, torch.float64, "0-1")
    check_bound(kernel * (1 + 1e-6), left, right, torch.float64, "0-1")
    with pytest.raises(UserError, match=r"shard 0-1 has 2.002 in row 0, column 0, more .*\(2\)"):
        check_bound(kernel * 1.001, left, right, torch.float64, "0-1")
    outputs = {(0, 0): torch.tensor([[1.0, -3.0]]), (0, 1): torch.tensor([[1.0, -3.001]])}
    check_outputs(outputs, torch.float32)
    with pytest.raises(UserError, match=r"0-0 and 0-1 differ by 0.001 .*largest is 3"):
        check_outputs(outputs, torch.float64)
