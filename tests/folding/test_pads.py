"""Pads of zeros go into the convolution or the average that reads them."""

from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse import Model, layers
from onnxsparse.ops import OpView, find
from onnxsparse.ops.padding import Zeros
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime.session import Feeds
from tests.folding.folded import assert_same, folded
from tests.folding.padded import BEHIND, LONG, SAME_DB, W, X, assert_folds, assert_stays, attributes
from tests.graphs import Array, model, node, op_types, proto, value, weight


def before(reader: onnx.NodeProto, pads: list[int] | None = None, **options: Any) -> Model:
    """A Pad, its sizes in an initializer, and what reads it."""
    weights = {"p": LONG if pads is None else np.array(pads, np.int64), **options.pop("weights", W)}
    return model([node("Pad", "x p", "h"), reader], options.pop("inputs", X), options.pop("outputs", ["y"]), weights, **options)


def test_a_convolution_pads_itself() -> None:
    done = assert_folds(before(node("Conv", "h w", "y", strides=[2, 2], name="stem")), "Conv")
    assert attributes(done) == {"strides": [2, 2], "pads": [0, 0, 1, 1]}
    assert done.proto.graph.node[0].name == "stem"
    assert [t.name for t in done.proto.graph.initializer] == ["w"]
    assert layers(done).totals.weights == 6 * 4 * 3 * 3


@pytest.mark.parametrize(
    ("own", "pads"),
    [
        ({"pads": [1, 2, 3, 4]}, [1, 2, 4, 5]),
        ({"pads": [1, 1, 1, 1], "auto_pad": "NOTSET"}, [1, 1, 2, 2]),
        ({"auto_pad": "VALID"}, [0, 0, 1, 1]),
    ],
)
def test_padding_that_is_there_is_added_to(own: dict[str, Any], pads: list[int]) -> None:
    done = assert_folds(before(node("Conv", "h w", "y", **own)), "Conv")
    assert attributes(done)["pads"] == pads
    assert attributes(done).get("auto_pad", b"NOTSET") == b"NOTSET"


INT64_ZERO, FLOAT_ZERO = (onnx.numpy_helper.from_array(np.zeros(1, kind)) for kind in (np.int64, np.float32))


ZERO, NEGATIVE_ZERO = np.array(0, np.float32), np.array(-0.0, np.float32)


@pytest.mark.parametrize(
    ("pad", "weights", "opset"),
    [
        (node("Pad", "x", "h", pads=BEHIND), {}, 10),
        (node("Pad", "x", "h", pads=BEHIND, mode="constant", value=0.0), {}, 2),
        (node("Pad", "x p", "h"), {"p": LONG}, 11),
        (node("Pad", "x p v", "h"), {"p": LONG, "v": ZERO}, 13),
        (node("Pad", "x p v", "h"), {"p": LONG, "v": NEGATIVE_ZERO}, 13),
        (node("Pad", "x p _", "h"), {"p": LONG}, 13),
        (node("Pad", "x p _ a", "h"), {"p": np.array([0, 0, 1, 1]), "a": np.array([2, 3])}, 18),
        (node("Pad", "x p v a", "h"), {"p": np.array([0, 0, 0, 1, 1, 0]), "v": ZERO, "a": np.array([-1, -2, 1])}, 21),
    ],
    ids=["attributes", "mode and value", "input", "zero", "negative zero", "zero left out", "axes", "axes from the end"],
)
def test_every_version_of_pad_goes(pad: onnx.NodeProto, weights: dict[str, Array], opset: int) -> None:
    built = model([pad, node("Conv", "h w", "y")], X, ["y"], {**W, **weights}, opset=opset)
    done, report = folded(built)
    assert report.notes == ["1 × Pad folded into Conv"]
    assert attributes(done) == {"pads": [0, 0, 1, 1]}
    if opset >= 7:
        assert_same(built, done, SAME_DB)


def test_the_first_version_of_pad_has_another_name_for_its_sizes() -> None:
    spec, pad = find("", "Pad", 1), node("Pad", "x", "h", paddings=[0, 0, 1, 0, 0, 2])
    assert spec is not None
    assert spec.fold.zeros is not None
    assert spec.fold.zeros(OpView(pad, (None,), ()), lambda at: None) == Zeros((0, 1, 2), (0, 0, 1), (0, 0, 2), 3)


def test_sizes_are_computed_from_constants_as_pytorch_writes_them() -> None:
    """Sizes from the last axis on, filled up with zeros, turned round; its Constant nodes go with it."""
    given = {"sizes": [0, 1, 0, 1], "left": [4], "pairs": [-1, 2], "at": [0], "from": [-1], "to": [-9], "by": [-1], "flat": [-1]}
    constants = [
        node("Constant", "", name, value=onnx.numpy_helper.from_array(np.array(values, np.int64)))
        for name, values in given.items()
    ]
    nodes = [
        *constants,
        node("Constant", "", "zero", value=onnx.numpy_helper.from_array(ZERO)),
        node("ConstantOfShape", "left", "more", value=INT64_ZERO),
        node("Concat", "sizes more", "all", axis=0),
        node("Reshape", "all pairs", "table"),
        node("Slice", "table from to at by", "turned"),
        node("Transpose", "turned", "other", perm=[1, 0]),
        node("Reshape", "other flat", "line"),
        node("Cast", "line", "p", to=onnx.TensorProto.INT64),
        node("Pad", "x p zero", "h", mode="constant"),
        node("Conv", "h w", "y", strides=[2, 2]),
    ]
    built = model(nodes, X, ["y"], W)
    done = assert_folds(built, "Conv")
    assert attributes(done)["pads"] == [0, 0, 1, 1]
    assert folded(built)[1].notes == ["1 × constant folded", "1 × Pad folded into Conv"]


@pytest.mark.parametrize(
    ("elements", "value", "folds"), [(512, INT64_ZERO, True), (513, INT64_ZERO, False), (4, FLOAT_ZERO, False), (4, None, False)]
)
def test_what_is_generated_is_computed_on_if_it_is_few_integers(
    elements: int, value: onnx.TensorProto | None, folds: bool
) -> None:
    """4 KiB at most: the input may ask for any number. Floats are weights, which stay generated."""
    kind = onnx.TensorProto.INT64 if value is INT64_ZERO else onnx.TensorProto.FLOAT
    given: dict[str, Any] = {} if value is None else {"value": value}
    filled = node("ConstantOfShape", "s", "m", **given)
    nodes = [filled, node("Gather", "m i", "r"), node("Add", "x r", "y")]
    built = model(nodes, {"x": ("4", kind)}, ["y"], {"s": np.array([elements]), "i": np.array([3])})
    assert_folds(built, *(["Add"] if folds else ["ConstantOfShape", "Gather", "Add"]))


def test_a_generator_that_stays_gets_its_computed_size_stored() -> None:
    """What is computed of what it makes, one integer, is stored too."""
    generator = node("ConstantOfShape", "q", "m", value=INT64_ZERO)
    nodes = [node("Mul", "s s", "q"), generator, node("Add", "x m", "y"), node("Neg", "m", "n"), node("Add", "x n", "z")]
    built = model(nodes, {"x": ("1", onnx.TensorProto.INT64)}, ["y", "z"], {"s": np.array([1])})
    assert_folds(built, "ConstantOfShape", "Add", "Add")


def test_two_pads_in_a_row_both_go() -> None:
    nodes = [node("Pad", "x p", "g"), node("Pad", "g q", "h"), node("Conv", "h w", "y", pads=[1, 1, 1, 1])]
    built = model(nodes, X, ["y"], {"p": LONG, "q": np.array([0, 0, 2, 0, 0, 0, 0, 3]), **W})
    done = assert_folds(built, "Conv")
    assert attributes(done)["pads"] == [3, 1, 2, 5]


def test_every_reader_takes_the_zeros_in() -> None:
    nodes = [
        node("Pad", "x p", "h"),
        node("Conv", "h w", "y"),
        node("Conv", "h w", "z", pads=[1, 1, 1, 1]),
        node("AveragePool", "h", "a", kernel_shape=[2, 2]),
    ]
    built = model(nodes, X, ["y", "z", "a"], {"p": LONG, **W})
    done = assert_folds(built, "Conv", "Conv", "AveragePool")
    assert folded(built)[1].notes == ["1 × Pad folded into AveragePool and Conv"]
    assert [attributes(done, name)["pads"] for name in ("y", "z", "a")] == [[0, 0, 1, 1], [1, 1, 2, 2], [0, 0, 1, 1]]


def test_a_constant_that_another_node_reads_stays() -> None:
    zero = node("Constant", "", "v", value=onnx.numpy_helper.from_array(ZERO))
    nodes = [zero, node("Pad", "x p v", "h"), node("Conv", "h w", "g"), node("Max", "g v", "y")]
    assert_folds(model(nodes, X, ["y"], {"p": LONG, **W}), "Constant", "Conv", "Max")


def test_batch_norm_and_padding_go_into_the_same_convolution() -> None:
    statistics = {name: np.linspace(1, 2, 6, dtype=np.float32) for name in ("g", "b", "m", "v")}
    nodes = [node("Pad", "x p", "h"), node("Conv", "h w", "c"), node("BatchNormalization", "c g b m v", "y")]
    assert_folds(model(nodes, X, ["y"], {"p": LONG, **W, **statistics}), "Conv")


def test_a_body_folds_its_own() -> None:
    branches: dict[str, Any] = {}
    for name, row in (("then_branch", 1), ("else_branch", 2)):
        nodes = [node("Pad", "x p", f"h{row}"), node("Conv", f"h{row} w", f"o{row}", pads=[0, 0, row, 1])]
        branches[name] = onnx.helper.make_graph(nodes, name, [], [value(f"o{row}", None)])
    built = model([node("If", "c", "y", **branches)], {**X, "c": ("", onnx.TensorProto.BOOL)}, ["y"], {"p": LONG, **W})
    done, report = folded(built)
    assert report.notes == ["2 × Pad folded into Conv"]
    assert_same(built, done, SAME_DB)


def test_the_rank_is_the_weights_where_neither_pad_nor_convolution_says() -> None:
    axes = {"p": np.array([1, 2]), "a": np.array([-1])}
    nodes = [node("Pad", "x p _ a", "h"), node("Conv", "h w", "y")]
    done = assert_folds(model(nodes, X, ["y"], {**axes, **W}, opset=18), "Conv")
    assert attributes(done)["pads"] == [0, 1, 0, 2]
    # a weight that comes in has no rank
    assert_stays(model(nodes, {**X, "w": "6x4x3x3"}, ["y"], axes, opset=18))


def test_metadata_of_the_model_and_of_the_convolution_stays() -> None:
    nodes = [node("Pad", "x p", "h"), node("Conv", "h w", "y")]
    for made, said in zip(nodes, ("pad", "conv"), strict=True):
        made.doc_string = said
        made.metadata_props.add(key="origin", value=said)
    built = proto(nodes, X, ["y"], {"p": LONG, **W}, ir_version=10, value_info=[value("h", "1x4x8x10")])
    built.metadata_props.add(key="who", value="me")
    done, _ = folded(Model.from_proto(built))
    conv = done.proto.graph.node[0]
    assert (conv.doc_string, [p.value for p in conv.metadata_props]) == ("conv", ["conv"])
    assert [p.value for p in done.proto.metadata_props if p.key == "who"] == ["me"]
    assert not done.proto.graph.value_info


def test_it_can_be_left_out() -> None:
    built = before(node("Conv", "h w", "y"))
    done, report = folded(built, pads=False)
    assert (op_types(done), report.notes) == (["Pad", "Conv"], ["nothing to fold"])


class TestAveragePool:
    @pytest.mark.parametrize(
        ("own", "pads"),
        [
            ({}, [0, 0, 1, 1]),
            ({"auto_pad": "VALID", "strides": [2, 2]}, [0, 0, 1, 1]),
            ({"count_include_pad": 1, "pads": [1, 1, 1, 0]}, [1, 1, 2, 1]),
            ({"count_include_pad": 0, "pads": [0, 0, 0, 0]}, [0, 0, 1, 1]),
        ],
    )
    def test_zeros_are_counted(self, own: dict[str, Any], pads: list[int]) -> None:
        done = assert_folds(before(node("AveragePool", "h", "y", kernel_shape=[3, 3], **own)), "AveragePool")
        assert (attributes(done)["pads"], attributes(done)["count_include_pad"]) == (pads, 1)

    @pytest.mark.parametrize(
        "own",
        [
            {"pads": [1, 1, 1, 1]},
            {"count_include_pad": 1, "ceil_mode": 1, "strides": [2, 2]},
            {"count_include_pad": 1, "auto_pad": "SAME_UPPER"},
            {"count_include_pad": 1, "pads": [1, 1, 2, 2]},
        ],
        ids=["its own do not count", "a window hangs over", "SAME_UPPER", "padding as wide as the kernel"],
    )
    def test_where_it_is_another_average_it_stays(self, own: dict[str, Any]) -> None:
        assert_stays(before(node("AveragePool", "h", "y", kernel_shape=[3, 3], **own)))

    def test_it_cannot_count_before_version_7(self) -> None:
        nodes = [node("Pad", "x", "h", pads=BEHIND), node("AveragePool", "h", "y", kernel_shape=[2, 2])]
        assert_stays(model(nodes, X, opset=6))
        assert op_types(folded(model(nodes, X, opset=7))[0]) == ["AveragePool"]


def test_a_quantized_model_has_no_float_pad_between_its_layers() -> None:
    """What it is for: a Pad that stays float needs a scale on either side of it."""
    nodes = [
        node("Conv", "x w", "a"),
        node("Relu", "a", "b"),
        node("Pad", "b p", "h"),
        node("Conv", "h v", "y", strides=[2, 2]),
    ]
    built = model(nodes, X, ["y"], {**W, "v": "6x6x3x3", "p": LONG})
    samples: list[Feeds] = [{"x": weight(X["x"], seed)} for seed in range(4)]
    report = Quantize(target="onnxruntime-x86").run(built, samples)
    assert "folded first: 1 × Pad folded into Conv" in report.notes
    assert "Pad" not in op_types(built)
