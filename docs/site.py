"""Pages of the site that are made from other files, and links between all of them."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.structure.files import File

from ntktune.cli import CHAPTERS
from ntktune.study.config import schema

ROOT = Path(__file__).parents[1]
# a file of the repository -> its page
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "config/README.md": "configuration.md",
}
LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)#\s]*)(#[^)]*)?\)")
# module -> its public names, where it has no __all__
LIBRARY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("kernel", "spectrum", "taskvectors", "theory", "linearized", "advise"), ()),
    "taskvectors.arithmetic": ("merged", "grams"),
    "network.models": ("text_model", "label_word_model"),
    "errors": ("UserError",),
}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are no files under docs/."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()}
    made |= {"commands.md": commands(), "keys.md": keys(), "reference.md": library()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files of the repository into links to pages; of others the text remains."""
    here = page.file.src_uri
    source = next((own for own, made in PAGES.items() if made == here), f"docs/{here}")

    def turned(found: re.Match) -> str:
        image, text, target, anchor = found.groups()
        if not target or ":" in target:
            return found.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = PAGES.get(path)
        if there is None and not path.startswith("docs/"):
            return text
        there = there or path.removeprefix("docs/")
        link = posixpath.relpath(there, posixpath.dirname(here) or ".")
        return f"{image}[{text}]({link}{anchor or ''})"

    return LINK.sub(turned, markdown)


@mock.patch.dict(os.environ, COLUMNS="100")
def commands() -> str:
    """Return the page of all commands: what each prints for --help."""
    parts = ["# Commands\n"]
    for name, summary in CHAPTERS.items():
        parser = argparse.ArgumentParser(f"ntktune {name}")
        verbs = parser.add_subparsers()
        importlib.import_module(f"ntktune.cli.{name}").add_commands(verbs)
        parts.append(f"## {name}\n\n{summary[0].upper()}{summary[1:]}.\n")
        for verb, command in verbs.choices.items():
            parts.append(f"### {name} {verb}\n\n```text\n{command.format_help()}```\n")
    return "\n".join(parts)


def keys() -> str:
    """Return the page of a study's and a task's keys, from their schemas."""
    parts = ["# Keys of a study\n", "*Default* is what holds where a key is left out.\n"]
    for name, title in (("config", "Study"), ("task", "Task")):
        head = f"## {title}\n\n| key | what it is | values | default |\n|---|---|---|---|"
        parts.append("\n".join([head, *rows("", schema(name))]) + "\n")
    return "\n".join(parts)


def rows(start: str, spec: Mapping) -> Iterator[str]:
    """Yield a table's row for each key, those within it after it."""
    for key, one in spec.get("properties", {}).items():
        told = one.get("description", "").replace("|", "\\|")
        default = f"`{as_yaml(one['default'])}`" if "default" in one else ""
        name = f"{start}{key}".replace(".", ".<wbr>")
        yield f"| <code>{name}</code> | {told} | {values(one)} | {default} |"
        yield from rows(f"{start}{key}.", one)


def as_yaml(value: Any) -> str:
    """Return a value as a configuration writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(as_yaml, value))}]"
    named = {None: "null", True: "true", False: "false"}
    return named[value] if isinstance(value, bool | None) else str(value).replace("|", "\\|")


def values(one: Mapping) -> str:
    """Return which values a key may have."""
    if "enum" in one:
        return ", ".join(f"`{as_yaml(value)}`" for value in one["enum"])
    kinds = one.get("type", "")
    kinds = kinds if isinstance(kinds, str) else " or ".join(kinds)
    return " ".join([kinds, *(f"{sign} {one[key]}" for key, sign in LIMITS.items() if key in one)])


def library() -> str:
    """Return the page of the public library; mkdocstrings fills it."""
    parts = ["# Library\n", "What is not listed here may change between versions.\n"]
    for name, public in LIBRARY.items():
        module = importlib.import_module(f"ntktune.{name}")
        parts.append(f"## ntktune.{name}\n\n{inspect.getdoc(module)}\n")
        for own in public or module.__all__:
            made = getattr(module, own)
            options = f"{{show_root_heading: true, heading: ntktune.{name}.{own}}}"
            parts.append(f"::: {made.__module__}.{own}\n    options: {options}\n")
    return "\n".join(parts)
