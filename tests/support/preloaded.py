"""Processes that start with torch and other packages imported, for the jobs of a study in tests.

Half of what a small study takes is importing the same packages in each of its jobs. One server
imports them once. A `python -m COMMAND` that PRELOADED_COMMANDS lists (startup/sitecustomize.py)
hands its arguments, environment, folder and standard streams to the server at PRELOADED_SOCKET. The
server forks a keeper, and that a job, which runs the command and imports ntktune itself anew. The
first process passes signals on and ends as the job does; if it is killed, its keeper kills the job.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
STARTUP = HERE / "startup"
IMPORTED = [
    *("torch", "torch.func", "pandas", "pyarrow.parquet", "jsonschema"),
    *(f"scipy.{name}" for name in ("optimize", "special", "stats")),
]
# These read the hub's address when they are imported: a test with its own hub imports them later.
HUB_READERS = [
    *(f"transformers.models.{name}" for name in ("auto", "gpt_neo", "llama")),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("auto", "gpt_neo", "llama")),
    *("matplotlib.pyplot", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg"),
    "snakemake.cli",
]
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
SERVERS = []


@functools.cache
def _server(names: tuple[str, ...]) -> str:
    """Start a server, which ends when this process does; return its address."""
    folder = tempfile.mkdtemp()
    process = subprocess.Popen(
        [sys.executable, __file__, f"{folder}/socket", *names],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},  # as commands have it that need no network
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    SERVERS.append(process)  # kept: a server ends when its standard input closes
    process.stdout.readline()  # wait until it listens
    return f"{folder}/socket"


def environment(*commands: str, path: str = "", hub: bool = False) -> dict[str, str]:
    """Return what the environment needs where each `python -m COMMAND ...` shall be preloaded.

    ``path`` is its PYTHONPATH otherwise. For a ``hub`` of one's own, nothing that knows the hub is
    imported beforehand.
    """
    if not hasattr(os, "pidfd_open"):  # not on Linux: each process imports for itself
        return {}
    names = tuple(IMPORTED if hub else IMPORTED + HUB_READERS)
    return {
        "PRELOADED_SOCKET": _server(names),
        "PRELOADED_COMMANDS": ",".join(commands),
        "PYTHONPATH": os.pathsep.join(filter(None, (path, str(STARTUP)))),
    }


def hand_over(address: str) -> None:
    """Have the server run this process's command; exit with its status or signal."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: connection.send(bytes([number])))
        told = {"argv": sys.orig_argv[2:], "environment": dict(os.environ), "folder": os.getcwd()}
        content = json.dumps(told).encode()
        socket.send_fds(connection, [len(content).to_bytes(4)], [0, 1, 2])
        connection.sendall(content)
        ended = connection.recv(4)
    # without an answer the server has died: that is no success
    status = int.from_bytes(ended, signed=True) if ended else 1
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _serve(address: str, *names: str) -> None:
    for name in names:
        importlib.import_module(name)
    gc.freeze()  # what is imported stays in memory that processes share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: nobody asks for a keeper's status
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(64)
        print("listens", flush=True)
        while sys.stdin not in (ready := select.select([listening, sys.stdin], [], [])[0]):
            connection, _ = ready[0].accept()
            if os.fork() == 0:
                listening.close()
                _keep(connection)
                return
            connection.close()


def _keep(connection: socket.socket) -> None:
    """Fork the job; report its status to the process that asked, and kill it if that one dies."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, 4, 3)
    content = connection.recv(int.from_bytes(length), socket.MSG_WAITALL)
    job = os.fork()
    if job == 0:
        connection.close()
        _run(files, **json.loads(content))
        return
    ended = os.pidfd_open(job)
    while ended not in select.select([connection, ended], [], [])[0]:
        number = connection.recv(1)
        os.kill(job, number[0] if number else signal.SIGKILL)
        if not number:
            break
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    with suppress(BrokenPipeError):
        connection.sendall(status.to_bytes(4, signed=True))
    os._exit(0)


def _run(files: list[int], argv: list[str], environment: dict[str, str], folder: str) -> None:
    """Become the process that was asked for."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    own = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.path[:] = [*own, *(p for p in sys.path if p not in own and p != str(HERE))]
    sys.orig_argv[1:] = ["-m", *argv]
    sys.argv[1:] = argv[1:]
    threads = environment.get("OMP_NUM_THREADS")
    if threads:
        import torch

        torch.set_num_threads(int(threads))
    code = 0
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    # As the interpreter ends, without half a second for taking apart all that was imported; what a
    # command has left open is not flushed.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
