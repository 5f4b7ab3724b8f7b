"""How the time of pruning with data grows with the number of layers, and where it goes.

    python -m benchmarks.speed.repair_growth --out benchmarks/results/repair-growth.md

Made networks of equal residual blocks: two 3x3 convolutions of 16 channels each, 16x16 pixels, branches scaled so that
activations keep their size at any depth. Each is pruned to sparsity_op 0.7 with 64 samples, in a process of its own. A phase is
what the command's progress names; seconds inside phases are those of the functions of INSIDE, which do not call each other.
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

from onnxsparse import Model, Prune
from onnxsparse.progress import listening

LAYERS = (50, 100, 200, 400)
CHANNELS, SIDE, SAMPLES, TARGET = 16, 16, 64, 0.7
INSIDE = {
    "the walks": ("walk.py", "advance"),
    "gathering inputs": ("inputs.py", "gather"),
    "products of inputs": ("inputs.py", "times"),
    "masks": ("alps.py", "choose"),
    "eigenvalues": ("alps.py", "of"),
    "least squares": ("alps.py", "refit"),
    "the rest of the model": ("walk.py", "outputs"),
}
"""What is timed → (file, function). A function that the package no longer has counts as 0 s."""


def network(layers: int) -> onnx.ModelProto:
    """A stem, residual blocks of two convolutions each, and the mean over pixels: `layers` convolutions in all, or one more."""
    rng = np.random.default_rng(0)
    blocks = layers // 2
    shape = (CHANNELS, CHANNELS, 3, 3)
    nodes, weights, last = [], [], "x"
    for block in range(blocks):
        for part, gain in (("a", 1.0), ("b", blocks**-0.5)):
            values = rng.standard_normal(shape) * gain * np.sqrt(2 / (CHANNELS * 9))
            weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{block}{part}"))
        names = [f"{kind}{block}" for kind in ("a", "r", "b", "s")]
        first, relu, second, joined = names
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
    """Seconds of what the progress of a run names, by its words."""

    seconds: dict[str, float] = field(default_factory=dict)
    _now: str = "the rest"
    _since: float = field(default_factory=time.perf_counter)

    def __call__(self, what: str, _done: int, _total: int | None) -> None:
        """The listener of `progress.listening`."""
        now = time.perf_counter()
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
    """Seconds of pruning one network."""
    model = Model.from_proto(network(layers))
    rng = np.random.default_rng(1)
    phases, profile = Phases(), cProfile.Profile()
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data.npy"
        np.save(data, rng.standard_normal((SAMPLES, CHANNELS, SIDE, SIDE), np.float32))
        start = time.perf_counter()
        with listening(phases), profile:
            Prune(sparsity_op=TARGET, data=data).run(model)
        seconds = time.perf_counter() - start
    phases("end", 0, None)
    return Run(layers, seconds, phases.seconds, inside(profile))


def inside(profile: cProfile.Profile) -> dict[str, float]:
    """What of INSIDE → cumulative seconds."""
    found = dict.fromkeys(INSIDE, 0.0)
    for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]  # not in the stubs
        for what, (wanted, function) in INSIDE.items():
            if name == function and f"onnxsparse/{'calibration' if wanted == 'walk.py' else 'recovery'}/{wanted}" in file:
                found[what] += cumulative
    return found


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


if __name__ == "__main__":
    main()
