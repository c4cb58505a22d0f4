"""Laws of the loss against the number of examples, and their fits."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from ntktune.errors import UserError
from ntktune.selection.laws import LAWS, LINE, POWER, RECTIFIED, VANILLA, fitted, measured_start
from ntktune.selection.laws import predicted as at

SIZES = 200.0 * 2 ** np.arange(14)


def rectified(sizes, height=4.0, learned=3_000.0, slope=0.7, floor=0.8):
    return height * learned / (learned + sizes**slope) + floor


@pytest.mark.parametrize("law", [*LAWS.values(), measured_start(500.0)], ids=lambda law: law.name)
def test_derivatives_are_those_of_differences(law):
    rng = np.random.default_rng(0)
    parameters, x = rng.normal(size=(5, len(law.parameters))), np.log(SIZES[:6])
    _, slopes = law.model(parameters, x)
    step = 1e-6
    for place in range(len(law.parameters)):
        moved = step * np.eye(len(law.parameters))[place]
        ends = [law.model(parameters + sign * moved, x)[0] for sign in (1, -1)]
        np.testing.assert_allclose(slopes[..., place], (ends[0] - ends[1]) / (2 * step), atol=1e-7)


def test_a_curve_that_follows_a_law_gets_it_back():
    shapes = [(4.0, 3_000.0, 0.7, 0.8), (2.0, 40.0, 0.4, 0.01), (9.0, 2e5, 1.2, 2.0)]
    curves = np.array([rectified(SIZES, *shape) for shape in shapes])
    fit = fitted(RECTIFIED, SIZES, curves)
    assert fit.rmsd.max() < 1e-6
    np.testing.assert_allclose(np.exp(fit.parameters[:, 1]), [s[1] for s in shapes], rtol=1e-2)
    np.testing.assert_allclose(np.exp(fit.parameters[:, 2]), [s[2] for s in shapes], rtol=1e-3)
    further = 4 * SIZES[-1:]
    wanted = [[rectified(further[0], *shape)] for shape in shapes]
    np.testing.assert_allclose(at(fit, further)[0], wanted, rtol=1e-3)
    power = 3 * SIZES**-0.3 + 0.5
    for law in (POWER, VANILLA):
        assert fitted(law, SIZES, power).rmsd.max() < 1e-6
    # whose floor is a power of E
    for shape in (((0.5, 0.9, 8)), (0.5, 0.95, 5), (0.5, 9, 0.5)):
        curve = (shape[0] * SIZES**-0.3 + shape[1]) ** shape[2]
        assert fitted(VANILLA, SIZES, curve).rmsd.max() < 1e-8
    for law in LAWS.values():  # losses in the units of prices
        assert fitted(law, SIZES, 1e12 * SIZES**-0.1).rmsd.max() < 1e-6
    line = fitted(LINE, SIZES, 7 * SIZES**-0.25)
    np.testing.assert_allclose(line.parameters, [[np.log(7), -0.25]], rtol=1e-6)
    # with D_l given, a curve that has it
    given = fitted(measured_start(3_000.0), SIZES, rectified(SIZES))
    assert given.rmsd.max() < 1e-6
    assert fitted(measured_start(30.0), SIZES, rectified(SIZES)).rmsd.max() > 1e-3


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_no_other_start_finds_a_better_fit(law):
    """A noisy curve, and SciPy from fifty random starts."""
    rng = np.random.default_rng(1)
    curves = rectified(SIZES) * np.exp(0.02 * rng.normal(size=(1, len(SIZES))))
    fit, x = fitted(law, SIZES, curves), np.log(SIZES)
    for curve, own in zip(np.log(curves), fit.rmsd, strict=True):
        best = np.inf
        for _ in range(50):
            start = fit.parameters[0] + rng.normal(scale=2, size=len(law.parameters))
            found = least_squares(
                lambda p, curve=curve: np.nan_to_num(law.model(p[None], x)[0][0] - curve, nan=9.0),
                start,
            )
            inside = law.name == "line" or found.x[law.parameters.index("log_slope")] < np.log(20)
            best = min(best, np.sqrt(np.mean(found.fun**2)) if inside else np.inf)
        assert own < best * (1 + 1e-4)


def test_laws_are_nested():
    rng = np.random.default_rng(2)
    curves = rectified(SIZES) * np.exp(0.05 * rng.normal(size=(20, len(SIZES))))
    errors = {law.name: fitted(law, SIZES, curves).rmsd for law in LAWS.values()}
    slack = 1 + 1e-6
    assert (errors["rectified"] <= errors["power"] * slack).all()
    assert (errors["vanilla"] <= errors["power"] * slack).all()
    assert (errors["power"] <= errors["line"] * slack).all()
    # whatever is measured, a free size fits no worse (so LENSLLM's gain can be in prediction alone)
    given = fitted(measured_start(200.0), SIZES, curves).rmsd
    assert (errors["rectified"] <= given * slack).all()


def test_intervals_cover_a_new_loss():
    rng = np.random.default_rng(3)
    curves = 3 * SIZES**-0.3 * np.exp(0.05 * rng.normal(size=(600, len(SIZES))))
    fit = fitted(LINE, SIZES[:8], curves[:, :8])
    _, low, high = at(fit, SIZES[9:10])
    share = np.mean((low < curves[:, 9:10]) & (curves[:, 9:10] < high))
    assert share == pytest.approx(0.95, abs=0.03)  # three standard deviations of the count
    assert np.isnan(at(fitted(LINE, SIZES[:2], curves[:2, :2]), [1e6])[1]).all()


@pytest.mark.parametrize(
    ("sizes", "losses", "told"),
    [
        ([100, 50], [1, 2], "ascending"),
        ([0, 50], [1, 2], "above 0"),
        ([50], [1], "two or more"),
        ([50, 100], [1, 0], "above 0"),
        ([50, 100], [1, 2, 3], "shape"),
    ],
)
def test_what_is_no_curve_is_told(sizes, losses, told):
    with pytest.raises(UserError, match=told):
        fitted(RECTIFIED, sizes, losses)
    with pytest.raises(UserError, match="pre-learned size is 0"):
        measured_start(0)
