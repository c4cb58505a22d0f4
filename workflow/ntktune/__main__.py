"""``python -m ntktune <chapter> <verb>``: the command line of the study.

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


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status.

    It is 0 for success, 1 for a user's mistake, and 128 more than the number of the signal that
    ended it: 130 of Ctrl-C, 143 of SIGTERM, as clusters send it. Both remove what is half written.
    """
    if argv is None:  # this process is the command
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        # torch and transformers make a million objects when they are imported, and no garbage:
        # to look for some among them takes a quarter of the time of a small job
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
            gc.freeze()  # nor does the interpreter look through them when it ends


def _tell(line: str) -> None:
    """Print a line on standard error, if anything can be written there."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _no_memory(error: BaseException) -> str:
    why = (str(error) or type(error).__name__).splitlines()[0]
    return f"memory ran out ({why}); use a machine, or a GPU, with more of it"


def _run(argv: list[str] | None) -> int:
    from ntktune import __version__
    from ntktune.artifacts import unwritable
    from ntktune.cli import CHAPTERS
    from ntktune.device import is_out_of_memory
    from ntktune.errors import UserError

    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="ntktune", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"ntktune {__version__}")
    chapters = parser.add_subparsers(dest="_chapter", required=True, metavar="chapter")
    for name, summary in CHAPTERS.items():
        chapter = chapters.add_parser(name, help=summary, description=summary)
        if argv and argv[0] == name:
            verbs = chapter.add_subparsers(dest="_verb", required=True, metavar="verb")
            importlib.import_module(f"ntktune.cli.{name}").add_commands(verbs)
    args = parser.parse_args(argv)
    if not args._network:
        # read by the Hugging Face libraries when they are imported
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["MPLBACKEND"] = "agg"  # that of a notebook may not be installed here
    try:
        args._run(args)
        sys.stdout.flush()
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
    else:
        return 0
    _tell(f"ntktune {args._chapter} {args._verb}: error: {told}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
