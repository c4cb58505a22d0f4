"""The few lines that a run ends with."""

import pandas as pd
import pytest

from ntktune.__main__ import main

RATES = pd.DataFrame(
    {
        "task": ["film", "news-intensity"],
        "exponent": [1.234, 2.0],
        "r_squared": [0.98765, 0.9],
        "predicted_rate": [0.5524, 2 / 3],
        "measured_exponent": [0.41, None],
    }
)
VERDICTS = pd.DataFrame(
    {"claim": ["Short claim", "word " * 30], "verdict": ["reproduced", "not tested"]}
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "figures").mkdir()
    RATES.to_csv(tmp_path / "figures" / "table1.csv", index=False)
    VERDICTS.to_csv(tmp_path / "figures" / "verdicts.csv", index=False)
    return tmp_path


def test_rates_verdicts_and_places_are_printed(folder, capsys):
    (folder / "report.html").write_text("")
    assert main(["figures", "show", "--folder", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("  ")[0] == "task"
    assert lines[2].split() == ["film", "1.23", "0.988", "0.55", "0.41"]
    assert lines[3].split() == ["news-intensity", "2.00", "0.900", "0.67", "-"]
    assert "  reproduced     Short claim" in lines
    assert any(line.startswith("  not tested     word") for line in lines)
    assert max(map(len, lines[:-2])) <= 95
    assert lines[-2].endswith(str(folder / "figures"))
    assert lines[-1].endswith(str(folder / "report.html"))


def test_a_study_that_has_not_run_is_told(tmp_path, capsys):
    assert main(["figures", "show", "--folder", str(tmp_path)]) == 1
    assert "figures); make it with: ntktune figures table1" in capsys.readouterr().err
