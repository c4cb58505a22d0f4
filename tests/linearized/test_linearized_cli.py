"""``ntktune linearized layers``: which layers to train, from one file and a model folder."""

import pytest
from peft import PeftConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from ntktune.__main__ import main
from ntktune.data.pretrained import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plain model folder and a table of its own making."""
    folder = tmp_path_factory.mktemp("layers")
    random = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24}
    random |= {"num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 64}
    write_model({"name": "tiny", "random": random}, folder / "model")
    words = ["good", "bad", "fine", "dull", "sharp", "slow"]
    rows = [f"{i % 6},a {words[i % 6]} text of number {i},{words[i % 3]}" for i in range(40)]
    (folder / "reviews.csv").write_text("\n".join(["stars,review,kind", *rows]))
    return folder


@pytest.fixture
def layers(folder, capsys):
    """Run the command; return its exit status, what it prints, and what it says."""

    def run(*more):
        words = ["--model", str(folder / "model"), "--data", str(folder / "reviews.csv")]
        words += [
            "--text-column",
            "review",
            "--rows",
            "16",
            "--max-tokens",
            "40",
            "--device",
            "cpu",
        ]
        status = main(["linearized", "layers", *words, *more])
        return status, *capsys.readouterr()

    return run


def table(printed):
    lines = [line.split() for line in printed.split("\n\n")[1].splitlines()[1:]]
    return {line[0]: line[1:] for line in lines}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(
    "label", [["stars"], ["kind", "--classes"], ["kind", "--classes", "good", "bad"]]
)
def test_the_sets_are_ranked_by_the_error_they_predict(layers, method, label):
    status, printed, said = layers("--method", method, "--label-column", *label)
    assert status == 0, said
    found = table(printed)
    blocks = ["block0", "block1", "block2"]
    assert {*found} == {"all", "attention", "mlp", *blocks, "first2", "last2"}
    errors = [float(row[1]) for row in found.values()]
    assert errors == sorted(errors)
    assert 0 < errors[0] < 2  # the labels' variance is the unit
    counts = {name: int(row[0].replace(",", "")) for name, row in found.items()}
    assert counts["all"] == counts["attention"] + counts["mlp"] == 3 * counts["block1"]
    assert counts["all"] == 3 * (8 * (8 * 16 + 3 * (16 + 24)) if method == "lora" else 2176)


def test_peft_loads_the_best_sets_adapters(layers, folder, tmp_path):
    out = tmp_path / "best"
    options = ("--lora-rank", "4", "--lora-alpha", "6", "--lora-rslora", "--out", str(out))
    status, printed, said = layers("--label-column", "stars", *options)
    assert status == 0, said
    trained = next(iter(table(printed).values()))[0]
    config = PeftConfig.from_pretrained(out)
    assert (config.r, config.lora_alpha, config.use_rslora) == (4, 6, True)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1)
    adapted = get_peft_model(model, config)
    count = sum(p.numel() for name, p in adapted.named_parameters() if ".lora_" in name)
    assert count == int(trained.replace(",", ""))
    # and it trains the head
    assert any(p.requires_grad for name, p in adapted.named_parameters() if "score" in name)


def test_labels_that_are_all_alike_are_told(layers, folder):
    rows = (folder / "reviews.csv").read_text().splitlines()
    lines = [line if i == 0 else "3," + line.split(",", 1)[1] for i, line in enumerate(rows)]
    (folder / "same.csv").write_text("\n".join(lines))
    status, _, said = layers("--label-column", "stars", "--data", str(folder / "same.csv"))
    assert status == 1
    assert "all 16 rows have the same label" in said
