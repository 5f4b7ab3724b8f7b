"""Facts and records as JSON; docs/json.md describes the documents."""

from collections.abc import Sequence
from importlib.metadata import version
from inspect import cleandoc
from platform import python_version

from pydantic import TypeAdapter

from onnxsparse.analysis.layer import Layer, Layers
from onnxsparse.annotations import totals_json
from onnxsparse.pipeline.base import StepReport
from onnxsparse.pipeline.check import Step
from onnxsparse.pipeline.run import RunReport

SCHEMA = 1


def layers_json(layers: Layers, model: str) -> dict[str, object]:
    """The document of `inspect --json`; None is unknown. `schema` counts incompatible changes."""
    return {
        "schema": SCHEMA,
        "model": model,
        "complete": layers.totals.complete,
        "totals": totals_json(layers.totals),
        "layers": [layer_json(layer) for layer in layers],
        "unknown_ops": list(layers.unknown_ops),
        "unknown_nodes": [{"node": u.node, "op_type": u.op, "macs": None} for u in layers.unknown],
        "assumed": list(layers.binding.assumed),
        "notes": list(layers.notes),
    }


def layer_json(layer: Layer) -> dict[str, object]:
    """One entry of `layers`."""
    return {
        "node": layer.node,
        "op_type": layer.op_type,
        "within": layer.within,
        "weights": layer.elements,
        "zero_weights": layer.zeros,
        "macs": layer.macs,
        "nonzero_macs": layer.nonzero_macs,
        "sparsity": layer.sparsity,
        "sparsity_op": layer.weight_share,
        "tensors": [{"name": w.tensor, "elements": w.elements, "zeros": w.zeros, "uses": w.uses} for w in layer.weights],
    }


def run_json(report: RunReport, recipe: Sequence[Step], source: str) -> dict[str, object]:
    """The document of --record: versions, every pass with all its options, and what each pass did.

    `source`: the name of the model that was read. `schema` counts incompatible changes.
    """
    return {
        "schema": SCHEMA,
        "model": source,
        "versions": {name: version(name) for name in ("onnxsparse", "onnx", "onnxruntime", "numpy")}
        | {"python": python_version()},
        "recipe": [{p.name: TypeAdapter(type(p)).dump_python(p, mode="json")} for p in recipe],
        "complete": all(t.complete for step in report.steps for t in (step.before, step.after) if t is not None),
        "steps": [step_json(step) for step in report.steps],
        "comparison": None if report.comparison is None else report.comparison.to_json(),
        "not_compared": report.not_compared,
        "metric": None if report.metric is None else report.metric.to_json(),
        "passed": not report.failures,
        "failures": list(report.failures),
        "notes": list(report.notes),
    }


def step_json(step: StepReport) -> dict[str, object]:
    """One entry of `steps`."""
    return {
        "pass": step.pass_name,
        "seconds": step.seconds,
        "peak_memory_bytes": step.peak_memory_bytes,
        "changes": [
            {
                "tensor": change.tensor,
                "nodes": list(change.nodes),
                "elements": change.elements,
                "zeros_before": change.zeros_before,
                "zeros_after": change.zeros_after,
            }
            for change in step.changes
        ],
        "skipped": [{"node": skip.node, "reason": skip.reason} for skip in step.skipped],
        "notes": list(step.notes),
        "before": None if step.before is None else totals_json(step.before),
        "after": None if step.after is None else totals_json(step.after),
        "artifacts": [str(path) for path in step.artifacts],
        "saves": [str(path) for path in step.saves],
        "reused": step.reused,
        "verdict": None if step.verdict is None else step.verdict.to_json(),
    }


def passes_json(classes: Sequence[type[Step]]) -> list[dict[str, object]]:
    """The document of `passes --json`: every pass with its help and the JSON schema of its options."""
    return [{"name": c.name, "help": cleandoc(c.__doc__ or ""), "options": TypeAdapter(c).json_schema()} for c in classes]
