"""Advice as text for a terminal, as a figure, and as one page that opens without a network."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ntktune.advise.advice import ALIKE, NEXT, Triple
from ntktune.figures.overview import METHOD_LABELS, plain_table
from ntktune.figures.panels import draw_size_axis, finished
from ntktune.figures.style import DASHED, WIDTH, styled

TRY = "--calibrate full, lora or probe trains twice and shifts the scores by that"
COLORS = ("#0072B2", "#D55E00", "#009E73")  # of three ways to train
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
pre{{white-space:pre-wrap}}img{{max-width:100%}}</style></head>
<body><h1>{title}</h1><img alt="predicted learning curves" src="data:image/png;base64,{image}">
<pre>{text}</pre></body></html>
"""


def number(labels: float, most: int, least: int = 0) -> str:
    """Return a number of labels, rounded to two digits, between a curve's ends.

    ``more than most`` if it is infinite, ``least or fewer`` if it is at most the least.
    """
    if not math.isfinite(labels):
        return f"more than {most:,}"
    if labels <= least:
        return f"{least:,} or fewer"
    digits = max(int(math.log10(max(labels, 1))) - 1, 0)
    return f"{round(labels / 10**digits) * 10**digits:,}"


def labels_range(triple: Triple, most: int, least: int = 0) -> str:
    """Return a number of labels with its interval."""
    low, value, high = (number(labels, most, least) for labels in triple)
    return value if low == value == high else f"{value} ({low} to {high})"


def score_range(triple: Triple, sign: str = "") -> str:
    """Return a score, or what it gains, with its interval."""
    low, value, high = (f"{end:{sign}.3f}" for end in triple)
    return f"{value} ({low} to {high})"


def shown_counts(counts: Sequence[int], pilot: int) -> list[int]:
    """Return the numbers of labels that a table shows: the pilot's, the next, its doublings."""
    doublings = [pilot * 2**power for power in range(12)]
    return [n for n in counts if n in {*doublings, pilot + NEXT, counts[-1]}]


def calibration_told(known: Mapping[str, Any]) -> str:
    """Return what trainings on halves of the pilot showed."""
    steps = f"{min(known['steps'])} to {max(known['steps'])}"
    counts = known["equivalent"]
    worth = f"; a label counts for {counts:.2g} of the kernel's" if counts else ""
    return (
        f"trainings may differ. {METHOD_LABELS[known['method']]}, trained twice on "
        f"{known['labels']} labels: {known['trained']:.3f},\nwhere its kernel has "
        f"{known['kernel']:.3f}; its scores are shifted by that{worth};\n"
        f"the hold-out was best after {steps} steps"
    )


def tested_told(tested: Mapping[str, Any], method: str) -> str:
    """Return what a test set showed."""
    measured, predicted = tested["measured"][method], tested["predicted"][method]
    return (
        f"{tested['texts']} of those: {METHOD_LABELS[method]} has {measured:.3f} by its kernel, "
        f"where of texts\nlike the labelled ones {predicted:.3f} is predicted; scores are shifted "
        "by that"
    )


def stop_told(stop: Mapping[str, float]) -> str:
    """Return when training is to stop, by theory."""
    how = "gradient descent on squared errors"
    return f"stop training, by theory, at learning rates of {stop['eta']:.2g} in sum ({how})"


def money(amount: float) -> str:
    """Return an amount in any currency, with cents only if it has some."""
    return f"{amount:,.2f}".removesuffix(".00")


def told(found: Mapping[str, Any], metric: str, cost: float | None = None) -> str:
    """Return advice (:func:`ntktune.advise.advice`) in a dozen lines."""
    at, pilot, method = found["at"], found["texts"], found["method"]
    ends = max(at[method]), min(at[method])
    counts, most = list(at[method]), ends[0]
    known = found["calibrated"]
    shifted = {name: ", shifted" * bool(known and name == method) for name in at}
    lines = [["labels", *(METHOD_LABELS[name] + shifted[name] for name in at)]]
    for n in shown_counts(counts, pilot):
        here = f"{n:,}" + " (now)" * (n == pilot)
        lines.append([here, *(score_range(own[n]) for own in at.values())])
    tested = found.get("test")
    of = f"those of {Path(tested['data']).name}" if tested else "these"
    text = [
        f"{metric} that the kernel predicts, with 80 % intervals, of texts like {of}; real",
        calibration_told(known) if known else f"trainings may differ: {TRY}",
        *([tested_told(tested, method)] if tested else []),
        "",
        plain_table(lines),
        "",
        f"by {METHOD_LABELS[method]}, {_why(found)}:",
    ]
    for share, labels in found["n_for_share"].items():
        of = f"{100 * float(share):.0f} % of what {most:,} labels bring over {found['base']:.3f}"
        of += " without learning"
        many = f"{labels_range(labels, *ends)} labels" if labels else "they bring nothing"
        text.append(f"  {of}: {many}")
    for target, labels in found["n_for"].items():
        text.append(f"  {metric} {target}: {labels_range(labels, *ends)} labels")
    gained = found["next"][str(NEXT)]
    price = f", for {money(NEXT * cost)}" if cost is not None else ""
    text.append(f"  the next {NEXT} labels{price}: {score_range(gained, '+')}")
    if found["doubling"]:
        text.append(f"  {_labelling(found)}")
    if stop := found.get("theory_stop", {}).get(method):
        text.append(f"  {stop_told(stop)}")
    if known and found["ahead"] != method:
        text.append(f"  by the kernels alone {METHOD_LABELS[found['ahead']]} is advised; beside it")
    text += [f"  {_other(name, own, pilot, most)}" for name, own in found["others"].items()]
    if "layers" in found:
        on, rank = found["layers"], found["adapters"].rank
        why = (
            "the lowest predicted error" if found["layers_differ"] else "no set of them stands out"
        )
        text.append(f"  LoRA's layers: {on}, rank {rank} ({why})")
    if found["limit_of_pilot"] < most:
        limit = max(found["limit_of_pilot"], pilot)
        text.append(
            f"  beyond {number(limit, most)} labels scores may be too low: {pilot:,} texts do not "
            "show what takes more of them to learn"
        )
    text += [f"warning: {line}" for line in found["warnings"]]
    return "\n".join(text)


def _why(found: Mapping[str, Any]) -> str:
    """Return why a method is advised."""
    if found["calibrated"]:
        return "which was tried"
    at = f"at {found['texts']:,} labels"
    if found["ahead"] == found["best"]:
        return f"which is ahead {at}"
    return f"the cheapest that is not surely behind {at}"


def _labelling(found: Mapping[str, Any]) -> str:
    """Return whether to go on labelling, and why."""
    gained, least, limit = found["doubling"], found["least_gain"], found["limit_of_pilot"]
    why = f"twice as many bring {score_range(gained, '+')}"
    if found["stop_labelling"]:
        return f"stop labelling: {why}, less than {least:g}"
    if found["stop_labelling"] is False:
        return f"go on labelling: {why}"
    if gained[2] < least:
        reason = f"less than {least:g}, but beyond {limit:,} labels it may be more"
    else:
        reason = f"which may be more than {least:g} or less"
    return f"whether to go on is not sure: {why}, {reason}"


def _other(name: str, own: Mapping[str, Any], pilot: int, most: int) -> str:
    """Return how another method stands to the one that is advised, by their kernels."""
    difference = f"{score_range(own['difference'], '+')} now"
    if own["standing"] == "alike":
        difference = f"no different, within {ALIKE:g}, from here on"
    elif own["standing"] == "ahead" and own["ahead_from"] > pilot:
        difference += f", surely ahead from about {number(own['ahead_from'], most)} labels on"
    elif own["standing"] == "unsure":
        difference += ", not surely ahead or behind later"
    return f"{METHOD_LABELS[name]}: {difference}"


def advice_figure(found: Mapping[str, Any], metric: str) -> Figure:
    """Return the figure of the predicted learning curves, with their bands."""
    with styled():
        figure = Figure(figsize=(WIDTH, 3.4))
        axes, handles = figure.subplots(), {}
        for (name, own), color in zip(found["at"].items(), COLORS, strict=True):
            low, value, high = zip(*own.values(), strict=True)
            advised = name == found["method"]  # above the others, which may lie on it
            how = {"zorder": 3, "linewidth": 1.8} if advised else {"linestyle": (0, (4, 2))}
            label = METHOD_LABELS[name] + " (advised)" * advised
            (handles[label],) = axes.plot(list(own), value, color=color, **how)
            axes.fill_between(list(own), low, high, color=color, alpha=0.12, linewidth=0)
        counts = list(own)
        handles["without learning"] = axes.axhline(found["base"], **DASHED)
        handles["labels now"] = axes.axvline(found["texts"], color="black", linewidth=0.8)
        if found["limit_of_pilot"] < counts[-1]:
            shaded = axes.axvspan(found["limit_of_pilot"], counts[-1], color="#EEEEEE", zorder=0)
            handles["scores may be too low"] = shaded
        draw_size_axis(axes, [counts[0], *shown_counts(counts, found["texts"])])
        axes.set_xlim(counts[0], counts[-1])
        axes.set_ylabel(f"predicted {metric}")
        axes.set_title(found.get("title", ""), fontsize="small")
        return finished(figure, handles)


def page(title: str, text: str, image: bytes) -> str:
    """Return an HTML page with all of it: ``image`` is a PNG."""
    shown = {"title": html.escape(title), "text": html.escape(text)}
    return PAGE.format(image=base64.b64encode(image).decode(), **shown)
