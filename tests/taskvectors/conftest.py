"""A study of three tiny tasks, and the flags of a fine-tuning."""

import shutil
from functools import partial

import pytest
from tiny_study import write_model, write_task


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder with a study: model/ and the tasks a, b (scores) and c (classes)."""
    folder = tmp_path_factory.mktemp("study")
    model = write_model(folder / "model")
    write_task(folder, "a", "regression", model)
    write_task(folder, "b", "regression", model, sign=-1.0)
    write_task(folder, "c", "classification", model)
    return folder


@pytest.fixture
def study(written, tmp_path):
    """Return a copy of the study, to be changed."""
    return shutil.copytree(written, tmp_path, dirs_exist_ok=True)


TRAINING = {
    "size": 20,
    "seed": 1,
    "learning-rate": 0.01,
    "weight-decay": 0.01,
    "batch-size": 4,
    "max-epochs": 8,
    "evaluate-every": 2,
    "patience": 5,
    "batch-tokens": 64,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def flags_of():
    """Return a function: the flags of a fine-tuning of one task of a study, some changed."""

    def made(study, task, **changes):
        settings = TRAINING | {
            "model": study / "model",
            "tokens": study / f"{task}.safetensors",
            "subsets": study / f"{task}.json",
            "task": task,
        }
        settings |= {key.replace("_", "-"): value for key, value in changes.items()}
        return [part for key, value in settings.items() for part in (f"--{key}", str(value))]

    return made


@pytest.fixture
def training_flags(study, flags_of):
    """Return a function: the flags of a fine-tuning of one task, some of them changed."""
    return partial(flags_of, study)
