"""From a forecast to advice: how many labels, whether to go on, which training."""

import math

import numpy as np
import pytest

from ntktune.advise import Forecast, advice, curve_counts
from ntktune.advise.advice import (
    curve,
    gain,
    labels_for,
    labels_for_share,
    needed,
    standing,
    stops,
)
from ntktune.advise.pilot import interval
from ntktune.errors import UserError
from ntktune.figures.advice import advice_figure, labels_range, money, number, told


def forecast_of(counts, score, spread=0.01, base=0.5, texts=100, limit=math.inf):
    """A forecast whose sub-samples lie up and down by ``spread``."""
    score = np.asarray(score, float)
    scores = score + spread * np.array([[-1.0], [1.0]])
    rest = {"low": 1 - score, "high": 1 - score}
    limited = np.asarray(counts) > limit
    return Forecast(
        error=1 - score, score=score, scores=scores, limited=limited, base=base, texts=texts, **rest
    )


def test_a_curve_has_the_pilot_its_doublings_and_its_end():
    counts = curve_counts(100)
    assert {100, 200, 400, 800} <= {*counts}
    assert (counts[0], counts[-1]) == (25, 800)
    assert (np.diff(counts) > 0).all()
    assert curve_counts(100, 150)[-1] == 200  # the next hundred labels are always told
    assert curve_counts(100, 150)[-2] < 200
    assert {20, 40, 80, 120} <= {*curve_counts(20, 30)}
    with pytest.raises(UserError, match="the most labels are 100; give more than the 100"):
        curve_counts(100, 100)


def test_labels_for_a_score_are_interpolated_in_log_n():
    counts, score = np.array([10, 100, 1000]), np.array([0.5, 0.7, 0.9])
    assert needed(counts, score, 0.8) == pytest.approx(10**2.5)
    assert needed(counts, score, 0.7) == pytest.approx(100)
    assert (needed(counts, score, 0.3), needed(counts, score, 0.95)) == (10, math.inf)
    # where the curve falls for a while, the first number that has it
    assert needed(counts, np.array([0.5, 0.8, 0.6]), 0.7) < 100
    assert needed(counts, np.full(3, np.nan), 0.7) == math.inf


def test_an_interval_is_the_half_samples_scatter():
    parts = np.array([[-1.0, 0.0], [1.0, np.inf]])
    low, high = interval(np.array([5.0, 1.0]), parts)
    assert (low[0], high[0]) == pytest.approx((5 - 1.2816 * 2**0.5, 5 + 1.2816 * 2**0.5), rel=1e-4)
    assert (low[1], high[1]) == (-np.inf, np.inf)


def test_numbers_of_labels_lie_between_the_curves_ends():
    counts = np.array([100, 200, 400, 800])
    found = forecast_of(counts, [0.6, 0.7, 0.8, 0.9])
    low, value, high = labels_for(counts, found, 0.8)
    assert low < value < high < 800
    assert value == pytest.approx(400)
    shift = 1.2816 * 2**0.5 * 0.01 / 0.1  # of the band, in doublings
    assert (low, high) == pytest.approx((400 * 2**-shift, 400 * 2**shift), rel=1e-3)
    assert labels_for(counts, found, 0.9)[1:] == (pytest.approx(800), math.inf)
    # 95 % of 0.9 − 0.5 is 0.88
    assert labels_for_share(counts, found)[1] == pytest.approx(400 * 2**0.8)
    # a level that is up or down changes no gain
    assert gain(counts, found, 100, 200) == pytest.approx((0.1, 0.1, 0.1))
    assert curve(counts, found)[200] == pytest.approx(
        (0.7 - 0.1 * shift, 0.7, 0.7 + 0.1 * shift), rel=1e-4
    )


@pytest.mark.parametrize(
    ("second", "known", "ahead_from"),
    [
        ([0.5, 0.6, 0.7, 0.8], "alike", None),
        ([0.5, 0.604, 0.696, 0.8], "alike", None),
        ([0.1, 0.7, 0.8, 0.9], "ahead", 20),  # the fewest labels are fewer than the pilot's
        ([0.5, 0.5, 0.7, 0.9], "ahead", 80),
        ([0.5, 0.7, 0.6, 0.9], "ahead", 80),  # crossing twice
        ([0.5, 0.5, 0.8, 0.7], "unsure", None),
        ([0.9, 0.5, 0.6, 0.7], "behind", None),
    ],
)
def test_how_methods_stand_to_each_other(second, known, ahead_from):
    counts = np.array([10, 20, 40, 80])
    first, second = (forecast_of(counts, own) for own in ([0.5, 0.6, 0.7, 0.8], second))
    found = standing(counts, first, second, 1)
    assert (found["standing"], found["ahead_from"]) == (known, ahead_from)
    assert found["difference"] == pytest.approx([second.score[1] - 0.6] * 3)
    scatter = np.array([[-1.0], [1.0]]) * 0.3  # of one method alone: nothing is sure any more
    unsure = standing(counts, first, second._replace(scores=second.score + scatter), 1)
    assert unsure["standing"] == ("alike" if known == "alike" else "unsure")


def test_a_tie_does_not_choose_the_dearer_method():
    counts = curve_counts(100)
    score = 0.7 + 0.02 * np.log2(counts / 100)
    curves = {"probe": forecast_of(counts, score), "full": forecast_of(counts, score + 0.01)}
    assert advice(counts, curves)["method"] == "full"  # surely ahead
    scatter = np.array([[-1.0], [1.0]]) * 0.02
    curves["full"] = curves["full"]._replace(scores=score + 0.01 + scatter)
    found = advice(counts, curves)
    assert (found["method"], found["best"]) == ("probe", "full")
    text = told(found, "accuracy")
    assert "by the head alone, the cheapest that is not surely behind at 100 labels:" in text
    assert "all weights: +0.010 (-0.0" in text


def test_counts_that_lack_the_pilot_are_refused():
    found = {"probe": forecast_of([50, 100], [0.6, 0.7])}
    with pytest.raises(UserError, match=r"counts lack 200; take those of curve_counts\(100\)"):
        advice(np.array([50, 100]), found)
    with pytest.raises(UserError, match="give 1,000,000,000 or fewer"):
        curve_counts(100, 10**400)


def advised(first, second, **how):
    counts = curve_counts(100)
    place = np.log2(counts / 100)
    curves = {"probe": first(place), "lora": second(place)}
    return advice(counts, {n: forecast_of(counts, own) for n, own in curves.items()}, **how)


def test_advice_names_the_method_that_is_ahead_and_where_another_is():
    found = advised(lambda x: 0.7 + 0.02 * x, lambda x: 0.68 + 0.04 * x, targets=[0.72, 0.99])
    assert found["method"] == "probe"
    assert found["others"]["lora"]["ahead_from"] == pytest.approx(240, rel=0.1)  # by .005
    assert found["n_for"]["0.72"][1] == pytest.approx(200)
    assert found["n_for"]["0.99"][1] == math.inf
    assert found["doubling"] == pytest.approx((0.02, 0.02, 0.02))
    assert (found["stop_labelling"], found["warnings"]) == (False, [])
    text = told(found, "accuracy", 2.5)
    assert "by the head alone, which is ahead at 100 labels:" in text
    assert "accuracy 0.72: 200 (" in text
    assert "accuracy 0.99: more than 800 labels" in text
    assert "the next 100 labels, for 250: +0.020" in text
    assert "go on labelling: twice as many bring +0.020" in text
    assert "LoRA: -0.020 (-0.020 to -0.020) now, surely ahead from about 2" in text
    assert "too low" not in text


def test_a_kernel_that_tells_fewer_texts_apart_moves_no_number_of_labels():
    counts = curve_counts(100)
    curves = {n: forecast_of(counts, 0.6 + 0.0 * counts, texts=n) for n in (99, 100)}
    found = advice(counts, {"probe": curves[99], "full": curves[100]})
    assert found["texts"] == 100
    assert found["at"]["probe"][100][1] == pytest.approx(0.6)


def test_advice_says_when_to_stop():
    found = advised(lambda x: 0.7 + 0.004 * x, lambda x: 0.7 + 0.002 * x)
    assert found["stop_labelling"]
    assert found["others"]["lora"]["standing"] == "unsure"
    text = told(found, "accuracy")
    assert "stop labelling: twice as many bring +0.004 (+0.004 to +0.004), less than 0.01" in text
    alike = advised(lambda x: 0.7 + 0.004 * x, lambda x: 0.7 + 0.0039 * x)
    assert "LoRA: no different, within 0.005" in told(alike, "accuracy")


def test_what_makes_a_forecast_doubtful_is_told():
    counts = curve_counts(40)
    place = np.log2(counts / 40)
    few = forecast_of(counts, 0.6 + 0.1 * place, texts=40, limit=100)
    found = advice(counts, {"full": few}, texts=43, class_counts={f"c{n}": n for n in range(12)})
    text = told(found, "accuracy")
    assert "warning: 3 of 43 texts repeat an earlier one" in text
    assert "warning: 40 texts are too few to rely on this" in text
    assert "c0 (0), c1 (1), " in text
    assert "c7 (7) and 2 more" in text
    assert "c10" not in text
    assert f"beyond {number(found['limit_of_pilot'], 320)} labels scores may be too low: 40" in text
    flat = advice(counts, {"full": forecast_of(counts, 0.5 + 0 * counts, texts=40)})
    assert any("predicts nothing better" in line for line in flat["warnings"])


@pytest.mark.parametrize(
    ("labels", "shown"), [(7.4, "7"), (42.4, "42"), (123.0, "120"), (4567.0, "4,600"), (0.2, "0")]
)
def test_numbers_of_labels_have_two_digits(labels, shown):
    assert number(labels, 9000) == shown
    assert number(math.inf, 9000) == "more than 9,000"
    assert labels_range((labels,) * 3, 9000) == shown


def test_the_figure_has_a_curve_for_each_method_and_the_pilots_limit():
    counts = curve_counts(100)
    rising = 0.6 + 0.05 * np.log2(counts / 25)
    curves = {n: forecast_of(counts, rising, limit=300) for n in ("probe", "lora", "full")}
    figure = advice_figure(advice(counts, curves), "accuracy")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [
        *("the head alone (advised)", "LoRA", "all weights", "without learning", "labels now"),
        "scores may be too low",
    ]
    assert figure.axes[0].get_ylabel() == "predicted accuracy"


def test_no_score_is_below_0_or_above_1():
    counts = curve_counts(100)
    score = np.linspace(0.05, 0.98, len(counts))
    ends = curve(counts, forecast_of(counts, score, spread=0.2)).values()
    assert all(0 <= low <= value <= high <= 1 for low, value, high in ends)
    assert max(high for *_, high in ends) == 1


@pytest.mark.parametrize(
    ("gained", "limited", "stop"),
    [
        ((0.001, 0.004, 0.008), False, True),
        ((0.001, 0.004, 0.008), True, None),  # it may be more than the pilot shows
        ((-0.02, 0.004, 0.03), False, None),
        ((0.001, 0.02, 0.03), False, False),
        ((0.001, 0.02, 0.03), True, False),
        (None, False, None),
    ],
)
def test_labelling_stops_where_so_little_is_sure(gained, limited, stop):
    assert stops(gained, 0.01, limited=limited) is stop


def test_what_is_not_sure_is_told_as_that():
    counts = curve_counts(100)
    place = np.log2(counts / 100)
    found = forecast_of(counts, 0.7 + 0.004 * place)
    scatter = np.array([[-1.0], [1.0]]) * 0.02 * place
    found = found._replace(scores=found.score + scatter)
    text = told(advice(counts, {"probe": found}), "accuracy")
    assert "whether to go on is not sure: twice as many bring +0.004 (-" in text
    assert "labelling:" not in text
    assert "which may be more than 0.01 or less" in text
    limited = forecast_of(counts, 0.7 + 0.004 * place, limit=150)
    text = told(advice(counts, {"probe": limited}), "accuracy")
    assert "less than 0.01, but beyond 1" in text


def test_a_curve_that_gains_nothing_needs_no_labels():
    counts = curve_counts(100)
    flat = forecast_of(counts, 0.45 + 0 * counts)
    found = advice(counts, {"probe": flat})
    assert found["n_for_share"] == {"0.95": None}
    assert "95 % of what 800 labels bring over 0.500 without learning: they bring nothing" in told(
        found, "accuracy"
    )
    scores = np.stack([flat.score, 0.6 + 0 * counts])  # one sub-sample learns nothing
    rising = forecast_of(counts, 0.6 + 0.1 * np.log2(counts / 25))._replace(scores=scores)
    low, value, high = labels_for_share(counts, rising)
    assert counts[0] <= low <= value <= high <= counts[-1]


def test_a_score_that_the_fewest_labels_have_is_no_number():
    counts = curve_counts(100)
    found = forecast_of(counts, 0.7 + 0.02 * np.log2(counts / 100), spread=0.0)
    text = told(advice(counts, {"probe": found}, targets=[0.6]), "accuracy")
    assert "accuracy 0.6: 25 or fewer labels" in text


def test_a_method_that_was_tried_is_advised_and_compared_as_it_was():
    counts = curve_counts(100)
    place = np.log2(counts / 100)
    curves = {"probe": forecast_of(counts, 0.7 + 0.02 * place)}
    curves["lora"] = forecast_of(counts, 0.68 + 0.04 * place)
    shifted = curves["lora"]._replace(score=curves["lora"].score - 0.3)
    known = {"steps": [3, 9], "equivalent": None, "method": "lora", "labels": 50}
    known |= {"trained": 0.3, "kernel": 0.6}
    found = advice(counts, curves, calibrated=("lora", shifted, known))
    assert found["method"] == "lora"
    assert found["at"]["lora"][100][1] == pytest.approx(0.38)
    assert (found["ahead"], found["others"]["lora"]["standing"]) == ("probe", "ahead")
    text = told(found, "accuracy")
    assert "by LoRA, which was tried:" in text
    assert "the hold-out was best after 3 to 9 steps" in text
    assert "LoRA, shifted" in text
    assert "by the kernels alone the head alone is advised" in text


@pytest.mark.parametrize(("amount", "shown"), [(250.0, "250"), (0.1, "0.10"), (1234.5, "1,234.50")])
def test_amounts_have_cents_if_there_are_any(amount, shown):
    assert money(amount) == shown
