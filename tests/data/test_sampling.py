"""Draws and nested subsets: what is in them, what is asked of them, and where seeds come in."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntktune.__main__ import main
from ntktune.data.sampling import (
    class_pattern,
    holdout_pattern,
    kernel_draws,
    nested_order,
    smallest_sample,
    training_subset,
    training_subsets,
)
from ntktune.errors import UserError
from ntktune.store.records import read_json
from ntktune.store.tensors import write_tensors

TRAIN = np.arange(100, 400)


def _draws(**changes):
    return kernel_draws(TRAIN, **({"rows": 40, "draws": 3, "root": 7, "task": "t"} | changes))


def test_draws_are_training_rows_without_repetition():
    for draw in _draws():
        assert len(set(draw)) == 40
        assert set(draw) <= set(TRAIN.tolist())


def test_draws_depend_on_their_address_and_on_nothing_else():
    assert _draws() == _draws()
    assert _draws(draws=5)[:3] == _draws()
    others = (_draws(root=8)[0], _draws(task="u")[0], _draws()[1])
    assert all(other != _draws()[0] for other in others)
    shared = len(set(_draws(rows=150)[0]) & set(_draws(rows=150)[1]))
    assert 50 < shared < 100  # independent halves of 300 rows share 75 on average


def test_more_rows_than_there_are_is_an_error():
    with pytest.raises(UserError, match=r"draw of 301 rows .* t has 300 training rows"):
        _draws(rows=301)


@given(st.integers(1, 400), st.floats(0.01, 0.99))
def test_every_beginning_holds_out_its_share(size, fraction):
    pattern = holdout_pattern(size, fraction)
    counts = np.cumsum(pattern)
    expected = np.arange(1, size + 1) * fraction
    assert (np.abs(counts - expected) <= 1 + 1e-6).all()
    assert (counts <= expected + 1e-6).all()


def test_held_out_rows_are_exact_where_the_share_is():
    assert holdout_pattern(100, 0.29).sum() == 29
    assert holdout_pattern(10, 0.2).tolist() == [False] * 4 + [True] + [False] * 4 + [True]


@pytest.mark.parametrize("sizes", [[50, 400, 300, 5], [120] * 77])
def test_small_samples_have_every_class_that_they_can_have(sizes):
    sizes = np.array(sizes)
    holdout = holdout_pattern(sizes.sum(), 0.25)
    pattern = class_pattern(holdout, sizes)
    trained = pattern[~holdout]
    count = len(sizes)
    assert sorted(trained[:count]) == list(range(count))
    assert (np.diff(sizes[trained[:count]]) <= 0).all()  # the most frequent first
    assert (np.bincount(pattern) == sizes).all()  # every row comes
    # later on the task's own shares, but for the rows that came early
    for part in (trained, pattern[holdout]):
        share = np.bincount(part[: len(part) // 2], minlength=count) / (len(part) // 2)
        assert np.abs(share - sizes / sizes.sum()).max() < 2 * count / len(part)
    # test rows have the task's shares from the beginning
    plain = class_pattern(holdout, sizes, cover=False)
    for end in (20, 50, 200):
        part = plain[~holdout][:end]
        found = np.bincount(part, minlength=count)
        assert np.abs(found - end * sizes / sizes.sum()).max() < 1


def test_a_class_of_one_row_is_trained_on():
    classes = np.array([0] * 60 + [1] * 30 + [2])
    drawn = training_subsets(
        classes.astype(float),
        np.arange(91) < 20,
        classification=True,
        seeds=2,
        holdout_fraction=0.25,
        test_rows=None,
        root=0,
        task="t",
    )
    for seed in range(2):
        train, holdout = training_subset(drawn, 8, seed, classes)
        assert set(classes[train]) == {0, 1, 2}
        assert 2 not in classes[holdout]


def test_no_class_goes_to_the_hold_out_before_it_was_trained_on():
    sizes = np.array([5, 1, 1, 1, 1, 1, 1, 1])
    holdout = holdout_pattern(12, 0.25)
    pattern = class_pattern(holdout, sizes)
    assert set(pattern[~holdout]) == set(range(8))
    assert smallest_sample(np.repeat(range(8), sizes), 0.25) == 10  # eight and two held out


def test_rows_of_no_known_class_are_none():
    """A kernel's rows are some of a task's: the others have no label there."""
    labels = np.full(40, -1)
    labels[:16] = [0] * 8 + [1] * 8
    part = {"order": list(range(16)), "holdout": [i < 4 for i in range(16)]}
    subsets = {"holdout_fraction": 0.25, "seeds": [part]}
    with pytest.raises(UserError, match="no row of class 1 in its hold-out"):
        training_subset(subsets, 16, 0, labels)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(20, 120),
    st.floats(0.15, 0.85),
    st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5]),
    st.integers(0, 2**31),
)
def test_every_beginning_and_its_holdout_have_the_tasks_balance(rows, share, fraction, seed):
    classes = (np.arange(rows) < share * rows).astype(int)
    balance = classes.mean()
    order, holdout = nested_order(
        np.arange(rows),
        classes,
        size=rows,
        holdout_fraction=fraction,
        random=np.random.default_rng(seed),
    )
    assert sorted(order) == list(range(rows))
    for part in (holdout, ~holdout):
        in_part = classes[order[part]]
        drift = np.cumsum(in_part) - balance * np.arange(1, len(in_part) + 1)
        assert np.abs(drift[: len(drift) - 3]).max(initial=0) < 1 + 1e-6
        assert np.abs(drift).max(initial=0) < 2


LABELS = np.tile([0.0, 1.0, 1.0], 100)
IS_TEST = np.arange(300) % 3 == 2


def _subsets(**changes):
    settings_ = {
        "classification": False,
        "seeds": 3,
        "holdout_fraction": 0.25,
        "test_rows": 50,
        "root": 1,
        "task": "t",
    }
    return training_subsets(LABELS, IS_TEST, **(settings_ | changes))


def test_subsets_are_nested_and_their_rows_are_training_rows():
    found = _subsets()
    assert len(found["seeds"]) == 3
    train = set(np.flatnonzero(~IS_TEST).tolist())
    for seed in found["seeds"]:
        assert len(seed["order"]) == len(seed["holdout"]) == 200
        assert set(seed["order"]) == train
        assert [sum(seed["holdout"][:n]) for n in (16, 64, 128)] == [4, 16, 32]
    assert found["seeds"][0]["order"] != found["seeds"][1]["order"]


def test_a_larger_subset_holds_the_smaller_ones_in_both_parts():
    for classification in (False, True):
        found = _subsets(classification=classification)
        labels = LABELS if classification else None
        before = (set(), set())
        for size in (16, 64, 128, 200):
            parts = tuple(map(set, training_subset(found, size, 1, labels)))
            assert len(parts[0]) + len(parts[1]) == len(parts[0] | parts[1]) == size
            assert before[0] <= parts[0]
            assert before[1] <= parts[1]
            before = parts


def test_more_seeds_change_no_test_rows_and_no_earlier_seed():
    base, more = _subsets(), _subsets(seeds=5)
    assert more["seeds"][:3] == base["seeds"]
    assert more["test"] == base["test"]


def test_test_rows_are_of_the_test_split_and_all_if_there_are_fewer():
    test = np.flatnonzero(IS_TEST).tolist()
    assert len(_subsets()["test"]) == 50
    assert set(_subsets()["test"]) < set(test)
    assert _subsets()["test"] == sorted(_subsets()["test"])
    assert _subsets(test_rows=None)["test"] == _subsets(test_rows=10**6)["test"] == test


def test_classes_are_balanced_in_each_subset_and_its_holdout():
    found = _subsets(classification=True)
    for seed in found["seeds"]:
        labels, holdout = LABELS[seed["order"]], np.array(seed["holdout"])
        for n in (32, 64, 128):
            assert abs(labels[:n].mean() - 0.5) <= 1 / n
            assert labels[:n][holdout[:n]].mean() == 0.5


def test_test_rows_keep_the_classes_share():
    labels = (np.arange(1000) % 10 < 3).astype(float)
    found = training_subsets(
        labels,
        np.arange(1000) >= 500,
        classification=True,
        seeds=1,
        holdout_fraction=0.2,
        test_rows=100,
        root=1,
        task="t",
    )
    assert abs(labels[found["test"]].sum() - 30) <= 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (201, r"a subset of 201 rows is asked for, but the task has 200 training rows; lower"),
        (3, r"3 rows with holdout_fraction 0.25 has 0 hold-out .* sizes of 4 or more"),
        (4, r"a subset of 4 rows has no row of class \d in its hold-out \(1 rows\)"),
    ],
)
def test_a_subset_that_cannot_be_trained_on_is_told(size, message):
    with pytest.raises(UserError, match=message):
        training_subset(_subsets(classification=True), size, 0, LABELS)


def test_a_task_without_test_rows_is_told():
    with pytest.raises(UserError, match="t has no test rows"):
        training_subsets(
            LABELS,
            np.zeros(300, dtype=bool),
            classification=False,
            seeds=1,
            holdout_fraction=0.2,
            test_rows=5,
            root=1,
            task="t",
        )


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.safetensors"
    tensors = {
        "ids": torch.zeros(300, dtype=torch.int32),
        "offsets": torch.arange(301),
        "label": torch.from_numpy(LABELS),
        "label_noise": torch.full((300,), float("nan"), dtype=torch.float64),
        "is_test": torch.from_numpy(IS_TEST.astype(np.uint8)),
    }
    task = {"name": "t", "kind": "classification"}
    write_tensors(path, tensors, {"task": task, "data_sha256": "abc"})
    return path


def _run(verb, tokens, out, seed, *flags):
    command = ["data", verb, "--tokens", str(tokens), "--task", "t", "--seed", str(seed)]
    return main([*command, *flags, "--out", str(out)])


def _without_provenance(path):
    return json.dumps({k: v for k, v in read_json(path).items() if k != "provenance"})


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("draws", ["--rows", "20", "--draws", "2"]),
        ("subsets", ["--seeds", "2", "--holdout-fraction", "0.25"]),
    ],
)
def test_the_same_root_gives_the_same_content_and_another_root_another(
    tokens, tmp_path, verb, flags
):
    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        assert _run(verb, tokens, path, seed, *flags) == 0
    first, again, other = map(_without_provenance, paths)
    assert first == again != other
    provenance = read_json(paths[0])["provenance"]
    assert provenance["seeds"]["root"] == 5
    assert provenance["data_sha256"] == "abc"
    assert provenance["task"]["name"] == "t"


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("draws", ["--rows", "20", "--draws", "2"]),
        ("subsets", ["--seeds", "2", "--holdout-fraction", "0.25"]),
    ],
)
def test_tokens_of_another_task_are_refused(tokens, tmp_path, capsys, verb, flags):
    out = tmp_path / "a.json"
    assert _run(verb, tokens, out, 1, *flags, "--task", "u") == 1
    assert "tokens.safetensors holds task 't', not 'u'; give that task" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("draws", ["--rows", "1"], "--rows is 1: must be at least"),
        ("draws", ["--rows", "4", "--draws", "0"], "--draws is 0: must be at least 1"),
        ("subsets", ["--seeds", "0"], "--seeds is 0: must be at least 1"),
        ("subsets", ["--test-rows", "0"], "--test-rows is 0: must be at least"),
        ("subsets", ["--holdout-fraction", "1.0"], "--holdout-fraction is 1.0: must be "),
    ],
)
def test_numbers_out_of_their_limits_are_told(tokens, tmp_path, capsys, verb, words, message):
    assert _run(verb, tokens, tmp_path / "a.json", 1, *words) == 1
    assert message in capsys.readouterr().err


def test_mistakes_of_the_sampling_commands_leave_no_file(tokens, tmp_path, capsys):
    out = tmp_path / "draws.json"
    assert _run("draws", tokens, out, 1, "--rows", "500", "--draws", "2") == 1
    assert "t has 200 training rows" in capsys.readouterr().err
    assert not out.exists()
    tokens.write_bytes(tokens.read_bytes()[:-8])
    assert _run("draws", tokens, out, 1, "--rows", "5", "--draws", "2") == 1
    assert "tokens.safetensors is damaged" in capsys.readouterr().err
