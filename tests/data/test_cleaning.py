"""Cleaning: every row that is read is counted once, and nothing of the test split is trained on."""

import math

import numpy as np
import pandas as pd
import pytest

from ntktune.data.cleaning import (
    FATES,
    classes_line,
    content_sha256,
    counts_line,
    found_classes,
    hash_order,
    hashed_fraction,
    label_name,
    task_table,
)
from ntktune.errors import UserError
from ntktune.study.config import complete_definition


def _task(**changes):
    base = {"title": "T", "kind": "regression", "sources": [{"files": {"train": "x"}}]}
    if changes.get("kind") == "classification":
        base["classes"] = ["no", "yes"]
    return complete_definition(base | changes, "t")


def _frame(texts, labels, **columns):
    return pd.DataFrame({"text_a": texts, "label": labels} | columns, dtype=object)


def _two(train, test, definition):
    return task_table({"train": _frame(*train), "test": _frame(*test)}, definition)


def test_each_fate_is_counted_and_they_add_up():
    table, counts = _two(
        (
            ["a", " a ", "a", "b\tc", "b c", "", None, "d", "e", "f", "t1"],
            [1, 1, 2, 3, 3, 1, 1, "", "NA", math.nan, 5],
        ),
        (["t1", "t2", "t2"], [4, 1, 1]),
        _task(),
    )
    # a published test split keeps its repetitions, so that scores on it compare
    assert table["text_a"].tolist() == ["a", "b\tc", "t1", "t2", "t2"]
    assert table["label"].tolist() == [1, 3, 4, 1, 1]
    assert table["split"].tolist() == ["train", "train", "test", "test", "test"]
    train = {"read": 11, "kept": 2, "empty": 2, "unlabelled": 3, "duplicated": 3, "leaked": 1}
    named = {"empty": [6, 7], "duplicated": [2, 3, 5], "leaked": [11], "conflicting": [3, 11]}
    train |= {"conflicting": 2, "rows": named}
    assert {k: v for k, v in counts["train"].items() if v} == train
    assert counts["test"]["repeated"] == 1
    for split in counts.values():
        assert sum(split[fate] for fate in FATES) == split["read"]
    assert counts_line(counts) == (
        "train 2 rows of 11 (2 empty: rows 6, 7; 3 unlabelled; 3 duplicated: rows 2, 3, 5; "
        "1 leaked: row 11; 2 conflicting: rows 3, 11); test 3 rows of 3 (1 repeated: row 3)"
    )


def test_of_many_rows_in_error_the_first_few_are_named_as_they_stand_in_the_file():
    frame = _frame(["a", "b", "c", "d", "e", "f", *"abcdef"], [*range(6)] * 2)
    _, counts = task_table({"train": frame}, _task(test_fraction=0.3))
    told = [row for split in counts.values() for row in split["rows"]["duplicated"]]
    assert len(told) >= 5
    assert set(told) <= set(range(7, 13))  # of either split, by their place in the one file
    _, counts = task_table({"train": frame}, _task(), divide=False)
    line = "train 6 rows of 12 (6 duplicated: rows 7, 8, 9, 10, 11, …)"
    assert counts_line({"train": counts["train"]}) == line


def test_the_rows_of_each_class_are_counted_by_split():
    texts = (list("abcd"), ["no", "no", "yes", "no"]), (list("xyz"), ["yes", "no", "yes"])
    definition = _task(kind="classification")
    table, _ = _two(*texts, definition)
    assert classes_line(table, definition["classes"]) == (
        "classes in train: no 3, yes 1; in test: no 1, yes 2"
    )
    many = pd.DataFrame({"split": "train", "label": [0.0] * 5 + [*range(6)]})
    assert classes_line(many, list("abcdefg")) == "classes in train: 7, of 0 to 6 rows each"


def test_a_text_of_the_test_split_is_removed_from_training_not_from_the_test():
    table, counts = _two((["x  y", "z"], [1, 2]), (["x y"], [1]), _task())
    assert table[table["split"] == "test"]["text_a"].tolist() == ["x y"]
    assert table[table["split"] == "train"]["text_a"].tolist() == ["z"]
    assert counts["train"]["leaked"] == 1
    assert counts["train"]["conflicting"] == 0


def test_pairs_are_the_same_only_if_both_texts_are():
    task = _task(template="{text_a} {text_b}", columns={"text_b": "b"})
    frame = _frame(["a", "a", "a b", "a"], [1, 2, 3, 4], text_b=["b c", "d", "c", ""])
    table, counts = task_table({"train": frame, "test": _frame(["q"], [1], text_b=["r"])}, task)
    assert len(table) == 4
    assert counts["train"]["empty"] == 1


def test_a_band_makes_classes_of_scores_bounds_being_neutral():
    task = _task(kind="classification", polarity_band=[-0.5, 0.5], score_range=[-4, 4])
    labels = [-4, -0.51, -0.5, 0, 0.5, 0.51, "4"]
    table, counts = _two((list("abcdefg"), labels), (["x", "y"], [-1, 1]), task)
    assert table["label"].tolist() == [0, 0, 1, 1, 0, 1]
    assert counts["train"]["neutral"] == 3
    assert table["label_noise"].isna().all()


def test_a_label_map_chooses_two_of_many_labels():
    task = _task(kind="classification", label_map={"contradiction": 0, "2": 1})
    labels = ["contradiction", 2, "neutral", 2.0, None]
    table, counts = _two((list("abcde"), labels), (["x", "y"], ["2", "contradiction"]), task)
    assert table["label"].tolist() == [0, 1, 1, 1, 0]
    assert counts["train"]["unlabelled"] == 2


def test_raw_classes_are_zero_and_one_and_minus_one_is_unlabelled():
    task = _task(kind="classification")
    labels = [np.int64(0), True, "1.0", -1]
    table, counts = _two((list("abcd"), labels), (["x", "y"], [0, 1]), task)
    assert table["label"].tolist() == [0, 1, 1, 0, 1]
    assert counts["train"]["unlabelled"] == 1
    with pytest.raises(
        UserError, match=r"row 2 of train \(id train-1\) has the label '2' .*name it in classes too"
    ):
        _two((list("ab"), [0, 2]), (["x"], [1]), task)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", None, "c", "a", "b", "c", "b"], ["a", "b", "c"]),
        ([10, 2.0, "3", "nan", 2, 10, 3, 2], ["2", "3", "10"]),
        (["5", "b", "5", "b", "b", "10", "10", "b"], ["10", "5", "b"]),
    ],
)
def test_classes_are_the_labels_of_the_data_in_order(labels, names):
    train, test = _frame(list("abcdefgh"), labels), _frame(["x"], [names[0]])
    assert found_classes({"train": train, "test": test}) == names
    task = _task(kind="classification", classes=names)
    table, _ = task_table({"train": train, "test": test}, task)
    kept = [label_name(label) for label in labels if label not in (None, "nan")]
    assert [names[int(label)] for label in table["label"]] == [*kept, names[0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], "two classes or more; the labels are: 'a'"),
        ([0.5, 1.5, 2.5], r"3 labels are of 3 classes \('0.5', .*kind: regression"),
        ([-1, 1, -1, 1], "some labels are negative .*label_map"),
        ([0.5, 1, 0.5, 1], "look like scores .'0.5', '1'.; write kind: regression, or make"),
    ],
)
def test_labels_that_do_not_look_like_classes_are_told(labels, message):
    with pytest.raises(UserError, match=message):
        found_classes({"train": _frame(list("abcd")[: len(labels)], labels)})


def test_names_that_are_numbers_are_no_places():
    """A class "2" is not the third one, and another label is no class."""
    task = _task(kind="classification", classes=["1", "2", "5"])
    table, _ = _two((list("abc"), [5, 1, "2.0"]), (["x"], [2]), task)
    assert table["label"].tolist() == [2, 0, 1, 1]
    with pytest.raises(UserError, match=r"label '0' .* none of the classes '1', '2', '5'"):
        _two((list("abcd"), [5, 1, 2, 0]), (["x"], [2]), task)


def test_of_several_classes_the_training_rows_need_every_one():
    task = _task(kind="classification", classes=["a", "b", "c"])
    table, _ = _two((list("uvw"), ["a", "b", "c"]), (["x"], ["a"]), task)
    assert table["label"].tolist() == [0, 1, 2, 0]
    with pytest.raises(UserError, match=r"no row of class 'c' is left in the train split"):
        _two((list("uv"), ["a", "b"]), (["x"], ["c"]), task)


def test_label_names_of_numbers_do_not_depend_on_their_type():
    assert [label_name(x) for x in (1, 1.0, "1", " 1.0 ", True, np.float32(1))] == ["1"] * 6
    assert label_name("yes ") == "yes"
    assert label_name(1.5) == "1.5"
    assert label_name(None) is label_name(math.nan) is label_name(" ") is None


def test_a_score_out_of_range_is_an_error_that_names_the_row():
    frame = _frame(["a", "b"], [1, 7.5], id=["first", "second"])
    with pytest.raises(UserError, match=r"row 2 of train \(id second\) has score 7.5, outside sco"):
        task_table({"train": frame, "test": frame}, _task(score_range=[0, 5]))


def test_known_noise_is_kept_for_scores():
    frame = _frame(["a", "b"], [1, 2], label_noise=[0.1, None])
    table, _ = task_table({"train": frame, "test": _frame(["c"], [1])}, _task())
    assert table["label_noise"].tolist()[0] == 0.1
    assert table["label_noise"].isna().tolist() == [False, True, True]


def test_documents_stay_whole_and_two_tasks_divide_them_alike():
    names = [f"d{i // 5}" for i in range(1000)]
    texts = [f"text {i}" for i in range(1000)]
    frame = _frame(texts, np.linspace(-1, 1, 1000), group=names, id=texts)
    table, counts = task_table({"train": frame}, _task(test_fraction=0.25))
    of_document = dict(zip(texts, names, strict=True))
    sides = table.groupby(table["id"].map(of_document))["split"].nunique()
    assert (sides == 1).all()
    assert 0.18 < counts["test"]["kept"] / 1000 < 0.32
    other = frame.assign(text_a=[t.upper() for t in texts])
    polar = _task(kind="classification", polarity_band=[-0.2, 0.2], test_fraction=0.25)
    classes, _ = task_table({"train": other.sample(frac=1, random_state=1)}, polar)
    sides_of = dict(zip(table["id"], table["split"], strict=True))
    assert all(sides_of[row.id] == row.split for row in classes.itertuples())


def test_without_documents_the_text_decides():
    frame = _frame([f"t {i}" for i in range(400)], range(400))
    table, _ = task_table({"train": frame}, _task())
    test = set(table[table["split"] == "test"]["text_a"])
    assert test == {t for t in frame["text_a"] if hashed_fraction(f"{t}\n", "test") < 0.2}
    assert 50 < len(test) < 110


def test_limits_choose_by_hash_and_a_larger_limit_keeps_the_smaller_ones_rows():
    def chosen(limit, frame):
        task = _task(limits={"train": limit})
        table, counts = task_table({"train": frame, "test": _frame(["x"], [1])}, task)
        assert counts["train"]["beyond_limit"] == 200 - limit
        return table[table["split"] == "train"]["text_a"].tolist()

    frame = _frame([f"t{i:03d}" for i in range(200)], range(200))
    small, large = chosen(20, frame), chosen(60, frame)
    assert set(small) < set(large)
    assert small == sorted(small)  # the order of the source is kept
    assert set(chosen(20, frame.iloc[::-1])) == set(small)
    assert hash_order(frame["text_a"].tolist(), 500).tolist() == list(range(200))


@pytest.mark.parametrize(
    ("train", "test", "changes", "message"),
    [
        ((["a"], [""]), (["b"], [1]), {}, r"0 rows are left in the train split.*1 unlabelled"),
        ((["a"], [1]), (["b"], [None]), {}, r"0 rows are left in the test split, expected at le"),
        ((["a"], [1]), (["b"], [1]), {"train_rows": 2}, r"1 rows .*at least 2 .*correct train_r"),
        ((["a", "b"], [1, 1]), (["c", "d"], [0, 1]), {"kind": "classification"},
         r"no row of class 'no' is left in the train split"),
        ((["a", "b"], [0, 1]), (["c", "d"], [0, 0]), {"kind": "classification"},
         r"no row of class 'yes' is left in the test split .*; check classes, label_map or "
         r"polarity_band$"),
        ((["a", "b"], [-1, 1]), (["c", "d"], [0, 1]), {"kind": "classification"},
         r"no row of class 'no' .*; negative labels .*; for classes −1 and 1 write "
         r"label_map: \{'-1': 0, '1': 1\}$"),
        ((["a", "b"], [0.5, 3]), (["c", "d"], [0, 1]), {"kind": "classification"},
         r"none of the classes 'no', 'yes'; .*, or make classes of scores with polarity_band$"),
        ((["a", "b"], [-7, 9]), (["c", "d"], [0, 1]), {"score_range": [-4, 4]},
         r"has score -7, outside score_range \[-4, 4\]; the column label goes from -7 to 9: corr"),
        ((["a", "b"], [3, 3.0]), (["c", "d"], [1, 2]), {},
         r"all labels of the train split are 3 \(train 2 rows of 2\); a regression needs"),
        ((["a", "b"], [3, 4]), (["c", "d"], [1, 1]), {}, r"all labels of the test split are 1"),
    ],
)  # fmt: skip
def test_a_split_without_rows_or_without_a_class_is_an_error(train, test, changes, message):
    with pytest.raises(UserError, match=message):
        _two(train, test, _task(**changes))


def test_too_few_texts_for_a_test_split_are_told_as_such():
    with pytest.raises(UserError, match=r"0 rows .* test split.*; give more different texts"):
        task_table({"train": _frame(["same"] * 9, range(9))}, _task())


def test_the_checksum_is_of_the_content():
    def checksum(labels=(1, 2), ids=("p", "q"), texts=("a", "b")):
        frame = _frame(list(texts), list(labels), id=list(ids))
        table, _ = task_table({"train": frame, "test": _frame(["c"], [1])}, _task())
        return content_sha256(table)

    assert checksum() == checksum(ids=("r", "s")) == checksum(labels=("1.0", 2))
    assert len({checksum(), checksum(labels=(1, 3)), checksum(texts=("a", "B"))}) == 3


@pytest.mark.parametrize(
    ("changes", "labels", "message"),
    [
        ({}, [1, "1,250", "2,5", 3], r"row 2 of train \(id train-1\) has the label '1,250' "
         r"\(column label\), which is no number; 2 of 4 rows are like it: '1,250', '2,5'; write n"),
        ({}, ["good", "bad", "", "good"], r"row 1 .*3 of 4 rows .*'good', 'bad'; labels that are"),
        ({}, [1, 2, 3, math.inf], r"row 4 .* label 'inf' .*1 of 4 rows"),
        ({}, ["1_000", 2, 3, 4], r"row 1 .* label '1_000'"),
        ({"kind": "classification", "polarity_band": [0, 0]}, [1, -1, "good", 3], r"'good'.* no n"),
        ({"kind": "classification"}, ["no", "yes", "maybe", "so so"], r"row 3 .* label 'maybe' .*"
         r"none of the classes 'no', 'yes'; 2 of 4 rows are like it: 'maybe', 'so so'; .*"
         r"name it in classes too, or list in label_map the labels that count"),
        ({"kind": "classification", "label_map": {"1": 0, "1.0": 1}}, [1, 1, 1, 1], r"the label 1"),
    ],
)  # fmt: skip
def test_a_label_that_is_there_and_cannot_be_used_is_a_mistake(changes, labels, message):
    with pytest.raises(UserError, match=message):
        _two((list("abcd"), labels), (["x", "y"], [1, 0]), _task(**changes))


def test_a_cell_that_says_that_there_is_no_label_is_no_mistake():
    labels = ["1", "", " ", None, math.nan, np.float32("nan"), pd.NA, "NaN", "N/A", "null"]
    table, counts = _two((list("abcdefghij"), labels), (["x"], [1]), _task())
    assert table["label"].tolist() == [1, 1]
    assert counts["train"]["unlabelled"] == 9


def test_labels_are_the_names_of_the_classes_or_what_the_map_has_however_it_is_written():
    train, test = (list("abcd"), ["yes", "no", 1.0, ""]), (["x", "y"], ["no", "1"])
    table, counts = _two(train, test, _task(kind="classification"))
    assert table["label"].tolist() == [1, 0, 1, 0, 1]
    assert counts["train"]["unlabelled"] == 1
    for keys in (("0", "1"), ("0.0", "1.0")):
        task = _task(kind="classification", label_map=dict(zip(keys, (0, 1), strict=True)))
        table, _ = _two((list("abc"), ["0.0", "1.0", 1]), (["x", "y"], [0, 1]), task)
        assert table["label"].tolist() == [0, 1, 1, 0, 1]


def test_a_noise_that_is_no_number_is_a_mistake():
    frame = _frame(["a", "b"], [1, 2], label_noise=[0.1, "0,1"])
    with pytest.raises(UserError, match=r"row 2 of train \(id train-1\) has the label_noise '0,1'"):
        task_table({"train": frame, "test": frame}, _task())
