"""Ops that produce data from sizes, parameters or chance: constants, ranges, random numbers, the sizes of a value.

Source: the ONNX operator pages of these ops.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxsparse.ops.coupling import Coupling
from onnxsparse.ops.facets import ChannelRules, CostRules, FoldRules, ShapeRules, Work
from onnxsparse.ops.refit import Refit, refit_sizes
from onnxsparse.ops.sizes import known
from onnxsparse.ops.spec import OpSpec
from onnxsparse.ops.view import OpView, product

SOURCES = """
BlackmanWindow Constant EyeLike HammingWindow HannWindow MelWeightMatrix OneHot Range
""".split()

RANDOM = """
Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike
""".split()


def shape_value(op: OpView) -> NDArray[np.int64]:
    """The sizes of input 0 from axis `start` to axis `end`. Raises UnknownFact."""
    end = op.required("end") if "end" in op.attributes else None
    return np.array(known(op.partial(0)[op.number("start", 0) : end], f"its input '{op.node.input[0]}'"), np.int64)


def size_value(op: OpView) -> NDArray[np.int64]:
    """Number of elements of input 0. Raises UnknownFact."""
    return np.array(product(op.input(0)), np.int64)


def couple_filled(c: Coupling) -> None:
    """Every axis gets new labels: a constant fill may be cut along any axis."""
    c.emit([c.space.fresh(size) for size in c.op.output()])


def filled_integers(op: OpView, inputs: Sequence[NDArray[np.generic]]) -> int | None:
    """Number of integers that the size input asks for. None for floats, which are generated weights, not sizes."""
    if "value" not in op.attributes or op.attributes["value"].t.data_type not in (TensorProto.INT32, TensorProto.INT64):
        return None
    return product(tuple(int(size) for size in inputs[0].reshape(-1)))


def couple_nothing(c: Coupling) -> None:
    """The output has no channels: it holds sizes, indices or random numbers."""


def refit_shape(r: Refit) -> None:
    """Restore the sizes before the cut, so that shape arithmetic downstream is unchanged; ops that use its result are
    corrected themselves.
    """
    before, after = shape_value(r.old).tolist(), shape_value(r.new).tolist()
    if before != after:
        r.restore_output(before, after)


SPECS = (
    # not folded: their results can be far larger than their inputs
    *(
        OpSpec(
            op_type=name,
            channels=ChannelRules(couple=couple_nothing),
            fold=FoldRules(allowed=False),
            cost=CostRules(work=Work.FREE),
        )
        for name in SOURCES
    ),
    OpSpec(
        op_type="ConstantOfShape",
        channels=ChannelRules(couple=couple_filled, refit=refit_sizes(0)),
        fold=FoldRules(allowed=False, makes=filled_integers),
        cost=CostRules(work=Work.FREE),
    ),
    *(OpSpec(op_type=name, random=True) for name in RANDOM),
    OpSpec(
        op_type="Shape",
        channels=ChannelRules(couple=couple_nothing, refit=refit_shape),
        shape=ShapeRules(value=shape_value),
        cost=CostRules(work=Work.FREE),
    ),
    OpSpec(op_type="Size", shape=ShapeRules(value=size_value), cost=CostRules(work=Work.FREE)),
)
