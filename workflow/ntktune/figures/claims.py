"""What a verdict on a claim consists of, and the one rule that gives it.

A claim is about units: tasks, pairs of tasks, widths. Each unit has a 95 % interval of what is
measured. The caption of the verdicts, ``workflow/report/verdicts.rst``, states the rule. Of k units
one contradicts the claim by an interval with 1 − 0.05/k (Bonferroni).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import bisect

from ntktune.intervals import LEVEL, count_that_decides, half_width

REPRODUCED, CONTRADICTED = "reproduced", "contradicted"
INCONCLUSIVE, UNTESTED = "inconclusive", "not tested"
STUDY, SIMULATED = "study", "simulated"
NOT_RUN = "not run"
# why a unit has no value
DID_NOT_MOVE = "fine-tuning chose step 0"
NO_SCORE = "the score it is compared with may be 0"
NO_ERROR = "the error at the smallest n is 0"
MOST_NAMES = 4  # of units in a remark


class Span(NamedTuple):
    """A value and its interval; both ends NaN where it is not known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """One unit's values, one per seed or draw: a sample of numbers, not of rows.

    ``values``, shape (m,), are on the scale on which they scatter evenly (logarithms of ratios);
    ``scale`` goes from there to the claim's. ``beyond``, (m,), is by how much each is better than
    the control, None without one; ``shared`` the mean share of rows that two seeds or draws have in
    common; ``missing`` why the unit has no values ("" if it has).
    """

    values: np.ndarray
    beyond: np.ndarray | None = None
    shared: float = 0.0
    scale: Callable[[float], float] = float
    missing: str = ""

    @property
    def count(self) -> int:
        """Number of seeds or draws."""
        return len(self.values)

    def known(self) -> bool:
        """Return whether there are values, all of them numbers."""
        return not self.missing and self.count > 0 and bool(np.isfinite(self.values).all())

    def span(self, level: float) -> Span:
        """Return mean and interval on the claim's scale."""
        mean, half = np.mean(self.values), half_width(self.values, self.shared, level)
        return Span(*(float(self.scale(end)) for end in (mean, mean - half, mean + half)))

    @property
    def better(self) -> bool | None:
        """Whether it surely is better than the control; None without one."""
        if self.beyond is None or not np.isfinite(self.beyond).all():
            return None
        return bool(np.mean(self.beyond) - half_width(self.beyond, self.shared) > 0)


UNMOVED = Sample(np.array([]), missing=DID_NOT_MOVE)


def ratio_sample(
    part: np.ndarray,
    whole: np.ndarray,
    bound: float,
    beyond: np.ndarray | None,
    shared: float = 0.0,
    rows: float = np.inf,
) -> Sample:
    """Return the values for "the ratio of two scores is at least a bound".

    The difference part − bound · whole is judged, because a single score may be near 0. Only the
    mean of ``whole`` is a denominator. It must surely be above 0: over seeds, and, if it is a
    correlation, for its number of test ``rows``: unrelated data stay below 1.96 / √rows in 97.5 %
    of cases. ``part``, ``whole`` and ``beyond``, by how much part is above the control, are per
    seed, (m,).
    """
    mean, half = float(np.mean(whole)), float(half_width(whole, shared))
    least = max(1.96 / np.sqrt(rows), half if np.isfinite(half) else 0.0)
    return Sample(
        (part - bound * whole) / (mean or np.nan),
        beyond,
        shared,
        lambda value: bound + value,
        "" if mean > least else NO_SCORE,
    )


@dataclass(frozen=True)
class Given:
    """One unit whose interval comes from elsewhere.

    ``span`` is coverage → value and interval; ``better`` is as for :class:`Sample`; ``count``
    seeds, draws or networks are behind it.
    """

    span: Callable[[float], Span]
    better: bool | None = True
    count: int = 0
    missing = ""

    def known(self) -> bool:
        """Return whether it has a value."""
        return bool(np.isfinite(self.span(LEVEL).value))


Units = Mapping[str, Sample | Given]


@dataclass(frozen=True)
class Claim:
    """What is claimed of each unit.

    The claim, its ``source`` in a ``paper``, and the ``statistic`` that is held against ``bound``:
    ``side`` is ``"≤"``, ``"≥"``, or ``"="``, where the bound must lie in the interval, and the
    whole interval within ``tolerance`` of it. ``control`` is what the claim must do better than;
    ``group`` is :data:`SIMULATED` where none of the study's data is used; ``repeats`` is
    what a unit has one value of each (seeds, draws), ``units`` what a unit is. ``ours`` says that
    the bound is not the paper's, ``missing`` why the claim is not tested where there are no units.
    """

    claim: str
    source: str
    statistic: str
    bound: float
    side: str
    control: str
    group: str = STUDY
    repeats: str = "seeds"
    units: str = "tasks"
    tolerance: float = np.inf
    ours: bool = True
    missing: str = ""
    paper: str = "SR26"

    @property
    def threshold(self) -> str:
        """The rule in words."""
        within = f" within {self.tolerance:g}" if self.side == "=" else ""
        return f"{self.side} {self.bound:g}{within}{' (ours)' if self.ours else ''}"

    def holds(self, span: Span) -> bool:
        """Return whether it holds in the whole interval."""
        if self.side == "=":
            inside = span.low <= self.bound <= span.high
            return inside and max(self.bound - span.low, span.high - self.bound) <= self.tolerance
        return span.high <= self.bound if self.side == "≤" else span.low >= self.bound

    def excluded(self, span: Span) -> bool:
        """Return whether it holds nowhere in the interval."""
        above, below = span.low > self.bound, span.high < self.bound
        return (above and self.side != "≥") or (below and self.side != "≤")

    def slack(self, unit: Sample | Given) -> float:
        """Return a unit's distance from the bound, negative where it breaks it or for "="."""
        over = unit.span(LEVEL).value - self.bound
        return -abs(over) if self.side == "=" else over * (1 if self.side == "≥" else -1)


def _pooled(units: Mapping[str, Sample]) -> Units:
    """Return one unit, the mean over units of one value each, whose scatter is their own.

    All have the same scale: values are shares of a unit's own denominator.
    """
    own = list(units.values())
    values, beyond = [unit.values for unit in own], [unit.beyond for unit in own]
    better = None if any(each is None for each in beyond) else np.concatenate(beyond)
    return {"their mean": Sample(np.concatenate(values), better, 0.0, own[0].scale)}


def _remedy(claim: Claim, unit: Sample | Given, repeats: str, together: float) -> str:
    """Return what would decide an undecided unit."""
    if isinstance(unit, Given) and not unit.count:
        return ""
    if unit.count < 2:
        return f"an interval needs two {repeats} or more"
    level = LEVEL
    if isinstance(unit, Given):  # stand-in: evenly spaced values with the same interval
        span, steps = unit.span(LEVEL), np.arange(unit.count) - (unit.count - 1) / 2
        if not np.isfinite(span.high - span.low):
            return ""
        unit = Sample(span.value + steps * (span.high - span.low) / 2 / half_width(steps))
    mean, half = float(np.mean(unit.values)), float(half_width(unit.values, unit.shared))
    apart = unit.scale(mean) - claim.bound
    if claim.side == "=":  # to leave the tolerance, or to get the whole interval into it
        distance = max(abs(apart), claim.tolerance - abs(apart))
    else:  # on the values' scale
        ends = mean - half, mean + half
        if claim.excluded(unit.span(LEVEL)):  # but not at the stricter level for all units at once
            ends, level = (mean - 20 * half, mean + 20 * half), together
        over = [unit.scale(end) > claim.bound for end in ends]
        if over[0] == over[1]:
            return ""
        distance = abs(bisect(lambda value: unit.scale(value) - claim.bound, *ends) - mean)
    count = count_that_decides(unit.values, distance, unit.shared, level)
    if count is None:
        return f"1,000 {repeats} would not decide"
    return f"about {count} {repeats} would decide"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def judge(
    claim: Claim, units: Units, control: str = "", detail: str = "", power: str = ""
) -> dict[str, Any]:
    """Return the verdict on a claim: one row of the table.

    ``units`` is unit → its values. Where each has one seed only, the mean over units is judged, and
    the units' own scatter gives its interval. Units without values are named; with one of them a
    claim is not reproduced. ``control`` is the control's number; ``detail`` are further remarks;
    ``power`` says what else would decide, or how likely it holds by chance.

    ``value``, ``low`` and ``high`` of the row are of the unit that keeps the bound least or that
    excludes the claim.
    """
    asked = {name: unit for name, unit in units.items() if unit.known()}
    lacking = [name for name in units if name not in asked]
    why = "; ".join(sorted({units[name].missing for name in lacking} - {""}))
    if not asked:
        span = Span(np.nan, np.nan, np.nan)
        return _row(claim, span, control, power, UNTESTED, why or claim.missing)
    counts = {unit.count for unit in asked.values() if isinstance(unit, Sample)}
    is_pooled = counts == {1} and len(asked) > 1
    known, repeats = (_pooled(asked), claim.units) if is_pooled else (asked, claim.repeats)
    together = 1 - (1 - LEVEL) / len(known)
    excluded = [name for name, unit in known.items() if claim.excluded(unit.span(together))]
    open_ones = [name for name in known if name not in excluded]
    held = [name for name in open_ones if claim.holds(known[name].span(LEVEL))]
    undecided = [name for name in open_ones if name not in held]
    better = {name: unit.better for name, unit in known.items()}
    as_control = [name for name, surely in better.items() if not (surely or surely is None)]
    worst = min(excluded or undecided or known, key=lambda name: claim.slack(known[name]))
    span = known[worst].span(together if excluded else LEVEL)
    remarks, verdict = [], REPRODUCED
    if excluded:
        verdict = CONTRADICTED
        remarks.append(f"excluded by {_names(excluded)}" if worst else "")
    elif undecided or lacking:
        verdict = INCONCLUSIVE
    if undecided and not is_pooled and worst:
        remarks.append(f"undecided: {_names(undecided)}")
    if lacking:
        remarks.append(f"no value: {_names(lacking)}" + (f" ({why})" if why else ""))
    if verdict == REPRODUCED and not all(better.values()):
        verdict = INCONCLUSIVE
        whose = "" if len(known) == 1 else f" on {_names(as_control)}"
        does_as_well = f"the control does as well{whose}"
        remarks.append(does_as_well if as_control else "its control was not run")
    if is_pooled:
        least = min(asked, key=lambda name: claim.slack(asked[name]))
        remarks.append(
            f"one {claim.repeats[:-1]} each: judged by the mean over {claim.units}; "
            f"{least} {asked[least].span(LEVEL).value:.3g}"
        )
    elif len(known) > 1:
        remarks.append(f"held on {len(held)} of {len(known)}; decisive: {worst}")
    number = len(asked) if is_pooled else min(unit.count for unit in asked.values())
    over = f"{len(known)} interval{'s' * (len(known) > 1)} over {number} {repeats}"
    is_open = undecided and verdict == INCONCLUSIVE
    remedy = _remedy(claim, known[worst], repeats, together) if is_open else ""
    power = "; ".join(filter(None, [over if number > 1 else "", remedy, power]))
    return _row(claim, span, control, power, verdict, "; ".join(filter(None, [*remarks, detail])))


def _row(
    claim: Claim, span: Span, control: str, power: str, verdict: str, detail: str
) -> dict[str, Any]:
    return {
        "group": claim.group,
        "claim": claim.claim,
        "source": f"{claim.paper} {claim.source}",
        "statistic": claim.statistic,
        **span._asdict(),
        "threshold": claim.threshold,
        "control": f"{claim.control}: {control}" if control else claim.control,
        "power": power,
        "verdict": verdict,
        "detail": detail,
    }


def listed(values: Mapping[str, float]) -> str:
    """Return ``"a 0.97, b 1.2"``."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
