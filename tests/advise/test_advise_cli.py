"""The command that advises from a file of labelled texts."""

import json

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
    rows = [f"{i % 6},a {words[i % 6]} text of number {i},{words[i % 3]},same" for i in range(40)]
    head = "stars,review,kind,alike"
    (folder / "reviews.csv").write_text("\n".join([head, *rows]))
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
    assert lines[0].startswith("reviews: ")
    assert lines[1].startswith(f"{metric} that the kernel predicts")
    assert "the head alone" in lines[4]
    assert any(line.startswith(f"  {metric} 0.999: ") for line in lines)
    assert any("too few to rely on this" in line for line in lines)


def test_the_folder_holds_all_of_it(advise, folder, tmp_path):
    out = tmp_path / "advice"
    status, printed, said = advise(
        "--label-column", "stars", "--out", str(out), "--most", "90", "--target", "2"
    )
    assert status == 0, said
    assert f"wrote {out}" in said
    assert {path.name for path in out.iterdir()} == {
        *("advice.json", "advice.png", "advice.html", "adapter")
    }
    text = (out / "advice.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)["models"][0]  # no Infinity
    assert found["n_for"] == {"2": [None] * 3}
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
    assert printed.splitlines()[-1].endswith(" has the highest predicted score now")
    status, _, said = advise("--label-column", "stars", models=("model", "model"))
    assert (status, "more than once" in said) == (1, True)


def test_repeated_texts_count_once(advise):
    status, printed, said = advise("--label-column", "stars", data="repeated.csv")
    assert status == 0, said
    assert printed.startswith("repeated: 30 labelled texts")
    assert "38" in said


def test_labels_that_are_all_alike_are_one_line(advise, folder, tmp_path):
    status, _, said = advise("--label-column", "alike", "--classes")
    assert status == 1
    assert said.splitlines()[-1].startswith("ntktune advise pilot: error: ")
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
    assert "LoRA, trained on halves of 15 labels: " in printed  # of 30 different texts
    assert "--calibrate tries some" not in printed
    found = json.loads((tmp_path / "advice/advice.json").read_text())["models"][0]["calibrated"]
    assert (found["method"], found["labels"], len(found["steps"])) == ("lora", 15, 2)
    assert {"trained", "kernel", "shift", "spread", "equivalent"} <= {*found}
