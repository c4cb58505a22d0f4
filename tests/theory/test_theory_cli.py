"""``theory stopping``: one row per draw."""

import math

import numpy as np
import pytest
import torch

from ntktune.__main__ import main
from ntktune.store.records import read_table
from ntktune.store.tensors import write_tensors
from ntktune.theory import critical_radius, shift_estimate, stopping_time

N = 30
COLUMNS = [
    *("draw", "n", "sigma", "sigma_source", "radius", "radius_source"),
    *("step_size", "critical_radius", "stopping_time", "eta"),
]


def draws(scale=1.0, kind="regression"):
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.standard_normal((N, N)))
    gram = scale * basis @ np.diag(N * np.arange(1, N + 1.0) ** -1.5) @ basis.T
    label = gram @ random.standard_normal((N, 2)) / N + 0.2 * random.standard_normal((N, 2))
    label = 10 + 3 * label.T
    if kind == "classification":
        label = (label > np.median(label)).astype(float)
    return {
        "kernel": torch.tensor(np.stack([gram, 4 * gram])),
        "outputs": torch.tensor(0.1 * random.standard_normal((2, N))),
        "label": torch.tensor(label),
        "label_noise": torch.full((2, N), math.nan, dtype=torch.float64),
    }


@pytest.fixture
def stopped(tmp_path):
    def run(tensors, kind="regression", status=0, *options):
        facts = {
            "task": {"name": "toy", "kind": kind},
            "data_sha256": "d1",
            "model": {"name": "tiny"},
            "function": "scalar",
            "dtype": "float64",
        }
        write_tensors(tmp_path / "gram.safetensors", tensors, facts)
        out = tmp_path / "stopping.parquet"
        gram = str(tmp_path / "gram.safetensors")
        found = main(["theory", "stopping", "--gram", gram, "--out", str(out), *options])
        assert found == status
        return read_table(out) if status == 0 else None

    return run


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_row_for_each_draw(kind, stopped):
    tensors = draws(kind=kind)
    table, facts = stopped(tensors, kind, 0, "--step-size-factor", "0.5")
    assert list(table.columns) == COLUMNS
    assert table["draw"].tolist() == [0, 1]
    assert table["stopping_time"].dtype == np.int64
    for draw, row in table.iterrows():
        gram, f0 = tensors["kernel"][draw].numpy(), tensors["outputs"][draw].numpy()
        label = tensors["label"][draw].numpy()
        labels = (label - label.mean()) / label.std() if kind == "regression" else 2 * label - 1
        values = np.linalg.eigvalsh(gram)[::-1] / N
        estimate = shift_estimate(gram, labels - (f0 - f0.mean()))
        assert row["n"] == N
        assert (row["sigma"], row["sigma_source"]) == (pytest.approx(estimate.sigma), "residual")
        assert row["radius"] == pytest.approx(estimate.radius)
        assert row["radius_source"] == "ridge smoothing of y - centred f_0 (GCV)"
        assert row["step_size"] == pytest.approx(0.5 * min(1, 1 / values[0]))
        settings = {"sigma": estimate.sigma, "radius": estimate.radius}
        assert row["critical_radius"] == pytest.approx(critical_radius(values, **settings))
        steps = stopping_time(values, step_size=row["step_size"], **settings)
        assert row["stopping_time"] == steps > 0
        assert row["eta"] == pytest.approx(steps * row["step_size"])
    assert facts["command"] == "theory stopping"
    assert facts["data_sha256"] == "d1"
    wanted = {"regression": "standardised by the draw", "classification": "-1 for class 0"}
    assert facts["labels"].startswith(wanted[kind])


def test_known_noise_of_ratings_is_used(stopped):
    tensors = draws()
    tensors["label_noise"][0] = 0.6
    table, _ = stopped(tensors)
    assert table["sigma_source"].tolist() == ["ratings", "residual"]
    sd = tensors["label"][0].numpy().std()
    assert table["sigma"][0] == pytest.approx(0.6 / sd)
    tensors["label_noise"][0, 0] = math.nan  # partly known is not known
    assert stopped(tensors)[0]["sigma_source"].tolist() == ["residual", "residual"]


def test_classes_have_no_rating_noise(stopped):
    tensors = draws(kind="classification")
    tensors["label_noise"][:] = 0.6
    assert set(stopped(tensors, "classification")[0]["sigma_source"]) == {"residual"}


def test_a_steep_kernel_takes_small_steps(stopped):
    table, _ = stopped(draws(scale=100.0))
    np.testing.assert_allclose(table["step_size"], [1 / 100, 1 / 400], rtol=1e-6)


@pytest.mark.parametrize(
    ("factor", "message"),
    [("0", "greater than 0"), ("-1", "greater than 0"), ("1.5", "at most 1"), ("nan", "a finite")],
)
def test_step_sizes_outside_the_theory(factor, message, stopped, tmp_path, capsys):
    stopped(draws(), "regression", 1, "--step-size-factor", factor)
    told = f"--step-size-factor is {float(factor)}: must be {message}"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "stopping.parquet").exists()


def test_labels_all_the_same(stopped, capsys):
    tensors = draws()
    tensors["label"][1] = 3.0
    stopped(tensors, "regression", 1)
    error = capsys.readouterr().err
    assert "ntktune theory stopping: error: all 30 labels of the draw are 3.0" in error


def test_a_kernel_of_zeros(stopped, capsys):
    stopped(draws(scale=0.0), "regression", 1)
    assert "no positive eigenvalue" in capsys.readouterr().err


def simulate(folder, *changes):
    words = ["theory", "simulate", "--sizes", "20", "80", "--repeats", "50", "--seed", "3"]
    outputs = ["--out-errors", str(folder / "e.parquet"), "--out-radii", str(folder / "r.parquet")]
    return main([*words, *outputs, *changes])


def test_the_simulation_is_written_and_does_not_depend_on_the_other_sizes(tmp_path):
    assert simulate(tmp_path) == 0
    errors, facts = read_table(tmp_path / "e.parquet")
    assert (
        errors.groupby("n")["rule"].apply(list).tolist()
        == [["theory", "holdout", "sure", "oracle"]] * 2
    )
    assert (errors["repeats"] == 50).all()
    assert facts["seeds"]["root"] == 3
    assert errors.loc[errors["rule"] == "theory", "time"].tolist() == [4, 9]
    radii, _ = read_table(tmp_path / "r.parquet")
    assert radii["decay"].tolist() == [1.2, 1.5, 2.0, 3.0, 4.0]
    assert simulate(tmp_path, "--sizes", "80") == 0
    alone, _ = read_table(tmp_path / "e.parquet")
    assert alone.equals(errors[errors["n"] == 80].reset_index(drop=True))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "3"], "--sizes has 3: must be at least 4"),
        (["--repeats", "1"], "--repeats is 1: must be at least 2"),
    ],
)
def test_a_simulation_that_is_too_small(flags, message, tmp_path, capsys):
    assert simulate(tmp_path, *flags) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
