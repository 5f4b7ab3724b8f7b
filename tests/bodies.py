"""Models with an If and with a Loop, whose bodies hold layers."""

import numpy as np
from onnx import helper

from onnxsparse.ir.model import Model
from tests.graphs import BOOL, FLOAT, INT64, model, node


def if_model(condition_is_input: bool = True) -> Model:
    """Then: 4×8×8 MACs, else: 4×8×16 + 4×16×8."""
    small = helper.make_graph([node("MatMul", "x w", "t")], "then", [], [helper.make_tensor_value_info("t", FLOAT, [4, 8])])
    nodes = [node("MatMul", "x a", "h"), node("MatMul", "h b", "e")]
    large = helper.make_graph(nodes, "else", [], [helper.make_tensor_value_info("e", FLOAT, [4, 8])])
    inputs: dict[str, str | tuple[str, int]] = {"x": "4x8"} | ({"c": ("", BOOL)} if condition_is_input else {})
    weights = {"w": "8x8", "a": "8x16", "b": "16x8"} | ({} if condition_is_input else {"c": np.array(True)})
    return model([node("If", "c", "y", then_branch=small, else_branch=large)], inputs, ["y"], weights)


def loop_model(trips: np.ndarray | None) -> Model:
    body = helper.make_graph(
        [node("Identity", "c_in", "c_out"), node("MatMul", "h_in w", "h_out")],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("c_in", BOOL, []),
            helper.make_tensor_value_info("h_in", FLOAT, [4, 8]),
        ],
        [helper.make_tensor_value_info("c_out", BOOL, []), helper.make_tensor_value_info("h_out", FLOAT, [4, 8])],
    )
    inputs: dict[str, str | tuple[str, int]] = {"x": "4x8"} | ({"n": ("", INT64)} if trips is None else {})
    weights = {"w": "8x8", "yes": np.array(True)} | ({} if trips is None else {"n": trips})
    return model([node("Loop", "n yes x", "y", body=body)], inputs, ["y"], weights)
