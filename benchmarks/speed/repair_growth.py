"""How the time of pruning with data grows with the number of layers, and where it goes.

    python -m benchmarks.speed.repair_growth --out benchmarks/results/repair-growth.md

Made networks of equal residual blocks: two 3x3 convolutions of 16 channels each, 16x16 pixels, branches scaled so that
activations keep their size at any depth. Each is pruned to sparsity_op 0.7 with 64 samples, in a process of its own. A phase is
what the command's progress names; columns beside phases are the functions of INSIDE. CPU seconds, which do not depend on what
else the machine does.
"""

import argparse
import cProfile
import multiprocessing
import pstats
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.tables import table
from onnxsparse import Model, Prune
from onnxsparse.progress import listening

LAYERS = (50, 100, 200, 400)
CHANNELS, SIDE, SAMPLES, TARGET = 16, 16, 64, 0.7
BAR = 6
"""Most that the deepest network may take, in times of that with a quarter of its layers."""

INSIDE = {
    "walks": ("calibration/walk.py", "advance"),
    "inputs": ("recovery/inputs.py", "gather"),
    "moments": ("recovery/inputs.py", "times"),
    "masks": ("recovery/alps.py", "choose"),
    "least squares": ("recovery/alps.py", "refit"),
    "sensitivity": ("calibration/walk.py", "outputs"),
    "sessions": ("calibration/walk.py", "segment"),
}
"""Column → (file, function). Sessions are a part of walks and sensitivity. A function that has gone has no figure."""


def network(layers: int) -> onnx.ModelProto:
    """Residual blocks of two convolutions each, `layers` convolutions in all, and the mean over pixels."""
    rng = np.random.default_rng(0)
    blocks = layers // 2
    shape = (CHANNELS, CHANNELS, 3, 3)
    nodes, weights, last = [], [], "x"
    for block in range(blocks):
        for part, gain in (("a", 1.0), ("b", blocks**-0.5)):
            values = rng.standard_normal(shape) * gain * np.sqrt(2 / (CHANNELS * 9))
            weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{block}{part}"))
        first, relu, second, joined = (f"{kind}{block}" for kind in ("first", "relu", "second", "sum"))
        nodes += [
            helper.make_node("Conv", [last, f"w{block}a"], [first], name=first, pads=[1] * 4),
            helper.make_node("Relu", [first], [relu], name=relu),
            helper.make_node("Conv", [relu, f"w{block}b"], [second], name=second, pads=[1] * 4),
            helper.make_node("Add", [last, second], [joined], name=joined),
        ]
        last = joined
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"], name="mean"))
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS, 1, 1]),
    ]
    graph = helper.make_graph(nodes, f"residual{layers}", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass
class Phases:
    """CPU seconds of what the progress of a run names, by its words."""

    seconds: dict[str, float] = field(default_factory=dict)
    _now: str = "the rest"
    _since: float = field(default_factory=time.process_time)

    def __call__(self, what: str, _done: int, _total: int | None) -> None:
        """The listener of `progress.listening`."""
        now = time.process_time()
        self.seconds[self._now] = self.seconds.get(self._now, 0.0) + now - self._since
        self._now, self._since = what, now


@dataclass(frozen=True)
class Run:
    """One network. `phases`, `inside`: what → seconds."""

    layers: int
    seconds: float
    phases: dict[str, float]
    inside: dict[str, float]


def measured(layers: int) -> Run:
    """CPU seconds of pruning one network."""
    model = Model.from_proto(network(layers))
    rng = np.random.default_rng(1)
    phases, profile = Phases(), cProfile.Profile(time.process_time)
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data.npy"
        np.save(data, rng.standard_normal((SAMPLES, CHANNELS, SIDE, SIDE), np.float32))
        start = time.process_time()
        with listening(phases), profile:
            Prune(sparsity_op=TARGET, data=data).run(model)
        seconds = time.process_time() - start
    phases("end", 0, None)
    return Run(layers, seconds, phases.seconds, inside(profile))


def inside(profile: cProfile.Profile) -> dict[str, float]:
    """What of INSIDE → cumulative seconds; what did not run is left out."""
    found = {}
    for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]  # not in the stubs
        for what, (end, function) in INSIDE.items():
            if name == function and Path(file).as_posix().endswith(f"onnxsparse/{end}"):
                found[what] = cumulative
    return found


def lines(runs: list[Run]) -> list[str]:
    """The table, and how the time grows."""
    phases = list(dict.fromkeys(phase for run in runs for phase in run.phases))
    rows = []
    for run in runs:
        seconds = [run.seconds, *map(run.phases.get, phases), *map(run.inside.get, INSIDE)]
        rows.append((run.layers, *(None if value is None else f"{value:.1f}" for value in seconds)))
    by_layers = {run.layers: run.seconds for run in runs}
    grown = [
        f"{layers} layers take {seconds / by_layers[layers // 4]:.1f} times what {layers // 4} take (at most {BAR})."
        for layers, seconds in by_layers.items()
        if layers // 4 in by_layers
    ]
    return [
        "# How pruning with data grows with the number of layers",
        "",
        f"Made by `benchmarks/speed/repair_growth.py`: CPU seconds with {SAMPLES} samples, profiler on. Sessions are part of "
        f"walks and sensitivity. {' '.join(grown)}",
        "",
        *table(("layers", "all", *phases, *INSIDE), rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = []
    for layers in options.layers:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            runs.append(pool.apply(measured, (layers,)))
        print(runs[-1], flush=True)
        options.out.write_text("\n".join(lines(runs)) + "\n")


if __name__ == "__main__":
    main()
