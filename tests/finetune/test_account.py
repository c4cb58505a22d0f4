"""The account on paper against what PyTorch counts, and told by the command."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ntktune.__main__ import main
from ntktune.cli import finetune as cli
from ntktune.errors import UserError
from ntktune.finetune.account import (
    Cost,
    Shape,
    architecture,
    forward_flops,
    kernel_rate,
    memory,
    plan_text,
    training_cost,
    training_rate,
)
from ntktune.finetune.repeats import fine_tuned_repeats, seed_split
from ntktune.finetune.training import Lora
from ntktune.kernel.account import account as kernel_account
from ntktune.network.models import (
    TextModel,
    block_list,
    cut_configuration,
    described_configuration,
    skeleton,
)
from ntktune.store.records import write_json
from ntktune.store.tensors import write_tensors

CPU = torch.device("cpu")
ARCHITECTURES = {
    "llama": {
        "model_type": "llama",
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 2,
        "attn_implementation": "eager",
    },
    "gpt_neo": {
        "model_type": "gpt_neo",
        "vocab_size": 60,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 64,
        "window_size": 8,
        "pad_token_id": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}


def model_of(kind):
    from transformers import AutoModel

    config = described_configuration(ARCHITECTURES[kind])
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config).eval()
    backbone.config.use_cache = False
    return config, TextModel(backbone, 1, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kind", "checkpointing"), [("llama", False), ("gpt_neo", True)])
def test_flops_are_those_that_pytorch_counts(
    kind, checkpointing, examples, subsets, settings, monkeypatch
):
    monkeypatch.setattr(
        "ntktune.network.matmul.ONEDNN", None
    )  # whose products PyTorch does not count
    data = examples()
    config, model = model_of(kind)
    tuning = settings(max_epochs=5, patience=None, checkpointing=checkpointing)
    with FlopCounterMode(display=False) as counter:
        (repeat,) = fine_tuned_repeats(model, data, subsets, 20, tuning, 5, [0])
    lengths = [len(ids) for ids in data.ids]
    train, holdout = ([lengths[i] for i in part] for part in seed_split(data, subsets, 20, 0))
    test = [lengths[i] for i in subsets["test"]]
    found = training_cost(architecture(config), train, holdout, test, tuning, CPU)
    assert found.steps == repeat.training.steps == 20
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("kind", "batch"), [("llama", 1), ("gpt_neo", 12)])
def test_the_rate_of_steps_is_flops_by_time(kind, batch, method, settings, monkeypatch):
    """On a clock that PyTorch's own count of FLOPs drives, the rate is one FLOP per second."""
    monkeypatch.setattr("ntktune.network.matmul.ONEDNN", None)
    config = described_configuration(ARCHITECTURES[kind])
    tuning = settings(method=method, batch_size=batch, lora=Lora(rank=1))
    with FlopCounterMode(display=False) as counter:
        clock = SimpleNamespace(process_time=lambda: float(counter.get_total_flops()))
        monkeypatch.setattr("ntktune.network.matmul.time", clock)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        how = ([20] * 30, CPU, torch.float32)
        assert training_rate(config, tuning, *how, 1e12) == pytest.approx(1, rel=0.25)
    # where one text would take long, and for a head alone, nothing is timed
    monkeypatch.setattr("ntktune.finetune.account.fine_tune", pytest.fail)
    assert training_rate(config, tuning, *how, 10.0) == 10.0
    assert training_rate(config, settings(method="probe"), *how, 1e12) == 1e12


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_rate_of_kernels_is_flops_by_time(kind, monkeypatch):
    config, texts = described_configuration(ARCHITECTURES[kind]), []
    monkeypatch.setattr(
        "ntktune.finetune.account.gram", lambda model, some, check: texts.append(len(some))
    )
    monkeypatch.setattr(
        "ntktune.finetune.account.seconds_alone", lambda work, device: work() or 2.0
    )
    rate = kernel_rate(config, [10, 14], CPU, 1e12)
    probe = config.__class__(**config.to_dict() | {"vocab_size": 64})
    backbone = skeleton(cut_configuration(probe, 2))
    counted = kernel_account(backbone, block_list(backbone), [12] * 32).flops
    assert texts == [2, 32]
    assert rate == pytest.approx(counted / 2)
    assert kernel_rate(config, [10, 14], CPU, 10.0) == 10.0  # two texts would take long
    assert texts == [2, 32]


def test_flops_counted_by_hand():
    shape = Shape(1000, 30, 10, 8, 2, dense=100.0, read=40.0, mixing=32.0, kept=(0.0, 0.0, 0.0))
    # 3 texts of 5 tokens: every token, the read tokens, attention, head
    expected = 2 * 15 * 100 + 2 * 3 * 40 + 2 * 3 * 25 * 32 + 2 * 3 * 8
    assert forward_flops(shape, 3, 5) == expected


def kept_by_training(model, count, length):
    """Return the bytes that a pass keeps beside the weights, as autograd is asked to."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def look(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(3, 60, (count, length), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        found = model(ids, torch.ones_like(ids))
    assert found.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_memory_of_a_pass_is_what_autograd_keeps(kind, settings):
    config, model = model_of(kind)
    shape = architecture(config)
    for largest in ((1, 40), (4, 20)):
        found = memory(shape, largest, 60, settings()).activations
        assert found == pytest.approx(kept_by_training(model, *largest), rel=0.15)
    # a checkpointed pass keeps one block's, and the inputs of all
    once = memory(shape, (4, 20), 60, settings(checkpointing=True)).activations
    inputs = 4 * 32 * 80 * shape.blocks
    fixed = shape.kept[0] * shape.blocks
    assert once == pytest.approx(inputs + fixed + (found - fixed) / shape.blocks, rel=1e-6)


def test_memory_in_other_precisions():
    config, _ = model_of("llama")
    single, double = (architecture(config, dtype=d).kept for d in (torch.float32, torch.float64))
    assert double[1] == pytest.approx(2 * single[1], rel=0.1)
    mixed = architecture(config, torch.bfloat16).kept
    layers = 32 * (32 + 16 + 16 + 32) + 3 * 32 * 64  # a block's linear layers
    assert mixed[0] == pytest.approx(2 * layers, rel=0.05)  # their copies in bfloat16


def test_short_positions_and_foreign_kinds_of_network():
    short = ARCHITECTURES["gpt_neo"] | {"max_position_embeddings": 24}
    found = architecture(described_configuration(short))
    usual = architecture(described_configuration(ARCHITECTURES["gpt_neo"]))
    assert found.kept[1] == pytest.approx(usual.kept[1], rel=0.05)
    with pytest.raises(UserError, match="bart is an encoder-decoder"):
        architecture(described_configuration({"model_type": "bart"}))
    with pytest.raises(UserError, match="cost of a model of type vit cannot be counted: "):
        architecture(described_configuration({"model_type": "vit", "num_hidden_layers": 1}))


def test_memory_of_weights_and_their_copies(settings):
    shape = Shape(1000, 30, 10, 10, 2, dense=1.0, read=0.0, mixing=1.0, kept=(8.0, 2.0, 1.0))
    found = memory(shape, (2, 5), rows=20, settings=settings())
    trained = 1000 - 300 + 20 * 10
    assert (found.weights, found.gradients, found.optimizer) == (4000, 4 * trained, 8 * trained)
    assert (found.best_weights, found.start_weights) == (4 * trained, 4 * trained)
    assert found.activations == 2 * (8 + 2 * 10 + 2 * 25)
    assert found.together == 4000 + 20 * trained + found.activations
    # no more rows than the table has
    assert memory(shape, (2, 5), rows=99, settings=settings()).gradients == 4000


def study(tmp_path, **changes):
    """Write a configuration of a study that is not fetched yet, and return its path."""
    config = {
        "study": "planned",
        "device": "cpu",
        "chapters": ["data", "finetune", "taskvectors", "theory", "linearized"],
        "linearized": {"held": ["smoke-regression"]},
        "model": {
            "name": "m",
            "source": {"hub": {"id": "a/b", "revision": "0" * 40}},
            "architecture": ARCHITECTURES["gpt_neo"],
            "blocks": None,
            "max_tokens": 32,
        },
        "tasks": ["smoke-regression", "smoke-classification"],
        "taskvectors": {"tasks": ["smoke-regression", "smoke-classification"], "size": 64},
        "finetune": {"sizes": [32, 64], "seeds": 2, "test_rows": 50, "patience": None}
        | {"max_epochs": 4, "evaluate_every": 3},
    }
    for key, value in changes.items():
        chapter, _, name = key.partition("__")
        config[chapter][name] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return path


def planned(path, *flags):
    return main(["finetune", "plan", "--config", str(path), *map(str, flags)])


def test_a_study_is_planned_before_anything_is_fetched(tmp_path, capsys):
    assert planned(study(tmp_path), "--device-name", "A100-80GB", "--results", tmp_path) == 0
    said = capsys.readouterr().out
    assert said.startswith("study planned: m, float32\n")
    assert "model    2 blocks, " in said
    assert "lengths  of the texts of smoke-classification, smoke-regression: a guess, 4 " in said
    assert (
        f"else 32 tokens, the most there can be; `snakemake data --configfile {tmp_path}/" in said
    )
    assert "less than the 74.5 GiB of one A100-80GB" in said
    assert "n 32: 2 tasks x 2 seeds  at most 12 steps each" in said
    assert "task vectors, n 64: 2 tasks x 3 seeds" in said
    assert "watched, n 32: 2 tasks x 1 seeds  at most 12 steps each" in said
    assert "descent, n 32: 2 tasks x 1 seeds  at most 16 steps each" in said
    # all, attention, mlp and two blocks, three rates, two seeds
    assert "5 sets of layers, n 32: 2 tasks x 30 seeds  at most 12 steps each" in said
    assert "penalties, n 32: 1 task x 22 seeds  at most 12 steps each" in said
    assert "kernels" not in said  # the study lists no such chapter
    total = float(said.split("together ")[-1].split()[0])
    sizes = [line for line in said.splitlines() if " x " in line]
    parts = [float(line.split("FLOPs ")[1].split()[0]) for line in sizes]
    assert total == pytest.approx(sum(parts), rel=0.01)


def test_the_rank_that_is_always_enough_is_told_for_adapters(tmp_path, capsys):
    told = "\nrank     {} of LoRA; from {} on the linearised training of {} examples"
    assert planned(study(tmp_path, finetune__methods=["lora"], finetune__lora={"rank": 4})) == 0
    assert told.format(4, 11, 64) in capsys.readouterr().out  # two classes: one logit difference
    assert planned(study(tmp_path)) == 0  # sets of layers are trained with adapters
    assert told.format(8, 8, 32) in capsys.readouterr().out
    assert planned(study(tmp_path, linearized__method="full")) == 0
    assert "\nrank" not in capsys.readouterr().out


def test_the_rank_is_that_of_the_training_that_needs_most(tmp_path, capsys, monkeypatch):
    classes = {"smoke-classification": 6, "smoke-regression": 2}
    monkeypatch.setattr(cli, "_classes", lambda study, task: classes[task])
    path = study(tmp_path, finetune__methods=["lora"], finetune__sizes=[32], linearized__size=32)
    config = json.loads(path.read_text())
    config["tasks"] = ["smoke-classification", "smoke-regression"]
    config["linearized"] |= {"tasks": ["smoke-regression"]}  # of as many examples
    config["taskvectors"] = {"tasks": []}
    path.write_text(json.dumps(config))
    assert planned(path) == 0
    # 32 examples, six outputs: 20 · 21/2 > 192
    assert "8 of LoRA; from 20 on the linearised training of 32" in capsys.readouterr().out


def test_rows_and_lengths_of_a_file_are_known_before_it_is_fetched(tmp_path, capsys):
    own = study(tmp_path, finetune__test_rows=None)
    task = {"title": "Mine", "kind": "regression", "score_range": [0, 1], "metric": "mse"}
    task |= {"columns": {"text_a": "text", "label": "score"}}
    files = {split: [str(tmp_path / f"{split}.csv")] for split in ("train", "test")}
    for split, count in (("train", 80), ("test", 30)):
        rows = "".join(f"{split} {i:034d},{i % 2}\n" for i in range(count))  # 39, 40 characters
        (tmp_path / f"{split}.csv").write_text(f"text,score\n{rows}")
    (tmp_path / "mine.yaml").write_text(json.dumps(task | {"sources": [{"files": files}]}))
    config = json.loads(own.read_text()) | {"tasks": ["mine"], "task_folders": [str(tmp_path)]}
    config |= {"chapters": ["finetune"], "taskvectors": {"tasks": []}}
    told = []
    for config["finetune"]["test_rows"] in (None, 30, 29):
        own.write_text(json.dumps(config))
        assert planned(own, "--device-name", "A100-80GB", "--results", tmp_path) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] != told[2]
    tells = "of mine: 30 rows; they tell a correlation to ±0.36 or better (95 %); a test file"
    assert tells in told[0]
    shared = "two seeds' samples of 64 share 80% and may leave open how many are needed"
    less = "end earlier, with `finetune: {sizes: [16, 40]}`, or label about 48 more for training "
    less += "(those for testing come on top)"
    assert f"rows     of mine: 80 for training, so that {shared}; {less}\n" in told[0]
    config["finetune"]["sizes"] = [32, 40]
    own.write_text(json.dumps(config))
    assert planned(own, "--device-name", "A100-80GB", "--results", tmp_path) == 0
    assert "rows     of mine" not in capsys.readouterr().out
    # two seeds, four passes over 24 texts of 11 tokens, not of 32, as they may be
    assert f"n 32: 1 task x 2 seeds  at most 12 steps each  tokens {2 * 4 * 24 * 11:,}  " in told[0]


def test_hours_are_those_of_the_studys_own_device(tmp_path, monkeypatch):
    """A study that keeps to the processor is not timed on the machine's GPU."""
    timed = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        "ntktune.network.matmul.measured_rate", lambda device: timed.append(device.type) or 1e12
    )
    for name in ("training_rate", "kernel_rate"):
        monkeypatch.setattr(
            f"ntktune.finetune.account.{name}",
            lambda *how: (
                timed.append(next(d.type for d in how if isinstance(d, torch.device))) or 1.0
            ),
        )
    path = study(tmp_path)
    for device in ("cpu", "auto"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"device": device}))
        assert planned(path, "--results", tmp_path) == 0
    assert timed == [*["cpu"] * 3, *["cuda"] * 3]


def test_a_plan_is_of_the_studys_chapters_and_classes(tmp_path, capsys):
    """Without the grid only kernels are counted, of as many classes as the file has."""
    task = {"title": "Mine", "kind": "classification", "columns": {"text_a": "t", "label": "c"}}
    files = {split: str(tmp_path / f"{split}.csv") for split in ("train", "test")}
    task["sources"] = [{"files": files}]
    config = json.loads(study(tmp_path).read_text())
    config |= {"tasks": ["mine"], "task_folders": [str(tmp_path)], "taskvectors": {}}
    config |= {"chapters": ["kernel"], "kernel": {"rows": 20, "learning_seeds": 0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.yaml").write_text(json.dumps(task))
    told = {}
    for classes in (2, 6):
        for split, path in files.items():
            rows = "".join(f"{split} text {i},class {i % classes}\n" for i in range(90))
            Path(path).write_text(f"t,c\n{rows}")
        assert planned(tmp_path / "config.json", "--device-name", "A10", "--results", tmp_path) == 0
        told[classes] = capsys.readouterr().out
    assert "seeds" not in told[2]
    assert "memory" not in told[2]
    flops = {
        k: float(said.split("kernels of 20 texts (kernel.draws)")[1].split("FLOPs ")[1].split()[0])
        for k, said in told.items()
    }
    assert flops[6] > 4 * flops[2]


def test_a_plan_counts_the_kernels_too(tmp_path, capsys):
    path = study(tmp_path)
    how = {"draws": 4, "rows": 20, "learning_rows": 32, "learning_seeds": 2}
    config = json.loads(path.read_text()) | {"chapters": ["kernel", "finetune"], "kernel": how}
    path.write_text(json.dumps(config))
    assert planned(path, "--device-name", "A100-80GB", "--results", tmp_path) == 0
    said = capsys.readouterr().out
    # of 20 texts; of 32 and the 50 test rows with these 32
    subset = "32 texts and all test rows (kernel.learning_seeds)"
    for name, count, texts, again in (("20 texts (kernel.draws)", 4, 20, 0), (subset, 2, 82, 32)):
        tokens = 2 * count * (texts + again) * 32
        told = f"kernels of {name}: 2 tasks x {count}  tokens {tokens:,}  "
        flops = float(said.split(told + "FLOPs ")[1].split()[0])
        backbone = skeleton(described_configuration(ARCHITECTURES["gpt_neo"]))
        one = kernel_account(backbone, block_list(backbone), [32] * texts, columns=again or None)
        assert flops == pytest.approx(2 * count * one.flops, rel=0.01)


def test_kernels_are_no_faster_for_mixed_trainings():
    shape = architecture(described_configuration(ARCHITECTURES["gpt_neo"]))
    hour = {
        "n 32": Cost(9, 1, 3600 * 312e12, (1, 1)),
        "kernels": Cost(0, 1, 3600 * 19.5e12, (1, 1)),
    }
    rows = [(name, 2, [cost]) for name, cost in hour.items()]
    said = plan_text(shape, {}, rows, "A100-80GB", 1.0, None, mixed=True).splitlines()
    assert [line.split("  ")[-1] for line in said[-3:-1]] == ["2.00 h", "2.00 h"]
    assert (
        "FLOPs, 4.00 h for the whole study, what is made already included, on one A100-80GB at "
        "100% of its peak speed" in said[-1]
    )
    for speed, advised in ((312e12, True), (313e13, False)):  # here: an hour each or less
        told = plan_text(shape, {}, rows, None, 1.0, (speed, speed), mixed=True)
        assert ("\nless     fewer `model.blocks`" in told) == advised


def test_a_study_whose_data_are_there_is_planned_with_its_texts(tmp_path, capsys):
    path = study(tmp_path, finetune__sizes=[32], taskvectors__size=32)
    assert planned(path, "--results", tmp_path, "--device-name", "H100") == 0
    longest = capsys.readouterr().out
    fetched = tmp_path / "data" / "model"
    described_configuration(ARCHITECTURES["gpt_neo"]).save_pretrained(fetched)
    write_json(fetched / "model.json", {"name": "m", "sha256": "beef"}, {})
    for task in ("smoke-regression", "smoke-classification"):
        folder = tmp_path / "data" / task
        tensors = {
            "ids": torch.arange(90 * 8).remainder(50).int(),
            "offsets": torch.arange(91) * 8,
        }
        tensors |= {name: torch.zeros(90) for name in ("label", "label_noise", "is_test")}
        order = {"order": list(range(40)), "holdout": [i % 4 == 0 for i in range(40)]}
        drawn = {"holdout_fraction": 0.25, "seeds": [order], "test": list(range(40, 90))}
        facts = {"data_sha256": task, "task": {"name": task}, "model": {"sha256": "beef"}}
        write_tensors(folder / "tokens.safetensors", tensors, facts)
        write_json(folder / "subsets.json", drawn, {"data_sha256": task})
    assert planned(path, "--results", tmp_path, "--device-name", "H100") == 0
    said = capsys.readouterr().out
    assert "lengths  of" not in said
    # 8 tokens each instead of 32: a quarter of the linear layers' work, less of attention's
    flops = [float(text.split("together ")[-1].split()[0]) for text in (said, longest)]
    assert 0.15 < flops[0] / flops[1] < 0.25
    assert planned(path, "--results", tmp_path) == 0
    assert (
        "min for the whole study, what is made already included, on this machine with nothing "
        "beside it, as timed now, " in capsys.readouterr().out
    )


def test_a_reader_that_goes_away_gets_no_traceback(tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-m", "ntktune", "finetune", "plan", "--config", str(study(tmp_path))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    job.stdout.close()
    assert job.stderr.read() == ""
    assert job.wait() == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--share", "0"], "--share is 0.0; it must be above 0 and at most 1"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--results", "nowhere"], "--results nowhere is no folder"),
    ],
)
def test_mistakes(flags, message, tmp_path, capsys):
    assert planned(study(tmp_path), *flags) == 1
    assert message in capsys.readouterr().err


def test_an_unknown_architecture(tmp_path, capsys):
    path = study(tmp_path, model__architecture=None)
    assert planned(path, "--results", tmp_path) == 0
    told = capsys.readouterr().out
    assert told.startswith("hours    not known before model m is there: run `snakemake fetch ")
    assert f"fetch --configfile {path} --cores 1`, then" in told
    path = study(tmp_path, model__architecture={"model_type": "nothing"})
    assert planned(path, "--results", tmp_path) == 1
    assert "the configuration {'model_type': 'nothing'} cannot be read" in capsys.readouterr().err
    assert planned(study(tmp_path, model__max_tokens=None), "--results", tmp_path) == 0
    assert "else 64 tokens, the most there can be; " in capsys.readouterr().out
    path = study(tmp_path, model__max_tokens=65)
    assert planned(path, "--results", tmp_path) == 1
    assert "max_tokens is 65, but the model has 64 positions" in capsys.readouterr().err
    write_json(tmp_path / "data" / "model" / "model.json", {"name": "another"}, {})
    assert planned(path, "--results", tmp_path) == 1
    assert "data/model holds the model another, not m" in capsys.readouterr().err
    (tmp_path / "data" / "model" / "model.json").unlink()
    path = study(tmp_path, model__blocks=9)
    assert planned(path, "--results", tmp_path) == 1
    assert "9 blocks are asked for" in capsys.readouterr().err
