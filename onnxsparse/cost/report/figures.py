"""The report's figures as Vega-Lite specifications, drawn in the browser for HTML and by vl_convert for SVG.

A figure without data is None.
"""

from collections.abc import Mapping

from onnxsparse.cost.backends.layer_model import FileBackend
from onnxsparse.cost.estimate import Deployment
from onnxsparse.cost.report.records import row_json
from onnxsparse.cost.sparsity_sweep import CHANNEL_FACTORS, SPARSITIES, Curve

Spec = dict[str, object]

# distinguishable with colour blindness, and readable on light and dark backgrounds
COLOURS = {"compute": "#4c78a8", "io": "#f58518", "skip-limit": "#b279a2", "overhead": "#8a8a8a", "measured": "#54a24b"}
TOOLTIP = ["node", "op_type", "latency_ms", "compute_ms", "io_ms", "bound", "density", "advice"]


def figures(found: Deployment, curves: tuple[Curve, ...]) -> dict[str, Spec]:
    """Name → figure; figures without data are left out. `curves` may be empty."""
    rows = [
        {"layer": i, **row_json(row)}
        for i, row in enumerate(found.rows, start=1)
        if row.cost is not None and not found.load.is_free(row.item)
    ]
    drawn = {
        "latency": latency(rows),
        "roofline": roofline(found, rows),
        "sparsity": sparsity(rows),
        "memory": memory(found),
        "knee": knee(curves),
    }
    known = "" if found.costs_complete else ", of the layers whose cost is known"
    return {name: {**spec, "title": f"{spec['title']}{known}"} for name, spec in drawn.items() if spec is not None}


def figure(title: str, height: int = 240, **parts: object) -> Spec:
    """A figure with this title, `height` in pixels, and further parts of a Vega-Lite specification."""
    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    return {"$schema": schema, "title": title, "width": "container", "height": height, "background": "transparent", **parts}


def axis(field: str, title: str, kind: str = "quantitative", **parts: object) -> Spec:
    """An encoding channel for `field`; `kind` is its Vega-Lite type."""
    return {"field": field, "type": kind, "title": title, **parts}


def bound_colour(rows: list[dict[str, object]]) -> Spec:
    """Colour by bound, with the bounds that occur in `rows` in the legend."""
    present = [bound for bound in COLOURS if any(row["bound"] == bound for row in rows)]
    scale = {"domain": present, "range": [COLOURS[bound] for bound in present]}
    return axis("bound", "bound by", "nominal", scale=scale, legend={"orient": "top"})


def tooltip(fields: list[str] = TOOLTIP) -> list[Spec]:
    """Tooltip entries for these fields; times with three decimals."""
    return [{"field": field, "format": ".3~f"} if field.endswith("_ms") else {"field": field} for field in fields]


def latency(rows: list[dict[str, object]]) -> Spec | None:
    """Bars of latency in ms per layer, in network order."""
    if not rows:
        return None
    encoding = {
        "x": axis("layer", "layer, in network order", "ordinal", axis={"labelOverlap": True, "labelAngle": 0}),
        "y": axis("latency_ms", "latency, ms"),
        "color": bound_colour(rows),
        "tooltip": tooltip(),
    }
    return figure("Latency per layer", data={"values": rows}, mark={"type": "bar"}, encoding=encoding)


def roofline(found: Deployment, rows: list[dict[str, object]]) -> Spec | None:
    """Nonzero GMAC/s over nonzero MACs per byte of DRAM traffic, one point per layer, with the target's roof."""
    points = [point for row in rows if (point := roofline_point(row)) is not None]
    if not points:
        return None
    scatter = {
        "data": {"values": points},
        "mark": {"type": "point", "filled": True, "opacity": 0.8},
        "encoding": {
            "x": axis("intensity", "nonzero MACs per byte of DRAM traffic", scale={"type": "log"}),
            "y": axis("rate", "GMAC/s, zeros not counted", scale={"type": "log"}),
            "color": bound_colour(points),
            "tooltip": tooltip([*TOOLTIP, "intensity", "rate"]),
        },
    }
    return figure("Roofline", layer=[scatter, *roof(found, points)])


def roofline_point(row: Mapping[str, object]) -> dict[str, object] | None:
    """A row with `intensity` (MACs per byte) and `rate` (GMAC/s); None if MACs, traffic or time are 0 or unknown."""
    macs, moved, ms = (float(str(row[key] or 0)) for key in ("nonzero_macs", "dram_bytes", "latency_ms"))
    return {**row, "intensity": macs / moved, "rate": macs / ms / 1e6} if macs and moved and ms else None


def roof(found: Deployment, points: list[dict[str, object]]) -> list[Spec]:
    """The line min(peak, intensity · bandwidth) over the range of the points; empty for a target without a file."""
    if not isinstance(found.backend, FileBackend):
        return []
    peak, bandwidth = found.backend.roof()
    intensities = [float(str(point["intensity"])) for point in points]
    ends = sorted((min(intensities), peak / bandwidth, max(*intensities, peak / bandwidth) * 1.5))
    line = [{"intensity": i, "rate": min(peak, i * bandwidth)} for i in ends]
    encoding = {"x": axis("intensity", ""), "y": axis("rate", "")}
    return [{"data": {"values": line}, "mark": {"type": "line", "strokeDash": [4, 3], "color": "#8a8a8a"}, "encoding": encoding}]


def sparsity(rows: list[dict[str, object]]) -> Spec | None:
    """Share of zero weights over share of the MACs, one point per layer with weights."""
    weighted = [row for row in rows if row["density"] is not None]
    total = sum(float(str(row["macs"] or 0)) for row in weighted)
    if not total:
        return None
    points = [
        {**row, "sparsity": 1 - float(str(row["density"])), "share": float(str(row["macs"] or 0)) / total} for row in weighted
    ]
    encoding = {
        "x": axis("share", "share of the operations", axis={"format": "%"}),
        "y": axis("sparsity", "zero weights", axis={"format": "%"}, scale={"domain": [0, 1]}),
        "color": bound_colour(points),
        "tooltip": tooltip(),
    }
    mark = {"type": "point", "filled": True, "opacity": 0.8}
    return figure("Sparsity against share of operations", data={"values": points}, mark=mark, encoding=encoding)


def memory(found: Deployment) -> Spec | None:
    """Bars of held activations in MB while each layer runs."""
    held = [
        {"layer": i, "node": item.node, "MB": size / 1e6}
        for i, (item, size) in enumerate(zip(found.load.items, found.memory_bytes, strict=True), start=1)
        if size is not None
    ]
    if not held:
        return None
    encoding = {
        "x": axis("layer", "layer, in network order", "ordinal", axis={"labelOverlap": True, "labelAngle": 0}),
        "y": axis("MB", "held, MB"),
        "tooltip": tooltip(["layer", "node", "MB"]),
    }
    mark = {"type": "bar", "color": COLOURS["compute"], "opacity": 0.7}
    return figure("Inputs, outputs and live activations", data={"values": held}, mark=mark, encoding=encoding)


def knee(curves: tuple[Curve, ...]) -> Spec | None:
    """Curves of latency over sparsity_op, one facet per variant and one colour per channel factor, with marked knees."""
    if not curves:
        return None
    points = [
        {
            "target": curve.variant,
            "channels": f"{curve.channel_factor:.0%}",
            "sparsity_op": sparsity,
            "latency_ms": ms,
            "knee": sparsity == curve.knee,
        }
        for curve in curves
        for sparsity, ms in zip(SPARSITIES, curve.latency_ms, strict=True)
    ]
    encoding = {
        "x": axis("sparsity_op", "sparsity_op", axis={"format": "%"}),
        "y": axis("latency_ms", "latency, ms"),
        "color": axis(
            "channels", "channels kept", "nominal", sort=[f"{f:.0%}" for f in CHANNEL_FACTORS], legend={"orient": "top"}
        ),
        "tooltip": tooltip(["target", "channels", "sparsity_op", "latency_ms"]),
    }
    lines = {"mark": {"type": "line"}}
    knees = {"transform": [{"filter": "datum.knee"}], "mark": {"type": "point", "filled": True, "size": 90, "shape": "diamond"}}
    marks = [knees] if any(curve.knee is not None for curve in curves) else []
    spec = figure("Latency over sparsity (◆ knee)")
    inner = {"width": 260, "height": 200, "encoding": encoding, "layer": [lines, *marks]}
    facet = axis("target", "", "nominal", sort=[curve.variant for curve in curves])
    kept = {key: spec[key] for key in ("$schema", "title", "background")}
    return {**kept, "data": {"values": points}, "facet": facet, "columns": 3, "spec": inner}


def to_svg(spec: Spec) -> str:
    """SVG text of one figure, on white."""
    import vl_convert

    fixed = {**spec, "background": "white"} | ({"width": 720} if "width" in spec else {})
    drawn: str = vl_convert.vegalite_to_svg(fixed)
    return drawn
