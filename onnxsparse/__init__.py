"""Prune, quantize, annotate, inspect and compare ONNX models, on the ONNX file alone.

>>> from onnxsparse import Pipeline, Prune, Annotate, load
>>> model = load("in.onnx")
>>> report = Pipeline([Prune(sparsity_op=0.7), Annotate()]).run(model)
>>> model.save("out.onnx")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxsparse.analysis.layers import layers
    from onnxsparse.calibration.data import load_samples
    from onnxsparse.errors import BackendError, ModelError, OnnxSparseError, ParamError, PassError
    from onnxsparse.ir.model import Model, load
    from onnxsparse.passes.annotate import Annotate
    from onnxsparse.passes.apply_masks import ApplyMasks
    from onnxsparse.passes.fix_shapes import FixShapes
    from onnxsparse.passes.fold import Fold
    from onnxsparse.passes.prune import Prune
    from onnxsparse.passes.prune_channels import PruneChannels
    from onnxsparse.passes.quantize import Quantize
    from onnxsparse.passes.sensitivity import Sensitivity
    from onnxsparse.passes.strip import Strip
    from onnxsparse.pipeline.run import Pipeline
    from onnxsparse.runtime.compare import compare
    from onnxsparse.runtime.metric import TestData

# public name → its module; imported at first use, because onnx and pydantic would slow down `onnxsparse --help`
_HOMES = {
    "Annotate": "onnxsparse.passes.annotate",
    "ApplyMasks": "onnxsparse.passes.apply_masks",
    "BackendError": "onnxsparse.errors",
    "Model": "onnxsparse.ir.model",
    "FixShapes": "onnxsparse.passes.fix_shapes",
    "Fold": "onnxsparse.passes.fold",
    "ModelError": "onnxsparse.errors",
    "OnnxSparseError": "onnxsparse.errors",
    "ParamError": "onnxsparse.errors",
    "PassError": "onnxsparse.errors",
    "Pipeline": "onnxsparse.pipeline.run",
    "Prune": "onnxsparse.passes.prune",
    "PruneChannels": "onnxsparse.passes.prune_channels",
    "Quantize": "onnxsparse.passes.quantize",
    "Sensitivity": "onnxsparse.passes.sensitivity",
    "Strip": "onnxsparse.passes.strip",
    "TestData": "onnxsparse.runtime.metric",
    "compare": "onnxsparse.runtime.compare",
    "layers": "onnxsparse.analysis.layers",
    "load": "onnxsparse.ir.model",
    "load_samples": "onnxsparse.calibration.data",
}

__all__ = [
    "Annotate",
    "ApplyMasks",
    "BackendError",
    "FixShapes",
    "Fold",
    "Model",
    "ModelError",
    "OnnxSparseError",
    "ParamError",
    "PassError",
    "Pipeline",
    "Prune",
    "PruneChannels",
    "Quantize",
    "Sensitivity",
    "Strip",
    "TestData",
    "compare",
    "layers",
    "load",
    "load_samples",
]


def __getattr__(name: str) -> object:
    """The public name `name`, imported at its first use. Raises AttributeError for a name that does not exist."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'onnxsparse' has no attribute '{name}'")
