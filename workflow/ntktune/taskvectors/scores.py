"""Scores of merged and negated models, from the answers along their sweeps.

The coefficient of a merge is chosen on validation rows only, and reported on test rows.
"""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from ntktune.errors import UserError
from ntktune.finetune.metrics import mean_squared_error, score
from ntktune.study.merges import FIXED, LEAST_KEPT, VALIDATED, parts
from ntktune.study.scores import ERRORS, predicted_class, share_reached

PLACE = ["row", "column"]
LEAST_ROWS = 2  # with fewer validation rows a task does not count in the choice
ANSWER = ["seed", "task", "part", "coefficient", "row", "column"]  # and the model: which it is


def _scored(answers: pd.DataFrame, without: set[int] | frozenset[int] = frozenset()) -> float:
    """Return the score of one model's answers on one task, some rows left out."""
    left, first = answers[~answers["row"].isin(without)], answers.iloc[0]
    columns = int(answers["column"].max()) + 1
    left = left.sort_values(PLACE) if columns > 1 else left
    label = left["label"].to_numpy()[::columns]
    output = left["output"].to_numpy().reshape(-1, columns)
    if first["kind"] == "classification":
        return score(first["metric"], predicted_class(output).ravel(), label, max(columns, 2))
    return score(first["metric"], output[:, 0], label)


def _wanted(answers: pd.DataFrame) -> np.ndarray:
    """Return what f is to be: the score; −1 or +1; of more classes 1 or 0, less 1 over C."""
    label, columns = answers["label"].to_numpy(), answers["column"].max() + 1
    if answers["kind"].iloc[0] == "regression":
        return label
    return 2 * label - 1 if columns == 1 else (answers["column"] == label) - 1 / columns


class Leaks:
    """Which rows of a task were trained on by others.

    ``leaked`` has ``task``, ``part`` (``validation`` or ``test``), ``other``, ``seed``, ``row``:
    rows of a task whose text is in the sample that another task was fine-tuned on, or in its own.
    """

    def __init__(self, leaked: pd.DataFrame):
        keys = ["task", "part", "seed", "other"]
        self._rows = {key: set(found["row"]) for key, found in leaked.groupby(keys, sort=False)}

    def rows(self, task: str, part: str, seed: int, others: Iterable[str]) -> set[int]:
        """Return the rows of a part of a task that any of the others was fine-tuned on."""
        return set().union(*(self._rows.get((task, part, seed, other), ()) for other in others))


def check_answers(answers: pd.DataFrame, model: str) -> None:
    """Raise UserError if answers of one model to one row are given twice.

    ``model`` is the column that names the model: ``merged`` or ``target``.
    """
    repeated = answers[answers.duplicated([model, *ANSWER])]
    if len(repeated):
        name, seed, task = repeated.iloc[0][[model, "seed", "task"]]
        raise UserError(
            f"the answers of {name} to task {task!r}, seed {seed}, are given more than once; "
            "give each file once"
        )


def sweep_table(added: pd.DataFrame, negated: pd.DataFrame, leaks: Leaks) -> pd.DataFrame:
    """Return the scores of merged models along the coefficient, λ = 0 included.

    ``added`` are the rows of :func:`ntktune.taskvectors.sweeps.addition_sweep`, with ``merged``
    (names joined by " + ") and ``seed``; ``negated`` those of
    :func:`ntktune.taskvectors.sweeps.negation_sweep`, with ``target`` and ``seed``, of all tasks
    and seeds that were merged. Raises UserError if a merged task's own model has no answers, or
    answers are given twice.

    Columns, per merge, seed, task, part and coefficient: ``kind``, ``metric``, ``score``,
    ``single`` (the task's own model's), ``normalised`` = score / single (of an error single /
    score; NaN unless the denominator is above 0), ``rows``; ``score_clean``, ``single_clean`` and
    ``rows_clean`` without the rows that any task of the merge was fine-tuned on.
    """
    check_answers(added, "merged")
    check_answers(negated, "target")
    groups = negated[negated["task"] == negated["target"]].groupby(["task", "seed", "coefficient"])
    # (task, seed, coefficient of τ) → answers: at 0 the pretrained network's, at 1 the fine-tuned's
    own = {(task, seed, -value + 0.0): found for (task, seed, value), found in groups}
    keys, rows = ["merged", "seed", "task", "kind", "metric"], []
    for key, found in added.groupby(keys, sort=False):
        merge, seed, task, _, metric = key
        for coefficient in (0.0, 1.0):
            if (task, seed, coefficient) not in own:
                raise UserError(
                    f"{merge} has answers to task {task!r}, seed {seed}, but no negation sweep of "
                    "that task and seed was given; give it"
                )
        answered = own[task, seed, 0.0].drop(columns=["target", "slope", "random"])
        along, alone = pd.concat([answered, found]), own[task, seed, 1.0]
        for (part, coefficient), answers in along.groupby(["part", "coefficient"], sort=True):
            single = alone[alone["part"] == part]
            if set(single["row"]) != set(answers["row"]):
                raise UserError(
                    f"{merge} and the negation sweep of {task!r}, seed {seed}, have answers to "
                    f"other {part} rows; make both again"
                )
            out = leaks.rows(task, part, seed, parts(merge)) & set(answers["row"])
            reached, reference = _scored(answers), _scored(single)
            row = dict(zip(keys, key, strict=True)) | {
                "part": part,
                "coefficient": coefficient,
                "score": reached,
                "single": reference,
                "normalised": share_reached(metric, reached, reference),
                "rows": answers["row"].nunique(),
                "score_clean": _scored(answers, out),
                "single_clean": _scored(single, out),
                "rows_clean": answers["row"].nunique() - len(out),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def chosen_coefficient(sweep: pd.DataFrame, candidates: Iterable[float]) -> float:
    """Return the coefficient of one merge and seed that validation rows choose.

    All tasks of the merge have the same one, as the merge is one model: that with the largest mean
    of the normalised scores, or of the plain ones (errors negative) where a score cannot be
    normalised; of equal ones the smallest. Rows that a task of the merge was fine-tuned on are left
    out. NaN if no task has :data:`LEAST_ROWS` other validation rows. ``sweep`` has the rows of
    :func:`sweep_table` of one merge and seed.
    """
    usable = (sweep["part"] == "validation") & (sweep["rows_clean"] >= LEAST_ROWS)
    validation = sweep[usable & sweep["coefficient"].isin(list(candidates))]
    if validation.empty:
        return math.nan
    columns = (validation[name] for name in ("metric", "score_clean", "single_clean"))
    scores = pd.Series(map(share_reached, *columns), validation.index)
    if scores.isna().any():
        scores = validation["score_clean"] * np.where(validation["metric"].isin(ERRORS), -1, 1)
    means = scores.groupby(validation["coefficient"]).mean()
    return float(means.index[np.argmax(means.to_numpy())])


def merged_table(
    sweep: pd.DataFrame, coefficient: float, candidates: Iterable[float]
) -> pd.DataFrame:
    """Return the test scores of merged models at a fixed and at the chosen coefficient.

    ``sweep`` is what :func:`sweep_table` returns; validation rows choose among ``candidates``.
    Raises UserError if there are no answers at the fixed ``coefficient``.

    Columns, per merge, seed, task and ``choice`` (``fixed``, ``validation``): ``kind``, ``metric``,
    ``coefficient``, ``pretrained``, ``single``, ``merged_score``, ``normalised`` (as in
    :func:`sweep_table`), ``rows``, ``leaked`` (rows that any task of the merge was fine-tuned on),
    and without those ``single_clean``, ``merged_clean``, ``normalised_clean`` (NaN if no row is
    left); ``validation_rows``, on which was chosen. Coefficient and scores are NaN where nothing
    could be chosen.
    """
    candidates, rows = list(candidates), []
    for (merge, seed), found in sweep.groupby(["merged", "seed"], sort=False):
        choices = {FIXED: coefficient, VALIDATED: chosen_coefficient(found, candidates)}
        for task, along in found.groupby("task", sort=False):
            tests = along[along["part"] == "test"].set_index("coefficient")
            if coefficient not in tests.index:
                raise UserError(
                    f"{merge} has no answers at coefficient {coefficient:g}, seed {seed}; sweep it "
                    "with that coefficient among the others"
                )
            validation = along.loc[along["part"] == "validation", "rows_clean"]
            for choice, value in choices.items():
                at = tests.loc[coefficient if math.isnan(value) else value]
                row = {
                    "merged": merge,
                    "seed": seed,
                    "task": task,
                    "kind": at["kind"],
                    "metric": at["metric"],
                    "choice": choice,
                    "coefficient": value,
                    "pretrained": tests["score"][0.0],
                    "single": at["single"],
                    "merged_score": at["score"],
                    "normalised": at["normalised"],
                    "rows": at["rows"],
                    "leaked": at["rows"] - at["rows_clean"],
                    "single_clean": at["single_clean"],
                    "merged_clean": at["score_clean"],
                    "normalised_clean": share_reached(
                        at["metric"], at["score_clean"], at["single_clean"]
                    ),
                    "validation_rows": validation.min() if len(validation) else 0,
                }
                if math.isnan(value):  # nothing could be chosen
                    scores = ("merged_score", "normalised", "merged_clean", "normalised_clean")
                    row |= dict.fromkeys(scores, math.nan)
                rows.append(row)
    return pd.DataFrame(rows)


def negated_table(negated: pd.DataFrame, leaks: Leaks) -> pd.DataFrame:
    """Return the scores of negated models on their own and on control tasks (SR26 eq 24).

    ``negated`` is as for :func:`sweep_table`. Raises UserError if answers are given twice, or a
    task has none at λ = 0.

    Columns, per ``target``, seed, task, part and coefficient λ ≥ 0 of θ_P − λτ: ``kind``,
    ``metric``, ``score``, ``pretrained`` (λ = 0), ``kept`` = score / pretrained (of an error
    pretrained / score; NaN unless the denominator is above 0), ``error`` (the mean squared error of
    f: raw scores, or l1 − l0 against −1 and +1; of more classes centred logits against 1 or 0, less
    their mean), ``gap`` (error minus that at λ = 0), ``random_gap``, that of a random vector of the
    same length (NaN where it was not asked), ``predicted_gap`` = E[2λ(y − f_P)Δ + λ²Δ²] and
    ``linear_score``, those of f_P − λΔ with Δ = Jτ; ``rows``; ``score_clean``,
    ``pretrained_clean`` and ``rows_clean`` without the rows that the target was fine-tuned on;
    ``chosen``: the largest λ at which every control keeps 95 % of its validation score, on such
    rows.
    """
    check_answers(negated, "target")
    keys, rows = ["target", "seed", "task", "kind", "metric", "part"], []
    for key, found in negated[negated["coefficient"] >= 0].groupby(keys, sort=False):
        target, seed, task, _, metric, part = key
        start = found[found["coefficient"] == 0]
        if start.empty:
            raise UserError(
                f"the negation sweep of {target!r}, seed {seed}, has no answers to {task!r} at "
                "coefficient 0; make it again"
            )
        out = leaks.rows(task, part, seed, [target]) & set(start["row"])
        wanted, places = np.asarray(_wanted(start)), pd.MultiIndex.from_frame(start[PLACE])
        before, slope = start["output"].to_numpy(), start["slope"].to_numpy()
        first = mean_squared_error(before, wanted)
        pretrained, pretrained_clean = (_scored(start, left) for left in (set(), out))
        for coefficient, answers in found.groupby("coefficient", sort=True):
            answers = answers.set_index(PLACE).loc[places].reset_index()
            output, random = (answers[name].to_numpy() for name in ("output", "random"))
            reached, error = _scored(answers), mean_squared_error(output, wanted)
            linear = start.assign(output=before - coefficient * slope)
            change = 2 * coefficient * (wanted - before) * slope + (coefficient * slope) ** 2
            row = dict(zip(keys, key, strict=True)) | {
                "coefficient": coefficient,
                "score": reached,
                "pretrained": pretrained,
                "kept": share_reached(metric, reached, pretrained),
                "error": error,
                "gap": error - first,
                "random_gap": mean_squared_error(random, wanted) - first,
                "predicted_gap": float(np.mean(change)),
                "linear_score": _scored(linear),
                "rows": start["row"].nunique(),
                "score_clean": _scored(answers, out),
                "pretrained_clean": pretrained_clean,
                "rows_clean": start["row"].nunique() - len(out),
            }
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(chosen=_most_negated(table))


def _most_negated(table: pd.DataFrame) -> pd.Series:
    """Return which rows have the largest λ that leaves every control 95 % of its score."""
    chosen = pd.Series(False, index=table.index)
    for (target, _), found in table.groupby(["target", "seed"], sort=False):
        controls = found[(found["task"] != target) & (found["part"] == "validation")]
        controls = controls[controls["rows_clean"] >= LEAST_ROWS]
        start = controls["pretrained_clean"]
        # a score that is not above 0 has no share to keep
        least = start * np.where(start > 0, LEAST_KEPT, 1.0)
        is_kept = (controls["score_clean"] >= least).where(
            ~controls["metric"].isin(ERRORS), controls["score_clean"] * LEAST_KEPT <= start
        )
        kept = is_kept.groupby(controls["coefficient"]).all()
        if kept.any():
            largest = kept.index[kept].max()
            chosen.loc[found.index[found["coefficient"] == largest]] = True
    return chosen
