import numpy as np
import pytest
from made_up_study import simulation_of

from ntktune.errors import UserError
from ntktune.figures.simulation import simulation_figure
from ntktune.figures.style import RULES
from ntktune.theory.simulation import RULES as SIMULATED

COLORS = ["#0072B2", "#D55E00", "#009E73", "#444444"]


@pytest.fixture
def tables():
    return simulation_of()


def test_every_rule_is_a_curve_and_every_decay_a_point(tables):
    left, right = simulation_figure(*tables, COLORS).axes
    assert set(RULES) == set(SIMULATED)
    height = {"oracle": 0, "theory": 1, "sure": 2, "holdout": 3}
    for rule, container in zip(RULES, left.containers, strict=True):
        line, place = container.lines[0], height[rule]
        np.testing.assert_allclose(
            line.get_xydata(), [[20, (place + 1) / 20], [40, (place + 1) / 40]]
        )
        assert line.get_color() == COLORS[list(RULES).index(rule)]
    assert left.get_ylabel() == "error, mean of 50 repeats"
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["20", "40"]
    dots = next(line for line in right.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xydata(), [[-0.6, -0.59], [-0.75, -0.74]])
    assert [text.get_text() for text in right.texts] == ["a = 1.5", "a = 3"]


def test_no_colour(tables):
    with pytest.raises(UserError, match="'rot' is no colour"):
        simulation_figure(*tables, ["rot", *COLORS[1:]])
