"""The kernel of a model whose weights stay in their files, beside the same model in memory.

    python benchmarks/streaming.py my/folder --shape 7B --examples 100 --threads 2

The folder gets a Mistral of the shape with random bfloat16 weights in shards, if it has none.
Each way is a fresh process. Told are seconds, with loading; the highest anonymous memory, without
pages of mapped files, that the system takes back; and the limit: the FLOPs of all products at the
speed of a large one, measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import torch
from measuring import best_rate, in_fresh_process, memory
from safetensors.torch import save_file

from ntktune.kernel import gram
from ntktune.kernel.account import account
from ntktune.network.models import block_list, empty_backbone, text_model

# width, blocks, inner width, heads, heads of keys and values, vocabulary
SHAPES = {
    "0.4B": (1_024, 24, 4_096, 16, 4, 32_000),
    "1.3B": (2_048, 24, 8_192, 16, 16, 50_257),
    "7B": (4_096, 32, 14_336, 32, 8, 32_000),
}
CPU = torch.device("cpu")


def write_model(folder: Path, shape: str) -> None:
    """Write random bfloat16 weights of a shape, a shard per block."""
    width, blocks, inner, heads, shared, vocabulary = SHAPES[shape]
    narrow = shared * width // heads
    generator = torch.Generator().manual_seed(0)

    def weights(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.02).bfloat16()

    def ones() -> torch.Tensor:
        return torch.ones(width).bfloat16()

    folder.mkdir(parents=True, exist_ok=True)
    places = {}
    for block in range(-1, blocks):
        tensors = {"embed_tokens.weight": weights(vocabulary, width), "norm.weight": ones()}
        if block >= 0:
            own = {
                "self_attn.q_proj": weights(width, width),
                "self_attn.k_proj": weights(narrow, width),
                "self_attn.v_proj": weights(narrow, width),
                "self_attn.o_proj": weights(width, width),
                "mlp.gate_proj": weights(inner, width),
                "mlp.up_proj": weights(inner, width),
                "mlp.down_proj": weights(width, inner),
                "input_layernorm": ones(),
                "post_attention_layernorm": ones(),
            }
            tensors = {f"layers.{block}.{name}.weight": own[name] for name in own}
        name = f"model-{block + 2:05d}-of-{blocks + 1:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    stated = {"model_type": "mistral", "hidden_size": width, "num_hidden_layers": blocks}
    stated |= {"intermediate_size": inner, "num_attention_heads": heads, "dtype": "bfloat16"}
    stated |= {"num_key_value_heads": shared, "vocab_size": vocabulary, "sliding_window": None}
    (folder / "config.json").write_text(json.dumps(stated))  # last: what is there is whole


def run(case: dict) -> dict:
    """Measure one way in this process."""
    torch.set_num_threads(case["threads"])
    generator = torch.Generator().manual_seed(0)
    count, (shortest, longest) = case["examples"], case["lengths"]
    steps = max(1, count - 1)
    lengths = [shortest + (longest - shortest) * i // steps for i in range(count)]
    texts = [torch.randint(0, 1_000, (length,), generator=generator) for length in lengths]
    rate, peak, done = best_rate(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    stream_to = CPU if case["way"] == "streamed" else None
    model = text_model(case["folder"], outputs=1, head_seed=0, stream_to=stream_to)
    loaded = time.perf_counter() - started
    told = [started]

    def progress(part: float) -> None:
        if time.perf_counter() > told[0] + 60:
            told[0] = time.perf_counter()
            seconds = told[0] - started
            told_now = f"{case['way']}: {100 * part:.0f} %, {seconds:.0f} s, {peak / 1e9:.2f} GB"
            print(told_now, file=sys.stderr, flush=True)

    found = gram(model, texts, progress=progress)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    rate = (rate + best_rate()) / 2
    backbone = empty_backbone(case["folder"])
    limit = account(backbone, block_list(backbone), lengths).flops / rate
    return {
        **case,
        "load_seconds": round(loaded, 1),
        "seconds": round(seconds, 1),
        "anonymous_gb": round(peak / 1e9, 2),
        "gflops": round(rate / 1e9, 1),
        "limit_seconds": round(limit, 1),
        "over_limit": round(seconds / limit, 2),
        "read_gb": round(found.provenance.get("streamed_bytes", 0) / 1e9, 1),
        "self_check": found.provenance["self_check"]["largest_relative_error"],
        "sum": found.kernel.sum().item(),
    }


def main() -> None:
    """Measure each way in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--shape", choices=SHAPES, default="0.4B")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--lengths", type=int, nargs=2, default=[10, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=["streamed", "memory"])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run(json.loads(args.case))))
        return
    if not (Path(args.folder) / "config.json").is_file():
        write_model(Path(args.folder), args.shape)
    for way in args.ways:
        case = {"way": way, "folder": args.folder, "shape": args.shape, "lengths": args.lengths}
        case |= {"examples": args.examples, "threads": args.threads}
        print(json.dumps(in_fresh_process(__file__, case)), flush=True)


if __name__ == "__main__":
    main()
