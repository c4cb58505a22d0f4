"""Real data sets of the paper, by configuration only."""

from pathlib import Path

import pandas as pd
import pytest

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]
DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"the data sets, whose licences forbid shipping them, are not in {DATA}",
)
def test_an_overlay_runs_real_data_sets(checkout):
    (checkout.folder.parent / "shared").symlink_to(DATA.parent)
    study = ("--configfile", "tests/overlays/realdata-tiny.yaml", "--cores", "2", "--")
    # whatever reads the data themselves; the other jobs read the same tokens and numbers
    shared = "results/realdata-tiny/taskvectors/overlap.parquet"
    done = checkout.snakemake(*study, "table1", "fig5", shared)
    assert done.returncode == 0, done.stdout + done.stderr
    results = checkout.folder / "results/realdata-tiny"
    stsb = pd.read_parquet(results / "data/stsb/table.parquet")
    # STS-B has 5,749 training rows (shared/data/README.md); those left are the distinct ones
    assert 5600 <= (stsb["split"] == "train").sum() <= 5749
    assert stsb["label"].between(0, 5).all()
    assert stsb["text_b"].notna().all()
    amazon = pd.read_parquet(results / "data/amazon/table.parquet")
    assert set(amazon["label"]) == {0, 1}
    overlap = pd.read_parquet(checkout.folder / shared)
    assert set(overlap[["task", "other"]].to_numpy().ravel()) == {"stsb", "amazon"}
    table = pd.read_csv(results / "figures/table1.csv")
    assert list(table["task"]) == ["stsb", "amazon"]
    assert (table["exponent"] > 0).all()
    assert Path(results / "figures/fig5.pdf").stat().st_size > 2000
