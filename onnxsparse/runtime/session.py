"""Sessions of onnxruntime, with models run as they are written or as this processor runs them."""

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
from onnxsparse.runtime.threads import thread_limit

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, SessionOptions

MAX_BYTES_IN_MEMORY = 1 << 30
"""Largest model, in bytes of inline weights, that is given to onnxruntime in memory. Larger ones go through a temporary file."""

LENT = "onnxsparse-lent"
"""`external_data` location of a lent initializer; no such file exists."""

Feeds = dict[str, Array]
"""Input name → array."""


class Execution(Enum):
    """How onnxruntime runs a model."""

    AS_WRITTEN = auto()
    """As the file says, with exact integers on every processor. Nodes of a float model may be fused, which changes rounding."""
    NODE_BY_NODE = auto()
    """As AS_WRITTEN, and no nodes are fused, so that an inner value does not depend on which other values are read."""
    AS_RUN = auto()
    """As onnxruntime runs it on this processor, with all optimisations. Its integer kernels may saturate."""


@dataclass(frozen=True)
class Runner:
    """A model in a session. `outputs`: names in graph order, followed by added outputs. `model_name`: for messages."""

    session: "InferenceSession"
    outputs: tuple[str, ...]
    model_name: str

    @property
    def types(self) -> dict[str, str]:
        """Output name → type as onnxruntime names it, as `tensor(float)`."""
        return {output.name: output.type for output in self.session.get_outputs()}

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Output name → array. Raises BackendError if onnxruntime cannot run the model on these inputs."""
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
    """`model` in an onnxruntime CPU session. `also`: names of inner tensors to add as outputs.

    Raises BackendError if onnxruntime refuses the model, as it does for unknown ops, or a library of custom ops.
    """
    from onnxruntime import GraphOptimizationLevel, SessionOptions

    options = patient(SessionOptions())
    model = with_outputs(model, also)
    if execution is Execution.AS_RUN or (execution is Execution.AS_WRITTEN and not holds_integers(model)):
        options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    else:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        model, _ = exactly_written(model)
    return start(model, options, custom_ops)


def patient(options: "SessionOptions") -> "SessionOptions":
    """The options, with which idle threads sleep. By default they spin, which takes a core from whatever else runs."""
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def loads(model: Model, custom_ops: Sequence[Path] = ()) -> bool:
    """Whether onnxruntime loads a model, with the optimisations that it has by default."""
    try:
        runner(model, custom_ops=custom_ops, execution=Execution.AS_RUN)
    except BackendError:
        return False
    return True


def fused_runner(model: Model, level: str, custom_ops: Sequence[Path] = ()) -> Runner:
    """`model` with floats optimised up to a level of onnxruntime's (ORT_ENABLE_BASIC, …) and exact integers.

    Raises BackendError if onnxruntime refuses the model.
    """
    from onnxruntime import GraphOptimizationLevel, SessionOptions

    options = patient(SessionOptions())
    options.graph_optimization_level = getattr(GraphOptimizationLevel, level)
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    written, _ = exactly_written(model)
    return start(written, options, custom_ops)


def holds_integers(model: Model) -> bool:
    """Whether the model has quantizers or integer ops, which onnxruntime may compute in integers."""
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
    """Whether a node is a quantizer or an integer op."""
    spec = find(node.domain, node.op_type, model.opset(node.domain))
    return spec is not None and spec.holds_integers


def exactly_written(model: Model) -> tuple[Model, tuple[Skip, ...]]:
    """A model that computes its integer ops exactly on every processor, and a Skip for each node for which this is impossible.

    QuantizeLinear and DequantizeLinear give the same results everywhere if they are not fused. Ops that multiply integers are
    written out in floats (`analysis/unfolding.py`). A model without integers is returned itself.
    """
    if not holds_integers(model):
        return model, ()
    work = model.copy()
    return work, write_exactly(work)


def processor_notes(model: Model) -> list[str]:
    """A sentence for each node whose result depends on the processor even in a model that is run as written."""
    return [f"{model.name}: {node.node} depends on the processor: {node.reason}" for node in exactly_written(model)[1]]


def with_outputs(model: Model, also: Sequence[str]) -> Model:
    """A copy of a model with the tensors `also` as further outputs; the model itself if they are outputs already."""
    present = {output.name for output in model.proto.graph.output}
    missing = [name for name in dict.fromkeys(also) if name not in present]
    if not missing:
        return model
    copy = model.copy()
    copy.proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
    return copy


def profiled_runner(model: Model, profile: Path) -> Runner:
    """`model` in a session that records the time of each kernel in a file whose name begins with `profile`.

    Raises BackendError if onnxruntime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(profile)
    return start(model, options)


def start(model: Model, options: "SessionOptions", custom_ops: Sequence[Path] = ()) -> Runner:
    """`model` in a session with these options. Raises BackendError if onnxruntime refuses it or a library of custom ops."""
    options.log_severity_level = 4
    try:
        for library in custom_ops:
            options.register_custom_ops_library(str(library.resolve()))
        session = open_session(model, options)
    except Exception as error:
        raise BackendError(f"onnxruntime cannot load {model.name}: {first_line(error)}") from None
    return Runner(session, tuple(output.name for output in model.proto.graph.output), model.name)


def check_library(path: Path, option: str) -> None:
    """Raises BackendError for a file that is not a library of custom ops. `option`: its name in messages."""
    import onnxruntime

    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(path.resolve()))
    except Exception as error:
        raise BackendError(f"{option} {path}: onnxruntime cannot load it: {first_line(error)}") from None


def open_session(model: Model, options: "SessionOptions") -> "InferenceSession":
    """A session for `model`. Bulk weights of the main graph are given to it where they are mapped, so that no file is written.

    A temporary file is written only for a very large model, and for external data in bodies and Constant nodes.
    """
    from onnxruntime import InferenceSession

    providers = ["CPUExecutionProvider"]
    options.intra_op_num_threads = thread_limit() or 0  # 0: all cores
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
    """A copy of the model for a session, and name → values of the initializers that onnxruntime takes from memory.

    In the copy, these initializers are external at a location that does not exist, so that they take no space in it.
    """
    from onnxruntime import OrtValue

    values: dict[str, OrtValue] = {}
    lent = model.copy()
    unmark(lent.proto)  # a sparse tensor cannot be lent
    graph = lent.proto.graph
    used = {*Graph(graph).consumers, *(output.name for output in graph.output)}
    # onnxruntime drops unused initializers first, and then refuses values for a name that no longer exists
    dropped = {tensor.name for tensor in graph.initializer} - used
    replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in dropped])
    replace_all(graph.input, [value for value in graph.input if value.name not in dropped])  # IR 3 lists initializers there
    lent.weights.refresh()
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL or tensor.data_type in PACKED_TYPES:
            continue
        array = model.weights[model.weights.find("", tensor.name) or tensor.name]
        if array.dtype.isbuiltin != 1:  # onnxruntime's Python binding refuses types of ml_dtypes, as bfloat16
            continue
        # a payload may start at any byte of a file, but kernels load aligned vectors
        values[tensor.name] = OrtValue.ortvalue_from_numpy(array if array.flags.aligned else array.copy())
        set_external(tensor, LENT, 0, array.nbytes)
    return lent, values


def others_in_side_files(lent: Model) -> bool:
    """Whether tensors that cannot be lent (those of bodies and Constant nodes) are in external data files."""
    stored = (t for _, _, t in tensors(lent.proto) if t.data_location == onnx.TensorProto.EXTERNAL and not is_lifted(t))
    return any(e.value != LENT for t in stored for e in t.external_data if e.key == "location")


def as_array(value: object) -> Array:
    """An output as an array; for a sequence or map, an array of type object that holds it."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    wrapped = np.empty((), object)
    wrapped[()] = value
    return wrapped


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type if the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
