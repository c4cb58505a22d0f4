"""Texts that are trained on and tested on."""

import numpy as np

from ntktune.taskvectors.overlap import overlap_counts, plain, shared


def test_plain_keeps_letters_and_digits_in_lower_case():
    assert plain("  It's GREAT --\treally!\n") == "it s great really"
    assert plain("ﬁne “Straße” 2.5") == "fine strasse 2 5"
    assert plain("!?") == ""


def test_an_empty_text_is_never_shared():
    assert shared(["", "a"], ["", "a"]).tolist() == [False, True]


def test_counts_of_exact_and_normalised_texts():
    tested = ["a good one", "A good one!", "never seen", "in the pool", "?!"]
    sample, pool = ["a good one", "?!"], ["a good one", "?!", "In the pool", "other"]
    counts, leaked = overlap_counts(tested, sample, pool)
    assert counts == {
        "test_rows": 5,
        "sample_exact": 2,
        "sample_normalised": 3,
        "pool_exact": 2,
        "pool_normalised": 4,
    }
    assert np.array_equal(leaked, [True, True, False, False, True])
