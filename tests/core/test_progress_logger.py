"""The progress display: names, estimates, failures."""

import contextlib
import logging
import os
import signal
from types import SimpleNamespace

import pytest
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.common import LogEvent

import snakemake_logger_plugin_ntktune as plugin
from ntktune.cli import Progress
from ntktune.store.files import RESULTS_VARIABLE

STOPPED = "stopped; what is done is kept, and the same command does the rest"


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
    # a process in the background ignores Ctrl-C from its start
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    handler = plugin.LogHandler(SimpleNamespace(dryrun=dryrun), None)

    def event(kind, **facts):
        record = logging.LogRecord("snakemake", logging.INFO, "", 0, facts.pop("msg", ""), (), None)
        record.__dict__.update(facts, event=kind)
        handler.emit(record)

    event.handler = handler
    yield event
    handler.running.clear()  # its thread has nothing to say during other tests
    signal.signal(signal.SIGINT, former)


def job(send, number, rule, log=(), **wildcards):
    send(LogEvent.JOB_INFO, jobid=number, rule_name=rule, wildcards=wildcards, log=list(log))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75.4, "1:15"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert plugin.clock(seconds) == text


def test_it_says_what_runs_how_far_it_is_and_how_long_it_takes(send, now, capsys):
    kernel = plugin.EXPECTED["kernel_draws"]
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 4, "all": 1, "total": 5})
    job(send, 1, "kernel_draws", task="amazon")
    job(send, 2, "kernel_draws", task="film")
    now.time += 2 * kernel
    send(LogEvent.JOB_FINISHED, job_id=1)
    send(LogEvent.JOB_FINISHED, job_id=2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[0:00] 4 jobs: 4 kernel_draws (snakemake --list says what each does)"
    assert lines[1] == "[0:00] started   kernel_draws amazon"
    took, again = plugin.clock(2 * kernel), plugin.time_left(2 * kernel)  # the other half
    ended = f"finished  kernel_draws film in {took}  (2 of 4 done, {again})"
    assert lines[-1].endswith(ended)


def test_an_unknown_target_is_one_line(send, capsys):
    missing = "No rule to produce figg2 (if you use input functions make sure that ... exceptions)."
    send(LogEvent.ERROR, msg=f"MissingRuleException:\n{missing}")
    told = "there is no target figg2; `snakemake --list-target-rules` lists all"
    assert capsys.readouterr().err == f"[0:00] {told}\n"


def test_the_time_left_is_at_this_runs_speed_once_that_is_known():
    whole, each = plugin.Counter(kernel_draws=100), plugin.EXPECTED["kernel_draws"]
    # a few jobs, or many short ones, say nothing of the rest
    assert plugin.seconds_left(whole, whole, 0) is None
    assert plugin.seconds_left(whole, plugin.Counter(kernel_draws=75), 500) is None
    short = whole + plugin.Counter(fig2=30)
    assert plugin.seconds_left(short, whole, 30 * plugin.SHORT) is None
    # as slow as it was so far
    left = plugin.Counter(kernel_draws=10)
    slow = plugin.seconds_left(whole, left, 3 * 90 * each)
    assert slow == pytest.approx(3 * 10 * each)
    assert plugin.seconds_left(whole, plugin.Counter(), 1) == 0
    # it grows while a job outlasts its time
    assert plugin.seconds_left(whole, left, 4 * 90 * each) > slow


@pytest.mark.parametrize(
    ("seconds", "told"), [(7.4, "0:07"), (64, "1:00"), (599, "10:00"), (2027, "34:00")]
)
def test_a_time_left_is_told_no_finer_than_it_is_known(seconds, told):
    assert plugin.time_left(seconds) == f"about {told} left"


def test_the_time_left_is_not_told_before_it_is_known(send, now, capsys):
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 100, "fig2": 1, "total": 101})
    job(send, 1, "fig2")
    now.time += 1
    send(LogEvent.JOB_FINISHED, job_id=1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("finished  fig2 in 0:01  (1 of 101 done)")


def test_where_nothing_is_to_be_done_the_results_are_named(send, capsys, monkeypatch):
    monkeypatch.setenv(RESULTS_VARIABLE, os.path.abspath("results/mine"))
    send(None, msg=NOTHING_TO_BE_DONE_MSG)
    told = ["[0:00] " + NOTHING_TO_BE_DONE_MSG, "[0:00] results  results/mine"]
    assert capsys.readouterr().err.splitlines() == told


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


def test_a_running_jobs_own_log_says_how_long_it_takes(send, now, capsys, tmp_path):
    log = tmp_path / "job.log"
    with capsys.disabled(), contextlib.redirect_stderr(log.open("w")):
        progress = Progress("kernel of amazon", 10)
        progress(0.4)  # so little says nothing of the rest
        for done in (1, 2):
            now.time += 150
            progress(done)
    assert "left" not in log.read_text().splitlines()[0]
    job(send, 1, "kernel_draws", log=[tmp_path / "none.log", log], task="amazon")
    now.time += 300
    assert send.handler._running(1) == "kernel_draws amazon (5:00, about 20:00 left)"
    with log.open("w") as early:
        early.write("kernel of amazon:   4 %, 12 s\n")
    assert send.handler._running(1) == "kernel_draws amazon (5:00)"


def test_a_run_ends_no_earlier_than_the_jobs_that_run(send, now, capsys, tmp_path):
    log = tmp_path / "job.log"
    log.write_text("fine-tuning amazon:  25 %, 100 s, about 300 s left\n")
    send(LogEvent.RUN_INFO, stats={"finetune_run": 4, "total": 4})
    for number in range(3):
        job(send, number, "finetune_run", task="amazon", size=str(number))
        now.time += 10
        send(LogEvent.JOB_FINISHED, job_id=number)
    job(send, 3, "finetune_run", log=[log], task="amazon", size="3")
    send.handler._print("running", state=True)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "[0:30] running  (3 of 4 done, about 5:00 left)"
    )


def test_what_running_jobs_have_done_counts_for_the_run(send, now, capsys, tmp_path):
    log = tmp_path / "job.log"
    log.write_text("fine-tuning amazon:  75 %, 30 s, about 10 s left\n")
    send(LogEvent.RUN_INFO, stats={"finetune_run": 4, "total": 4})
    for number in (0, 1):
        job(send, number, "finetune_run", task="amazon", size=str(number))
    for number in (2, 3):
        job(send, number, "finetune_run", log=[log], task="amazon", size=str(number))
    now.time += 30
    for number in (0, 1):
        send(LogEvent.JOB_FINISHED, job_id=number)
    send.handler._print("running", state=True)
    # of four jobs 2 + 2 x .75 are done in 30 s: half of a job is left, not two
    assert capsys.readouterr().err.splitlines()[-1] == (
        "[0:30] running  (2 of 4 done, about 0:10 left)"
    )


def test_a_job_is_named_by_its_wildcards(send, capsys):
    send(LogEvent.RUN_INFO, stats={"kernel_draws_shard": 1, "finetune_run": 1, "total": 2})
    job(send, 1, "finetune_run", task="reviews", size="116")
    job(send, 2, "kernel_draws_shard", task="reviews", kernel="gram", row="0", column="1")
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines == [
        "[0:00] started   finetune_run reviews, n=116",
        "[0:00] started   kernel_draws_shard reviews, gram, row=0, column=1",
    ]


@pytest.mark.parametrize("dryrun", [True])
def test_a_dry_run_says_what_would_run_once_and_starts_nothing(send, capsys):
    for _ in range(2):  # Snakemake tells the numbers of jobs at the begin and at the end
        send(LogEvent.RUN_INFO, stats={"kernel_draws": 4, "total": 4})
    job(send, 1, "kernel_draws", task="film")
    assert (
        capsys.readouterr().err
        == "[0:00] 4 jobs: 4 kernel_draws (snakemake --list says what each does)\n"
    )


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
    waiting = "[0:00] interrupted: stopping 1 running job"
    stopped = "[0:00] stopped   kernel_draws film"
    assert capsys.readouterr().err.splitlines()[2:] == [waiting, stopped]
    send.handler.close()
    send.handler.close()  # Python closes what is left at its end, too
    assert capsys.readouterr().err == f"[0:00] {STOPPED}\n"


def test_a_time_limits_signal_is_no_failure(send, capsys, tmp_path):
    (tmp_path / "job.log").write_text("a half-finished training")
    send(LogEvent.RUN_INFO, stats={"kernel_draws": 1, "total": 1})
    job(send, 1, "kernel_draws", log=[tmp_path / "job.log"], task="film")
    events = [
        (None, {"msg": "Will exit after finishing currently running jobs (scheduler)."}),
        (LogEvent.JOB_ERROR, {"jobid": 1}),  # the whole group had the signal
        (None, {"msg": "Will exit after finishing currently running jobs (scheduler)."}),
        (LogEvent.ERROR, {"msg": "WorkflowError: At least one job did not complete successfully."}),
    ]
    for kind, facts in events:
        send(kind, **facts)
    send.handler.close()
    waiting = "[0:00] interrupted: 1 running job will end first, no other begins"
    stopped = "[0:00] stopped   kernel_draws film"
    end = f"[0:00] {STOPPED}"
    assert capsys.readouterr().err.splitlines()[2:] == [waiting, stopped, end]


def test_a_display_that_was_not_interrupted_closes_silently(send, capsys):
    send.handler.close()
    assert capsys.readouterr().err == ""
