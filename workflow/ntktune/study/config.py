"""The study's configuration: validated, completed with defaults, tasks resolved.

Everything a user can get wrong in a configuration file is found here, before
Snakemake builds its graph of jobs, and said in one line per mistake.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema

from ntktune.errors import UserError, close_match
from ntktune.store.code_digest import code_digest
from ntktune.store.user_files import found_once
from ntktune.study.scores import METRICS
from ntktune.study.yaml_files import load_yaml

SCHEMAS = Path(__file__).parent / "schemas"
# Folders of results/<study>/data that are no task's.
RESERVED = ("model", "packages")
# Names in results/<study>/taskvectors that are no task's.
RESERVED_MERGED = ("addition", "negation", "disentanglement", "cosine", "overlap", "scores")
# The part of a task's definition that its tables carry in their provenance.
SUMMARY = ("title", "kind", "classes", "score_range", "template", "metric", "licence", "citation")
# JSON types and limits, as a message says them.
WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "keys and values",
    "boolean": "true or false",
    "minimum": "at least",
    "exclusiveMinimum": "greater than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "minItems": "at least",
    "maxItems": "at most",
}

# JSON schema, with integers that are written as integers: 32.0 is none to a command's option.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda checker, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


@functools.cache
def schema(name: str) -> dict:
    """Return one of the JSON schemas, ``config`` or ``task``."""
    return load_yaml(SCHEMAS / f"{name}.schema.yaml")


def with_defaults(content: Any, spec: Mapping) -> Any:
    """Return a copy of ``content`` in which every missing key has its schema's default."""
    if isinstance(content, Mapping) and "properties" in spec:
        completed = dict(content)
        for key, inner in spec["properties"].items():
            if key in content:
                completed[key] = with_defaults(content[key], inner)
            elif "default" in inner:
                completed[key] = with_defaults(copy.deepcopy(inner["default"]), inner)
        return completed
    if isinstance(content, list) and "items" in spec:
        return [with_defaults(item, spec["items"]) for item in content]
    return content


def _suggestion(word: str, allowed: Iterable[str]) -> str:
    allowed = list(allowed)
    return close_match(word, allowed) or f"choose from: {', '.join(allowed)}"


def _mistakes(error: jsonschema.ValidationError) -> list[str]:
    """Say in words, with key and value, what a schema violation is."""
    rule, limit, value = error.validator, error.validator_value, error.instance
    key = ".".join(map(str, error.absolute_path))
    inside = f"{key}." if key else ""
    about = error.schema.get("description", "see config/README.md")
    if rule == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = [str(name) for name in value if name not in known]
        return [f"unknown key {inside + name!r}; {_suggestion(name, known)}" for name in unknown]
    if rule == "maxProperties":
        return [f"{key} has {' and '.join(value)}; give exactly one of them"]
    if rule == "required":
        missing = next(name for name in limit if name not in value)
        about = error.schema.get("properties", {}).get(missing, {}).get("description", about)
        return [f"{inside}{missing} is missing: {about}"]
    if rule in ("pattern", "oneOf") or {"then", "else"} & set(error.absolute_schema_path):
        what = about
    elif rule == "enum":
        what = _suggestion(str(value), ["null" if name is None else str(name) for name in limit])
    elif rule == "type":
        wanted = [limit] if isinstance(limit, str) else limit
        what = f"must be {' or '.join(WORDS.get(name, name) for name in wanted)}"
        if "string" in wanted and isinstance(value, (bool, int, float)):
            what += "; write it in quotes"
    elif rule == "uniqueItems":
        what = f"{next(v for i, v in enumerate(value) if v in value[:i])!r} appears twice"
    elif rule in ("minItems", "maxItems"):
        what = f"{len(value)} entries, must be {WORDS[rule]} {limit}: {about}"
    elif rule in WORDS:
        what = f"must be {WORDS[rule]} {limit}"
    else:
        what = f"{error.message}: {about}"
    return [f"{key or 'the configuration'} is {value!r}: {what}"]


def _unfit(content: Any, place: str = "") -> Iterator[str]:
    """Yield what YAML allows and no configuration can mean, with its place: keys, numbers, ~."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if not isinstance(key, str):
                yield (
                    f"the key {key!r}{f' in {place}' if place else ''} is not text to YAML; "
                    "write it in quotes, as it stands in the data"
                )
            else:
                yield from _unfit(value, f"{place}.{key}" if place else key)
    elif isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            yield from _unfit(value, f"{place}.{number}")
    elif isinstance(content, float) and not math.isfinite(content):
        yield f"{place} is {content}: must be a finite number"
    elif isinstance(content, str) and content.startswith("~/"):
        yield f"{place} is {content!r}: ~ is not expanded; write the whole path"


def validated(content: dict, schema_name: str, where: str) -> dict:
    """Return ``content`` completed with the defaults of a schema, ``config`` or ``task``.

    Raises
    ------
    UserError
        One line per mistake: ``where``, the key, the value, and what would be right.
    """
    spec = schema(schema_name)
    lines = [f"{where}: {line}" for line in mistakes(content, spec)]
    if lines:
        raise UserError("\n".join(lines))
    return with_defaults(content, spec)


def mistakes(content: dict, spec: Mapping) -> list[str]:
    """Return one line per mistake in ``content``: the key, the value, and what would be right."""
    lines = list(_unfit(content))
    if not lines:
        found = _Validator(spec).iter_errors(content)
        errors = sorted(found, key=lambda e: list(map(str, e.absolute_path)))
        lines = [line for error in errors for line in _mistakes(error)]
    return lines


def task_file(name: str, folders: list[str], key: str = "tasks") -> Path:
    """Return the file that defines a task; ``key`` of the configuration named it.

    Raises
    ------
    UserError
        There is none in these folders.
    """
    for folder in folders:
        path = Path(folder) / f"{name}.yaml"
        if path.is_file():
            return path
    known = sorted({p.stem for f in folders for p in Path(f).glob("*.yaml")})
    if not known:
        raise UserError(
            f"{key}: there is no task {name!r}: task_folders ({', '.join(folders)}) hold no task "
            f"at all (looked in {Path.cwd()}); correct the folders, or run Snakemake where they "
            "are (--directory)"
        )
    raise UserError(
        f"{key}: there is no task {name!r} in {', '.join(folders)}; {_suggestion(name, known)}"
    )


def source_files(source: Mapping) -> list[str]:
    """Return the local files that a task's ``files`` source names."""
    named = [(source.get("files") or {}).get(split) or [] for split in ("train", "test")]
    return [file for files in named for file in ([files] if isinstance(files, str) else files)]


def _is_here(source: Mapping) -> bool:
    """Return whether a task's source can be read without network, before any job runs."""
    return "generated" in source or (
        "files" in source and all(Path(file).is_file() for file in source_files(source))
    )


def complete_definition(definition: dict, name: str) -> dict:
    """Return a task's definition, a file's content, checked and completed with defaults.

    Messages begin with ``name``, the task's or its file's.

    Raises
    ------
    UserError
        It violates the schema, or bounds are in the wrong order.
    """
    task = validated(definition, "task", name)
    task["metric"] = task["metric"] or METRICS[task["kind"]][0]
    bounds, band = task["score_range"], task["polarity_band"]
    if bounds and not bounds[0] < bounds[1]:
        raise UserError(f"{name}: score_range {bounds} must be [lowest, highest]")
    if band and not band[0] <= band[1]:
        raise UserError(f"{name}: polarity_band {band} must be [low, high] with low <= high")
    if band and bounds and not bounds[0] <= band[0] <= band[1] <= bounds[1]:
        raise UserError(f"{name}: polarity_band {band} lies outside score_range {bounds}")
    return task


def resolved_task(name: str, folders: list[str], key: str = "tasks", *, made: bool = False) -> dict:
    """Return the completed definition of a task that ``key`` names.

    Its files must exist here, unless the study was ``made`` elsewhere.

    Raises
    ------
    UserError
        No such task, a mistake in its file, or no source that could ever be read.
    """
    path = task_file(name, folders, key)
    task = complete_definition(load_yaml(path), str(path))
    optional = made or len(task["sources"]) > 1
    for source in task["sources"]:
        for file in source_files(source):
            _check_path(f"{path}: sources.files names", file, Path.is_file, optional=optional)
    return task


def _check_path(told: str, path: str, wanted: Callable[[Path], bool], *, optional: bool) -> None:
    """Check a path of the configuration; what is ``optional`` need not be there."""
    if set(path) & set("{}"):
        raise UserError(f"{told} {path!r}: Snakemake takes braces for wildcards; rename it")
    if not optional and not wanted(Path(path)):
        wrong = "a folder, not a file" if wanted == Path.is_file else "a file, not a folder"
        wrong = f"is {wrong}" if Path(path).exists() else "does not exist"
        folder = Path(path).absolute().parent
        raise UserError(f"{told} {path!r}, which {wrong} (looked in {folder})")


def _fill_from_data(study: dict, where: str) -> dict[str, int | None]:
    """Choose the sizes that a study leaves to its data; return the tasks' numbers of rows."""
    from ntktune.data.sampling import FIRST, chosen_sizes

    tuning, kernel = study["finetune"], study["kernel"]
    tasks = study["task_definitions"]
    rows, smallest = {name: task["train_rows"] for name, task in tasks.items()}, FIRST
    for name in study["tasks"] if None in (tuning["sizes"], kernel["rows"]) else []:
        if _is_here(tasks[name]["sources"][0]):
            rows[name], least = _training_rows(study, name)
            smallest = max(smallest, least)
    counts = [rows[name] for name in study["tasks"]]
    made = Path("results", study["study"], "config.yaml")
    if None in counts and made.is_file():  # the texts were read where the study was made
        for chapter, key in (("finetune", "sizes"), ("kernel", "rows")):
            if study[chapter][key] is None:
                study[chapter][key] = load_yaml(made).get(chapter, {}).get(key)
    if kernel["rows"] is None:
        kernel["rows"] = min(100, *(count or 100 for count in counts))
    if tuning["sizes"] is None:
        if None in counts:
            raise UserError(
                f"{where}: finetune.sizes is missing, and how many rows task "
                f"{study['tasks'][counts.index(None)]!r} has is not known before they are fetched; "
                "give sizes, as [16, 32, 64], or the task's train_rows"
            )
        options = schema("config")["properties"]["finetune"]["properties"]
        least = options["sizes"]["items"]["minimum"]
        if min(counts) < least:
            raise UserError(
                f"task {study['tasks'][counts.index(min(counts))]!r} has {min(counts)} training "
                f"rows; a study needs {least} or more"
            )
        tuning["sizes"] = chosen_sizes(min(counts), smallest)
    return rows


def _training_rows(study: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Return how many training rows a task's first source has, and the smallest sample of them.

    Large files take long to read and to clean: that is done once for each content.
    """
    from ntktune.data.sampling import smallest_sample
    from ntktune.data.sources import training_labels

    definition, fraction = study["task_definitions"][name], study["finetune"]["holdout_fraction"]

    def count() -> list[int]:
        labels = training_labels(definition, name)
        classes = labels if definition["kind"] == "classification" else labels * 0
        return [len(labels), smallest_sample(classes, fraction) or 0]

    code = code_digest("ntktune.data.sources:training_labels")
    about = [name, definition, fraction, code]
    rows, least = found_once(source_files(definition["sources"][0]), about, count)
    return rows, least


def _fill_from_keys(study: dict) -> None:
    """Put in what null means where other keys of the study say it."""
    sizes = study["finetune"]["sizes"]
    for chapter, key, meant in (
        ("kernel", "learning_rows", max(sizes)),
        ("finetune", "fixed_size", min(sizes)),
        ("finetune", "dtype", study["model"]["dtype"]),
        ("taskvectors", "size", max(sizes)),
        ("taskvectors", "negated_coefficients", study["taskvectors"]["coefficients"]),
        ("theory", "size", min(sizes)),
    ):
        if study[chapter][key] is None:
            study[chapter][key] = meant


def _check_rows(study: dict, known: dict[str, int | None]) -> None:
    """Check sample sizes against the numbers of rows that the tasks have."""
    wanted = [
        ("finetune.sizes", max(study["finetune"]["sizes"]), study["tasks"]),
        ("finetune.fixed_size", study["finetune"]["fixed_size"], study["tasks"]),
        ("kernel.rows", study["kernel"]["rows"], study["tasks"]),
        ("taskvectors.size", study["taskvectors"]["size"], study["taskvectors"]["tasks"]),
        ("theory.size", study["theory"]["size"], study["theory"]["tasks"]),
    ]
    for key, size, tasks in wanted:
        for name in tasks:
            rows = known[name]
            if rows is not None and size > rows:
                raise UserError(
                    f"{key} asks for {size} rows, but the training set of task {name!r} has "
                    f"{rows}; choose at most {rows}"
                )


def resolved_study(config: Mapping, where: str = "configuration") -> dict:
    """Return the whole study: every key of the schema, and ``task_definitions``, name → definition.

    ``config`` is what the configuration files and the command line gave; messages name ``where``
    that came from.

    Raises
    ------
    UserError
        One line per mistake.
    """
    study = validated(dict(config), "config", where)
    study["study"] = study["study"] or _file_name(where)
    model, vectors, theory = study["model"], study["taskvectors"], study["theory"]
    tasks, seeds = study["tasks"], study["finetune"]["seeds"]
    model["name"] = model["name"] or model_name(model["source"])
    for chapter in {"taskvectors", "theory"} - {*study["chapters"]}:
        study[chapter]["tasks"] = []
    if vectors["tasks"] is None:
        vectors["tasks"] = tasks[:4] if len(tasks) > 1 else []
    elif len(vectors["tasks"]) == 1:
        raise UserError(
            f"{where}: taskvectors.tasks is {vectors['tasks']}; merging needs two tasks or more "
            "([] merges none)"
        )
    if vectors["seeds"] is None:
        vectors["seeds"] = min(2, seeds)
    used = vectors["seeds"]
    for key, count, limit, most in (
        ("taskvectors.seeds", used, "finetune.seeds", seeds),
        ("taskvectors.merged_seeds", vectors["merged_seeds"], "taskvectors.seeds", used),
        ("theory.seeds", theory["seeds"], "finetune.seeds", seeds),
    ):
        if count > most:
            raise UserError(
                f"{where}: {key} is {count}, but {limit} {most}; choose at most as many"
            )
    for key in ("coefficients", "negated_coefficients"):
        if vectors[key] and not any(vectors[key]):
            raise UserError(f"{where}: taskvectors.{key} is {vectors[key]}; give one above 0")
    if theory["tasks"] is None:
        theory["tasks"] = tasks
    for name in theory["tasks"]:
        if name not in tasks:
            raise UserError(
                f"{where}: theory.tasks has {name!r}, which is none of the study's tasks "
                f"({', '.join(tasks)}); only those are fine-tuned and watched"
            )
    named = {"tasks": tasks, "taskvectors.tasks": vectors["tasks"]}
    for key, names in named.items():
        for name in names:
            if name in RESERVED or (key == "taskvectors.tasks" and name in RESERVED_MERGED):
                raise UserError(
                    f"{where}: {key}: a task cannot be called {name!r}: its results would stand "
                    "where the study's own do; rename its file"
                )
    results = Path("results", study["study"])
    # of a study that was made elsewhere, an archive brings neither model nor texts
    made = (results / "config.yaml").is_file() and not (results / "data/model").exists()
    study["task_definitions"] = {
        name: resolved_task(name, study["task_folders"], key, made=made)
        for key, names in named.items()
        for name in names
    }
    rows = _fill_from_data(study, where)
    _fill_from_keys(study)
    _check_rows(study, rows)
    source, told = model["source"], f"{where}: model.source"
    if "folder" in source:
        _check_path(f"{told}.folder is", source["folder"], Path.is_dir, optional=made)
        if not made:
            from ntktune.network.loading import check_model_folder

            check_model_folder(source["folder"])
    elif "path" in source.get("gguf", ()):
        _check_path(f"{told}.gguf.path is", source["gguf"]["path"], Path.is_file, optional=made)
    return study


def _file_name(where: str) -> str:
    """Return the name of a study that states none: its configuration file's."""
    name = Path(where).stem
    if not re.fullmatch(schema("config")["properties"]["study"]["pattern"], name):
        raise UserError(
            f"{where}: study is missing, and the file's name {name!r} cannot be its name; add "
            "study: NAME, of letters, digits, - and _ (results go to results/NAME)"
        )
    return name


def model_name(source: Mapping) -> str:
    """Return a model's name from where it comes from."""
    (kind, content), *_ = source.items()
    if kind == "folder":
        return Path(content).absolute().name
    if kind == "gguf":
        return Path(content.get("path") or content["member"]).stem
    return content["id"].split("/")[-1] if kind == "hub" else f"random-{content['model_type']}"


def _all_blocks(study: Mapping[str, Any]) -> int | None:
    """Return how many blocks a study's model has, None while nobody knows."""
    model, own = study["model"], study["model"]["source"].get("folder")
    fetched = Path("results", study["study"], "data/model/model.json")
    for file, key in ((fetched, "blocks"), (Path(own or "", "config.json"), "num_hidden_layers")):
        if file.is_file():
            with suppress(UserError):  # damaged: the job that reads it says so, and sets it aside
                return load_yaml(file).get(key)
    return (model["architecture"] or {}).get("num_hidden_layers")


def choices(study: Mapping[str, Any], rows: Mapping[str, int] | None = None) -> str:
    """Return what a study makes, with which model and sizes, in a few lines for its start.

    ``rows`` are the training rows of the tasks whose files were read.
    """
    model, tuning, kernel = study["model"], study["finetune"], study["kernel"]
    left_out = [c for c in ("taskvectors", "theory") if c not in study["chapters"]]
    blocks, there = "all blocks", _all_blocks(study)
    if model["blocks"] and model["blocks"] != there:
        blocks = f"only the first {model['blocks']}{f' of {there}' if there else ''} blocks"
    prefix = (
        f"the token {model['prefix_token']} first" if model["prefix_token"] else "no prefix token"
    )
    tokens = f"{model['max_tokens'] or 'what the model takes, at most 512'} tokens"
    sizes = ", ".join(map(str, tuning["sizes"]))
    patience = "none (no early stopping)"
    if tuning["patience"]:
        patience = f"{tuning['patience']} (evaluations without a better hold-out loss)"
    lines = {
        "chapters": ", ".join(study["chapters"])
        + (f" (not {' and '.join(left_out)})" if left_out else ""),
        "model": f"{model['name']}: {blocks}, {prefix}, texts cut to {tokens}",
        "kernel": f"examples: {kernel['rows']}; draws: {kernel['draws']}",
        "finetune": f"examples: {sizes}; seeds: {tuning['seeds']}; epochs: at most "
        f"{tuning['max_epochs']}; steps per evaluation: {tuning['evaluate_every'] or 'an epoch'}; "
        f"patience: {patience}; test rows: {tuning['test_rows'] or 'all'}",
    }
    if rows:
        lines["data"] = ", ".join(f"{name}: {count} training rows" for name, count in rows.items())
    return "\n".join([f"study {study['study']}", *(f"  {k:9} {v}" for k, v in lines.items())])


def check_own_files(study: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, int]:
    """Read tasks' own files, before anything is fetched; return their training rows, by task.

    Raises
    ------
    UserError
        One cannot be used.
    """
    rows = {}
    for name in tasks:
        definition = study["task_definitions"][name]
        if "files" in definition["sources"][0] and _is_here(definition["sources"][0]):
            rows[name], _ = _training_rows(study, name)
    return rows


def merges(tasks: list[str]) -> dict[str, list[str]]:
    """Return the merges of some tasks, all pairs and then all: file name → tasks."""
    pairs = {"+".join(pair): list(pair) for pair in itertools.combinations(tasks, 2)}
    return pairs | ({"all": list(tasks)} if len(tasks) > 2 else {})


def kernel_bands(study: Mapping[str, Any]) -> dict[str, int]:
    """Return in how many bands of rows each file of kernels is computed: name → bands.

    ``gram`` has the draws' kernels, ``learning`` those of training subsets with the test rows; of a
    whole test split of unknown length the training rows alone count.
    """
    rows = {
        "gram": study["kernel"]["rows"],
        "learning": study["kernel"]["learning_rows"] + (study["finetune"]["test_rows"] or 0),
    }
    return {name: -(-count // study["kernel"]["tile_rows"]) for name, count in rows.items()}


def study_name(path: str | Path) -> str:
    """Return the name of the study that a configuration file describes.

    Raises
    ------
    UserError
        The file is no valid configuration.
    """
    return validated(load_yaml(path), "config", str(path))["study"] or _file_name(str(path))


def packages(study: Mapping) -> dict[str, dict]:
    """Return the archives that a study downloads from PyPI: file name → how to get it."""
    sources = [s for task in study["task_definitions"].values() for s in task["sources"]]
    found = filter(None, map(package_of, [*sources, study["model"]["source"]]))
    return {archive_name(package): package for package in found}


def package_of(source: Mapping) -> dict | None:
    """Return the PyPI package that a task's or the model's source needs, or None."""
    if "package" in source:
        return {key: source["package"][key] for key in ("name", "version", "sha256", "sdist")}
    gguf = source.get("gguf", {})
    if "package" in gguf:
        stated = {key: gguf[key] for key in ("version", "sha256")}
        return {"name": gguf["package"], **stated, "sdist": False}
    return None


def archive_name(package: Mapping) -> str:
    """Return the name that a downloaded archive is kept under."""
    ending = "tar.gz" if package["sdist"] else "whl"
    return f"{package['name']}-{package['version']}.{ending}"
