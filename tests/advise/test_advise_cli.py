"""The command that advises from a file of labelled texts."""

import json

import pandas as pd
import pytest
from peft import PeftConfig

from ntktune.__main__ import main
from ntktune.data.pretrained import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder, and a table whose texts repeat some."""
    folder = tmp_path_factory.mktemp("advise")
    random = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24}
    random |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    for name in ("model", "other"):
        write_model({"name": name, "random": random}, folder / name)
    words = ["good", "bad", "fine", "dull", "sharp", "slow"]
    rows = [
        f"{i % 6},a {words[i % 6]} text of number {i},{words[i % 3]},same,{i < 1},{words[i % 2]}"
        for i in range(40)
    ]
    head = "stars,review,kind,alike,rare,even"
    (folder / "reviews.csv").write_text("\n".join([head, *rows]))
    others = [row.replace("text", "tale") for row in rows[:24]]
    others += [*rows[:4], "5,a strange one,strange,same,False,good"]
    (folder / "tales.csv").write_text("\n".join([head, *others]))
    (folder / "good.csv").write_text("\n".join([head, *others[:1], *others[6:7]]))
    (folder / "repeated.csv").write_text("\n".join([head, *rows[:30], *rows[:8]]))
    return folder


@pytest.fixture
def advise(folder, capsys):
    """Run the command; return its exit status, what it prints, and what it says."""

    def run(*more, data="reviews.csv", models=("model",)):
        words = ["--data", str(folder / data), "--text-column", "review", "--device", "cpu"]
        words += ["--model", *(str(folder / name) for name in models)]
        status = main(["advise", *words, *more])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("label", "metric"),
    [
        (["stars"], "Pearson r"),
        (["kind", "--classes"], "accuracy"),
        (["kind", "--classes", "good", "bad"], "accuracy"),
    ],
)
def test_scores_two_and_three_classes_are_advised(advise, label, metric):
    status, printed, said = advise("--label-column", *label, "--target", ".5", ".999")
    assert status == 0, said
    lines = printed.splitlines()
    assert lines[0] == "reviews: 40 labelled texts, model, a text being the last token" or (
        lines[0].startswith("reviews: ") and "bad" in label
    )
    assert lines[1].startswith(f"{metric} that the kernel predicts")
    assert "the head alone" in lines[4]
    assert any(line.startswith(f"  {metric} 0.999: ") for line in lines)
    assert any("too few to rely on this" in line for line in lines)
    assert any(line.startswith("  LoRA's layers: ") for line in lines)


def test_the_folder_holds_all_of_it(advise, folder, tmp_path):
    out = tmp_path / "advice"
    status, printed, said = advise(
        "--label-column", "stars", "--out", str(out), "--most", "90", "--target", ".999"
    )
    assert status == 0, said
    assert f"wrote {out}" in said
    assert {path.name for path in out.iterdir()} == {
        *("advice.json", "advice.png", "advice.html", "adapter")
    }
    text = (out / "advice.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)["models"][0]  # no Infinity
    assert found["n_for"]["0.999"][-1] is None
    assert found["texts"] == 40
    assert {*found["at"]} == {"probe", "lora", "full"}
    assert max(map(int, found["at"]["full"])) == 140  # the next hundred
    assert all(low <= value <= high for low, value, high in found["at"]["full"].values())
    page = (out / "advice.html").read_text()
    assert "data:image/png;base64," in page
    assert printed.splitlines()[0] in page
    assert "http" not in page
    assert PeftConfig.from_pretrained(str(out / "adapter")).target_modules
    before = (out / "advice.json").stat().st_mtime_ns
    assert advise("--label-column", "stars", "--out", str(out))[0] == 0  # its own folder again
    assert (out / "advice.json").stat().st_mtime_ns > before


def test_several_models_are_compared(advise, folder):
    status, printed, _ = advise("--label-column", "stars", models=("model", "other"))
    assert status == 0
    assert printed.count("that the kernel predicts") == 2
    assert " the highest predicted score now" in printed.splitlines()[-1]
    status, _, said = advise("--label-column", "stars", models=("model", "model"))
    assert (status, "more than once" in said) == (1, True)


def test_a_model_that_does_not_fit_stays_in_its_files(advise, monkeypatch):
    told = [advise("--label-column", "stars")]
    monkeypatch.setattr("ntktune.network.models.free_bytes", lambda device: 10_000)
    told.append(advise("--label-column", "stars"))
    assert [status for status, _, _ in told] == [0, 0]
    assert told[0][1] == told[1][1]
    assert ["they stay in their files" in said for _, _, said in told] == [False, True]


def test_repeated_texts_count_once(advise):
    status, printed, said = advise("--label-column", "stars", data="repeated.csv")
    assert status == 0, said
    assert printed.startswith("repeated: 30 labelled texts")
    assert "38" in said


def test_labels_that_are_all_alike_are_one_line(advise, folder, tmp_path):
    status, _, said = advise("--label-column", "alike", "--classes")
    assert status == 1
    assert said.splitlines()[-1].startswith("ntktune advise: error: ")
    path = folder / "files"
    path.mkdir()
    (path / "other").write_text("")
    status, _, said = advise("--label-column", "stars", "--out", str(path))
    assert (status, "which would be lost" in said) == (1, True)


def test_the_usual_command_needs_no_name(capsys):
    for words in (["advise", "--help"], ["advise", "pilot", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert "--target" in capsys.readouterr().out


@pytest.mark.parametrize("label", [["stars"], ["kind", "--classes"]])
def test_short_trainings_shift_the_scores_of_their_method(advise, label, tmp_path):
    words = ["--label-column", *label, "--calibrate", "lora", "--learning-rate", "0.01"]
    status, printed, said = advise(*words, "--out", str(tmp_path / "advice"), data="repeated.csv")
    assert status == 0, said
    assert "LoRA, trained twice on 12 labels: " in printed  # of 15, of 30 different texts
    found = json.loads((tmp_path / "advice/advice.json").read_text())["models"][0]["calibrated"]
    assert (found["method"], found["labels"], len(found["steps"])) == ("lora", 12, 2)
    assert {"trained", "kernel", "shift", "spread", "equivalent"} <= {*found}


@pytest.mark.parametrize(
    ("label", "left"), [(["stars"], 4), (["kind", "--classes"], 5), (["even", "--classes"], 4)]
)
def test_scores_are_those_of_a_test_set(advise, folder, label, left, tmp_path):
    words = ["--label-column", *label, "--out", str(tmp_path / "advice")]
    status, printed, said = advise(*words)
    assert status == 0, said
    alone = json.loads((tmp_path / "advice/advice.json").read_text())["models"][0]
    status, printed, said = advise(*words, "--test-data", str(folder / "tales.csv"))
    assert status == 0, said
    assert f"{left} of 29 texts left out: they are among those of --data, or of other" in said
    assert "of texts like those of tales.csv; real" in printed
    found = json.loads((tmp_path / "advice/advice.json").read_text())["models"][0]
    tested = found["test"]
    assert tested["texts"] == 29 - left
    for method, measured in tested["measured"].items():
        assert found["at"][method]["40"][1] == pytest.approx(measured, abs=0.011)  # .99 at most
        assert tested["predicted"][method] == pytest.approx(alone["at"][method]["40"][1], rel=1e-3)
    assert found["layers"] == alone["layers"]  # chosen without the test set
    stops = [one["theory_stop"]["full"] or {"eta": 0} for one in (alone, found)]  # no noise: none
    assert stops[1]["eta"] == pytest.approx(stops[0]["eta"], rel=1e-2)
    assert alone["test"] is None


def test_a_test_set_of_one_label_is_one_line(advise, folder):
    words = ["--label-column", "stars", "--test-data", str(folder / "good.csv")]
    status, _, said = advise(*words)
    assert status == 1
    assert "good.csv: the 2 texts that can be used have one label alone; give others" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target", "90"], "--target 90: give a score above 0, and 1 at most"),
        (["--target", "nan"], "--target nan: give"),
        (["--least-gain", "0"], "--least-gain 0: give"),
        (["--cost-per-label", "-1"], "--cost-per-label -1: give 0 or more"),
        (["--learning-rate", ".1"], "--learning-rate is that of --calibrate, which is missing"),
        (["--calibrate", "lora", "--learning-rate", "-1"], "--learning-rate is -1.0"),
        (["--rows", "11"], "11 different texts; give 12 or more"),
        (["--most", "9" * 400], "give 1,000,000,000 or fewer"),
        (["--most", "40"], "the most labels are 40; give more than the 40"),
        (
            ["--calibrate", "lora", "--classes"],
            "half of the 40 texts would train on one label alone",
        ),
        (
            ["--calibrate", "lora", "--classes", "--rows", "12"],
            "--calibrate lora: half of the 12 texts would be stopped by one label alone",
        ),
    ],
)
def test_what_cannot_be_advised_is_told_before_the_kernel(advise, words, told, monkeypatch):
    monkeypatch.setattr("ntktune.cli.advise._kernels", pytest.fail)
    label = "stars"
    if "--classes" in words:
        label = "even" if "--rows" in words else "rare"
    status, _, said = advise("--label-column", label, *words)
    assert status == 1
    assert told in said
    assert said.splitlines()[-1].startswith("ntktune advise: error: ")


def test_classes_without_a_text_are_told(advise):
    words = ["--label-column", "kind", "--classes", "good", "bad", "fine"]
    status, printed, said = advise(*words, "--rows", "20")
    assert status == 0, said
    assert "classes with fewer than 10 texts" in printed


@pytest.fixture
def curves(tmp_path, capsys):
    """Write a CSV of measured curves and judge them; return the status, and what is said."""

    def run(text, *more):
        path = tmp_path / "curves.csv"
        path.write_text(text)
        status = main(["advise", "curves", "--data", str(path), "--pilots", "100", *more])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("value", ["score", "loss"])
def test_measured_curves_are_judged(curves, value, tmp_path):
    sizes = (50, 100, 200, 400, 800)
    rows = [
        f"m,{task},{n},{loss if value == 'loss' else 1 - loss:.5f}"
        for task, slope in (("x", 0.2), ("y", 0.3))
        for n, loss in ((0, 1.0), *((n, n**-slope) for n in sizes))
    ]
    out = tmp_path / "judged.parquet"
    text = "\n".join([f"model,task,n,{value}", *rows])
    status, printed, said = curves(text, "--out", str(out))
    assert status == 0, said
    table = pd.read_parquet(out).set_index("way")
    assert table.loc["power law", "off"] == pytest.approx(0, abs=1e-4)
    assert table.loc["last score", "off"] > 0.1
    assert table.loc["last score", "gain_octaves"] > 1
    lines = printed.splitlines()
    assert lines[0].split()[:3] == ["pilot", "way", "off"]
    assert any("power law" in line for line in lines)
    assert any(line.startswith("wasted: labels asked for beyond") for line in lines)
    assert said == f"wrote {out}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model,task,n\nm,x,1", "has no column score; it has model, task, n"),
        ("model,task,n,score\nm,x,100,.5\nm,x,200,2", "row 3 is "),
        ("model,task,n,score\nm,x,100,.5\nm,x,many,.6", "row 3 is "),
        ("model,task,n,score\nm,x,100,.5\nm,x,100,.6", "row 3: this n of this curve has stood"),
        ("model,task,n,score\nm,x,200,.5\nm,x,400,.6", "no curve has samples up to and beyond"),
        ("model,task,n,score", "no curve has samples"),
        ("model,task,n,score,loss\nm,x,100,.5,.5", "has the columns score and loss; leave one"),
        (
            "model,task,n,score\nm,x,100,.5\nm,x,200,2",
            "row 3 is m, x, 200, 2.0; model and task must",
        ),
        ("model,task,n,score\nm,x,100,.5\nm,,200,.6", "row 3 is m, , 200, 0.6; model"),
        ("model,task,n,score\nm,x,100,.5\nm,x,200,.6,7,8", "Expected 4 fields in line 3, saw 6"),
    ],
)
def test_what_are_no_curves(curves, text, told):
    status, _, said = curves(text)
    assert (status, said.count("\n")) == (1, 1)
    assert told in said


def test_a_name_may_be_na_and_a_loss_0(curves):
    rows = [f"NA,{task},{n},{loss}" for task in "xy" for n, loss in ((50, 1), (100, 0.5), (200, 0))]
    status, printed, said = curves("\n".join(["model,task,n,loss", *rows]))
    assert status == 0, said
    assert "inf" not in printed
    assert "nan" not in printed


def test_no_output_replaces_what_is_read_and_none_is_below_a_file(curves, tmp_path):
    text = "model,task,n,score\nm,x,50,.5\nm,x,100,.6\nm,x,200,.7"
    path = tmp_path / "curves.csv"
    for out, told in (
        (path, f"--out {path} would replace --data {path}, which is read; choose another"),
        (path / "table.parquet", f"{path} is a file, not a folder"),
    ):
        status, _, said = curves(text, "--out", str(out))
        assert (status, said.count("\n")) == (1, 1)
        assert told in said
        assert path.read_text() == text
