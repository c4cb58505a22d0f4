"""The chapter's commands, end to end on files."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_study import tuning_flags, write_task

from ntktune.__main__ import main
from ntktune.store.records import read_json, read_table, write_json, write_table
from ntktune.store.tensors import read_tensors, write_tensors


def run(*words):
    return main([str(word) for word in words])


TASKS = "abc"


@pytest.fixture(scope="module")
def tuned_once(written, tmp_path_factory):
    """Fine-tune the three tasks with two seeds each and again; return the files, by task."""
    folder, files = tmp_path_factory.mktemp("tuned"), {}
    for task in TASKS:
        files[task] = [folder / f"{task}.{run}.safetensors" for run in ("0", "1", "again")]
        outs = ["--out", *files[task][:2], "--out-again", files[task][2]]
        outs += ["--state", folder / task]
        assert run("taskvectors", "tune", *tuning_flags(written, task), *outs) == 0
    return files


@pytest.fixture
def tuned(study, tuned_once):
    """Return copies of the fine-tuned weights, to be changed, by task."""
    return {
        task: [Path(shutil.copy(file, study)) for file in made] for task, made in tuned_once.items()
    }


def inputs(study, files, tasks, runs=1):
    """Return the flags that a sweep of some tasks reads by."""
    return [
        "--model", study / "model",
        "--tasks", *tasks,
        "--weights", *(path for task in tasks for path in files[task][:runs]),
        "--tokens", *(study / f"{task}.safetensors" for task in tasks),
        "--subsets", *(study / f"{task}.json" for task in tasks),
        "--batch-tokens", 64,
        "--device", "cpu",
    ]  # fmt: skip


def test_tune_keeps_all_weights_and_says_where_they_come_from(
    study, training_flags, tuned, tuned_once
):
    tensors, facts = read_tensors(tuned["a"][0])
    start, _ = read_tensors(study / "model" / "model.safetensors")
    assert {k.removeprefix("backbone.") for k in tensors if k.startswith("backbone.")} == set(start)
    assert tensors["head.weight"].shape == (1, 16)
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    table = tensors["backbone.embed_tokens.weight"]
    assert torch.equal(table[40:], start["embed_tokens.weight"][40:])
    assert not torch.equal(table[:40], start["embed_tokens.weight"][:40])
    assert (facts["task"]["name"], facts["size"], facts["blocks"]) == ("a", 20, None)
    assert facts["command"] == "taskvectors tune"
    assert len(facts["code"]) == 16
    made = [read_tensors(path)[1] for path in tuned["a"]]
    assert [(f["run"], f["seeds"]["indices"], f["sample"]) for f in made] == [
        ("0", [0], 0),
        ("1", [1], 1),
        ("again", [0], 1),
    ]

    # the same numbers as the grid's
    outs = ["--out-metrics", study / "m.parquet", "--out-history", study / "h.parquet"]
    assert run("finetune", "run", *training_flags("a"), *outs) == 0
    metrics, _ = read_table(study / "m.parquet")
    for seed in (0, 1):
        for name in ("mse", "pearson", "holdout_loss", "best_step"):
            assert made[seed]["metrics"][name] == metrics[name][seed]

    # so the grid takes them over, and trains the other seeds
    state = shutil.copytree(tuned_once["a"][0].parent / "a", study / "state")
    before = [read_table(path)[0] for path in outs[1::2]]
    assert run("finetune", "run", *training_flags("a"), *outs, "--state", state) == 0
    (metrics, facts), (history, _) = (read_table(path) for path in outs[1::2])
    assert set(facts["seeds"]["indices"]) - set(facts["seeds"]["resumed_at"]) == {0, 1}
    pd.testing.assert_frame_equal(metrics, before[0], check_exact=True)
    pd.testing.assert_frame_equal(history, before[1], check_exact=True)


def test_a_rounded_vector_is_half_as_large_and_close(study, training_flags, tuned):
    path = study / "half.safetensors"
    flags = [*training_flags("a"), "--store", "bfloat16", "--out", path]
    assert run("taskvectors", "tune", *flags) == 0
    tensors, _ = read_tensors(path)
    exact, _ = read_tensors(tuned["a"][0])
    start, _ = read_tensors(study / "model" / "model.safetensors")
    for name, weight in start.items():
        vector = tensors[f"vector.{name}"]
        assert vector.dtype == torch.bfloat16
        wanted = exact[f"backbone.{name}"].double() - weight.double()
        torch.testing.assert_close(vector.double(), wanted, rtol=2**-8, atol=0)
    assert not any(name.startswith("backbone.") for name in tensors)
    out = study / "c.parquet"
    both = ["--weights", path, tuned["b"][0], "--out", out]
    assert run("taskvectors", "cosine", "--model", study / "model", *both) == 0
    rounded = read_table(out)[0]["cosine"][0]
    both = ["--weights", tuned["a"][0], tuned["b"][0], "--out", out]
    assert run("taskvectors", "cosine", "--model", study / "model", *both) == 0
    assert rounded == pytest.approx(read_table(out)[0]["cosine"][0], abs=1e-3)


def test_vectors_of_adapters_are_their_products(study, training_flags, tuned):
    how = ["--method", "lora", "--lora-rank", 2, "--lora-targets", "q_proj", "down_proj"]
    how += ["--lora-alpha", 6, "--learning-rate", 0.05]
    files, products = {}, {}
    start, _ = read_tensors(study / "model" / "model.safetensors")
    for task in "ab":
        files[task] = [study / f"lora-{task}.safetensors"]
        made = ["--out", *files[task]]
        assert run("taskvectors", "tune", *training_flags(task), *how, *made) == 0
        tensors, facts = read_tensors(*files[task])
        assert set(facts["parameters"]) == set(start)
        moved = {n: tensors[f"backbone.{n}"].double() - w.double() for n, w in start.items()}
        products[task] = moved = {name: v for name, v in moved.items() if v.any()}
        assert len(moved) == 4
        assert all(name.endswith(("q_proj.weight", "down_proj.weight")) for name in moved)
        for vector in moved.values():
            assert torch.linalg.svdvals(vector)[2] < 1e-5 * torch.linalg.svdvals(vector)[0]
        kept = {name: w for name, w in tensors.items() if name.startswith("adapter.")}
        assert len(kept) == 8
        assert all(w.any() for w in kept.values())
    out = study / "c.parquet"
    both = ["--weights", *files["a"], *files["b"], "--out", out]
    assert run("taskvectors", "cosine", "--model", study / "model", *both) == 0
    table = read_table(out)[0].set_index("group")["cosine"]
    flat = [torch.cat([v.flatten() for v in products[task].values()]) for task in "ab"]
    wanted = torch.cosine_similarity(*flat, dim=0).item()
    assert table["all"] == pytest.approx(wanted, abs=1e-6)
    flat = [
        torch.cat([w.flatten().double() for n, w in sorted(read_tensors(*files[t])[0].items())
                   if n.startswith("adapter.")])
        for t in "ab"
    ]  # fmt: skip
    wanted = torch.cosine_similarity(*flat, dim=0).item()
    assert table["adapters"] == pytest.approx(wanted, abs=1e-6)
    flags = inputs(study, files, "ab")
    assert run("taskvectors", "add", *flags, "--coefficients", 1, "--out", out) == 0
    # none of one that has adapters and one that has none
    both = ["--weights", *files["a"], tuned["b"][0], "--out", out]
    assert run("taskvectors", "cosine", "--model", study / "model", *both) == 0
    assert "adapters" not in set(read_table(out)[0]["group"])


def test_tasks_of_three_classes_are_merged_and_negated(study, training_flags, tuned):
    write_task(study, "d", "classification", read_json(study / "model/model.json"), classes=3)
    files = {"c": tuned["c"], "d": [study / "tuned-d.safetensors"]}
    assert run("taskvectors", "tune", *training_flags("d"), "--out", files["d"][0]) == 0
    metrics = read_tensors(files["d"][0])[1]["metrics"]
    answers = {}
    for name, tasks, words in (
        ("negate", "cd", ["--coefficients", 0.5, 1]),
        ("negate", "dc", ["--coefficients", 0.5, 1]),
        ("add", "cd", ["--coefficients", 1]),
        ("disentangle", "dc", ["--grid", 0, 1, "--rows", 20]),
    ):
        out = answers[name + tasks] = study / f"{name}{tasks}.parquet"
        assert run("taskvectors", name, *inputs(study, files, tasks), *words, "--out", out) == 0
    found = read_table(answers["negatedc"])[0]
    own = found[(found["task"] == "d") & (found["part"] == "test") & (found["coefficient"] == -1)]
    logits = own["output"].to_numpy().reshape(-1, 3)
    assert np.abs(logits.sum(axis=1)).max() < 1e-9
    right = logits.argmax(axis=1) == own["label"].to_numpy()[::3]
    assert right.mean() == pytest.approx(metrics["accuracy"])
    apart = read_table(answers["disentangledc"])[0].set_index(["arm", "alpha_a", "alpha_b"])
    assert apart["error"]["standard", 0.0, 0.0] == 0
    assert apart["error_a"].between(0, 1).all()
    leaked = [study / f"{name}.parquet" for name in ("overlap", "leaked")]
    for task in "cd":
        texts = pd.DataFrame({"text_a": [f"{task} number {i}" for i in range(60)], "text_b": None})
        facts = {"task": {"name": task}, "data_sha256": f"data of {task}"}
        write_table(study / f"{task}.parquet", texts, facts)
    flags = ["--tables", *(study / f"{task}.parquet" for task in "cd"), "--size", 20, "--seeds", 1]
    flags += ["--subsets", *(study / f"{task}.json" for task in "cd")]
    flags += ["--out-counts", leaked[0], "--out-leaked", leaked[1]]
    assert run("taskvectors", "overlap", *flags) == 0
    outs = [study / f"{name}.parquet" for name in ("sweep", "merged", "negated")]
    flags = ["--coefficient", 1, "--candidates", 1, "--overlap", leaked[0], "--leaked", leaked[1]]
    flags += ["--added", answers["addcd"], "--negated", answers["negatecd"], answers["negatedc"]]
    flags += ["--out-sweep", outs[0], "--out-merged", outs[1], "--out-negated", outs[2]]
    assert run("taskvectors", "score", *flags) == 0
    merged = read_table(outs[1])[0].set_index(["task", "choice"])
    assert merged["single"]["d", "fixed"] == pytest.approx(metrics["accuracy"])
    assert merged["rows"].unique().tolist() == [20]


def test_cosines_in_total_and_per_group(study, tuned):
    out = study / "cosine.parquet"
    weights = ["--weights", *(path for files in tuned.values() for path in files)]
    assert run("taskvectors", "cosine", "--model", study / "model", *weights, "--out", out) == 0
    table, provenance = read_table(out)
    assert provenance["sizes"] == {"a": 20, "b": 20, "c": 20}
    whole = table[table["group"] == "all"]
    assert whole["pair"].value_counts().to_dict() == {"tasks": 12, "seeds": 3, "subsets": 3}
    assert set(table["group"]) == {
        "all", "embedding", "norm",
        *(f"block{i}.{part}" for i in (0, 1) for part in ("attention", "mlp")),
    }  # fmt: skip
    start, _ = read_tensors(study / "model" / "model.safetensors")
    assert provenance["parameters"] == sum(w.numel() for w in start.values())
    flat = {}
    for task in "ab":
        end = read_tensors(tuned[task][0])[0]
        flat[task] = {
            k: (end[f"backbone.{k}"].double() - w.double()).numpy().ravel()
            for k, w in start.items()
        }
    found = table[(table["task_a"] == "a") & (table["task_b"] == "b")]
    found = found[(found["run_a"] == "0") & (found["run_b"] == "0")].set_index("group")
    for group, part in (("all", ""), ("embedding", "embed"), ("block1.mlp", "layers.1.mlp")):
        one, two = (np.concatenate([v for k, v in flat[t].items() if part in k]) for t in "ab")
        wanted = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        assert found["cosine"][group] == pytest.approx(wanted, rel=1e-9)
        assert found["norm_a"][group] == pytest.approx(np.linalg.norm(one))


def overlapping(study):
    """Write the tables of three tasks' texts: a test row of a is in all samples of b."""
    tables = []
    for task in TASKS:
        texts = [f"{task} number {i}" for i in range(60)]
        if task == "a":
            texts[45] = "B Number 0!"
        table = pd.DataFrame({"text_a": texts, "text_b": None})
        tables.append(study / f"{task}.parquet")
        facts = {"task": {"name": task}, "data_sha256": f"data of {task}"}
        write_table(tables[-1], table, facts)
    return tables


def test_from_overlap_and_sweeps_to_scores(study, tuned, capsys):
    subsets = [study / f"{task}.json" for task in TASKS]
    drawn = read_json(subsets[1])["seeds"]
    rows = [0 in seed["order"][:20] for seed in drawn]
    drawn_of_a = read_json(subsets[0])["seeds"]
    facts_of_a = read_tensors(tuned["a"][0])[1]
    command = ["taskvectors", "overlap", "--tables", *overlapping(study), "--subsets", *subsets]
    command += ["--out-counts", study / "o.parquet", "--out-leaked", study / "l.parquet"]
    overlap_command = command
    assert run(*command, "--size", 20, "--seeds", 2) == 0
    counts = read_table(study / "o.parquet")[0].set_index(["task", "other", "seed"])
    assert len(counts) == 18
    assert (counts["test_rows"] == 20).all()
    assert counts["sample_exact"].sum() == counts["pool_exact"].sum() == 0
    for seed in (0, 1):
        assert counts["sample_normalised"]["a", "b", seed] == rows[seed]
    leaked = read_table(study / "l.parquet")[0]
    assert len(leaked) == sum(rows)
    assert set(leaked["row"]) <= {45}
    assert set(leaked["part"]) == {"test"}
    assert (counts["validation_rows"] == 4).all()
    assert counts["validation_leaked"].sum() == 0  # a hold-out is no part of its own training
    assert any(rows)  # the test would show nothing

    added, negated = [], []
    for tasks in ("ab", "ac", "bc", "abc"):
        added.append(study / f"{tasks}.add.parquet")
        flags = [*inputs(study, tuned, tasks, runs=2), "--coefficients", 0, 1, 0.5]
        assert run("taskvectors", "add", *flags, "--out", added[-1]) == 0
    for target in TASKS:
        negated.append(study / f"{target}.neg.parquet")
        tasks = [target, *(task for task in TASKS if task != target)]
        flags = [*inputs(study, tuned, tasks, runs=2), "--coefficients", 0.5, 1]
        assert run("taskvectors", "negate", *flags, "--out", negated[-1]) == 0
    said = capsys.readouterr().err
    assert "merging a + b + c: 100 %" in said
    assert "negating c: 100 %" in said
    outs = {name: study / f"{name}.parquet" for name in ("sweep", "merged", "negated")}
    answers = read_table(added[0])[0]
    for seed in (0, 1):
        facts = read_tensors(tuned["a"][seed])[1]
        own = answers.query("task == 'a' and seed == @seed and coefficient == 1")
        order, held = drawn_of_a[seed]["order"], drawn_of_a[seed]["holdout"]
        holdout = [row for row, is_held in zip(order, held, strict=True) if is_held]
        assert own.query("part == 'validation'")["row"].tolist() == holdout
        assert own.query("part == 'test'")["row"].tolist() == list(range(40, 60))
        assert facts["rows"]["validation"] == holdout
        assert sorted(facts["rows"]["train"] + holdout) == sorted(order)
    flags = [*inputs(study, tuned, "ab"), "--coefficients", 1, "--validation-rows", 2]
    assert run("taskvectors", "add", *flags, "--out", study / "few.parquet") == 0
    few = read_table(study / "few.parquet")[0].query("task == 'a' and part == 'validation'")
    assert few["row"].tolist() == facts_of_a["rows"]["validation"][:2]

    files = ["--leaked", study / "l.parquet", "--overlap", study / "o.parquet"]
    flags = [word for name, path in outs.items() for word in (f"--out-{name}", path)]
    flags += ["--coefficient", 1, "--candidates", 0, 0.5, 1]
    command = ["taskvectors", "score", *flags, "--added", *added, "--negated"]
    capsys.readouterr()
    for wrong, message in (
        ([*negated, negated[0], *files], "are given more than once; give each file once"),
        ([*added, *files], "lacks the columns target, slope, random"),
        ([*negated, "--leaked", study / "o.parquet", *files[2:]], "lacks the columns part, row"),
    ):
        assert run(*command, *wrong) == 1
        assert message in capsys.readouterr().err
        assert not any(path.exists() for path in outs.values())
    one_seed = ["--seeds", 1, "--size", 20]
    others = {study / f"{name}.parquet": study / f"{name}1.parquet" for name in "ol"}
    again = [others.get(word, word) for word in overlap_command]
    assert run(*again, *one_seed) == 0
    wrong = [*negated, *files[:3], study / "o1.parquet"]
    assert run(*command, *wrong) == 1
    assert "does not say what 'a' shares with 'a', seed 1; count" in capsys.readouterr().err
    assert run(*again, "--seeds", 2, "--size", 10) == 0
    wrong = [*negated, "--leaked", study / "l1.parquet", *files[2:]]
    assert run(*command, *wrong) == 1
    assert (
        "fine-tuned on 20 examples, but the overlap was counted for 10" in capsys.readouterr().err
    )

    assert run(*command, *negated, *files) == 0
    sweep, merged, lines = (read_table(path)[0] for path in outs.values())
    assert len(sweep) == 9 * 2 * 2 * 3  # members of merges, seeds, parts, coefficients
    assert list(dict.fromkeys(merged["merged"])) == ["a + b", "a + c", "b + c", "a + b + c"]
    assert len(merged) == 9 * 2 * 2
    leaky = merged["merged"].str.contains("a") & merged["merged"].str.contains("b")
    assert merged.loc[leaky & (merged["task"] == "a"), "leaked"].tolist() == [
        rows[seed] for _ in ("a + b", "a + b + c") for seed in (0, 1) for _ in ("fixed", "chosen")
    ]
    assert (merged.loc[~leaky, "leaked"] == 0).all()
    # the single score is the one that the fine-tuning reported
    for task, files in tuned.items():
        for seed in (0, 1):
            facts = read_tensors(files[seed])[1]
            own = merged[(merged["task"] == task) & (merged["seed"] == seed)]
            metric = own["metric"].iloc[0]
            assert metric == {"a": "pearson", "b": "mse", "c": "f1"}[task]
            np.testing.assert_allclose(own["single"], facts["metrics"][metric], rtol=1e-5)
    assert set(lines["task"]) == set(lines["target"]) == set(TASKS)
    start = lines[lines["coefficient"] == 0]
    assert start["score"].tolist() == start["linear_score"].tolist() == start["pretrained"].tolist()
    # the linear regime, for the smallest steps: half of one changes twice as much as its half
    assert (lines["rows_clean"] <= lines["rows"]).all()

    out = study / "d.parquet"
    flags = [*inputs(study, tuned, "ac"), "--grid", -1, 0, 1, "--rows", 7, "--out", out]
    assert run("taskvectors", "disentangle", *flags, "--tangent") == 0
    table = read_table(out)[0]
    assert table["arm"].value_counts().to_dict() == dict.fromkeys(
        ("standard", "linear", "tangent"), 9
    )
    assert set(table["rows_a"]) == set(table["rows_b"]) == {7}
    assert (table.loc[table["alpha_b"] == 0, "error_a"] == 0).all()
    assert (table.loc[table["alpha_a"] == 0, "error_b"] == 0).all()


def test_export_writes_the_merged_model_as_a_folder_that_loads(study, tuned, training_flags):
    from ntktune.network.models import load_backbone

    files = [tuned["a"][0], tuned["b"][0]]
    model = ["--model", study / "model"]
    folder = study / "merged"
    command = ["taskvectors", "export", *model, "--weights", *files, "--out", folder]
    assert run(*command, "--coefficients", 0.25, -1) == 0
    start, _ = read_tensors(study / "model" / "model.safetensors")
    ends = [read_tensors(path)[0] for path in files]
    found = dict(load_backbone(folder).named_parameters())
    assert set(found) == set(start)
    for name, weight in start.items():
        one, two = (end[f"backbone.{name}"].double() - weight.double() for end in ends)
        wanted = (weight.double() + 0.25 * one - two).float()
        torch.testing.assert_close(found[name], wanted, rtol=1.2e-7, atol=0)
    facts = read_json(folder / "merge.json")
    assert facts["merged"][1] == {"task": "b", "run": "0", "coefficient": -1.0}

    # one task's own model comes back bit for bit
    assert run("taskvectors", "export", *model, "--weights", files[0], "--out", study / "one") == 0
    found = dict(load_backbone(study / "one").named_parameters())
    assert all(torch.equal(found[name], ends[0][f"backbone.{name}"]) for name in found)

    # of the first blocks of a model, also without any task vector: the base of other tools
    few = study / "few.safetensors"
    assert run("taskvectors", "tune", *training_flags("a", blocks=1), "--out", few) == 0
    base = study / "base"
    assert run("taskvectors", "export", *model, "--blocks", 1, "--out", base) == 0
    assert run(
        "taskvectors", "export", *model, "--blocks", 1, "--weights", few, "--out", study / "cut"
    ) == 0  # fmt: skip
    for folder in (base, study / "cut"):
        assert load_backbone(folder).config.num_hidden_layers == 1
    found = dict(load_backbone(base).named_parameters())
    assert all(torch.equal(found[name], start[name]) for name in found)


def test_export_replaces_nothing_but_what_it_wrote(study, tuned, capsys):
    command = ["taskvectors", "export", "--model", study / "model", "--weights", tuned["a"][0]]
    before = sorted(path.name for path in study.iterdir())
    for out, message in (
        (study / "model", "would replace"),
        (study, "would replace"),
        (study.parent, "would replace"),
    ):
        assert run(*command, "--out", out) == 1
        assert message in capsys.readouterr().err
    mine = study / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("precious")
    assert run(*command, "--out", mine) == 1
    assert "mine holds other files, which would be lost" in capsys.readouterr().err
    assert (mine / "notes.txt").read_text() == "precious"
    (mine / "notes.txt").unlink()
    (study / "model" / "deep").mkdir()  # a folder of a folder is no file of the model
    (study / "model" / ".mark").touch()  # nor is what a tool left there
    for _ in range(2):  # an empty folder, then its own
        assert run(*command, "--out", mine) == 0
    assert sorted(path.name for path in study.iterdir()) == sorted([*before, "mine"])
    assert not {"deep", ".mark"} & {path.name for path in mine.iterdir()}


def test_a_pretrained_model_that_is_not_its_manifests_is_refused(study, tuned, capsys):
    tensors, _ = read_tensors(study / "model" / "model.safetensors")
    tensors["norm.weight"] = tensors["norm.weight"] + 1
    write_tensors(study / "model" / "model.safetensors", tensors, {})
    command = ["taskvectors", "cosine", "--model", study / "model", "--out", study / "c.parquet"]
    assert run(*command, "--weights", tuned["a"][0], tuned["b"][0]) == 1
    assert "model.safetensors does not match the checksum in model.json" in capsys.readouterr().err


def test_weights_of_other_data_rows_or_sizes_are_refused(study, tuned, training_flags, capsys):
    out = ["--coefficients", 1, "--out", study / "x.parquet"]
    flags = inputs(study, tuned, "ab")
    small = study / "small.safetensors"
    assert run("taskvectors", "tune", *training_flags("a", size=10), "--out", small) == 0
    tensors, facts = read_tensors(small)
    facts["run"] = "1"
    write_tensors(small, tensors, facts)
    two = ["--weights", tuned["a"][0], small, "--out", study / "c.parquet"]
    assert run("taskvectors", "cosine", "--model", study / "model", *two) == 1
    assert "was fine-tuned on 20 examples" in capsys.readouterr().err
    subsets = read_json(study / "a.json")
    provenance = subsets.pop("provenance")
    subsets["seeds"][0]["order"].reverse()
    write_json(study / "a.json", subsets, provenance)
    assert run("taskvectors", "add", *flags, *out) == 1
    assert "was fine-tuned on other rows than" in capsys.readouterr().err
    for name in ("a.safetensors", "a.json"):
        if name.endswith("json"):
            write_json(study / name, subsets, {"data_sha256": "new"})
        else:
            tensors, facts = read_tensors(study / name)
            write_tensors(study / name, tensors, facts | {"data_sha256": "new"})
    assert run("taskvectors", "add", *flags, *out) == 1
    assert "was fine-tuned on data data of a, but the tokens hold new" in capsys.readouterr().err
    write_json(study / "a.json", {"test": []}, {"data_sha256": "new"})
    assert run("taskvectors", "add", *flags, *out) == 1
    assert "a.json lacks the keys seeds, holdout_fraction" in capsys.readouterr().err


def test_overlap_refuses_what_does_not_fit(study, tuned, capsys):
    tables, subsets = overlapping(study), [study / f"{task}.json" for task in TASKS]
    out = ["--out-counts", study / "o.parquet", "--out-leaked", study / "l.parquet"]

    def refused(tables, subsets, size=20, seeds=2):
        flags = ["--tables", *tables, "--subsets", *subsets, "--size", size, "--seeds", seeds]
        assert run("taskvectors", "overlap", *flags, *out) == 1
        assert not (study / "o.parquet").exists()
        return capsys.readouterr().err

    assert "there are 3 --tables and 2 --subsets" in refused(tables, subsets[:2])
    assert "--size is 0: must be at least 8" in refused(tables, subsets, size=0)
    assert "--seeds is 0: must be at least 1" in refused(tables, subsets, seeds=0)
    assert "a subset of 99 rows is asked for" in refused(tables, subsets, size=99)
    assert "3 seeds are asked for" in refused(tables, subsets, seeds=3)
    assert "--tables has task 'a' more than once" in refused(tables[:1] * 2, subsets[:1] * 2)
    write_table(study / "odd.parquet", pd.DataFrame({"x": [1]}), {})
    assert "lacks the columns text_a, text_b" in refused([study / "odd.parquet"], subsets[:1])


def test_blocks_are_kept_in_mind(study, training_flags, capsys):
    files = []
    for task in "ab":
        files.append(study / f"{task}.weights.safetensors")
        flags = training_flags(task, blocks=1, max_epochs=1)
        assert run("taskvectors", "tune", *flags, "--out", files[-1]) == 0
    out = ["--out", study / "cosine.parquet"]
    command = ["taskvectors", "cosine", "--model", study / "model", "--weights", *files, *out]
    capsys.readouterr()
    assert run(*command) == 1
    assert "was fine-tuned with blocks 1, not None" in capsys.readouterr().err
    assert not (study / "cosine.parquet").exists()
    assert run(*command, "--blocks", 1) == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sha256", "beef", ", checksum 'beef', but tiny-"),
        ("revision", "r2", ", revision 'r2', but tiny-"),
    ],
)
def test_weights_of_another_model(study, tuned, capsys, key, value, message):
    path = tuned["b"][0]
    tensors, facts = read_tensors(path)
    facts["model"][key] = value
    write_tensors(path, tensors, facts)
    command = ["taskvectors", "cosine", "--model", study / "model", "--out", study / "c.parquet"]
    assert run(*command, "--weights", tuned["a"][0], path) == 1
    said = capsys.readouterr().err
    assert f"{path} was fine-tuned from tiny-" in said
    assert message in said
    assert "give the same model, or fine-tune again" in said


def test_wrong_files_are_named(study, tuned, capsys):
    one = tuned["a"][0]
    command = ["taskvectors", "cosine", "--model", study / "model", "--out", study / "c.parquet"]
    assert run(*command, "--weights", one) == 1
    assert "--weights has 1 files; a cosine needs two or more" in capsys.readouterr().err
    assert run(*command, "--weights", study, one) == 1
    assert "is a folder; give the files of weights in it" in capsys.readouterr().err
    assert run(*command, "--weights", one, one) == 1
    assert "are both of task 'a', run 0; give it once" in capsys.readouterr().err
    assert run(*command, "--weights", one, study / "a.safetensors") == 1
    assert "a.safetensors holds no fine-tuned weights" in capsys.readouterr().err
    tensors, facts = read_tensors(one)
    tensors["backbone.norm.weight"] = torch.ones(3)
    write_tensors(one, tensors, facts)
    assert run(*command, "--weights", one, tuned["b"][0]) == 1
    said = capsys.readouterr().err
    assert "tensor norm.weight has shape (16,) in the pretrained set of weights and (3,) in" in said
    assert one.name in said


@pytest.mark.parametrize(
    ("verb", "changes", "message"),
    [
        ("add", {"--coefficients": [-1]}, "--coefficients has -1.0: must be at least 0"),
        ("add", {"--coefficients": ["nan"]}, "--coefficients has nan: must be a finite number"),
        ("add", {"--coefficients": [0]}, "has only 0, the pretrained model"),
        ("negate", {"--validation-rows": [0]}, "--validation-rows is 0: must be at least 2"),
        ("add", {"--tasks": ["a", "a"]}, "--tasks has 'a' more than once"),
        ("add", {"--tasks": ["a"]}, "there are 1 --tasks, 2 --tokens and 2 --subsets"),
        ("add", {"--tasks": ["a", "c"]}, "is of task 'b', which is none of --tasks a c"),
        ("disentangle", {"--rows": [0]}, "--rows is 0: must be at least 1"),
        ("add", {"--batch-tokens": [0]}, "--batch-tokens is 0: must be at least 1"),
    ],
)
def test_sweeps_refuse_what_does_not_fit(study, tuned, capsys, verb, changes, message):
    own = {"--grid": [1], "--rows": [5]} if verb == "disentangle" else {"--coefficients": [1]}
    flags, name = {}, None
    for word in inputs(study, tuned, "ab"):
        if str(word).startswith("--"):
            name = word
        flags.setdefault(name, [])
        flags[name] += [word] * (word != name)
    flags |= own | {"--out": [study / "x.parquet"]} | changes
    words = [word for key, values in flags.items() for word in (key, *values)]
    assert run("taskvectors", verb, *words) == 1
    assert message in capsys.readouterr().err
    assert not (study / "x.parquet").exists()


def test_inputs_of_a_sweep_must_belong_together(study, tuned, capsys):
    out = ["--coefficients", 1, "--out", study / "x.parquet"]
    flags = inputs(study, tuned, "ab")
    swapped = [study / "b.safetensors" if w == study / "a.safetensors" else w for w in flags]
    assert run("taskvectors", "add", *swapped, *out) == 1
    assert "b.safetensors holds task 'b', not 'a'" in capsys.readouterr().err
    swapped = [study / "b.json" if w == study / "a.json" else w for w in flags]
    assert run("taskvectors", "add", *swapped, *out) == 1
    assert "b.json was drawn from data data of b" in capsys.readouterr().err
    fewer = [w for w in inputs(study, tuned, "ab", runs=2) if w != tuned["b"][1]]
    assert run("taskvectors", "add", *fewer, *out) == 1
    assert "--weights holds no run 1 of task 'b', but of others" in capsys.readouterr().err


def test_the_second_sample_is_no_seed(study, tuned, capsys):
    flags = [tuned["a"][2] if w == tuned["a"][0] else w for w in inputs(study, tuned, "ab")]
    flags = [tuned["b"][2] if w == tuned["b"][0] else w for w in flags]
    out = ["--coefficients", 1, "--out", study / "x.parquet"]
    assert run("taskvectors", "add", *flags, *out) == 1
    assert "has the run 'again', which serves for cosines only" in capsys.readouterr().err


def test_more_samples_than_there_are(study, training_flags, capsys):
    outs = [study / f"{i}.safetensors" for i in range(3)]
    assert run("taskvectors", "tune", *training_flags("a"), "--out", *outs) == 1
    assert "3 seeds are asked for, but " in capsys.readouterr().err
    assert not outs[0].exists()
