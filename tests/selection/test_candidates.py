"""Candidates of a study: their scores before training, and their curves, on a tiny model."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from tiny_study import tuning_flags, write_model, write_task

from ntktune.__main__ import main
from ntktune.figures.tables import read_tables
from ntktune.kernel import gram
from ntktune.network.models import features, load_backbone, pad, text_model
from ntktune.selection.dynamics import TIMES, remaining_error, stopped_error
from ntktune.selection.ranking import kernel_scored, scored
from ntktune.store.records import read_json, read_table
from ntktune.store.tensors import read_tensors
from ntktune.study.candidates import cells
from ntktune.study.seeds import integer_seed

TASKS = {"scores": "regression", "kinds": "classification", "three": "classification"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    model = write_model(folder / "model")
    for task, kind in TASKS.items():
        write_task(folder, task, kind, model, classes=3 if task == "three" else 2)
    return folder


def command(study, verb, task, *more):
    words = ["--task", task, "--model", study / "model"]
    words += ["--tokens", study / f"{task}.safetensors"]
    words += ["--subsets", study / f"{task}.json", *more]
    return main(["selection", verb, *map(str, words)])


def scores_of(study, task, out, *more):
    how = ("--size", "20", "--seed", "1", "--seeds", "2", "--rows", "16", "--device", "cpu")
    assert command(study, "score", task, *how, *more, "--out", out) == 0
    return read_table(str(out))[0]


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_of_the_largest_samples_features_and_ntk(study, task, tmp_path):
    found = scores_of(study, task, tmp_path / "scores.parquet", "--kernel-seeds", "1")
    assert len(found) == 2 * 2 * 2 + 2  # seeds, poolings, head and layers; the NTK of one seed
    tokens, _ = read_tensors(str(study / f"{task}.safetensors"))
    ids = tokens["ids"].long().split(tokens["offsets"].diff().tolist())
    subset = read_json(study / f"{task}.json")["seeds"][0]
    labels = tokens["label"].double().numpy()
    classes = None if TASKS[task] == "regression" else 3 if task == "three" else 2

    def chosen(size):
        order, held = (np.array(subset[key][:size]) for key in ("order", "holdout"))
        rows = [*order[~held], *order[held]]
        return rows, labels[rows].astype(int if classes else float), int((~held).sum())

    rows, label, _ = chosen(20)
    backbone = load_backbone(study / "model", None, torch.float32).eval()
    for pooling in ("last", "mean"):
        backbone.pooling = pooling
        with torch.no_grad():
            states = features(backbone, *pad([ids[row] for row in rows])).double().numpy()
        own = found[(found["pooling"] == pooling) & (found["seed"] == 0)].set_index("kernel")
        wanted = scored(states, label, classes, 0)
        for name in ("probe", "gcv", "evidence", "alignment"):
            assert own.loc["head", name] == pytest.approx(wanted[name], rel=1e-3), name
        assert own.loc["ntk", "texts"] == 16
        part, label_part, trained = chosen(16)
        head = integer_seed(1, "kernel.head", task, 0, 0)
        network = text_model(study / "model", outputs=classes or 1, head_seed=0)
        network.reset_head(torch.Generator().manual_seed(head))
        network.backbone.pooling = pooling
        function = "scalar" if classes is None else "difference" if classes == 2 else "mean"
        made = gram(network, [ids[row] for row in part], outputs=function)
        kernel, start = made.kernel.numpy(), made.outputs.double().numpy()
        weights = sum(p.numel() for p in network.backbone.parameters())
        again = kernel_scored(kernel, label_part, classes, weights, 0, 2**-23)
        for name in ("gcv", "evidence", "alignment"):
            assert own.loc["ntk", name] == pytest.approx(again[name], rel=1e-3), name
        target = {None: (label_part - label_part.mean()) / label_part.std()}
        target |= {2: 2 * label_part - 1, 3: np.eye(3)[label_part.astype(int)] - 1 / 3}
        shift = start - start.mean(axis=0) - target[classes]
        inside = kernel[:trained, :trained]
        left = expm(-own.loc["ntk", "stop"] * inside) @ shift[:trained]
        assert own.loc["ntk", "remaining"] == pytest.approx(np.sum(left**2), rel=1e-3)


def test_no_kernel_and_other_seeds(study, tmp_path):
    out = tmp_path / "scores.parquet"
    found = scores_of(
        *(study, "scores", out, "--kernel-seeds", "0"),
        *("--poolings", "mean"),
    )
    assert found["kernel"].tolist() == ["head", "layers"] * 2
    assert found["seed"].tolist() == [0, 0, 1, 1]
    assert found["pooling"].unique().tolist() == ["mean"]


def test_a_kernel_of_texts_that_lack_a_class_has_no_scores_of_classes():
    features_ = np.random.default_rng(0).normal(size=(20, 30))
    label = np.arange(20) % 2
    kernel = features_ @ features_.T
    whole, lacking = (kernel_scored(kernel, label, classes, 30) for classes in (2, 3))
    for name in ("h_score", "n_leep", "trans_rate", "gaussian_overlap", "sfda"):
        assert np.isfinite(whole[name])
        assert np.isnan(lacking[name])
    assert np.isfinite([lacking[name] for name in ("gcv", "evidence", "alignment")]).all()


@pytest.mark.parametrize("outputs", [(), (3,)])
def test_the_stop_is_where_the_holdout_is_lowest(outputs):
    """Beside the flow by matrix exponential, at the same times."""
    rng = np.random.default_rng(3)
    features_, shift = rng.normal(size=(14, 30)), rng.normal(size=(14, *outputs))
    kernel, train, holdout = features_ @ features_.T, [*range(10)], [*range(10, 14)]
    left, stop = stopped_error(kernel, shift, train, holdout)
    inside = kernel[:10, :10]
    times = TIMES / np.linalg.eigh(inside)[0][-1]  # eigvalsh differs in the last bit
    assert stop in times
    gone = [shift[:10] - expm(-t * inside) @ shift[:10] for t in times]
    errors = [
        np.sum((shift[10:] - kernel[10:, :10] @ np.linalg.solve(inside, g)) ** 2) for g in gone
    ]
    assert errors[int(np.flatnonzero(times == stop)[0])] == pytest.approx(min(errors), rel=1e-9)
    assert left == pytest.approx(remaining_error(inside, shift[:10], stop))
    # a hold-out that training cannot help: never begin
    blocks = np.kron(np.eye(2), np.ones((7, 7)))
    assert stopped_error(blocks, np.ones(14), [*range(7)], [*range(7, 14)])[1] == 0


def test_candidates_are_gathered(study, tmp_path):
    """Both tables have all files' rows; a training's FLOPs count its steps."""
    every = cells(["a", "b"], ["mean"], ["full", "probe"])
    for model in ("a", "b"):
        (tmp_path / model).mkdir()
        scores_of(study, "scores", tmp_path / f"{model}/scores.parquet", "--kernel-seeds", "0")
    for cell in every:
        out = tmp_path / cell.file
        out.parent.mkdir(parents=True)
        flags = tuning_flags(study, "scores", size=(12, 20), method=cell.method)
        outs = ["--out-metrics", out, "--out-history", out.with_name("history.parquet")]
        assert main(["finetune", "run", *map(str, [*flags, *outs])]) == 0
    words = ["--task", "scores", "--folder", tmp_path, "--models", "a", "b", "--poolings", "mean"]
    words += ["--methods", "full", "probe"]
    outs = ["--out-scores", tmp_path / "s.parquet", "--out-curves", tmp_path / "c.parquet"]
    assert main(["selection", "gather", *map(str, [*words, *outs])]) == 0
    curves, scores = (read_table(str(tmp_path / f"{n}.parquet"))[0] for n in ("c", "s"))
    assert scores.groupby("model").size().tolist() == [8, 8]
    for name in ("scores", "curves"):  # without any NTK, too
        read_tables(name, [str(tmp_path / f"{name[0]}.parquet")])
    assert len(curves) == len(every) * 2 * curves["seed"].nunique()
    one, made = read_table(str(tmp_path / every[0].file))
    one = one[one["n"] == 12]
    per_text = 2 * scores["weights"].iloc[0] * scores["tokens"].mean()
    full = curves[(curves["model"] == "a") & (curves["method"] == "full") & (curves["n"] == 12)]
    # 12 texts less 2 held out, in batches of 4: three steps see 10
    assert (one["n_train"].iloc[0], made["settings"]["batch_size"]) == (10, 4)
    np.testing.assert_allclose(full["flops"], 3 * per_text * one["steps"] / 3 * 10, rtol=0.02)
    probe = curves[(curves["method"] == "probe") & (curves["n"] == 20)]
    np.testing.assert_allclose(probe["flops"], per_text * 20, rtol=0.02)
    words[1] = "kinds"
    assert main(["selection", "gather", *map(str, [*words, *outs])]) == 1
