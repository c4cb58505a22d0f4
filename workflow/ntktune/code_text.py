"""The text of a piece of code that decides what it computes, the same on every Python version.

It holds the syntax tree without docstrings, comments, formatting, signatures' annotations and
messages. ``ast.dump`` will not do: what it writes changes with each Python version.
"""

import ast
import functools
from dataclasses import dataclass, field

# Calls of these only tell something: their arguments are left out.
MESSAGES = {"Progress", "UserError", "damaged", "print", "warn"} | {
    f"{kind}Error" for kind in ("Key", "Lookup", "Memory", "OS", "Runtime", "Type", "Value")
}
# Fields of a syntax tree that change nothing, or that only some Python versions fill.
IGNORED = {"ctx", "type_comment"}
IGNORED_OF = {
    "Assert": {"msg"},
    "AsyncFunctionDef": {"returns"},
    "FunctionDef": {"returns"},
    "Raise": {"cause"},
    "arg": {"annotation"},
}


@dataclass
class CodeText:
    """The text of a statement, the names in it, and its own imports.

    ``names`` holds each name with the attribute of it that is used, or with None.
    """

    text: str = ""
    names: set[tuple[str, str | None]] = field(default_factory=set)
    imports: list[ast.Import | ast.ImportFrom] = field(default_factory=list)

    def read(self, part: object) -> str:
        """Return the text of a node, of a list of nodes or of a value."""
        if isinstance(part, list):
            return f"[{' '.join(text for text in map(self.read, part) if text)}]"
        if not isinstance(part, ast.AST):
            # not repr: which characters that shows as they are depends on Python's version
            return f"{type(part).__name__}:{part!a}"
        reader = getattr(self, f"_{type(part).__name__.lower()}", self._fields)
        return reader(part)

    def _fields(self, node: ast.AST) -> str:
        kind = type(node).__name__
        ignored = IGNORED | IGNORED_OF.get(kind, set())
        if _is_message(node):
            ignored = ignored | {"args", "keywords"}
        values = {name: getattr(node, name, None) for name in node._fields if name not in ignored}
        kept = (f"{k}={self.read(v)}" for k, v in sorted(values.items()) if v not in (None, []))
        return f"{kind}({' '.join(kept)})"

    def _constant(self, node: ast.Constant) -> str:
        return self.read(node.value)

    def _name(self, node: ast.Name) -> str:
        self.names.add((node.id, None))
        return node.id

    def _attribute(self, node: ast.Attribute) -> str:
        if not isinstance(node.value, ast.Name):
            return self._fields(node)
        self.names.add((node.value.id, node.attr))
        return f"{node.value.id}.{node.attr}"

    def _import(self, node: ast.Import | ast.ImportFrom) -> str:
        self.imports.append(node)
        return ""

    _importfrom = _import

    def _expr(self, node: ast.Expr) -> str:
        told = isinstance(node.value, ast.Constant) or _is_message(node.value)
        return "" if told else self._fields(node)

    def _pass(self, node: ast.Pass) -> str:
        return ""

    def _raise(self, node: ast.Raise) -> str:
        if isinstance(node.exc, ast.Call):
            told = [arg for arg in node.exc.args if not _is_text(arg)]
            call = ast.Call(func=node.exc.func, args=told, keywords=node.exc.keywords)
            node = ast.Raise(exc=call, cause=None)
        return self._fields(node)

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        # Python 3.12 ends a format with an empty constant
        return "f" + self.read([v for v in node.values if getattr(v, "value", None) != ""])

    def _formattedvalue(self, node: ast.FormattedValue) -> str:
        form = node.format_spec or ast.JoinedStr(values=[])
        return f"{self.read(node.value)}!{node.conversion}:{self.read(form)}"


def _is_message(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return getattr(node.func, "id", getattr(node.func, "attr", None)) in MESSAGES


def _is_text(node: ast.AST) -> bool:
    """Return whether an expression is a text as it stands, or begins with one."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left)
    return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


@functools.cache
def code_text(node: ast.AST) -> CodeText:
    """Return the text of one statement or expression, its names and its imports."""
    found = CodeText()
    found.text = found.read(node)
    return found
