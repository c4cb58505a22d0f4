"""Texts that are trained on and tested on."""

import numpy as np

from ntktune.taskvectors.overlap import joined, overlap_counts, plain, shared


def test_plain_keeps_letters_and_digits_in_lower_case():
    assert plain("  It's GREAT --\treally!\n") == "it s great really"
    assert plain("ﬁne “Straße” 2.5") == "fine strasse 2 5"
    assert plain("!?") == ""
    assert plain("हिन्दी") == "हिन्दी"  # its marks are no punctuation


def test_of_a_pair_the_order_means_nothing():
    assert joined("b", "a") == joined("a", "b") != joined("a", None) == joined("a", "")
    assert joined("B!", "a", plain) == joined("A", "b", plain)


def test_an_empty_text_is_never_shared():
    assert shared(["", "a"], ["", "a"]).tolist() == [False, True]


def test_counts_of_exact_and_normalised_texts():
    tested = ["a good one", "A good one!", "never seen", "in the pool", "?!"]
    sample, pool = ["a good one", "?!"], ["a good one", "?!", "In the pool", "other"]
    single = ([(text, None) for text in texts] for texts in (tested, sample, pool))
    counts, leaked = overlap_counts(*single)
    assert counts == {
        "test_rows": 5,
        "sample_exact": 2,
        "sample_normalised": 3,
        "pool_exact": 2,
        "pool_normalised": 4,
    }
    assert np.array_equal(leaked, [True, True, False, False, True])


def test_a_pair_is_the_same_the_other_way_round():
    counts, leaked = overlap_counts([("One.", "two")], [("two", "One.")], [("TWO", "one")])
    assert counts["sample_exact"] == counts["pool_normalised"] == 1
    assert counts["pool_exact"] == 0
    assert leaked.tolist() == [True]
