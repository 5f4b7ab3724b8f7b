"""What onnxruntime's CPU provider takes for each layer, from its own profiler."""

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
RUNS = 10


@dataclass(frozen=True)
class OnnxruntimeCpu:
    """Measures on this machine, with onnxruntime's default optimisations, as the model is (float stays float)."""

    precision: Precision = EIGHT_BIT
    name: str = "onnxruntime-cpu"
    description: str = "measured on this machine with onnxruntime's CPU provider"
    fidelity: tuple[str, ...] = (
        f"the median of {RUNS} runs on this machine, on random inputs; other machines differ",
        "time of layers that onnxruntime fused under another name is counted under 'other'",
    )

    def measure(self, model: Model, load: Workload) -> Measurement:
        """Medians over runs of each kernel's time."""
        named = with_names(model)
        feeds = seeded_samples(named, 1).feeds[0]
        with tempfile.TemporaryDirectory(prefix="onnxsparse-") as folder:
            running = profiled_runner(named, Path(folder) / "profile")
            for _ in range(WARM_UP_RUNS + RUNS):
                running.run(feeds)
            events = json.loads(Path(running.session.end_profiling()).read_text())
        return attribute(kernel_times(events), load)


def with_names(model: Model) -> Model:
    """A copy in which every node, those of bodies too, has the name that the toolkit calls it by, which is unique."""
    copy = model.copy()
    for name, node in list(all_nodes(Graph(copy.proto.graph))):
        node.name = name
    del copy.proto.graph.value_info[:]
    return copy


def kernel_times(events: list[dict[str, object]]) -> dict[str, float]:
    """Kernel → milliseconds per run, the median over runs of the sum over a run's events."""
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
    """Runs come before the kernels that start with them."""
    return float(str(event.get("ts", 0))), not str(event.get("name")).startswith("model_run")


def attribute(kernels: dict[str, float], load: Workload) -> Measurement:
    """Kernels by the work item whose node, fused node or output they are named after."""
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
    """Names that onnxruntime may have put something in front of or behind: `fused conv1`, `conv1_token_3`, `conv1_nchwc`."""
    parts = kernel.split("_")
    return [kernel.rpartition(" ")[2], *("_".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))]
