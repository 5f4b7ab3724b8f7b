"""Control flow: If runs one of its branches; Loop and Scan run their body a number of times.

Source: the ONNX operator pages of If, Loop and Scan.
"""

from collections.abc import Callable

import onnx

from onnxsparse.ops.facets import CostRules, Work
from onnxsparse.ops.sizes import UnknownFact
from onnxsparse.ops.spec import Body, OpSpec
from onnxsparse.ops.view import OpView


def loop_trips(op: OpView, constant: Callable[[int], int | None]) -> int | None:
    """The trip count M, if it is constant and no condition can end the loop earlier. None: unknown."""
    if not op.has_input(0) or not keeps_going(op):
        return None
    if op.has_input(1) and constant(1) != 1:
        return None
    return constant(0)


def keeps_going(op: OpView) -> bool:
    """Whether the body's condition output is always true: a constant true, or the condition input passed on.

    Raises UnknownFact if the body has no outputs.
    """
    body = op.attributes["body"].g if "body" in op.attributes else onnx.GraphProto()
    if not body.output:
        raise UnknownFact("its body has no outputs")
    condition = body.output[0].name
    makers = {name: node for node in body.node for name in node.output}
    while condition in makers and makers[condition].op_type == "Identity":
        condition = makers[condition].input[0]
    if len(body.input) > 1 and condition == body.input[1].name:
        return True
    tensors = {t.name: t for t in body.initializer}
    if condition in makers and makers[condition].op_type == "Constant":
        tensors.update((condition, a.t) for a in makers[condition].attribute if a.name == "value")
    return condition in tensors and bool(onnx.numpy_helper.to_array(tensors[condition]).all())


def scan_trips(op: OpView, constant: Callable[[int], int | None]) -> int | None:
    """Length of the first scanned input along its scan axis. None: unknown."""
    scanned = op.required("num_scan_inputs")
    at = len(op.node.input) - scanned
    axis = (op.numbers("scan_input_axes") or (0,))[0]
    try:
        return op.input(at)[axis]
    except UnknownFact:
        return None


SPECS = (
    OpSpec(op_type="If", body=Body(if_true="then_branch", if_false="else_branch")),
    OpSpec(
        op_type="Loop",
        body=Body(trips=loop_trips, carried=lambda op: range(2, len(op.node.input))),
        cost=CostRules(work=Work.HOST),
    ),
    OpSpec(op_type="Scan", since=9, body=Body(trips=scan_trips), cost=CostRules(work=Work.HOST)),
)
