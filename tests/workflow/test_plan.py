"""What Snakemake plans, and what a mistake in the configuration prints."""

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ntktune.data.pretrained import random_model

pytestmark = pytest.mark.workflow


def write_study(checkout, **changes):
    """Write mine.yaml: a model, a task, and what else is given; null takes a key away."""
    random = {"model_type": "gpt_neo"}
    study = {"tasks": ["amazon-intensity"], "model": {"source": {"random": random}}} | changes
    content = {key: value for key, value in study.items() if value is not None}
    (checkout.folder / "mine.yaml").write_text(yaml.safe_dump(content))


def test_the_default_study_lists_its_jobs(checkout):
    jobs = checkout.planned()
    assert jobs["kernel_draws"] == jobs["data_fetch_task"] == jobs["theory_stopping"] == 6
    assert jobs["finetune_run"] == 6 * 3
    assert {f"fig{number}" for number in range(4, 10)} <= set(jobs)
    assert jobs["data_fetch_package"] == 2
    assert {"fig2", "fig3", "fig10", "prediction"} <= set(jobs)
    assert {"table1", "table2", "table3", "table4", "verdicts"} <= set(jobs)
    assert not {"epochs", "finetune_fixed"} & set(jobs)
    # kernels of 100 rows are one job each
    assert not {"kernel_draws_shard", "kernel_learning_shard", "kernel_gather"} & set(jobs)


def test_the_limit_of_jobs_that_is_taken_off_is_snakemakes_own():
    """run_state.smk: else its timers pile up, one more for each job that ends."""
    from snakemake.cli import get_argument_parser
    from snakemake.scheduling.job_scheduler import JobScheduler

    limit = get_argument_parser().get_default("max_jobs_per_timespan")
    assert limit == "100/1s"
    assert "job_rate_limiter" in inspect.getsource(JobScheduler.__init__)


MODULE = """
configfile: "config/smoke.yaml"

module study:
    snakefile: "{}/workflow/Snakefile"
    config: config

use rule * from study as ntk_*
"""


def test_the_catalogs_snakefile_and_a_module_list_the_same_jobs(checkout, tmp_path):
    """A root Snakefile that merely includes another lists none."""
    smoke = ("--configfile", "config/smoke.yaml")
    jobs = checkout.planned(*smoke)
    assert jobs["kernel_draws"] == jobs["data_fetch_task"] == 2
    assert checkout.planned("--snakefile", "workflow/Snakefile", *smoke) == jobs

    other = checkout.at(tmp_path / "another workflow")
    shutil.copytree(checkout.folder / "config", other.folder / "config")
    (other.folder / "Snakefile").write_text(MODULE.format(checkout.folder))
    # the package is found beside the module's rules, not by the path of this test
    assert other.planned(PYTHONPATH="") == {f"ntk_{rule}": count for rule, count in jobs.items()}
    target = "results/smoke/data/smoke-regression/table.parquet"
    done = other.snakemake("--cores", "1", "--", target, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert "localrules" not in done.stderr
    assert (other.folder / target).is_file()


def test_the_papers_whole_grid_is_listed_without_network(checkout):
    jobs = checkout.planned("--configfile", "config/paper.yaml")
    assert jobs["kernel_draws"] == 6
    # of 2,048 training rows: three bands, the upper triangle of their shards
    assert jobs["kernel_learning_shard"] == 6 * 6
    assert jobs["kernel_gather"] == 6
    assert "kernel_learning" not in jobs
    assert sum(jobs.values()) >= 200
    assert jobs["finetune_run"] == 6 * 6
    assert jobs["taskvectors_tune"] == 4
    assert jobs["data_fetch_task"] == 8
    assert "data_fetch_package" not in jobs


def test_learning_rates_to_choose_from_are_compared_once_per_task(checkout):
    write_study(
        checkout,
        study="mine",
        finetune={"sizes": [16, 32, 64], "learning_rates": [1e-5, 1e-4]},
        kernel={"learning_seeds": 0},
    )
    jobs = checkout.planned("--configfile", "mine.yaml")
    assert jobs["finetune_choose"] == 1
    assert jobs["finetune_run"] == 3
    done = checkout.snakemake("-n", "-p", "--configfile", "mine.yaml", "--", "finetune")
    assert done.stdout.count("--rates results/mine/finetune/amazon-intensity/full/learning_r") == 3
    assert "--learning-rates 1e-05 0.0001 --size 32" in done.stdout


def test_every_method_has_its_cells_its_learning_rate_and_the_first_the_rest(checkout):
    methods = {"methods": ["lora", "probe", "full"], "sizes": [16, 32], "fixed_epochs": 2}
    methods["lora"] = {"rank": 4, "targets": ["q_proj"], "rank_pattern": {"q_proj": 2}}
    write_study(
        checkout,
        study="mine",
        finetune=methods | {"learning_rate": 0.00003},
        kernel={"learning_seeds": 0},
    )
    jobs = checkout.planned("--configfile", "mine.yaml")
    assert (jobs["finetune_run"], jobs["finetune_fixed"]) == (6, 1)
    done = checkout.snakemake("-n", "-p", "--configfile", "mine.yaml", "--", "figures")
    commands = done.stdout.split("python -m ntktune ")
    for method, rate, count in (
        ("lora", "0.0003", 3),
        ("probe", "0.0003", 2),
        ("full", "3e-05", 2),
    ):
        own = [c for c in commands if f"--method {method} " in c]
        assert len(own) == count
        assert all(f"--learning-rate {rate} " in command for command in own)
        lora = "--lora-rank 4 --lora-alpha 8 --lora-targets q_proj --lora-rank-pattern q_proj=2"
        assert all((lora in " ".join(c.split())) == (method == "lora") for c in own)
    (drawn,) = [c for c in commands if c.startswith("figures draw fig2")]
    first, others = drawn.split("--metrics")[1].split("--compared")
    assert first.count("/lora/n") == 2
    assert others.count("/probe/n") == others.count("/full/n") == 2
    fewer = {"methods": ["full"], "seeds": 4, "large_size": 32, "large_seeds": 2}
    write_study(checkout, study="mine", finetune=methods | fewer)
    done = checkout.snakemake("-n", "-p", "--configfile", "mine.yaml", "--", "finetune")
    cells = [c for c in done.stdout.split("python -m ntktune ") if "finetune run" in c]
    assert {("--size 32" in c, "--seeds 2" in c) for c in cells if "--test-h" not in c} == {
        *((True, True), (False, False))
    }
    vectors = {"chapters": ["taskvectors"], "tasks": ["amazon-intensity", "amazon-polarity"]}
    write_study(checkout, **vectors, finetune=methods | {"methods": ["probe", "full"]})
    done = checkout.snakemake("-n", "--configfile", "mine.yaml")
    assert "finetune.methods begins with probe" in done.stdout + done.stderr


def test_one_figure_plans_one_tasks_data_kernel_and_spectrum(checkout):
    assert checkout.planned("fig4") == {
        "data_fetch_package": 2,
        "data_fetch_model": 1,
        "data_fetch_task": 1,
        "data_tokenize": 1,
        "data_draws": 1,
        "kernel_draws": 1,
        "spectrum_fit": 1,
        "fig4": 1,
    }


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        (
            "data",
            {"data_fetch_model", "data_fetch_task", "data_tokenize", "data_draws", "data_subsets"},
        ),
        ("kernel", {"kernel_draws", "kernel_learning"}),
        ("spectrum", {"kernel_draws", "spectrum_fit"}),
        ("finetune", {"data_subsets", "finetune_run", "finetune_baselines"}),
        (
            "taskvectors",
            {"taskvectors_tune", "taskvectors_cosine", "taskvectors_overlap", "taskvectors_score"}
            | {f"taskvectors_{verb}" for verb in ("add", "negate", "disentangle")},
        ),
        (
            "theory",
            {"kernel_draws", "theory_stopping", "theory_rules", "theory_trajectory"}
            | {"theory_width", "theory_simulate"},
        ),
        ("figures", {"verdicts", "fig2", "fig10", "fig4", "addition", "simulation"}),
        ("fetch", {"data_fetch_package", "data_fetch_model", "data_fetch_task"}),
    ],
)
def test_named_targets_plan_their_part(checkout, target, rules):
    """A chapter's name makes the chapter, and of the figures chapter nothing."""
    jobs = checkout.planned(target)
    assert rules <= set(jobs)
    assert jobs[target] == 1
    assert ("fig2" in jobs) == (target == "figures")


def test_a_figures_name_makes_the_figure(checkout):
    names = ("addition", "negation", "disentanglement", "simulation", "width", "layers")
    done = checkout.snakemake("--dry-run", "--quiet", "rules", "--", *names)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert re.search(rf"^{name} +1$", done.stdout + done.stderr, re.MULTILINE), name


def sentence(done):
    """Return what a mistake printed last: its sentence, not framed in code."""
    assert done.returncode == 1
    for frame in ("Traceback", "Exception", "Error in", "WorkflowError", ".smk"):
        assert frame not in done.stdout + done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("finetune: {lerning_rate: 1}", "unknown key 'finetune.lerning_rate'; did you mean"),
        ("tasks: null", "mine.yaml: tasks is missing: The study's tasks by file name"),
        ("model: null", "mine.yaml: model is missing: "),
        ("tasks: [amazon-intensty]", "there is no task 'amazon-intensty' in config/tasks; did"),
        ("finetune: {sizes: [100000]}", "finetune.sizes asks for 100000 rows, but the training"),
        (
            "{chapters: [theory], theory: {tasks: [rte]}}",
            "theory.tasks has 'rte', which is none of the study's tasks",
        ),
        ("theory: {seeds: 9}", "theory.seeds is 9, but finetune.seeds 3; give at most 3"),
        ("finetune: {learning_rate: -1}", "finetune.learning_rate is -1: must be greater than 0"),
        (
            "{task_folders: [mine], tasks: [a], finetune: {sizes: [8]}, kernel: {rows: 8}}",
            "mine/a.yaml: score_range [5, 1] must be [lowest, highest]",
        ),
    ],
)
def test_a_mistake_is_told_before_the_graph_is_built(checkout, config, message):
    write_study(checkout, **yaml.safe_load(config))
    (checkout.folder / "mine").mkdir()
    (checkout.folder / "mine/a.yaml").write_text(
        "{title: A, kind: regression, score_range: [5, 1], sources: [{files: {train: README.md}}]}"
    )
    done = checkout.snakemake("--dry-run", "--configfile", "mine.yaml")
    assert sentence(done).count(message) == 1
    assert "Building DAG" not in done.stderr


def test_every_rule_is_listed_with_its_own_words(checkout):
    listed = checkout.snakemake("--list").stdout.splitlines()
    words = dict(re.fullmatch(r"(\w+)(.*)", line).groups() for line in listed)
    assert len(words) > 60
    assert all(words.values())
    assert len(set(words.values())) == len(words)


def test_trainings_without_stopping_must_be_asked_for(checkout):
    jobs = checkout.planned("epochs", "--configfile", "config/paper.yaml")
    assert (jobs["finetune_fixed"], jobs["epochs"], "finetune_run" in jobs) == (6, 1, False)
    told = sentence(checkout.snakemake("epochs", "--dry-run"))
    assert "makes no epochs: finetune.fixed_epochs is null; set it to a number of" in told


def test_a_figure_that_the_study_has_not_is_told(checkout):
    chapters = ["kernel", "spectrum", "finetune", "theory", "figures"]
    write_study(checkout, chapters=chapters, theory={"tasks": []}, kernel={"learning_seeds": 0})
    jobs = checkout.planned("--configfile", "mine.yaml")
    assert not {"theory_trajectory", "table6", "theory_rules", "table5", "descent"} & set(jobs)
    for target, why in {
        "linearisation": "theory.tasks is empty; name tasks",
        "descent": "no kernel predicts a sample; raise kernel.learning_seeds",
        "results/mine/figures/fig3.png": "it compares tasks, and `tasks` lists one, amazon-in",
        "lean width": "`chapters` does not list theory; add it there",
        "lean figures": "`chapters` lists nothing that can be drawn; add spectrum, finetune",
        "fig10": "it draws the F1 score, and no task is a classification",
        "fig7": "it draws the eigenvalue decay of task number 4, and `tasks` lists 1: amazon-in",
    }.items():
        lean = ["--config", "chapters=[figures]"] * target.startswith("lean ")
        name = target.split()[-1]
        done = checkout.snakemake(name, "--dry-run", "--configfile", "mine.yaml", *lean)
        name = name.split("/")[-1].removesuffix(".png")
        assert sentence(done).startswith(f"study 'mine' makes no {name}: {why}")


def test_a_study_is_lean_unless_it_asks_for_more(checkout):
    """The model, the tasks and no other key: the chapters that a question about labels needs."""
    write_study(checkout)
    done = checkout.snakemake("--dry-run", "-p", "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    figures = {"fig2", "fig4", "decays", "table1", "table4", "verdicts"}
    samples = {
        "data_draws",
        "data_subsets",
        "data_tokenize",
        "data_fetch_model",
        "data_fetch_package",
        "data_fetch_task",
    }
    computed = {
        "kernel_draws",
        "kernel_learning",
        "spectrum_fit",
        "finetune_run",
        "finetune_baselines",
    }
    assert set(jobs) - {"total", "all"} == figures | samples | computed
    # the whole model, no token put first, texts as long as it takes, all test rows
    for option in ("--blocks", "--prefix-token", "--max-tokens", "--test-rows"):
        assert f"{option} " not in output
    assert "results/mine/theory" not in output
    assert jobs["finetune_run"] == "6"  # 16 to 512 of the task's 2,977 training rows


def test_keys_that_are_no_option_of_a_command_decide_what_is_planned(checkout):
    """Chapters, tasks, bands of kernels and a figure's colours have tests of their own."""
    study = yaml.safe_load((checkout.folder / "config/smoke.yaml").read_text())
    study["study"] = "mine"
    study["model"] |= {"name": "a name", "licence": "a licence"}
    study["finetune"] |= {"fixed_size": 96}
    study["taskvectors"] |= {"seeds": 2, "merged_seeds": 1}
    palette = [f"#00000{i}" for i in range(6)]
    study["figures"] = {"dpi": 77, "palette": palette, "diverging": "PiYG", "sequential": "magma"}
    (checkout.folder / "mine.yaml").write_text(yaml.safe_dump(study))
    done = checkout.snakemake("--dry-run", "-p", "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stderr
    commands = done.stdout + done.stderr
    wanted = ["a name", "a licence", "fixed/n96/metrics", "/seed1.safetensors", "--dpi 77", "magma"]
    for word in (*wanted, *palette, "PiYG", "results/mine/"):
        assert word in commands, word
    assert "/seed2.safetensors" not in commands


def test_a_configuration_given_by_hand_stands_alone(checkout):
    write_study(checkout)
    assert checkout.planned("--configfile", "mine.yaml")["kernel_draws"] == 1


def readme_study(checkout, rows=200):
    """Write the two files of the README's own study, and the CSV and model that they speak of."""
    text = (checkout.folder / "README.md").read_text()
    task, study = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[:2]
    (checkout.folder / "my/tasks").mkdir(parents=True)
    (checkout.folder / "my/tasks/reviews.yaml").write_text(task)
    (checkout.folder / "my/tasks/config.json").write_text("{}")  # so it passes for a model's, too
    model = yaml.safe_load(study)["model"]["source"]["folder"]
    (checkout.folder / "my/study.yaml").write_text(study.replace(model, "my/model"))
    settings = {"model_type": "gpt_neo", "hidden_size": 8, "num_layers": 6, "num_heads": 2}
    saved = random_model(settings | {"attention_types": [[["global", "local"], 3]]})
    for part in saved:  # network and tokenizer
        part.save_pretrained(checkout.folder / "my/model")
    lines = [f'"text, {i}",{1 + i % 5},{"bad" if i % 5 < 3 else "good"}' for i in range(rows)]
    (checkout.folder / "my/reviews.csv").write_text("\n".join(["review,stars,verdict", *lines]))
    return yaml.safe_load(study)


def test_the_readmes_own_study_is_planned_whole(checkout):
    readme_study(checkout)
    jobs = checkout.planned("--configfile", "my/study.yaml")
    assert jobs["data_fetch_task"] == jobs["kernel_draws"] == jobs["fig4"] == 1
    assert jobs["finetune_run"] == 3  # 16 to half of the 160 training rows or so
    assert {"fig2", "table1", "verdicts"} <= set(jobs)
    # one regression: nothing to merge, no F1, and nothing of the quickstart's tasks
    assert not {"taskvectors_tune", "fig3", "table3", "fig10", "data_fetch_package"} & set(jobs)
    # `make plan`: what the study chose, and how many jobs; not every job
    done = checkout.snakemake("-n", "--logger", "ntktune", "--configfile", "my/study.yaml")
    told = done.stderr[done.stderr.index("study mine") :].splitlines()
    chosen = ["chapters", "model", "kernel", "finetune", "data"]
    assert [line.split()[0] for line in told[1:6]] == chosen
    assert re.fullmatch(
        r"  data +reviews: train 1[56]\d rows of 1[56]\d; test \d+ rows of \d+", told[5]
    )
    assert re.match(r"\[0:\d\d\] \d+ jobs: .*3 finetune_run", told[6])
    assert len(told) == 7


def test_the_readmes_commands_can_be_planned(checkout):
    """Each command in the README's order; make and Snakemake say what they would run."""
    readme_study(checkout)
    text = (checkout.folder / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("&&", "\n").splitlines()
    lines = dict.fromkeys(lines + re.findall(r"`((?:make|snakemake|ntktune) [^`]+)`", text))
    binaries = Path(sys.executable).parent
    told = set()
    for program, *words in filter(None, (shlex.split(line, comments=True) for line in lines)):
        if program == "make":
            done = subprocess.run(
                ["make", "--dry-run", f"BIN={binaries}", *words],
                cwd=checkout.folder,
                capture_output=True,
                text=True,
                check=False,
            )
        elif program == "snakemake":
            done = checkout.snakemake(*words, "--dry-run", "--quiet")
        elif program == "ntktune":
            done = checkout.command(*words)
        else:
            assert program in ("source", "pip"), program
            continue
        assert done.returncode == 0, f"{program} {words}: {done.stdout}{done.stderr}"
        told.add(program)
    assert told == {"make", "snakemake", "ntktune"}


def test_the_users_own_files_are_watched_by_content(checkout):
    """A corpus of many files, one of them large, and a model: touched, then replaced by older ones.

    Linux allows one argument of a command 128 KiB; the names of the corpus's files are more.
    """
    readme_study(checkout, rows=6000)
    corpus = Path("my", *("part-of-the-collection-" * 10 for _ in range(15)))
    (checkout.folder / corpus).mkdir(parents=True)
    files = [str(corpus / f"{i}.jsonl") for i in range(40)]
    for i, name in enumerate(files):
        (checkout.folder / name).write_text(json.dumps({"review": f"t{i}", "stars": 2}))
    assert sum(map(len, files)) > 2**17
    large = checkout.folder / "my/reviews.csv"
    large.write_text(large.read_text().replace("text", "text " * 50))
    assert large.stat().st_size > 10**6  # Snakemake's limit for checksums
    checkout.edit("my/tasks/reviews.yaml", "my/reviews.csv", json.dumps(["my/reviews.csv", *files]))
    model = checkout.folder / "my/model"
    study = ("--configfile", "my/study.yaml")
    targets = ("--", "results/mine/data/model", "results/mine/data/reviews/table.parquet")
    done = checkout.snakemake("--cores", "2", *study, *targets)
    assert done.returncode == 0, done.stdout + done.stderr
    own = [large, *(checkout.folder / name for name in files[:3]), *model.iterdir()]
    for file in own:
        os.utime(file)
    assert checkout.planned(*study, *targets) == {}
    for file in (large, model / "tokenizer.json"):
        file.write_text(file.read_text() + "\n")
        os.utime(file, (10**9, 10**9))
    assert checkout.planned(*study, *targets) == {"data_fetch_task": 1, "data_fetch_model": 1}


def test_a_kernel_of_many_shards_fits_a_command_line(checkout):
    """Linux allows one argument 128 KiB; the names of 1,035 shards are more."""
    name = "mine" * 15
    write_study(checkout, study=name, kernel={"rows": 450, "shard_rows": 10})
    target = f"results/{name}/kernel/amazon-intensity/draws.safetensors"
    done = checkout.snakemake("--dry-run", "-p", "--configfile", "mine.yaml", "--", target)
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert re.search(r"^kernel_draws_shard +1035$", output, re.MULTILINE)
    command = output[output.index("ntktune kernel gather") :][:400]
    folder = f"results/{name}/kernel/amazon-intensity/shards/draws-45"
    assert 1035 * len(f"{folder}/10-11.safetensors ") > 2**17
    assert f"--shards {folder} " in command


def test_classes_of_a_merged_task_alone_make_no_figure_10(checkout):
    merged = ["amazon-intensity", "film-polarity"]
    chapters = ["taskvectors", "figures"]
    write_study(checkout, chapters=chapters, taskvectors={"tasks": merged, "size": 64})
    jobs = checkout.planned("--configfile", "mine.yaml")
    assert "fig10" not in jobs
    assert jobs["fig3"] == 1


def test_what_the_documents_link_to_is_in_the_repository(checkout):
    """A file that git ignores is there for its author only."""
    targets = []
    for document in checkout.folder.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                targets.append((document, target))
    assert len(targets) > 5
    for document, target in targets:
        assert (document.parent / target).exists(), f"{document} links to {target}"


def test_another_working_folder_is_told(checkout, tmp_path):
    """What is relative is looked for where Snakemake runs, wherever the Snakefile is."""
    (tmp_path / "empty").mkdir()
    empty = ("--dry-run", "--directory", str(tmp_path / "empty"))
    for arguments, message in (
        (
            (),
            f"there is no config/config.yaml in {tmp_path / 'empty'}: run Snakemake in the folder",
        ),
        (("--configfile", "config/smoke.yaml"), f"hold no task at all (looked in {tmp_path}"),
    ):
        assert message in sentence(checkout.snakemake(*empty, *arguments))


def test_a_key_that_stands_twice_is_told(checkout):
    write_study(checkout, study="twice")
    with (checkout.folder / "mine.yaml").open("a") as file:
        file.write("tasks: [film-polarity]\n")
    told = sentence(checkout.snakemake("--dry-run", "--configfile", "mine.yaml"))
    assert (
        "mine.yaml is not valid YAML: the key 'tasks' stands in line 6 and again in line 8" in told
    )
