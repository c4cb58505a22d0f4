"""Models ranked for the texts of one file, without training."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from ntktune.__main__ import main
from ntktune.data.pretrained import write_model
from ntktune.errors import UserError
from ntktune.network.models import features, load_backbone, pad
from ntktune.selection.ranking import Pooled, check_labels, cross_validated, folds, ranked, scored
from ntktune.store.records import read_table

LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24}
LLAMA |= {"num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 64}
GPT_NEO = {"model_type": "gpt_neo", "hidden_size": 16, "num_layers": 2, "num_heads": 2}
GPT_NEO |= {"attention_types": [[["global"], 2]], "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, and texts whose class and score are in their words."""
    folder = tmp_path_factory.mktemp("models")
    for name, random in (("llama", LLAMA), ("neo", GPT_NEO)):
        write_model({"name": name, "random": random}, folder / name)
    words = ["good", "bad", "fine"]
    rows = [f"{i % 3},a {words[i % 3]} text of number {i},{words[i % 3]}" for i in range(60)]
    (folder / "reviews.csv").write_text("\n".join(["stars,review,kind", *rows]))
    return folder


@pytest.fixture
def rank(folder, capsys):
    def run(*more, models=("llama", "neo")):
        words = ["--models", *(str(folder / name) for name in models), "--text-column", "review"]
        words += ["--data", str(folder / "reviews.csv"), "--rows", "45", "--device", "cpu"]
        return main(["selection", "rank", *words, *more]), *capsys.readouterr()

    return run


def test_pooled_features_are_those_of_one_pooling_each(folder):
    backbone = load_backbone(folder / "llama", None, torch.float32).eval()
    ids, mask = pad([torch.arange(5), torch.arange(9), torch.arange(2)])
    with torch.no_grad():
        found = Pooled(backbone)(ids, mask)
        states = backbone(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        for place, pooling in enumerate(("last", "mean")):
            backbone.pooling = pooling
            torch.testing.assert_close(found[:, place], features(backbone, ids, mask))
    blocks = torch.stack(states.hidden_states[1:]).mean(dim=0)
    for text, length in enumerate((5, 9, 2)):
        torch.testing.assert_close(found[text, 2], blocks[text, :length].mean(dim=0))


@pytest.mark.parametrize("label", [["stars"], ["kind", "--classes"]])
def test_models_are_ranked_by_what_they_tell(rank, tmp_path, label):
    out = tmp_path / "rank.parquet"
    status, printed, said = rank("--label-column", *label, "--out", str(out))
    assert status == 0, said
    table, _ = read_table(str(out))
    assert len(table) == 6
    assert table["probe"].is_monotonic_decreasing
    assert ((table["low"] <= table["probe"]) & (table["probe"] <= table["high"])).all()
    names = [line.split()[:2] for line in printed.split("\n\n")[1].splitlines()[1:]]
    assert names == table[["model", "pooling"]].to_numpy().tolist()
    of_classes = table[["h_score", "n_leep", "trans_rate", "gaussian_overlap", "sfda"]]
    assert of_classes.notna().all(axis=None) == (label[0] == "kind")
    assert ("the most frequent class has 0.3" in printed) == (label[0] == "kind")
    assert np.isfinite(table[["gcv", "evidence", "alignment", "nearest", "parc"]]).all(axis=None)


def test_a_model_that_is_named_twice_is_told(rank):
    for again in ("neo", "./neo", "llama/../neo"):
        status, _, said = rank("--label-column", "stars", models=("neo", again))
        assert (status, said.count("\n")) == (1, 1)
        assert "more than once" in said


def test_a_missing_model_is_told_before_any_is_loaded(rank, folder):
    (folder / "nothing").mkdir(exist_ok=True)
    status, printed, said = rank("--label-column", "stars", models=("neo", "nothing"))
    assert (status, printed, said.count("\n")) == (1, "", 1)
    assert "is no model folder" in said


def test_every_text_is_tested_once_by_a_probe_that_has_not_seen_it():
    label = np.repeat([0, 1, 2], [8, 12, 20])
    tested = []
    for train, holdout, test in folds(label, 0, stratified=True):
        assert sorted([*train, *holdout, *test]) == list(range(40))
        assert len(holdout) > 5
        tested += test
        for part in (train, test):
            assert set(label[part]) == {0, 1, 2}
    assert sorted(tested) == list(range(40))


def test_the_cross_validated_score_is_that_of_new_texts():
    """Of features that tell the classes, of such that do not, and of memorised noise."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 300)
    told = rng.normal(size=(3, 40))[label] + 1.5 * rng.normal(size=(300, 40))
    score, low, high = cross_validated(told[:200], label[:200], 3)
    fresh = RidgeClassifier(30).fit(told[:160], label[:160]).score(told[200:], label[200:])
    assert low < fresh < high
    _, low, high = cross_validated(rng.normal(size=(200, 400)), label[:200], 3)
    assert low < 1 / 3 < high < score
    line = told @ rng.normal(size=40)
    assert cross_validated(told, line, None)[0] > 0.99
    assert set(scored(told, line, None)) == set(scored(told, label, 3))


def test_scores_that_features_do_not_tell_have_no_correlation():
    """On average and in the interval: each fold's own mean would make it negative."""
    rng = np.random.default_rng(1)
    found = [
        cross_validated(rng.normal(size=(100, 64)), rng.normal(size=100), None) for _ in range(60)
    ]
    assert abs(np.mean([score for score, *_ in found])) < 0.04  # three standard errors
    assert sum(high < 0 for *_, high in found) <= 5


def test_the_order_is_by_probe_then_gcv():
    rows = [{"probe": p, "gcv": g} for p, g in ((0.5, 0.1), (0.8, 0.9), (0.8, 0.2))]
    assert ranked(rows) == [rows[2], rows[1], rows[0]]


@pytest.mark.parametrize(
    ("label", "classes", "told"),
    [
        (np.array([0] * 30 + [1]), 2, r"\[30, 1\] texts"),
        (np.arange(9.0), None, r"\[9\] texts"),
        (np.full(30, 0.1), None, "the same label"),  # whose standard deviation is not quite 0
        (np.zeros(30, int), 1, "the same label"),
        (np.array([0, 1] * 4), 2, "10 in all"),
    ],
)
def test_labels_that_tell_nothing_are_told(label, classes, told):
    with pytest.raises(UserError, match=told):
        check_labels(label, classes)
    check_labels(np.array([0, 1] * 5), 2)
