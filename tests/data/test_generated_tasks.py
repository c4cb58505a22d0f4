"""Generated tasks: known noise, learnable labels, no text twice."""

import numpy as np
import pytest

from ntktune.data.generated import MARGIN, generated_rows, text_score


def test_a_score_is_four_times_the_mean_weight_of_the_vowels():
    assert text_score("bada gogo") == pytest.approx(4 * (0.5 + 0.5 + 0.25 + 0.25) / 4)
    assert text_score("bibi zizi") == -2.0


def test_the_noise_of_a_generated_score_is_what_it_says():
    frame = generated_rows("regression", {"train": 2000}, seed=3, words=5, noise=0.3)["train"]
    errors = frame["label"] - [text_score(text) for text in frame["text_a"]]
    assert (frame["label_noise"] == 0.3).all()
    assert errors.std() == pytest.approx(0.3, rel=0.05)
    assert errors.mean() == pytest.approx(0, abs=0.03)
    assert {len(text.split()) for text in frame["text_a"]} == {5}


def test_classes_are_the_sign_of_the_score_and_keep_off_zero():
    frames = generated_rows("classification", {"train": 300, "test": 100}, seed=1, words=4, noise=9)
    for frame in frames.values():
        scores = np.array([text_score(text) for text in frame["text_a"]])
        assert (np.abs(scores) >= MARGIN).all()
        assert ((scores > 0) == (frame["label"] == 1)).all()
        assert 0.35 < frame["label"].mean() < 0.65
    assert not set(frames["train"]["text_a"]) & set(frames["test"]["text_a"])


def test_the_same_seed_gives_the_same_texts_and_another_gives_others():
    def texts(seed):
        frames = generated_rows("regression", {"train": 5}, seed=seed, words=3, noise=0.1)
        return frames["train"].to_dict("list")

    assert texts(1) == texts(1)
    assert texts(1)["text_a"] != texts(2)["text_a"]


def test_vowel_counts_explain_a_generated_score():
    frame = generated_rows("regression", {"train": 200}, seed=5, words=4, noise=0.3)["train"]
    counts = np.array([[t.count(v) for v in "aeiou"] for t in frame["text_a"]], dtype=float)
    fit, *_ = np.linalg.lstsq(counts, frame["label"].to_numpy(), rcond=None)
    residual = frame["label"] - counts @ fit
    assert residual.std() == pytest.approx(0.3, rel=0.15)
    assert fit == pytest.approx([0.25, -0.125, -0.25, 0.125, 0.0], abs=0.03)  # 4 · weight / 8
