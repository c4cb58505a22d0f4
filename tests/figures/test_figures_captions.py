"""The report's captions, rendered as Snakemake renders them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined

from ntktune.figures.catalogue import FIGURES, RESULT_TABLES

REPORT = Path(__file__).parents[2] / "workflow" / "report"
CAPTIONS = [*FIGURES, *RESULT_TABLES]


def rendered(name, config):
    snakemake = SimpleNamespace(
        config=config,
        input=SimpleNamespace(eigenvalues=["results/paper/spectrum/stsb/eigenvalues.parquet"]),
    )
    # stricter than Snakemake: a name that does not exist is an error
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=True
    )
    text = environment.from_string((REPORT / f"{name}.rst").read_text()).render(snakemake=snakemake)
    settings = {"halt_level": 2, "report_level": 2}  # a warning of docutils fails the test
    return publish_parts(text, writer="html", settings_overrides=settings)["html_body"]


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_are_valid_and_open_with_what_is_shown(name):
    html = rendered(name, {})
    assert "<strong>" in html
    papers = ("SR26", "Afzal et al. 2026", "Lin et al. 2024")
    assert any(paper in html for paper in papers)


def test_the_caption_of_a_decay_names_its_task():
    assert "Eigenvalue decay of task stsb" in rendered("decay", {})


def test_introduction_needs_no_key_of_the_configuration():
    html = rendered("workflow", {})
    assert "<strong>quickstart</strong>." in html
    assert "2602.13942" in html


def test_introduction_names_study_and_model():
    html = rendered("workflow", {"study": "paper", "model": {"name": "GPT-Neo-1.3B"}})
    assert "<strong>paper</strong>, model <strong>GPT-Neo-1.3B</strong>." in html
    assert "results/paper/config.yaml" in html


def test_every_caption_is_used_and_every_used_one_exists():
    assert {path.stem for path in REPORT.glob("*.rst")} == {*CAPTIONS, "workflow"}
