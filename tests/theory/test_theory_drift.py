import numpy as np
import pytest

from ntktune.errors import UserError
from ntktune.theory.drift import kernel_drift, operator_stopping_times


@pytest.fixture
def kernel():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    gram = basis @ np.diag(20 * np.arange(1, 21.0) ** -1.5) @ basis.T
    return (gram + gram.T) / 2


def test_a_change_of_scale(kernel):
    found = kernel_drift(kernel, 1.3 * kernel)
    assert found["drift"] == pytest.approx(0.3)
    assert found["drift_frobenius"] == pytest.approx(0.3)
    assert found["alignment"] == pytest.approx(1)
    assert [found["exponent"], found["start_exponent"]] == pytest.approx([1.5, 1.5])


def test_a_change_of_one_direction():
    before, now = np.diag([4.0, 2.0, 1.0, 0.5]), np.diag([4.0, 3.0, 1.0, 0.5])
    found = kernel_drift(before, now)
    assert found["drift"] == pytest.approx(1 / 4)
    assert found["drift_frobenius"] == pytest.approx(1 / np.sqrt(16 + 4 + 1 + 0.25))
    assert found["alignment"] == pytest.approx(23.25 / np.sqrt(21.25 * 26.25))


def test_two_texts_have_a_drift_and_no_decay():
    found = kernel_drift(np.diag([2.0, 1.0]), np.diag([2.0, 2.0]))
    assert found["drift"] == pytest.approx(0.5)
    assert np.isnan([found["exponent"], found["start_exponent"]]).all()


def test_kernels_that_do_not_fit(kernel):
    with pytest.raises(UserError, match="is no Gram matrix"):
        kernel_drift(kernel, kernel + np.triu(np.ones((20, 20)), 1))


def by_trying(etas, drift, radius, step, latest, constant):
    """Both forms of T̂_op by the definition, over all steps."""
    times = np.arange(1, latest + 1)
    grown = np.maximum.accumulate(drift)
    g = np.interp(step * times, [0, *etas], [0, *grown])
    bound = constant * radius**2 / (step * times)
    early = times[g <= bound]
    return (int(early.max()) if len(early) else 0), int(times[(bound + g).argmin()])


@pytest.mark.parametrize("seed", range(40))
def test_both_forms_by_their_definition(seed):
    random = np.random.default_rng(seed)
    etas = np.sort(random.uniform(0.01, 20, size=6))
    drift = random.uniform(0, 0.5, size=6)
    step, latest = 0.02, int(random.integers(1, 2000))
    radius, constant = random.uniform(0.05, 2), random.uniform(0.3, 3)
    found = operator_stopping_times(
        etas, drift, radius=radius, step_size=step, latest=latest, constant=constant
    )
    crossing, minimiser = by_trying(etas, drift, radius, step, latest, constant)
    for value, expected in ((found.crossing, crossing), (found.minimiser, minimiser)):
        if step * expected <= etas[-1]:
            assert value == expected
        else:
            assert np.isnan(value)


def test_without_drift_it_is_the_theorys_own_time():
    found = operator_stopping_times([4.0], [0.0], radius=1.0, step_size=0.1, latest=37)
    assert (found.crossing, found.minimiser) == (37, 37)
    unknown = operator_stopping_times([1.0], [0.0], radius=1.0, step_size=0.1, latest=37)
    assert np.isnan([unknown.crossing, unknown.minimiser]).all()
    at_once = operator_stopping_times([1.0], [9.0], radius=1e-3, step_size=0.1, latest=0)
    assert (at_once.crossing, at_once.minimiser) == (0, 0)


@pytest.mark.parametrize("change", [{"constant": -1.0}, {"constant": np.nan}, {"radius": 0.0}])
def test_factors_that_are_none(change):
    usual = {"radius": 1.0, "step_size": 0.1, "latest": 10}
    with pytest.raises(UserError, match="T̂_op needs a finite one above 0"):
        operator_stopping_times([1.0], [0.1], **usual | change)


@pytest.mark.parametrize(
    ("etas", "drift", "message"),
    [
        ([], [], "as many values as times: 0 and 0"),
        ([1.0, 2.0], [0.1], "1 and 2"),
        ([2.0, 1.0], [0.1, 0.2], "must ascend"),
        ([0.0, 1.0], [0.1, 0.2], "from above 0"),
        ([1.0], [-0.1], "0 or more"),
        ([1.0], [np.nan], "must be finite"),
    ],
)
def test_drifts_that_are_none(etas, drift, message):
    with pytest.raises(UserError, match=message):
        operator_stopping_times(etas, drift, radius=1.0, step_size=0.1, latest=10)
