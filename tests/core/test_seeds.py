"""One root seed, one address per choice."""

from itertools import combinations

import numpy as np

from ntktune.study import seeds

ADDRESSES = [
    ("a", "t", 0, 0),
    ("b", "t", 0, 0),
    ("a", "u", 0, 0),
    ("a", "t", 1, 0),
    ("a", "t", 0, 1),
]


def test_same_address_same_numbers():
    first = seeds.generator(7, "data.draws", "amazon", 100, 2).random(4)
    assert np.array_equal(first, seeds.generator(7, "data.draws", "amazon", 100, 2).random(4))


def test_the_numbers_are_the_same_on_every_machine_and_day():
    """Known values: a change here changes every study's numbers."""
    assert (
        seeds.integer_seed(20260213, "kernel.head", "amazon-intensity", 0, 0) == 633732093177256048
    )


def test_every_part_of_the_address_and_the_root_matter():
    values = [seeds.integer_seed(1, *address) for address in ADDRESSES]
    values.append(seeds.integer_seed(2, *ADDRESSES[0]))
    assert all(a != b for a, b in combinations(values, 2))
    assert all(0 <= v < 2**63 for v in values)
