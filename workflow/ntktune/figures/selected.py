"""How well scores, and losses at small sizes, tell which candidate fine-tunes best.

``curves`` and ``scores`` are tables of :mod:`ntktune.figures.tables`. A candidate is a model under
a pooling; its truth is the test score at the largest size, a mean over seeds.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import weightedtau

from ntktune.errors import UserError
from ntktune.figures.choice import scores as test_scores
from ntktune.figures.measures import kendall_tau, of_task
from ntktune.intervals import half_width, shared_rows
from ntktune.selection.accept import METHODS, Curves
from ntktune.selection.laws import LINE, POWER, RECTIFIED, fitted, measured_start, predicted
from ntktune.study.candidates import PASS

CANDIDATE = ["model", "pooling"]
KERNELS = {"head": "head's features", "layers": "mean over blocks", "ntk": "NTK"}
# score of a kernel → its label, and whether more is better
SCORES = {
    "probe": ("linear probe", True),
    "gcv": ("predicted error (GCV)", False),
    "evidence": ("evidence (LogME)", True),
    "alignment": ("alignment", True),
    "nearest": ("nearest neighbours", True),
    "parc": ("PARC", True),
    "h_score": ("H-score", True),
    "n_leep": ("N-LEEP", True),
    "trans_rate": ("TransRate", True),
    "gaussian_overlap": ("GBC", True),
    "sfda": ("SFDA", True),
}
SIZE, SMALL = "ModelSize", "SubTuning"  # as Lin et al. 2024 call them
FEW = (2, 3, 4)  # sizes that a law is fitted to
LAWS = {"rectified": RECTIFIED, "power": POWER, "line": LINE}
MEASURED = "measured"  # the rectified law with D_l = F
PASSES = {"head": 1, "layers": 1, "ntk": 3}  # forward, and backward for the NTK


class Method(NamedTuple):
    """A way to choose: what it says of each candidate, (candidates, seeds), the more the better."""

    name: str
    kernel: str
    said: pd.DataFrame
    flops: float  # of all candidates


def with_loss(curves: pd.DataFrame) -> pd.DataFrame:
    """Return ``curves`` with ``score`` (more is better) and ``loss``, on which laws are fitted.

    Both are of the test rows, as in Lin et al. 2024. The loss is the cross entropy, or the mean
    squared error over that of predicting the training mean, one constant for a task.
    """
    constant = curves.groupby("task")["baseline_mse"].transform("mean")
    is_regression = curves["kind"] == "regression"
    loss = (curves["mse"] / constant).where(is_regression, curves["cross_entropy"])
    return curves.assign(score=test_scores(curves), loss=loss)


def first_method(curves: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return :func:`with_loss` of a task's fine-tunings by the study's first method."""
    own = of_task(curves, task)
    return with_loss(own[own["method"] == own["method"].iloc[0]])


def by_seed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column as (candidates, seeds)."""
    return rows.pivot_table(index=CANDIDATE, columns="seed", values=column, sort=False)


def mean_curves(curves: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the sizes, ascending, and each candidate's loss, (candidates, sizes), over seeds."""
    found = curves.pivot_table(index=CANDIDATE, columns="n", values="loss", sort=False)
    found = found[sorted(found)]
    return found.columns.to_numpy(float), found


def measured_sizes(scores: pd.DataFrame) -> pd.Series:
    """Return each candidate's F(Θ, t), a mean over seeds; none where no NTK was computed."""
    return scores[scores["kernel"] == "ntk"].groupby(CANDIDATE, sort=False)["remaining"].mean()


def choosing(curves: pd.DataFrame, scores: pd.DataFrame) -> Iterator[Method]:
    """Yield ways to choose among one task's candidates before the largest size is trained.

    ``curves`` are :func:`with_loss`, of one task and one method of fine-tuning. Losses at smaller
    sizes are of the test rows, which one who chooses would not have: it favours these ways.
    """
    candidates = by_seed(curves[curves["n"] == curves["n"].max()], "score").index
    weights = scores.groupby("model", sort=False)["weights"].first()
    large = pd.Series([weights[model] for model, _ in candidates], candidates)
    yield Method(SIZE, "", large.to_frame(0), 0.0)
    passes = scores["weights"] * scores["tokens"] * scores["texts"] * PASS
    for kernel, name in ((k, n) for k in KERNELS for n in SCORES):
        own = scores[scores["kernel"] == kernel]
        if own.empty or name not in own or not np.isfinite(own[name]).any():
            continue
        sign = 1 if SCORES[name][1] else -1
        # one pass has the features of all poolings; each has a kernel of its own
        shared = CANDIDATE if kernel == "ntk" else CANDIDATE[:1]
        cost = passes[own.index].groupby([own[c] for c in shared]).mean().sum()
        times = PASSES[kernel] * (_kernels(curves) if kernel == "ntk" else 1)
        yield Method(name, kernel, sign * by_seed(own, name), times * cost)
    sizes, losses = mean_curves(curves)
    if len(sizes) < 2:
        return
    small = curves[curves["n"] < sizes[-1]]
    flops = small.groupby([*CANDIDATE, "n"], sort=False)["flops"].mean()
    last = flops[flops.index.get_level_values("n") == sizes[-2]].sum()
    yield Method(SMALL, "", -by_seed(small[small["n"] == sizes[-2]], "loss"), last)
    known, told = losses.iloc[:, :-1].to_numpy(), {}
    if len(sizes) > 2:
        told["AtS"] = METHODS["AtS"](Curves(None, sizes[:-1], known, None), sizes[-1])
        for name, law in LAWS.items():
            told[name] = predicted(fitted(law, sizes[:-1], known), [sizes[-1]])[0][:, 0]
    for name, loss in told.items():
        yield Method(name, "", pd.DataFrame(-loss, losses.index, [0]), flops.sum())


def _kernels(curves: pd.DataFrame) -> int:
    """Return how many kernels a task takes: one per class, of scores and two classes one."""
    classes = 1 / curves["chance_accuracy"].iloc[0]
    return round(classes) if classes > 2.5 else 1


def chosen(said: pd.Series) -> list[tuple[str, str]]:
    """Return the candidates of which most is said: several where it is said of all alike."""
    return said.index[said == said.max()].tolist()


def choices(
    curves: pd.DataFrame, scores: pd.DataFrame, subsets: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Return how well each way to choose does: a row per task, method of fine-tuning and way.

    ``pearson``, ``kendall`` and ``weighted`` (Vigna 2015) compare what it says, a mean over seeds,
    with the truth; ``regret`` is the test score that its choice loses against the best candidate,
    with a 95 % interval over seeds for these two, widened for the rows that ``subsets``, task →
    samples, share. Of candidates of which it says the same, the mean counts: of a size, that of all
    poolings. ``flops`` are of all candidates, over those of training all at the largest size in
    ``cost``. ``chance`` is the regret of a random choice.
    Raises UserError where there are fewer than two candidates.
    """
    rows = []
    for (task, tuned), own in with_loss(curves).groupby(["task", "method"], sort=False):
        final = own[own["n"] == own["n"].max()]
        truth = by_seed(final, "score")
        if len(truth) < 2:
            raise UserError(f"task {task!r} has one candidate; list more in selection.models")
        mean, whole = truth.mean(axis=1), final["flops"].groupby(final["seed"]).sum().mean()
        best, samples = mean.idxmax(), (subsets or {}).get(task, {}).get("seeds", ())
        alike = shared_rows(np.array([s["order"][: final["n"].max()] for s in samples]))
        for way in choosing(own, scores[scores["task"] == task]):
            said = way.said.mean(axis=1).reindex(truth.index)
            known = said.notna()
            picked = chosen(said)
            lost = (truth.loc[best] - truth.loc[picked].mean()).to_numpy()
            half = float(half_width(lost, alike)) if picked != [best] else 0.0
            found = {"task": task, "method": tuned, "score": way.name, "kernel": way.kernel}
            found |= {"candidates": int(known.sum()), "seeds": truth.shape[1]}
            found |= _orders(said[known], mean[known])
            for name, values in zip(CANDIDATE, zip(*picked, strict=True), strict=True):
                found[f"chosen_{name}"] = " ".join(dict.fromkeys(values))
            found |= {"regret": lost.mean(), "low": lost.mean() - half, "high": lost.mean() + half}
            found |= {"chance": float(mean.max() - mean.mean())}
            rows.append(found | {"flops": way.flops, "cost": way.flops / whole})
    return pd.DataFrame(rows)


def _orders(said: pd.Series, truth: pd.Series) -> dict[str, float]:
    if len(said) < 3 or said.nunique() < 2 or truth.nunique() < 2:
        return dict.fromkeys(("pearson", "kendall", "weighted"), np.nan)
    return {
        "pearson": float(np.corrcoef(said, truth)[0, 1]),
        "kendall": kendall_tau(said, truth),
        "weighted": float(weightedtau(said, truth).statistic),
    }


def law_errors(curves: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return how far laws, fitted to the smallest sizes, are off the loss at the larger ones.

    A row per task, method, candidate, number of sizes and law, among them the rectified law with
    D_l = F(Θ, t) where the NTK is known (LENSLLM 2025): ``error``, the mean |log L̂ − log L|.
    """
    rows: list[dict[str, Any]] = []
    for (task, tuned), own in with_loss(curves).groupby(["task", "method"], sort=False):
        sizes, losses = mean_curves(own)
        remaining = measured_sizes(scores[scores["task"] == task])
        for few in (k for k in FEW if k < len(sizes)):
            for candidate, curve in losses.iterrows():
                laws = dict(LAWS)
                if remaining.get(candidate, 0.0) > 0:
                    laws[MEASURED] = measured_start(remaining[candidate])
                for name, law in laws.items():
                    told = law_prediction(law, sizes, curve.to_numpy(), few)
                    error = np.mean(np.abs(np.log(told[few:] / curve.to_numpy()[few:])))
                    found = {"task": task, "method": tuned, "sizes": few, "law": name}
                    found |= dict(zip(CANDIDATE, candidate, strict=True))
                    rows.append(found | {"error": float(error)})
    return pd.DataFrame(rows)


def law_prediction(law: Any, sizes: np.ndarray, curve: np.ndarray, few: int) -> np.ndarray:
    """Return what a law, fitted to a curve's ``few`` smallest sizes, says at all of them."""
    return predicted(fitted(law, sizes[:few], curve[:few]), sizes)[0][0]
