import numpy as np
import pandas as pd
import pytest
from made_up_study import eigenvalue_table, fit_table, summary_of

from ntktune.errors import UserError
from ntktune.figures.decays import decays_figure, local_slopes

COLORS = ["#0072B2", "#D55E00"]


def tables(*tasks):
    spectra = {task: eigenvalue_table(task) for task in tasks}
    fits = {task: fit_table(own) for task, own in spectra.items()}
    summary = {task: summary_of(task, own) for task, own in fits.items()}
    both = (pd.concat([t.assign(task=n) for n, t in some.items()]) for some in (spectra, fits))
    return *both, summary


def test_a_power_law_has_its_exponent_at_every_rank():
    k = np.arange(1, 101)
    slopes = local_slopes(pd.Series(3.0 * k**-1.3, index=k))
    np.testing.assert_allclose(slopes, 1.3)
    assert len(slopes) > 15
    bent = np.where(k < 10, 1.0 * k**-1.0, 10.0 * k**-2.0)
    slopes = local_slopes(pd.Series(bent, index=k))
    assert slopes.iloc[0] == pytest.approx(1.0)
    assert slopes.iloc[-1] == pytest.approx(2.0)


def test_both_kernels_and_the_fitted_exponent_are_drawn():
    eigenvalues, decay, summary = tables("stsb", "rte")
    figure = decays_figure(eigenvalues, decay, summary, ["rte", "stsb"], COLORS, {"rte": "RTE"})
    (above, other, below, _) = figure.axes
    assert above.get_title() == "RTE\nn = 100, draws: 5"
    assert other.get_title().startswith("stsb")
    raw, centred = above.lines
    own = eigenvalues[eigenvalues["task"] == "rte"]
    mean = np.exp(np.log(own.pivot(index="k", columns="draw", values="eigenvalue")).mean(axis=1))
    np.testing.assert_allclose(raw.get_ydata(), mean)
    np.testing.assert_allclose(centred.get_ydata(), 0.8 * mean)
    fitted = below.lines[-1].get_ydata()[0]
    assert fitted == pytest.approx(summary["rte"]["exponent"]["mean"])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["kernel", "centred kernel", "fitted to all ranks"]


def test_mistakes():
    eigenvalues, decay, summary = tables("stsb", "rte")
    with pytest.raises(UserError, match="hold no task 'mrpc'"):
        decays_figure(eigenvalues, decay, summary, ["mrpc"], COLORS, {})
    with pytest.raises(UserError, match="summary lacks the task 'stsb'"):
        decays_figure(eigenvalues, decay, {"rte": summary["rte"]}, ["rte"], COLORS, {})
