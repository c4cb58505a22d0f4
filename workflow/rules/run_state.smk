"""All that touches Snakemake's internals: where it reads the study, and a run's begin and end.

The rules get digest_of, content_of and unfinished_first from here. A Snakemake that runs one job of
another's plan, as on a cluster, compares no parameters: for it they return nothing.
"""

import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path

import yaml

# The folder of this file, also where another workflow uses this one as a module.
PACKAGE_FOLDER = str(Path(workflow.current_basedir).parent)
sys.path.insert(0, PACKAGE_FOLDER)
# The jobs' `python -m ntktune` is the Python that runs Snakemake, activated or not, and finds the
# package here, installed or not.
for variable, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", PACKAGE_FOLDER)):
    others = os.environ.get(variable)
    os.environ[variable] = os.pathsep.join([str(folder)] + [others] * bool(others))

from ntktune.data.study import check_own_files, choices
from ntktune.errors import UserError
from ntktune.store.code_digest import code_digest
from ntktune.store.files import atomic_path, remove_left_overs
from ntktune.store.unfinished import begin, finish, unfinished
from ntktune.store.user_files import content_digest


@contextmanager
def sentence_only(mistakes=UserError):
    """End Snakemake at a user's mistake with its sentence; a WorkflowError would frame it in code."""
    try:
        yield
    except mistakes as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def configuration_given(config):
    """Whether the command line or another workflow gives a configuration; ends if there is none."""
    given = bool(workflow.config_settings.configfiles)
    if not (given or config or Path("config/config.yaml").is_file()):
        sys.exit(
            f"there is no config/config.yaml in {Path.cwd()}: run Snakemake in the folder that holds "
            "config/, name that folder with --directory, or name a configuration with --configfile"
        )
    return given


def configuration_files():
    """The configuration files that are read, in order."""
    return [str(path) for path in workflow.configfiles]


def describe(name, text):
    """Say what a rule made in a loop does, for `snakemake --list`; a module has it under another name."""
    getattr(rules, name).rule.docstring = text


def digest_of(entry):
    """The digest of the code that an entry point runs."""
    return lambda wildcards: code_digest(entry) if workflow.is_main_process else ""


def content_of(files):
    """The digest of the user's own files that a job reads, by content."""

    def digest(wildcards):
        if not workflow.is_main_process:
            return ""
        with sentence_only((OSError, UserError)):
            return content_digest(files(wildcards))

    return digest


def unfinished_first(wildcards):
    """Returns no files. Side effect: forces outputs that an interrupted run left missing, like --forcerun.

    Used by the rules that all chapters begin with, so every target triggers it.
    """
    if workflow.is_main_process and not workflow.touch:
        with sentence_only():
            workflow.dag.forcefiles.update(unfinished(RESULTS))
    return []


def say_choices(tasks):
    """Say what the study is, and what became of the rows of its own files; check those of ``tasks``."""
    with sentence_only():
        rows = check_own_files(STUDY, tasks)
    print(choices(STUDY, rows), file=sys.stderr, flush=True)


def say_plan():
    """Say what the study is in a dry run, where Snakemake calls no onstart."""
    settings = workflow.output_settings
    if settings.dryrun and "ntktune" in settings.log_handler_settings:
        say_choices(STUDY["task_definitions"])


onstart:
    # say what the study is, check its files, store the configuration and the planned outputs
    if TOO_OLD:
        print(TOO_OLD, file=sys.stderr, flush=True)
    jobs = list(workflow.dag.needrun_jobs())
    say_choices([job.wildcards.task for job in jobs if job.rule.name.endswith("fetch_task")])
    with sentence_only((OSError, UserError)):
        with atomic_path(f"{RESULTS}/config.yaml") as path:
            text = yaml.safe_dump(STUDY, sort_keys=False, allow_unicode=True)
            path.write_text(text, encoding="utf-8")
        if not workflow.touch:
            begin(RESULTS, {str(file) for job in jobs for file in job.output})
    remove_left_overs(RESULTS)  # half-written files that killed jobs left
    # Snakemake's own limit of 100 jobs a second never binds here, and while jobs wait it costs: each
    # job that ends adds a timer that wakes the scheduler every second for the rest of the run.
    limiter = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limiter and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


onsuccess:
    # delete the list of planned outputs, now that all exist; say where the results are
    whole = any(job.rule.name.endswith("all") for job in workflow.dag.jobs)
    if not workflow.touch:
        with sentence_only():
            finish(RESULTS, whole=whole)
    files = " ".join(map(shlex.quote, configuration_files()))
    said = f"results  {RESULTS}/figures" if whole else f"results  {RESULTS}"
    if whole and "MAKELEVEL" not in os.environ:  # `make reproduce` writes the report itself
        said += f"\nreport   snakemake --configfile {files} --report {RESULTS}/report.html"
    print(said, file=sys.stderr, flush=True)
