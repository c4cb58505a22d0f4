"""``ntktune <chapter> <verb>``: the command line.

Each chapter's commands live in :mod:`ntktune.cli`; only the chapter that is called
is imported, because torch and transformers take seconds to import.
"""

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import time

DESCRIPTION = """\
From a pretrained language model and labelled texts: how many labels does the task need,
and when should fine-tuning stop? A study is run by snakemake, which calls these commands.
Some need no study; the examples below are such."""
EXAMPLES = """\
`ntktune CHAPTER --help` lists a chapter's commands, `ntktune CHAPTER COMMAND --help` its options.

examples: the kernel of a model on a CSV, the decay of its eigenvalues, and a figure of it
  ntktune kernel gram --model my-model --data reviews.csv --text-column review \\
      --label-column stars --out gram.safetensors
  ntktune spectrum fit --gram gram.safetensors --out-eigenvalues eigenvalues.parquet \\
      --out-fits fits.parquet --out-summary summary.json
  ntktune figures draw decay --eigenvalues eigenvalues.parquet --decay fits.parquet \\
      --summary summary.json --out decay.png
  ntktune kernel plan --model my-model --examples 500     what a kernel will cost
  ntktune finetune plan --config my/study.yaml            what a study will cost"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status.

    Exit status: 0 success, 1 user error, 128 + N if signal N ended it (Ctrl-C 130, SIGTERM 143,
    which clusters send). Both signals remove partial files.
    """
    if argv is None:  # this process is the command
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        # Importing torch and transformers makes a million objects. Looking for garbage among them
        # takes a quarter of a small job's time.
        gc.set_threshold(50_000)
    try:
        return _run(argv)
    except KeyboardInterrupt:  # also while modules are being imported
        _tell("ntktune: interrupted")
        return 130
    except MemoryError as error:
        _tell(f"ntktune: error: {_no_memory(error)}")
        return 1
    finally:
        if argv is None:
            gc.freeze()  # the interpreter does not look for garbage when it ends


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # nothing may be there to write to
        print(line, file=sys.stderr, flush=True)


def _no_memory(error: BaseException) -> str:
    why = (str(error) or type(error).__name__).splitlines()[0]
    return f"memory ran out ({why}); use a machine, or a GPU, with more of it"


def _run(argv: list[str] | None) -> int:
    from ntktune import __version__
    from ntktune.cli import CHAPTERS
    from ntktune.cli.options import check_options, check_outputs
    from ntktune.errors import UserError
    from ntktune.network.device import is_out_of_memory
    from ntktune.store.files import unwritable

    argv = sys.argv[1:] if argv is None else argv
    texts = {"description": DESCRIPTION, "epilog": EXAMPLES}
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("ntktune", **texts, formatter_class=as_written)
    parser.add_argument("--version", action="version", version=f"ntktune {__version__}")
    how = {"dest": "_chapter", "required": True, "metavar": "CHAPTER", "title": "chapters"}
    chapters, command = parser.add_subparsers(**how), ""
    for name, summary in CHAPTERS.items():
        chapter = chapters.add_parser(name, help=summary, description=summary)
        if argv and argv[0] == name:
            how |= {"dest": "_verb", "metavar": "COMMAND", "title": "commands"}
            verbs = chapter.add_subparsers(**how)
            commands = importlib.import_module(f"ntktune.cli.{name}")
            commands.add_commands(verbs)
            usual = getattr(commands, "USUAL", None)  # a chapter's command that needs no name
            if usual and (not argv[1:] or argv[1].startswith("-")):
                argv = [name, usual, *argv[1:]]
                verbs.choices[usual].prog = command = f"ntktune {name}"
    if not argv:
        parser.print_help()
        return 0
    args = parser.parse_args(argv)
    command = command or f"ntktune {args._chapter} {args._verb}"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["MPLBACKEND"] = "agg"  # that of a notebook may not be installed here
    try:
        if not (args._network(args) if callable(args._network) else args._network):
            # read by the Hugging Face libraries when they are imported
            os.environ["HF_HUB_OFFLINE"] = "1"
        check_options(args, f"{args._chapter} {args._verb}")
        check_outputs(args)
        args._started = time.monotonic()
        args._run(args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # whoever read has gone, as `head` does; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        told = error
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ntktune"):
            raise
        told = f"the package {error.name!r} is missing; run: pip install 'ntktune[workflow]'"
    except OSError as error:
        if error.filename is None and unwritable("", error) is None:
            raise
        told = f"{error.filename or 'a file'} cannot be read or written: {error.strerror}"
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        told = _no_memory(error)
    _tell(f"{command}: error: {told}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
