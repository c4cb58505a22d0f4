"""AtS and its benchmark, on a made-up one, and on the published files where they are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ntktune.__main__ import main
from ntktune.errors import UserError
from ntktune.selection.accept import accept_then_stop, correlation, relative_accuracy
from ntktune.selection.benchmark import (
    FILES,
    PUBLISHED_ERRORS,
    law_errors,
    printed,
    read_benchmark,
    selected,
)
from ntktune.store.records import read_table

SIZES = 200 * 2 ** np.arange(14)
REAL = Path(__file__).parents[3] / "shared/data/rectified-scaling-law"
PUBLISHED_BASELINES = {  # table 1 of Lin et al. 2024, from 1/8 to 1/512
    ("FLAN", "SubTuning", "PearCorr"): (60.9, 46.5, 36.4, 29.0, 24.6, 20.9, 16.4),
    ("WMT19", "SubTuning", "PearCorr"): (93.5, 87.1, 77.7, 64.5, 51.7, 41.6, 34.5),
    ("GIGAWORD", "SubTuning", "PearCorr"): (93.2, 89.3, 85.4, 80.9, 76.2, 69.9, 64.8),
    ("FLAN", "SubTuning", "RelAcc"): (93.2, 93.2, 93.2, 93.2, 59.6, 59.6, 59.6),
    ("WMT19", "SubTuning", "RelAcc"): (99.1,) * 7,
    ("GIGAWORD", "SubTuning", "RelAcc"): (87.6, 87.6, 87.6, 71.3, 71.3, 71.3, 71.3),
    ("FLAN", "ZeroShot", "PearCorr"): (-10.7,) * 7,
    ("WMT19", "ZeroShot", "PearCorr"): (7.1,) * 7,
    ("GIGAWORD", "ZeroShot", "PearCorr"): (-49.2,) * 7,
    ("FLAN", "ZeroShot", "RelAcc"): (85.3,) * 7,
    ("WMT19", "ZeroShot", "RelAcc"): (84.4,) * 7,
    ("GIGAWORD", "ZeroShot", "RelAcc"): (71.3,) * 7,
    # printed with the sign of the size, not of the score, which is lowest for the largest model
    ("FLAN", "ModelSize", "PearCorr"): (20.9,) * 7,
    ("WMT19", "ModelSize", "PearCorr"): (-36.0,) * 7,
    ("GIGAWORD", "ModelSize", "PearCorr"): (24.4,) * 7,
    ("FLAN", "ModelSize", "RelAcc"): (59.6,) * 7,
    ("WMT19", "ModelSize", "RelAcc"): (22.5,) * 7,
    ("GIGAWORD", "ModelSize", "RelAcc"): (71.3,) * 7,
}


def test_the_power_phase_is_found_and_followed():
    """Losses level off below 3,200 examples; above they are a line with a little scatter."""
    scatter = 1 + 1e-4 * (-1) ** np.arange(14)
    losses = 9 * np.maximum(SIZES, 3_200) ** -0.3 * scatter
    found, kept = accept_then_stop(SIZES[:12], losses[:12], SIZES[-1])
    assert kept == 8  # 3,200 … 409,600
    assert found == pytest.approx(9 * SIZES[-1] ** -0.3, rel=1e-3)
    # what a budget leaves out has no say
    assert accept_then_stop(SIZES[:4], losses[:4], SIZES[-1])[1] == 3


def test_the_published_quirks_are_kept():
    x, small = np.log(SIZES[:6]), 1e-3
    line = 2 - 0.3 * x
    near = np.exp(line + small * (-1) ** np.arange(6))
    assert accept_then_stop(SIZES[:6], near, 1e6)[1] == 5  # never off the line: one is lost
    assert accept_then_stop(SIZES[:3], np.exp(line[:3]), 1e6)[1] == 3
    # Residuals 1, −2, 1 have the deviation √2 over three, √6 over the one degree of freedom left.
    for off, stops in ((8, True), (6.9, False)):
        turned = line.copy()
        turned[3:] += small * np.array([1, -2, 1])
        turned[2] += off * small
        assert (accept_then_stop(SIZES[:6], np.exp(turned), 1e6)[1] == 3) == stops
    assert [printed(share) for share in (0.970513, 0.245458)] == [97.0, 24.6]  # rounded twice


@pytest.mark.parametrize(("sizes", "losses"), [([200], [3.0]), ([200, 400], [3, 0])])
def test_what_is_no_curve_is_told(sizes, losses):
    with pytest.raises(UserError, match="give"):
        accept_then_stop(sizes, losses, 1e6)


def test_measures_of_a_choice():
    true = [3.0, 1.0, 2.0]
    assert correlation([30, 10, 20], true) == pytest.approx(1)
    assert relative_accuracy([2, 3, 1], true) == pytest.approx(0.5)
    assert relative_accuracy([3, 1, 2], true) == 1


def made_up(folder, models=3):
    rng = np.random.default_rng(0)
    for end in FILES.values():
        slopes, levels = rng.uniform(0.1, 0.4, models), rng.uniform(3, 9, models)
        losses = levels[:, None] / (1 + SIZES ** slopes[:, None]) + 0.1
        table = pd.DataFrame(losses, columns=[str(n) for n in SIZES])
        table.insert(0, "0", levels)
        table.insert(0, "config name", [f"m{i}" for i in range(models)])
        table["size"], table["family"] = rng.integers(1e6, 1e9, models), "none"
        table.to_csv(folder / f"benchmark_{end}.csv", index=False)
    return folder


def change(folder, column, value):
    path = folder / "benchmark_wmt19.csv"
    table = pd.read_csv(path).astype(object)
    table.loc[2, column] = value
    table.to_csv(path, index=False)


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    out = {f"--{n}": tmp_path / f"{n}.parquet" for n in ("out", "out-laws", "out-extrapolated")}
    words = [
        "--folder",
        str(made_up(tmp_path)),
        *(str(word) for pair in out.items() for word in pair),
    ]
    assert main(["selection", "benchmark", *words]) == 0
    said = capsys.readouterr().out
    methods, laws, further = (read_table(str(path))[0] for path in out.values())
    # made as the rectified law has them: it predicts them, a line does not
    own = further[further["divisor"] == 8].groupby("law")["error"].mean()
    assert own["rectified"] < 0.01 < own["line"]
    assert further.groupby("law")["covered"].mean().isna().sum() == 1  # AtS
    assert len(methods) == 3 * 7 * 4 * 2
    assert len(laws) == 3 * 2 * 3
    one = methods[(methods["data"] == "WMT19") & (methods["method"] == "AtS")]
    one = one[one["measure"] == "RelAcc"]
    row = " ".join(f"{printed(v / 100):.1f}" for v in one["value"])
    assert f"WMT19 RelAcc AtS {row}" in " ".join(said.split())
    # 1/8 of all, and all sizes below it
    assert one["cost"].iloc[0] == pytest.approx(SIZES[:11].sum() / SIZES[-1])


def test_what_is_kept_back_has_no_say(tmp_path):
    curves = read_benchmark(made_up(tmp_path))
    before = selected(curves)
    for name, (models, known) in curves.items():  # above 1/8, but for all: that is the truth
        losses = known.losses.copy()
        losses[:, -3:-1] *= 7
        curves[name] = models, known._replace(losses=losses)
    pd.testing.assert_frame_equal(selected(curves), before)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "benchmark_flan.csv").unlink(), "has 0 files \\*flan.csv"),
        (lambda folder: (folder / "other_flan.csv").write_text("a,b\n"), "has 2 files"),
        (
            lambda folder: (folder / "benchmark_wmt19.csv").write_text("a,b\n1,2\n"),
            "columns 0, 200",
        ),
        (lambda folder: (folder / "benchmark_wmt19.csv").write_text(""), "cannot be read"),
        (
            lambda folder: (folder / "benchmark_wmt19.csv").write_text(
                "config name,0,200,400,size\nm,1,2,0,5\n"
            ),
            "needs two models",
        ),
        (lambda folder: change(folder, "size", "7B"), "the column size"),
        (lambda folder: change(folder, "size", 0), "the column size"),
        (lambda folder: change(folder, "400", 0), "a loss above 0"),
        (lambda folder: change(folder, "400", "n/a"), "a loss above 0"),
    ],
)
def test_other_files_are_told(tmp_path, spoil, told):
    spoil(made_up(tmp_path))
    with pytest.raises(UserError, match=told):
        read_benchmark(tmp_path)


@pytest.fixture(scope="module")
def curves():
    return read_benchmark(REAL)


@pytest.mark.skipif(not REAL.is_dir(), reason="the benchmark's files are not beside the checkout")
class TestPublished:
    def test_all_42_values_of_ats_and_the_baselines(self, curves):
        found = selected(curves)
        own = found[found["method"] == "AtS"]
        assert len(own) == 42
        assert [printed(v / 100) for v in own["value"]] == own["published"].tolist()
        for (data, method, measure), published in PUBLISHED_BASELINES.items():
            rows = found[(found["data"] == data) & (found["method"] == method)]
            values = rows.loc[rows["measure"] == measure, "value"]
            assert tuple(printed(v / 100) for v in values) == published, (data, method, measure)

    def test_the_laws_fit_no_worse_than_published(self, curves):
        found = law_errors(curves).groupby("law")["rmsd"].mean()
        # lower: the published fits are not at the least squares
        assert found["rectified"] == pytest.approx(0.00769, abs=5e-6)
        assert found["vanilla"] == pytest.approx(0.03439, abs=5e-6)
        assert (found < pd.Series(PUBLISHED_ERRORS)).all()
