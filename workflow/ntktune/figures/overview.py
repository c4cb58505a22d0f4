"""A study's results in a few lines of plain text, for a terminal."""

import textwrap
from typing import Any

import pandas as pd

from ntktune.data.sampling import fewer_shared
from ntktune.figures.claims import SIMULATED, UNTESTED
from ntktune.figures.fig2 import UNTUNED
from ntktune.figures.measures import BASELINES, METRIC_LABELS
from ntktune.figures.needed import SHARE
from ntktune.figures.style import count
from ntktune.intervals import most_half_width
from ntktune.study.scores import ERRORS

SIMPLE = {"regression": "mean", "classification": "majority"}
CLAIMS = "the papers' claims on this study:"
MADE_UP = "of made-up networks and spectra, none of your data:"
LEGEND = {
    "examples needed": "labelled examples, the hold-out's included, that reach "
    f"{SHARE:.0%} of the best gain over predicting the training mean or majority, interpolated "
    "between the sizes tried; in brackets the 95 % interval over seeds, where there are several",
    "or more, at most": "only a bound: no size is surely enough, or the largest is the best, so "
    "that more may be needed; or the smallest is enough",
    "surely": "the lower end of the 95 % interval: with fewer the score is surely lower; left out "
    "where that is the smallest size tried",
    "?, undecided": "the seeds do not decide",
    "best": "mean ± standard deviation over seeds: how far one training may lie from another. Bars "
    "in figures are 95 % intervals of the mean: of three seeds 2.5 standard deviations each way, "
    "and more where seeds share examples. All are for the test rows at hand; what stands after "
    "their number is how far the score on all such rows may lie from it (95 %)",
    "decay a, R²": "eigenvalues of the kernel ~ k^-a, and how well that fits: R² is 1 where they "
    "are a power law, and the lower it is, the less a and the predicted b say",
    "b": "error ~ n^-b. Predicted: a/(a+1), of the squared error. Measured: of the error in "
    "the figure, so of a classification of the error rate, with which it compares loosely; in "
    "brackets the 95 % interval, which holds the predicted one where both agree; (any) excludes "
    "none",
}
NOTHING = (
    "nothing was learned: guessing is as good. Before labelling more, try `model.pooling: mean`, "
    "more `model.blocks`, or another model"
)
UNDECIDED = (
    "how many are needed: seeds are too few or too noisy to tell; add seeds (finetune.seeds)"
)
ALL_ALIKE = (
    "how many are needed cannot be told: at the largest size all seeds have the same rows, "
    "so end finetune.sizes at a smaller one"
)
MORE_ROWS = ", or labelled rows: two seeds' largest samples have {:.0%} of their rows in common"
ROWS_ALONE = (
    "how many are needed: these rows are too few to tell; {}: then two seeds' largest samples "
    "share half of their rows; now {:.0%}, so that more seeds hardly help"
)
CUT = "still improved at their last step{}: try a higher finetune.max_epochs (or max_steps)"
LARGER = "larger sizes may do better: add some to finetune.sizes, or labelled rows"
LARGER_ROWS = (
    "larger sizes may do better: for n = {}, {}, as two seeds' samples of {} have {:.0%} of their "
    "rows in common already"
)
NO_BETTER = "fine-tuning was no better here than what needs none"
METHOD_LABELS = {"full": "all weights", "lora": "LoRA", "probe": "the head alone"}
METHOD_LABELS |= {method: label for method, (_, _, label) in UNTUNED.items()}
ALIKE = 0.99  # share of rows that two seeds' largest samples have in common
MANY = 0.1  # from where on that share widens intervals by a tenth or more
NEAR = 0.4  # from where on a larger size makes that most of them
MOST = 0.55  # from where on further seeds hardly narrow them


def plain_table(rows: list[list[str]]) -> str:
    """Return rows as lines with aligned columns, the first to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def _perfect(metric: str) -> int:
    return 0 if metric in ERRORS else 1


def _score(value: float, deviation: float) -> str:
    spread = "" if pd.isna(deviation) else f" ± {deviation:.3f}"
    return f"{_number(value, 3)}{spread}"


def _learned(row: dict[str, Any], chance: float | None) -> bool:
    """Return whether a task's best score is better than guessing; ``chance`` as :func:`_best`."""
    if row["metric"] not in BASELINES or pd.isna(row["best_gain"]):
        return True  # as far as is known
    guessed = chance is not None and row["metric"] == "accuracy" and row["best_score"] <= chance
    return row["best_gain"] > 0 and not guessed


def _needed(row: dict[str, Any], chance: float | None, smallest: float) -> str:
    if not _learned(row, chance):
        return "none enough"
    if pd.isna(row["needed"]):
        return "unknown"
    text = _number(row["needed"], 0)
    low, high = (_number(row[key], 0) for key in ("needed_low", "needed_high"))
    # larger sizes may do better
    open_end = high == "inf" or row["needed_bound"] == "least"
    if open_end and low != "-":  # the interval may begin far below the mean over seeds
        text = "undecided" if row["needed_undecided"] is True else f"{text} or more"
        return f"{text} (surely {low} or more)" if row["needed_low"] > 1.001 * smallest else text
    text = f"at most {text}" if row["needed_bound"] == "most" else text
    text += " or more" * open_end + "?" * (row["needed_undecided"] is True)
    return text if low == "-" else f"{text} ({low} to {high})"


def _measured(row: dict[str, Any]) -> str:
    """Return the learning curve's exponent with its interval, which may have no end."""
    value, low, high = (_number(row[f"measured_{key}"], 2) for key in ("exponent", "low", "high"))
    if low == "-":
        return value
    if low == "-inf":
        return f"{value} (any)" if high == "inf" else f"{value} (≤ {high})"
    return f"{value} (≥ {low})" if high == "inf" else f"{value} ({low} to {high})"


def _best(row: dict[str, Any], largest: int | None, chance: float | None) -> str:
    """Return a task's best score, and whether its seeds tell how many examples it needs.

    ``largest`` is the largest sample's number of examples, None if none was trained, ``chance`` the
    accuracy of guessing among the classes, told where the majority has less.
    """
    if pd.isna(row["best_score"]):
        return f"{row['task']}: no score to compare sizes by"
    metric = METRIC_LABELS.get(row["metric"], row["metric"])
    score = _score(row["best_score"], row["best_score_sd"])
    tested = ""
    if row["test_rows"] > 0:
        tested = f", {count(int(row['test_rows']), 'test row')}"
        if row["metric"] in ("accuracy", "pearson", "spearman"):
            scored = row["kind"] == "regression"
            tested += f": ±{most_half_width(row['test_rows'], scored=scored):.2f}"
    text = f"{row['task']}: best {metric} {score} ({count(int(row['seeds']), 'seed')}{tested})"
    text += f", at n = {row['best_size']:.0f}"
    if row["metric"] in BASELINES:
        simple = row["best_score"] + row["best_gain"] * (1 if row["metric"] in ERRORS else -1)
        text += (
            f", where predicting the training {SIMPLE[row['kind']]} has {simple:.3f} (over all n)"
        )
        if row["metric"] == "accuracy" and chance is not None and simple < chance:
            text += f" and guessing among the classes {chance:.3f}"
    if not _learned(row, chance):
        return f"{text}; {NOTHING}"
    perfect = row["best_score"] == _perfect(row["metric"])
    undecided = row["needed_undecided"] is True
    # of rows that seeds share, larger samples help little
    few = row["shared_seeds"] > (MOST if undecided else ALIKE)
    if row["needed_bound"] == "least" and not perfect and not few:
        shared, told = row["shared_seeds"], LARGER
        if shared > NEAR:
            more = fewer_shared(2 * largest, round(largest / shared), shorter=False)
            told = LARGER_ROWS.format(2 * largest, more, largest, shared)
        text += f"; {told}"
    if not undecided:
        return text
    if row["shared_seeds"] > ALIKE:
        return f"{text}; {ALL_ALIKE}"
    if row["shared_seeds"] > MOST:
        rises = row["needed_bound"] == "least"
        less = fewer_shared(largest, round(largest / row["shared_seeds"]), shorter=not rises)
        return f"{text}; {ROWS_ALONE.format(less, row['shared_seeds'])}"
    alike = MORE_ROWS.format(row["shared_seeds"]) if row["shared_seeds"] > MANY else ""
    return f"{text}; {UNDECIDED}{alike}"


def _no_better(rows: pd.DataFrame, metric: str) -> bool:
    """Return whether no fine-tuning beats a prediction without, on average over the same seeds."""
    sign = -1 if metric in ERRORS else 1
    untuned = rows["method"].isin(list(UNTUNED))
    tuned = rows[rows["at_budget"].notna() & rows[metric].notna()]
    others = rows[untuned & rows["seeds"].isin(tuned["seeds"])]
    best, other = ((sign * own[metric]).max() for own in (tuned, others))
    return bool(other >= best)  # False where one is missing


def _methods(scores: pd.DataFrame) -> list[str]:
    """Return what several methods reach at a task's largest size, and trainings cut short."""
    lines = []
    for task, rows in scores.groupby("task", sort=False):
        size = rows.loc[rows["at_budget"].notna(), "n"].max()  # that was fine-tuned
        last, metric, parts = rows[rows["n"] == size], rows["metric"].iloc[0], []
        for row in last.to_dict("records"):
            if name := METHOD_LABELS.get(row["method"]):
                alone = " (1 seed)" * (len(str(row["seeds"]).split()) == 1)
                parts.append(f"{name} {_score(row[metric], row[f'{metric}_sd'])}{alone}")
        if len(parts) > 1:
            label = METRIC_LABELS.get(metric, metric)
            enough = f"; {NO_BETTER}" * _no_better(last, metric)
            lines.append(f"{task}, {label} at n = {size}: {'; '.join(parts)}{enough}")
        for method, own in rows.groupby("method", sort=False):
            short = own[(own["at_budget"] > 0) & (own[metric] != _perfect(metric))]
            if len(short):
                trained = own["seeds"].astype(str).str.split().str.len().sum()
                name, sizes = METHOD_LABELS[method], short["n"].unique()
                where = f" (n = {', '.join(map(str, sizes))})" if own["n"].nunique() > 1 else ""
                of = f"{task}: {short['at_budget'].sum():.0f} of {trained} trainings of {name}"
                lines.append(f"{of} {CUT.format(where)}")
    return lines


def _claims(verdicts: pd.DataFrame, tasks: int) -> str:
    """Return the tested claims; of one task's study, which asks for its labels, where they are."""
    if tasks == 1:
        return f"{CLAIMS} see figures/verdicts.csv"
    claims = [CLAIMS]
    tested = verdicts[verdicts["verdict"] != UNTESTED]
    for row in tested.to_dict("records"):
        if row["group"] == SIMULATED and MADE_UP not in claims:
            claims.append(MADE_UP)
        lines = textwrap.wrap(row["claim"], width=78)
        claims.append(f"  {row['verdict']:<15}" + f"\n{'':17}".join(lines))
    if left := len(verdicts) - len(tested):
        claims.append(f"  {count(left, 'claim')} not tested; see figures/verdicts.csv")
    return "\n".join(claims)


def overview(rates: pd.DataFrame, scores: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Return what tables 1 and 4 and the verdicts say as text."""
    rows = [["task", "examples needed", "decay a", "R²", "predicted b", "measured b"]]
    best, indented = [], {"width": 95, "subsequent_indent": "  "}
    known = "chance_accuracy" in scores  # where there are classes
    chances = dict(zip(scores["task"], scores["chance_accuracy"], strict=True)) if known else {}
    sizes = scores[scores["at_budget"].notna()].groupby("task")["n"]  # that were fine-tuned
    smallest, largest = sizes.min(), sizes.max()
    for row in rates.to_dict("records"):
        digits = {"exponent": 2, "r_squared": 3, "predicted_rate": 2}
        numbers = (_number(row[key], n) for key, n in digits.items())
        needed = _needed(row, chances.get(row["task"]), smallest.get(row["task"], 0.0))
        rows.append([row["task"], needed, *numbers, _measured(row)])
        told = _best(row, largest.get(row["task"]), chances.get(row["task"]))
        best.append(textwrap.fill(told, **indented))
    methods = [textwrap.fill(line, **indented) for line in _methods(scores)]
    how = {"width": 95, "subsequent_indent": " " * 19}
    legend = "\n".join(textwrap.fill(f"{name:<17}  {what}", **how) for name, what in LEGEND.items())
    parts = [plain_table(rows), legend, "\n".join(best), "\n".join(methods)]
    return "\n\n".join(filter(None, [*parts, _claims(verdicts, len(rates))]))
