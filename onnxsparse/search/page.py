"""The front as one HTML page that opens offline: a figure whose points open their reports, and a table."""

from collections.abc import Mapping, Sequence
from html import escape

from onnxsparse.cost.report.figures import Spec, axis, figure
from onnxsparse.cost.report.html import bundled, embed_json
from onnxsparse.cost.report.tables import format_total
from onnxsparse.search.front import BOTH, CHANNELS, NEITHER, ZEROS, Front, Point, excess

COLOURS = {"unpruned": "#8a8a8a", NEITHER: "#b279a2", ZEROS: "#4c78a8", CHANNELS: "#f58518", BOTH: "#54a24b"}
"""Kind of a point → colour; distinguishable with colour blindness."""

HERE = "#front"
"""Link of points without a report: Vega would follow none at all to a page that does not exist."""

STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left } tr.best { font-weight: bold }
.muted { color: #666 }
"""


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{verdict}.</p>
<p class="muted">{asked}</p>
<div id="front"></div>
{tables}
<script type="application/json" id="figure">{figure}</script>
<script type="module">{script}</script>
</body>
</html>
"""

SCRIPT = """
const figure = JSON.parse(document.getElementById("figure").textContent)
vegaEmbed("#front", figure, { renderer: "svg", actions: false })
"""


def page(front: Front) -> str:
    """The text of the page."""
    return PAGE.format(
        title=escape(f"{front.subject.model.name} on {front.subject.target}"),
        style=STYLE,
        verdict=escape(front.verdict),
        asked=escape(asked(front)),
        tables=table(front) + failures(front),
        figure=embed_json(front_figure(front)),
        script=bundled(SCRIPT),
    )


def asked(front: Front) -> str:
    """What was searched for."""
    subject = front.subject
    limits = [] if subject.by_drop else [f"{budget.name}={budget.value:g}" for budget in subject.budgets]
    limits += [] if subject.max_drop is None else [f"{subject.metric} may drop by {subject.max_drop:g}"]
    trials = len(front.points) + len(front.others) + len(front.failed)
    ended = " so far; the search was interrupted" if front.interrupted else ""
    dense, floor = (format_total(subject.costs.cost_key, value) for value in (front.dense, front.floor))
    return f"Limits: {', '.join(limits)}. {trials} trials in full{ended}. Unpruned: {dense}; least that can be reached: {floor}."


def front_figure(front: Front) -> Spec:
    """Harm over cost: the front, single methods as curves, the range of costs over the variants of the target as bars."""
    key = front.subject.costs.cost_key
    x = axis("cost", f"{key} on {front.subject.target}", scale={"zero": False})
    # a divergence spans orders of magnitude; the drop of a metric may be negative
    y = axis("harm", front.subject.harm, scale={"type": "sqrt" if front.subject.metric is None else "linear"})
    kinds = {"scale": {"domain": list(COLOURS), "range": list(COLOURS.values())}, "legend": {"orient": "top"}}
    place: Spec = {"x": x, "y": y}
    shown = place | {"color": axis("kind", "", "nominal", **kinds)}
    every = (*front.points, *front.others)
    rows = [row(front, point) for point in every]
    single = [line for kind in (ZEROS, CHANNELS) for line in curve(front, every, kind)]
    span = shown | {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}}
    step = {"type": "line", "color": "#333", "interpolate": "step-after"}
    dense: Spec = {"kind": "unpruned", "cost": front.dense, "harm": 0.0, "report": HERE}
    layers = [
        layer(single, {"type": "line", "strokeDash": [4, 3], "opacity": 0.7}, shown),
        layer(rows, {"type": "rule", "opacity": 0.4}, span),
        layer([row for row in rows if row["front"]], step, place),
        layer([*rows, dense], {"type": "point", "filled": True, "size": 90}, shown | LINKS),
    ]
    if not front.subject.by_drop:
        limit = [{"most": front.subject.budgets[0].most}]
        layers.append(layer(limit, {"type": "rule", "strokeDash": [2, 2]}, {"x": {"field": "most", "type": "quantitative"}}))
    return figure("Front, and the single methods as dashed curves", 420, layer=layers) | {"width": 860, "background": "white"}


LINKS: Spec = {
    "opacity": {"condition": {"test": "datum.front || datum.kind == 'unpruned'", "value": 1}, "value": 0.35},
    "href": {"field": "report"},
    "tooltip": [{"field": name} for name in ("number", "kind", "cost", "harm", "low", "high", "within")],
}
"""Encodings of points: faint off the front, with a link to the report and its numbers."""


def layer(rows: Sequence[Mapping[str, object]], mark: Mapping[str, object], encoding: Mapping[str, object]) -> Spec:
    """A layer of the figure."""
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": encoding}


def row(front: Front, point: Point) -> Spec:
    """A point for the figure."""
    totals = point.outcome.totals
    low, high = (totals[name] for name in ("latency_ms_low", "latency_ms_high"))
    if not front.subject.costs.cost_key.startswith("latency"):
        low = high = point.cost
    on_front = point in front.points
    return {
        "number": point.number,
        "kind": point.kind,
        "cost": point.cost,
        "harm": point.outcome.harm,
        "low": low,
        "high": high,
        "within": excess(front.subject, point.outcome) <= 0,
        "front": on_front,
        "report": f"points/{point.number:03d}/report.html" if on_front else HERE,
    }


def curve(front: Front, every: Sequence[Point], kind: str) -> list[Spec]:
    """A single method from the unpruned model on, by falling cost."""
    found = sorted((point for point in every if point.kind == kind), key=lambda point: -point.cost)
    return [{"kind": kind, "cost": front.dense, "harm": 0.0}, *[row(front, point) for point in found]] if found else []


def table(front: Front) -> str:
    """The front as a table; the best point is bold."""
    key = front.subject.costs.cost_key
    columns = ("point", "kind", key, front.subject.harm, "latency, ms", "range, ms", "sparsity_op", "MACs", "mem_p, MB", "within")
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = "".join(table_row(front, point) for point in front.points)
    return f"<h2>Front</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def table_row(front: Front, point: Point) -> str:
    """A line of the table."""
    totals = point.outcome.totals
    name = f"{point.number:03d}"
    span = " to ".join(format_total(key, totals[key]) for key in ("latency_ms_low", "latency_ms_high"))
    cells = [
        f"<a href='points/{name}/report.html'>{name}</a> (<a href='points/{name}/recipe.yaml'>recipe</a>)",
        point.kind,
        format_total(front.subject.costs.cost_key, point.cost),
        f"{point.outcome.harm:.4g}",
        format_total("latency_ms", totals["latency_ms"]),
        span,
        *(format_total(key, totals[key]) for key in ("sparsity_op", "macs", "mem_p_mb")),
        "yes" if excess(front.subject, point.outcome) <= 0 else "no",
    ]
    best = " class='best'" if point == front.best else ""
    return f"<tr{best}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def failures(front: Front) -> str:
    """The trials without a model, with their reasons."""
    if not front.failed:
        return ""
    lines = "".join(f"<li>{escape(f'{vars(o.params)}: {o.fault}')}</li>" for o in front.failed)
    return f"<h2>Trials without a model</h2><ul class='muted'>{lines}</ul>"
