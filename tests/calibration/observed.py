"""Feeds and histograms of the calibration tests."""

from collections.abc import Iterator, Sequence

import numpy as np

from onnxsparse.calibration.data import open_data
from onnxsparse.calibration.observe import Observation, observe
from onnxsparse.calibration.preprocessing import Preprocessing
from onnxsparse.ir.model import Model
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Feeds
from tests.graphs import model, node, weight

UNBOUNDED = 1 << 40


def branching(batch: str = "1") -> Model:
    """x → conv → a → relu → r; both into Add → y. `unused` leads nowhere."""
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "r"), node("Exp", "r", "unused"), node("Add", "a r", "y")]
    return model(nodes, {"x": f"{batch}x3x6x6"}, ["y"], {"w": "4x3x3x3", "b": "4"})


def feeds_of(*arrays: object) -> list[Feeds]:
    return [{"x": np.asarray(array, np.float32)} for array in arrays]


def samples(count: int, batch: int = 1) -> list[Feeds]:
    return feeds_of(*(weight(f"{batch}x3x6x6", 50 + seed) * (seed + 1) for seed in range(count)))


def data(given: Sequence[Feeds] | Iterator[Feeds], built: Model) -> Samples:
    return open_data(given, built, Preprocessing())


def seen(built: Model, feeds: Sequence[Feeds], names: Sequence[str], bins: int = 64, budget: int = UNBOUNDED) -> Observation:
    return observe(built, names, data(feeds, built), bins=bins, budget_bytes=budget)
