"""What fewer channels are worth on this CPU: latency in onnxruntime of original and cut models, channels rounded and not.

    python -m benchmarks.speed.channels_latency ZOO --out benchmarks/results/channels-latency.md

ZOO holds .onnx files and a manifest.json with `file` and `run_shapes`. Original and cut models are timed in turn, run by run,
on one thread, so that a slow moment of the machine meets all of them.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import onnxruntime

from onnxsparse import Model, Pipeline, layers, load
from onnxsparse.passes.prune_channels import PruneChannels
from onnxsparse.runtime.inputs import seeded_samples

MODELS = """
tv_resnet50.ts tv_mobilenet_v2.ts timm_repvgg_a0.ts smp_unet_r18.ts timm_deit_tiny_patch16_224.ts pypi_nudenet__320n
""".split()
ROUNDINGS = (1, 8, 16)
RUNS = 15


def session(model: Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.to_bytes(), options, providers=["CPUExecutionProvider"])


def cut(model: Model, round_to: int) -> Model:
    smaller = model.copy()
    Pipeline([PruneChannels(ratio=0.5, round_to=round_to, cut_norms=True, verify=False)]).run(smaller)
    return smaller


def row(zoo: Path, name: str, shapes: dict[str, list[int]]) -> str:
    model = load(zoo / name).bind([f"{n}={'x'.join(map(str, s))}" for n, s in shapes.items() if s])
    models = [model, *(cut(model, round_to) for round_to in ROUNDINGS)]
    feeds = seeded_samples(model, 1).feeds[0]
    running = [session(m) for m in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(RUNS):
        for found, one in zip(times, running, strict=True):
            start = time.perf_counter()
            one.run(None, feeds)
            found.append(1000 * (time.perf_counter() - start))
    macs = [layers(m, count=False).totals.macs or 0 for m in models]
    first = median(times[0][2:])
    cells = [f"{m / macs[0]:.2f} / {median(t[2:]) / first:.2f}" for m, t in zip(macs[1:], times[1:], strict=True)]
    return f"| {name} | {first:.1f} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    entries = {entry["file"]: entry["run_shapes"] for entry in json.loads((given.zoo / "manifest.json").read_text())}
    roundings = " | ".join(f"rounded to {r}: MACs / time" for r in ROUNDINGS)
    lines = [
        "# Half of the channels, in time",
        "",
        f"Made by `benchmarks/speed/channels_latency.py`: onnxruntime, one thread, median of {RUNS} runs in turn; MACs and time",
        "as shares of the original's. With --cut-norms.",
        "",
        f"| model | original ms | {roundings} |",
        f"|{'---|' * (2 + len(ROUNDINGS))}",
        *(row(given.zoo, f"{name}.onnx", entries[f"{name}.onnx"]) for name in MODELS),
    ]
    given.out.write_text("\n".join(lines) + "\n")
    print(given.out.read_text())


if __name__ == "__main__":
    main()
