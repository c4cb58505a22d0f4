"""Both exact forms of a linear layer's Gram, timed: where each is the faster one.

    python benchmarks/products.py --examples 100 400 --lengths 16 37 128

For each layer and number of texts: seconds of both forms, the rates of their FLOPs, the
form that ntktune.kernel.products takes by its costs, and how much slower that is than the
better one. WRITE_TOKENS and GRAM_COST there are chosen so that the last column stays
near 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import pandas as pd
import torch

from ntktune.kernel.products import (
    Rows,
    Sides,
    Workspace,
    cheaper_form,
    linear_costs,
    materialised_gram,
    token_pair_gram,
)
from ntktune.network.device import select_device

LAYERS = [(128, 384), (128, 512), (384, 384), (384, 1_536), (768, 768), (768, 3_072)]
LAYERS += [(2_048, 2_048)]


def best_seconds(work: Callable, device: torch.device, repeats: int) -> float:
    """Return the shortest time of some repeats, after one that does not count."""
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def main() -> None:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", nargs="+", type=int, default=[100])
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 37, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = select_device()
    rows = []
    for d_in, d_out in LAYERS:
        for count in args.examples:
            for length in args.lengths:
                owner = torch.arange(count, device=device).repeat_interleave(length)
                a = torch.randn(len(owner), d_in, device=device)
                g = torch.randn(len(owner), d_out, device=device)
                layer = Rows(a, g, owner)
                sides, workspace = Sides(count), Workspace()
                costs = linear_costs(owner, sides, d_in, d_out)
                pairs = best_seconds(
                    lambda layer=layer, sides=sides: token_pair_gram(layer, sides),
                    device,
                    args.repeats,
                )
                made = best_seconds(
                    lambda layer=layer, sides=sides, workspace=workspace: materialised_gram(
                        layer, sides, workspace
                    ),
                    device,
                    args.repeats,
                )
                seconds = {"token pairs": pairs, "materialised": made}
                taken = cheaper_form(costs)
                rows.append(
                    {
                        "layer": f"{d_in} x {d_out}",
                        "examples": count,
                        "length": length,
                        "pairs_s": pairs,
                        "materialised_s": made,
                        "pairs_gflops": costs["token pairs"][0] / pairs / 1e9,
                        "materialised_gflops": costs["materialised"][0] / made / 1e9,
                        "taken": taken,
                        "slower": seconds[taken] / min(seconds.values()),
                    }
                )
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    main()
