"""A trained SSD through the whole chain: prune, repair, quantize, report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from benchmarks.paper import boxes, photographs
from benchmarks.paper.section import Context, Section, Spec
from benchmarks.paper.trained import database
from benchmarks.tables import table
from onnxsparse import Fold, Model, Prune, Quantize, compare, layers, load
from onnxsparse.cost.estimate import deploy
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import runner

TITLE = "A trained SSD, pruned, repaired, quantized"
CLAIM = "The small SSD, pruned to 70 %, lost no significant accuracy (the paper fine-tunes it)."
TARGET = "cv22"
SPARSITIES = (0.5, 0.7, 0.8)
CLAIMED, ENOUGH = 0.7, 0.95
"""The paper's sparsity_op, and the F1 with the dense model's boxes from which on nothing significant is lost."""

LEARNED, JUDGED = 64, 40
"""Pictures to calibrate on, and pictures to judge on of each kind."""

Pictures = Sequence[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Row:
    """The detector at a sparsity_op (0: dense). F1 with the boxes of the dense model in floats; errors are SQNRs of the worst
    output or slice in dB, None where outputs are equal."""

    sparsity_op: float
    nonzero_macs: int
    latency_ms: float
    mem_p_mb: float
    plain_f1: float
    repaired_f1: float
    int8_f1: float
    repaired_db: float | None
    int8_db: float | None


def section(context: Context) -> Section:
    """The table and the verdict; without the detector or pictures, only why not."""
    lacking = why_not(context)
    if lacking is not None:
        return Section("detector", TITLE, CLAIM, f"cannot be tested here, because {lacking}", ())
    model, pictures, rows = measured(context)
    found = decoded(model, pictures)
    per_priors = f"{layers(model).totals.weights / 1e6:.2f} M weights, {(layers(model).totals.macs or 0) / 1e6:.0f} M MACs"
    lines = [
        f"rfb320.onnx, a public face detector of this kind (1x3x240x320, {per_priors}, mostly depthwise), on "
        f"{len(pictures)} pictures out of scikit-image: crops of astronaut, and other photographs with faces of lfw_subset. The "
        f"dense model finds {sum(map(len, found))} boxes. Calibrated on {LEARNED // (4 if context.quick else 1)} pictures of "
        "other photographs and other faces. F1: agreement with the dense model's boxes at an IoU of "
        f"{boxes.MATCH:g}, scores of at least {boxes.SCORE:g}. Latency and mem_p: predicted, {TARGET}, 8 bits. Error: SQNR of "
        "the worst output or slice, in dB.",
        "",
        *table(COLUMNS, [cells(row) for row in rows]),
    ]
    return Section("detector", TITLE, CLAIM, verdict(rows), lines, {"detector": figure(rows)})


COLUMNS = (
    "sparsity_op", "nonzero M MACs", "latency, ms", "mem_p, MB", "F1, pruned", "F1, repaired", "F1, repaired, int8",
    "error repaired, dB", "error int8, dB",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """A line of the table."""
    f1s = (f"{value:.3f}" for value in (row.plain_f1, row.repaired_f1, row.int8_f1))
    errors = ("equal" if value is None else f"{value:.1f}" for value in (row.repaired_db, row.int8_db))
    costs = (f"{row.nonzero_macs / 1e6:.1f}", f"{row.latency_ms:.2f}", f"{row.mem_p_mb:.3f}")
    return (f"{row.sparsity_op:.0%}", *costs, *f1s, *errors)


def why_not(context: Context) -> str | None:
    """What is lacking, as a clause; None if nothing is."""
    if context.eval is None or not (context.eval / "rfb320.onnx").exists():
        return "the detector, rfb320.onnx, is not at hand"
    return None if find_spec("skimage") is not None else "scikit-image, whose pictures are used, is not installed"


def verdict(rows: Sequence[Row]) -> str:
    """It holds if the repaired int8 model has an F1 of ENOUGH at the paper's sparsity_op."""
    best = max((row.sparsity_op for row in rows if row.int8_f1 >= ENOUGH), default=0.0)
    row = max((row for row in rows if row.sparsity_op <= CLAIMED), key=lambda row: row.sparsity_op)
    dense = next(row for row in rows if not row.sparsity_op)
    at = f"at {row.sparsity_op:.0%}, F1 is {row.plain_f1:.2f} pruned, {row.repaired_f1:.2f} repaired, {row.int8_f1:.2f} in int8"
    if row.int8_f1 >= ENOUGH and row.sparsity_op == CLAIMED:
        return f"holds: {at}; {ENOUGH:g} is the bound"
    return (
        f"differs, because without training this depthwise detector loses boxes: {at}, below {ENOUGH:g}; int8 alone has "
        f"{dense.int8_f1:.2f}, and the highest measured sparsity_op with {ENOUGH:g} is {best:.0%}"
    )


def measured(context: Context) -> tuple[Model, Pictures, list[Row]]:
    """The folded detector, the pictures to judge on, and the rows."""
    assert context.eval is not None
    dense, path, data = load(context.eval / "rfb320.onnx"), context.work / "detector.onnx", context.work / "detector.npy"
    Fold(constant_defaults=True).run(dense)  # its weights are inputs with defaults
    dense.save(path)
    scale = 4 if context.quick else 1
    np.save(data, photographs.calibration(LEARNED // scale))
    feed = dense.proto.graph.input[0].name
    pictures = [{feed: picture[None]} for picture in photographs.judged(JUDGED // scale)]
    chain = Chain(context, dense, pictures)
    return dense, pictures, list(chain.rows(SPARSITIES[:1] if context.quick else SPARSITIES))


@dataclass(frozen=True)
class Chain:
    """prune → repair → quantize → report, judged against `dense` on `pictures`."""

    context: Context
    dense: Model
    pictures: Pictures

    def rows(self, sparsities: Sequence[float]) -> Iterator[Row]:
        """The dense detector, and a row for each sparsity_op."""
        path, data = self.context.work / "detector.onnx", self.context.work / "detector.npy"
        wanted = decoded(self.dense, self.pictures)
        for target in (0.0, *sparsities):
            plain, repaired = self.dense.copy(), self.dense.copy()
            if target:
                Prune(sparsity_op=target).run(plain)
                Prune(sparsity_op=target, data=data, database=database(path, data).path).run(repaired)
            integers = repaired.copy()
            quantized = Quantize(target=TARGET, data=data).run(integers)
            assert quantized.changes  # otherwise the figures of int8 would be those of floats
            cost, nonzero = deploy(repaired, TARGET), layers(repaired).totals.nonzero_macs
            assert nonzero is not None  # every op of the detector is known
            f1s = [boxes.f1(wanted, decoded(model, self.pictures)) for model in (plain, repaired, integers)]
            errors = [self.error_db(repaired) if target else None, self.error_db(integers)]
            yield Row(target, nonzero, cost.latency_ms, cost.mem_p_mb, *f1s, *errors)

    def error_db(self, model: Model) -> float | None:
        """SQNR of the worst output or slice in dB."""
        return compare(self.dense, model, Samples(self.pictures)).worst_sqnr_db


def decoded(model: Model, pictures: Pictures) -> list[boxes.Boxes]:
    """The boxes of each picture."""
    run = runner(model)
    outputs = (run.run(picture) for picture in pictures)
    return [boxes.decoded(found["scores"][0], found["boxes"][0]) for found in outputs]


def figure(rows: Sequence[Row]) -> Spec:
    """F1 over sparsity_op: pruned, repaired, and in int8."""
    names = {"pruned": "plain_f1", "repaired": "repaired_f1", "repaired, int8": "int8_f1"}
    values = [{"x": 100 * r.sparsity_op, "y": getattr(r, at), "kind": kind} for r in rows for kind, at in names.items()]
    scale = {"domain": list(names), "range": ["#f58518", "#4c78a8", "#54a24b"]}
    return {
        "width": 320,
        "height": 200,
        "data": {"values": values},
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": "sparsity_op, %"},
            "y": {"field": "y", "type": "quantitative", "title": "F1 with the dense model's boxes", "scale": {"domain": [0, 1]}},
            "color": {"field": "kind", "type": "nominal", "title": None, "scale": scale, "legend": {"orient": "bottom"}},
        },
    }
