"""Raising a node to opset 13: attributes that became inputs, and defaults and meanings that changed.

Source: the ONNX operators' changelog, from version 8 on. `tests/analysis/test_opset_rules.py` checks the table against onnx's
schemas.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

RAISED_OPSET = 13
"""Opset that models are raised to, the first with per-axis QuantizeLinear and DequantizeLinear."""

OLDEST_OPSET = 7
"""Oldest opset that can be raised: before it, elementwise ops had broadcasting rules of their own."""

Value = NDArray[np.generic]

LOWEST, HIGHEST = (float(bound) for bound in (np.finfo(np.float32).min, np.finfo(np.float32).max))
"""Bounds of a Clip that names none, before opset 11."""


class CannotRaise(Exception):  # noqa: N818 - not an error: the model stays at its opset
    """The node has no equivalent in the later opset; the message is a clause that says why."""


@dataclass
class Raise:
    """One node, changed in place."""

    node: onnx.NodeProto
    """The node."""
    shape: tuple[int | None, ...] | None
    """Shape of its first input, None for each unknown size. None: the rank is unknown."""
    kind: int | None
    """Element type of its first input. None: unknown."""
    constant: Callable[[str], Value | None]
    """Value of a constant by name. None: it is computed."""
    is_used: Callable[[str], bool]
    """Whether a value has users, by name."""
    fresh: Callable[[str], str]
    """A free name derived from the given one."""
    tensor: Callable[[str, Value], str]
    """Adds a constant and returns its name."""
    before: list[onnx.NodeProto] = field(default_factory=list)
    """Nodes to insert before the node."""
    behind: list[onnx.NodeProto] = field(default_factory=list)
    """Nodes to insert after the node."""

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or `default`. Raises CannotRaise if each call of a function gives its own value."""
        attribute = next((a for a in self.node.attribute if a.name == name), None)
        if attribute is None:
            return default
        if attribute.ref_attr_name:
            raise CannotRaise(f"its '{name}' is given by the calls of the function it is in")
        return helper.get_attribute_value(attribute)

    def take(self, name: str) -> Any:
        """As `get`, and remove the attribute. None if it is not set. Raises CannotRaise as `get` does."""
        value = self.get(name)
        index = next((i for i, a in enumerate(self.node.attribute) if a.name == name), None)
        if index is not None:
            del self.node.attribute[index]
        return value

    def set(self, name: str, value: int | str) -> None:
        """Set an attribute. Raises CannotRaise as `get` does."""
        if self.get(name) is None:
            self.node.attribute.append(helper.make_attribute(name, value))
        else:
            next(a for a in self.node.attribute if a.name == name).CopyFrom(helper.make_attribute(name, value))

    def give(self, at: int, name: str, value: Value) -> None:
        """Make a new constant input `at`."""
        self.node.input.extend([""] * (at + 1 - len(self.node.input)))
        self.node.input[at] = self.tensor(f"{self.node.output[0]}_{name}", value)

    def like_input(self, value: float) -> Value:
        """A scalar of the first input's element type. Raises CannotRaise if that is unknown."""
        if self.kind is None:
            raise CannotRaise("the element type of its input is unknown")
        with np.errstate(over="ignore"):  # bounds that are float32's own are infinite as float16
            return np.array(value).astype(helper.tensor_dtype_to_np_dtype(self.kind))


Rule = Callable[[Raise], None]


def keep(r: Raise) -> None:
    """The new version does by default what the old one did."""


def renamed(op_type: str) -> Rule:
    """A rule: the op has a new name."""

    def rule(r: Raise) -> None:
        """Rename the op."""
        r.node.op_type = op_type

    return rule


def moved(*names: str, dtype: type[np.generic] = np.int64) -> Rule:
    """A rule: attributes became inputs 1, 2, …; an empty list means the same as none."""

    def rule(r: Raise) -> None:
        """Move each attribute that is set. Raises CannotRaise for an attribute that a function's calls give."""
        for at, name in enumerate(names, 1):
            value = r.take(name)
            if value or isinstance(value, int):
                r.give(at, name, np.array(value, dtype).reshape(-1))

    return rule


def unless(refused: Callable[[Raise], bool], why: str) -> Rule:
    """A rule that changes nothing. Raises CannotRaise with the reason `why`."""

    def rule(r: Raise) -> None:
        """Raises CannotRaise if the node is refused."""
        if refused(r):
            raise CannotRaise(why)

    return rule


def raise_clip(r: Raise) -> None:
    """Bounds became inputs of the input's type. A missing bound was float32's extreme, for every type."""
    for at, name, default in ((1, "min", LOWEST), (2, "max", HIGHEST)):
        bound = r.take(name)
        if bound is not None or r.kind not in (None, TensorProto.FLOAT):
            r.give(at, name, r.like_input(default if bound is None else bound))


def raise_pad(r: Raise) -> None:
    """Pads and value became inputs."""
    moved("pads")(r)
    value = r.take("value")
    if value is not None and (value or r.kind is not None):
        r.give(2, "value", r.like_input(value))


def raise_batch_normalization(r: Raise) -> None:
    """Raises CannotRaise for statistics per element (spatial=0), which opset 9 dropped."""
    if r.take("spatial") == 0:
        raise CannotRaise("its statistics are of each element (spatial=0), which opset 9 dropped")


def raise_dropout_10(r: Raise) -> None:
    """The mask became boolean. Raises CannotRaise if it is used."""
    if any(map(r.is_used, r.node.output[1:])):
        raise CannotRaise("its mask is used, which has another type since opset 10")
    del r.node.output[1:]


def raise_dropout_12(r: Raise) -> None:
    """The ratio became an input. Raises CannotRaise if the mask is used: at inference it was undefined before, and is all true
    now.
    """
    if any(map(r.is_used, r.node.output[1:])):
        raise CannotRaise("its mask is used, which an inference did not define before opset 12")
    ratio = r.take("ratio")
    if ratio is not None:
        r.give(1, "ratio", np.array(ratio, np.float32))


def raise_resize_11(r: Raise) -> None:
    """Coordinates were asymmetric, and the nearest pixel was undefined; onnxruntime rounds down where it enlarges, up where it
    shrinks.

    Raises CannotRaise if the rounding is unknown, or differs between axes.
    """
    source, scales = r.node.input[:2]
    if r.get("mode", b"nearest") == b"nearest":
        factors = r.constant(scales)
        if factors is None:
            raise CannotRaise("its scales are computed, and which pixel is nearest depends on them")
        shrinks = bool((factors < np.float32(1)).any())
        if shrinks and (factors > np.float32(1)).any():
            raise CannotRaise("it enlarges and shrinks, and one rounding for both is all that opset 11 has")
        r.set("nearest_mode", "ceil" if shrinks else "floor")
    r.set("coordinate_transformation_mode", "asymmetric")
    r.node.input[:] = [source, "", scales]


def raise_resize_13(r: Raise) -> None:
    """Scales are left out, not empty, if sizes are given. Raises CannotRaise for coordinates that opset 13 dropped."""
    if r.get("coordinate_transformation_mode") == b"tf_half_pixel_for_nn":
        raise CannotRaise("opset 13 has no coordinates as tf_half_pixel_for_nn")
    if len(r.node.input) > 3 and r.node.input[3]:
        r.node.input[2] = ""


def raise_softmax(r: Raise) -> None:
    """Softmax reduced over all axes from `axis` on, flattened.

    If at most one of them exceeds size 1, that axis is named; otherwise the node is put between Flatten and Reshape.
    """
    axis = r.get("axis", 1)
    if axis == -1:
        return
    rank = None if r.shape is None else len(r.shape)
    if r.shape is not None and rank is not None and -rank <= axis < rank:
        wide = [i for i in range(axis % rank, rank) if r.shape[i] != 1]
        if len(wide) < 2:
            r.set("axis", wide[0] if wide else rank - 1)
            return
    flatten(r, axis)


def flatten(r: Raise, axis: int) -> None:
    """Insert a Flatten before the node and a Reshape after it that produces the node's former output."""
    source, made = r.node.input[0], r.node.output[0]
    flat, result = r.fresh(f"{made}_flattened"), r.fresh(f"{made}_flat")
    r.before.append(helper.make_node("Flatten", [source], [flat], name=r.fresh(f"{made}_Flatten"), axis=axis))
    if r.shape is not None and 0 not in r.shape and r.shape.count(None) < 2:
        sizes = r.tensor(f"{made}_sizes", np.array([-1 if size is None else size for size in r.shape], np.int64))
    else:
        sizes = r.fresh(f"{made}_sizes")
        r.before.append(helper.make_node("Shape", [source], [sizes], name=r.fresh(f"{made}_Shape")))
    r.node.input[0], r.node.output[0] = flat, result
    r.set("axis", -1)
    r.behind.append(helper.make_node("Reshape", [result, sizes], [made], name=r.fresh(f"{made}_Reshape")))


def pads_by_output(r: Raise) -> bool:
    """Whether a ConvTranspose derives its padding from its output's size."""
    return r.get("output_shape") is not None or r.get("auto_pad", b"NOTSET").startswith(b"SAME")


def may_be_negative(r: Raise) -> bool:
    """Whether OneHot's indices may be negative: one is, or they are computed."""
    indices = r.constant(r.node.input[0])
    return indices is None or bool((indices < np.int8(0)).any())


FLATTENING: Sequence[str] = ("Hardmax", "LogSoftmax", "Softmax")

RULES: dict[tuple[str, int], Rule] = {
    ("ArgMax", 12): keep,  # select_last_index
    ("ArgMin", 12): keep,
    ("AveragePool", 10): keep,  # ceil_mode
    ("BatchNormalization", 9): raise_batch_normalization,
    ("Clip", 11): raise_clip,
    ("Constant", 11): keep,  # other ways to write a value
    ("Constant", 12): keep,
    ("ConvTranspose", 11): unless(pads_by_output, "where it pads an odd number of elements, opset 11 has them on the other side"),
    ("DepthToSpace", 11): keep,  # mode
    ("DequantizeLinear", 13): keep,  # axis, which a scalar scale has no use for
    ("Dropout", 10): raise_dropout_10,
    ("Dropout", 12): raise_dropout_12,
    ("GatherND", 12): keep,  # batch_dims
    ("Gemm", 11): keep,  # C may be left out
    **{(name, 13): raise_softmax for name in FLATTENING},
    ("MaxPool", 8): keep,  # storage_order, and a second output
    ("MaxPool", 10): keep,  # dilations, ceil_mode
    ("OneHot", 11): unless(may_be_negative, "indices below zero count from the end since opset 11, and its may be such"),
    ("Pad", 11): raise_pad,
    ("QuantizeLinear", 13): keep,  # axis
    ("ReduceSum", 13): moved("axes"),
    ("Resize", 11): raise_resize_11,
    ("Resize", 13): raise_resize_13,
    ("Scan", 9): unless(lambda r: True, "opset 9 took the batch axis out of it"),
    ("Scatter", 11): renamed("ScatterElements"),
    ("Slice", 10): moved("starts", "ends", "axes"),
    ("Split", 13): moved("split"),
    ("Squeeze", 13): moved("axes"),
    ("TopK", 10): moved("k"),
    ("TopK", 11): keep,  # largest, sorted
    ("Unsqueeze", 13): moved("axes"),
    ("Upsample", 9): moved("scales", dtype=np.float32),
    ("Upsample", 10): renamed("Resize"),
}
"""(op type, version) → how a node of the version before is raised to it. Ops that are not listed changed in types and wording
alone.
"""


def raise_node(r: Raise, version: int) -> None:
    """Raise a node from `version` of the standard domain to 13. Raises CannotRaise if it has no equivalent there."""
    for since in range(version + 1, RAISED_OPSET + 1):
        rule = RULES.get((r.node.op_type, since))
        if rule is not None:
            rule(r)
    if not onnx.defs.has(r.node.op_type, RAISED_OPSET, "") or onnx.defs.get_schema(r.node.op_type, RAISED_OPSET, "").deprecated:
        raise CannotRaise(f"opset {RAISED_OPSET} has no {r.node.op_type}")
