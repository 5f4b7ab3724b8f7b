"""The deployment report as one self-contained HTML file: it needs no network and no other file."""

import json
from functools import cache
from importlib.resources import files

from onnxsparse.cost.estimate import Deployment, Operation
from onnxsparse.cost.report.caveats import caveats, open_sizes
from onnxsparse.cost.report.figures import figures
from onnxsparse.cost.report.records import deployment_json
from onnxsparse.cost.report.tables import formatted_totals
from onnxsparse.cost.sparsity_sweep import Curve

TITLES = {
    "latency_ms": "latency, ms",
    "fps": "frames per second",
    "macs": "MACs",
    "nonzero_macs": "nonzero MACs",
    "sparsity_op": "sparsity_op",
    "mem_p_mb": "coefficients, MB",
    "mem_a_mb": "activations, MB",
    "dram_mb": "DRAM per frame, MB",
}
COLUMNS = (
    "node",
    "op_type",
    "latency_ms",
    "compute_ms",
    "io_ms",
    "bound",
    "density",
    "macs",
    "coefficient_bytes",
    "passes",
    "advice",
)


def html(found: Deployment, model: str, curves: tuple[Curve, ...], operation: Operation | None = None) -> str:
    """The text of the page; the source of Vega-Lite, which draws the figures, is part of it."""
    from jinja2 import Environment

    shown = formatted_totals(found)
    tiles = [(name, title, shown[name]) for name, title in TITLES.items()]
    record = deployment_json(found, model, curves, operation)
    payload = {"figures": figures(found, curves), "layers": record["layers"], "columns": COLUMNS, "other": found.other_ms}
    page = Environment(autoescape=True).from_string(resource("page.html"))
    return page.render(
        model=model,
        found=found,
        caveats=list(caveats(found)),
        open_sizes=open_sizes(found),
        tiles=tiles,
        record=record,
        operation=operation,
        columns=COLUMNS,
        style=resource("page.css"),
        script=bundled(resource("page.js")),
        payload=embed_json(payload),
    )


def embed_json(content: object) -> str:
    """JSON text for a script element, with `<` escaped so that it cannot end the element."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


@cache
def bundled(source: str) -> str:
    """A script together with Vega-Lite, for a script element."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle(source)
    return bundle.replace("</script", "<\\/script")


def resource(name: str) -> str:
    """The text of a file beside this module."""
    return files("onnxsparse.cost.report").joinpath(name).read_text(encoding="utf-8")
