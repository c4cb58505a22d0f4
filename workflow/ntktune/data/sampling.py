"""Which rows a job looks at: draws for kernels, nested subsets for fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ntktune.errors import UserError
from ntktune.seeds import generator


def kernel_draws(
    train_rows: np.ndarray, *, rows: int, draws: int, root: int, task: str
) -> list[list[int]]:
    """Return independent samples of the training rows, each without replacement.

    Parameters
    ----------
    train_rows
        Row numbers to choose from.
    rows
        n, rows in a draw (100 in SR26 section 5.3).
    draws
        Number of draws.
    root, task
        Where the seeds come from; each draw has its own.

    Raises
    ------
    UserError
        A draw has more rows than there are.
    """
    if rows < 2 or draws < 1:
        raise UserError(f"rows is {rows} and draws {draws}; at least 2 and 1 are needed")
    if rows > len(train_rows):
        raise UserError(
            f"a kernel draw of {rows} rows is asked for, but {task} has {len(train_rows)} "
            "training rows; lower kernel.rows"
        )
    return [
        generator(root, "data.draws", task, rows, draw)
        .choice(train_rows, size=rows, replace=False)
        .tolist()
        for draw in range(draws)
    ]


def holdout_pattern(size: int, fraction: float) -> np.ndarray:
    """Return which of ``size`` places are held out, evenly spread, shape (size,), bool.

    The first n places have floor(n * fraction) of them, for every n.
    """
    # the small term keeps 100 * 0.29 = 28.999999999999996 from losing a row
    counts = np.floor(np.arange(size + 1) * fraction + 1e-9)
    return np.diff(counts) > 0


def _class_pattern(holdout: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the class of each place so that every beginning has the task's balance.

    Among the held-out places, and among the others, each beginning has its share of
    every class to less than one row; where both classes are equally due, the one that
    lags in the whole order comes.
    """
    share = sizes / sizes.sum()
    taken = np.zeros((2, len(sizes)), dtype=int)  # by stream (training, hold-out) and class
    pattern = np.empty(len(holdout), dtype=int)
    for i, held in enumerate(holdout.astype(int)):
        stream = taken[held]
        due = share * (stream.sum() + 1) - stream
        overall = share * (i + 1) - taken.sum(axis=0)
        due[taken.sum(axis=0) >= sizes] = -np.inf
        first = np.flatnonzero(due >= due.max() - 1e-9)
        pattern[i] = first[np.argmax(overall[first])]
        taken[held, pattern[i]] += 1
    return pattern


def nested_order(
    train_rows: np.ndarray,
    classes: np.ndarray | None,
    *,
    size: int,
    holdout_fraction: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return an order of training rows whose beginnings are the training subsets.

    Parameters
    ----------
    train_rows
        Row numbers to choose from.
    classes
        The class (0 or 1) of each of them; None for a regression.
    size
        Length of the order, the largest subset. A longer order begins like a shorter one.
    holdout_fraction
        Share of each subset that is held out for stopping.
    random
        Decides which rows come; where the classes and the hold-out stand is fixed.

    Returns
    -------
    order : numpy.ndarray
        Row numbers, shape (size,).
    holdout : numpy.ndarray
        Which of them are held out, shape (size,), bool.
    """
    holdout = holdout_pattern(size, holdout_fraction)
    if classes is None:
        return random.permutation(train_rows)[:size], holdout
    streams = [random.permutation(train_rows[classes == label]) for label in (0, 1)]
    pattern = _class_pattern(holdout, np.array([len(stream) for stream in streams]))
    order = np.empty(size, dtype=np.int64)
    for label, stream in enumerate(streams):
        places = np.flatnonzero(pattern == label)
        order[places] = stream[: len(places)]
    return order, holdout


def check_subset(
    size: int, holdout: np.ndarray, classes: np.ndarray | None, holdout_fraction: float
) -> None:
    """Check that the first ``size`` rows of an order can be trained on and stopped by.

    Parameters
    ----------
    size
        Rows in the subset, hold-out included.
    holdout, classes
        Of the rows in the order's sequence; classes are None for a regression.
    holdout_fraction
        For the message.

    Raises
    ------
    UserError
        The hold-out or the training part has no row, or lacks a class.
    """
    held = int(holdout[:size].sum())
    if held == 0 or held == size:
        least = math.ceil(1 / holdout_fraction - 1e-9)
        raise UserError(
            f"a subset of {size} rows with holdout_fraction {holdout_fraction} has {held} "
            f"hold-out and {size - held} training rows; both need one: use sizes of {least} or more"
        )
    if classes is None:
        return
    for part, mask in (("hold-out", holdout[:size]), ("training part", ~holdout[:size])):
        missing = {0, 1} - set(classes[:size][mask].tolist())
        if missing:
            raise UserError(
                f"a subset of {size} rows has no row of class {missing.pop()} in its {part} "
                f"({int(mask.sum())} rows); use larger sizes, or another holdout_fraction"
            )


def training_subsets(
    labels: np.ndarray,
    is_test: np.ndarray,
    *,
    classification: bool,
    sizes: Sequence[int] | None,
    seeds: int,
    holdout_fraction: float,
    test_rows: int | None,
    root: int,
    task: str,
) -> dict:
    """Return nested training subsets with hold-out for each seed, and the test rows.

    Parameters
    ----------
    labels
        Label of each row, shape (N,); the class for a classification.
    is_test
        Whether a row belongs to the test split, shape (N,), bool.
    classification
        Keep the classes in every subset, and in its hold-out, as balanced as the task.
    sizes
        Numbers of labelled rows, hold-out included; None orders all training rows, so that
        a size that is added later changes nothing.
    seeds
        Number of independent orders.
    holdout_fraction
        Share of each subset that is held out.
    test_rows
        At most so many test rows, the same for all seeds; None takes all.
    root, task
        Where the seeds come from.

    Returns
    -------
    dict
        ``sizes`` ascending (or None), ``holdout_fraction``, ``seeds``: for each seed ``order``
        and ``holdout``, the subset of size n being the first n entries; ``test``.

    Raises
    ------
    UserError
        A size exceeds the training rows, or leaves a part of a subset without a row or
        without a class.
    """
    train_rows, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    wanted = [len(train_rows)] if sizes is None else sorted(set(sizes))
    if not wanted or wanted[0] < 2 or seeds < 1 or (test_rows is not None and test_rows < 1):
        raise UserError(
            f"sizes {wanted}, seeds {seeds}, test_rows {test_rows}: sizes must be at least 2, "
            "the others at least 1"
        )
    if not 0 < holdout_fraction < 1:
        raise UserError(f"holdout_fraction is {holdout_fraction}; it must lie between 0 and 1")
    if wanted[-1] > len(train_rows):
        raise UserError(
            f"a subset of {wanted[-1]} rows is asked for, but {task} has {len(train_rows)} "
            "training rows; lower finetune.sizes"
        )
    if len(test) == 0:
        raise UserError(f"{task} has no test rows")
    classes = labels[train_rows].astype(int) if classification else None
    orders = []
    for repeat in range(seeds):
        order, holdout = nested_order(
            train_rows,
            classes,
            size=wanted[-1],
            holdout_fraction=holdout_fraction,
            random=generator(root, "data.subsets", task, 0, repeat),
        )
        chosen = labels[order].astype(int) if classification else None
        for size in wanted:
            check_subset(size, holdout, chosen, holdout_fraction)
        orders.append({"order": order.tolist(), "holdout": holdout.tolist()})
    if test_rows is not None and test_rows < len(test):
        random = generator(root, "data.test", task)
        test, _ = nested_order(
            test,
            labels[test].astype(int) if classification else None,
            size=test_rows,
            holdout_fraction=0.5,
            random=random,
        )
    return {
        "sizes": None if sizes is None else wanted,
        "holdout_fraction": holdout_fraction,
        "seeds": orders,
        "test": np.sort(test).tolist(),
    }
