"""Everything that happens while the workflow is read.

Validates the configuration, completes it, and gives the rules the names they use:
STUDY (the effective configuration), RESULTS, CHAPTERS, FIGURES, TABLES, ABSENT, GPU.
"""

import json
import os
from pathlib import Path

from ntktune.cli.options import LORA, command_options, option_flag, option_words
from ntktune.data.hub import ADAPTER_FILES, MODEL_FILES
from ntktune.data.study import cell_seeds, learning_seeds, rate_factors, resolved_study
from ntktune.errors import UserError
from ntktune.figures.catalogue import (
    RESULT_TABLES,
    check_colors,
    input_files,
    look_words,
    study_figures,
    why_absent,
)
from ntktune.network.device import has_nvidia_gpu, old_driver
from ntktune.store.files import RESULTS_VARIABLE
from ntktune.study.candidates import cells, score_file
from ntktune.study.config import kernel_bands, merges, packages, schema, source_files, task_file
from ntktune.study.yaml_files import load_yaml

with sentence_only():
    for file in configuration_files():
        load_yaml(file)  # Snakemake's own reading takes the last of two equal keys
    STUDY = resolved_study(config, ", ".join(configuration_files()) or "configuration")

RESULTS = f"results/{STUDY['study']}"
# A damaged file there is set aside by the job that finds it: its rule can make it again.
os.environ[RESULTS_VARIABLE] = os.path.abspath(RESULTS)
CHAPTERS = STUDY["chapters"]

MODEL_SOURCE = STUDY["model"]["source"]
# The source with what the model's manifest states.
MODEL_DEFINITION = {
    key: STUDY["model"][key] for key in ("name", "licence", "adapter")
} | MODEL_SOURCE
TASK_SOURCES = {name: task["sources"] for name, task in STUDY["task_definitions"].items()}
ALL_TASK_SOURCES = [source for sources in TASK_SOURCES.values() for source in sources]
# Models that are compared, by name; without a source, the study's own.
CANDIDATES = {model["name"]: model for model in STUDY["selection"]["models"]}
SELECTED, SELECTION = STUDY["selection"]["tasks"], STUDY["selection"]
CANDIDATE_SOURCES = [m["source"] for m in CANDIDATES.values() if SELECTED and m["source"]]
PACKAGES = packages([*ALL_TASK_SOURCES, MODEL_SOURCE, *CANDIDATE_SOURCES])
# Only downloads are retried; other errors would only repeat.
TASK_RETRIES = 3 * any("hub" in source for source in ALL_TASK_SOURCES)
MODEL_RETRIES = 3 * ("hub" in MODEL_SOURCE or "hub" in (STUDY["model"]["adapter"] or ()))

METHODS = STUDY["finetune"]["methods"]
RATE_FACTORS = rate_factors(STUDY)
# What a training reads, beside its learning rate.
TRAINED_ON = {
    "model": "<results>/data/model",
    "tokens": "<results>/data/{task}/tokens.safetensors",
    "subsets": "<results>/data/{task}/subsets.json",
}
# Where killed trainings of a task keep what they have finished.
STATE = f"{RESULTS}/state/finetune/{{task}}"
# Trainings without early stopping, for comparison.
FIXED_EPOCHS = bool(STUDY["finetune"]["fixed_epochs"])
FIXED_SIZE = STUDY["finetune"]["fixed_size"]
# One task is trained on a second sample from the same head: how alike may task vectors be?
TWO_SAMPLES = STUDY["finetune"]["seeds"] > 1
VECTOR_TASKS = STUDY["taskvectors"]["tasks"]
VECTOR_SEEDS = range(STUDY["taskvectors"]["seeds"])
MERGED_SEEDS = range(STUDY["taskvectors"]["merged_seeds"])
VECTOR_SIZE = STUDY["taskvectors"]["size"]
# Merged models: file name -> tasks. All pairs, then all tasks.
MERGE_TASKS = merges(VECTOR_TASKS)
MERGED_PAIRS = [merge for merge in MERGE_TASKS if "+" in merge]
COEFFICIENTS = sorted({*STUDY["taskvectors"]["coefficients"], STUDY["taskvectors"]["coefficient"]})

TOO_OLD = None if STUDY["device"] == "cpu" else old_driver()
# Snakemake counts GPUs only where a job asks for one.
GPU = int(
    STUDY["device"] == "cuda" or (STUDY["device"] == "auto" and has_nvidia_gpu() and not TOO_OLD)
)

LEARNING_SEEDS = learning_seeds(STUDY)
# Kernels of more rows than a job takes: name of the file -> bands of rows.
KERNEL_BANDS = {name: count for name, count in kernel_bands(STUDY).items() if count > 1}
LEARNING_KERNELS = [f"{RESULTS}/kernel/{{task}}/learning.safetensors"] * (LEARNING_SEEDS > 0)
# Sample sizes that the kernel predicts.
LEARNING_SIZES = [n for n in STUDY["finetune"]["sizes"] if n <= STUDY["kernel"]["learning_rows"]]
WATCHED = STUDY["theory"]["tasks"]
# Tasks of the chapter linearized: sets of layers are compared, trainings are held near their start.
LAYERED, HELD = STUDY["linearized"]["tasks"], STUDY["linearized"]["held"]
LINEAR_METHOD, HELD_METHOD = STUDY["linearized"]["method"], STUDY["linearized"]["held_method"]
# Tasks with a kernel of training samples and test rows, in which rules can stop.
RULED = STUDY["tasks"] * bool(LEARNING_SEEDS and LEARNING_SIZES)

KINDS = {name: task["kind"] for name, task in STUDY["task_definitions"].items()}
# What the figures' catalogue asks of the study.
LISTS = {
    "chapters": CHAPTERS,
    "tasks": STUDY["tasks"],
    "classified": [task for task in STUDY["tasks"] if KINDS[task] == "classification"],
    "fixed": STUDY["tasks"] * FIXED_EPOCHS,
    "merged": VECTOR_TASKS,
    "ruled": RULED,
    "watched": WATCHED,
    "layered": LAYERED,
    "held": HELD,
    "selected": SELECTED,
    "advised": STUDY["advise"]["tasks"],
    "method": METHODS[:1],
    "compared": METHODS[1:],
    "size": STUDY["finetune"]["sizes"],
    "fixed_size": [FIXED_SIZE],
    "pair": MERGED_PAIRS,
}
# Every figure and table there is.
DRAWN = study_figures(STUDY["tasks"])
CATALOGUE = DRAWN | {name: (entry, None) for name, entry in RESULT_TABLES.items()}
# A chapter, figure or table that this study does not make -> why, and which key changes that.
ABSENT = {name: why for name, (e, _) in CATALOGUE.items() if (why := why_absent(e, LISTS))}
FIGURES = [name for name in DRAWN if name not in ABSENT]
TABLES = [name for name in RESULT_TABLES if name not in ABSENT]
for chapter in schema("config")["properties"]["chapters"]["items"]["enum"]:
    if chapter not in CHAPTERS:
        ABSENT[chapter] = f"`chapters` does not list {chapter}; add it there"
if "fig3" in ABSENT:
    ABSENT["taskvectors"] = ABSENT["fig3"]
if not FIGURES + TABLES:
    ABSENT.setdefault(
        "figures",
        "`chapters` lists nothing that can be drawn; add spectrum, finetune, taskvectors, theory, linearized, selection or advise",
    )
FURTHER = {f"fig{number}": number - 3 for number in range(4 + len(STUDY["tasks"]), 10)}
ABSENT |= {
    name: f"it draws the eigenvalue decay of task number {number}, and `tasks` lists "
    f"{len(STUDY['tasks'])}: {', '.join(STUDY['tasks'])}"
    for name, number in FURTHER.items()
}
with sentence_only():
    check_colors(STUDY["figures"]["colors"], [*DRAWN, *FURTHER])


def few_seeds(sizes):
    """The option that trains fewer seeds on large samples, where the study asks for that."""
    seeds = [cell_seeds(STUDY, size) for size in sizes]
    return ["--seeds", *seeds] if min(seeds) < STUDY["finetune"]["seeds"] else []


def flag(option, files):
    """An option with its files, or nothing where there are none."""
    return [option, *files] if files else []


def chosen_rates(method):
    """The file with a task's learning rate, where the study lists some to choose from."""
    file = f"{RESULTS}/finetune/{{task}}/{method}/learning_rate.json"
    return [file] * bool(STUDY["finetune"]["learning_rates"])


def chosen_rate(wildcards, input):
    """The option that hands a training its task's chosen learning rate, if there is one."""
    return flag("--rates", input.rates)


def of_command(command, **changed):
    """The params with which a command is run: the digest of its code, and its options."""
    entry = f"ntktune.cli.{command}".replace(" ", ":")
    return {"code": digest_of(entry), "options": option_words(STUDY, command, **changed)}


def of_training(command, method, **changed):
    """The same of a command that trains by a method: with its learning rates and its adapters."""
    tuning, factor = STUDY["finetune"], RATE_FACTORS[method]
    if method != "lora":
        changed |= {
            f"lora_{key}": None for key in LORA if f"lora_{key}" in command_options(command)
        }
    # 10 digits: 0.0003, not 0.00030000000000000003
    if command == "finetune choose":
        changed["learning_rates"] = [float(f"{factor * r:.10g}") for r in tuning["learning_rates"]]
    else:
        changed["learning_rate"] = float(f"{factor * tuning['learning_rate']:.10g}")
    return of_command(command, method=method, **changed)


def candidate_options(command, *keys, **changed):
    """What gives a command its options, some of them a candidate's own."""

    def options(wildcards):
        own = {key: candidate(wildcards)[key] for key in keys}
        return of_command(command, **own, **changed)["options"]

    return options


def candidate_training(command):
    """What gives a command that trains a candidate its options."""

    def options(wildcards):
        how = {"blocks": candidate(wildcards)["blocks"], "pooling": wildcards.pooling}
        if candidate(wildcards)["source"]:  # whose layers have names of their own
            named = ("targets", "exclude", "layers", "rank_pattern")
            how |= {f"lora_{key}": None for key in named}
        return of_training(command, wildcards.method, **how)["options"]

    return options


def compact_json(value):
    """One value as JSON without line breaks, for a command line."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def package_files(sources):
    """The archives that hold the model or a task's texts, if they come from one."""
    return [f"{RESULTS}/data/packages/{archive}" for archive in packages(sources)]


def model_files(model=STUDY["model"]):
    """The files of the user's own model: another one at the same place is fetched anew."""
    source = model["source"]
    gguf, folder = source.get("gguf", {}).get("path"), source.get("folder")
    found = [path for name in MODEL_FILES for path in Path(folder).glob(name)] if folder else []
    found += [Path(gguf)] if gguf else []
    adapter = (model.get("adapter") or {}).get("folder")
    found += [Path(adapter, name) for name in ADAPTER_FILES] if adapter else []
    return sorted(str(path) for path in found if path.is_file())


def candidate(wildcards):
    """A candidate model."""
    return CANDIDATES[wildcards.candidate]


def read_candidate(wildcards):
    """What a job on a candidate reads: model, tokens and samples of rows."""
    own = candidate(wildcards)["source"]
    model = f"selection/models/{wildcards.candidate}" if own else "data/model"
    tokens = (
        f"selection/{wildcards.task}/{wildcards.candidate}" if own else f"data/{wildcards.task}"
    )
    found = {"model": model, "tokens": f"{tokens}/tokens.safetensors"}
    found["subsets"] = f"data/{wildcards.task}/subsets.json"
    return {name: f"{RESULTS}/{path}" for name, path in found.items()}


def task_files(wildcards):
    """The user's own files that the task is read from, where they exist."""
    files = [file for source in TASK_SOURCES[wildcards.task] for file in source_files(source)]
    return [file for file in files if Path(file).is_file()]


def drawing_inputs(name):
    """The tables that a figure or table of this study is made of, by kind."""
    entry, tasks = CATALOGUE[name]
    files = input_files(entry, LISTS, tasks)
    return {kind: [f"{RESULTS}/{file}" for file in paths] for kind, paths in files.items()}


def drawing_words(name):
    """The options that hand these tables to the command."""
    words = [flag(option_flag(kind), paths) for kind, paths in drawing_inputs(name).items()]
    return sum(words, [])


def offered(name):
    """Returns no files. Ends Snakemake if this study makes no such chapter, figure or table."""

    def check(wildcards):
        with sentence_only():
            if name in ABSENT:
                raise UserError(f"study {STUDY['study']!r} makes no {name}: {ABSENT[name]}")
        return []

    return check


def trained_before(wildcards):
    """The weights of a cell's seeds that the chapter taskvectors trains, and keeps the results of."""
    known = wildcards.task in VECTOR_TASKS and wildcards.size == str(VECTOR_SIZE)
    known &= wildcards.method == METHODS[0]
    folder = f"{RESULTS}/taskvectors/{wildcards.task}"
    return [f"{folder}/seed{seed}.safetensors" for seed in VECTOR_SEEDS if known]


def shard_folder(wildcards):
    """The folder of a kernel's shards. Above some 60 bands, their names do not fit a command line."""
    kernel = wildcards.kernel
    return f"{RESULTS}/kernel/{wildcards.task}/shards/{kernel}-{KERNEL_BANDS[kernel]}"


def kernel_shards(wildcards):
    """The shards of a kernel's upper triangle."""
    bands, folder = range(KERNEL_BANDS[wildcards.kernel]), shard_folder(wildcards)
    return [f"{folder}/{i}-{j}.safetensors" for i in bands for j in bands if i <= j]


def answered_tasks(wildcards):
    """The tasks of a merge, in the study's order; or the task that is negated, then its controls."""
    if merge := wildcards.get("merge"):
        return MERGE_TASKS.get(merge, [])
    known = wildcards.task in VECTOR_TASKS
    return sorted(VECTOR_TASKS, key=lambda task: task != wildcards.task) * known


say_plan()
