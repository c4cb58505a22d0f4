"""Sentences with ratings: labels, their known noise, and files that are not what they should be."""

import math

import pytest

from ntktune.data.scored_sentences import rating_error, scored_sentences
from ntktune.errors import UserError

BOM = b"\xef\xbb\xbf"
RATINGS = BOM + b"1_1\t-0.5\t0.9\t[0, -1, 0, -1]\r\n1_2\t2\t0\t[2, 2]\r\n7\t1.5\t1\t[1, 2]\r\n"


def test_label_noise_is_the_standard_error_of_the_mean():
    table, counts = scored_sentences(
        BOM + b'1_1\t-0.5\t"said" he.\r\n\r\n7\t1.5\ta\tb\r\n1_2\t2\tc\r\n', RATINGS, "x"
    )
    assert table["id"].tolist() == ["1_1", "7", "1_2"]  # ids match the files, not positions
    assert table["group"].tolist() == ["1", "7", "1"]
    assert table["text_a"].tolist() == ['"said" he.', "a\tb", "c"]
    assert table["label"].tolist() == [-0.5, 1.5, 2.0]
    # sd of (0, -1, 0, -1) with n - 1 is sqrt(1/3), over the root of 4
    assert table["label_noise"].tolist() == pytest.approx([math.sqrt(1 / 3) / 2, 0.5, 0.0])
    assert counts == {"without_ratings": 0, "mismatched_ratings": 0}


def test_noise_is_unknown_without_ratings_or_with_those_of_another_mean():
    table, counts = scored_sentences(b"1_1\t-0.4\ta\n9\t1\tb\n7\t1.5\tc\n", RATINGS, "x")
    assert table["label_noise"].isna().tolist() == [True, True, False]
    assert table["label"].tolist() == [-0.4, 1.0, 1.5]
    assert counts == {"without_ratings": 1, "mismatched_ratings": 1}


def test_one_rating_has_no_standard_error():
    assert math.isnan(rating_error([3.0]))


@pytest.mark.parametrize(
    ("sentences", "ratings", "message"),
    [
        (b"1\t2\n", RATINGS, r"x, line 1: 2 tab-separated fields, expected 3"),
        (b"1\ttwo\ta\n", RATINGS, r"x, id 1: the mean 'two' is no number"),
        (b"1\t2\ta\n1\t2\tb\n", RATINGS, r"x, id 1 appears twice"),
        (b"1\t2\ta\n", b"1\t2\t0\t[1\n", r"x \(ratings\), id 1: '\[1' is no list of ratings"),
        (b"1\t2\ta\n", b"1\t2\t0\t7\n", r"'7' is no list of ratings"),
        (b"1\t2\ta\n", b"1\t2\t0\n", r"x \(ratings\), line 1: 3 tab-separated fields, expected 4"),
        (b"1\t2\t\xff\n", RATINGS, r"x is not UTF-8 text"),
    ],
)
def test_a_line_of_another_form_is_named(sentences, ratings, message):
    with pytest.raises(UserError, match=message):
        scored_sentences(sentences, ratings, "x")
