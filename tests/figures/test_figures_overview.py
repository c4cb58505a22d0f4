"""The few lines that a run ends with."""

import re

import numpy as np
import pandas as pd
import pytest

from ntktune.__main__ import main
from ntktune.figures.tables import TABLES

RATES = pd.DataFrame(
    {
        "task": ["film", "news-intensity", "tweets", "reviews"],
        "needed": [130.7, 231.4, None, 16.0],
        "needed_low": [98.6, 40.2, None, 16.0],
        "needed_high": [201.2, 512.0, None, 17.2],
        "needed_bound": ["", "least", "", "most"],
        "needed_undecided": [False, True, None, False],
        "kind": ["regression", "classification", "regression", "classification"],
        "best_gain": [0.71234, 0.15, None, 0.4],
        "shared_seeds": [0.3, 0.3, 0.3, 0.3],
        "test_rows": [400, 100, None, 30],
        "metric": ["pearson", "accuracy", "mse", "f1"],
        "seeds": [3, 2, 2, 1],
        "best_score": [0.71234, 0.8, None, 0.5],
        "best_score_sd": [0.0321, 0.2, None, None],
        "best_size": [256, 512, None, 64],
        "exponent": [1.234, 2.0, 1.0, 1.0],
        "r_squared": [0.98765, 0.9, 1.0, 1.0],
        "predicted_rate": [0.5524, 2 / 3, 0.5, 0.5],
        "measured_exponent": [0.41, None, 0.3, 0.3],
        "measured_low": [0.123, None, -np.inf, 0.2],
        "measured_high": [0.6, None, 0.456, np.inf],
    }
)
VERDICTS = pd.DataFrame(
    {
        "group": ["study", "study", "simulated", "simulated"],
        "claim": ["Short claim", "Other claim", "word " * 30, "Untried claim"],
        "verdict": ["reproduced", "not tested", "inconclusive", "not tested"],
    }
)
UNTUNED = ("linear-probe", "kernel-ridge", "kernel-descent")
SCORES = pd.DataFrame(
    {
        "task": ["film"] * 4 + ["reviews"] + ["film"] * 3,
        "metric": ["pearson"] * 4 + ["f1"] + ["pearson"] * 3,
        "method": ["full", "lora", "full", "lora", "full", *UNTUNED],
        "n": [128, 128, 256, 256, 64, 256, 256, 128],
        "seeds": ["0 1 2"] * 4 + [0] + ["0 1 2"] * 3,
        "pearson": [0.6, 0.5, 0.71234, 0.7, None, 0.8, 0.6, 0.9],
        "pearson_sd": [0.1, 0.1, 0.0321, None, None, 0.01, 0.1, 0.1],
        "f1": [None] * 4 + [0.5] + [None] * 3,
        "f1_sd": None,
        "at_budget": [0, 3, 0, 2, 0, None, None, None],
    }
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "figures").mkdir()
    rates = RATES.reindex(columns=TABLES["table1"].columns)
    rates.to_csv(tmp_path / "figures" / "table1.csv", index=False)
    VERDICTS.to_csv(tmp_path / "figures" / "verdicts.csv", index=False)
    SCORES.to_csv(tmp_path / "figures" / "table4.csv", index=False)
    return tmp_path


def test_rates_verdicts_and_places_are_printed(folder, capsys):
    (folder / "report.html").write_text("")
    assert main(["figures", "show", "--folder", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [re.split(r"\s{2,}", line) for line in lines[1:6]]
    assert cells[0][:2] == ["task", "examples needed"]
    assert cells[1] == ["film", "131 (99 to 201)", "1.23", "0.988", "0.55", "0.41 (0.12 to 0.60)"]
    assert cells[2] == [
        "news-intensity",
        "undecided (surely 40 or more)",  # whatever its upper end
        "2.00",
        "0.900",
        "0.67",
        "-",
    ]
    assert (cells[3][:2], cells[3][-1]) == (["tweets", "unknown"], "0.30 (≤ 0.46)")
    assert cells[4][:2] == ["reviews", "at most 16 (16 to 17)"]
    assert cells[4][-1] == "0.30 (≥ 0.20)"
    assert sum(line.startswith("examples needed    labelled examples") for line in lines) == 1
    undecided = (
        "seeds are too few or too noisy to tell; add seeds (finetune.seeds), or labelled rows: two "
        "seeds' largest samples have 30% of their rows in common"
    )
    first = lines.index(
        "film: best Pearson r 0.712 ± 0.032 (3 seeds, 400 test rows: ±0.10), at n = 256"
    )
    best = " ".join(line.strip() for line in lines[first + 1 :][:14])
    assert best.startswith(
        "news-intensity: best accuracy 0.800 ± 0.200 (2 seeds, 100 test rows: ±0.10), at n = 512, "
    )
    assert "training majority has 0.650 (over all n); larger sizes may do better: " in best
    assert "finetune.sizes, or labelled rows; how many are needed: seeds are" in best
    assert (
        f"{undecided} tweets: no score to compare sizes by reviews: best F1 score 0.500 (1 seed, "
        "30 test rows), at n = 64" in best
    )
    # of several methods, at the largest size, and of what needs no fine-tuning
    assert (
        "film, Pearson r at n = 256: all weights 0.712 ± 0.032; LoRA 0.700; linear probe 0.800 ± "
        "0.010; fine-tuning was no better here than what needs none film: 5 of 6 trainings of LoRA "
        "still improved at their last step (n = 128, 256): try a higher finetune.max_epochs (or "
        "max_steps)" in best
    )
    assert "reviews, F1" not in best
    assert "interpolated between the sizes tried" in " ".join(" ".join(lines).split())
    heading = lines.index("the papers' claims on this study:")
    assert lines[heading + 1] == "  reproduced     Short claim"
    assert "  2 claims not tested; see figures/verdicts.csv" in lines
    assert not any(word in line for line in lines for word in ("Other claim", "Untried"))
    apart = lines.index("of made-up networks and spectra, none of your data:")
    assert lines[apart - 1] == "  reproduced     Short claim"
    assert lines[apart + 1].startswith("  inconclusive   word")
    assert max(map(len, lines[:-2])) <= 95
    assert lines[-2].endswith(str(folder / "figures"))
    assert lines[-1].endswith(str(folder / "report.html"))


def test_a_cut_model_is_told(folder, capsys):
    (folder / "data/model").mkdir(parents=True)
    (folder / "data/model/model.json").write_text('{"blocks": 30}')
    for blocks, told in ((4, True), (30, False), ("null", False)):
        (folder / "config.yaml").write_text(f"model: {{blocks: {blocks}}}")
        assert main(["figures", "show", "--folder", str(folder)]) == 0
        line = (
            "all this is of the model's first 4 of 30 blocks; model.blocks: 8 may do better,\n"
            "in about 2 times the time\n"
        )
        assert (line in capsys.readouterr().out) == told


def test_more_seeds_are_not_advised_where_they_share_most_rows(folder, capsys):
    path = folder / "figures/table1.csv"
    rates = pd.read_csv(path)
    rates.loc[rates["task"] == "news-intensity", "shared_seeds"] = 0.67
    rates.to_csv(path, index=False)
    scores = pd.read_csv(folder / "figures/table4.csv")
    scores.loc[4, ["task", "n"]] = ["news-intensity", 67]
    scores.to_csv(folder / "figures/table4.csv", index=False)
    assert main(["figures", "show", "--folder", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    # the samples have 67 of 100 rows
    more = "label about 34 more for training (those for testing come on top)"
    assert f"too few to tell; {more}: then two seeds' largest samples share half" in said
    assert "now 67%, so that more seeds hardly help" in said
    assert "news-intensity: best" in said
    assert "larger sizes may do better" not in said  # they would share still more rows
    assert "add seeds" not in said
    rates["needed_bound"] = ""
    rates.to_csv(path, index=False)
    assert main(["figures", "show", "--folder", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"end earlier, with `finetune: {{sizes: [16, 28, 50]}}`, or {more}: then" in said


def test_where_the_largest_size_is_the_best_the_interval_alone_is_told(folder, capsys):
    path, table = folder / "figures/table1.csv", folder / "figures/table4.csv"
    rates, scores = pd.read_csv(path), pd.read_csv(table)
    scores.loc[4, ["task", "n"]] = ["news-intensity", 512]
    pd.concat([scores, scores[4:5].assign(n=16)]).to_csv(table, index=False)
    rates.loc[rates["task"] == "news-intensity", ["needed_undecided", "needed_high"]] = [False, 300]
    for shared, advice in (
        (0.3, "add some to finetune.sizes"),
        (0.5, "for n = 1024, label about 1024 more for training"),
    ):
        rates.loc[rates["task"] == "news-intensity", "shared_seeds"] = shared
        rates.to_csv(path, index=False)
        assert main(["figures", "show", "--folder", str(folder)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "news-intensity 231 or more (surely 40 or more) 2.00" in said
        assert f"larger sizes may do better: {advice}" in said


def test_nothing_is_sure_of_fewer_than_the_smallest_size(folder, capsys):
    path, table = folder / "figures/table1.csv", folder / "figures/table4.csv"
    scores = pd.read_csv(table)
    scores.loc[4, ["task", "n"]] = ["news-intensity", 40]
    scores.to_csv(table, index=False)
    rates = pd.read_csv(path)
    for low, told in ((40.0, "undecided 2.00"), (41.0, "undecided (surely 41 or more) 2.00")):
        rates.loc[rates["task"] == "news-intensity", "needed_low"] = low
        rates.to_csv(path, index=False)
        assert main(["figures", "show", "--folder", str(folder)]) == 0
        assert f"news-intensity {told}" in " ".join(capsys.readouterr().out.split())


def test_a_probe_is_compared_over_the_seeds_that_were_fine_tuned(folder, capsys):
    table = folder / "figures/table4.csv"
    said = "fine-tuning was no better here than what needs none"
    for seeds, score, told in (("0 1 2", 0.72, True), ("0 1", 0.72, False), ("0 1 2", 0.71, False)):
        scores = SCORES.copy()
        probe = scores["method"] == "linear-probe"
        scores.loc[probe, ["seeds", "pearson"]] = [seeds, score]
        scores.to_csv(table, index=False)
        assert main(["figures", "show", "--folder", str(folder)]) == 0
        assert (said in " ".join(capsys.readouterr().out.split())) == told


def test_what_is_no_better_than_guessing_needs_no_more_labels(folder, capsys):
    path, table = folder / "figures/table1.csv", folder / "figures/table4.csv"
    rates, scores = pd.read_csv(path), pd.read_csv(table)
    news = rates["task"] == "news-intensity"
    scores.loc[4, ["task", "metric", "n", "chance_accuracy"]] = ["news-intensity", "f1", 512, 0.25]
    scores.to_csv(table, index=False)
    nothing = "nothing was learned: guessing is as good. Before labelling more, try"
    for score, gain, learned in ((0.244, 0.077, False), (0.24, -0.01, False), (0.3, 0.1, True)):
        rates.loc[news, ["best_score", "best_gain"]] = [score, gain]
        rates.to_csv(path, index=False)
        assert main(["figures", "show", "--folder", str(folder)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert (nothing in said) != learned
        assert ("news-intensity none enough" in said) != learned
        assert ("seeds are too few or too noisy" in said) == learned


def test_no_more_training_is_advised_where_all_is_right(folder, capsys):
    table = folder / "figures/table4.csv"
    scores = pd.read_csv(table)
    scores.loc[:3, ["metric", "accuracy", "accuracy_sd"]] = ["accuracy", 1.0, 0.0]
    scores.to_csv(table, index=False)
    rates = pd.read_csv(folder / "figures/table1.csv")
    rates.loc[0, ["metric", "needed_bound", "best_score"]] = ["accuracy", "least", 1.0]
    rates.to_csv(folder / "figures/table1.csv", index=False)
    for scale, advised in ((1.0, False), (0.9, True)):
        for path, column in ((table, "accuracy"), (folder / "figures/table1.csv", "best_score")):
            own = pd.read_csv(path)
            own.loc[own["task"] == "film", column] *= scale
            own.to_csv(path, index=False)
        assert main(["figures", "show", "--folder", str(folder)]) == 0
        told = capsys.readouterr().out
        assert ("still improved" in told) == advised
        film = told.split("film: best accuracy")[1].split("\nnews-intensity")[0]
        assert ("larger sizes" in film) == advised


def test_a_majority_below_chance_is_told_with_chance(folder, capsys):
    table = folder / "figures/table4.csv"
    own = {"task": "news-intensity", "metric": "accuracy", "method": "full", "n": 512}
    own |= {"accuracy": 0.8, "accuracy_sd": 0.2}
    said = {}
    for chance in (0.7, 0.6):
        scores = pd.DataFrame([own | {"seeds": "0 1", "at_budget": 0, "chance_accuracy": chance}])
        pd.concat([SCORES, scores]).to_csv(table, index=False)
        assert main(["figures", "show", "--folder", str(folder)]) == 0
        said[chance] = " ".join(capsys.readouterr().out.split())
    assert (
        "majority has 0.650 (over all n) and guessing among the classes 0.700; larger" in said[0.7]
    )
    assert "majority has 0.650 (over all n); larger" in said[0.6]
    assert said[0.7].count("guessing among") == 1  # not of the F1 score


def test_a_study_of_one_task_counts_the_papers_claims(folder, capsys):
    table = folder / "figures/table1.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:2]))
    assert main(["figures", "show", "--folder", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "this study: see figures/verdicts.csv" in said
    assert "Short claim" not in said


def test_a_study_without_these_tables_ends_with_its_places(folder, capsys):
    (folder / "figures/verdicts.csv").unlink()
    assert main(["figures", "show", "--folder", str(folder)]) == 0
    assert capsys.readouterr().out == f"figures and tables  {folder / 'figures'}\n"


def test_a_study_that_has_not_run_is_told(tmp_path, capsys):
    assert main(["figures", "show", "--folder", str(tmp_path)]) == 1
    assert f"{tmp_path / 'figures'} does not exist; run the study" in capsys.readouterr().err
