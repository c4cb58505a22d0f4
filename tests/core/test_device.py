"""Device and precision: one place, clear errors. Leases of GPUs, with pretended ones."""

import ast
import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ntktune.errors import UserError
from ntktune.network import device
from ntktune.network.device import (
    DTYPES,
    free_bytes,
    free_in_control_groups,
    has_nvidia_gpu,
    machine_epsilon,
    select_device,
    torch_dtype,
    training_dtypes,
)


@pytest.mark.parametrize("name", DTYPES)
def test_epsilon_is_torchs(name):
    assert machine_epsilon(name) == torch.finfo(torch_dtype(name)).eps


def test_weights_that_are_trained_are_never_bfloat16():
    assert training_dtypes("float64") == (torch.float64, None)
    assert training_dtypes("float32") == (torch.float32, None)
    assert training_dtypes("bfloat16") == (torch.float32, torch.bfloat16)


def test_auto_takes_the_gpu_that_torch_sees():
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert select_device("auto").type == wanted
    assert select_device("cpu").type == "cpu"
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device 'cuda' was asked for, but torch sees no GPU"):
        select_device("cuda")


@pytest.mark.parametrize("name", ["", "nosuch", "mps", "meta", "cpu:x", "cuda:x", "cuda:-1"])
def test_a_device_that_is_not_known_is_told(name):
    with pytest.raises(UserError, match=f"device '{name}' is not known; use cpu, cuda or auto"):
        select_device(name)


def test_a_gpu_beyond_the_last_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="device 'cuda:2' was asked for, but torch sees 2 GPUs"):
        select_device("cuda:2")


LEASE = """
import sys, time, torch
from ntktune.network import device
torch.cuda.is_available = lambda: True
torch.cuda.set_device = lambda number: None
device._gpu_names = lambda: {names}
print(device.select_device({name!r}), device.select_device({name!r}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def job(tmp_path):
    """Start processes that lease one of some pretended GPUs and keep it; they end with the test."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    started = []

    def start(names, name="auto"):
        process = subprocess.Popen(
            [sys.executable, "-c", LEASE.format(names=names, name=name)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _device(process):
    """Return what a job got; twice the same."""
    first, second = process.stdout.readline().split()
    assert first == second
    return first


def test_jobs_get_gpus_of_their_own_and_a_killed_ones_is_free_again(job):
    gpus = ["GPU-a", "GPU-b"]
    first = job(gpus)
    assert _device(first) == "cuda:0"
    second = job(gpus, "cuda")
    assert _device(second) == "cuda:1"
    third = job(gpus)
    assert third.stderr.readline().startswith("all 2 GPUs are leased by other jobs; waiting")
    assert third.poll() is None
    second.send_signal(signal.SIGKILL)
    assert _device(third) == "cuda:1"
    # a cluster shows a job its own GPU as number 0: it is the GPU that counts
    assert _device(job(["GPU-c"])) == "cuda:0"
    blocked = job(["GPU-a"])
    assert blocked.stderr.readline().startswith("the GPU is leased by other jobs")
    # who names a GPU gets it
    assert _device(job(gpus, "cuda:0")) == "cuda:0"


@pytest.fixture
def control_groups(tmp_path):
    """Return a function that pretends groups and returns what they leave: folder → its files."""

    def free(listed, groups):
        (tmp_path / "cgroup").write_text(listed)
        for folder, files in groups.items():
            (tmp_path / "mount" / folder).mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (tmp_path / "mount" / folder / name).write_text(f"{content}\n")
        return free_in_control_groups(tmp_path / "cgroup", tmp_path / "mount")

    return free


def test_a_clusters_limit_on_memory_is_what_is_left_of_it(control_groups):
    stat = "anon 7\ninactive_file 30\nactive_file 9"
    groups = {
        "": {"cgroup.controllers": "memory"},
        "slurm": {"memory.max": "max", "memory.current": 900, "memory.stat": stat},
        "slurm/job_1": {"memory.max": 500, "memory.current": 200, "memory.stat": stat},
        "slurm/job_1/step_0": {"memory.max": 800, "memory.current": 100, "memory.stat": stat},
    }
    assert control_groups("0::/slurm/job_1/step_0\n", groups) == 500 - 200 + 30 + 9
    assert control_groups("0::/slurm\n", {}) == float("inf")
    # of a container, whose path is of the machine outside
    assert control_groups("0::/elsewhere/job\n", {}) == float("inf")
    over = {"slurm/job_1": {"memory.current": 900}}
    assert control_groups("0::/slurm/job_1\n", over) == 0


def test_limits_of_the_older_control_groups_count_too(control_groups):
    listed = "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    groups = {
        "memory": dict(zip(names, (2**63 - 4096, 900, "total_inactive_file 0"), strict=True)),
        "memory/job": dict(zip(names, (500, 200, "total_inactive_file 30"), strict=True)),
    }
    assert control_groups(listed, groups) == 500 - 200 + 30
    assert control_groups("1:memory:/\n", {}) > 2**62


def test_a_machine_without_control_groups_has_no_limit_of_theirs(tmp_path):
    assert free_in_control_groups(tmp_path / "none", tmp_path) == float("inf")


def test_a_process_can_have_no_more_than_its_groups_leave(monkeypatch):
    assert 0 < free_bytes(torch.device("cpu")) < 2**60
    monkeypatch.setattr(device, "free_in_control_groups", lambda: 1000.0)
    assert free_bytes(torch.device("cpu")) == 1000


def test_what_is_out_of_memory():
    with pytest.raises(RuntimeError) as allocator:
        torch.empty(2**60)
    onednn = RuntimeError("could not create a primitive")
    for error in (allocator.value, MemoryError(), torch.OutOfMemoryError("CUDA"), onednn):
        assert device.is_out_of_memory(error)
    for error in (RuntimeError("shapes"), ValueError("DefaultCPUAllocator"), KeyError()):
        assert not device.is_out_of_memory(error)


OLDER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
NEWER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"


@pytest.mark.parametrize(
    ("stated", "cuda", "wanted"),
    [
        (OLDER, "'13.0'", "the NVIDIA driver 535 is too old for this torch (CUDA 13 needs 580 or"),
        (OLDER, "'12.6'", None),
        (NEWER, "'13.0'", None),
        (OLDER, "None", None),  # a build for processors alone
        (None, "'13.0'", None),
        ("something else", "'13.0'", None),
    ],
)
def test_a_driver_that_is_too_old_for_torch_is_told(tmp_path, monkeypatch, stated, cuda, wanted):
    (tmp_path / "version.py").write_text(f"debug = False\ncuda: Optional[str] = {cuda}\n")
    found = importlib.machinery.ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    driver = tmp_path / "driver"
    if stated:
        driver.write_text(stated)
    told = device.old_driver(driver)
    assert told is None if wanted is None else told.startswith(wanted)
    assert wanted is None or ("make setup TORCH_INDEX=" in told and "\n" not in told)


def test_jobs_say_that_the_driver_is_too_old(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "old_driver", lambda: "the driver is too old")
    assert device.select_device("auto") == torch.device("cpu")
    assert capsys.readouterr().err == "the driver is too old\n"
    with pytest.raises(UserError, match="device 'cuda' was asked for, but the driver is too old"):
        device.select_device("cuda")
    assert device.select_device("cpu") == torch.device("cpu")
    assert capsys.readouterr().err == ""


def test_an_unknown_dtype_is_told():
    for function in (torch_dtype, machine_epsilon):
        with pytest.raises(UserError, match="dtype 'float16' is unknown; choose one of float32"):
            function("float16")


def test_torch_sees_no_gpu_where_there_is_none():
    assert has_nvidia_gpu() or not torch.cuda.is_available()


def _parts(node):
    """Return the names of a dotted expression, a call's being its function's."""
    found = []
    while isinstance(node, ast.Attribute | ast.Call):
        if isinstance(node, ast.Attribute):
            found.insert(0, node.attr)
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return [node.id, *found] if isinstance(node, ast.Name) else found


def _device_choices(source):
    """Yield the lines that look at a GPU, or at what kind a device is."""
    for node in ast.walk(ast.parse(source)):
        compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        kinds = [p for p in map(_parts, compared) if p[-1:] == ["type"] and "device" in "".join(p)]
        parts = _parts(node)
        gpu = parts[:2] == ["torch", "cuda"] or parts[:3] == ["torch", "backends", "cuda"]
        if kinds or gpu or parts[-1:] in (["is_cuda"], ["is_cpu"]):
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "source",
    [
        *("x.device.type == 'cuda'", "'cpu' != device.type", "next(p).device.type in ('cpu',)"),
        *("torch.cuda.empty_cache()", "torch.backends.cuda.matmul.allow_tf32 = False", "x.is_cuda"),
    ],
)
def test_a_choice_by_device_is_seen(source):
    assert list(_device_choices(source))


def test_one_module_alone_tells_a_gpu_from_a_processor():
    package = Path(device.__file__).parents[1]
    found = {
        str(file.relative_to(package)): list(_device_choices(file.read_text()))
        for file in sorted(package.rglob("*.py"))
    }
    assert {name for name, lines in found.items() if lines} == {"network/device.py"}, found


def test_what_a_gpu_is_asked_for_and_a_processor_is_not(monkeypatch):
    asked = []
    answers = {"max_memory_allocated": 7, "mem_get_info": (5, 9), "is_available": True}
    for name in (*answers, "reset_peak_memory_stats", "empty_cache"):

        def told(*at, name=name):
            asked.append((name, *at))
            return answers.get(name)

        monkeypatch.setattr(torch.cuda, name, told)
    gpu, processor = torch.device("cuda", 1), torch.device("cpu")
    for place in (gpu, processor):
        device.reset_peak_memory(place)
        device.release_cached_memory(place)
    assert (device.peak_memory_bytes(gpu), device.free_bytes(gpu)) == (7, 5)
    assert [name for name, *_ in asked] == [
        *("reset_peak_memory_stats", "empty_cache", "max_memory_allocated", "mem_get_info")
    ]
    assert {at for _, *places in asked[:1] + asked[2:] for at in places} == {gpu}
    assert 2**20 < device.peak_memory_bytes(processor) <= device.peak_memory_bytes()
    assert device.gpu_peak_memory() == {"gpu_peak_memory_bytes": 7}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.gpu_peak_memory() == {}


def test_products_are_in_full_precision_for_a_while():
    settings, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    settings.allow_tf32 = True
    try:
        with device.full_precision_products():
            assert not settings.allow_tf32
        assert settings.allow_tf32
    finally:
        settings.allow_tf32 = before
