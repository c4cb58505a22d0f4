"""The commands of the chapter figures: draw a figure, make a table, show a study's results.

Names, inputs and options come from :mod:`ntktune.figures.catalogue`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ntktune.cli import add_command
from ntktune.cli.options import option_flag
from ntktune.cli.record import record
from ntktune.errors import not_there
from ntktune.figures.catalogue import EACH, FIGURES, RESULT_TABLES, Entry, colors_of
from ntktune.figures.tables import TABLES, read_tables
from ntktune.store.files import atomic_path, file_sha256
from ntktune.store.records import read_csv, read_json, write_csv, write_json
from ntktune.study.config import schema, with_defaults
from ntktune.study.yaml_files import load_yaml


def _made(entry: Entry, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return a figure or table, and its provenance: of its inputs, file → SHA-256."""
    tables, facts, digests = {}, {}, {}
    for name in entry.tables:
        paths = getattr(args, name)
        tables[name], stated = read_tables(name, paths)
        facts |= stated
        digests |= {str(path): file_sha256(path) for path in paths}
    made = entry.make(tables, _look(args, facts))
    return made, record(args, entry.code, inputs=digests)


def _look(args: argparse.Namespace, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a figure may take beside its tables; ``facts`` are those of its tasks."""
    given = {name: getattr(args, name) for name in ("tasks", "colors", "colormap") if name in args}
    given |= {"color": given["colors"][0]} if "colors" in given else {}
    for key, name in (("titles", "title"), ("ranges", "score_range")):
        given[key] = {task: own[name] for task, own in facts.items() if own.get(name)}
    return given


def draw(args: argparse.Namespace) -> None:
    """Draw one of the catalogue's figures."""
    from ntktune.figures.style import figure_bytes

    figure, provenance = _made(FIGURES[args.name], args)
    # wall times inside a figure's file would make equal figures unequal files
    contents = {path: figure_bytes(figure, Path(path).suffix[1:], args.dpi) for path in args.out}
    sidecars: dict[Path, dict[str, str]] = {}
    for path, content in contents.items():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        files = sidecars.setdefault(Path(path).with_suffix(".json"), {})
        files[Path(path).name] = hashlib.sha256(content).hexdigest()
    for sidecar, files in sidecars.items():
        write_json(sidecar, {"files": files}, provenance)
    print(f"wrote {', '.join(args.out)}", file=sys.stderr)


def table(args: argparse.Namespace) -> None:
    """Make one of the catalogue's tables, as CSV."""
    write_csv(args.out, *_made(RESULT_TABLES[args.name], args))


def show(args: argparse.Namespace) -> None:
    """Print the examples needed, rates and tested claims of a study, and where its figures are."""
    from ntktune.figures.overview import overview

    folder = Path(args.folder)
    figures = folder / "figures"
    if not figures.is_dir():
        raise not_there(figures, "run the study first, or name its folder, as results/quickstart")
    if (figures / "verdicts.csv").is_file():  # made of table 1; a study need not have them
        rates, claims = (read_tables(n, [figures / f"{n}.csv"])[0] for n in ("table1", "verdicts"))
        print(f"\n{overview(rates, read_csv(figures / 'table4.csv'), claims)}\n{_cut(folder)}")
    if (figures / "fig2.png").is_file():
        print(f"learning curves     {figures / 'fig2.png'}")
    print(f"figures and tables  {figures}")
    if (folder / "report.html").is_file():
        print(f"report              {folder / 'report.html'}")


def _cut(folder: Path) -> str:
    """Return a line on a study's model if only its first blocks were used; "" if it is whole."""
    study, model = folder / "config.yaml", folder / "data/model/model.json"
    if not (study.is_file() and model.is_file()):  # unpacked results have no model
        return ""
    used, there = load_yaml(study).get("model", {}).get("blocks"), read_json(model).get("blocks")
    if not used or not there or used >= there:
        return ""
    more = min(2 * used, there)
    return (
        f"all this is of the model's first {used} of {there} blocks; model.blocks: {more} may do "
        f"better,\nin about {more / used:.2g} times the time\n"
    )


def _add_entries(
    verbs: argparse._SubParsersAction, run: Callable, title: str, entries: Mapping[str, Entry]
) -> Iterator[tuple[argparse.ArgumentParser, str, Entry]]:
    """Add a verb; yield each entry's parser, with an option for each table that the entry reads."""
    names = {"dest": "name", "required": True, "metavar": "NAME"}
    parsers = add_command(verbs, run.__name__, run).add_subparsers(title=title, **names)
    for name, entry in entries.items():
        parser = parsers.add_parser(name, help=entry.shows, description=entry.shows)
        for table in entry.tables:
            needed, what = table in entry.inputs.split(), TABLES[table].about
            how = {"required": needed, "nargs": "+" if needed else "*", "default": []}
            told = what if needed else f"{what}, or none"
            parser.add_argument(option_flag(table), **how, metavar="FILE", help=told)
        yield parser, name, entry


def _add_look(parser: argparse.ArgumentParser, name: str, entry: Entry) -> None:
    """Add the options that say how a figure looks; their defaults are the schema's."""
    look = with_defaults({}, schema("config")["properties"]["figures"])
    if entry.tasks:
        what = "tasks to draw, in order"
        parser.add_argument("--tasks", required=True, nargs="+", metavar="NAME", help=what)
    if entry.colors:
        colors, what = colors_of(name, entry, look), "its colours, as hexadecimal codes"
        count = "+" if entry.colors == EACH else len(colors)
        parser.add_argument("--colors", nargs=count, default=colors, metavar="HEX", help=what)
    if entry.colormap:
        default, what = look[entry.colormap], f"a {entry.colormap} colour map of matplotlib"
        parser.add_argument("--colormap", default=default, metavar="NAME", help=what)
    what = "resolution of PNG files"
    parser.add_argument("--dpi", type=int, default=look["dpi"], help=what)


def add_commands(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs of this chapter."""
    for parser, name, entry in _add_entries(verbs, draw, "figures", FIGURES):
        _add_look(parser, name, entry)
        what = "files to write; their endings, pdf, svg or png, say the formats"
        parser.add_argument("--out", required=True, nargs="+", metavar="FILE", help=what)
    for parser, *_ in _add_entries(verbs, table, "tables", RESULT_TABLES):
        parser.add_argument("--out", required=True, metavar="FILE", help="the CSV file to write")
    add_command(verbs, "show", show, folder="results of a study, as results/quickstart")
