"""A copy of the repository in a temporary folder, and what Snakemake plans there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


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

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Snakemake here; the package is the copy's own."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE")}
        environment["PYTHONPATH"] = str(self.folder / "workflow")
        # no environment is activated: the jobs must find the right Python all the same
        binaries = str(Path(sys.executable).parent)
        folders = environment["PATH"].split(os.pathsep)
        environment["PATH"] = os.pathsep.join(f for f in folders if f != binaries)
        return subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """Return the jobs of a dry run: rule → number of jobs."""
        done = self.snakemake("--dry-run", *arguments)
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
