"""A finished study to be broken, and how to break its files."""

import re
import subprocess
from pathlib import Path

from checkout import Checkout, assert_same_numbers

CONFIG = ("--configfile", "config/smoke.yaml", "--cores", "2")
REGRESSION, CLASSIFICATION = "smoke-regression", "smoke-classification"
GRAM = f"kernel/{REGRESSION}/draws.safetensors"


class BrokenStudy:
    """A copy of the finished study, to be broken."""

    def __init__(self, smoke: Checkout, folder: Path):
        self.checkout = Checkout.of(smoke, folder)
        self.results = folder / "results/smoke"
        self.undisturbed = smoke.folder / "results/smoke"

    def remove(self, *names: str) -> None:
        for name in names:
            (self.results / name).unlink()

    def make(self, *targets: str, **how) -> subprocess.CompletedProcess:
        return self.checkout.snakemake(*CONFIG, "--", *targets, **how)

    def refused(self, *targets: str, **how) -> str:
        """Run, expect a failure without a traceback, and return what was said."""
        done = self.make(*targets, **how)
        output = done.stdout + done.stderr
        assert done.returncode == 1, output
        assert "Traceback (most recent call last)" not in output, output
        return output

    def finishes(self, *targets: str, parts: tuple[str, ...] = ()) -> None:
        """Run the same again; the numbers are those of the undisturbed run."""
        done = self.make(*targets)
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same_numbers(self.results, self.undisturbed, *parts)
        # no temporary file is left
        left = [p for p in self.results.rglob(".*") if p.name != ".snakemake_timestamp"]
        assert not left


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, position: float) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[int(position * len(content)) if position < 1 else int(position)] ^= 4
    path.write_bytes(content)


def other_number(path: Path) -> None:
    text = path.read_text()
    place = re.search(r"\d(?=\D*$)", text).start() if path.suffix == ".csv" else text.index("0")
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
