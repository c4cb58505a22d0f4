"""A whole study: what its configuration leaves to data and other keys, filled in and checked."""

import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ntktune.errors import UserError
from ntktune.store.code_digest import code_digest
from ntktune.store.user_files import found_once
from ntktune.study.config import (
    check_path,
    is_here,
    model_name,
    resolved_task,
    schema,
    source_files,
    task_file,
    validated,
)
from ntktune.study.yaml_files import load_yaml

# Names in results/<study>/data and results/<study>/taskvectors that are no task's.
RESERVED = {
    "tasks": "model models packages",
    "taskvectors.tasks": "model packages addition negation disentanglement cosine overlap scores",
}
# Chapters that a study must ask for.
CHOSEN_CHAPTERS = ("taskvectors", "theory", "linearized", "selection", "advise")


def _fill_from_data(study: dict, where: str) -> dict[str, int | None]:
    """Choose the sizes that a study leaves to its data; return the tasks' numbers of rows."""
    from ntktune.data.sampling import FIRST, chosen_sizes

    tuning, kernel = study["finetune"], study["kernel"]
    tasks = study["task_definitions"]
    rows, smallest = {name: task["train_rows"] for name, task in tasks.items()}, FIRST
    for name in study["tasks"] if None in (tuning["sizes"], kernel["rows"]) else []:
        if is_here(tasks[name]["sources"][0]):
            found = counted_rows(study, name)
            rows[name], classes = found.train, found.classes
            smallest = max(smallest, found.least)
            _check_classes(study, name, classes, where)
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
        # of all rows the seeds' samples would be one and the same, and tell nothing of the spread
        most = min(counts) if tuning["seeds"] == 1 else max(min(counts) // 2, smallest, least)
        tuning["sizes"] = chosen_sizes(min(most, *counts), smallest)
    return rows


def _check_classes(study: Mapping[str, Any], name: str, classes: int, where: str) -> None:
    """Raise UserError if what is watched of the study cannot take a task's number of classes."""
    if classes > 2 and "theory" in study["chapters"] and name in study["tasks"]:
        raise UserError(
            f"{where}: task {name!r} has {classes} classes, and the chapter theory takes scores or "
            "two classes; leave theory out of chapters, or the task out"
        )
    merging = study["taskvectors"]
    if classes > 2 and merging["tangent"] and name in (merging["tasks"] or ()):
        raise UserError(
            f"{where}: task {name!r} has {classes} classes, and taskvectors.tangent takes tasks of "
            "scores or two classes; set it to false, or leave the task out"
        )
    if classes > 2 and name in study["linearized"]["held"]:
        raise UserError(
            f"{where}: task {name!r} has {classes} classes, and linearized.held takes tasks of "
            "scores or two classes; list others there, or none ([])"
        )


class Rows(NamedTuple):
    """A task's rows, as they are read and cleaned."""

    train: int
    test: int
    least: int  # rows of the smallest sample
    classes: int
    characters: list[float]  # of the texts: 101 quantiles, from the shortest to the longest
    told: str  # what became of all rows


def counted_rows(study: Mapping[str, Any], name: str) -> Rows:
    """Return the rows of a task's first source, which is here."""
    import numpy as np

    from ntktune.data.sampling import smallest_sample
    from ntktune.data.sources import cleaned_rows

    definition, fraction = study["task_definitions"][name], study["finetune"]["holdout_fraction"]

    def count() -> list[Any]:
        advice = f"correct `columns` in {task_file(name, study['task_folders'])}"
        table, told = cleaned_rows(dict(definition), name, advice)  # which fills in classes
        labels = table.loc[table["split"] == "train", "label"].to_numpy()
        classes = labels if definition["kind"] == "classification" else labels * 0
        least = smallest_sample(classes, fraction) or 0
        texts = table["text_a"].str.len() + table["text_b"].str.len().fillna(0)
        counts = [len(labels), len(table) - len(labels), least, int(classes.max(initial=0)) + 1]
        return [*counts, texts.quantile(np.linspace(0, 1, 101)).tolist(), told]

    code = [
        code_digest(f"ntktune.data.{f}")
        for f in ("sources:cleaned_rows", "sampling:smallest_sample")
    ]
    about = [name, definition, fraction, code, Rows._fields]
    return Rows(*found_once(source_files(definition["sources"][0]), about, count))


def own_rows(study: Mapping[str, Any], name: str) -> Rows | None:
    """Return a task's rows if its first source is files that are here."""
    source = study["task_definitions"][name]["sources"][0]
    return counted_rows(study, name) if "files" in source and is_here(source) else None


def _fill_from_keys(study: dict) -> None:
    """Put in what null means where other keys of the study say it."""
    sizes = study["finetune"]["sizes"]
    least = schema("config")["properties"]["advise"]["properties"]["pilots"]["items"]["minimum"]
    fitting = [n for n in sorted(sizes)[:-1] if least <= n <= study["kernel"]["rows"]]
    for chapter, key, meant in (
        ("kernel", "learning_rows", max(sizes)),
        ("finetune", "fixed_size", min(sizes)),
        ("finetune", "rate_size", sorted(sizes)[len(sizes) // 2]),
        ("finetune", "dtype", study["model"]["dtype"]),
        ("taskvectors", "size", max(sizes)),
        ("taskvectors", "negated_coefficients", study["taskvectors"]["coefficients"]),
        ("theory", "size", min(sizes)),
        ("linearized", "size", min(sizes)),
        ("linearized", "seeds", study["finetune"]["seeds"]),
        ("selection", "sizes", sizes),
        ("selection", "methods", study["finetune"]["methods"]),
        ("advise", "pilots", fitting),
    ):
        if study[chapter][key] is None:
            study[chapter][key] = meant


def _check_rows(study: dict, known: dict[str, int | None]) -> None:
    """Check sample sizes against the numbers of rows that the tasks have."""
    texts, pilots = study["kernel"]["rows"], study["advise"]["pilots"]
    if study["advise"]["tasks"] and not 0 < max(pilots, default=0) <= texts:
        raise UserError(
            f"advise.pilots is {pilots}; a pilot has at most the {texts} texts of kernel.rows: "
            "give such advise.pilots, or raise kernel.rows"
        )
    linear = study["linearized"]
    rated = study["task_definitions"] if study["finetune"]["learning_rates"] else ()
    for key, size, tasks in (
        ("finetune.sizes", max(study["finetune"]["sizes"]), study["tasks"]),
        ("finetune.fixed_size", study["finetune"]["fixed_size"], study["tasks"]),
        ("finetune.rate_size", study["finetune"]["rate_size"], rated),
        ("kernel.rows", study["kernel"]["rows"], study["tasks"]),
        ("taskvectors.size", study["taskvectors"]["size"], study["taskvectors"]["tasks"]),
        ("theory.size", study["theory"]["size"], study["theory"]["tasks"]),
        ("linearized.size", linear["size"], {*linear["tasks"], *linear["held"]}),
        ("selection.sizes", max(study["selection"]["sizes"]), study["selection"]["tasks"]),
    ):
        for name in tasks:
            rows = known[name]
            if rows is not None and size > rows:
                choose = f"choose at most {rows}"
                if key == "finetune.sizes":
                    choose = f"choose {rows // 2} or less, so that the seeds' samples differ"
                raise UserError(
                    f"{key} asks for {size} rows, but the training set of task {name!r} has "
                    f"{rows}; {choose}"
                )


def resolved_study(config: Mapping, where: str = "configuration") -> dict:
    """Return the whole study: every key of the schema, and ``task_definitions``, name → definition.

    ``config`` is what the configuration files and the command line gave, ``where`` its name in
    messages. Raises UserError with one line per mistake.
    """
    study = validated(dict(config), "config", where)
    study["study"] = study["study"] or _file_name(where)
    model, vectors, theory = study["model"], study["taskvectors"], study["theory"]
    tasks, seeds = study["tasks"], study["finetune"]["seeds"]
    model["name"] = model["name"] or model_name(model["source"])
    for chapter in {*CHOSEN_CHAPTERS} - {*study["chapters"]}:
        study[chapter]["tasks"] = []
    linear = study["linearized"]
    if linear["held"] is None or "linearized" not in study["chapters"]:
        linear["held"] = linear["tasks"]
    if vectors["tasks"] is None:
        vectors["tasks"] = tasks[:4] if len(tasks) > 1 else []
    elif len(vectors["tasks"]) == 1:
        raise UserError(
            f"{where}: taskvectors.tasks is {vectors['tasks']}; merging needs two tasks or more "
            "([] merges none)"
        )
    size, count = study["finetune"]["large_size"], min(seeds, study["finetune"]["large_seeds"])
    study["finetune"]["large_seeds"] = count
    few, least = seeds, "finetune.seeds"
    if size and (vectors["size"] is None or vectors["size"] >= size):
        few, least = count, "finetune.large_seeds"
    used = vectors["seeds"] = vectors["seeds"] or min(2, few)
    for key, count, limit, most in (
        ("taskvectors.seeds", used, least, few),
        ("taskvectors.merged_seeds", vectors["merged_seeds"], "taskvectors.seeds", used),
        ("theory.seeds", theory["seeds"], "finetune.seeds", seeds),
        ("linearized.seeds", linear["seeds"] or 1, "finetune.seeds", seeds),
    ):
        if count > most:
            raise UserError(f"{where}: {key} is {count}, but {limit} {most}; give at most {most}")
    for key in ("coefficients", "negated_coefficients"):
        if vectors[key] and not any(vectors[key]):
            raise UserError(f"{where}: taskvectors.{key} is {vectors[key]}; give one above 0")
    if vectors["tasks"] and study["finetune"]["methods"][0] == "probe":
        raise UserError(
            f"{where}: finetune.methods begins with probe, which leaves the backbone as it is, so "
            "there are no task vectors; list another method first, or leave taskvectors out"
        )
    chosen = [(chapter, "tasks") for chapter in ("theory", "linearized", "selection", "advise")]
    for chapter, key in (*chosen, ("linearized", "held")):
        if study[chapter][key] is None:
            study[chapter][key] = tasks
        for name in study[chapter][key]:
            if name not in tasks:
                raise UserError(
                    f"{where}: {chapter}.{key} has {name!r}, which is none of the study's tasks "
                    f"({', '.join(tasks)}); only those are fine-tuned and watched"
                )
    study["selection"]["models"] = candidates(study, where)
    results = Path("results", study["study"])
    # of a study that was made elsewhere, an archive brings neither model nor texts
    made = (results / "config.yaml").is_file() and not (results / "data/model").exists()
    study["task_definitions"] = definitions = {}
    for key, names in (("tasks", tasks), ("taskvectors.tasks", vectors["tasks"])):
        for name in names:
            if name in RESERVED[key].split():
                raise UserError(
                    f"{where}: {key}: a task cannot be called {name!r}: its results would stand "
                    "where the study's own do; rename its file"
                )
            definitions[name] = resolved_task(name, study["task_folders"], key, made=made)
            _check_classes(study, name, len(definitions[name]["classes"] or ()), where)
    rows = _fill_from_data(study, where)
    _fill_from_keys(study)
    _check_rows(study, rows)
    compared = {
        f"selection.models.{place}": candidate
        for place, candidate in enumerate(study["selection"]["models"])
        if study["selection"]["tasks"]
    }
    there = _all_blocks(study)
    own = {key: each for key, each in compared.items() if not each["source"]}
    for key, each in ({"model": model} | own).items():
        if there and each["blocks"] and each["blocks"] > there:
            raise UserError(
                f"{where}: {key}.blocks is {each['blocks']}, but the model has {there}; give at "
                f"most {there}, or leave it out for all"
            )
    if "folder" in (model["adapter"] or ()):
        adapter = model["adapter"]["folder"]
        check_path(f"{where}: model.adapter.folder is", adapter, Path.is_dir, optional=made)
    _check_source(model["source"], f"{where}: model.source", made=made)
    for key, each in compared.items():
        _check_source(each["source"] or {}, f"{where}: {key}.source", made=made)
    return study


def _check_source(source: Mapping[str, Any], told: str, *, made: bool) -> None:
    """Check that what a model's source names is here; ``made`` elsewhere, it need not be."""
    if "folder" in source:
        check_path(f"{told}.folder is", source["folder"], Path.is_dir, optional=made)
        if not made:
            from ntktune.network.loading import check_model_folder

            check_model_folder(source["folder"])
    elif "path" in source.get("gguf", ()):
        check_path(f"{told}.gguf.path is", source["gguf"]["path"], Path.is_file, optional=made)


def candidates(study: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the models that the chapter selection compares, complete.

    Raises UserError if two have one name, one of the study's own model says what is its own, or
    there is one candidate.
    """
    own, found = study["model"], []
    name = re.sub(r"[^A-Za-z0-9._-]", "-", own["name"]).lstrip("-._") or "own"
    given = study["selection"]["models"] or [{"name": name, "source": None}]
    for place, model in enumerate(given):
        told = f"{where}: selection.models.{place}"
        if model["name"] in [other["name"] for other in found]:
            raise UserError(f"{told}.name is {model['name']!r}, as another's; give each its own")
        if not model["source"]:
            for key in ("max_tokens", "prefix_token"):
                if model.get(key) is not None:
                    raise UserError(
                        f"{told}.{key} is {model[key]!r}, but this is the study's own model, which "
                        f"has model.{key}; leave it out, or give a source"
                    )
            model = model | {"blocks": model.get("blocks") or own["blocks"]}
        else:
            model = model | {"max_tokens": model.get("max_tokens") or own["max_tokens"]}
        found.append(model)
    selection = study["selection"]
    if selection["tasks"] and len(found) * len(selection["poolings"]) < 2:
        raise UserError(
            f"{where}: selection compares one candidate, {found[0]['name']} with the pooling "
            f"{selection['poolings'][0]}; list another in selection.models or selection.poolings"
        )
    return found


def _file_name(where: str) -> str:
    """Return the name of a study that states none: its configuration file's."""
    name = Path(where).stem
    if not re.fullmatch(schema("config")["properties"]["study"]["pattern"], name):
        raise UserError(
            f"{where}: study is missing, and the file's name {name!r} cannot be its name; add "
            "study: NAME, of letters, digits, - and _ (results go to results/NAME)"
        )
    return name


def _all_blocks(study: Mapping[str, Any]) -> int | None:
    """Return how many blocks a study's model has, None while nobody knows."""
    model, own = study["model"], study["model"]["source"].get("folder")
    fetched = Path("results", study["study"], "data/model/model.json")
    for file, key in ((fetched, "blocks"), (Path(own or "", "config.json"), "num_hidden_layers")):
        if file.is_file():
            with suppress(UserError):  # damaged: the job that reads it says so, and sets it aside
                return load_yaml(file).get(key)
    return (model["architecture"] or {}).get("num_hidden_layers")


def rate_factors(study: Mapping[str, Any]) -> dict[str, float]:
    """Return each method's learning rate over that of full fine-tuning."""
    tuning = study["finetune"]
    return {
        "full": 1,
        "lora": tuning["lora"]["rate_factor"],
        "probe": tuning["probe_rate_factor"],
    }


def cell_seeds(study: Mapping[str, Any], size: int) -> int:
    """Return how many seeds are trained on samples of a size."""
    tuning = study["finetune"]
    few = tuning["large_size"] is not None and size >= tuning["large_size"]
    return tuning["large_seeds" if few else "seeds"]


def learning_seeds(study: Mapping[str, Any]) -> int:
    """Return on how many seeds' samples a kernel predicts the learning curve."""
    seeds = min(study["kernel"]["learning_seeds"], study["finetune"]["seeds"])
    return seeds * ("kernel" in study["chapters"])


def choices(study: Mapping[str, Any], rows: Mapping[str, str] | None = None) -> str:
    """Return in a few lines what a study makes, and the ``rows`` of :func:`check_own_files`."""
    model, tuning, kernel = study["model"], study["finetune"], study["kernel"]
    chapters = ", ".join(study["chapters"])
    left_out = ", ".join(c for c in CHOSEN_CHAPTERS if c not in study["chapters"])
    blocks, first, there = "all blocks", model["blocks"], _all_blocks(study)
    if first and first != there:
        blocks = f"only the first {first}{f' of {there}' if there else ''} blocks"
    token = model["prefix_token"]
    prefix = f"the token {token} first" if token else "no prefix token"
    pooled = ", whose mean the head reads" if model["pooling"] == "mean" else ""
    tokens = model["max_tokens"] or "what the model takes, at most 512"
    sizes = ", ".join(map(str, tuning["sizes"]))
    unit = "steps" if tuning["max_steps"] else "epochs"
    rate = f"learning rate: {tuning['learning_rate']:g}"
    if tuning["learning_rates"]:
        rates = ", ".join(f"{rate:g}" for rate in tuning["learning_rates"])
        rate = f"learning rate: of {rates}, by the hold-out at n = {tuning['rate_size']}"
    factors = rate_factors(study)
    others = [method for method in tuning["methods"] if method != "full"]
    rate += "".join(f", {method} {factors[method]:g} times that" for method in others)
    seeds = str(tuning["seeds"])
    if tuning["large_size"]:
        seeds += f" ({tuning['large_seeds']} from n = {tuning['large_size']} on)"
    patience = "none (no early stopping)"
    if tuning["patience"]:
        patience = f"{tuning['patience']} (evaluations without a better hold-out loss)"
    name = model["name"]
    if model["source"].get("folder") and name == model_name(model["source"]):
        name = model["source"]["folder"]
    lines = {
        "chapters": f"{chapters} (not {left_out})" if left_out else chapters,
        "model": f"{name}: {blocks}, {prefix}, texts cut to {tokens} tokens{pooled}",
        "kernel": f"examples: {kernel['rows']}; draws: {kernel['draws']}",
        "finetune": f"trained: {', '.join(tuning['methods'])}; examples: {sizes}; "
        f"seeds: {seeds}; head: {tuning['head']}; {rate}; "
        f"{unit}: at most {tuning[f'max_{unit}']}; "
        f"steps per evaluation: {tuning['evaluate_every'] or 'an epoch'}; "
        f"patience: {patience}; test rows: {tuning['test_rows'] or 'all'}",
    }
    if rows:
        lines["data"] = "\n            ".join(f"{name}: {told}" for name, told in rows.items())
    return "\n".join([f"study {study['study']}", *(f"  {k:9} {v}" for k, v in lines.items())])


def check_own_files(study: Mapping[str, Any], needed: Iterable[str]) -> dict[str, str]:
    """Read tasks' own files before anything is fetched; return what became of their rows.

    Raises UserError for a mistake in those of the tasks that are ``needed``.
    """
    rows = {}
    for name in study["task_definitions"]:
        with nullcontext() if name in needed else suppress(UserError):
            if found := own_rows(study, name):
                rows[name] = found.told
    return rows


def study_name(path: str | Path) -> str:
    """Return the name of the study that a configuration file describes; UserError if not valid."""
    return validated(load_yaml(path), "config", str(path))["study"] or _file_name(str(path))
