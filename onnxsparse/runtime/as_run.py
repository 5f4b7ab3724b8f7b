"""Integer ops as this processor computes them, compared with what the file says.

onnxruntime's fused kernels for 8-bit integers add pairs of products in 16 bits on x86 without VNNI, where they saturate. Source:
onnxruntime's documentation of quantization, "When and why do I need to try U8U8?".
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.runtime.session import Execution, Feeds, Runner, runner


class Runs(Protocol):
    """A model that is ready to run."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Output name → array. Raises BackendError if the model cannot run on these inputs."""


AsRun = Callable[[Model, Sequence[Path]], Runs]
"""Prepares a model, with its libraries of custom ops, to run as a processor would. Raises BackendError if that fails."""


def run_here(model: Model, custom_ops: Sequence[Path] = ()) -> Runner:
    """`model` with all of onnxruntime's optimisations, as this processor runs it.

    Raises BackendError if onnxruntime refuses it.
    """
    return runner(model, custom_ops=custom_ops, execution=Execution.AS_RUN)


def saturates(as_run: AsRun) -> bool:
    """Whether sums of 8-bit products saturate on the processor of `as_run`.

    The test adds four products of 255 and 127. Their sum is 129 540, and two of them already exceed 16 bits with a sign. Raises
    BackendError if the test model cannot run.
    """
    rows, columns = np.full((1, 4), 255, np.uint8), np.full((4, 2), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "saturation",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, rows.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (1, 2))],
        [numpy_helper.from_array(columns, "w")],
    )
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    made = as_run(Model.from_proto(proto), ()).run({"x": rows})["y"]
    return not np.array_equal(made, rows.astype(np.int32) @ columns.astype(np.int32))


def explanation(saturating: bool) -> str:
    """Why outputs differ between a file as written and as run, and what to do; `saturating`: the result of `saturates`."""
    if not saturating:
        return (
            "this processor does not saturate sums of 8-bit products, so the cause is another of onnxruntime's optimisations; "
            "'compare --bisect' looks at the file as it is written"
        )
    return (
        "this processor adds pairs of 8-bit products in 16 bits, which saturate (it has no VNNI); quantize for "
        "--target onnxruntime-x86-avx2, whose 7-bit weights cannot saturate, or run the file with onnxruntime's graph "
        "optimisations off, which is slower"
    )
