"""Running models in onnxruntime: as they are written, or as this processor runs them. No one else decides which."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnxsparse.analysis.unfolding import write_exactly
from onnxsparse.errors import BackendError
from onnxsparse.ir.graph import Graph
from onnxsparse.ir.model import Model
from onnxsparse.ir.protos import replace_all
from onnxsparse.ir.sparse import unmark
from onnxsparse.ir.weights import PACKED_TYPES, Array, bodies, is_lifted, set_external, tensors
from onnxsparse.ops import find
from onnxsparse.records import Skip

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, SessionOptions

MAX_BYTES_IN_MEMORY = 1 << 30
"""Models above this go to onnxruntime through a temporary file."""

LENT = "onnxsparse-lent"
"""Where a lent initializer is said to be."""

Feeds = dict[str, Array]


class Execution(Enum):
    """How onnxruntime is to run a model."""

    AS_WRITTEN = auto()
    """As the file says: integers exactly, on every processor. A model of floats alone may be fused, which only rounds."""
    NODE_BY_NODE = auto()
    """Likewise, and no node is fused with another, so that no inner value depends on which others are read."""
    AS_RUN = auto()
    """As onnxruntime runs it on this processor: with all optimisations, whose integer kernels may saturate."""


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
    execution: Execution = Execution.AS_WRITTEN,
) -> Runner:
    """`model` in an onnxruntime CPU session, with the tensors `also` as further outputs.

    Raises BackendError where onnxruntime refuses the model, as it does for ops that it does not know.
    """
    from onnxruntime import GraphOptimizationLevel, SessionOptions

    options = SessionOptions()
    model = with_outputs(model, also)
    if execution is Execution.AS_RUN or (execution is Execution.AS_WRITTEN and not holds_integers(model)):
        options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    else:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        model, _ = exactly_written(model)
    return start(model, options, custom_ops)


def fused_runner(model: Model, level: str, custom_ops: Sequence[Path] = ()) -> Runner:
    """`model` with floats fused up to an optimisation level of onnxruntime's (ORT_ENABLE_BASIC, …), and integers exact."""
    from onnxruntime import GraphOptimizationLevel, SessionOptions

    options = SessionOptions()
    options.graph_optimization_level = getattr(GraphOptimizationLevel, level)
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    written, _ = exactly_written(model)
    return start(written, options, custom_ops)


def holds_integers(model: Model) -> bool:
    """Whether onnxruntime may compute parts of a model in integers."""
    graphs = [model.proto.graph]
    nodes = [node for function in model.proto.functions for node in function.node]
    while graphs:
        nodes += graphs.pop().node
        graphs += [body for node in nodes for attribute in node.attribute for body in bodies(attribute)]
        if any(is_integer(node, model) for node in nodes):
            return True
        nodes = []
    return False


def is_integer(node: onnx.NodeProto, model: Model) -> bool:
    spec = find(node.domain, node.op_type, model.opset(node.domain))
    return spec is not None and spec.holds_integers


def exactly_written(model: Model) -> tuple[Model, tuple[Skip, ...]]:
    """A model that computes in floats what its integers say, on every processor; and the nodes that do not.

    QuantizeLinear and DequantizeLinear compute the same everywhere, as long as nothing is fused with them; what multiplies
    integers is written out. A model without integers is returned as it is.
    """
    if not holds_integers(model):
        return model, ()
    work = model.copy()
    return work, write_exactly(work)


def processor_notes(model: Model) -> list[str]:
    """A sentence for each node whose integers depend on the processor however the model is run."""
    return [f"{model.name}: {node.node} depends on the processor: {node.reason}" for node in exactly_written(model)[1]]


def with_outputs(model: Model, also: Sequence[str]) -> Model:
    """A model with further tensors as outputs; the model itself if it has them all."""
    present = {output.name for output in model.proto.graph.output}
    missing = [name for name in dict.fromkeys(also) if name not in present]
    if not missing:
        return model
    copy = model.copy()
    copy.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
    return copy


def profiled_runner(model: Model, profile: Path) -> Runner:
    """`model` in a session that writes down how long each kernel took, to a file that begins with `profile`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(profile)
    return start(model, options)


def start(model: Model, options: "SessionOptions", custom_ops: Sequence[Path] = ()) -> Runner:
    options.log_severity_level = 4
    try:
        for library in custom_ops:
            options.register_custom_ops_library(str(library.resolve()))
        session = open_session(model, options)
    except Exception as error:
        raise BackendError(f"onnxruntime cannot load {model.name}: {first_line(error)}") from None
    return Runner(session, tuple(output.name for output in model.proto.graph.output), model.name)


def check_library(path: Path, option: str) -> None:
    """Raises BackendError for a file that is no library of custom ops."""
    import onnxruntime

    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(path.resolve()))
    except Exception as error:
        raise BackendError(f"{option} {path}: onnxruntime cannot load it: {first_line(error)}") from None


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
    unmark(lent.proto)  # a sparse tensor cannot be lent
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
