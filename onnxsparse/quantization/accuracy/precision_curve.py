"""SQNR against latency: the best sets of 0, 1, 2, 4, 8… wide ops, each judged, up to all ops."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from onnxsparse.cost.report.figures import Spec, axis, figure
from onnxsparse.progress import tell
from onnxsparse.quantization.accuracy.mixed_precision import Candidate, count_ops, strongest
from onnxsparse.quantization.accuracy.precision_search import predicted_db
from onnxsparse.quantization.accuracy.wide_cost import WideCost
from onnxsparse.records import TextTable, json_text

COLUMNS = ("wide ops", "activations", "weights", "predicted dB", "SQNR dB", "latency ms")


@dataclass(frozen=True)
class CurvePoint:
    """One set of wide tensors. `predicted_db`: by adding up noise; `sqnr_db`: of the worst output or slice, judged.

    `latency_ms`: None for a target without costs.
    """

    ops: int
    activations: int
    weights: int
    predicted_db: float
    sqnr_db: float | None
    latency_ms: float | None
    tensors: tuple[str, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        levels = (f"{self.predicted_db:.1f}", "none" if self.sqnr_db is None else f"{self.sqnr_db:.1f}")
        latency = "-" if self.latency_ms is None else f"{self.latency_ms:.3f}"
        return str(self.ops), str(self.activations), str(self.weights), *levels, latency

    def to_json(self) -> dict[str, object]:
        """An entry of the JSON file."""
        identical = self.sqnr_db == math.inf
        return {**asdict(self), "sqnr_db": None if identical else self.sqnr_db, "identical": identical}


def precision_curve(
    candidates: Sequence[Candidate], judge: Callable[[Sequence[Candidate]], float | None], cost: WideCost | None
) -> Iterator[CurvePoint]:
    """The points of the curve, from nothing wide to everything. `judge`: the SQNR in dB with a set wide."""
    every = count_ops(candidates)
    counts = [0, *(1 << power for power in range(every.bit_length()) if 1 << power < every), every]
    for number, count in enumerate(counts):
        tell("precision curve", number, len(counts))
        wide = list(candidates) if count == every else strongest(candidates, count) if count else []
        tensors = [tensor for each in wide for tensor in each.tensors]
        yield CurvePoint(
            count_ops(wide),
            sum(not tensor.is_weight for tensor in tensors),
            len({tensor.name for tensor in tensors if tensor.is_weight}),
            predicted_db(candidates, wide),
            judge(wide),
            None if cost is None else cost.latency_ms(wide),
            tuple(dict.fromkeys(tensor.name for tensor in tensors)),
        )


def curve_table(points: Sequence[CurvePoint]) -> TextTable:
    """The curve for people."""
    return TextTable("SQNR by wide layers", COLUMNS, tuple(point.cells for point in points))


def curve_json(points: Sequence[CurvePoint], model: str, target: str) -> str:
    """The text of the curve's JSON file."""
    return json_text({"schema": 1, "model": model, "target": target, "points": [point.to_json() for point in points]})


def curve_html(points: Sequence[CurvePoint], model: str, target: str) -> str:
    """The curve as one HTML file that opens offline, drawn by Vega-Lite."""
    import vl_convert

    page: str = vl_convert.vegalite_to_html(curve_figure(points, model, target), bundle=True)
    return page


def curve_figure(points: Sequence[CurvePoint], model: str, target: str) -> Spec:
    """SQNR over latency, or over the number of wide ops if the target has no costs."""
    timed = all(point.latency_ms is not None for point in points)
    over = axis("latency_ms", f"latency on {target}, ms", scale={"zero": False}) if timed else axis("ops", "wide ops")
    encoding = {
        "x": over,
        "y": axis("sqnr_db", "SQNR of the worst output or slice, dB", scale={"zero": False}),
        "order": {"field": "ops"},
    }
    tooltip = [{"field": name} for name in ("ops", "activations", "weights", "predicted_db", "sqnr_db", "latency_ms")]
    label = {"mark": {"type": "text", "dy": -10}, "encoding": {"text": {"field": "ops"}}}
    line = {"mark": {"type": "line", "point": True}, "encoding": {"tooltip": tooltip}}
    values = [{**point.to_json(), "tensors": None} for point in points]
    title = f"{model}: SQNR by wide layers, whose number stands at each point"
    return figure(title, 400, data={"values": values}, encoding=encoding, layer=[line, label]) | {
        "width": 900,
        "background": "white",
    }
