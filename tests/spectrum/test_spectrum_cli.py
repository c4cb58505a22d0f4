"""``spectrum fit``: three files from a task's kernels."""

import math

import numpy as np
import pytest
import torch

from ntktune.__main__ import main
from ntktune.artifacts import read_json, read_table, write_tensors
from ntktune.errors import UserError
from ntktune.spectrum import bootstrap_interval

EXPONENTS = [1.0, 1.2, 1.4]


def kernels(exponents=EXPONENTS, n=40):
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.standard_normal((n, n)))
    k = np.arange(1, n + 1)
    return np.stack([basis @ np.diag(5 * n * k**-a) @ basis.T for a in exponents])


@pytest.fixture
def fitted(tmp_path):
    def run(stack, dtype="float64", status=0, **options):
        facts = {
            "task": {"name": "toy", "kind": "regression"},
            "data_sha256": "d1",
            "model": {"name": "tiny"},
            "function": "scalar",
            "dtype": dtype,
        }
        write_tensors(tmp_path / "gram.safetensors", {"kernel": torch.tensor(stack)}, facts)
        arguments = {
            "gram": tmp_path / "gram.safetensors",
            "seed": 7,
            "bootstrap": 300,
            "out-eigenvalues": tmp_path / "eigenvalues.parquet",
            "out-fits": tmp_path / "decay.parquet",
            "out-summary": tmp_path / "summary.json",
        } | options
        flags = [str(x) for k, v in arguments.items() for x in (f"--{k}", v)]
        assert main(["spectrum", "fit", *flags]) == status
        if status == 0:
            table, facts = read_table(tmp_path / "eigenvalues.parquet")
            fits, _ = read_table(tmp_path / "decay.parquet")
            return table, fits, read_json(tmp_path / "summary.json"), facts
        return None

    return run


def test_three_files(fitted):
    table, fits, summary, facts = fitted(kernels())
    assert list(table.columns) == ["draw", "k", "eigenvalue"]
    np.testing.assert_allclose(
        table["eigenvalue"].to_numpy().reshape(3, 40)[1], 5 * np.arange(1, 41) ** -1.2, rtol=1e-9
    )
    assert table["k"].tolist() == list(range(1, 41)) * 3
    columns = ["exponent", "intercept", "stderr", "r_squared", "dropped"]
    assert list(fits.columns) == ["draw", "range", "first", "last", *columns]
    assert len(fits) == 12
    for draw, part in fits.groupby("draw"):
        np.testing.assert_allclose(part["exponent"], EXPONENTS[draw], atol=1e-9)
    ranges = ["1..n", "2..n", "1..n/2", "n/10..9n/10"]
    assert fits["range"].tolist()[:4] == ranges
    assert fits[["first", "last"]].to_numpy()[:4].tolist() == [[1, 40], [2, 40], [1, 20], [4, 36]]
    assert (summary["task"], summary["n"], summary["draws"]) == ("toy", 40, 3)
    assert summary["noise_floor"] == pytest.approx(40 * 2**-52 * 5)
    assert summary["exponent"]["mean"] == pytest.approx(1.2)
    assert summary["exponent"]["sd"] == pytest.approx(0.2)
    assert summary["exponent"]["low"] == pytest.approx(1.0, abs=0.07)
    assert summary["exponent"]["high"] == pytest.approx(1.4, abs=0.07)
    assert summary["exponent"]["stderr_mean"] == pytest.approx(0, abs=1e-9)
    assert summary["r_squared"] == pytest.approx({"mean": 1.0, "min": 1.0})
    assert summary["intercept"] == pytest.approx(math.log(5))
    assert summary["predicted_rate"]["mean"] == pytest.approx(1.2 / 2.2)
    low, high = summary["exponent"]["low"], summary["exponent"]["high"]
    assert summary["predicted_rate"]["low"] == pytest.approx(low / (low + 1))
    assert summary["predicted_rate"]["high"] == pytest.approx(high / (high + 1))
    assert list(summary["sensitivity"]) == ranges[1:]
    assert summary["sensitivity"]["2..n"] == pytest.approx({"mean": 1.2, "sd": 0.2})
    assert summary["dropped"] == 0
    assert facts["command"] == "spectrum fit"
    assert (facts["data_sha256"], facts["model"]["name"], facts["seeds"]["root"]) == (
        *("d1", "tiny"),
        7,
    )


def test_the_floor_is_that_of_the_kernels_precision(fitted):
    # 40^-4 = 4e-7 λ_1; float32 keeps what is above 40 · 1.2e-7
    _, fits, summary, _ = fitted(kernels([4.0, 4.0]), dtype="float32")
    assert summary["noise_floor"] == pytest.approx(40 * 2**-23 * 5)
    kept = int((np.arange(1, 41.0) ** -4 > 40 * 2**-23).sum())
    assert fits.loc[fits["range"] == "1..n", "dropped"].tolist() == [40 - kept] * 2
    assert summary["dropped"] == 2 * (40 - kept)
    assert summary["exponent"]["mean"] == pytest.approx(4.0, abs=1e-6)


def test_one_small_draw_has_no_spread(fitted):
    _, fits, summary, _ = fitted(kernels([1.0], n=4))
    assert summary["exponent"]["sd"] is None
    assert summary["exponent"]["low"] == summary["exponent"]["high"] == pytest.approx(1.0)
    # ranks 1..2 are too few for a fit: said, not made up
    assert summary["sensitivity"]["1..n/2"] == {"mean": None, "sd": None}
    assert fits.set_index("range")["exponent"].isna().to_dict() == {
        "1..n": False,
        "2..n": False,
        "1..n/2": True,
        "n/10..9n/10": False,
    }


def test_the_interval_comes_from_the_seed(fitted):
    first, again, other = (fitted(kernels(), seed=s)[2]["exponent"]["low"] for s in (7, 7, 8))
    assert first == again
    assert first == pytest.approx(other, abs=0.2)


def test_bootstrap_interval_of_a_known_mean():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = bootstrap_interval(values, 4000, np.random.default_rng(1))
    width = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - width, abs=0.01)
    assert high == pytest.approx(values.mean() + width, abs=0.01)
    with pytest.raises(UserError, match="bootstrap samples: 0"):
        bootstrap_interval(values, 0, np.random.default_rng(1))


def test_a_kernel_of_zeros_is_a_clear_error(fitted, capsys, tmp_path):
    fitted(np.zeros((2, 5, 5)), status=1)
    assert "ntktune spectrum fit: error: the largest eigenvalue is 0" in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()
