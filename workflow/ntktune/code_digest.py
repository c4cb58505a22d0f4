"""A digest of the code that a command really runs.

Snakemake reruns a job when its ``params`` change. Each rule has this digest among
them, so editing kernel code reruns kernels, and what hangs on them, and nothing
else. The digest is taken over syntax trees without comments, docstrings and
formatting: those rerun nothing.

It is taken whenever jobs are planned, and by each command for its provenance: what one entry point
has in common with others is looked at once.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "ntktune"
ROOT = Path(__file__).parent


def module_file(module: str) -> Path | None:
    """Return the source file of a module of this package, or None if there is none."""
    path = ROOT.joinpath(*module.split(".")[1:])
    if path.is_dir():
        return path / "__init__.py"
    path = path.with_suffix(".py")
    return path if path.is_file() else None


def _with_nested(statement: ast.AST) -> Iterator[ast.AST]:
    """Yield a statement, or a module, and the statements in it; expressions are most of a tree."""
    todo = [statement]
    while todo:
        node = todo.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo.extend(getattr(node, field, ()))


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in _with_nested(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@functools.cache
def _parsed(module: str) -> ast.Module:
    path = module_file(module)
    if path is None:
        raise KeyError(f"there is no module {module}")
    return _without_docstrings(ast.parse(path.read_text(encoding="utf-8")))


@functools.cache
def _dumped(node: ast.AST) -> str:
    return ast.dump(node)


@functools.cache
def _imports(statement: ast.stmt, module: str) -> frozenset[str]:
    """Return the modules of this package that a statement imports, directly."""
    found = set()
    is_package = module_file(module).name == "__init__.py"
    for node in _with_nested(statement):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")
                anchor = anchor[: len(anchor) - node.level + is_package]
                base = ".".join([*anchor, base] if base else anchor)
            found.add(base)
            # ``from package import name``: the name may be a module itself
            found.update(f"{base}.{a.name}" for a in node.names)
    found = {m for m in found if m.split(".")[0] == PACKAGE and module_file(m)}
    # importing a.b.c runs a and a.b first
    parents = {".".join(m.split(".")[:i]) for m in found for i in range(1, m.count(".") + 1)}
    return frozenset(found | parents)


@functools.cache
def _names(statement: ast.stmt) -> frozenset[str]:
    return frozenset(n.id for n in ast.walk(statement) if isinstance(n, ast.Name))


def _needed_statements(module: str, function: str) -> list[ast.stmt]:
    """Return a module's statements that matter to one of its functions.

    Functions of the module that the wanted one does not reach by name are left
    out: a command file holds several commands, and editing one must not rerun
    the jobs of its neighbours.
    """
    body = _parsed(module).body
    functions = {n.name: n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    if function not in functions:
        raise KeyError(f"{module} has no function {function!r}")
    wanted, todo = set(), [function]
    while todo:
        name = todo.pop()
        wanted.add(name)
        todo.extend((_names(functions[name]) & functions.keys()) - wanted)
    return [n for n in body if getattr(n, "name", None) not in functions.keys() - wanted]


def code_modules(entry: str) -> list[str]:
    """Return the names of the package's modules that an entry point imports, sorted.

    Parameters
    ----------
    entry
        ``"package.module"`` or ``"package.module:function"``.
    """
    module, _, function = entry.partition(":")
    start = _needed_statements(module, function) if function else _parsed(module).body
    seen, todo = set(), [(statement, module) for statement in start]
    while todo:
        for name in _imports(*todo.pop()) - seen:
            seen.add(name)
            todo.extend((statement, name) for statement in _parsed(name).body)
    return sorted(seen)


@functools.cache
def code_digest(entry: str) -> str:
    """Return the digest (16 hexadecimal digits) of all code that an entry point runs.

    Parameters
    ----------
    entry
        ``"package.module"`` or ``"package.module:function"``. With a function, of its
        own module only the statements that the function reaches count.
    """
    module, _, function = entry.partition(":")
    start = _needed_statements(module, function) if function else _parsed(module).body
    digest = hashlib.sha256()
    for node in start:
        digest.update(_dumped(node).encode())
    for name in code_modules(entry):
        if name != PACKAGE:  # the package's own __init__ holds the version, which is no code
            digest.update(f"\n{name}\n{_dumped(_parsed(name))}".encode())
    return digest.hexdigest()[:16]
