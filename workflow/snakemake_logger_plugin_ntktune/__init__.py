"""A Snakemake logger that says what is running, how far the study is, and how long it will take.

Used by ``snakemake --logger ntktune`` (and by the Makefile). Snakemake's own log file keeps
all details; failed jobs are shown with the end of their log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import sys
import threading
import time
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# Seconds that a job of each rule took when the study quickstart was measured. Only their
# ratios matter: they are rescaled by what the jobs of this run really take. A rule that was not
# measured is unknown until its first job ends; a target runs nothing and takes 0.
EXPECTED = json.loads((Path(__file__).parent / "expected_seconds.json").read_text())
HEARTBEAT = 30  # seconds of silence after which a line says what is still running
LOG_LINES = 15  # of a failed job's log
# What a job's log says of the time that its current part takes; see ntktune.cli.Progress.
PROGRESS = re.compile(r" %, \d+ s, about (\d+) s left$", re.MULTILINE)
NOTHING = "Nothing to be done"
STOPPING = "Terminating processes on user request"


def clock(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Estimate:
    """How much of a run is done and how long the rest will take, by the rules that are known.

    Parameters
    ----------
    counts
        Rule name → number of jobs in this run.
    cores
        Jobs that can run side by side.
    """

    def __init__(self, counts: dict[str, int], cores: int):
        self.known = dict(EXPECTED)
        self.remaining = dict(counts)
        self.total, self.done, self.cores = sum(counts.values()), 0, max(cores, 1)
        self.expected_of_finished = self.spent_on_finished = 0.0

    def expected(self, rule: str) -> float:
        """Return the expected seconds of one job of a rule, before any rescaling; 0 if unknown."""
        return self.known.get(rule, 0.0)

    @property
    def scale(self) -> float:
        """How many times as long as expected the finished jobs took."""
        known = self.expected_of_finished
        return self.spent_on_finished / known if known else 1.0

    @property
    def unknown(self) -> int:
        """How many rules have jobs left of which nobody knows how long they take."""
        return sum(count > 0 and rule not in self.known for rule, count in self.remaining.items())

    def finished(self, rule: str, seconds: float) -> None:
        """Count one job of a rule as finished after ``seconds``."""
        self.done += 1
        self.remaining[rule] = max(self.remaining.get(rule, 0) - 1, 0)
        if rule not in self.known:
            self.known[rule] = seconds / (self.scale or 1.0)
            return
        self.expected_of_finished += self.expected(rule)
        self.spent_on_finished += seconds

    def seconds_left(self, running: list[tuple[str, float, float]]) -> tuple[float, int]:
        """Return the expected seconds to the end, and how many running jobs outlast their estimate.

        Jobs of unknown rules are left out, except for what their logs say.

        Parameters
        ----------
        running
            Rule, seconds so far, and seconds left by its log (0 if it says nothing) of each
            running job.
        """
        slow = [
            rule in self.known and spent >= self.scale * self.expected(rule)
            for rule, spent, _ in running
        ]
        # what outlasts its estimate also slows down what is expected of all others
        known, total = self.expected_of_finished, self.spent_on_finished
        for (rule, spent, _), outlasts in zip(running, slow, strict=True):
            known, total = known + outlasts * self.expected(rule), total + outlasts * spent
        scale = total / known if known else self.scale
        left = [
            told if outlasts else max(scale * self.expected(rule) - spent, told)
            for (rule, spent, told), outlasts in zip(running, slow, strict=True)
        ]
        queued = sum(n * self.expected(rule) for rule, n in self.remaining.items())
        queued -= sum(self.expected(rule) for rule, *_ in running)
        work = scale * max(queued, 0.0) + sum(left)
        late = sum(o and not seconds for o, seconds in zip(slow, left, strict=True))
        return max(work / self.cores, *left, 0.0), late


class LogHandler(LogHandlerBase):
    """Prints one line per started, finished or failed job, and a heartbeat in between."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.setLevel(logging.INFO)
        self.estimate: Estimate | None = None
        self.cores = 1
        self.names: dict[int, tuple[str, str, list[str]]] = {}
        self.running: dict[int, float] = {}
        self.started = self.last_line = time.monotonic()
        self.planning = self.common_settings.dryrun
        self.interrupted = False
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
        event = getattr(record, "event", None)
        if event is None and record.getMessage().startswith(STOPPING):
            self.interrupted = True
            if count := len(self.running):
                jobs = "job" if count == 1 else "jobs"
                self._print(f"interrupted: waiting for {count} running {jobs} to end")
        elif event == LogEvent.RUN_INFO and not (self.planning and self.estimate):
            stats = record.__dict__.get("stats") or {}
            counts = {k: v for k, v in stats.items() if k not in ("total", "all")}
            self.estimate = Estimate(counts, self.cores)
            jobs = ", ".join(f"{v} {k}" for k, v in counts.items())
            self._print(f"{self.estimate.total} jobs: {jobs}")
        elif event == LogEvent.RESOURCES_INFO:
            self.cores = int(record.__dict__.get("cores") or self.cores)
        elif event == LogEvent.JOB_INFO and not self.planning:
            details = record.__dict__
            wildcards = ", ".join(
                f"{'n' if name == 'size' else name}={value}" if str(value).isdigit() else str(value)
                for name, value in (details.get("wildcards") or {}).items()
            )
            logs = [str(path) for path in details.get("log") or []]
            self.names[details["jobid"]] = (details["rule_name"], wildcards, logs)
            self._start(details["jobid"])
        elif event == LogEvent.JOB_FINISHED:
            self._finish(record.__dict__["job_id"])
        elif event == LogEvent.JOB_ERROR:
            self._fail(record.__dict__["jobid"])
        elif event in (LogEvent.ERROR, LogEvent.GROUP_ERROR) or (
            event is None
            and (record.levelno >= logging.WARNING or record.getMessage().startswith(NOTHING))
        ):
            message = record.getMessage()
            # a failed command is told by JOB_ERROR, with the end of its log
            told = self.interrupted or "CalledProcessError" in message
            if message not in ("", "None") and not told:
                self._print(message)

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

    def _job_name(self, job: int) -> str:
        rule, wildcards, _ = self.names.get(job, ("job", str(job), []))
        return f"{rule} {wildcards}".strip()

    def _start(self, job: int) -> None:
        self.running[job] = time.monotonic()
        if self.names[job][0] != "all":
            self._print(f"started   {self._job_name(job)}")

    def _finish(self, job: int) -> None:
        seconds = time.monotonic() - self.running.pop(job, time.monotonic())
        rule = self.names.get(job, ("", "", []))[0]
        if rule == "all":
            return
        if self.estimate:
            self.estimate.finished(rule, seconds)
        self._print(f"finished  {self._job_name(job)} in {clock(seconds)}", state=True)

    def _fail(self, job: int) -> None:
        self.running.pop(job, None)
        if self.interrupted:
            self._print(f"stopped   {self._job_name(job)}")
            return
        self._print(f"FAILED    {self._job_name(job)}")
        for log in self.names.get(job, ("", "", []))[2]:
            path = Path(log)
            lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
            if lines:
                self._print("\n".join([f"the end of {log}:", *lines[-LOG_LINES:]]))

    def _state(self) -> str:
        if not self.estimate:
            return ""
        now = time.monotonic()
        running = [
            (self.names[job][0], now - since, self._told_left(job))
            for job, since in self.running.items()
            if job in self.names
        ]
        left, late = self.estimate.seconds_left(running)
        unknown = self.estimate.unknown
        said = [f"{self.estimate.done} of {self.estimate.total} done"]
        if running and late == len(running):
            said.append("longer than estimated")
        if left >= 1 or not (late or unknown):
            said.append(f"{'at least' if late or unknown else 'about'} {clock(left)} left")
        if unknown:
            said.append(f"{unknown} {'rule' if unknown == 1 else 'rules'} unknown")
        return ", ".join(said)

    def _told_left(self, job: int) -> float:
        """Return how many seconds a running job still needs by its log, 0 if it says nothing."""
        for log in self.names[job][2]:
            with contextlib.suppress(OSError):
                told = PROGRESS.findall(Path(log).read_text(errors="replace"))
                age = time.time() - Path(log).stat().st_mtime
                return max(float(told[-1]) - age, 0.0) if told else 0.0
        return 0.0

    def close(self) -> None:
        """Say that an interrupted run has ended; Snakemake closes its displays last."""
        if self.interrupted:
            self.interrupted = False
            self._print("stopped; the same command goes on from here")
        super().close()

    def _print(self, text: str, state: bool = False) -> None:
        self.last_line = time.monotonic()
        line = f"[{clock(self.last_line - self.started)}] {text}"
        if state and self._state():
            line += f"  ({self._state()})"
        print(line, file=sys.stderr, flush=True)

    def _heartbeat(self) -> None:
        while True:
            time.sleep(HEARTBEAT / 6)
            with self.guard:
                now = time.monotonic()
                if self.running and now - self.last_line >= HEARTBEAT:
                    jobs = ", ".join(
                        f"{self._job_name(job)} ({clock(now - since)})"
                        for job, since in self.running.items()
                    )
                    self._print(f"running   {jobs}", state=True)
