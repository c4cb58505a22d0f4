"""A digest, among each rule's ``params``, of the code that its command really runs.

It follows names through this package: from a command's function to the functions, classes and
constants that it names, to those that they name, and so on. It is taken of their syntax trees,
without docstrings, comments, formatting, annotations of signatures and messages.

A module may only import and define at its top, and may not look names up at run time
(``globals()``, ``importlib``): the digest could not follow that. Tests keep both out.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "ntktune"
ROOT = Path(__file__).parents[1]

# raised by hand when an edit of the infrastructure changes what files hold or readers return
FORMAT_VERSION = 1

# what no digest follows ("module", "package.*" or "module:name"), with the reason
INFRASTRUCTURE = {
    "ntktune": "what is public, and the version",
    "ntktune.__main__": "the command line and its exit status",
    "ntktune.cli": "what a command reads and writes, and progress lines",
    "ntktune.cli.options": "options of the command line, which rules give from the study",
    "ntktune.cli.record": "what a command did, for the provenance",
    "ntktune.data.study": "completes a study, which rules hand to commands by options",
    "ntktune.study.config": "checks and completes a study, which rules hand to commands by options",
    "ntktune.study.yaml_files": "how YAML is read",
    "ntktune.network.device:leased_gpu": "waits for a GPU that no other job has",
    "ntktune.figures.catalogue": "what there is to draw; rules hand it to commands by options",
    "ntktune.figures.tables": "reads and checks tables; figures name the columns that they use",
    "ntktune.errors": "exceptions that only carry a message",
    "ntktune.store.*": "how files are read, written, checked and recovered; and this digest",
} | {
    f"ntktune.network.device:{name}": "memory decides in how many pieces, not what is computed"
    for name in (
        *("free_bytes", "free_in_control_groups", "gpu_peak_memory", "is_out_of_memory"),
        *("peak_memory_bytes", "release_cached_memory", "reset_peak_memory"),
    )
}

# Calls of these only tell something: their arguments are left out.
MESSAGES = {"Progress", "UserError", "damaged", "print", "warn"} | {
    f"{kind}Error" for kind in ("Key", "Lookup", "Memory", "OS", "Runtime", "Type", "Value")
}
# Fields of a syntax tree that change nothing, or that only some Python versions fill.
IGNORED = {"ctx", "type_comment"}
IGNORED_OF = {"Assert": "msg", "FunctionDef": "returns", "Raise": "cause", "arg": "annotation"}

Place = tuple[str, str | None]  # a module, and a name in it; None stands for all of it


@functools.cache
def module_file(module: str) -> Path | None:
    """Return the source file of a module of this package, or None if there is none."""
    package, *parts = module.split(".")
    path = ROOT.joinpath(*parts)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if package == PACKAGE and path.is_file() else None


def _imported(node: ast.stmt, module: str) -> Iterator[tuple[str, Place]]:
    """Yield each name that an import statement in a module binds, and what to."""
    if isinstance(node, ast.Import):
        for a in node.names:
            yield a.asname or a.name.split(".")[0], (a.name, None)
        return
    package = module if module_file(module).stem == "__init__" else module.rpartition(".")[0]
    base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    for a in node.names:
        inner = f"{base}.{a.name}"
        yield a.asname or a.name, ((inner, None) if module_file(inner) else (base, a.name))


class Module:
    """A module's ``imports``, name → what it is, and its ``definitions``, name → statements."""

    def __init__(self, name: str):
        path = module_file(name)
        if path is None:
            raise KeyError(f"there is no module {name}")
        self.imports: dict[str, Place] = {}
        self.definitions: dict[str, list[ast.stmt]] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= dict(_imported(node, name))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.definitions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for part in (part for t in targets for part in getattr(t, "elts", [t])):
                    self.definitions.setdefault(getattr(part, "id", ""), []).append(node)


module_code = functools.cache(Module)


def _is_left_out(module: str, name: str | None) -> bool:
    """Return whether no digest follows a name in a module."""
    package = module.rpartition(".")[0]
    return not INFRASTRUCTURE.keys().isdisjoint({module, f"{package}.*", f"{module}:{name}"})


class CodeText:
    """The ``text`` of a statement, the names in it, and its own imports.

    ``names`` holds each name with the attribute of it that is used, or with None. ``ast.dump``
    would give another text with each Python version.
    """

    def __init__(self, node: ast.stmt):
        self.names: set[tuple[str, str | None]] = set()
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.text = self._read(node)

    def _read(self, part: object) -> str:
        """Return the text of a node, of a list of nodes or of a value."""
        if isinstance(part, list):
            return f"[{' '.join(text for text in map(self._read, part) if text)}]"
        if isinstance(part, ast.Constant):
            part = part.value
        if not isinstance(part, ast.AST):
            # not repr: which characters that shows as they are depends on Python's version
            return f"{type(part).__name__}:{part!a}"
        kind = type(part).__name__
        ignored = IGNORED | {IGNORED_OF.get(kind.removeprefix("Async"))}
        fields = {k: getattr(part, k, None) for k in sorted(part._fields) if k not in ignored}
        if isinstance(part, ast.Name):
            self.names.add((part.id, None))
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            self.names.add((part.value.id, part.attr))
            return f"{part.value.id}.{part.attr}"
        elif isinstance(part, ast.Import | ast.ImportFrom):
            self.imports.append(part)
            return ""
        elif kind == "Pass" or (kind == "Expr" and _tells(part.value)):
            return ""
        elif _tells(part):
            fields = {"func": part.func}
        elif kind == "Raise" and isinstance(part.exc, ast.Call):
            told = [arg for arg in part.exc.args if not _is_text(arg)]
            fields["exc"] = ast.Call(func=part.exc.func, args=told, keywords=part.exc.keywords)
        elif kind == "JoinedStr":  # Python 3.12 ends a format with an empty constant
            fields["values"] = [v for v in part.values if getattr(v, "value", None) != ""]
        elif kind == "FormattedValue":
            fields["format_spec"] = part.format_spec or ast.JoinedStr(values=[])
        kept = (f"{k}={self._read(v)}" for k, v in fields.items() if v not in (None, []))
        return f"{kind}({' '.join(kept)})"


def _tells(node: ast.AST) -> bool:
    """Return whether an expression computes nothing: a docstring, or a call with a message."""
    called = getattr(node, "func", None)
    return isinstance(node, ast.Constant) or (
        isinstance(node, ast.Call)
        and getattr(called, "id", getattr(called, "attr", None)) in MESSAGES
    )


def _is_text(node: ast.AST) -> bool:
    """Return whether an expression is a text as it stands, or begins with one."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left)
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


code_text = functools.cache(CodeText)


class Followed:
    """All that an entry point reaches: ``places``, numbered in the order in which they are met.

    ``text`` has a line for each: its statements, and what the names in them are, by number where
    this package defines them. So it does not matter in which module a definition stands.
    """

    def __init__(self, entry: str):
        module, _, name = entry.partition(":")
        self.places: dict[Place, int] = {(module, name or None): 0}
        lines: list[str] = []
        while len(lines) < len(self.places):  # reading one place meets others
            lines.append(self._line(*list(self.places)[len(lines)]))
        self.text = "\n".join(lines)

    def _number(self, place: Place) -> int:
        """Return a place's number, a new one where it is met for the first time."""
        return self.places.setdefault(place, len(self.places))

    def _line(self, module: str, name: str | None) -> str:
        """Return the statements of one place, and what the names in them are."""
        code = module_code(module)
        if name is None:
            return " ".join(str(self._number((module, one))) for one in code.definitions)
        if name not in code.definitions:
            raise KeyError(
                f"{module} defines no {name!r}, so the code digest cannot follow it; import it "
                "from the module that defines it"
            )
        read = [code_text(node) for node in code.definitions[name]]
        bound = {one: (module, one) for one in code.definitions} | code.imports
        for node in [node for text in read for node in text.imports]:
            bound |= dict(_imported(node, module))
        used = sorted({pair for text in read for pair in text.names}, key=str)
        meant = [f"{k}.{part}={self._meaning(bound[k], part)}" for k, part in used if k in bound]
        return " ".join([*(text.text for text in read), *meant])

    def _meaning(self, place: Place, attribute: str | None) -> str:
        """Return what a place is; if it is a module, what the attribute in it is."""
        module, name = place[0], place[1] or attribute
        while module_file(module):
            if _is_left_out(module, name):
                return "left out"
            imports = module_code(module).imports
            if name not in imports:
                return str(self._number((module, name)))
            module, name = imports[name]
        return f"{module}:{name}"


followed = functools.cache(Followed)


@functools.cache
def code_digest(entry: str) -> str:
    """Return the digest (16 hexadecimal digits) of all code that an entry point runs.

    ``entry`` is ``"package.module"`` or ``"package.module:function"``. Raises KeyError if a name
    that is imported from this package is not defined there.
    """
    return hashlib.sha256(f"{FORMAT_VERSION}\n{followed(entry).text}".encode()).hexdigest()[:16]
