"""A Snakemake logger that says what is running, how far the study is, and how long it will take.

``snakemake --logger ntktune`` uses it. Snakemake's own log file keeps all details.
"""

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from ntktune.store.files import RESULTS_VARIABLE

# Seconds that a job of a rule took when the study quickstart was measured. Only their ratios
# matter: they are rescaled by what the jobs of this run really take.
EXPECTED = Counter(
    {"data_fetch_model": 17, "kernel_draws": 53, "kernel_learning": 57, "finetune_run": 96}
    | {"finetune_choose": 290, "finetune_fixed": 96, "finetune_baselines": 20}
    | {"taskvectors_tune": 114, "taskvectors_cosine": 16, "taskvectors_add": 62}
    | {"taskvectors_negate": 134, "taskvectors_disentangle": 46}
    | {"selection_run": 290, "selection_choose": 290, "selection_score": 57}
    | {"theory_trajectory": 243, "theory_width": 20, "theory_simulate": 8}
)
SHORT = 2  # seconds that a job of any other rule takes
# Share after which a run's speed says how long the rest takes. A job says so itself.
RUN_TELLING = 0.3
HEARTBEAT = 30  # seconds of silence after which a line says what is still running
LOG_LINES = 15  # of a failed job's log
# What a job's log says of the time that its current part takes; see ntktune.cli.Progress.
PROGRESS = re.compile(r" %, \d+ s, about (\d+) s left$", re.MULTILINE)
NOTHING = "Nothing to be done"
UNKNOWN = re.compile(r"MissingRuleException:\nNo rule to produce (\S+) .*")
STOPPING = {
    "Terminating processes on user request": "stopping {}",  # Ctrl-C
    # the signal TERM, as of a time limit
    "Will exit after finishing currently running jobs": "{} will end first, no other begins",
}


def clock(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def time_left(seconds: float) -> str:
    """Return a time left as ``about m:ss``, no finer than such an estimate can be."""
    step = 60 if seconds >= 600 else 10 if seconds >= 60 else 1
    return f"about {clock(step * round(seconds / step))} left"


def seconds_left(whole: Counter, left: Counter, elapsed: float) -> float | None:
    """Return the seconds to the end of a run that began ``elapsed`` seconds ago.

    ``whole`` and ``left`` count the run's jobs and the unfinished ones, by rule. None while too
    little is done for its speed to tell.
    """
    total, rest = (sum(EXPECTED.get(k, SHORT) * n for k, n in c.items()) for c in (whole, left))
    done = total - rest
    return rest * elapsed / done if done > RUN_TELLING * total else None


class LogHandler(LogHandlerBase):
    """Prints one line per started, finished or failed job, and a heartbeat in between."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.setLevel(logging.INFO)
        self.whole, self.left = Counter(), Counter()
        self.jobs: dict[int, tuple[str, str, list[str]]] = {}  # rule, name, logs
        self.running: dict[int, float] = {}
        self.started = self.last_line = time.monotonic()
        self.planning = self.common_settings.dryrun
        self.interrupted = self.waiting = False
        self._watch_interrupts()
        # reentrant: a line may be printed while an event is being handled
        self.guard = threading.RLock()
        threading.Thread(target=self._heartbeat, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one event of Snakemake."""
        try:
            with self.guard:
                self._handle(record)
        except Exception:
            self.handleError(record)

    def _handle(self, record: logging.LogRecord) -> None:
        details, message = record.__dict__, record.getMessage()
        event = details.get("event")
        if event is None and message.startswith(tuple(STOPPING)):
            self.interrupted = True
            if not self.waiting and (count := len(self.running)):
                self.waiting = True  # the message may come again
                jobs = f"{count} running job{'s' * (count > 1)}"
                how = next(told for begin, told in STOPPING.items() if message.startswith(begin))
                self._print(f"interrupted: {how.format(jobs)}")
        elif event == LogEvent.RUN_INFO and not (self.planning and self.whole):
            stats = details.get("stats") or {}
            self.whole = Counter({k: v for k, v in stats.items() if k not in ("total", "all")})
            self.left = self.whole.copy()
            jobs = ", ".join(f"{v} {k}" for k, v in self.whole.items())
            self._print(f"{self.whole.total()} jobs: {jobs} (snakemake --list says what each does)")
        elif event == LogEvent.JOB_INFO and not self.planning:
            wildcards = ", ".join(
                f"{'n' if name == 'size' else name}={value}" if str(value).isdigit() else str(value)
                for name, value in (details.get("wildcards") or {}).items()
            )
            rule, logs = details["rule_name"], [str(path) for path in details.get("log") or []]
            self.jobs[details["jobid"]] = rule, f"{rule} {wildcards}".strip(), logs
            self.running[details["jobid"]] = time.monotonic()
            self._say(details["jobid"], "started  ")
        elif event == LogEvent.JOB_FINISHED:
            job = details["job_id"]
            seconds = time.monotonic() - self.running.pop(job, time.monotonic())
            self.left[self.jobs.get(job, ("all",))[0]] -= 1
            self._say(job, "finished ", f" in {clock(seconds)}", state=True)
        elif event == LogEvent.JOB_ERROR:
            self._fail(details["jobid"])
        elif event in (LogEvent.ERROR, LogEvent.GROUP_ERROR) or (
            event is None and (record.levelno >= logging.WARNING or message.startswith(NOTHING))
        ):
            # a failed command is told by JOB_ERROR, with the end of its log
            told = self.interrupted or "CalledProcessError" in message
            if message not in ("", "None") and not told:
                known = r"there is no target \1; `snakemake --list-target-rules` lists all"
                self._print(UNKNOWN.sub(known, message))
            folder = os.environ.get(RESULTS_VARIABLE)
            if message.startswith(NOTHING) and folder and not self.planning:
                self._print(f"results  {os.path.relpath(folder)}")

    def _watch_interrupts(self) -> None:
        """Note Ctrl-C before the jobs that it ends, too, are reported as failed."""
        if threading.current_thread() is not threading.main_thread():
            return
        former = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: object) -> None:
            self.interrupted = True
            if callable(former):
                former(number, frame)

        signal.signal(signal.SIGINT, interrupt)

    def _fail(self, job: int) -> None:
        self.running.pop(job, None)
        self._say(job, "stopped  " if self.interrupted else "FAILED   ")
        for log in [] if self.interrupted else self.jobs.get(job, ("", "", []))[2]:
            if lines := _text(log).splitlines():
                self._print("\n".join([f"the end of {log}:", *lines[-LOG_LINES:]]))

    def _say(self, job: int, what: str, more: str = "", *, state: bool = False) -> None:
        rule, name, _ = self.jobs.get(job, ("", f"job {job}", []))
        if rule != "all":
            self._print(f"{what} {name}{more}", state=state)

    def _running(self, job: int) -> str:
        """Return a running job's name with its time, and what its log says is left."""
        told = [clock(time.monotonic() - self.running[job])]
        if (left := self._job_left(job)) is not None:
            told.append(time_left(left))
        return f"{self.jobs[job][1]} ({', '.join(told)})"

    def _job_left(self, job: int) -> int | None:
        """Return the seconds that a running job's log says are left, once its speed can tell."""
        told = [found for log in self.jobs[job][2] for found in PROGRESS.findall(_text(log))[-1:]]
        return max(map(int, told), default=None)

    def _left(self, elapsed: float) -> float | None:
        """Return the seconds to the run's end: not before its running jobs', as far as is known.

        A running job counts as what it has to do yet.
        """
        rest, told = +self.left, []
        for job, begun in self.running.items():
            if (left := self._job_left(job)) is not None:
                spent = time.monotonic() - begun
                rest[self.jobs[job][0]] -= spent / (spent + left) if spent else 0
                told.append(left)
        left = seconds_left(self.whole, rest, elapsed)
        return left and max([left, *told])

    def close(self) -> None:
        """Say that an interrupted run has ended; Snakemake closes its displays last."""
        if self.interrupted:
            self.interrupted = False
            self._print("stopped; what is done is kept, and the same command does the rest")
        super().close()

    def _print(self, text: str, *, state: bool = False) -> None:
        self.last_line = time.monotonic()
        elapsed = self.last_line - self.started
        if state and self.whole:
            total, rest = self.whole.total(), +self.left  # without what is not in the plan
            done = f"{total - rest.total()} of {total} done"
            left = self._left(elapsed)
            text += f"  ({done}, {time_left(left)})" if left else f"  ({done})"
        print(f"[{clock(elapsed)}] {text}", file=sys.stderr, flush=True)

    def _heartbeat(self) -> None:
        while True:
            time.sleep(HEARTBEAT / 6)
            with self.guard:
                if self.running and time.monotonic() - self.last_line >= HEARTBEAT:
                    jobs = ", ".join(map(self._running, self.running))
                    self._print(f"running   {jobs}", state=True)


def _text(log: str) -> str:
    with contextlib.suppress(OSError):
        return Path(log).read_text(errors="replace")
    return ""
