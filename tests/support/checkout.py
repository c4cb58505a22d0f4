"""A copy of the repository in a temporary folder: what Snakemake plans and does there."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import preloaded
import psutil

from ntktune.store.tensors import read_arrays

REPOSITORY = Path(__file__).parents[2]
# Targets that make a study's numbers but for merged models, and what they make.
NUMBERS = ("spectrum", "finetune", "theory")
NUMBER_FILES = (
    *("kernel/**/*.safetensors", "spectrum/**/*.parquet", "finetune/**/*.parquet"),
    *("theory/**/*.parquet", "taskvectors/*/seed*.safetensors"),
)


def tracked_files():
    """Return the files of the repository: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]


class Checkout:
    """A copy of the repository that a test may run and change."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in tracked_files():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target)

    @classmethod
    def at(cls, folder: Path) -> "Checkout":
        """Return the copy that a folder is already."""
        copy = cls.__new__(cls)
        copy.folder = folder
        return copy

    @classmethod
    def of(cls, other: "Checkout", folder: Path) -> "Checkout":
        """Copy a copy, with its results and what Snakemake knows of them."""
        shutil.copytree(other.folder, folder, symlinks=True)
        return cls.at(folder)

    def environment(self, *commands: str, hub: bool = False) -> dict[str, str]:
        """Return the environment of a run here; the package is the copy's own.

        Each `python -m COMMAND` of ``commands`` begins with its packages imported (preloaded.py),
        but those that read a ``hub``'s address.
        """
        # compiled once, not by each of hundreds of processes
        ignored = ("SNAKEMAKE", "PYTHONDONTWRITEBYTECODE")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(ignored)}
        environment["PYTHONPATH"] = str(self.folder / "workflow")
        if commands:
            path = environment["PYTHONPATH"]
            environment |= preloaded.environment(*commands, path=path, hub=hub)
        # no environment is activated: the jobs must find the right Python all the same
        binaries = str(Path(sys.executable).parent)
        folders = environment["PATH"].split(os.pathsep)
        environment["PATH"] = os.pathsep.join(f for f in folders if f != binaries)
        return environment

    def snakemake(
        self, *arguments: str, under: tuple[str, ...] = (), **environment: str
    ) -> subprocess.CompletedProcess:
        """Run Snakemake here, ``under`` another command where one is given.

        What that command does must reach the jobs, and a PYTHONPATH of the caller's own takes the
        place of this one: then nothing is preloaded.
        """
        own = under or "PYTHONPATH" in environment
        commands = () if own else ("snakemake", "ntktune")
        return subprocess.run(
            [*under, sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=self.environment(*commands, hub=bool(environment)) | environment,
            check=False,
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run a command of ours here, by hand."""
        return subprocess.run(
            [sys.executable, "-m", "ntktune", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=self.environment("ntktune"),
            check=False,
        )

    @contextmanager
    def running(self, *arguments: str, preload: tuple[str, ...] = ()) -> Iterator["Running"]:
        """Start Snakemake here in a session of its own; what is left at the end is killed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(*preload),
            start_new_session=True,
        )
        running = Running(process)
        try:
            yield running
        finally:
            running.kill()

    def planned(self, *arguments: str, **environment: str) -> dict[str, int]:
        """Return the jobs of a dry run: rule → number of jobs."""
        done = self.snakemake("--dry-run", *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        output = done.stdout + done.stderr
        if "Nothing to be done" in output:
            return {}
        table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", output, re.DOTALL | re.MULTILINE)
        rows = [line.split() for line in table.group(1).strip().splitlines()]
        return {rule: int(count) for rule, count in rows}

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that must stand exactly once in a file."""
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
        path.write_text(text.replace(old, new))


class Running:
    """A Snakemake that runs."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.main = psutil.Process(process.pid)

    def job(self, *words: str, seconds: float = 300) -> psutil.Process:
        """Return the process of a command of ours, as soon as it runs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(psutil.NoSuchProcess):
                for child in self.main.children(recursive=True):
                    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                        line = child.cmdline()
                        if line[1:3] == ["-m", "ntktune"] and line[3 : 3 + len(words)] == [*words]:
                            return child
            assert self.process.poll() is None, self.process.stdout.read()
            time.sleep(0.02)
        raise AssertionError(f"no job {words} in {seconds} s")

    def output(self, seconds: float = 600) -> str:
        """Wait for its end and return what it said."""
        return self.process.communicate(timeout=seconds)[0]

    def kill(self) -> None:
        """Kill it with all its jobs, at once, as a power cut would."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # jobs are in sessions of their own where Snakemake put them there
        self.process.wait()


def assert_same_numbers(found: Path, wanted: Path, *parts: str) -> None:
    """Compare the artifacts of two runs of a study, number by number.

    Parameters
    ----------
    found, wanted
        Folders of results.
    parts
        Patterns of files within them; all of them must be there.
    """
    for part in parts or ("**/*.parquet", "**/*.safetensors", "**/figures/*.csv"):
        files = sorted(path.relative_to(wanted) for path in wanted.glob(part))
        assert files, part
        for file in files:
            assert (found / file).is_file(), file
            if file.suffix == ".safetensors":
                ours, theirs = (read_arrays(folder / file)[0] for folder in (found, wanted))
                assert ours.keys() == theirs.keys()
                for name, array in theirs.items():
                    np.testing.assert_array_equal(ours[name], array, err_msg=f"{file} {name}")
                continue
            read = pd.read_csv if file.suffix == ".csv" else pd.read_parquet
            ours, theirs = read(found / file), read(wanted / file)
            timed = [name for name in theirs if name.endswith("seconds")]
            pd.testing.assert_frame_equal(
                ours.drop(columns=timed), theirs.drop(columns=timed), check_exact=True
            )
