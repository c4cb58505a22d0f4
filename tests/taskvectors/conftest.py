"""A study of three tiny tasks, and the flags of a fine-tuning."""

import pytest
from tiny_study import write_model, write_task


@pytest.fixture
def study(tmp_path):
    """Return the folder of a study: model/ and the tasks a, b (scores) and c (classes)."""
    model = write_model(tmp_path / "model")
    write_task(tmp_path, "a", "regression", model)
    write_task(tmp_path, "b", "regression", model, sign=-1.0)
    write_task(tmp_path, "c", "classification", model)
    return tmp_path


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


@pytest.fixture
def training_flags(study):
    """Return a function: the flags of a fine-tuning of one task, some of them changed."""

    def made(task, **changes):
        settings = TRAINING | {
            "model": study / "model",
            "tokens": study / f"{task}.safetensors",
            "subsets": study / f"{task}.json",
            "task": task,
        }
        settings |= {key.replace("_", "-"): value for key, value in changes.items()}
        return [part for key, value in settings.items() for part in (f"--{key}", str(value))]

    return made
