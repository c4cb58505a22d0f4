"""Which runs are compared, and that the same task twice shows what the null says."""

import itertools

import numpy as np
import pytest
from tiny_study import write_model, write_task

from ntktune.__main__ import main
from ntktune.store.records import read_json, read_table, write_json
from ntktune.taskvectors.cosines import Run, cosine_rows

RUNS = [
    Run("a", "0", 0, 0, frozenset([1, 2, 3, 4])),
    Run("a", "1", 1, 1, frozenset([4, 5, 6, 7])),
    Run("a", "again", 0, 1, frozenset([4, 5, 6, 7])),
    Run("b", "0", 0, 0),
    Run("b", "again", 0, 1),
]


def test_pairs_are_named_by_what_they_have_in_common():
    vectors = np.random.default_rng(0).normal(size=(5, 8))
    vectors[3] = 0
    gram = vectors @ vectors.T
    rows = cosine_rows(RUNS, {"all": gram, "norm": 2 * gram})
    found = {(r["task_a"], r["run_a"], r["task_b"], r["run_b"]): r for r in rows if
             r["group"] == "all"}  # fmt: skip
    assert {key: row["pair"] for key, row in found.items()} == {
        ("a", "0", "a", "1"): "seeds",
        ("a", "0", "a", "again"): "subsets",
        ("b", "0", "b", "again"): "subsets",
        ("a", "0", "b", "0"): "tasks",
        ("a", "1", "b", "0"): "tasks",
    }
    one = found["a", "0", "a", "1"]
    wanted = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    assert one["cosine"] == pytest.approx(wanted)
    assert one["norm_a"] == pytest.approx(np.linalg.norm(vectors[0]))
    assert one["shared"] == 0.25
    assert np.isnan(found["a", "0", "b", "0"]["cosine"])
    assert np.isnan(found["a", "0", "b", "0"]["shared"])
    assert len(rows) == 2 * len(found)


def test_tasks_stand_in_the_order_they_are_given():
    gram = np.eye(3)
    runs = [Run("z", "0", 0, 0), Run("a", "0", 0, 0), Run("z", "1", 1, 1)]
    rows = cosine_rows(runs, {"all": gram})
    assert [(r["task_a"], r["task_b"]) for r in rows] == [("z", "z"), ("z", "a"), ("z", "a")]


SEEDS = 4


def test_two_seeds_of_identical_tasks_are_as_alike_as_the_null_says(tmp_path):
    """The task `twin` is `a` under another name: no test may tell it from a's other seeds."""
    model = write_model(tmp_path / "model")
    files = []
    for task in ("a", "twin"):
        write_task(tmp_path, task, "regression", model)
        subsets = read_json(tmp_path / f"{task}.json")
        provenance = subsets.pop("provenance")
        random = np.random.default_rng(len(task))
        subsets["seeds"] = [
            subsets["seeds"][0] | {"order": random.permutation(40)[:20].tolist()}
            for _ in range(SEEDS)
        ]
        write_json(tmp_path / f"{task}.json", subsets, provenance)
        outs = [str(tmp_path / f"{task}{i}.safetensors") for i in range(SEEDS)]
        command = (
            f"taskvectors tune --model {tmp_path}/model --tokens {tmp_path}/{task}.safetensors "
            f"--subsets {tmp_path}/{task}.json --task {task} --size 20 --seed 2 --max-epochs 6 "
            f"--learning-rate 0.003 --weight-decay 0 --batch-size 4 --batch-tokens 64 "
            f"--head random --device cpu --out-again {tmp_path}/{task}-again.safetensors --out"
        )
        assert main([*command.split(), *outs]) == 0
        files += [*outs, f"{tmp_path}/{task}-again.safetensors"]
    out = tmp_path / "cosine.parquet"
    flags = ["--model", f"{tmp_path}/model", "--weights", *files, "--out", str(out)]
    assert main(["taskvectors", "cosine", *flags]) == 0
    table = read_table(out)[0].query("group == 'all'")
    means = table.groupby("pair")["cosine"].mean()
    assert table["pair"].value_counts().to_dict() == {"tasks": 16, "seeds": 12, "subsets": 2}

    # exchangeable: any four of the eight runs might have been one task's
    places = {
        (task, str(i)): SEEDS * (task == "twin") + i for task in ("a", "twin") for i in range(SEEDS)
    }
    square = np.zeros((2 * SEEDS, 2 * SEEDS))
    for row in table.query("pair != 'subsets'").itertuples():
        i, j = places[row.task_a, row.run_a], places[row.task_b, row.run_b]
        square[i, j] = square[j, i] = row.cosine

    def difference(part):
        """Return how much more alike two runs of a part are than runs of different parts."""
        mine = np.isin(range(2 * SEEDS), part)
        apart = mine[:, None] != mine[None, :]
        within = ~apart & ~np.eye(2 * SEEDS, dtype=bool)
        return square[within].mean() - square[apart].mean()

    splits = [(0, *rest) for rest in itertools.combinations(range(1, 2 * SEEDS), SEEDS - 1)]
    spread = [difference(split) for split in splits]
    assert np.isfinite(spread).all()
    assert np.mean(np.abs(spread) >= abs(spread[0])) > 0.05  # the first split is the tasks
    assert means["tasks"] == pytest.approx(square[:SEEDS, SEEDS:].mean())
    # the head decides much of the direction: with the same one two samples are far more alike
    assert means["subsets"] > 0.3 > abs(means["seeds"])
