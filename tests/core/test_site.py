"""The site is built without a warning, whole, and needs nothing from elsewhere."""

import importlib
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from ntktune.cli import CHAPTERS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # strict: a link to no page or no heading, or a page outside of the navigation, is an error
    build(load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_every_command_key_and_public_name_has_its_place(site):
    commands = (site / "commands.html").read_text()
    assert all(f'id="{name}"' in commands for name in CHAPTERS)
    assert 'id="kernel-gram"' in commands
    assert "--stream" in commands
    keys = (site / "keys.html").read_text().replace("<wbr>", "")
    assert "<code>model.source.gguf.path</code>" in keys
    headings = re.findall(r"<h3[^>]*>(.*?)</h3>", (site / "reference.html").read_text(), re.S)
    reference = {re.sub(r"<[^>]+>", "", heading).split()[0] for heading in headings}
    for name in ("kernel", "spectrum", "theory", "advise", "linearized", "taskvectors"):
        module = importlib.import_module(f"ntktune.{name}")
        for public in module.__all__:
            assert f"ntktune.{name}.{public}" in reference, public


def test_nothing_is_fetched_from_elsewhere(site):
    fetched = re.compile(r'<(?:script|img|link)\b[^>]*?(?:src|href)="(?:https?:)?//[^"]*"')
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not fetched.search(page.read_text()), page


def test_links_to_pages_exist(site):
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links are those of the site's root
            continue
        for target in re.findall(r'(?:src|href)="([^":#?]+)(?:[#?][^"]*)?"', page.read_text()):
            assert (page.parent / target).exists(), (page, target)
