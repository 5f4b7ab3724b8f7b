"""Trained classifiers that sections measure on, and what several sections make of them.

ResNet-20 needs the folder of `Context.eval`; the digits classifier ships, with 400 held-out digits: half of them is learned from,
without labels, and the other half is judged on.
"""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.classifier import prepared
from benchmarks.paper.section import Context
from onnxsparse import Fold, Model, Prune, Sensitivity, load
from onnxsparse.runtime.session import runner

DIGITS = Path(__file__).parents[2] / "sample_models" / "digits.onnx"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

PAPER: dict[str, Any] = {"score": "l1", "cost_exponent": 0, "protect": "none", "max_layer_sparsity": 1}
"""Options of `Prune` for the paper's choice: the smallest magnitudes over all layers."""

BATCH = 500


@dataclass(frozen=True)
class Trained:
    """A classifier. `dense`: its file, normalisations folded. `data`: to learn from, N x C x H x W. `x`, `labels`: to judge."""

    name: str
    dense: Path
    data: Path
    x: NDArray[np.float32]
    labels: NDArray[np.integer]

    def top1(self, model: Model) -> float:
        """Per cent of the pictures; integers are computed as the file says, on every processor."""
        run, feed = runner(model), model.proto.graph.input[0].name
        logits = [next(iter(run.run({feed: self.x[at : at + BATCH]}).values())) for at in range(0, len(self.x), BATCH)]
        return 100 * float((np.concatenate(logits).argmax(1) == self.labels).mean())


@dataclass(frozen=True)
class Made:
    """A model that was made, and how long it took."""

    path: Path
    seconds: float


def networks(context: Context) -> list[Trained]:
    """The digits classifier, and ResNet-20 where the folder for evaluation is given."""
    return [*([resnet20(context)] if context.eval is not None else []), digits(context)]


def digits(context: Context) -> Trained:
    """The digits classifier that ships."""
    with np.load(DIGITS.with_name("digits_test.npz")) as test:
        return written(context.work, "digits", DIGITS, test["x"][::2], (test["x"][1::2], test["y"][1::2]))


def resnet20(context: Context) -> Trained:
    """ResNet-20 on CIFAR-10; in a quick run on a quarter of the pictures. `context.eval` must be given."""
    assert context.eval is not None
    step = 4 if context.quick else 1
    with np.load(context.eval / "cifar10_calib512.npz") as calib, np.load(context.eval / "cifar10_test2000.npz") as test:
        learned, x = (prepared(part["x"][::step], MEAN, STD) for part in (calib, test))
        return written(context.work, "ResNet-20", context.eval / "resnet20_cifar10.onnx", learned, (x, test["y"][::step]))


def written(work: Path, name: str, source: Path, learned: NDArray[np.float32], test: tuple[Any, Any]) -> Trained:
    """A classifier whose folded model and data lie in `work`."""
    dense, data = work / f"{name}.onnx", work / f"{name}.npy"
    model = load(source)
    Fold().run(model)
    model.save(dense)
    np.save(data, learned)
    return Trained(name, dense, data, *test)


@cache
def database(model: Path, data: Path) -> Made:
    """What pruning costs each layer of a model, as `prune --database` reads it."""
    start, path = time.perf_counter(), model.with_suffix(".json")
    report = Sensitivity(data=data, json=path).run(load(model))
    with path.open("wb") as file:
        report.artifacts[path](file)
    return Made(path, time.perf_counter() - start)


@cache
def repaired(model: Path, data: Path, sparsity_op: float) -> Made:
    """A model pruned and repaired; the time includes the measurement of sensitivity, which further targets share."""
    measured, start = database(model, data), time.perf_counter()
    pruned, path = load(model), model.with_name(f"{model.stem}-repaired-{sparsity_op:g}.onnx")
    Prune(sparsity_op=sparsity_op, data=data, database=measured.path).run(pruned)
    pruned.save(path)
    return Made(path, measured.seconds + time.perf_counter() - start)
