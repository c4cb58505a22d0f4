"""A network moved along task vectors: exact weights, linear models with known answers."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from torch import nn

from ntktune.errors import UserError
from ntktune.finetune.regression import RIDGES
from ntktune.finetune.repeats import Examples
from ntktune.network.models import TextModel
from ntktune.taskvectors.disentanglement import disentanglement_rows, distance, evaluations
from ntktune.taskvectors.edited import EditedModel, TunedTask
from ntktune.taskvectors.linear import linear_vector
from ntktune.taskvectors.sweeps import addition_sweep, negation_sweep

DIMENSION = 4


class Lookup(nn.Module):
    """The hidden state is the token's row of a table: f is linear in all weights but the head."""

    def __init__(self, dtype):
        super().__init__()
        self.config = types.SimpleNamespace(hidden_size=DIMENSION)
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(20, DIMENSION, generator=generator, dtype=dtype)
        self.table = nn.Parameter(table)

    def get_input_embeddings(self):
        return None

    def forward(self, input_ids, attention_mask):
        return types.SimpleNamespace(last_hidden_state=self.table[input_ids])


def made_task(name, kind, tokens, seed, dtype=torch.float32):
    """Return a task whose texts are single tokens, with a random head."""
    random = np.random.default_rng(seed)
    outputs = 2 if kind == "classification" else 1
    label = random.integers(0, 2, len(tokens)) if outputs == 2 else random.normal(size=len(tokens))
    examples = Examples(
        name,
        kind,
        [torch.tensor([token]) for token in tokens],
        label.astype(float),
        np.full(len(tokens), np.nan),
        (-3.0, 3.0) if outputs == 1 else None,
    )
    half = len(tokens) // 2
    return TunedTask(
        examples,
        {"validation": range(half), "test": range(half, len(tokens))},
        torch.tensor(random.normal(size=(outputs, DIMENSION)), dtype=dtype),
        torch.tensor(random.normal(size=outputs), dtype=dtype),
        0.5 if outputs == 1 else 0.0,
        2.0 if outputs == 1 else 1.0,
    )


@pytest.fixture
def linear():
    """Return a linear network, two tasks with orthogonal features and their task vectors.

    The tasks have no token in common, so that neither vector touches what the other reads.
    """
    network = TextModel(Lookup(torch.float32), 1, torch.Generator().manual_seed(0)).eval()
    tasks = [
        made_task("a", "regression", range(10), 1),
        made_task("b", "classification", range(10, 20), 2),
    ]
    generator = torch.Generator().manual_seed(3)
    vectors = []
    for start in (0, 10):
        table = torch.zeros(20, DIMENSION)
        table[start : start + 10] = torch.randn(10, DIMENSION, generator=generator)
        vectors.append({"table": table})
    return EditedModel(network, 64), tasks, vectors


def exact(task, table):
    """Return f in float64, from the table alone."""
    states = table.double().numpy()[[int(ids[0]) for ids in task.examples.ids]]
    found = states @ task.head_weight.double().numpy().T + task.head_bias.double().numpy()
    if task.examples.kind == "classification":
        return found[:, 1] - found[:, 0]
    return found[:, 0] * task.label_sd + task.label_mean


def test_answers_and_slopes_are_those_of_the_weights(linear):
    edited, tasks, vectors = linear
    base = edited.base["table"].clone()
    edited.point(vectors)
    for coefficients in ((0, 0), (1, 0), (0.3, -2)):
        edited.move(coefficients)
        table = base.double() + sum(
            c * v["table"].double() for c, v in zip(coefficients, vectors, strict=True)
        )
        assert torch.equal(edited.weights["table"], table.float())
        for task, found in zip(tasks, edited.answers(tasks), strict=True):
            np.testing.assert_allclose(found, exact(task, table), rtol=1e-5, atol=1e-5)
    edited.restore()
    assert torch.equal(edited.weights["table"], base)
    for vector in vectors:
        for task, (start, slope) in zip(tasks, edited.linearised(tasks, vector), strict=True):
            np.testing.assert_allclose(start, exact(task, base), rtol=1e-5, atol=1e-5)
            wanted = exact(task, base + vector["table"]) - exact(task, base)
            np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-5)


def test_a_text_that_tasks_share_passes_once():
    seen = []

    class Counting(Lookup):
        def forward(self, input_ids, attention_mask):
            seen.extend(input_ids[:, 0].tolist())
            return super().forward(input_ids, attention_mask)

    network = TextModel(Counting(torch.float32), 1, torch.Generator().manual_seed(0)).eval()
    edited, base = EditedModel(network, 64), network.backbone.table.detach()
    tasks = [
        made_task("a", "regression", [3, 4, 5, 3], 1),
        made_task("b", "classification", [5, 6, 3], 2),
    ]
    seen.clear()
    for task, found in zip(tasks, edited.answers(tasks), strict=True):
        np.testing.assert_allclose(found, exact(task, base), rtol=1e-5, atol=1e-5)
    assert sorted(seen) == [3, 4, 5, 6]


def test_orthogonal_features_of_linear_models_do_not_disturb_each_other(linear):
    edited, tasks, vectors = linear
    told = []
    grid = [-2, -0.5, 1, 2]
    found = disentanglement_rows(edited, vectors, tasks, grid, told.append)
    assert told == list(range(1, evaluations(grid) + 1))
    assert evaluations(grid) == 25  # 0 is computed too
    assert len(found) == 2 * 16
    assert {row["arm"] for row in found} == {"standard", "linear"}
    assert max(row["error"] for row in found) < 1e-6


def test_addition_is_exact_for_orthogonal_features(linear):
    """The sum answers each task exactly as that task's own model does."""
    edited, tasks, vectors = linear
    total = {"table": vectors[0]["table"] + vectors[1]["table"]}
    table = addition_sweep(edited, total, tasks, [0.5, 1.0])
    assert len(table) == 2 * 20
    for task, vector in zip(tasks, vectors, strict=True):
        own = table[(table["task"] == task.examples.task) & (table["coefficient"] == 1)]
        wanted = exact(task, edited.base["table"] + vector["table"])
        np.testing.assert_allclose(own["output"], wanted[own["row"]], rtol=1e-5, atol=1e-5)
        assert own["part"].tolist() == ["validation"] * 5 + ["test"] * 5
        assert own["label"].tolist() == task.examples.label.tolist()


def test_what_a_vector_does_to_the_other_task_is_the_error():
    """Both tasks read the same tokens: ξ is the known change of f, as a share of the range."""
    network = TextModel(Lookup(torch.float32), 1, torch.Generator().manual_seed(0)).eval()
    tasks = [made_task(name, "regression", range(6), i) for i, name in enumerate("ab")]
    generator = torch.Generator().manual_seed(3)
    vectors = [{"table": torch.randn(20, DIMENSION, generator=generator)} for _ in range(2)]
    edited = EditedModel(network, 64)
    base = edited.base["table"].clone()
    found = disentanglement_rows(edited, vectors, tasks, [-1, 0, 2])
    for row in found:
        alphas = (row["alpha_a"], row["alpha_b"])
        both = base + alphas[0] * vectors[0]["table"] + alphas[1] * vectors[1]["table"]
        for i, name in enumerate("ab"):
            alone = base + alphas[i] * vectors[i]["table"]
            change = np.abs(exact(tasks[i], both) - exact(tasks[i], alone))[3:]
            assert row[f"error_{name}"] == pytest.approx(change.mean() / 6, abs=1e-5)
        assert row["error"] == row["error_a"] + row["error_b"]
        assert row["rows_a"] == row["rows_b"] == 3


class Bent(Lookup):
    """The same behind a hyperbolic tangent: not linear in its weights."""

    def forward(self, input_ids, attention_mask):
        return types.SimpleNamespace(last_hidden_state=torch.tanh(self.table[input_ids]))


def jacobian(task, table):
    """Return the rows of df/dtable, (N, 20·D), by automatic differentiation."""
    head = task.head_weight.double()
    slope = head[0] * task.label_sd if len(head) == 1 else head[1] - head[0]
    places = [int(ids[0]) for ids in task.examples.ids]
    whole = torch.func.jacrev(lambda t: torch.tanh(t)[places] @ slope)(table.double())
    return whole.reshape(len(places), -1).numpy()


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_linearised_training_is_ridge_regression_on_the_jacobian(kind):
    """Against the ridge that is best on the hold-out, with an explicit Jacobian in float64."""
    network = TextModel(Bent(torch.float64), 1, torch.Generator().manual_seed(0)).double().eval()
    task = made_task("a", kind, [*range(16), *range(8)], 1, torch.float64)
    train, holdout = list(range(8)), list(range(8, 12))
    parts = {"validation": holdout, "test": range(16, 24)}
    task = dataclasses.replace(task, parts=parts, train=train)
    edited = EditedModel(network, 64)
    table = edited.base["table"].clone()
    found = linear_vector(edited.reader, task, 64)
    assert list(found) == ["table"]

    slopes, start = jacobian(task, table), exact(task, torch.tanh(table))
    label = task.examples.label
    shift = (label if kind == "regression" else 2 * label - 1) - start
    kernel = slopes[train] @ slopes[train].T
    tried = []
    for share in RIDGES:
        ridge = share * np.linalg.eigvalsh(kernel)[-1]
        vector = slopes[train].T @ np.linalg.solve(kernel + ridge * np.eye(8), shift[train])
        tried.append((np.mean((shift[holdout] - slopes[holdout] @ vector) ** 2), share, vector))
    wanted = min(tried, key=lambda one: one[0])[2]
    np.testing.assert_allclose(found["table"].numpy().ravel(), wanted, rtol=1e-8, atol=1e-12)

    # in the linearised network the vectors add, and each moves the answers of rows it shares
    rows = disentanglement_rows(edited, [found] * 2, [task] * 2, [0, 1], trained=[found, found])
    errors = {row["arm"]: row for row in rows if row["alpha_a"] == row["alpha_b"] == 1}
    assert set(errors) == {"standard", "linear", "tangent"}
    alone, both = (start + times * slopes @ wanted for times in (1, 2))
    error = distance(task, parts["test"], alone[16:], both[16:])
    assert errors["tangent"]["error_a"] == pytest.approx(error)
    assert errors["linear"]["error_a"] == pytest.approx(error)


def test_linearised_training_of_more_classes_is_refused():
    task = made_task("a", "classification", range(6), 1)
    task = dataclasses.replace(task, examples=dataclasses.replace(task.examples, classes=3))
    with pytest.raises(UserError, match="task a has 3 classes; --tangent takes scores or two"):
        linear_vector(None, task, 64)


def test_the_linear_arm_is_that_of_the_linearised_network():
    """Against finite differences of the network in float64; the network itself differs."""
    network = TextModel(Bent(torch.float64), 1, torch.Generator().manual_seed(0)).double().eval()
    tasks = [
        made_task(name, "regression", range(6), i, torch.float64) for i, name in enumerate("ab")
    ]
    generator = torch.Generator().manual_seed(3)
    vectors = [
        {"table": torch.randn(20, DIMENSION, generator=generator, dtype=torch.float64)}
        for _ in range(2)
    ]
    edited = EditedModel(network, 64)
    base = edited.base["table"].clone()

    def bent(task, table):
        return exact(task, torch.tanh(table))

    found = disentanglement_rows(edited, vectors, tasks, [0, 1])
    errors = {row["arm"]: row for row in found if row["alpha_a"] == row["alpha_b"] == 1}
    for i, name in enumerate("ab"):
        other = vectors[1 - i]["table"]
        step = 1e-5
        slope = (
            (bent(tasks[i], base + step * other) - bent(tasks[i], base - step * other)) / 2 / step
        )
        assert errors["linear"][f"error_{name}"] == pytest.approx(
            np.abs(slope[3:]).mean() / 6, rel=1e-4
        )
        alone = base + vectors[i]["table"]
        change = np.abs(bent(tasks[i], alone + other) - bent(tasks[i], alone))[3:].mean() / 6
        assert errors["standard"][f"error_{name}"] == pytest.approx(change, rel=1e-4)
        assert errors["standard"][f"error_{name}"] != pytest.approx(
            errors["linear"][f"error_{name}"], rel=0.1
        )


def test_answers_that_overflow_are_refused(linear):
    edited, tasks, vectors = linear
    edited.point(vectors[:1])
    edited.move([1e39])
    with pytest.raises(UserError, match=r"answers to task a are not finite at coefficients 1e\+39"):
        edited.answers(tasks[:1])


def test_distance_of_classes_and_scores():
    two = made_task("c", "classification", range(4), 0)
    one = made_task("r", "regression", range(4), 0)
    first, second = np.array([1.0, -1, 2, -3]), np.array([0.1, 5, 3, -1])
    assert distance(two, range(4), first, second) == 0.25
    assert distance(one, range(4), first, second) == pytest.approx((0.9 + 6 + 1 + 2) / 4 / 6)
    bare = TunedTask(
        Examples("r", "regression", one.examples.ids, np.ones(4), np.ones(4)),
        *(getattr(one, n) for n in ("parts", "head_weight", "head_bias", "label_mean")),
        label_sd=1.0,
    )
    with pytest.raises(UserError, match="scores of task r have no range; state its score_range"):
        distance(bare, range(4), first, second)


def test_negation_of_a_linear_model_is_what_the_slope_says(linear):
    edited, tasks, vectors = linear
    told, vector = [], vectors[0]["table"].clone()
    table = negation_sweep(edited, vectors[0], tasks[0], tasks[1:], [0.5, 2.0], 7, told.append)
    assert told == list(range(1, 1 + 2 + 2 + 1))
    own = table[table["task"] == "a"].set_index(["coefficient", "row"])
    assert sorted(set(own.index.get_level_values(0))) == [-1, 0, 0.5, 2]
    for coefficient in (-1, 0.5, 2):
        linear_answer = own["output"][0] - coefficient * own["slope"][0]
        np.testing.assert_allclose(own["output"][coefficient], linear_answer, atol=2e-5)
    np.testing.assert_allclose(
        own["output"][-1], exact(tasks[0], edited.base["table"] + vector), atol=1e-5
    )
    # the control: a random vector as long, at the largest λ where 1 is not among them
    random = vectors[0]["table"]
    assert random.norm() == pytest.approx(float(vector.norm()), rel=1e-5)
    assert abs(float(torch.sum(random * vector))) < 0.7 * float(vector.norm()) ** 2
    np.testing.assert_allclose(
        own["random"][2.0], exact(tasks[0], edited.base["table"] - 2 * random), atol=2e-5
    )
    assert own["random"].drop(2.0, level=0).isna().all()
    control = table[table["task"] == "b"]
    assert control["random"].isna().all()
    assert sorted(set(control["coefficient"])) == [0, 0.5, 2]
    assert (control["slope"] == 0).all()
    assert torch.equal(edited.weights["table"], edited.base["table"])


def test_vectors_must_be_the_networks(linear):
    edited, _, vectors = linear
    with pytest.raises(UserError, match=r"table has shape \(20, 4\) in the network's set"):
        edited.point([{"table": torch.ones(3, 4)}])
    edited.point(vectors)
    with pytest.raises(UserError, match="2 task vectors and 1 coefficients"):
        edited.move([1.0])
