"""Control flow: If runs one of its branches; Loop and Scan run their body a number of times.

Source: the ONNX operator pages of If, Loop and Scan.
"""

from collections.abc import Callable

import onnx

from onnxsparse.ir.weights import read_small
from onnxsparse.ops.facets import CostRules, Work
from onnxsparse.ops.sizes import UnknownFact, known
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

    Raises UnknownFact if the body has no outputs, and ModelError for a constant that is damaged.
    """
    body = op.attributes["body"].g if "body" in op.attributes else onnx.GraphProto()
    if not body.output:
        raise UnknownFact("its body has no outputs")
    condition = body.output[0].name
    passed = {name: node.input[0] for node in body.node for name in node.output if node.op_type == "Identity" and node.input}
    while condition in passed:
        condition = passed.pop(condition)  # each once, because a damaged body may have a cycle
    if len(body.input) > 1 and condition == body.input[1].name:
        return True
    tensors = {t.name: t for t in body.initializer}
    constants = [node for node in body.node if node.op_type == "Constant" and condition in node.output]
    tensors.update((condition, a.t) for node in constants for a in node.attribute if a.name == "value")
    return condition in tensors and bool(read_small(condition, tensors[condition]).all())


def scan_trips(op: OpView, constant: Callable[[int], int | None]) -> int:
    """Length of the first scanned input along its scan axis. Raises UnknownFact."""
    first = len(op.node.input) - op.required("num_scan_inputs")
    return known((op.partial(first)[(op.numbers("scan_input_axes") or (0,))[0]],))[0]


SPECS = (
    OpSpec(op_type="If", body=Body(if_true="then_branch", if_false="else_branch")),
    OpSpec(
        op_type="Loop",
        body=Body(trips=loop_trips, carried=lambda op: range(2, len(op.node.input))),
        cost=CostRules(work=Work.HOST),
    ),
    OpSpec(op_type="Scan", since=9, body=Body(trips=scan_trips), cost=CostRules(work=Work.HOST)),
)
