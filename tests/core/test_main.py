"""How a command ends: signals, full disks under its log, memory."""

import errno
import signal
import subprocess
import sys

import pytest

from ntktune import __main__ as command
from ntktune.cli import Progress
from ntktune.finetune.devices import DEVICES
from ntktune.kernel.products import VARIANTS
from ntktune.network.device import DTYPES

WRITING = """
import signal, sys, time
from ntktune import __main__ as command
from ntktune.store.files import atomic_path

def run(argv):
    with atomic_path(sys.argv[1]) as path:
        path.write_text("half")
        print("writing", flush=True)
        time.sleep(60)

command._run = run
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where tests run in the background
sys.exit(command.main())
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_command_that_is_ended_removes_what_is_half_written(tmp_path, number, status):
    out = tmp_path / "folder/a.parquet"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    assert len(list(out.parent.iterdir())) == 1
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in said
    assert list(out.parent.iterdir()) == []


def test_memory_that_runs_out_while_modules_are_imported_is_told(monkeypatch, capsys):
    def run(argv):
        raise MemoryError

    monkeypatch.setattr(command, "_run", run)
    assert command.main(["kernel"]) == 1
    assert capsys.readouterr().err == (
        "ntktune: error: memory ran out (MemoryError); use a machine, or a GPU, with more of it\n"
    )


def test_a_package_that_is_not_installed_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert command.main(["kernel", "plan", "--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "ntktune kernel plan: error: the package 'transformers' is missing; run: pip install "
        "'ntktune[workflow]'\n"
    )


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [
        ("kernel gram --variant", "adam", VARIANTS),
        ("kernel gram --dtype", "float16", DTYPES),
        ("kernel draws --variant", "SGD", VARIANTS),
        ("finetune run --dtype", "half", DTYPES),
        ("finetune plan --device-name", "A1000", DEVICES),
        ("taskvectors tune --store", "int8", ("float32", "bfloat16")),
    ],
)
def test_a_value_that_is_none_of_a_few_is_told_with_them(option, value, known, capsys):
    with pytest.raises(SystemExit):
        command.main([*option.split(), value])
    said = capsys.readouterr().err
    assert f"argument {option.split()[-1]}: invalid choice: '{value}' (choose from" in said
    assert all(name in said for name in known)


class Full:
    """A log that nothing can be written to."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_on_a_full_disk_stops_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())
    Progress("a job", 2)(2)
    assert command.main(["kernel", "plan", "--model", "/none"]) == 1
