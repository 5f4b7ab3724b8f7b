"""Running models in onnxruntime."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxsparse.errors import BackendError
from onnxsparse.model import Model
from onnxsparse.weights import Array

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

MAX_BYTES_IN_MEMORY = 1 << 30
"""Models above this go to onnxruntime through a temporary file."""

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Runner:
    """A model ready to run; `outputs` in graph order, added ones last."""

    session: "InferenceSession"
    outputs: tuple[str, ...]
    model_name: str

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name. Raises BackendError where onnxruntime cannot run these inputs."""
        try:
            values = self.session.run(list(self.outputs), feeds)
        except Exception as error:
            raise BackendError(f"onnxruntime cannot run {self.model_name}: {first_line(error)}") from None
        return {name: as_array(value) for name, value in zip(self.outputs, values, strict=True)}


def runner(
    model: Model,
    *,
    custom_ops: Sequence[Path] = (),
    also: Sequence[str] = (),
    optimize: bool = True,
    level: str = "ORT_ENABLE_ALL",
) -> Runner:
    """`model` in an onnxruntime CPU session, with the tensors `also` as further outputs; `optimize=False` runs it as it is
    written,
    `level` otherwise names how far onnxruntime may change it.

    Raises BackendError where onnxruntime refuses the model, as it does for ops that it does not know.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    wanted = level if optimize else "ORT_DISABLE_ALL"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, wanted)
    return start(model, options, custom_ops, also)


def profiled_runner(model: Model, profile: Path) -> Runner:
    """`model` in a session that writes down how long each kernel took, to a file that begins with `profile`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(profile)
    return start(model, options)


def start(model: Model, options: "SessionOptions", custom_ops: Sequence[Path] = (), also: Sequence[str] = ()) -> Runner:
    options.log_severity_level = 4
    outputs = [o.name for o in model.proto.graph.output]
    also = [name for name in also if name not in outputs]
    if also:
        model = model.copy()
        model.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also)
    try:
        for library in custom_ops:
            options.register_custom_ops_library(str(library.resolve()))
        session = open_session(model, options)
    except Exception as error:
        raise BackendError(f"onnxruntime cannot load {model.name}: {first_line(error)}") from None
    return Runner(session, (*outputs, *also), model.name)


def open_session(model: Model, options: "SessionOptions") -> "InferenceSession":
    from onnxruntime import InferenceSession

    providers = ["CPUExecutionProvider"]
    if not model.weights.side_files() and model.weights.inline_bytes < MAX_BYTES_IN_MEMORY:
        return InferenceSession(model.to_bytes(), options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="onnxsparse-") as folder:
        path = Path(folder) / "model.onnx"
        model.save(path)
        return InferenceSession(str(path), options, providers=providers)


def as_array(value: object) -> Array:
    """An output as an array; of type object for a sequence or map."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    wrapped = np.empty((), object)
    wrapped[()] = value
    return wrapped


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
