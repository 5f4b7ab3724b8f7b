"""What fewer channels are worth on this CPU: latency in onnxruntime of original and cut models, channels rounded and not.

    python -m benchmarks.speed.channels_latency ZOO --out benchmarks/results/channels-latency.md

benchmarks/zoo/runner.py says what ZOO holds. Original and cut models are timed in turn, run by run,
on one thread, so that a slow moment of the machine meets all of them.
"""

import time
from statistics import median

import onnxruntime

from benchmarks.tables import table
from benchmarks.zoo.runner import Entry, arguments, entries
from onnxsparse import Model, Pipeline, layers
from onnxsparse.passes.prune_channels import PruneChannels
from onnxsparse.runtime.inputs import seeded_samples

MODELS = """
tv_resnet50.ts tv_mobilenet_v2.ts timm_repvgg_a0.ts smp_unet_r18.ts timm_deit_tiny_patch16_224.ts pypi_nudenet__320n
""".split()
ROUNDINGS = (1, 8, 16)
WARM_UP_RUNS, RUNS = 2, 15


def session(model: Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.to_bytes(), options, providers=["CPUExecutionProvider"])


def cut(model: Model, round_to: int) -> Model:
    smaller = model.copy()
    Pipeline([PruneChannels(ratio=0.5, round_to=round_to, cut_norms=True, verify=False)]).run(smaller)
    return smaller


def cells(entry: Entry) -> list[str]:
    """Name, latency of the original in ms, and shares of MACs and of time for each rounding."""
    model = entry.load()
    models = [model, *(cut(model, round_to) for round_to in ROUNDINGS)]
    feeds = seeded_samples(model, 1).feeds[0]
    running = [session(m) for m in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(WARM_UP_RUNS + RUNS):
        for found, one in zip(times, running, strict=True):
            start = time.perf_counter()
            one.run(None, feeds)
            found.append(1000 * (time.perf_counter() - start))
    macs = [layers(m, count=False).totals.macs or 0 for m in models]
    first, *others = (median(found[WARM_UP_RUNS:]) for found in times)
    shares = [f"{m / macs[0]:.2f} / {ms / first:.2f}" for m, ms in zip(macs[1:], others, strict=True)]
    return [entry.name, f"{first:.1f}", *shares]


def main() -> None:
    given = arguments(__doc__)
    by_name = {entry.name: entry for entry in entries(given.zoo, given.only)}
    chosen = [by_name[f"{name}.onnx"] for name in MODELS if f"{name}.onnx" in by_name]
    columns = ["model", "original ms", *(f"rounded to {r}: MACs / time" for r in ROUNDINGS)]
    lines = [
        "# Half of the channels, in time",
        "",
        f"Made by `benchmarks/speed/channels_latency.py`: onnxruntime, one thread, median of {RUNS} runs in turn; MACs and time",
        "as shares of the original's. With --cut-norms.",
        "",
        *table(columns, map(cells, chosen)),
    ]
    given.out.write_text("\n".join(lines) + "\n")
    print(given.out.read_text())


if __name__ == "__main__":
    main()
