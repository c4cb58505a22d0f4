"""What Snakemake plans, and what a mistake in the configuration prints."""

import pytest

pytestmark = pytest.mark.workflow


def test_the_default_study_lists_its_jobs(checkout):
    jobs = checkout.planned()
    assert jobs["kernel"] == jobs["fetch_task"] == jobs["stopping"] == 6
    assert jobs["finetune"] == 6 * 3
    assert jobs["decay_figure"] == 6
    assert jobs["fetch_package"] == 2
    assert {"fig2", "fig3", "fig10", "table1", "table2", "table3", "verdicts"} <= set(jobs)


def test_the_papers_whole_grid_is_listed_without_network(checkout):
    jobs = checkout.planned("--configfile", "config/paper.yaml")
    assert jobs["kernel"] == 6
    assert jobs["finetune"] == 6 * 6
    assert jobs["tuned_weights"] == 4
    assert jobs["fetch_task"] == 8
    assert "fetch_package" not in jobs


def test_one_figure_plans_one_tasks_data_kernel_and_spectrum(checkout):
    assert checkout.planned("fig4") == {
        "fetch_package": 2,
        "fetch_model": 1,
        "fetch_task": 1,
        "tokenize": 1,
        "draws": 1,
        "kernel": 1,
        "spectrum": 1,
        "decay_figure": 1,
        "fig4": 1,
    }


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        ("kernels", {"kernel", "spectrum"}),
        ("grid", {"subsets", "finetune"}),
        ("taskvectors", {"tuned_weights", "task_vector_cosines", "merged_models"}),
        ("theory", {"kernel", "stopping"}),
        ("fetch", {"fetch_package", "fetch_model", "fetch_task"}),
        ("report", {"verdicts", "fig2", "fig10", "decay_figure"}),
    ],
)
def test_named_targets_plan_their_part(checkout, target, rules):
    assert rules <= set(checkout.planned(target))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("finetune: {lerning_rate: 1}", "unknown key 'finetune.lerning_rate'; did you mean"),
        ("tasks: [amazon-intensty]", "there is no task 'amazon-intensty' in config/tasks; did"),
        ("finetune: {sizes: [100000]}", "finetune.sizes asks for 100000 rows, but the training"),
        ("finetune: {learning_rate: -1}", "finetune.learning_rate is -1: must be greater than 0"),
    ],
)
def test_a_mistake_is_told_before_the_graph_is_built(checkout, config, message):
    (checkout.folder / "mine.yaml").write_text(config)
    done = checkout.snakemake("--dry-run", "--configfile", "mine.yaml")
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert sum(message in line for line in output.splitlines()) == 1, output
    assert "Traceback" not in output
    assert "Building DAG" not in output


def test_a_figure_that_the_study_has_not_is_told(checkout):
    done = checkout.snakemake("fig7", "--dry-run", "--configfile", "config/smoke.yaml")
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "fig7 draws the eigenvalue decay of task number 4, but study 'smoke' has 2" in output
    assert "Traceback (most recent call last)" not in output


def test_a_configuration_given_by_hand_stands_alone(checkout):
    (checkout.folder / "mine.yaml").write_text("study: mine\ntasks: [amazon-intensity]\n")
    assert checkout.planned("--configfile", "mine.yaml")["kernel"] == 1
