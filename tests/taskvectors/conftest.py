"""A study of three tiny tasks, and the flags of a fine-tuning of it."""

import shutil
from functools import partial

import pytest
from tiny_study import tuning_flags, write_model, write_task


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder with a study: model/ and the tasks a, b (scores) and c (classes)."""
    folder = tmp_path_factory.mktemp("study")
    model = write_model(folder / "model")
    write_task(folder, "a", "regression", model)
    write_task(folder, "b", "regression", model, sign=-1.0, metric="mse")
    write_task(folder, "c", "classification", model, metric="f1")
    return folder


@pytest.fixture
def study(written, tmp_path):
    """Return a copy of the study, to be changed."""
    return shutil.copytree(written, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def training_flags(study):
    """Return a function: the flags of a fine-tuning of one task, some of them changed."""
    return partial(tuning_flags, study)
