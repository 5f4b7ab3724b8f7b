"""The sensitivities of a model as one HTML file that opens offline."""

import math

from onnxsparse.cost.report.figures import Spec, axis, figure
from onnxsparse.recovery.database import DENSITIES, Database


def sensitivity_html(found: Database) -> str:
    """The HTML text, drawn by Vega-Lite."""
    import vl_convert

    page: str = vl_convert.vegalite_to_html(figures(found), bundle=True)
    return page


def figures(found: Database) -> Spec:
    """Three figures: levels of the outputs in dB if one layer alone is pruned, errors of the layers, and their sensitivities."""
    points: list[Spec] = [
        {
            "place": place,
            "layer": curve.nodes[0],
            "sparsity": round(1 - density, 3),
            "error": error,
            "level_db": level(curve.sensitivity * error),
        }
        for place, curve in enumerate(found.layers, start=1)
        for density, error in zip(DENSITIES, curve.errors, strict=True)
    ]
    rows: list[Spec] = [
        {"place": place, "layer": curve.nodes[0], "sensitivity": curve.sensitivity, "macs": curve.macs, "weights": curve.elements}
        for place, curve in enumerate(found.layers, start=1)
    ]
    title = f"{found.model}: what pruning costs, measured on {found.samples} samples of {found.source}"
    own = {"scale": {"color": "independent"}, "legend": {"color": "independent"}}
    return figure(title, vconcat=[levels(points), errors(points), bars(rows)], resolve=own) | {"background": "white"}


def level(loss: float) -> float | None:
    """A relative error as an SQNR in dB; None for no error."""
    return -10 * math.log10(loss) if loss > 0 else None


PLACE = axis("place", "layer, in network order", "ordinal", axis={"labelOverlap": True, "labelAngle": 0})


def levels(points: list[Spec]) -> Spec:
    """A cell for each layer and sparsity, coloured by the level of the outputs."""
    colour = axis("level_db", "outputs, dB", scale={"scheme": "redyellowgreen", "domain": [0, 40], "clamp": True})
    encoding = {
        "x": PLACE,
        "y": axis("sparsity", "sparsity of this layer alone", "ordinal", sort="descending"),
        "color": colour,
        "tooltip": [{"field": name} for name in ("layer", "sparsity", "level_db", "error")],
    }
    title = "SQNR of the outputs if one layer alone is pruned"
    return {"title": title, "width": 900, "height": 220, "data": {"values": points}, "mark": "rect", "encoding": encoding}


def errors(points: list[Spec]) -> Spec:
    """A line for each layer: the relative error of its own output over its sparsity."""
    encoding = {
        "x": axis("sparsity", "sparsity of the layer"),
        "y": axis("error", "relative error of its output", scale={"type": "log"}),
        "color": axis("place", "layer", scale={"scheme": "viridis"}),
        "detail": {"field": "place"},
        "tooltip": [{"field": name} for name in ("layer", "sparsity", "error")],
    }
    positive = [point for point in points if point["error"]]
    data = {"values": positive}
    return {"title": "Error of each layer", "width": 900, "height": 260, "data": data, "mark": "line", "encoding": encoding}


def bars(rows: list[Spec]) -> Spec:
    """A bar for each layer: its sensitivity, coloured by its MACs."""
    encoding = {
        "x": PLACE,
        "y": axis("sensitivity", "sensitivity"),
        "color": axis("macs", "MACs", scale={"scheme": "blues"}),
        "tooltip": [{"field": name} for name in ("layer", "sensitivity", "macs", "weights")],
    }
    title = "Movement of the outputs per unit of error"
    return {"title": title, "width": 900, "height": 200, "data": {"values": rows}, "mark": "bar", "encoding": encoding}
