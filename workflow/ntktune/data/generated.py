"""Small generated tasks of invented words, for trying the study out without any data.

A word is two syllables. A text's score follows from its vowels, so that a model which sees only
bytes can learn it from a few dozen texts, and the noise of a score is known exactly.
"""

import numpy as np
import pandas as pd

CONSONANTS = "bdfgklmnprstvz"
VOWEL_WEIGHTS = {"a": 0.5, "o": 0.25, "u": 0.0, "e": -0.25, "i": -0.5}
SCALE = 4.0  # scores lie in [-2, 2] before noise
MARGIN = 0.2  # texts whose score is nearer to 0 than this belong to no class


def text_score(text: str) -> float:
    """Return a text's score without noise: four times the mean weight of its vowels."""
    weights = [VOWEL_WEIGHTS[letter] for letter in text if letter in VOWEL_WEIGHTS]
    return SCALE * float(np.mean(weights))


def generated_rows(
    kind: str, rows: dict[str, int], *, seed: int, words: int, noise: float
) -> dict[str, pd.DataFrame]:
    """Return the generated texts of each split: columns id, text_a, label, label_noise, group.

    ``rows`` is the number of texts by split, ``words`` the number of words in a text. A
    regression's label is score + N(0, noise^2), ``noise`` in units of the score; a classification's
    is 1 where the score is positive, and texts near 0 are left out. No text occurs twice.
    """
    generator = np.random.default_rng(seed)
    vowels, classes = list(VOWEL_WEIGHTS), kind == "classification"
    columns = ["id", "text_a", "label", "label_noise", "group"]
    seen: set[str] = set()
    frames = {}
    for split, count in rows.items():
        table = []
        while len(table) < count:
            # vowels are drawn from a mixture of the text's own, else all scores are near 0
            mixture = generator.dirichlet(np.ones(len(vowels)))
            syllables = [
                generator.choice(list(CONSONANTS)) + generator.choice(vowels, p=mixture)
                for _ in range(2 * words)
            ]
            text = " ".join("".join(pair) for pair in zip(*[iter(syllables)] * 2, strict=True))
            score = text_score(text)
            if text in seen or (classes and abs(score) < MARGIN):
                continue
            seen.add(text)
            name = f"{split}-{len(table)}"
            label = float(score > 0) if classes else score + noise * generator.normal()
            table.append((name, text, label, np.nan if classes else noise, name))
        frames[split] = pd.DataFrame(table, columns=columns)
    return frames
