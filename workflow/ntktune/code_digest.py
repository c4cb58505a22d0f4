"""A digest of the code that a command really runs.

Snakemake reruns a job when its ``params`` change. Each rule has this digest among them. Editing
kernel code then reruns kernels and what hangs on them, and nothing else.

The digest follows names through all modules of this package: from a command's function to the
functions, classes and constants that it names, to those that they name, and so on. It is taken of
their text as :mod:`ntktune.code_text` gives it, wherever they are defined. ``INFRASTRUCTURE`` lists
what is not followed.

Some statements count wherever their module is imported: those that define nothing, and definitions
with a decorator of this package, which may register them. Code that looks names up at run time
(``globals()``, ``importlib``) cannot be followed; a test keeps it out.

The digest is taken whenever jobs are planned, and by each command for its provenance.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ntktune.code_text import code_text

PACKAGE = "ntktune"
ROOT = Path(__file__).parent

# Raise this by hand when an edit of the infrastructure changes what files hold, or what their
# readers return. Everything is then made again.
FORMAT_VERSION = 1

# What no digest follows, with the reason: whole modules, or one name as "module:name".
INFRASTRUCTURE = {
    "ntktune": "what is public, and the version",
    "ntktune.__main__": "the command line and its exit status",
    "ntktune.artifacts": "how files are read, written, checked and recovered",
    "ntktune.cli": "options of the command line, and progress lines",
    "ntktune.cli.resume": "what a killed command had finished; each part has a key of its own",
    "ntktune.code_digest": "this digest",
    "ntktune.config": "checks and completes a study, which rules hand to commands by options",
    "ntktune.code_text": "this digest",
    "ntktune.device:leased_gpu": "waits for a GPU that no other job has",
    "ntktune.errors": "exceptions that only carry a message",
    "ntktune.unfinished": "what killed runs of a study left to do",
} | {
    f"ntktune.device:{name}": "memory decides in how many pieces, not what is computed"
    for name in (
        *("free_bytes", "free_in_control_groups", "gpu_peak_memory", "is_out_of_memory"),
        *("peak_memory_bytes", "release_cached_memory", "reset_peak_memory"),
    )
}


class Import(NamedTuple):
    """A name that an import binds: to a name in a module, or (``name`` is None) to the module."""

    bound: str
    module: str
    name: str | None


@functools.cache
def module_file(module: str) -> Path | None:
    """Return the source file of a module of this package, or None if there is none."""
    package, *parts = module.split(".")
    path = ROOT.joinpath(*parts)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if package == PACKAGE and path.is_file() else None


def _imports(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[Import]:
    """Yield what an import statement in a module binds."""
    if isinstance(node, ast.Import):
        for a in node.names:
            yield Import(a.asname or a.name.split(".")[0], a.name, None)
    else:
        base = node.module or ""
        if node.level:
            anchor = module.split(".")
            is_package = module_file(module).name == "__init__.py"
            anchor = anchor[: len(anchor) - node.level + is_package]
            base = ".".join([*anchor, base] if base else anchor)
        for a in node.names:
            inner = f"{base}.{a.name}"
            target = (inner, None) if module_file(inner) else (base, a.name)
            yield Import(a.asname or a.name, *target)


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines; none if it does anything else, too."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [part for target in targets for part in getattr(target, "elts", [target])]
    return [part.id for part in parts] if all(isinstance(p, ast.Name) for p in parts) else []


class Module:
    """A module's definitions by name, and the statements that count wherever it is imported."""

    def __init__(self, name: str):
        path = module_file(name)
        if path is None:
            raise KeyError(f"there is no module {name}")
        self.definitions: dict[str, list[ast.stmt | Import]] = {}
        self.always: list[ast.stmt] = []
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node in body:
            for defined in _defined(node):
                self.definitions.setdefault(defined, []).append(node)
            if _defined(node) or _is_type_checking(node):
                continue
            for statement in code_text(node).imports:  # the node itself, or those in a ``try``
                for one in _imports(statement, name):
                    self.definitions.setdefault(one.bound, []).append(one)
            if code_text(node).text:
                self.always.append(node)
        self.always += [
            node
            for node in body
            for decorator in getattr(node, "decorator_list", ())
            for used, _ in code_text(decorator).names
            for one in self.definitions.get(used, ())
            if not isinstance(one, Import) or module_file(one.module)
        ]


def _is_type_checking(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    )


module_code = functools.cache(Module)


def _is_left_out(module: str, name: str | None) -> bool:
    return module in INFRASTRUCTURE or f"{module}:{name}" in INFRASTRUCTURE


class Followed:
    """All that an entry point reaches: ``definitions``, each a module and a name in it.

    ``places`` maps each name to its meanings: module, text and key. Two meanings are the same if
    text and key are. The key is None for an import of a name that this package defines, which adds
    no meaning.
    """

    def __init__(self, module: str, name: str | None):
        self.places: dict[str, set[tuple[str, str, str | None]]] = {}
        self.imported: set[str] = set()
        self.definitions: set[tuple[str, str | None]] = set()
        self.todo = [(module, name)]
        while self.todo:
            wanted = self.todo.pop()
            if wanted not in self.definitions and not _is_left_out(*wanted):
                self.definitions.add(wanted)
                self._follow(*wanted)

    def _follow(self, module: str, name: str | None) -> None:
        """Take up one definition of a module, or all of them."""
        self._import(module)
        definitions = module_code(module).definitions
        if name is None:
            self.todo += [(module, one) for one in definitions]
        elif name in definitions:
            self._take(definitions[name], module, name)
        elif "__getattr__" in definitions:
            self.todo.append((module, "__getattr__"))
        elif not name.startswith("__"):
            raise KeyError(
                f"{module} defines no {name!r}, so the code digest cannot follow it; import it "
                "from the module that defines it"
            )

    def _import(self, module: str) -> None:
        """Take up what runs when a module is imported."""
        if module in self.imported or module in INFRASTRUCTURE or not module_file(module):
            return
        self.imported.add(module)
        self._import(module.rpartition(".")[0])
        code = module_code(module)
        for definitions in code.definitions.values():
            for one in definitions:
                if isinstance(one, Import):
                    self._import(one.module)
        self._take(code.always, module, "")

    def _take(self, definitions: list[ast.stmt | Import], module: str, name: str) -> None:
        """Take up what defines a name in a module."""
        for one in definitions:
            if isinstance(one, Import):
                self._bind(one, module)
        texts = [self._read(one, module) for one in definitions if not isinstance(one, Import)]
        if texts:
            self.places.setdefault(name, set()).add((module, "\n".join(texts), module))

    def _read(self, statement: ast.stmt, module: str) -> str:
        """Follow all that a statement names; return its text."""
        code = code_text(statement)
        inner = [one for node in code.imports for one in _imports(node, module)]
        for one in inner:
            self._import(one.module)
        outer = module_code(module).definitions
        for used, attribute in code.names:
            for one in [one for one in inner if one.bound == used] or outer.get(used, ()):
                if isinstance(one, Import):
                    self._bind(one, module, attribute)
                else:
                    self.todo.append((module, used))
        return code.text

    def _bind(self, one: Import, module: str, attribute: str | None = None) -> None:
        """Follow an import: of a module, the attribute if that alone is used."""
        self._import(one.module)
        text, told_by = f"is {one.module}:{one.name}", ""
        if module_file(one.module):
            wanted = one.module, one.name or attribute
            self.todo.append(wanted)
            if _is_left_out(*wanted):
                text = "is left out"
            elif one.bound == one.name:
                told_by = None
        self.places.setdefault(one.bound, set()).add((module, text, told_by))

    def text(self) -> str:
        """Return all of it; where a name has two meanings, with the modules that have them."""
        lines = set()
        for name, places in self.places.items():
            meanings = {(text, told_by) for _, text, told_by in places if told_by is not None}
            if len(meanings) == 1:
                lines.add(f"{name} {meanings.pop()[0]}")
            elif meanings:
                lines |= {f"{name} in {module} {text}" for module, text, _ in places}
        return "\n".join(sorted(lines))

    def modules(self) -> list[str]:
        """Return the modules whose code counts, sorted."""
        every = (place for places in self.places.values() for place in places)
        return sorted({module for module, _, told_by in every if told_by == module})


@functools.cache
def followed(entry: str) -> Followed:
    """Return all that an entry point reaches; its form is as for :func:`code_modules`."""
    module, _, name = entry.partition(":")
    return Followed(module, name or None)


def code_modules(entry: str) -> list[str]:
    """Return the names of the package's modules whose code an entry point runs, sorted.

    Parameters
    ----------
    entry
        ``"package.module"``, which is all of it, or ``"package.module:function"``.
    """
    return followed(entry).modules()


@functools.cache
def code_digest(entry: str) -> str:
    """Return the digest (16 hexadecimal digits) of all code that an entry point runs.

    Parameters
    ----------
    entry
        As for :func:`code_modules`.

    Raises
    ------
    KeyError
        A name that is imported from this package is not defined there.
    """
    text = f"{FORMAT_VERSION}\n{followed(entry).text()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
