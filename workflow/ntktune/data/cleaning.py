"""From a source's rows to a task's table: labels, duplicates, splits, counts."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ntktune.errors import UserError

COLUMNS = ["id", "text_a", "text_b", "label", "label_noise", "split"]
# every row that was read is counted in exactly one of these
FATES = ("kept", "empty", "unlabelled", "neutral", "duplicated", "leaked", "beyond_limit")
NAMED = 5  # so many rows that a file has in error are named
# How programs write that there is no label.
MISSING = ("nan", "na", "n/a", "null", "none")


def text_or_none(value: Any) -> str | None:
    """Return a cell as text without surrounding blanks; None if there is nothing in it."""
    if value is None or value is pd.NA or value != value:  # NaN of any type
        return None
    return str(value).strip() or None


def is_missing(value: Any) -> bool:
    """Return whether a cell of labels holds nothing, as spreadsheets and programs write that."""
    text = text_or_none(value)
    return text is None or text.lower() in MISSING


def number(value: Any) -> float:
    """Return a cell as a finite number, NaN if it is none."""
    try:
        result = math.nan if "_" in str(value) else float(value)  # Python alone reads 1_250
    except (OverflowError, TypeError, ValueError):
        return math.nan
    return result if math.isfinite(result) else math.nan


def label_name(value: Any) -> str | None:
    """Return a raw class label as the text that a label map uses: 1, 1.0 and "1" are one."""
    text = text_or_none(value)
    as_number = number(value)
    return str(int(as_number)) if text and as_number.is_integer() else text


def normalised(text_a: str, text_b: str | None = None) -> str:
    """Return the texts with all white space made equal: what counts as the same row."""
    return "\n".join(" ".join(text.split()) for text in (text_a, text_b or ""))


def hashed_fraction(text: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends on the text alone, uniform over texts."""
    digest = hashlib.sha256(f"{purpose}\n{text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hash_order(texts: Iterable[str], limit: int) -> np.ndarray:
    """Return the positions, ascending, of the ``limit`` texts that come first by hash."""
    keys = np.fromiter((hashed_fraction(text, "limit") for text in texts), dtype=float)
    return np.sort(np.argsort(keys, kind="stable")[:limit])


def class_numbers(definition: dict) -> dict[str, int]:
    """Return the class of each raw label: by the label map, else by the classes' names and numbers.

    Raises UserError if the label map has one label for two classes, as "1" and "1.0".
    """
    mapping = definition["label_map"]
    if mapping is None:
        names = {label_name(name): i for i, name in enumerate(definition["classes"])}
        numbered = any(math.isfinite(number(name)) for name in names)
        places = {} if numbered else {str(i): i for i in range(len(names))}
        return places | names
    found: dict[str, int] = {}
    for raw, number_of_class in mapping.items():
        name = label_name(raw)
        if found.setdefault(name, number_of_class) != number_of_class:
            raise UserError(f"label_map has the label {name} for two classes; correct it")
    return found


def first_few(names: Sequence[Any]) -> str:
    """Return the first five of some names, quoted, as a message shows them."""
    return ", ".join(map(repr, names[:5])) + ", …" * (len(names) > 5)


def found_classes(frames: dict[str, pd.DataFrame]) -> list[str]:
    """Return the names of the classes that the labels of all splits are, in order.

    Names are sorted as numbers if all are numbers, else as text. Raises UserError if they do not
    look like classes: fewer than two, more than half as many as rows, fractions or negative.
    """
    labels = [name for frame in frames.values() for name in map(label_name, frame["label"])]
    labels = [name for name in labels if not is_missing(name)]
    names = sorted(set(labels))
    numbers = [number(name) for name in names]
    numbered = all(map(math.isfinite, numbers))
    if numbered:
        names.sort(key=number)
    shown = first_few(names)
    if len(names) < 2:
        raise UserError(f"a classification needs two classes or more; the labels are: {shown}")
    if 2 * len(names) > len(labels):
        raise UserError(
            f"the {len(labels)} labels are of {len(names)} classes ({shown}); if they are scores, "
            "write kind: regression, else name the classes"
        )
    if numbered and not all(value.is_integer() for value in numbers):
        raise UserError(
            f"the labels look like scores ({shown}); write kind: regression, or make two classes "
            "of them with polarity_band, or name the classes"
        )
    if any(value < 0 for value in numbers):
        raise UserError(
            f"some labels are negative ({shown}), which often stands for labels that are not "
            "published; name the classes, those of negative labels with label_map"
        )
    return names


def _label(raw: Any, definition: dict, classes: dict[str, int] | None) -> tuple:
    """Return a label and its fate: kept, unlabelled, neutral, outside the score range, or wrong."""
    if is_missing(raw):
        return math.nan, "unlabelled"
    score, name = number(raw), label_name(raw)
    if classes is not None:
        if name in classes:
            return float(classes[name]), "kept"
        # GLUE has -1 for labels that are not published
        return math.nan, "unlabelled" if definition["label_map"] or score < 0 else "wrong"
    if math.isnan(score):
        return score, "wrong"
    bounds, band = definition["score_range"], definition["polarity_band"]
    if bounds is not None and not bounds[0] <= score <= bounds[1]:
        return score, "outside"
    if band is None:
        return score, "kept"
    if band[0] <= score <= band[1]:
        return math.nan, "neutral"
    return float(score > band[1]), "kept"


def _wrong_labels(wrong: list[tuple[str, Any]], count: int, definition: dict, scores: bool) -> str:
    """Return the message about labels that cannot be used, of ``count`` rows."""
    where, raw = wrong[0]
    first = text_or_none(raw)
    shown = first_few(list(dict.fromkeys(text_or_none(raw) for _, raw in wrong)))
    if scores:
        what, advice = "is no number", "write numbers as 1250.5, without separators or units"
        if not any(letter.isdigit() for letter in first):
            advice = "labels that are words make a classification"
        advice += ", and leave the cell empty where there is no label"
    else:
        what = f"is none of the classes {first_few(definition['classes'])}"
        advice = "name it in classes too, or list in label_map the labels that count: rows with "
        advice += "others are then left out"
        if all(math.isfinite(number(raw)) for _, raw in wrong):
            advice += ", or make classes of scores with polarity_band"
    return (
        f"{where} has the label {first!r} (column {definition['columns']['label']}), which {what}; "
        f"{len(wrong)} of {count} rows are like it: {shown}; {advice}"
    )


def _read_rows(frame: pd.DataFrame, split: str, definition: dict) -> pd.DataFrame:
    """Return one split's rows with clean cells and each row's fate so far."""
    pairs = "{text_b}" in definition["template"]
    scored = definition["kind"] == "regression"
    scores = scored or definition["polarity_band"] is not None
    classes = None if scores else class_numbers(definition)
    rows, wrong = [], []
    for i, row in enumerate(frame.to_dict("records")):
        name = text_or_none(row.get("id")) or f"{split}-{i}"
        place = frame.index[i] + 1  # limits may have left out rows before it
        where = f"row {place} of {split} (id {name})"
        text_a = text_or_none(row["text_a"])
        text_b = text_or_none(row.get("text_b")) if pairs else None
        noise = number(row.get("label_noise")) if scored else math.nan
        if scored and math.isnan(noise) and not is_missing(row.get("label_noise")):
            raise UserError(f"{where} has the label_noise {row['label_noise']!r}: no number")
        label, fate = _label(row["label"], definition, classes)
        if text_a is None or (pairs and text_b is None):
            fate = "empty"
        elif fate == "wrong":
            wrong.append((where, row["label"]))
        elif fate == "outside":
            there = [value for value in map(number, frame["label"]) if math.isfinite(value)]
            raise UserError(
                f"{where} has score {label:g}, outside score_range {definition['score_range']}; "
                f"the column {definition['columns']['label']} goes from {min(there):g} to "
                f"{max(there):g}: correct score_range or the data"
            )
        key = "" if fate == "empty" else normalised(text_a, text_b)
        group = text_or_none(row.get("group")) or key
        rows.append((name, text_a, text_b, label, noise, split, fate, key, group, place))
    if wrong:
        raise UserError(_wrong_labels(wrong, len(rows), definition, scores))
    return pd.DataFrame(rows, columns=[*COLUMNS, "fate", "key", "group", "number"])


def _drop_duplicates(rows: pd.DataFrame, published_test: bool) -> tuple[pd.Series, pd.Series]:
    """Set the fate of repeated rows in place; return which rows conflict and which are repeated."""
    # test rows of a published split stay: others report scores on it
    kept = rows[rows["fate"] == "kept"]
    tested = kept["split"] == "test"
    again = kept.duplicated(["split", "key"])
    repeated = again & tested & published_test
    rows.loc[kept.index[again & ~repeated], "fate"] = "duplicated"
    conflicting = kept["label"] != kept.groupby(["split", "key"])["label"].transform("first")
    # a text of the test split must not be trained on: the test split stays whole
    labels = kept[tested & ~again].set_index("key")["label"]
    leaked = kept[~tested & ~again & kept["key"].isin(labels.index)]
    rows.loc[leaked.index, "fate"] = "leaked"
    conflicting[leaked.index] = leaked["label"].to_numpy() != labels.loc[leaked["key"]].to_numpy()
    return conflicting, repeated


def task_table(
    frames: dict[str, pd.DataFrame],
    definition: dict,
    *,
    beyond: dict[str, int] | None = None,
    divide: bool = True,
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Return a task's clean table and what became of the rows that were read.

    ``frames`` has rows by split, ``train`` and perhaps ``test``: columns text_a and label, perhaps
    id, text_b, label_noise, group. Rows without a test split are divided by a hash of their group
    (the document), else of their text, unless ``divide`` is False: then all are training rows.
    ``beyond`` counts, by split, the rows that the source held back because of ``limits``.

    The table has the columns id, text_a, text_b, label, label_noise (both float64) and split,
    training rows first. The counts have, by split, the ``FATES``, which add up to read: duplicated
    means the same text again in the split, leaked a training row whose text is in the test split.
    conflicting: how many of the duplicated, leaked and repeated rows had another label than the
    first row of that text. repeated: kept rows of a published test split that repeat a text.
    rows: for each of empty, duplicated, leaked, conflicting and repeated that there is, the numbers
    of the first few such rows, counted from 1 as they were read.

    Raises UserError if a score is out of range, a label cannot be used, a split is empty, a class
    has no training row (of two classes: or no test row), or fewer rows are left than stated.
    """
    parts = [_read_rows(frame, split, definition) for split, frame in frames.items()]
    rows = pd.concat(parts, ignore_index=True)
    splits = ("train", "test") if divide or "test" in frames else ("train",)
    if divide and "test" not in frames:
        fractions = np.array([hashed_fraction(group, "test") for group in rows["group"]])
        rows["split"] = np.where(fractions < definition["test_fraction"], "test", "train")
    conflicting, repeated = _drop_duplicates(rows, published_test="test" in frames)
    for split, limit in definition["limits"].items():
        part = rows[(rows["split"] == split) & (rows["fate"] == "kept")]
        if limit is not None and len(part) > limit:
            chosen = part.index[hash_order(part["key"].tolist(), limit)]
            rows.loc[part.index.difference(chosen), "fate"] = "beyond_limit"
    counts = {}
    for split in splits:
        fates = rows["fate"][rows["split"] == split].value_counts()
        counts[split] = {fate: int(fates.get(fate, 0)) for fate in FATES}
        counts[split]["beyond_limit"] += (beyond or {}).get(split, 0)
        counts[split]["read"] = sum(counts[split].values())
        own = rows[rows["split"] == split]
        found = {fate: own["fate"] == fate for fate in ("empty", "duplicated", "leaked")}
        for name, those in (("conflicting", conflicting), ("repeated", repeated)):
            found[name] = those.reindex(own.index, fill_value=False)
            counts[split][name] = int(found[name].sum())
        counts[split]["rows"] = {
            name: own.loc[those, "number"].head(NAMED).tolist()
            for name, those in found.items()
            if those.any()
        }
    kept = rows.loc[rows["fate"] == "kept", COLUMNS]
    table = pd.concat([kept[kept["split"] == split] for split in counts], ignore_index=True)
    _check_table(table, definition, counts)
    return table, counts


def _check_table(table: pd.DataFrame, definition: dict, counts: dict) -> None:
    for split, count in counts.items():
        labels = table.loc[table["split"] == split, "label"]
        wanted, line = definition[f"{split}_rows"] or 1, counts_line({split: count})
        if len(labels) < wanted:
            advice = "check the columns and labels"
            if definition[f"{split}_rows"]:
                advice += f", or correct {split}_rows"
            elif not count["read"]:
                advice = "give more different texts, a larger test_fraction or a test file"
            raise UserError(
                f"{len(labels)} rows are left in the {split} split, expected at least {wanted} "
                f"({line}); {advice}"
            )
        constant = "test" in counts and len(labels) > 1 and labels.nunique() < 2
        if definition["kind"] == "regression" and constant:
            raise UserError(
                f"all labels of the {split} split are {labels.iloc[0]:g} ({line}); a regression "
                "needs different scores in each split: check the label column"
            )
        names = definition["classes"] or ()
        for label, name in enumerate(names):
            if label not in set(labels) and (split == "train" or len(names) == 2):
                advice = "check classes, label_map or polarity_band"
                if count["beyond_limit"]:
                    advice += f", or raise limits.{split}"
                if count["unlabelled"] and not definition["label_map"]:
                    advice += "; negative labels count as unlabelled; for classes −1 and 1 write "
                    advice += "label_map: {'-1': 0, '1': 1}"
                raise UserError(
                    f"no row of class {name!r} is left in the {split} split ({line}); {advice}"
                )


def counts_line(counts: dict[str, dict[str, Any]]) -> str:
    """Return the counts as one line for people; zeros are left out."""
    lines = []
    for split, count in counts.items():
        lost = []
        for fate, n in count.items():
            if n and fate not in ("read", "kept", "rows"):
                named = ", ".join(map(str, count["rows"].get(fate, ())))
                named = named and f": row{'s' * (n > 1)} {named}{', …' * (n > NAMED)}"
                lost.append(f"{n} {fate.replace('_', ' ')}{named}")
        lost = "; ".join(lost)
        lines.append(f"{split} {count['kept']} rows of {count['read']}{lost and f' ({lost})'}")
    return "; ".join(lines)


def classes_line(table: pd.DataFrame, classes: Sequence[Any]) -> str:
    """Return how many rows each class has in each split, in words; of many the extremes."""
    lines = []
    for split, labels in table.groupby("split", sort=False)["label"]:
        counts = np.bincount(labels.astype(int), minlength=len(classes))
        told = ", ".join(f"{name} {n}" for name, n in zip(classes, counts, strict=True))
        if len(classes) > NAMED:
            told = f"{len(classes)}, of {counts.min()} to {counts.max()} rows each"
        lines.append(f"in {split}: {told}")
    return f"classes {'; '.join(lines)}"


def content_sha256(table: pd.DataFrame) -> str:
    """Return the SHA-256 of a task's content: split, texts, label and noise, in order."""
    digest = hashlib.sha256()
    # without ids: the same rows from the hub and from a file have the same checksum
    for row in table[["split", "text_a", "text_b", "label", "label_noise"]].itertuples(index=False):
        cells = [text_or_none(cell) if i < 3 else repr(float(cell)) for i, cell in enumerate(row)]
        digest.update((json.dumps(cells) + "\n").encode())
    return digest.hexdigest()
