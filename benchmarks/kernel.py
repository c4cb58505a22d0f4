"""The kernel engine beside other exact ways to the same Gram matrix, on the same work.

    python benchmarks/kernel.py --shapes tiny small --examples 100 --repeats 3

Every measurement is a fresh process, the methods take turns, and the table has medians:
seconds, peak memory above what the process held with the model loaded, the largest difference
from the engine's kernel, and the limit: the FLOPs of the engine's products at the best rate of
a large exact product, measured in the same process. A model is a GPT-Neo of the shape with
random weights (or real weights in a folder: --folder) and a linear head on the last token.

ours          ntktune.kernel.gram
tutorial      vmap(grad) over all examples, as PyTorch's NTK tutorial; parameters in blocks
              that fit
torch.func    the same over 8 examples at a time, which is faster and needs less memory
trimmed       that in groups of similar length, each padded to its own longest text
autograd      one backward pass per example; rows in blocks that fit
forward-mode  each gradient as the tangent of a JVP at every other example (LM-Kernel-FT)
half          the same, each pair of examples once: the kernel is symmetric
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
from pathlib import Path

import pandas as pd
import torch
from measuring import best_rate, in_fresh_process, measured
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from ntktune.kernel import gram
from ntktune.kernel.account import account
from ntktune.network.models import TextModel, block_list, load_backbone, pad, token_batches

# layers, width, heads, vocabulary
SHAPES = {
    "tiny": (4, 128, 4, 1_000),
    "small": (12, 384, 6, 8_000),
    "125M": (12, 768, 12, 50_257),
    "1.3B": (24, 2_048, 16, 50_257),
}
BLOCK_BYTES = 2**34  # gradients that a peer may hold at once: the fewer blocks, the faster
MAX_TOKENS = 1_024


def make_model(shape: str, folder: str | None) -> TextModel:
    """Return the model: attention in the form that every method can differentiate."""
    generator = torch.Generator().manual_seed(0)
    if folder:
        backbone = load_backbone(folder)
        backbone.set_attn_implementation("eager")
        return TextModel(backbone, 1, generator).eval()
    from transformers import AutoModel, GPTNeoConfig

    layers, width, heads, vocabulary = SHAPES[shape]
    config = GPTNeoConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        attention_types=[[["global"], layers]],
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    torch.manual_seed(0)
    return TextModel(AutoModel.from_config(config), 1, generator).eval()


def make_examples(count: int, shortest: int, longest: int, vocabulary: int) -> list[torch.Tensor]:
    """Return random texts, lengths uniform from ``shortest`` to ``longest``."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(1, vocabulary, (n,), generator=generator) for n in lengths]


def ours(model: nn.Module, examples: list[torch.Tensor]) -> torch.Tensor:
    """Return the engine's kernel, with its own check switched off: no peer has one."""
    return gram(model, examples, check=False).kernel


def parameter_blocks(model: nn.Module, count: int, most: int) -> list[list[str]]:
    """Return names of parameters in runs whose gradients of all examples fit into ``most``."""
    blocks: list[list[str]] = []
    room = 0
    for name, parameter in model.named_parameters():
        size = 4 * count * parameter.numel()
        if not blocks or size > room:
            blocks.append([])
            room = most
        blocks[-1].append(name)
        room -= size
    return blocks


def torch_func(
    model: nn.Module, examples: list[torch.Tensor], *, trimmed: bool = False, at_once: int = 8
) -> torch.Tensor:
    """Return the contraction of Jacobians that vmap(grad) makes of some examples at once."""
    everything = {name: p.detach() for name, p in model.named_parameters()}
    lengths = [len(e) for e in examples]
    groups = list(token_batches(lengths, MAX_TOKENS)) if trimmed else [list(range(len(examples)))]
    order = [i for group in groups for i in group]
    kernel = torch.zeros(len(examples), len(examples), dtype=torch.float64)
    # of many examples at once vmap holds the gradients a second time
    most = BLOCK_BYTES if at_once < len(examples) else BLOCK_BYTES // 2
    for names in parameter_blocks(model, len(examples), most):
        wanted = {name: everything[name] for name in names}
        rest = {name: p for name, p in everything.items() if name not in wanted}

        def value(
            some: dict, ids: torch.Tensor, mask: torch.Tensor, rest: dict = rest
        ) -> torch.Tensor:
            return functional_call(model, some | rest, (ids[None], mask[None]))[0]

        rows = {name: torch.empty(len(examples), p.numel()) for name, p in wanted.items()}
        first = 0
        for group in groups:
            ids, mask = pad([examples[i] for i in group])
            parts = zip(ids.split(at_once), mask.split(at_once), strict=True)
            for part_ids, part_mask in parts:
                found = vmap(grad(value), (None, 0, 0))(wanted, part_ids, part_mask)
                for name, gradient in found.items():
                    rows[name][first : first + len(part_ids)] = gradient.flatten(1)
                first += len(part_ids)
        for some in rows.values():
            kernel += (some @ some.T).double()
    back = torch.empty(len(order), dtype=torch.long)
    back[order] = torch.arange(len(order))
    return kernel[back][:, back]


def autograd(model: nn.Module, examples: list[torch.Tensor]) -> torch.Tensor:
    """Return the kernel from one backward pass per example and pair of row blocks."""
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    step = max(1, BLOCK_BYTES // (8 * size))

    def rows(first: int) -> torch.Tensor:
        block = torch.empty(min(step, len(examples) - first), size)
        for row, example in zip(block, examples[first : first + step], strict=False):
            ids, mask = pad([example])
            found = torch.autograd.grad(model(ids, mask)[0], parameters, allow_unused=True)
            row.copy_(
                torch.cat(
                    [
                        torch.zeros(p.numel()) if g is None else g.flatten()
                        for p, g in zip(parameters, found, strict=True)
                    ]
                )
            )
        return block

    kernel = torch.zeros(len(examples), len(examples), dtype=torch.float64)
    for i in range(0, len(examples), step):
        left = rows(i)
        for j in range(0, i + 1, step):
            block = (left @ (left if i == j else rows(j)).T).double()
            kernel[i : i + step, j : j + step] = block
            kernel[j : j + step, i : i + step] = block.T
    return kernel


def forward_mode(
    model: nn.Module, examples: list[torch.Tensor], half: bool = False
) -> torch.Tensor:
    """Return the kernel from a JVP of every example along every other one's gradient."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    batches = [pad([example]) for example in examples]

    def value(some: dict, i: int) -> torch.Tensor:
        return functional_call(model, some, batches[i])[0]

    kernel = torch.zeros(len(examples), len(examples), dtype=torch.float64)
    for j in range(len(examples)):
        tangent = grad(lambda some, j=j: value(some, j))(parameters)
        for i in range(j + 1 if half else len(examples)):
            _, found = jvp(lambda some, i=i: value(some, i), (parameters,), (tangent,))
            kernel[i, j] = found.double()
            if half:
                kernel[j, i] = kernel[i, j]
    return kernel


METHODS = {
    "ours": ours,
    "tutorial": lambda model, examples: torch_func(model, examples, at_once=len(examples)),
    "torch.func": torch_func,
    "trimmed": functools.partial(torch_func, trimmed=True),
    "autograd": autograd,
    "forward-mode": forward_mode,
    "half": functools.partial(forward_mode, half=True),
}


# label, colour and marker of each method in the plot
LOOKS = {
    "ours": ("ntktune", "#0072B2", "o"),
    "tutorial": ("torch.func, all at once", "#56B4E9", "P"),
    "torch.func": ("torch.func, 8 at a time", "#D55E00", "s"),
    "trimmed": ("torch.func, similar lengths", "#E69F00", "D"),
    "autograd": ("autograd, text by text", "#009E73", "^"),
    "forward-mode": ("forward mode", "#CC79A7", "v"),
}


def measure(case: dict) -> None:
    """Run one method once; print seconds and peak memory, and keep its kernel."""
    torch.set_num_threads(case["threads"])
    model = make_model(case["shape"], case["folder"])
    vocabulary = model.backbone.config.vocab_size
    examples = make_examples(case["examples"], *case["lengths"], vocabulary)
    METHODS[case["method"]](model, examples[:2])  # what loads lazily is loaded
    model.zero_grad(set_to_none=True)
    before = best_rate()
    found, seconds, peak = measured(lambda: METHODS[case["method"]](model, examples))
    rate = (before + best_rate()) / 2
    save_file({"kernel": found.contiguous()}, case["kernel"])
    blocks = block_list(model.backbone)
    flops = account(model.backbone, blocks, [len(text) for text in examples]).flops
    limit = {"gflops": rate / 1e9, "limit_seconds": flops / rate}
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, **limit}))


def difference(kernel: Path, reference: Path) -> float:
    """Return the largest difference of two kernels, as a share of the largest entry."""
    if not (kernel.is_file() and reference.is_file()):
        return float("nan")
    found, expected = (load_file(p)["kernel"] for p in (kernel, reference))
    return ((found - expected).abs().max() / expected.abs().max()).item()


def medians(case: dict, methods: list[str], repeats: int, scratch: Path) -> list[dict]:
    """Run all methods on one case, in turn and in fresh processes; return their medians."""
    runs: dict[str, list[dict]] = {method: [] for method in methods}
    for kernel in scratch.glob("*.safetensors"):
        kernel.unlink()  # another case's
    for _ in range(repeats):
        for method in methods:
            kernel = scratch / f"{method}.safetensors"
            one = case | {"method": method, "kernel": str(kernel)}
            runs[method].append(in_fresh_process(__file__, one))
    rows = []
    for method, found in runs.items():
        middle = {key: statistics.median(r[key] for r in found) for key in found[0]}
        kernels = scratch / f"{method}.safetensors", scratch / "ours.safetensors"
        rows.append(
            {key: case[key] for key in ("shape", "examples", "threads")}
            | {
                "lengths": "-".join(map(str, case["lengths"])),
                "method": method,
                "seconds": middle["seconds"],
                "peak_mb": middle["peak_bytes"] / 1e6,
                "gflops": middle["gflops"],
                "limit_seconds": middle["limit_seconds"],
                "over_limit": statistics.median(r["seconds"] / r["limit_seconds"] for r in found),
                "difference": difference(*kernels),
                "runs": len(found),
            }
        )
        print(rows[-1], flush=True)
    return rows


def draw(table: pd.DataFrame, out: Path) -> None:
    """Draw seconds and memory against n, and seconds against the texts' length."""
    from matplotlib.figure import Figure

    from ntktune.figures.style import WIDTH, figure_bytes, styled

    shown = {name: look for name, look in LOOKS.items() if name in set(table["method"])}
    panels = [
        ("examples", "seconds", "texts", "seconds"),
        ("examples", "peak_mb", "texts", "MB above the model"),
        ("length", "seconds", "tokens per text (100 texts)", "seconds"),
    ]
    one = table[(table["shape"] == "small") & (table["threads"] == 1)].copy()
    ends = one["lengths"].str.split("-", expand=True).astype(int)
    one["length"] = ends[0].where(ends[0] == ends[1])
    with styled():
        figure = Figure(figsize=(WIDTH, 2.5))
        for axes, (x, y, x_label, y_label) in zip(figure.subplots(1, 3), panels, strict=True):
            rows = one[one["length"].notna()] if x == "length" else one[one["length"].isna()]
            rows = rows.drop_duplicates([x, "method"], keep="last").sort_values(x)
            for method, (label, color, marker) in shown.items():
                mine = rows[rows["method"] == method]
                axes.plot(mine[x], mine[y], color=color, marker=marker, label=label)
            ticks = sorted(set(rows[x]))
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    out.write_bytes(figure_bytes(figure, "png", 200))


def main() -> None:
    """Measure all cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["tiny", "small"], choices=SHAPES)
    parser.add_argument("--folder", help="a model folder with real weights, instead of shapes")
    parser.add_argument("--examples", nargs="+", type=int, default=[100])
    parser.add_argument(
        "--lengths", nargs="+", default=["10-64"], help="shortest-longest (default: 10-64)"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scratch", default="results/benchmarks")
    parser.add_argument("--out", default="results/benchmarks/kernel.csv")
    parser.add_argument("--add", action="store_true", help="keep the table's earlier rows")
    parser.add_argument("--draw", help="draw the table to this PNG file; measure nothing")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        measure(json.loads(args.case))
        return
    if args.draw:
        draw(pd.read_csv(args.out), Path(args.draw))
        return
    if Path(args.out).is_dir():
        parser.error(f"--out {args.out} is a folder; name a file in it")
    scratch = Path(args.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    shapes = [Path(args.folder).name] if args.folder else args.shapes
    rows = []
    for shape, count, lengths in itertools.product(shapes, args.examples, args.lengths):
        case = {
            "shape": shape,
            "folder": args.folder,
            "examples": count,
            "lengths": [int(n) for n in lengths.split("-")],
            "threads": args.threads,
        }
        rows += medians(case, args.methods, args.repeats, scratch)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    if args.add and out.is_file():
        table = pd.concat([pd.read_csv(out), table])
    table.to_csv(out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
