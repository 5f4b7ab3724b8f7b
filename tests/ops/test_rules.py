"""Rules about ops meet any node: each gives an answer or raises UnknownFact, which is a clause; nothing else is caught."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse.ops import OpSpec, OpView, UnknownFact, table
from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.labels import Axes, LabelSpace
from onnxsparse.ops.parts import Parts, Sequences
from tests.graphs import FLOAT, INT64, UINT8, Array

NAMES = """
axis axes perm group kernel_shape pads paddings strides dilations transA transB transBatchA transBatchB starts ends keepdims
equation q_num_heads kv_num_heads num_heads qkv_hidden_sizes K N bits block_size num_groups blocksize mode auto_pad channels_last
num_scan_inputs scan_input_axes batch_dims opset split start end training_mode ceil_mode allowzero value scale hidden_size
""".split()

VALUES: list[Any] = [
    *(0, 1, 2, 3, -1, -7, 9),
    *([], [0], [1], [0, 1], [1, 0, 2], [0, 2, 3, 1], [3, 1], [0, 0, 1, 1], [-1, 5], [1] * 8, [0] * 6),
    *("ij,jk->ik", "...ij,jk", "ii->i", "a,b", "constant", "reflect", "CRD", "SAME_UPPER", "VALID", b"\xff\xfe"),
    *(0.5, [0.5, 2.0]),
]

SIZES = (0, 1, 1, 2, 3, 4, 4, 6, 8, 12, None)


def random_shape(rng: random.Random) -> tuple[int | None, ...] | None:
    return None if rng.random() < 0.1 else tuple(rng.choice(SIZES) for _ in range(rng.choice([0, 1, 2, 2, 3, 4, 4, 5])))


def random_view(spec: OpSpec, rng: random.Random) -> OpView:
    count, outputs = rng.randint(0, 9), rng.randint(0, 3)
    inputs = [f"i{at}" if rng.random() < 0.9 else "" for at in range(count)]
    chosen = rng.sample(NAMES, rng.randint(0, 12))
    node = helper.make_node(spec.op_type, inputs, [f"o{at}" for at in range(outputs)], domain=spec.domain)
    for name in chosen:
        value = rng.choice(VALUES)
        kind = onnx.AttributeProto.INTS if value == [] else None
        node.attribute.append(helper.make_attribute(name, value, attr_type=kind))
    same = random_shape(rng)
    shapes = [same if rng.random() < 0.5 else random_shape(rng) for _ in range(count + outputs)]
    integers = [value for value in VALUES if isinstance(value, list) and 0.5 not in value]
    values = {name: np.array(rng.choice(integers), np.int64) for name in inputs if name and rng.random() < 0.5}
    types = {name: rng.choice([FLOAT, UINT8, INT64]) for name in inputs if name and rng.random() < 0.5}
    return OpView(node, tuple(shapes[:count]), tuple(shapes[count:]), values, types)


def random_parts(op: OpView, at: int, rng: random.Random) -> Parts:
    """Elements of a sequence. Raises UnknownFact for an input that the node does not have, and sometimes else."""
    if not op.has_input(at) or rng.random() < 0.1:
        raise UnknownFact(f"the elements of input {at} are not known")
    same = random_shape(rng)
    return tuple(same if rng.random() < 0.7 else random_shape(rng) for _ in range(rng.randint(0, 4)))


def random_coupling(op: OpView, rng: random.Random) -> Coupling:
    space = LabelSpace()

    def labelled(shape: tuple[int | None, ...] | None) -> Axes | None:
        if shape is None:
            return None
        return tuple(None if size in (None, 1) or rng.random() < 0.1 else space.fresh(size or 0) for size in shape)

    def constant(at: int) -> Array | None:
        if not op.has_input(at) or rng.random() < 0.5:
            return None
        return np.array(rng.choice([v for v in VALUES if isinstance(v, list) and 0.5 not in v]), np.int64)

    return Coupling(op, "n", space, [labelled(shape) for shape in op.inputs], constant, rng.random() < 0.5)


def shape_questions(spec: OpSpec, op: OpView, rng: random.Random) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is asked of a spec about shapes and elements of sequences."""
    rules = {"value": spec.shape.value, "shape": spec.shape.infer, "index_axis": spec.shape.index_axis}
    asked: dict[str, Callable[[OpView], object] | None] = {**rules, "conflict": spec.shape.conflict}
    for name, rule in {**asked, **{f"shape {at}": rule for at, rule in enumerate(spec.shape.more, 1)}}.items():
        if rule is not None:
            yield name, lambda rule=rule: rule(op)  # type: ignore[misc]  # binds this round's
    if spec.shape.view is not None:
        view = spec.shape.view
        yield "view", lambda: view.axes(op, rng.randint(0, 5))
    if spec.shape.sequence is not None:
        follow, parts = spec.shape.sequence, Sequences(op, lambda at: random_parts(op, at, rng))
        yield "sequence", lambda: follow(parts)


def questions(spec: OpSpec, op: OpView, rng: random.Random) -> Iterator[tuple[str, Callable[[], object]]]:
    """All that is asked of a spec before anything is changed."""
    yield from shape_questions(spec, op, rng)
    plain = {"macs": spec.macs, "depthwise": spec.depthwise}
    scaling = spec.quant.scaling
    more = {"floor": spec.quant.floor, "groups": spec.groups}
    more |= {} if scaling is None else {"scale_axis": scaling.axis, "scale_block": scaling.block}
    for name, rule in {**plain, **more, "in_place": spec.cost.in_place, "passes": spec.fold.passes}.items():
        if rule is not None:
            yield name, lambda rule=rule: rule(op)  # type: ignore[misc]  # binds this round's
    for slot in spec.weights:
        yield "axes", lambda slot=slot: slot.axes(op)  # type: ignore[misc]  # as above
        if slot.macs is not None:
            yield "macs of a weight", lambda slot=slot: slot.macs(op)  # type: ignore[misc]  # as above
        if slot.packed is not None:
            yield "packing", lambda slot=slot: slot.packed(op)  # type: ignore[misc]  # as above
    if spec.quant.form is not None:
        form = spec.quant.form
        yield "form", lambda: (form.when(op, 17), form.operands(op))
    if spec.body is not None:
        trips = spec.body.trips
        yield "trips", lambda: trips(op, lambda at: rng.choice([None, 0, 3]))
    if spec.channels.couple is not None:
        coupling, couple = random_coupling(op, rng), spec.channels.couple
        yield "couple", lambda: couple(coupling)


SPECS = [spec for versions in table().values() for spec in versions]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.domain}:{spec.op_type}-{spec.since}")
def test_a_rule_answers_or_says_what_it_lacks(spec: OpSpec) -> None:
    rng = random.Random(f"{spec.domain} {spec.op_type} {spec.since}")
    for _ in range(150):
        op = random_view(spec, rng)
        for name, ask in questions(spec, op, rng):
            try:
                ask()
            except UnknownFact as lacking:
                assert len(str(lacking).split()) > 2, (name, str(lacking))
            except Exception as error:
                error.add_note(f"{name} of {op}")
                raise
