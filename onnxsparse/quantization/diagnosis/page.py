"""The diagnosis of a quantized model as one HTML file that opens offline."""

import math

from onnxsparse.quantization.diagnosis.measure import Diagnosis

Spec = dict[str, object]


def diagnosis_html(found: Diagnosis, model: str) -> str:
    """The HTML text: SQNR of all tensors, worst first, the layers' own SQNR, and output slices, drawn by Vega-Lite."""
    import vl_convert

    page: str = vl_convert.vegalite_to_html(figure(found, model), bundle=True)
    return page


def figure(found: Diagnosis, model: str) -> Spec:
    """The Vega-Lite specification of both charts, one below the other; `model` is the name in the title."""
    tensors = [{"place": i, **tensor.to_json()} for i, tensor in enumerate(found.tensors, start=1)]
    slices = [{"label": part.label, **part.to_json()} for part in found.slices if part.distance.level_db != math.inf]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": f"{model}: signal to quantization noise, worst first, over {found.samples} samples",
        "vconcat": [tensor_chart(tensors), slice_chart(slices)],
    }


def tensor_chart(rows: list[dict[str, object]]) -> Spec:
    """A bar per activation with its SQNR, coloured by range use, and a red tick for the layer's own SQNR."""
    shown = ["tensor", "node", "sqnr_db", "own_sqnr_db", "range_use", "clipped", "bits", "scale", "low", "high"]
    encoding = {
        "x": {"field": "place", "type": "ordinal", "title": "activation, worst first", "axis": {"labelOverlap": True}},
        "y": {"field": "sqnr_db", "type": "quantitative", "title": "SQNR, dB"},
        "color": {"field": "range_use", "type": "quantitative", "title": "range use", "scale": {"domain": [0, 1]}},
        "tooltip": [{"field": field} for field in shown],
    }
    own = {
        "mark": {"type": "tick", "color": "#b22222", "thickness": 2, "tooltip": True},
        "encoding": {**encoding, "y": {"field": "own_sqnr_db", "type": "quantitative"}, "color": {"value": "#b22222"}},
    }
    bars = {"mark": {"type": "bar"}, "encoding": encoding}
    title = "Activations (bar: inherited noise included, red: the layer's own)"
    return {"title": title, "width": 900, "height": 260, "data": {"values": rows}, "layer": [bars, own]}


def slice_chart(rows: list[dict[str, object]]) -> Spec:
    """A bar per output and per slice with its SQNR; equal slices are left out of `rows`."""
    encoding = {
        "x": {"field": "label", "type": "nominal", "title": "output", "sort": None, "axis": {"labelOverlap": True}},
        "y": {"field": "sqnr_db", "type": "quantitative", "title": "SQNR, dB"},
        "color": {"field": "output", "type": "nominal"},
        "tooltip": [{"field": field} for field in ("label", "sqnr_db", "problem", "rms")],
    }
    title = "Outputs and slices of them"
    return {"title": title, "width": 900, "height": 260, "data": {"values": rows}, "mark": {"type": "bar"}, "encoding": encoding}
