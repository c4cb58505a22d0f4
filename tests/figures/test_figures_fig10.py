import numpy as np
import pandas as pd
import pytest
from made_up_study import SIZES, TASKS, metrics_table

from ntktune.errors import UserError
from ntktune.figures.fig10 import f1_figure
from ntktune.intervals import half_width


@pytest.fixture(scope="module")
def metrics():
    return pd.concat([metrics_table(t, s) for t in TASKS for s in SIZES])


def test_classifications_only_with_means_deviations_and_baseline(metrics):
    figure = f1_figure(metrics, list(TASKS), "#0072B2", {"rte": "RTE"})
    assert [axes.get_title() for axes in figure.axes] == ["amazon", "mrpc", "RTE"]
    for axes, task in zip(figure.axes, ["amazon", "mrpc", "rte"], strict=True):
        f1 = metrics.loc[metrics["task"] == task, "f1"].to_numpy().reshape(len(SIZES), 3)
        line, _, (bars,) = axes.containers[0]
        np.testing.assert_allclose(line.get_ydata(), f1.mean(axis=1), rtol=1e-12)
        low, high = np.array(bars.get_segments())[:, :, 1].T
        np.testing.assert_allclose((high - low) / 2, half_width(f1.T), rtol=1e-9)
        (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert dashed.get_ydata()[0] == pytest.approx(0.45)
        assert axes.get_ylim() == (-0.03, 1.03)
    assert figure.axes[0].get_ylabel() == "test F1 score"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "fine-tuned, mean and 95 % interval over 3 seeds",
        "predicting the training majority",
    ]


def test_a_study_without_classifications_is_told_so(metrics):
    with pytest.raises(UserError, match="none of the tasks semrel, stsb is a classification"):
        f1_figure(metrics, ["semrel", "stsb"], "#0072B2")
