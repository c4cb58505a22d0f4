"""``python -m ntktune <chapter> <verb>``: the command line of the study.

Each chapter's commands live in :mod:`ntktune.cli`; only the chapter that is called
is imported, because torch and transformers take seconds to import.
"""

import argparse
import importlib
import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status (0 success, 1 a user's mistake, 130 Ctrl-C)."""
    try:
        return _run(argv)
    except KeyboardInterrupt:  # also while modules are being imported
        print("ntktune: interrupted", file=sys.stderr)
        return 130


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
    try:
        args._run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has gone, as `head` does; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        told = error
    except OSError as error:
        if unwritable("", error) is None:
            raise
        told = f"{error.filename or 'a file'} cannot be read or written: {error.strerror}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        why = (str(error) or type(error).__name__).splitlines()[0]
        told = f"memory ran out ({why}); use a machine, or a GPU, with more of it"
    else:
        return 0
    print(f"ntktune {args._chapter} {args._verb}: error: {told}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
