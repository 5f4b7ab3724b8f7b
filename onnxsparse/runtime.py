"""Running models in onnxruntime."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxsparse.errors import BackendError
from onnxsparse.graph import Graph
from onnxsparse.model import Model
from onnxsparse.protos import replace_all
from onnxsparse.weights import PACKED_TYPES, Array, is_lifted, set_external, tensors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, SessionOptions

MAX_BYTES_IN_MEMORY = 1 << 30
"""Models above this go to onnxruntime through a temporary file."""

LENT = "onnxsparse-lent"
"""Where a lent initializer is said to be."""

Feeds = dict[str, Array]


@dataclass(frozen=True)
class Runner:
    """A model ready to run; `outputs` in graph order, added ones last."""

    session: "InferenceSession"
    outputs: tuple[str, ...]
    model_name: str

    @property
    def types(self) -> dict[str, str]:
        """onnxruntime's names for the outputs' types, as tensor(float)."""
        return {output.name: output.type for output in self.session.get_outputs()}

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
    """A session that takes the main graph's bulk weights from where they are, so that none is written for it."""
    from onnxruntime import InferenceSession

    providers = ["CPUExecutionProvider"]
    lent, values = lend_weights(model)
    if not others_in_side_files(lent) and lent.weights.inline_bytes < MAX_BYTES_IN_MEMORY:
        options.add_external_initializers(list(values), list(values.values()))
        session = InferenceSession(lent.to_bytes(), options, providers=providers)
        for name in values:
            model.weights.release(model.weights.find("", name) or name)  # onnxruntime has copied them
        return session
    with tempfile.TemporaryDirectory(prefix="onnxsparse-") as folder:
        path = Path(folder) / "model.onnx"
        model.save(path)
        return InferenceSession(str(path), options, providers=providers)


def lend_weights(model: Model) -> "tuple[Model, dict[str, OrtValue]]":
    """A copy whose bulk initializers are external under a name that leads nowhere, and their values for onnxruntime."""
    from onnxruntime import OrtValue

    values: dict[str, OrtValue] = {}
    lent = model.copy()
    graph = lent.proto.graph
    used = {*Graph(graph).consumers, *(output.name for output in graph.output)}
    # onnxruntime drops what nobody reads before it takes what it was lent, and then does not find it
    dropped = {tensor.name for tensor in graph.initializer} - used
    replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in dropped])
    replace_all(graph.input, [value for value in graph.input if value.name not in dropped])  # IR 3 lists initializers there
    lent.weights.refresh()
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL or tensor.data_type in PACKED_TYPES:
            continue
        array = model.weights[model.weights.find("", tensor.name) or tensor.name]
        if array.dtype.isbuiltin != 1:  # bfloat16 and the like, which onnxruntime's binding does not take
            continue
        # payloads start anywhere in a file, and kernels may load whole vectors
        values[tensor.name] = OrtValue.ortvalue_from_numpy(array if array.flags.aligned else array.copy())
        set_external(tensor, LENT, 0, array.nbytes)
    return lent, values


def others_in_side_files(lent: Model) -> bool:
    """Whether tensors that cannot be lent, those of bodies and Constant nodes, are in files of their own."""
    stored = (t for _, _, t in tensors(lent.proto) if t.data_location == onnx.TensorProto.EXTERNAL and not is_lifted(t))
    return any(e.value != LENT for t in stored for e in t.external_data if e.key == "location")


def as_array(value: object) -> Array:
    """An output as an array; of type object for a sequence or map."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    wrapped = np.empty((), object)
    wrapped[()] = value
    return wrapped


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
