"""The digest that decides what reruns when code changes."""

import re
import subprocess
import sys
import textwrap

import pytest

from ntktune import code_digest as module


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of ntktune: write(path, source) and digest(entry)."""
    root = tmp_path / "ntktune"

    class Package:
        @staticmethod
        def write(path, source):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(source))
            module._parsed.cache_clear()
            module.code_digest.cache_clear()

        digest = staticmethod(lambda entry: module.code_digest(entry))
        modules = staticmethod(lambda entry: module.code_modules(entry))

    monkeypatch.setattr(module, "ROOT", root)
    Package.write("__init__.py", "")
    Package.write("cli/__init__.py", "")
    Package.write(
        "cli/spectrum.py",
        '''
        """Commands."""
        import sys

        LIMIT = 3

        def fit(args):
            """Fit."""
            from ntktune.spectrum import decay
            return helper(decay(args))

        def helper(x):
            return x

        def other(args):
            from ntktune import kernel
            return kernel
        ''',
    )
    Package.write("spectrum/__init__.py", "from .fits import decay\n")
    Package.write("spectrum/fits.py", "def decay(x):\n    '''Decay.'''\n    return x + 1\n")
    Package.write("kernel/__init__.py", "ONE = 1\n")
    yield Package
    module._parsed.cache_clear()
    module.code_digest.cache_clear()


ENTRY = "ntktune.cli.spectrum:fit"


def test_follows_imports_of_the_function_only(package):
    assert package.modules(ENTRY) == ["ntktune", "ntktune.spectrum", "ntktune.spectrum.fits"]
    assert "ntktune.kernel" in package.modules("ntktune.cli.spectrum:other")


def test_comments_docstrings_and_formatting_do_not_count(package):
    before = package.digest(ENTRY)
    package.write(
        "spectrum/fits.py",
        "# why\n\ndef decay( x ):\n    '''Other.'''\n    return (x+1)  # one\n",
    )
    assert package.digest(ENTRY) == before


def test_code_that_is_imported_counts(package):
    before = package.digest(ENTRY)
    package.write("spectrum/fits.py", "def decay(x):\n    return x + 2\n")
    assert package.digest(ENTRY) != before


def test_code_that_is_not_imported_does_not_count(package):
    before = package.digest(ENTRY)
    package.write("kernel/__init__.py", "ONE = 2\n")
    assert package.digest(ENTRY) == before


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("return helper(decay(args))", "return decay(args)", True),
        ("    return x\n", "    return -x\n", True),  # a helper in the same file
        ("LIMIT = 3", "LIMIT = 4", True),  # a constant of the file
        ("    return kernel\n", "    return None\n", False),  # a neighbouring command
    ],
)
def test_of_the_entry_module_only_what_the_function_reaches_counts(package, old, new, changes):
    before = package.digest(ENTRY)
    source = (module.ROOT / "cli/spectrum.py").read_text()
    assert old in source
    package.write("cli/spectrum.py", source.replace(old, new))
    assert (package.digest(ENTRY) != before) is changes


def test_an_unknown_function_is_an_error(package):
    with pytest.raises(KeyError, match="no function 'nothing'"):
        package.digest("ntktune.cli.spectrum:nothing")


@pytest.mark.parametrize(
    ("entry", "never"),
    [
        ("ntktune.cli.spectrum:fit", ["finetune", "figures", "taskvectors"]),
        ("ntktune.cli.kernel:draws", ["data", "spectrum", "finetune", "figures", "theory"]),
        ("ntktune.cli.finetune:run", ["kernel", "spectrum", "taskvectors", "figures", "theory"]),
        ("ntktune.cli.figures:fig2", ["kernel", "spectrum", "finetune", "taskvectors", "theory"]),
    ],
)
def test_the_real_commands_reach_no_later_chapter(entry, never):
    chapters = {m.split(".")[1] for m in module.code_modules(entry) if "." in m}
    assert not chapters & set(never)


@pytest.mark.parametrize("verb", ["fit", "cosine", "run"])
def test_no_module_that_python_imports_escapes_the_digest(tmp_path, verb):
    """Run a real command in a fresh interpreter and compare with what was followed statically."""
    chapter, options = {
        "fit": ("spectrum", ["--gram", "--out-eigenvalues", "--out-fits", "--out-summary"]),
        "cosine": ("taskvectors", ["--model", "--weights", "--out"]),
        "run": (
            "finetune",
            [
                *(
                    "--seed=0",
                    "--size=8",
                    "--learning-rate=1",
                    "--weight-decay=0",
                    "--batch-size=1",
                ),
                *("--max-epochs=1", "--evaluate-every=1", "--patience=1", "--model", "--tokens"),
                *("--subsets", "--task", "--out-metrics", "--out-history"),
            ],
        ),
    }[verb]
    command = [sys.executable, "-X", "importtime", "-m", "ntktune", chapter, verb]
    for option in options:
        command += [option] if "=" in option else [option, "missing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert re.search(r"missing(/model.json)? does not exist", done.stderr)
    imported = set(re.findall(r"\| +(ntktune\.[\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert f"ntktune.{chapter}" in imported
    # what the parser alone needs: other commands of the chapter, and what they share
    starters = {"ntktune.cli", f"ntktune.cli.{chapter}", "ntktune.errors"}
    starters |= {"ntktune.cli.taskvectors_sweeps", "ntktune.cli.figure_files"}
    assert imported - starters <= set(module.code_modules(f"ntktune.cli.{chapter}:{verb}"))
