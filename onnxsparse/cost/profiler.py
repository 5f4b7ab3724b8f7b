"""Measured latency of every layer on onnxruntime's CPU provider, from its profiler.

1. Give every node its unique name, so that profiled kernels can be identified (`with_names`).
2. Run the model on random inputs, a few runs to warm up and then RUNS.
3. Sum the events of each kernel per run and take the median over runs (`kernel_times`).
4. Assign kernels to work items by name (`attribute`).
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from onnxsparse.cost.backends.base import EIGHT_BIT, Precision
from onnxsparse.cost.registry import Measurement
from onnxsparse.cost.workload import Workload
from onnxsparse.ir.graph import Graph, all_nodes
from onnxsparse.ir.model import Model
from onnxsparse.runtime.inputs import seeded_samples
from onnxsparse.runtime.session import profiled_runner

WARM_UP_RUNS = 2
"""Runs that are not counted: the first ones allocate memory."""

RUNS = 10
"""Runs that are counted."""


@dataclass(frozen=True)
class OnnxruntimeCpu:
    """Measures on this machine with onnxruntime's default optimisations; floats are computed as floats."""

    precision: Precision = EIGHT_BIT
    name: str = "onnxruntime-cpu"
    description: str = "measured on this machine with onnxruntime's CPU provider"
    fidelity: tuple[str, ...] = (
        f"the median of {RUNS} runs on this machine, on random inputs; other machines differ",
        "time of layers that onnxruntime fused under another name is counted under 'other'",
    )

    def measure(self, model: Model, load: Workload) -> Measurement:
        """The median time of each work item over RUNS runs. Raises BackendError if onnxruntime cannot run the model."""
        named = with_names(model)
        feeds = seeded_samples(named, 1).feeds[0]
        with tempfile.TemporaryDirectory(prefix="onnxsparse-") as folder:
            running = profiled_runner(named, Path(folder) / "profile")
            for _ in range(WARM_UP_RUNS + RUNS):
                running.run(feeds)
            events = json.loads(Path(running.session.end_profiling()).read_text())
        return attribute(kernel_times(events), load)


def with_names(model: Model) -> Model:
    """A copy in which every node, also in bodies, is named as in reports; these names are unique."""
    copy = model.copy()
    for name, node in list(all_nodes(Graph(copy.proto.graph))):
        node.name = name
    del copy.proto.graph.value_info[:]
    return copy


def kernel_times(events: list[dict[str, object]]) -> dict[str, float]:
    """Kernel → milliseconds per run: the median over runs of the sum of its events in a run. `events`: the profiler's JSON."""
    suffix = "_kernel_time"
    runs: list[dict[str, float]] = []
    for event in sorted(events, key=start_of):
        name = str(event.get("name"))
        if name.startswith("model_run"):
            runs.append({})
        if event.get("cat") == "Node" and name.endswith(suffix):
            runs = runs or [{}]
            kernel = name.removesuffix(suffix)
            runs[-1][kernel] = runs[-1].get(kernel, 0.0) + float(str(event["dur"])) / 1000
    kept = runs[WARM_UP_RUNS:]
    kernels = dict.fromkeys(kernel for run in kept for kernel in run)
    return {kernel: median(run.get(kernel, 0.0) for run in kept) for kernel in kernels}


def start_of(event: dict[str, object]) -> tuple[float, bool]:
    """Sort key: start time; at equal times a run comes before its kernels."""
    return float(str(event.get("ts", 0))), not str(event.get("name")).startswith("model_run")


def attribute(kernels: dict[str, float], load: Workload) -> Measurement:
    """Milliseconds of each work item: of the kernels named after its node, a fused node, or an output; the rest is other time."""
    owners = {name: item.node for item in load.items for name in item.outputs}
    owners |= {name: item.node for item in load.items for name in (item.node, *item.fused)}
    found: dict[str, float] = {}
    other = 0.0
    for kernel, ms in kernels.items():
        owner = owners.get(kernel) or next((owners[n] for n in named_within(kernel) if n in owners), None)
        if owner is None:
            other += ms
        else:
            found[owner] = found.get(owner, 0.0) + ms
    return Measurement(found, other)


def named_within(kernel: str) -> list[str]:
    """Node names that a kernel's name may contain; onnxruntime adds to them: `fused conv1`, `conv1_token_3`, `conv1_nchwc`."""
    parts = kernel.split("_")
    return [kernel.rpartition(" ")[2], *("_".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))]
