"""Everything that happens while the workflow is read: the one impure place.

Validates the configuration, completes it, and gives the rules the names they use:
STUDY (the effective configuration), RESULTS, FIGURES, DECAY_FIGURES, TABLES, GPU, and digest_of.
"""

import json
import os
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

# The folder of this file, also where another workflow uses this one as a module.
PACKAGE_FOLDER = str(Path(workflow.current_basedir).parent)
sys.path.insert(0, PACKAGE_FOLDER)
# The jobs' `python -m ntktune` is the Python that runs Snakemake, activated or not, and finds the
# package here, installed or not.
for variable, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", PACKAGE_FOLDER)):
    others = os.environ.get(variable)
    os.environ[variable] = os.pathsep.join([str(folder)] + [others] * bool(others))

from ntktune.artifacts import RESULTS_VARIABLE, atomic_path, remove_left_overs
from ntktune.code_digest import code_digest
from ntktune.config import (
    archive_name,
    kernel_bands,
    merges,
    package_of,
    packages,
    resolved_study,
    source_files,
    task_file,
)
from ntktune.data.definition import complete_definition
from ntktune.data.hub import MODEL_FILES
from ntktune.device import has_nvidia_gpu
from ntktune.errors import UserError
from ntktune.unfinished import begin, finish, unfinished
from ntktune.user_files import content_digest

try:
    STUDY = resolved_study(config, ", ".join(map(str, workflow.configfiles)) or "configuration")
    for task, definition in STUDY["task_definitions"].items():
        complete_definition(definition, task)
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{STUDY['study']}"
# A damaged file there is set aside by the job that finds it: its rule can make it again.
os.environ[RESULTS_VARIABLE] = os.path.abspath(RESULTS)
PACKAGES = packages(STUDY)
# SR26's figures 4-9 are one task each; a study's seventh task and further ones get a name.
DECAY_FIGURES = {
    f"fig{4 + i}" if i < 6 else f"decay-{task}": task for i, task in enumerate(STUDY["tasks"])
}
HAS_CLASSES = any(
    STUDY["task_definitions"][task]["kind"] == "classification" for task in STUDY["tasks"]
)
MERGES = bool(STUDY["taskvectors"]["tasks"])
# One task is trained on a second sample from the same head: how alike may task vectors be?
TWO_SAMPLES = STUDY["finetune"]["seeds"] > 1
VECTOR_SEEDS = range(STUDY["taskvectors"]["seeds"])
# Merged models: file name -> tasks. All pairs, then all tasks.
MERGE_TASKS = merges(STUDY["taskvectors"]["tasks"])
MERGED_PAIRS = [merge for merge in MERGE_TASKS if "+" in merge]
COEFFICIENTS = sorted({*STUDY["taskvectors"]["coefficients"], STUDY["taskvectors"]["coefficient"]})
# Trainings without early stopping, for comparison.
FIXED_EPOCHS = bool(STUDY["finetune"]["fixed_epochs"])
FIXED_SIZE = STUDY["finetune"]["fixed_size"] or min(STUDY["finetune"]["sizes"])
TASK_VECTOR_FIGURES = ["fig3", "layers", "addition", "negation", "disentanglement"] * MERGES
FIGURES = ["fig2"] + TASK_VECTOR_FIGURES + [*DECAY_FIGURES] + ["fig10"] * HAS_CLASSES
FIGURES += ["prediction", "simulation"] + ["epochs"] * FIXED_EPOCHS
TABLES = ["table1", "table2"] + ["table3"] * MERGES + ["table4"]
TABLES += ["table8", "table9"] * MERGES
# What the chapter taskvectors makes, where the study merges tasks: option of a command -> file.
MERGING_TABLES = {
    f"--{name}": f"{RESULTS}/taskvectors/{name}.parquet"
    for name in ["cosine", "merged", "negated"] * MERGES
}
# Only what is fetched over the network is tried again: a mistake stays one.
TASK_RETRIES = 3 * any("hub" in s for t in STUDY["task_definitions"].values() for s in t["sources"])
MODEL_RETRIES = 3 * ("hub" in STUDY["model"]["source"])


# Snakemake counts GPUs only where a job asks for one.
GPU = int(STUDY["device"] == "cuda" or (STUDY["device"] == "auto" and has_nvidia_gpu()))

# Options that a command gets only where the configuration sets them.
BLOCKS = ["--blocks", str(STUDY["model"]["blocks"])] if STUDY["model"]["blocks"] else []
PREFIX = (
    ["--prefix-token", STUDY["model"]["prefix_token"]] if STUDY["model"]["prefix_token"] else []
)
TEST_ROWS = (
    ["--test-rows", str(STUDY["finetune"]["test_rows"])] if STUDY["finetune"]["test_rows"] else []
)
# Subsets larger than this are not predicted by the kernel.
LEARNING_ROWS = STUDY["kernel"]["learning_rows"] or max(STUDY["finetune"]["sizes"])
LEARNING_SEEDS = min(STUDY["kernel"]["learning_seeds"], STUDY["finetune"]["seeds"])
# Kernels of more rows than a job takes: name of the file -> bands of rows.
KERNEL_BANDS = {
    name: count for name, count in kernel_bands(STUDY, LEARNING_ROWS).items() if count > 1
}
LEARNING_KERNELS = [f"{RESULTS}/kernel/{{task}}/learning.safetensors"] * (LEARNING_SEEDS > 0)
# Sample sizes that the kernel predicts.
LEARNING_SIZES = [n for n in STUDY["finetune"]["sizes"] if n <= LEARNING_ROWS]
# Fine-tunings that the theory chapter watches.
TRACED = STUDY["theory"]["tasks"]
TRACED_SIZE = STUDY["theory"]["size"] or min(STUDY["finetune"]["sizes"])
# Tasks with a kernel of training samples and test rows, in which rules can stop.
RULED = STUDY["tasks"] * bool(LEARNING_SEEDS and LEARNING_SIZES)
FIGURES += ["descent"] * bool(RULED) + ["linearisation"] * bool(TRACED) + ["width"]
TABLES += ["table5"] * bool(RULED) + ["table6"] * bool(TRACED) + ["table7", "verdicts"]
# What the verdicts on the theory need: option of a command -> file.
THEORY_TABLES = {
    "--radii": f"{RESULTS}/theory/radii.parquet",
    "--slopes": f"{RESULTS}/theory/slopes.parquet",
}
if RULED:
    THEORY_TABLES["--table5"] = f"{RESULTS}/figures/table5.csv"
if TRACED:
    THEORY_TABLES["--table6"] = f"{RESULTS}/figures/table6.csv"
VALIDATION_ROWS = (
    ["--validation-rows", str(STUDY["taskvectors"]["validation_rows"])]
    if STUDY["taskvectors"]["validation_rows"]
    else []
)
NEGATED_COEFFICIENTS = (
    STUDY["taskvectors"]["negated_coefficients"] or STUDY["taskvectors"]["coefficients"]
)
EVALUATION = (
    ["--evaluate-every", str(STUDY["finetune"]["evaluate_every"])]
    if STUDY["finetune"]["evaluate_every"]
    else []
)
PATIENCE = (
    ["--patience", str(STUDY["finetune"]["patience"])] if STUDY["finetune"]["patience"] else []
)
TUNING_DTYPE = STUDY["finetune"]["dtype"] or STUDY["model"]["dtype"]
CHECKPOINTING = ["--checkpointing"] * STUDY["finetune"]["checkpointing"]


def digest_of(entry):
    """The digest of the code that an entry point runs; taken only where a job is planned.

    The Snakemake that runs one job of another's plan, as on a cluster, compares and records nothing.
    """
    return lambda wildcards: code_digest(entry) if workflow.is_main_process else ""


def content_of(files):
    """The digest of the user's own files that a job reads, by content; as digest_of, only planned."""

    def digest(wildcards):
        if not workflow.is_main_process:
            return ""
        try:
            return content_digest(files(wildcards), f"{RESULTS}/state/user_files.json")
        except (OSError, UserError) as error:
            raise WorkflowError(str(error)) from None

    return digest


def unfinished_first(wildcards):
    """No files; but what an earlier run began and did not finish is done again, as by --forcerun.

    An input of the rules that all chapters begin with: one of them is in the graph of any target.
    """
    if workflow.is_main_process and not workflow.touch:
        workflow.dag.forcefiles.update(unfinished(RESULTS))
    return []


def compact_json(value):
    """One value as JSON without line breaks, for a command line."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def task_definition(wildcards):
    """The task's whole definition: the part of the configuration that its table depends on."""
    return compact_json(STUDY["task_definitions"][wildcards.task])


def task_definition_file(wildcards):
    """The file that holds the task's definition."""
    return str(task_file(wildcards.task, STUDY["task_folders"]))


def model_definition(wildcards):
    """The model's source with what its manifest states."""
    model = STUDY["model"]
    return compact_json({"name": model["name"], "licence": model["licence"]} | model["source"])


def model_package():
    """The archive that holds the model, if it comes from one."""
    package = package_of(STUDY["model"]["source"])
    return [f"{RESULTS}/data/packages/{archive_name(package)}"] if package else []


def model_files():
    """The files of the user's own model: another one at the same place is fetched anew."""
    source = STUDY["model"]["source"]
    gguf, folder = (source.get("gguf") or {}).get("path"), source.get("folder")
    found = [path for name in MODEL_FILES for path in Path(folder).glob(name)] if folder else []
    found += [Path(gguf)] if gguf else []
    return sorted(str(path) for path in found if path.is_file())


def task_packages(wildcards):
    """The archive that holds the task's texts, if it comes from one."""
    sources = STUDY["task_definitions"][wildcards.task]["sources"]
    found = [package_of(source) for source in sources]
    return [f"{RESULTS}/data/packages/{archive_name(p)}" for p in found if p]


def task_files(wildcards):
    """The user's own files that the task is read from, where they exist."""
    sources = STUDY["task_definitions"][wildcards.task]["sources"]
    return [f for source in sources for f in source_files(source) if Path(f).is_file()]


def option_flags(options, files):
    """The options that hand optional tables to a command: option, file, option, file."""
    return [word for pair in zip(options, files) for word in pair]


def theory_tables(name, tasks):
    """A table of the chapter theory for some tasks, or an error that says why there is none."""

    def files(wildcards):
        if not tasks:
            raise WorkflowError(
                f"no task of study {STUDY['study']!r} has {name}.parquet: theory.tasks is empty, "
                "or no kernel predicts a sample (kernel.learning_seeds, kernel.learning_rows)"
            )
        return [f"{RESULTS}/theory/{task}/{name}.parquet" for task in tasks]

    return files


def package_flag(archives):
    """The option that hands a downloaded archive to a command."""
    return ["--package-file", *archives] if archives else []


def decay_figure_files(figure):
    """The files of one of SR26's figures 4-9, or an error that names the study's tasks."""

    def files(wildcards):
        if figure not in DECAY_FIGURES:
            raise WorkflowError(
                f"{figure} draws the eigenvalue decay of task number {int(figure[3:]) - 3}, but "
                f"study {STUDY['study']!r} has {len(STUDY['tasks'])}: "
                f"{', '.join(STUDY['tasks'])}"
            )
        return [f"{RESULTS}/figures/{figure}.{ending}" for ending in ("pdf", "svg", "png")]

    return files


def fixed_histories(wildcards):
    """The evaluations of the trainings without early stopping, or an error that says how to ask."""
    if not FIXED_EPOCHS:
        raise WorkflowError(
            "the figure `epochs` draws trainings without early stopping, but "
            "finetune.fixed_epochs is null; set it to a number of epochs"
        )
    return [
        f"{RESULTS}/finetune/{task}/fixed/n{FIXED_SIZE}/history.parquet" for task in STUDY["tasks"]
    ]


def grid(pattern):
    """All files of a pattern with {task} and {size}, over the grid of fine-tuning runs."""
    return [
        pattern.format(results=RESULTS, task=task, size=size)
        for task in STUDY["tasks"]
        for size in STUDY["finetune"]["sizes"]
    ]


def kernel_tile_folder(wildcards):
    """The folder of a kernel's tiles: with more than some 60 bands their names fill a command line."""
    kernel = wildcards.kernel
    return f"{RESULTS}/kernel/{wildcards.task}/tiles/{kernel}-{KERNEL_BANDS[kernel]}"


def kernel_tiles(wildcards):
    """The tiles of a kernel's upper triangle."""
    bands, folder = range(KERNEL_BANDS[wildcards.kernel]), kernel_tile_folder(wildcards)
    return [f"{folder}/{i}-{j}.safetensors" for i in bands for j in bands if i <= j]


def merged_tasks(wildcards):
    """The tasks of a merge, in the study's order."""
    return MERGE_TASKS.get(wildcards.merge, [])


def negated_tasks(wildcards):
    """A task that is negated, then the other tasks, its controls."""
    tasks = STUDY["taskvectors"]["tasks"]
    return sorted(tasks, key=lambda task: task != wildcards.task) * (wildcards.task in tasks)


def vector_files(pattern, tasks_of):
    """Files of the tasks that a sweep is about, and of the seeds that are merged."""

    def files(wildcards):
        tasks, seeds = tasks_of(wildcards), range(STUDY["taskvectors"]["merged_seeds"])
        if not tasks:
            raise WorkflowError(
                f"study {STUDY['study']!r} merges no tasks: taskvectors.tasks is empty; name two "
                "or more"
            )
        found = [f"{RESULTS}/{pattern}".format(task=t, seed=s) for t in tasks for s in seeds]
        return list(dict.fromkeys(found))

    return files


def begin_run():
    """Keep the configuration, defaults filled in, and what this run makes beside the results.

    What killed jobs left half written, and no later job of the same name has removed, goes.
    """
    text = yaml.safe_dump(STUDY, sort_keys=False, allow_unicode=True)
    made = {str(file) for job in workflow.dag.needrun_jobs() for file in job.output}
    try:
        with atomic_path(f"{RESULTS}/config.yaml") as path:
            path.write_text(text, encoding="utf-8")
        if not workflow.touch:
            begin(RESULTS, made)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    remove_left_overs(RESULTS)


def end_run():
    """Forget what was to be made; all of it is."""
    try:
        finish(RESULTS, whole=any(job.rule.name == "all" for job in workflow.dag.jobs))
    except UserError as error:
        raise WorkflowError(str(error)) from None
