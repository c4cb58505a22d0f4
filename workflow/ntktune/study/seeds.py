"""Random seeds, all derived from the study's one root seed.

Every random choice has an address: chapter, task, size, repeat. It becomes the spawn key of
:class:`numpy.random.SeedSequence`, so adding a task, a size or a repeat changes no other choice.
"""

import hashlib

import numpy as np

from ntktune.errors import UserError


def _word(name: str) -> int:
    """Return a stable 32-bit number for a name (Python's own hash is salted)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def generator(
    root: int, chapter: str, task: str = "", size: int = 0, repeat: int = 0
) -> np.random.Generator:
    """Return a NumPy generator at one address of the study; raise UserError if root < 0."""
    if root < 0:
        raise UserError(f"the seed is {root}; it must be 0 or more")
    key = (_word(chapter), _word(task), size, repeat)
    return np.random.default_rng(np.random.SeedSequence(root, spawn_key=key))


def integer_seed(root: int, chapter: str, task: str = "", size: int = 0, repeat: int = 0) -> int:
    """Return a 63-bit integer seed at one address, for ``torch.Generator.manual_seed``."""
    sequence = generator(root, chapter, task, size, repeat).bit_generator.seed_seq
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
