"""``spectrum fit``: three files from a task's kernels."""

import math

import numpy as np
import pytest
import torch

from ntktune.__main__ import main
from ntktune.store.records import read_json, read_table
from ntktune.store.tensors import write_tensors

EXPONENTS = [1.0, 1.2, 1.4]


def kernels(exponents=EXPONENTS, n=40):
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.standard_normal((n, n)))
    k = np.arange(1, n + 1)
    return np.stack([basis @ np.diag(5 * n * k**-a) @ basis.T for a in exponents])


@pytest.fixture
def fitted(tmp_path):
    def run(stack, dtype="float64", status=0, row=None, **options):
        facts = {
            "task": {"name": "toy", "kind": "regression"},
            "data_sha256": "d1",
            "model": {"name": "tiny"},
            "function": "scalar",
            "dtype": dtype,
        }
        tensors = {"kernel": torch.tensor(stack)}
        tensors |= {} if row is None else {"row": torch.tensor(row)}
        write_tensors(tmp_path / "gram.safetensors", tensors, facts)
        arguments = {
            "gram": tmp_path / "gram.safetensors",
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
    assert list(table.columns) == ["draw", "k", "eigenvalue", "centred"]
    np.testing.assert_allclose(
        table["eigenvalue"].to_numpy().reshape(3, 40)[1], 5 * np.arange(1, 41) ** -1.2, rtol=1e-9
    )
    assert table["k"].tolist() == list(range(1, 41)) * 3
    columns = ["exponent", "intercept", "stderr", "r_squared", "exponential", "dropped"]
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
    # t of 0.975 with two degrees of freedom is 4.303
    assert summary["exponent"]["low"] == pytest.approx(1.2 - 4.303 * 0.2 / 3**0.5, abs=1e-3)
    assert summary["exponent"]["high"] == pytest.approx(1.2 + 4.303 * 0.2 / 3**0.5, abs=1e-3)
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
    assert (facts["data_sha256"], facts["model"]["name"]) == ("d1", "tiny")


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
    for what in ("exponent", "predicted_rate"):
        assert summary[what]["low"] is None
        assert summary[what]["high"] is None
    # ranks 1..2 are too few for a fit: said, not made up
    assert summary["sensitivity"]["1..n/2"] == {"mean": None, "sd": None}
    assert fits.set_index("range")["exponent"].isna().to_dict() == {
        "1..n": False,
        "2..n": False,
        "1..n/2": True,
        "n/10..9n/10": False,
    }


def test_draws_that_share_rows_have_a_wider_interval(fitted):
    row = np.arange(40) + np.array([[0], [20], [40]])  # neighbours share half, the ends nothing
    alone, sharing = (fitted(kernels(), row=r)[2] for r in (None, row))
    assert (alone["shared"], sharing["shared"]) == (0.0, pytest.approx(1 / 3))
    widths = [s["exponent"]["high"] - s["exponent"]["low"] for s in (alone, sharing)]
    assert widths[1] / widths[0] == pytest.approx(((1 + 2 / 3) / (2 / 3)) ** 0.5)


def test_the_power_laws_control_is_an_exponential_decay(fitted):
    k = np.arange(1, 41.0)
    for values, better in ((k**-1.2, "r_squared"), (np.exp(-0.2 * k), "exponential")):
        _, fits, _, _ = fitted(np.diag(values)[None])
        assert fits.loc[0, better] == pytest.approx(1.0)
        assert fits.loc[0, ["r_squared", "exponential"]].min() < 0.95


def test_a_kernel_of_zeros_is_a_clear_error(fitted, capsys, tmp_path):
    fitted(np.zeros((2, 5, 5)), status=1)
    assert "ntktune spectrum fit: error: the largest eigenvalue is 0" in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()
