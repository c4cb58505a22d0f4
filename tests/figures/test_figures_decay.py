import numpy as np
import pandas as pd
import pytest
from made_up_study import eigenvalue_table, fit_table, summary_of

from ntktune.errors import UserError
from ntktune.figures.decay import task_figure

BLUE = "#0072B2"


def exact_spectrum(exponents=(1.0, 1.2), n=50, scale=3.0):
    k = np.arange(1, n + 1)
    return pd.concat(
        [
            pd.DataFrame({"draw": draw, "k": k, "eigenvalue": scale * k**-a})
            for draw, a in enumerate(exponents)
        ],
        ignore_index=True,
    )


def drawn(eigenvalues, fits, noise_floor, title, color=BLUE, interval=(None, None)):
    summary = summary_of("stsb", fits, noise_floor=noise_floor)
    summary["exponent"] |= dict(zip(("low", "high"), interval, strict=True))
    tables = {"eigenvalues": eigenvalues, "decay": fits.assign(task="stsb")}
    return task_figure(**tables, summary={"stsb": summary}, color=color, titles={"stsb": title})


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_draws_their_geometric_mean_and_the_fitted_line():
    eigenvalues = exact_spectrum()
    figure = drawn(eigenvalues, fit_table(eigenvalues), 1e-15, "STS-B")
    first, second, mean, line = figure.axes[0].lines
    k = np.arange(1, 51)
    np.testing.assert_allclose(first.get_ydata(), 3.0 * k**-1.0)
    np.testing.assert_allclose(second.get_ydata(), 3.0 * k**-1.2)
    np.testing.assert_allclose(mean.get_ydata(), 3.0 * k**-1.1)
    assert first.get_linewidth() < line.get_linewidth() < mean.get_linewidth()
    assert line.get_linestyle() == "--"
    np.testing.assert_array_equal(line.get_xdata(), [1, 50])
    np.testing.assert_allclose(line.get_ydata(), [3.0, 3.0 * 50**-1.1])


def test_words():
    eigenvalues = exact_spectrum()
    interval = [0.514, 1.69]
    figure = drawn(eigenvalues, fit_table(eigenvalues), 1e-15, "STS-B", interval=interval)
    axes = figure.axes[0]
    assert axes.get_title() == "STS-B\nn = 50, 2 draws"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlabel() == "rank $k$"
    assert axes.get_ylabel() == r"eigenvalue $\lambda_k$ of $K_n$"
    assert legend_texts(figure) == [
        "each of 2 draws",
        "geometric mean",
        "$\\lambda_k \\propto k^{-a}$, $R^2$ = 1.000\n$a$ = 1.10 (0.51 to 1.69)",
    ]


def test_one_draw_has_no_interval():
    eigenvalues = exact_spectrum([1.5])
    fits = fit_table(eigenvalues)
    figure = drawn(eigenvalues, fits, 0.0, "STS-B")
    assert figure.axes[0].get_title() == "STS-B\nn = 50, 1 draw"
    assert legend_texts(figure)[2].endswith("\n$a$ = 1.50")


def test_noise_is_marked_counted_and_kept_out_of_the_mean():
    eigenvalues = exact_spectrum([1.0, 1.0])
    eigenvalues.loc[eigenvalues["k"] > 40, "eigenvalue"] = 1e-9
    eigenvalues.loc[(eigenvalues["k"] == 50) & (eigenvalues["draw"] == 1), "eigenvalue"] = -1e-20
    fits = fit_table(eigenvalues[eigenvalues["k"] <= 40], dropped=10).assign(last=50)
    figure = drawn(eigenvalues, fits, 1e-8, "STS-B")
    axes = figure.axes[0]
    assert axes.get_title().splitlines()[-1] == "20 of 100 eigenvalues are float noise, not fitted"
    _, second, mean, line, floor = axes.lines
    assert mean.get_xdata()[-1] == 40
    assert line.get_xdata()[-1] == 40
    assert floor.get_ydata()[0] == 1e-8
    assert np.isnan(second.get_ydata()[-1])  # a negative eigenvalue has no place on a log axis
    assert axes.get_ylim()[0] == pytest.approx(5e-10)
    assert legend_texts(figure)[-1] == "float noise"


def test_a_real_spectrum_lies_inside_the_axes():
    eigenvalues = eigenvalue_table("rte")
    fits = fit_table(eigenvalues)
    axes = drawn(eigenvalues, fits, 1e-12, "RTE", interval=(0.78, 1.21)).axes[0]
    low, high = axes.get_ylim()
    assert low < eigenvalues["eigenvalue"].min() < eigenvalues["eigenvalue"].max() < high
    assert len(axes.lines) == 7  # five draws, mean, fit; the noise is far below
    legend = axes.figure.legends[0].get_window_extent()
    inside = legend.transformed(axes.figure.transFigure.inverted())
    assert 0 < inside.x0 < inside.x1 < 1
    assert 0 < inside.y0 < inside.y1 < axes.get_position().y0


def test_mistakes_are_named():
    eigenvalues = exact_spectrum()
    fits = fit_table(eigenvalues)
    with pytest.raises(UserError, match=r"STS-B: there is no fit over the range '1\.\.n'"):
        drawn(eigenvalues, fits[fits["range"] != "1..n"], 0.0, "STS-B")
    with pytest.raises(UserError, match="STS-B: no eigenvalue is positive"):
        drawn(eigenvalues.assign(eigenvalue=0.0), fits, 0.0, "STS-B")
    with pytest.raises(UserError, match="'#12' is no colour"):
        drawn(eigenvalues, fits, 0.0, "STS-B", "#12")
