"""The digest that decides what reruns when code changes.

``python tests/core/test_code_digest.py`` writes code_modules.txt anew.
"""

import argparse
import ast
import copy
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from ntktune.cli.options import command_options
from ntktune.figures.catalogue import FIGURES, RESULT_TABLES
from ntktune.store import code_digest as module
from ntktune.store.code_digest import MESSAGES, code_text

SOURCE = Path(module.__file__).parents[1]
RULES = SOURCE.parent / "rules"
SNAPSHOT = Path(__file__).with_name("code_modules.txt")


def code_modules(entry):
    """Return the modules whose code an entry point runs."""
    return sorted({name for name, _ in module.followed(entry).places})


RULE_FILES = "".join(file.read_text() for file in RULES.glob("*.smk"))
COMMANDS = sorted(set(re.findall(r'of_\w+\("(\w+) (\w+)"', RULE_FILES)))
ENTRIES = sorted(
    {
        *re.findall(r'digest_of\("([^"]+)"\)', RULE_FILES),
        *(f"ntktune.cli.{chapter}:{verb}" for chapter, verb in COMMANDS),
        *(entry.code for entry in (FIGURES | RESULT_TABLES).values()),
    }
)


def forget():
    """Have changed files read again."""
    for cached in (module.module_file, module.followed, module.code_digest):
        cached.cache_clear()


CODE = {}  # a module's name and source -> what was read of it: few files change


def module_code(name):
    path = module.module_file(name)
    key = name, path and path.read_text()
    if key not in CODE:
        CODE[key] = module.Module(name)
    return CODE[key]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the folder of a package in place of ntktune."""
    monkeypatch.setattr(module, "ROOT", tmp_path / "ntktune")
    monkeypatch.setattr(module, "module_code", module_code)
    forget()
    yield tmp_path / "ntktune"
    forget()


PACKAGE = {
    "__init__.py": "",
    "cli/__init__.py": "class Progress: ...\n",
    "store/files.py": "def read(path):\n    return path\n",
    "errors.py": "class UserError(Exception): ...\n",
    "cli/spectrum.py": '''
        """Commands."""
        from __future__ import annotations
        import sys
        from typing import TYPE_CHECKING
        from ntktune.store.files import read
        from ntktune.errors import UserError
        from ntktune import tools
        from ntktune.study.merges import half as part
        if TYPE_CHECKING:
            from ntktune.kernel import ONE
        from ntktune.fast import quick
        LIMIT = 3
        UNUSED = 1

        def fit(args: Namespace) -> None:
            """Fit."""
            from ntktune.spectrum import decay
            if read(args) > LIMIT:
                raise UserError(f"{args} is too many: " + more(args))
            print("fitting", file=sys.stderr)
            if tools.odd(args):
                raise Stop("at", args)
            assert args, "nothing"
            return helper(decay(args)) + part(quick(args))

        def more(x):
            return "give fewer"

        def helper(x):
            return x

        class Stop(Exception):
            pass

        def other(args):
            from ntktune import kernel
            return kernel
        ''',
    "spectrum/__init__.py": "from .fits import decay\nfrom .others import rate\n",
    "spectrum/fits.py": """
        BASE = 1
        BASE += 1
        def decay(x):
            return x + BASE
        """,
    "spectrum/others.py": "def rate(x):\n    return x\n",
    "kernel/__init__.py": "ONE = 1\n",
    "fast.py": "def quick(x):\n    return x\ndef slow(x):\n    return x\n",
    "tools.py": "def odd(x):\n    return x % 2\ndef even(x):\n    return not odd(x)\n",
    "study/__init__.py": "",
    "study/merges.py": "def half(x):\n    return x / 2\ndef third(x):\n    return x / 3\n",
}
ENTRY = "ntktune.cli.spectrum:fit"


@pytest.fixture
def package(root):
    """A small package in place of ntktune: write(path, source) and digest(entry)."""

    class Package:
        @staticmethod
        def write(path, source):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(textwrap.dedent(source))
            forget()

        @staticmethod
        def edit(path, old, new):
            text = (root / path).read_text()
            assert text.count(old) == 1
            Package.write(path, text.replace(old, new))

    for path, source in PACKAGE.items():
        Package.write(path, source)
    return Package


def test_it_follows_what_the_function_names(package):
    assert code_modules(ENTRY) == [
        *("ntktune.cli.spectrum", "ntktune.fast", "ntktune.spectrum.fits"),
        *("ntktune.study.merges", "ntktune.tools"),
    ]
    assert "ntktune.kernel" in code_modules("ntktune.cli.spectrum:other")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("cli/spectrum.py", "return helper(decay(args))", "return decay(args)"),
        ("cli/spectrum.py", "    return x\n", "    return -x\n"),  # a helper
        ("cli/spectrum.py", "LIMIT = 3", "LIMIT = 4"),
        ("cli/spectrum.py", "import decay", "import rate as decay"),
        ("cli/spectrum.py", "half as part", "third as part"),
        ("cli/spectrum.py", 'Stop("at", args)', 'Stop("at", -args)'),  # it may carry a result
        ("cli/spectrum.py", "tools.odd", "tools.even"),
        ("cli/spectrum.py", "raise UserError", "raise ValueError"),
        ("spectrum/fits.py", "return x + BASE", "return x + 2 * BASE"),
        ("spectrum/fits.py", "BASE = 1", "BASE = 2"),
        ("spectrum/fits.py", "BASE += 1", "BASE += 2"),
        ("spectrum/__init__.py", "from .fits import decay", "from .others import rate as decay"),
        ("tools.py", "return x % 2", "return x % 3"),
        ("fast.py", "quick(x):\n    return x", "quick(x):\n    return -x"),
        ("cli/spectrum.py", "import quick", "import slow as quick"),
        ("study/merges.py", "return x / 2", "return x / 4"),
    ],
)
def test_what_the_function_computes_counts(package, file, old, new):
    before = module.code_digest(ENTRY)
    package.edit(file, old, new)
    assert module.code_digest(ENTRY) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("cli/spectrum.py", "    return kernel\n", "    return None\n"),  # another command
        ("cli/spectrum.py", "UNUSED = 1", "UNUSED = 2"),
        ("cli/spectrum.py", '"""Fit."""', '"""Fit it."""'),
        ("cli/spectrum.py", "return x\n", "return ( x )  # why\n"),
        ("cli/spectrum.py", "args: Namespace) -> None", "args: tuple) -> int"),
        ("cli/spectrum.py", "is too many: ", "is more than it can be; "),
        ("cli/spectrum.py", " + more(args)", ""),
        ("cli/spectrum.py", "give fewer", "give less"),
        ("cli/spectrum.py", '"fitting"', '"is being fitted", args'),
        ("cli/spectrum.py", '    print("fitting", file=sys.stderr)\n', ""),
        ("cli/spectrum.py", 'Stop("at", args)', 'Stop("before", args)'),
        ("cli/spectrum.py", '"nothing"', '"none"'),
        (
            "cli/spectrum.py",
            "from ntktune.kernel import ONE",
            "from ntktune.study.merges import third",
        ),
        ("store/files.py", "return path", "return str(path)"),
        ("errors.py", "(Exception)", "(ValueError)"),
        ("cli/__init__.py", "Progress", "Bar"),
        ("tools.py", "return not odd(x)", "return True"),  # a neighbour in the same module
        ("spectrum/others.py", "return x", "return -x"),
        ("fast.py", "slow(x):\n    return x", "slow(x):\n    return -x"),
        ("kernel/__init__.py", "ONE = 1", "ONE = 2"),
    ],
)
def test_all_else_does_not_count(package, file, old, new):
    before = module.code_digest(ENTRY)
    package.edit(file, old, new)
    assert module.code_digest(ENTRY) == before


def test_it_does_not_count_where_a_definition_stands(package):
    before = module.code_digest(ENTRY)
    package.write("spectrum/moved.py", PACKAGE["spectrum/fits.py"])
    package.write("spectrum/fits.py", "")
    package.edit("spectrum/__init__.py", ".fits", ".moved")
    assert module.code_digest(ENTRY) == before


def test_which_of_two_definitions_of_one_name_is_imported_counts(package):
    package.write("one.py", "def scale(x):\n    return x\ndef a(x):\n    return scale(x)\n")
    package.write("two.py", "def scale(x):\n    return -x\ndef b(x):\n    return scale(x)\n")
    used = "from ntktune.one import a, scale\nfrom ntktune.two import b\n"
    used += "def f(x):\n    return a(x) + b(x) + scale(x)\n"
    package.write("cli/both.py", used)
    before = module.code_digest("ntktune.cli.both:f")
    used = "from ntktune.one import a\nfrom ntktune.two import b, scale\n" + used.split("b\n", 1)[1]
    package.write("cli/both.py", used)
    assert module.code_digest("ntktune.cli.both:f") != before


def test_the_infrastructures_format_counts(package, monkeypatch):
    before = module.code_digest(ENTRY)
    monkeypatch.setattr(module, "FORMAT_VERSION", module.FORMAT_VERSION + 1)
    forget()
    assert module.code_digest(ENTRY) != before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("ntktune.cli.spectrum:nothing", "ntktune.cli.spectrum defines no 'nothing'"),
        ("ntktune.cli.nowhere:fit", "there is no module ntktune.cli.nowhere"),
    ],
)
def test_what_is_not_there_is_an_error(package, entry, message):
    with pytest.raises(KeyError, match=message):
        module.code_digest(entry)


# Python versions

# What Python's versions parse, or show, in different ways.
DIVERSE = '''
@decorated
def f(a, /, b: int = 1, *c, d=None, **e):
    """Text."""
    return f"{a:}{b!r:>{c}}" f"tail" "more", f"", f"{{}}{a = }", f"{a:{b}.{c}}", u"u\\U0001fae8"
class C(B, k=1):
    x: int = 0
    def g(self): return {None: 1, **self}, b"\\xff", 1e400, 2j, ..., -1, [*self], self[1:, ::2]
async def h():
    match a:
        case None | True: pass
        case [1, *r] | {"k": v, **s} | C(x=1): return lambda: (yield)
    try:
        with a as b, c: x: int
    except* E as e: raise
    return [i async for i in a if not i]
'''
TEXT_OF_DIVERSE = "1048bf8e8215b2f3"


def digest_of_text(tree):
    return hashlib.sha256("".join(code_text(n).text for n in tree.body).encode()).hexdigest()[:16]


def python_312(tree):
    """Return a tree as Python 3.12 has it: empty texts end formats, and types have parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.type_params = []
            node._fields = (*dict.fromkeys((*type(node)._fields, "type_params")),)
        form = getattr(node, "format_spec", None)
        if form and not isinstance(form.values[-1:] or form, ast.Constant):
            form.values.append(ast.Constant(value="", kind=None))
    return tree


def later(tree):
    """Return a tree in which all that is empty has been left out."""
    for node in ast.walk(tree):
        for name in set(node._fields) - {"value", "values"}:
            if name in ("ctx", "kind") or getattr(node, name, None) in (None, []):
                vars(node).pop(name, None)
    return tree


@pytest.mark.parametrize("other", [lambda tree: tree, python_312, later])
def test_the_text_is_the_same_on_every_python(other):
    assert digest_of_text(other(copy.deepcopy(ast.parse(DIVERSE)))) == TEXT_OF_DIVERSE


def test_all_digests_are_the_same_on_the_other_pythons_of_this_machine():
    digests = [module.code_digest(entry) for entry in ENTRIES]
    script = "import sys; from ntktune.store.code_digest import code_digest as digest\n"
    script += "print([digest(entry) for entry in sys.argv[1:]])"
    pythons = [sys.executable]
    pythons += filter(None, (shutil.which(f"python3.{minor}") for minor in range(12, 20)))
    told = [
        subprocess.run(
            [python, "-B", "-c", script, *ENTRIES],
            env={"PYTHONPATH": str(SOURCE.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        for python in pythons
    ]
    answers = [done.stdout.strip() for done in told if done.returncode == 0]
    assert set(answers) == {str(digests)}


# The package itself


def snapshot():
    """Return what each rule's digest is taken of, as text."""
    lines = []
    for entry in ENTRIES:
        names = (name.removeprefix("ntktune.") for name in code_modules(entry))
        lines.append(f"{entry.removeprefix('ntktune.')}\n")
        indent = {"initial_indent": "    ", "subsequent_indent": "    "}
        lines.append(textwrap.fill(" ".join(names), 96, break_on_hyphens=False, **indent) + "\n")
    return "".join(lines)


def test_the_modules_of_each_rules_digest_are_those_that_were_reviewed():
    assert snapshot() == SNAPSHOT.read_text(), (
        f"read what changed, then: python {Path(__file__).relative_to(SOURCE.parents[1])}"
    )


def test_what_is_left_out_exists():
    for left_out, reason in module.INFRASTRUCTURE.items():
        name, _, definition = left_out.removesuffix(".*").partition(":")
        code = module_code(name)
        assert reason
        assert not definition or definition in code.definitions


class Reworded(ast.NodeTransformer):
    """Other docstrings and other messages."""

    def __init__(self):
        self.changed = 0

    def reword(self, nodes):
        for node in [inner for one in nodes for inner in ast.walk(one)]:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                node.value = f"other {node.value}"
                self.changed += 1

    def visit_Call(self, node):
        self.generic_visit(node)
        if getattr(node.func, "id", None) in MESSAGES:
            self.reword([*node.args, *(k.value for k in node.keywords)])
        return node

    def visit_Expr(self, node):
        self.generic_visit(node)
        if isinstance(node.value, ast.Constant):
            self.reword([node])
        return node


@pytest.fixture
def source(root):
    """Return a copy of the package's source, with the digests before it is changed."""
    shutil.copytree(SOURCE, root, ignore=shutil.ignore_patterns("__pycache__"))
    forget()
    return root, {entry: module.code_digest(entry) for entry in ENTRIES}


def changed(before):
    forget()
    return {
        entry.split(".", 2)[2] for entry in ENTRIES if module.code_digest(entry) != before[entry]
    }


def test_other_messages_docstrings_and_formatting_rerun_nothing(source):
    root, before = source
    total = 0
    for file in root.rglob("*.py"):
        words = Reworded()
        file.write_text(ast.unparse(words.visit(ast.parse(file.read_text()))))
        total += words.changed
    assert total > 1500  # the rewording does something
    assert changed(before) == set()


def edit(root, file, function):
    """Add a line that does something to one function."""
    tree = ast.parse((root / file).read_text())
    (found,) = (n for n in tree.body if getattr(n, "name", None) == function)
    found.body.append(ast.parse("computed = 1").body[0])
    (root / file).write_text(ast.unparse(tree))


KERNELS = {"kernel:draws", "kernel:learning", "theory:trajectory", "theory:width"}
KERNELS |= {"linearized:hold", "linearized:sets", "taskvectors:disentangle", "selection:score"}


@pytest.mark.parametrize(
    ("file", "function", "rerun"),
    [
        ("kernel/engine.py", "gram", KERNELS),
        ("cli/finetune.py", "plan", set()),
        ("finetune/account.py", "memory", set()),
        ("data/study.py", "resolved_study", set()),
        ("store/records.py", "read_table", set()),
        ("network/device.py", "leased_gpu", set()),
        ("spectrum/summary.py", "spectrum_summary", {"spectrum:fit"}),
        ("figures/fig10.py", "f1_figure", {"fig10:f1_figure"}),
        ("data/tokens.py", "row_tokens", {"data:tokenize"}),
    ],
)
def test_an_edit_reruns_what_it_concerns(source, file, function, rerun):
    edit(source[0], file, function)
    assert changed(source[1]) == rerun


@pytest.mark.parametrize(
    ("entry", "never"),
    [
        ("ntktune.cli.spectrum:fit", ["finetune", "figures", "taskvectors"]),
        ("ntktune.cli.kernel:draws", ["data", "spectrum", "finetune", "figures", "theory"]),
        ("ntktune.cli.finetune:run", ["kernel", "taskvectors", "figures", "theory"]),
        (FIGURES["fig2"].code, ["kernel", "spectrum", "finetune", "taskvectors", "theory"]),
    ],
)
def test_the_real_commands_reach_no_later_chapter(entry, never):
    chapters = {m.split(".")[1] for m in code_modules(entry)}
    assert not chapters & set(never)


DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
DEFINING += (ast.Assign, ast.AnnAssign, ast.AugAssign)


def test_no_module_does_more_than_define_where_the_digest_cannot_follow():
    for file in SOURCE.rglob("*.py"):
        name = ".".join(("ntktune", *file.relative_to(SOURCE).with_suffix("").parts))
        code = module_code(name.removesuffix(".__init__"))
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.If):
                assert ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"), file
            elif isinstance(node, ast.Expr):
                assert isinstance(node.value, ast.Constant), file  # a docstring
            else:
                assert isinstance(node, DEFINING), ast.unparse(node)
        # a decorator of this package's own may register what it decorates
        for node in [node for nodes in code.definitions.values() for node in nodes]:
            for decorator in getattr(node, "decorator_list", ()):
                for used, _ in code_text(decorator).names:
                    assert used not in code.definitions, file
                    assert not module.module_file(code.imports[used][0]), file
        assert "" not in code.definitions, f"{file} sets what is no name"


def test_no_module_looks_names_up_where_the_digest_cannot_follow():
    unseen = r"\b(globals|__import__|import_module|__subclasses__|__init_subclass__|eval|exec)\("
    for file in SOURCE.rglob("*.py"):
        name = ".".join(("ntktune", *file.relative_to(SOURCE).with_suffix("").parts))
        if not module._is_left_out(name.removesuffix(".__init__"), None):
            text = re.sub(r"\.eval\(\)", "", file.read_text())
            assert not re.search(unseen, text), file
            assert "import *" not in text, file


@pytest.mark.parametrize("file", sorted(RULES.glob("*.smk")), ids=lambda file: file.stem)
def test_rules_give_every_option_that_has_a_default(file):
    """The digest does not follow the command line's parser: no default there may decide a job."""
    text = file.read_text()
    for chapter, told, words in re.findall(
        r"python -m ntktune (\S+) (\S+)(.*?)\"{3}", text, re.DOTALL
    ):
        verbs = argparse.ArgumentParser(prog=f"ntktune {chapter}").add_subparsers()
        importlib.import_module(f"ntktune.cli.{chapter}").add_commands(verbs)
        for verb in re.findall(r'verb="(\w+)"', text) if told == "{params.verb:q}" else [told]:
            name = f"{chapter} {verb}"
            configured = command_options(name) if "{params.options:q}" in words else ()
            assert not configured or re.search(rf'(options|of_\w+)\("{name}"', text)
            for option in verbs.choices[verb]._actions:
                given = any(f"{flag} " in words for flag in option.option_strings)
                given = given or option.dest in configured
                assert given or option.default in (None, False, [], argparse.SUPPRESS), option


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return the folder of a tiny study with one task."""
    from tiny_study import write_model, write_task

    folder = tmp_path_factory.mktemp("study")
    write_task(folder, "a", "regression", write_model(folder / "model"))
    return folder


def functions_run(command):
    """Run a command; return the package's functions that ran, as modules and top-level names."""
    from ntktune.__main__ import main

    ran = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(str(SOURCE)):
            ran.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        assert main([str(word) for word in command]) == 0
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    found = set()
    for file, line in ran:
        name = ".".join(("ntktune", *Path(file).relative_to(SOURCE).with_suffix("").parts))
        for node in ast.parse(Path(file).read_text()).body:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            # a class's own body only defines; it runs when its module is imported
            defines = isinstance(node, ast.ClassDef) and line in (first, node.lineno)
            if hasattr(node, "name") and first <= line <= node.end_lineno and not defines:
                found.add((name.removesuffix(".__init__"), node.name))
    return found


def test_no_function_that_runs_escapes_the_digest(study):
    """Run commands, and compare what ran with what was followed without running it."""
    from tiny_study import tuning_flags

    folder = study
    files = ("--tokens", folder / "a.safetensors", "--subsets", folder / "a.json", "--task", "a")
    gram, model = folder / "gram.safetensors", ("--model", folder / "model")
    outs = {name: folder / f"{name}.parquet" for name in ("metrics", "history", "e", "f")}
    commands = {
        "kernel:learning": [
            *(*model, *files, "--seed=1", "--rows=8", "--seeds=1", "--out", gram),
            *("--shard", 0, 0, 1),  # the whole: its spectrum is fitted
        ],
        "spectrum:fit": [
            *("--gram", gram, "--out-eigenvalues", outs["e"]),
            *("--out-fits", outs["f"], "--out-summary", folder / "summary.json"),
        ],
        "finetune:run": [
            *tuning_flags(folder, "a", max_epochs=2),
            *("--out-metrics", outs["metrics"], "--out-history", outs["history"]),
        ],
    }
    for entry, flags in commands.items():
        ran = functions_run([*entry.split(":"), *flags])
        assert len(ran) > 15
        followed = set(module.followed(f"ntktune.cli.{entry}").places)
        left_out = {place for place in ran if module._is_left_out(*place)}
        # what builds the command line's parser
        cli = {(m, name) for m, name in ran if m.startswith("ntktune.cli.")}
        parser = {(m, name) for m, name in cli if "add_" in name or name.endswith("_options")}
        assert ran - left_out - parser - followed == set(), entry


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot())
