"""Files that are damaged: told, set aside, and made again."""

import re
import shutil
from pathlib import Path

import pytest
from broken_study import CLASSIFICATION, GRAM, REGRESSION, BrokenStudy, flip, other_number, truncate
from checkout import assert_same_numbers

from ntktune.__main__ import main
from ntktune.store.files import RESULTS_VARIABLE
from ntktune.store.records import read_json

# minutes on a busy machine
pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]

# Damaged file -> how, and what is removed so that a job reads it. In one round no job needs
# another's: a second damage would be found by the second run only.
ROUNDS = (
    {
        f"data/{REGRESSION}/draws.json": (other_number, GRAM),
        f"spectrum/{CLASSIFICATION}/eigenvalues.parquet": (
            lambda path: flip(path, 60),
            "figures/fig5.png",
        ),
        f"finetune/{CLASSIFICATION}/full/n32/metrics.parquet": (truncate, "figures/fig10.png"),
        f"taskvectors/{REGRESSION}/seed0.safetensors": (
            lambda path: flip(path, 0.7),
            "taskvectors/cosine.parquet",
        ),
        "theory/simulation.parquet": (truncate, "figures/simulation.png"),
        "theory/width.parquet": (lambda path: flip(path, 60), "figures/width.png"),
    },
    {"figures/table1.csv": (other_number, "figures/verdicts.csv")},
    {
        f"data/{CLASSIFICATION}/subsets.json": (
            truncate,
            f"finetune/{CLASSIFICATION}/full/n32/metrics.parquet",
        )
    },
)


@pytest.fixture(scope="module", params=range(len(ROUNDS)))
def healed(request, smoke, tmp_path_factory):
    """Return a study that was damaged, what the first run said, and how the second one ended."""
    damage = ROUNDS[request.param]
    study = BrokenStudy(smoke, tmp_path_factory.mktemp("damaged") / "ntktune")
    for name, (change, consumer) in damage.items():
        change(study.results / name)
        study.remove(consumer)
    targets = [f"results/smoke/{consumer}" for _, consumer in damage.values()]
    said = study.refused(*targets)
    aside = {name for name in damage if (study.results / f"{name}.damaged").is_file()}
    kept = {name for name in damage if (study.results / name).exists()}
    again = study.make(*targets)
    return study, damage, said, aside - kept, again


def test_damage_is_told_and_set_aside(healed):
    _, damage, said, aside, _ = healed
    for name in damage:
        line = rf"error: results/smoke/{re.escape(name)} is damaged or not what it should be .*"
        assert re.search(f"{line}: run the same command again to rebuild it", said), said
    assert aside == set(damage)
    assert "Traceback (most recent call last)" not in said


def test_the_same_command_rebuilds_what_was_damaged(healed):
    study, damage, _, _, again = healed
    assert again.returncode == 0, again.stdout + again.stderr
    for name, (_, consumer) in damage.items():
        for part in (name, consumer):
            if part.endswith((".json", ".png")):
                assert _content(study.results / part) == _content(study.undisturbed / part)
            else:
                assert_same_numbers(study.results, study.undisturbed, part)


def _content(path: Path):
    """Return what a figure or a manifest says, without times."""
    if path.suffix == ".json":
        return {key: value for key, value in read_json(path).items() if key != "provenance"}
    return path.read_bytes()


MODEL = "results/smoke/data/model"
DAMAGES = {
    "flipped": (
        lambda folder: flip(folder / "model.safetensors", 0.5),
        "model.safetensors does not match",
    ),
    "missing": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "model.safetensors is missing",
    ),
    "configuration": (
        lambda folder: truncate(folder / "config.json"),
        "config.json does not match the checksum",
    ),
    "no manifest": (
        lambda folder: (folder / "model.json").unlink(),
        "data/model is damaged or not what it should be (model.json: it is missing)",
    ),
    "manifest": (
        lambda folder: truncate(folder / "model.json"),
        "data/model is damaged or not what it should be (model.json: ",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_model_is_told_and_set_aside(smoke, kind, tmp_path, monkeypatch, capsys):
    damage, message = DAMAGES[kind]
    data = tmp_path / "results/smoke/data"
    shutil.copytree(smoke.folder / "results/smoke/data", data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RESULTS_VARIABLE, str(data.parent))
    damage(data / "model")
    own = f"results/smoke/data/{REGRESSION}"
    files = ["--tokens", f"{own}/tokens.safetensors", "--draws", f"{own}/draws.json"]
    words = ["--model", MODEL, "--task", REGRESSION, "--seed", "1", "--out", "a.safetensors"]
    assert main(["kernel", "draws", *files, *words]) == 1
    assert message in capsys.readouterr().err
    assert (data / "model.damaged").is_dir()
    assert not (data / "model").exists()


@pytest.mark.parametrize("kind", ["flipped", "no manifest"])
def test_a_damaged_model_is_fetched_again(study, kind):
    damage, message = DAMAGES[kind]
    damage(study.results / "data/model")
    study.remove(GRAM)
    target = f"results/smoke/{GRAM}"
    assert message in study.refused(target)
    study.finishes(target, parts=(GRAM, "data/model/*.safetensors"))


def test_a_check_finds_damage_in_what_no_job_reads(study):
    """Figures and final tables, a figure's second format among them, and a model."""
    check = ("results", "check", "--folder", "results/smoke")
    whole = study.checkout.command(*check)
    assert whole.returncode == 0, whole.stderr
    assert re.fullmatch(r"results/smoke: \d+ files, none damaged\n", whole.stdout)
    flip(study.results / "figures/fig4.pdf", 0.5)
    other_number(study.results / "figures/table4.csv")
    other_number(study.results / "figures/table5.json")  # the table itself is whole
    truncate(study.results / "taskvectors/cosine.parquet")
    (study.results / "figures/mine.csv").write_text("a,b\n1,2\n")  # no rule made it
    found = study.checkout.command(*check)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    for name, why in {
        "figures/fig4.pdf": "its content does not match the checksum in fig4.json",
        "figures/table4.csv": "its content does not match the checksum in table4.json",
        "figures/table5.json": "read as a JSON file: its content does not match its checksum",
        "taskvectors/cosine.parquet": ".*",
    }.items():
        line = rf"^results/smoke/{re.escape(name)} is damaged or not what it should be \({why}\); "
        assert re.search(rf"{line}it was renamed to .* again to rebuild it$", found.stderr, re.M), (
            name
        )
        assert not (study.results / name).exists()
    assert f"error: 4 of {whole.stdout.split()[1]} files are damaged\n" in found.stderr
    study.finishes()
    whole = study.checkout.command(*check)
    assert whole.returncode == 0, whole.stderr
    for name in ("fig4.pdf", "table4.csv"):
        wanted = study.undisturbed / "figures" / name
        assert (study.results / "figures" / name).read_bytes() == wanted.read_bytes()
    # the model is one thing; that it is fetched anew is seen below
    flip(study.results / "data/model/tokenizer.json", 0.5)
    told = study.checkout.command(*check).stderr
    assert "data/model is damaged or not what it should be (tokenizer.json does not match" in told
    assert "it was renamed to model.damaged: run the same command again to rebuild it" in told


def test_damaged_results_are_not_packed(study):
    truncate(study.results / "figures/fig2.png")
    command = ("results", "archive", "--folder", "results/smoke", "--out", "smoke.tar.gz")
    refused = study.checkout.command(*command)
    assert refused.returncode == 1
    assert "figures/fig2.png is damaged" in refused.stderr
    assert not (study.checkout.folder / "smoke.tar.gz").exists()
    study.finishes("fig2", parts=("figures/*.csv",))
    assert study.checkout.command(*command).returncode == 0
