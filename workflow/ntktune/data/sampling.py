"""Which rows a job looks at: draws for kernels, nested subsets for fine-tuning, and their sizes."""

import math
from collections.abc import Mapping

import numpy as np

from ntktune.errors import UserError
from ntktune.study.seeds import generator

FIRST, MOST = 16, 512  # smallest and largest sample that is chosen without being asked for


def kernel_draws(
    train_rows: np.ndarray, *, rows: int, draws: int, root: int, task: str
) -> list[list[int]]:
    """Return independent samples of n = ``rows`` training rows, each without replacement.

    SR26 section 5.3 has n = 100. Each draw has its own seed, from ``root``, ``task`` and n. Raises
    UserError if there are fewer rows than a draw has.
    """
    if rows > len(train_rows):
        raise UserError(
            f"a kernel draw of {rows} rows is asked for, but {task} has {len(train_rows)} "
            "training rows; lower kernel.rows"
        )
    randoms = [generator(root, "data.draws", task, rows, draw) for draw in range(draws)]
    return [random.choice(train_rows, size=rows, replace=False).tolist() for random in randoms]


def holdout_pattern(size: int, fraction: float) -> np.ndarray:
    """Return which places are held out, (size,), bool: floor(n * fraction) of the first n."""
    # the small term keeps 100 * 0.29 = 28.999999999999996 from losing a row
    return np.diff(np.floor(np.arange(size + 1) * fraction + 1e-9)) > 0


def class_pattern(holdout: np.ndarray, sizes: np.ndarray, *, cover: bool = True) -> np.ndarray:
    """Return the class of each place so that every beginning has the task's balance.

    Among the held-out places, and among the others, each beginning has its share of every class to
    less than one row; where classes are equally due, the one that lags in the whole order comes.
    With ``cover`` and more than two classes, balance comes second: the places that are not held out
    begin with one row of each class, the most frequent first, so that a small sample has every
    class that it can have. ``sizes`` counts each class's rows.
    """
    cover = cover and np.count_nonzero(sizes) > 2
    share = sizes / sizes.sum()
    taken = np.zeros((2, len(sizes)), dtype=int)  # by stream (training, hold-out) and class
    pattern = np.empty(len(holdout), dtype=int)
    for i, held in enumerate(holdout.astype(int)):
        stream = taken[held]
        due = share * (stream.sum() + 1) - stream
        overall = share * (i + 1) - taken.sum(axis=0)
        left = taken.sum(axis=0) < sizes
        # until every class has been trained on, none goes to the hold-out before
        first = left & ((taken[0] > 0) if held else (stream == 0))
        due[~(first if cover and first.any() else left)] = -np.inf
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
    cover: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return an order of row numbers whose beginnings are the training subsets, and the hold-out.

    Both have the shape (size,); the second says which rows are held out (bool). A longer order
    begins like a shorter one. ``classes`` has the class (0, 1, …) of every row of the task, None
    for a regression; ``random`` decides which rows come, not where classes and hold-out stand
    (:func:`class_pattern`, which explains ``cover``).
    """
    holdout = holdout_pattern(size, holdout_fraction)
    if classes is None:
        return random.permutation(train_rows)[:size], holdout
    streams = [
        random.permutation(train_rows[classes[train_rows] == label])
        for label in range(classes.max() + 1)
    ]
    sizes = np.array([len(stream) for stream in streams])
    pattern = class_pattern(holdout, sizes, cover=cover)
    order = np.empty(size, dtype=np.int64)
    for label, stream in enumerate(streams):
        places = np.flatnonzero(pattern == label)
        order[places] = stream[: len(places)]
    return order, holdout


def training_subsets(
    labels: np.ndarray,
    is_test: np.ndarray,
    *,
    classification: bool,
    seeds: int,
    holdout_fraction: float,
    test_rows: int | None,
    root: int,
    task: str,
) -> dict:
    """Return nested training subsets with hold-out for each seed, and the test rows.

    ``labels`` and ``is_test`` have the shape (N,). If ``classification``, every subset and its
    hold-out are as balanced as the task (:func:`class_pattern`). At most ``test_rows`` test rows
    are taken, the same for all seeds; None takes all. ``root`` and ``task`` seed the choice.

    The dict has ``holdout_fraction``; ``seeds``, for each seed ``order`` (of all training rows, so
    that a size added later changes nothing) and ``holdout``, the subset of size n being the first n
    entries; and ``test``, the test rows. Raises UserError if there are no test rows.
    """
    classes = labels.astype(int) if classification else None
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    if len(test) == 0:
        raise UserError(f"{task} has no test rows")
    orders = []
    for repeat in range(seeds):
        random = generator(root, "data.subsets", task, 0, repeat)
        order, holdout = nested_order(
            train, classes, size=len(train), holdout_fraction=holdout_fraction, random=random
        )
        orders.append({"order": order.tolist(), "holdout": holdout.tolist()})
    if test_rows is not None and test_rows < len(test):
        random = generator(root, "data.test", task)
        how = {"holdout_fraction": 0.5, "random": random, "cover": False}
        test, _ = nested_order(test, classes, size=test_rows, **how)
    return {"holdout_fraction": holdout_fraction, "seeds": orders, "test": np.sort(test).tolist()}


def training_subset(
    subsets: Mapping, size: int, seed: int, labels: np.ndarray | None = None
) -> tuple[list[int], list[int]]:
    """Return the training rows and the hold-out rows of one seed's subset.

    These are the first n = ``size`` rows of the order that :func:`training_subsets` chose for the
    seed. ``labels`` has the class of every row of the task, shape (N,); None for a regression.
    Raises UserError if there are fewer training rows, a part has no row, a part lacks one of two
    classes, or the training part has only one of several.
    """
    chosen, fraction = subsets["seeds"][seed], subsets["holdout_fraction"]
    if size > len(chosen["order"]):
        raise UserError(
            f"a subset of {size} rows is asked for, but the task has {len(chosen['order'])} "
            "training rows; lower the size (finetune.sizes, taskvectors.size, theory.size)"
        )
    pairs = list(zip(chosen["order"][:size], chosen["holdout"][:size], strict=True))
    train = [row for row, held in pairs if not held]
    holdout = [row for row, held in pairs if held]
    if not train or not holdout:
        least = math.ceil(1 / fraction - 1e-9)
        raise UserError(
            f"a subset of {size} rows with holdout_fraction {fraction} has {len(holdout)} "
            f"hold-out and {len(train)} training rows; both need one: use sizes of {least} or more"
        )
    # rows that a kernel lacks are of class -1
    classes = set() if labels is None else {c for c in labels.astype(int).tolist() if c >= 0}
    for part, rows in (("hold-out", holdout), ("training part", train)):
        missing = classes - set(labels[rows].astype(int).tolist()) if classes else classes
        alone = part == "training part" and len(missing) == len(classes) - 1
        if missing and (len(classes) == 2 or alone):
            raise UserError(
                f"a subset of {size} rows has no row of class {min(missing)} in its {part} "
                f"({len(rows)} rows); use larger sizes, or another holdout_fraction"
            )
    return train, holdout


def smallest_sample(classes: np.ndarray, holdout_fraction: float) -> int | None:
    """Return the smallest sample whose training part has a row of every class.

    Of two classes the hold-out must have both as well. ``classes`` has the class (0, 1, …) of each
    training row, shape (N,); all 0 for a regression. None if none of at most ``MOST`` has.
    """
    holdout = holdout_pattern(min(len(classes), MOST), holdout_fraction)
    counts = np.bincount(classes.astype(int))
    pattern = class_pattern(holdout, counts)
    needed = [
        np.flatnonzero((pattern == label) & (holdout == held))[:1]
        for label in np.flatnonzero(counts)
        for held in ((False, True) if np.count_nonzero(counts) <= 2 else (False,))
    ]
    return int(np.max(needed)) + 1 if all(len(place) for place in needed) else None


def fewer_shared(size: int, rows: int, *, shorter: bool = True) -> str:
    """Return advice, so that two seeds' samples of ``size`` rows share at most half of them.

    ``rows`` are there for training; unless ``shorter``, a smaller largest size is no advice.
    """
    more = f"label about {2 * size - rows} more for training (those for testing come on top)"
    if rows // 2 < FIRST or not shorter:
        return more
    return f"end earlier, with `finetune: {{sizes: {chosen_sizes(rows // 2)}}}`, or {more}"


def chosen_sizes(rows: int, smallest: int = FIRST) -> list[int]:
    """Return sample sizes: ``smallest`` (at least 16), each about twice the last, all ``rows``."""
    most, first = min(rows, MOST), max(smallest, FIRST)
    if most <= first:
        return [most]
    steps = max(round(np.log2(most / first)), 1)
    return np.geomspace(first, most, steps + 1).round().astype(int).tolist()
