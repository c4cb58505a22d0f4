"""The progress display: names, estimates, failures."""

import contextlib
import logging
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

import snakemake_logger_plugin_ntktune as plugin
from ntktune.cli import Progress


@pytest.fixture
def now(monkeypatch):
    """Return a clock that the test moves."""
    state = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(plugin.time, "monotonic", lambda: state.time)
    return state


@pytest.fixture
def dryrun():
    return False


@pytest.fixture
def send(now, dryrun):
    former = signal.getsignal(signal.SIGINT)
    handler = plugin.LogHandler(SimpleNamespace(dryrun=dryrun), None)

    def event(kind, **facts):
        record = logging.LogRecord("snakemake", logging.INFO, "", 0, facts.pop("msg", ""), (), None)
        record.__dict__.update(facts, event=kind)
        handler.emit(record)

    event.handler = handler
    yield event
    signal.signal(signal.SIGINT, former)


def job(send, number, rule, log=(), **wildcards):
    send(LogEvent.JOB_INFO, jobid=number, rule_name=rule, wildcards=wildcards, log=list(log))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75.4, "1:15"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert plugin.clock(seconds) == text


def test_it_says_what_runs_how_far_it_is_and_how_long_it_takes(send, now, capsys):
    kernel = plugin.EXPECTED["kernel_draws"]
    send(LogEvent.RESOURCES_INFO, cores=2)
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 4, "all": 1, "total": 5})
    job(send, 1, "kernel_draws", task="amazon")
    job(send, 2, "kernel_draws", task="film")
    now.time += 2 * kernel  # twice as slow as expected
    send(LogEvent.JOB_FINISHED, job_id=1)
    send(LogEvent.JOB_FINISHED, job_id=2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[0:00] 4 jobs: 4 kernel_draws"
    assert lines[1] == "[0:00] started   kernel_draws amazon"
    took = plugin.clock(2 * kernel)
    # two jobs are left on two cores, each expected to be as slow as the first two
    ended = f"finished  kernel_draws film in {took}  (2 of 4 done, about {took} left)"
    assert lines[-1].endswith(ended)


def test_a_failed_job_shows_the_end_of_its_log(send, tmp_path, capsys):
    log = tmp_path / "job.log"
    log.write_text("\n".join(f"line {i}" for i in range(100)))
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 1, "total": 1})
    job(send, 1, "kernel_draws", log=[log], task="film")
    send(LogEvent.ERROR, msg="RuleException: CalledProcessError in file ...")
    send(LogEvent.JOB_ERROR, jobid=1)
    printed = capsys.readouterr().err
    assert "FAILED    kernel_draws film" in printed
    assert printed.rstrip().endswith("line 99")
    assert "line 84" not in printed
    assert "CalledProcessError" not in printed


def test_a_late_job_does_not_make_the_estimate_negative():
    estimate = plugin.Estimate({"kernel_draws": 1, "fig2": 1}, cores=2)
    assert estimate.seconds_left([("kernel", 1e6, 0.0)])[0] >= 0


def heartbeat(handler):
    """Return the state that a line in the silence would end with."""
    with handler.guard:
        return handler._state()


def test_jobs_that_outlast_their_estimates_leave_no_frozen_time(send, now):
    kernel = plugin.EXPECTED["kernel_draws"]
    send(LogEvent.RESOURCES_INFO, cores=2)
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 4, "total": 4})
    job(send, 1, "kernel_draws", task="amazon")
    job(send, 2, "kernel_draws", task="film")
    said = []
    for share in (0.5, 2, 3):
        now.time = 1000 + share * kernel
        said.append(heartbeat(send.handler))
    # two more are queued: on two cores, each takes at least as long as those that run
    assert said == [
        f"0 of 4 done, about {plugin.clock(1.5 * kernel)} left",
        f"0 of 4 done, longer than estimated, at least {plugin.clock(2 * kernel)} left",
        f"0 of 4 done, longer than estimated, at least {plugin.clock(3 * kernel)} left",
    ]
    send(LogEvent.JOB_FINISHED, job_id=1)
    now.time += 10
    job(send, 3, "kernel_draws", task="rte")
    said = heartbeat(send.handler)
    assert said.startswith("1 of 4 done, at least ")
    assert "longer" not in said


def test_the_last_jobs_that_outlast_their_estimates_promise_nothing(send, now):
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 1, "total": 1})
    job(send, 1, "kernel_draws", task="amazon")
    now.time += 10 * plugin.EXPECTED["kernel_draws"]
    assert heartbeat(send.handler) == "0 of 1 done, longer than estimated"


def test_a_running_jobs_own_log_says_how_long_it_takes(send, now, capsys, tmp_path):
    log = tmp_path / "job.log"
    with capsys.disabled(), contextlib.redirect_stderr(log.open("w")):
        progress = Progress("kernel of amazon", 10)
        now.time += 300
        progress(2)
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 1, "total": 1})
    job(send, 1, "kernel_draws", log=[tmp_path / "none.log", log], task="amazon")
    now.time += 300
    assert heartbeat(send.handler) == "0 of 1 done, about 20:00 left"
    past = time.time() - 600
    os.utime(log, (past, past))
    assert heartbeat(send.handler) == "0 of 1 done, about 10:00 left"


def test_a_job_is_named_by_its_wildcards(send, capsys):
    send(LogEvent.RUN_INFO, stats={"kernel_tile": 1, "finetune_run": 1, "total": 2})
    job(send, 1, "finetune_run", task="reviews", size="116")
    job(send, 2, "kernel_tile", task="reviews", kernel="gram", row="0", column="1")
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines == [
        "[0:00] started   finetune_run reviews, n=116",
        "[0:00] started   kernel_tile reviews, gram, row=0, column=1",
    ]


def test_rules_that_nobody_measured_are_told_until_one_of_their_jobs_has_ended(send, now, capsys):
    known = plugin.EXPECTED["fig2"]
    send(LogEvent.RESOURCES_INFO, cores=1)
    send(LogEvent.RUN_INFO, stats={"fig2": 2, "new": 2, "newer": 1, "all": 1, "total": 6})
    for number, rule, seconds in ((1, "fig2", 2 * known), (2, "new", 50), (3, "newer", 10)):
        job(send, number, rule)
        now.time += seconds
        send(LogEvent.JOB_FINISHED, job_id=number)
    told = [line for line in capsys.readouterr().err.splitlines() if "finished" in line]
    left = plugin.clock(2 * known)
    assert told[0].endswith(f"(1 of 5 done, at least {left} left, 2 rules unknown)")
    left = plugin.clock(2 * known + 50)
    assert told[1].endswith(f"(2 of 5 done, at least {left} left, 1 rule unknown)")
    assert told[2].endswith(f"(3 of 5 done, about {left} left)")


def test_every_expected_time_is_of_a_rule():
    """A renamed rule takes its time with it; a target runs nothing."""
    rules = Path(plugin.__file__).parents[1] / "rules"
    named = re.compile(r"^(?:use rule \w+ as|rule) (\w+)(?: with)?:", re.M)
    names = {path.stem: named.findall(path.read_text(encoding="utf-8")) for path in rules.glob("*")}
    names["collect"] += [f"fig{number}" for number in range(4, 10)]  # a loop makes them
    assert set(plugin.EXPECTED) <= {name for some in names.values() for name in some}
    targets = {name for name, seconds in plugin.EXPECTED.items() if seconds == 0}
    assert targets == set(names["collect"])


@pytest.mark.parametrize("dryrun", [True])
def test_a_dry_run_says_what_would_run_once_and_starts_nothing(send, capsys):
    for _ in range(2):  # Snakemake tells the numbers of jobs at the begin and at the end
        send(LogEvent.RUN_INFO, stats={"kernel_draws": 4, "total": 4})
    job(send, 1, "kernel_draws", task="film")
    assert capsys.readouterr().err == "[0:00] 4 jobs: 4 kernel_draws\n"


def test_ctrl_c_is_no_failure(send, capsys, tmp_path):
    (tmp_path / "job.log").write_text("a traceback")
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 1, "total": 1})
    job(send, 1, "kernel_draws", log=[tmp_path / "job.log"], task="film")
    with pytest.raises(KeyboardInterrupt):  # Snakemake stops as it does without this display
        os.kill(os.getpid(), signal.SIGINT)
    events = [
        (None, {"msg": "Terminating processes on user request, this might take some time."}),
        (LogEvent.JOB_ERROR, {"jobid": 1}),  # the job was interrupted by the same Ctrl-C
        (LogEvent.ERROR, {"msg": "WorkflowError: At least one job did not complete successfully."}),
    ]
    for kind, facts in events:
        send(kind, **facts)
    waiting = "[0:00] interrupted: waiting for 1 running job to end"
    stopped = "[0:00] stopped   kernel_draws film"
    assert capsys.readouterr().err.splitlines()[2:] == [waiting, stopped]
    send.handler.close()
    send.handler.close()  # Python closes what is left at its end, too
    assert capsys.readouterr().err == "[0:00] stopped; the same command goes on from here\n"


def test_a_display_that_was_not_interrupted_closes_silently(send, capsys):
    send.handler.close()
    assert capsys.readouterr().err == ""
