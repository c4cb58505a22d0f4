"""The account on paper: counted by hand for one layer, and told by the command."""

import pytest

from ntktune.__main__ import main
from ntktune.errors import UserError
from ntktune.kernel.account import account
from ntktune.network.models import block_list

NUMBERS = 4  # bytes of one


def test_counted_by_hand(tiny):
    backbone = tiny("llama").backbone  # D 32, mlp 48, key and value 16, two blocks
    found = account(backbone, list(block_list(backbone)), [3, 5])
    layers = 2 * [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    products = 2 * 8 * sum(a * b for a, b in layers)
    attention = 4 * (9 + 25) * 32 * 2
    assert found.tokens == 8
    assert found.parameters == sum(p.numel() for p in backbone.parameters())
    assert found.forward == products + attention
    assert found.backward == products + 2 * attention
    # token pairs of 8 tokens: one tile of 8 x 8, two products of d_in and of d_out terms
    assert found.gram == sum(min(2 * 8 * 8 * (a + b), 2 * (8 + 4) * a * b) for a, b in layers)
    assert found.weights == NUMBERS * found.parameters
    # captures of both blocks fit at once: no block's input is kept
    assert found.kept == 0
    assert found.captured == 1.5 * NUMBERS * 8 * sum(a + b for a, b in layers)
    gradients, graph = 2 * 32 * 48, 2 * 8 * sum(a + b for a, b in layers)
    grams = 2 * 8 * 2 * 2 * (2 * 2 + 3)
    assert found.working == 256 * 2**20 + NUMBERS * (gradients + graph) + grams
    assert found.check == NUMBERS * 2 * found.parameters
    assert found.jacobian == NUMBERS * 2 * found.parameters
    # the first text is the only column: it runs again, and its products are a column
    column = account(backbone, list(block_list(backbone)), [3, 5], columns=1)
    assert column.tokens == 8 + 3
    assert column.gram == sum(
        min(2 * 2 * 8 * 3 * (a + b) / 2, 2 * (8 + 3 + 2) * a * b) for a, b in layers
    )
    assert found.peak == sum(
        (found.weights, found.kept, found.captured, found.working, found.check)
    )
    # of more tokens one block's at a time, beside all blocks' inputs
    long = account(backbone, list(block_list(backbone)), [2**18])
    assert long.forward > 2 * 2 * 2**18 * sum(a * b for a, b in layers)
    assert long.kept == NUMBERS * 2**18 * 32 * 2
    assert long.captured == 1.5 * NUMBERS * 2**18 * sum(a + b for a, b in layers) // 2
    assert found.flops == found.forward + found.backward + found.gram
    # 77 outputs are computed one after the other: the work of each, one more Gram
    many = account(backbone, list(block_list(backbone)), [3, 5], 77)
    assert many.flops == pytest.approx(77 * found.flops)
    assert many.peak == found.peak + grams // 2


def test_no_weights_are_needed_for_it(tiny, tmp_path, capsys):
    backbone = tiny("gpt2").backbone
    backbone.config.save_pretrained(tmp_path)
    flags = ["--examples", "2", "--lengths", "3", "5", "--tflops", "1"]
    assert main(["kernel", "plan", "--model", str(tmp_path), *flags]) == 0
    said = capsys.readouterr().out
    found = account(backbone, list(block_list(backbone)), [3, 5])
    assert f"together {found.flops:.2e}" in said
    assert "2 texts, 8 tokens" in said
    assert "at 1.00 TFLOP/s" in said
    assert main(["kernel", "plan", "--model", str(tmp_path), *flags[:-2], "--blocks", "1"]) == 0
    capsys.readouterr()
    assert main(["kernel", "plan", "--model", str(tmp_path), *flags, "--classes", "77"]) == 0
    assert f"together {77 * found.flops:.2e}" in capsys.readouterr().out


def test_a_plan_says_where_the_weights_will_be(tiny, tmp_path, capsys, monkeypatch):
    backbone = tiny("gpt2").backbone
    backbone.config.save_pretrained(tmp_path)
    found = account(backbone, list(block_list(backbone)), [3, 5])
    assert found.block == 4 * max(sum(p.numel() for p in b.parameters()) for b in backbone.h)
    assert found.streamed_peak < found.peak
    flags = ["--examples", "2", "--lengths", "3", "5", "--tflops", "1"]
    plan = ["kernel", "plan", "--model", str(tmp_path), *flags]
    assert main(plan) == 0
    said = capsys.readouterr().out
    assert "\nweights  in memory: they fit" in said
    assert " GB/s" not in said  # there are no files
    backbone.save_pretrained(tmp_path)
    monkeypatch.setattr("ntktune.cli.kernel.free_bytes", lambda device: found.weights)
    assert main(plan) == 0
    said = capsys.readouterr().out
    assert "\nweights  in their files: they do not fit" in said
    assert " GB/s" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lengths", "5", "3"], "--lengths 5 3: give 1 example or more"),
        (["--examples", "0"], "--examples 0"),
        (["--tflops", "0"], "--tflops is 0.0"),
        (["--classes", "1"], "--classes is 1; a task has 2 or more"),
        (
            ["--blocks", "9"],
            "9 blocks are asked for (model.blocks, --blocks), but this model has 2",
        ),
        (["--tflops", "inf"], "--tflops is inf"),
        (["--lengths", "10", "99"], "--lengths 10 99: this model has 32 positions"),
    ],
)
def test_mistakes(flags, message, tiny, tmp_path, capsys):
    tiny("gpt2").backbone.config.save_pretrained(tmp_path)
    assert main(["kernel", "plan", "--model", str(tmp_path), *flags]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_a_model(tmp_path, capsys):
    assert main(["kernel", "plan", "--model", str(tmp_path)]) == 1
    assert f"{tmp_path} is no model folder: config.json is missing" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    assert main(["kernel", "plan", "--model", str(tmp_path)]) == 1
    assert "config.json cannot be read" in capsys.readouterr().err


def test_no_examples(tiny):
    backbone = tiny("gpt2").backbone
    for lengths in ([], [3, 0]):
        with pytest.raises(UserError, match="texts of one token or more"):
            account(backbone, list(block_list(backbone)), lengths)
