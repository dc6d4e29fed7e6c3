"""What the analyzer costs against plain forward passes: time, layer evaluations, memory, bytes read. Random weights.

Every ratio is taken in one process, the two sides alternating, medians over --repeats. The tables stand in
scripts/README.md. With a GPU: --device cuda --dtype bfloat16 --preset 8b (clean pass and skips only).

    python scripts/bench_analysis.py [--part clean,skip,memory,stream] [--repeats 3]
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from prune.analysis import analyze, angular, contributions, lens, removals, width
from prune.analysis.clean_pass import CleanPass, Rules
from prune.analysis.registry import STREAMED
from prune.analysis.statistics import Records
from prune.analysis.streamed import Streaming
from prune.data.domains import Batch, Document, Domain, batches
from prune.model.anatomy import find_anatomy
from prune.model.heap import release_freed_memory
from prune.model.loading import load_model
from prune.model.streaming import StreamedModel
from prune.model.sublayers import SublayerTracer
from prune.model.tracing import model_inputs

MIB = 1 << 20
PRESETS = {
    "small": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16,
              "num_key_value_heads": 8, "vocab_size": 8192},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip
SKIP = {"hidden_size": 384, "intermediate_size": 1056, "num_hidden_layers": 24, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 4096}  # fmt: skip
MEMORY = SKIP | {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8, "vocab_size": 1024}
STREAM = PRESETS["small"] | {"num_hidden_layers": 8}
STREAM_MEMORY = 8 * MIB


def build(shape: Mapping[str, int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=dtype).eval()


def domain(documents: int, length: int, vocabulary: int) -> Domain:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(0, vocabulary, (documents, length), generator=draw).tolist()
    return Domain("general", tuple(Document(tuple(row)) for row in rows), "random", "none")


def seconds(work: Callable[[], Any]) -> float:
    """Wall time on a GPU; processor time of this one thread on CPU, which other programs disturb less."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    began = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


def alternating(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each side."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            found[name].append(seconds(work))
    return {name: statistics.median(values) for name, values in found.items()}


def clean_pass(model: torch.nn.Module, repeats: int, length: int) -> None:
    """The measurements without intervention against a forward pass whose logits are not kept.

    One tracer for all repeats, as one analysis has for all batches: the layouts of the layers are found on the first,
    whose cost is printed apart. Ratios are taken within a repeat; the spectra of `width`, which an analysis computes
    once per domain, are charged in full to this one batch.
    """
    batch = next(batches(domain(4, length, model.config.vocab_size).documents, 4)).to(model.device)
    anatomy = find_anatomy(model)
    tracer = SublayerTracer(anatomy)

    def plain() -> None:
        with torch.no_grad():
            model(**model_inputs(model, batch, one_logit=True))

    def analysed() -> dict[str, float]:
        records, held = Records(len(batch.index)), []
        took = {"pass": seconds(lambda: held.append(CleanPass(model, anatomy, batch, tracer, Rules())))}
        for module in (contributions, angular, width, lens):
            took[module.__name__.rpartition(".")[2]] = seconds(lambda module=module: module.measure(held[0], records))
        return took | {"spectra": seconds(lambda: width.derive([records], None))}

    with torch.no_grad():
        model(batch.input_ids[:1, :8])  # warm
    print(f"clean pass, {parameters(model)}, 4 x {length} tokens", flush=True)
    shares: list[dict[str, float]] = []
    for repeat in range(repeats + 1):
        once, took = seconds(plain), analysed()
        base = took["pass"] + took["contributions"] + took["angular"]
        took = {"plain": once, "base": base, "with width": base + took["width"] + took["spectra"], **took}
        if repeat:
            shares.append({name: value / once for name, value in took.items()} | {"seconds": once})
        else:
            print(f"  first batch, layouts included: {base / once:.3f} x plain")
    report = {"base": "contributions, cosines, final shares, Block Influence, both triangles", "with width":
              "the same with residual width", "pass": "of that, the pass with what layers add", "contributions":
              "Gram matrix, final stream, sums per document", "angular": "both triangles", "width": "sample of tokens",
              "spectra": "spectra, once per domain", "lens": "logit lens, 32 tokens a document"}  # fmt: skip
    for name, words in report.items():
        values = [share[name] for share in shares]
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(f"  {words}: {statistics.median(values):.3f} x plain ({spread} in {repeats} repeats)")
    typical = statistics.median(share["seconds"] for share in shares)
    print(f"  tokens/s of the plain pass: {batch.input_ids.numel() / typical:.0f}")
    floor(model, batch, plain, typical)
    if model.device.type == "cuda":
        ceiling(model, batch.input_ids.numel() / typical)


def floor(model: torch.nn.Module, batch: Batch, plain: Callable[[], None], took: float) -> None:
    """What the figures need at least: operations, and bytes of streams read or written once, against the plain pass."""
    with FlopCounterMode(display=False) as counter:
        plain()
    layers, tokens = find_anatomy(model).num_layers, batch.input_ids.numel()
    stream = tokens * model.config.hidden_size  # numbers in one stream
    gram = 2 * stream * (layers + 1) ** 2
    dots = 2 * stream * layers * 8  # norms of resid_pre, resid_mid, attn_out, mlp_out, c; three products; c with final
    moved = model.dtype.itemsize * stream * (layers + 1) + 4 * stream * layers * 5  # streams; attn, mlp; c made, read
    source, target = torch.ones(1 << 24), torch.empty(1 << 24)  # 64 MiB each: more than a cache
    target.copy_(source)
    copied = min(seconds(lambda: target.copy_(source)) for _ in range(5)) / (2 * source.nbytes)
    print(
        f"  floor: plain {counter.get_total_flops() / 1e9:.0f} GFLOP; Gram {gram / 1e9:.1f} GFLOP in float64, norms\n"
        f"  and products {dots / 1e9:.1f} GFLOP, {moved / MIB:.0f} MiB moved: {moved * copied / took:.3f} x plain "
        "at the speed of a copy on CPU"
    )


def ceiling(model: torch.nn.Module, tokens_per_second: float) -> None:
    """What the card reaches on one large matrix product, and what the plain pass makes of it."""
    a = torch.randn(8192, 8192, device=model.device, dtype=model.dtype)
    a @ a
    best = min(seconds(lambda: a @ a) for _ in range(5))
    weights = sum(p.numel() for p in find_anatomy(model).layers.parameters())
    share = 2 * weights * tokens_per_second / (2 * 8192**3 / best)
    print(f"  matrix ceiling {2 * 8192**3 / best / 1e12:.0f} TFLOP/s; the plain pass reaches {share:.0%} of it")


def skips(model: torch.nn.Module, repeats: int) -> None:
    """Leaving out every layer: restarted and batched, against L full passes."""
    batch = next(batches(domain(2, 64, model.config.vocab_size).documents, 2)).to(model.device)
    layers = find_anatomy(model).layers
    target, keep = batch.input_ids[:, 1:, None], {}

    def log_p() -> torch.Tensor:
        with torch.no_grad():
            return model(**model_inputs(model, batch)).logits[:, :-1].float().log_softmax(-1)

    def naive() -> None:
        clean = log_p()
        probability, choice = clean.exp(), clean.argmax(-1)
        for layer in layers:
            hook = layer.register_forward_hook(lambda _, args, output: args[0])
            altered = log_p()
            hook.remove()
            (clean - altered).gather(-1, target).mean()
            (probability * (clean - altered)).sum(-1).mean()
            torch.linalg.vector_norm(probability - altered.exp(), dim=-1).max()
            (altered.argmax(-1) == choice).double().mean()

    def ours(wanted: str, parts: bool) -> Callable[[], None]:
        def work() -> None:
            anatomy, rules = find_anatomy(model), Rules(frozenset(wanted.split(",")))
            clean = CleanPass(model, anatomy, batch, SublayerTracer(anatomy) if parts else None, rules)
            if parts:  # the [L, L] table of whole layers only: attention and MLP are other removals
                removals._measure_part(clean, Records(2), "layer", outputs=True, table=True)
            else:
                removals.measure(clean, Records(2))
            keep["calls"] = clean.walk.layer_calls

        return work

    sides = {"naive": naive, "outputs": ours("dnll", False), "outputs and [L, L]": ours("dnll,skip", True)}
    log_p()  # warm
    took = alternating(sides, repeats)
    depth = len(layers)
    print(f"layer skips, {parameters(model)}, {depth} layers, 2 x 64 tokens: L naive passes {took['naive']:.2f} s")
    print(f"  layer evaluations {keep['calls']} against {depth * depth}: {keep['calls'] / depth**2:.3f}")
    print(f"  output effects {took['outputs'] / took['naive']:.3f} x naive")
    extra = took["outputs and [L, L]"] - took["outputs"]
    print(f"  the [L, L] matrix {extra / took['outputs']:.3f} x the output effects again")


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) * 1024


def alone(work: Callable[[], dict[str, float]], warm: Callable[[], Any]) -> dict[str, float]:
    """Figures from a forked process, with the peak of its resident memory above what it began with (MiB).

    It begins with what `warm` leaves: the same work on something small, so that libraries are loaded and not counted,
    and with what is free in the heaps given back, so that nothing can be taken from there uncounted.
    """
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def enter() -> None:
        torch.set_num_threads(1)
        warm()
        gc.collect()
        release_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
        before = status("VmRSS")
        figures = work()
        queue.put(figures | {"peak": (status("VmHWM") - before) / MIB})

    process = context.Process(target=enter)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"a measurement failed with exit code {process.exitcode}")
    return queue.get()


def memory(repeats: int) -> None:
    """Peak above the model with few and with many documents, medians."""
    model = build(MEMORY)
    peaks = {}

    def analysed(documents: int) -> Callable[[], dict[str, float]]:
        data = {"general": domain(documents, 32, MEMORY["vocab_size"])}
        return lambda: analyze(model, data, bootstrap=100) and {}

    for documents in (32, 512, 2048):
        found = [alone(analysed(documents), analysed(2))["peak"] for _ in range(repeats)]
        peaks[documents] = statistics.median(found)
    print(f"memory above the model, {parameters(model)}, 32 tokens a document, default measures, batches of 8:")
    print("  " + ", ".join(f"{documents} documents {peak:.1f} MiB" for documents, peak in peaks.items()))


def stream(directory: Path, repeats: int) -> None:
    """A checkpoint on disk, in memory and streamed."""
    build(STREAM).save_pretrained(directory / "model", max_shard_size="200MB")
    build(MEMORY).save_pretrained(directory / "small")
    options: dict[str, Any] = {"measure": [name for name in STREAMED if name != "dnll"], "batch_size": 2}

    def data(name: str) -> dict[str, Domain]:
        return {"general": domain(8, 64, (STREAM if name == "model" else MEMORY)["vocab_size"])}

    def in_memory(name: str) -> dict[str, float]:
        return {"seconds": seconds(lambda: analyze(load_model(str(directory / name)), data(name), **options))}

    def streamed(name: str, limit: int) -> dict[str, float]:
        found: dict[str, float] = {}

        def work() -> None:
            model = StreamedModel(str(directory / name))
            analyze(model.model, data(name), **options, streaming=Streaming(model, limit, directory))
            head = model.anatomy.embedding.weight.nbytes + model.anatomy.head.weight.nbytes
            found.update(read=model.bytes_read / model.checkpoint_bytes, checkpoint=model.checkpoint_bytes / MIB,
                         layer=model.largest_layer / MIB, embeddings=head / MIB)  # fmt: skip

        return {"seconds": seconds(work)} | found

    runs: dict[str, list[dict[str, float]]] = {"memory": [], "stream": [], "low": []}
    for _ in range(repeats):
        runs["memory"].append(alone(lambda: in_memory("model"), lambda: in_memory("small")))
        runs["stream"].append(alone(lambda: streamed("model", 1 << 32), lambda: streamed("small", 1 << 32)))
        runs["low"].append(alone(lambda: streamed("model", STREAM_MEMORY), lambda: streamed("small", 0)))
    middle = {name: {key: statistics.median(run[key] for run in of) for key in of[0]} for name, of in runs.items()}
    base, fast, low = middle["memory"], middle["stream"], middle["low"]
    print(f"streaming, checkpoint {fast['checkpoint']:.0f} MiB, 8 x 64 tokens, clean-pass measures, load included:")
    print(f"  tensor bytes read {fast['read']:.3f} x the checkpoint")
    for name, kind in (("all activations in memory", "stream"), ("8 MiB of them, the others on disk", "low")):
        ratios = [run["seconds"] / other["seconds"] for run, other in zip(runs[kind], runs["memory"], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        peak = middle[kind]["peak"]
        print(f"  {name}: {statistics.median(ratios):.3f} x the time in memory ({spread}), peak {peak:.0f} MiB")
    print(f"  in memory: peak {base['peak']:.0f} MiB")
    batch_tokens, depth = 2 * 64, STREAM["num_hidden_layers"]
    working = (depth + 1) * batch_tokens * STREAM["hidden_size"] * 12 / MIB  # streams in float32, and in float64
    bound = 2 * low["layer"] + low["embeddings"] + STREAM_MEMORY / MIB + working
    print(f"  2 layers + embeddings + activations (8 MiB shelf, {working:.0f} MiB one batch's Gram): {bound:.0f} MiB")


def parameters(model: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters, {str(model.dtype)[6:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="clean,skip,memory,stream", help="names with commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--length", type=int, default=512, help="tokens in each of the clean pass's four rows")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="model of the clean pass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    asked = parser.parse_args()
    parts, dtype = asked.part.split(","), getattr(torch, asked.dtype)
    if asked.device != "cpu":
        parts = [part for part in parts if part in ("clean", "skip")]
    if "clean" in parts:
        clean_pass(build(PRESETS[asked.preset], asked.device, dtype), asked.repeats, asked.length)
    if "skip" in parts:
        skips(build(PRESETS["8b"] if asked.preset == "8b" else SKIP, asked.device, dtype), asked.repeats)
    if "memory" in parts:
        memory(asked.repeats)
    if "stream" in parts:
        with tempfile.TemporaryDirectory(dir=".") as directory:
            stream(Path(directory), asked.repeats)


if __name__ == "__main__":
    main()
