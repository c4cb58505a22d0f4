"""Hand a `python -m` of ntktune or Snakemake to the process that has imported what they need."""

import os
import sys

if (
    sys.orig_argv[1:2] == ["-m"]
    and sys.orig_argv[2] in os.environ.get("PRELOADED_MODULES", "").split()
):
    sys.path.append(os.path.dirname(os.path.dirname(__file__)))
    import preloaded

    preloaded.hand_over(os.environ["PRELOADED_SOCKET"])
