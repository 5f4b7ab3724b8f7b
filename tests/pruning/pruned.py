"""Pruning a copy of a model, and reading the report."""

import onnx

from onnxsparse import Prune, layers
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import StepReport


def prune(built: onnx.ModelProto | Model, **options: object) -> tuple[Model, StepReport]:
    pruned = Model.from_proto(built) if isinstance(built, onnx.ModelProto) else built.copy()
    return pruned, Prune(**options).run(pruned)  # type: ignore[arg-type]  # options come from the test's table


def sparsity_of(pruned: Model) -> dict[str, float]:
    return {layer.node: layer.sparsity or 0.0 for layer in layers(pruned)}


def reasons(report: StepReport) -> dict[str, str]:
    return {skip.node: skip.reason for skip in report.skipped}
