"""Zeros around a tensor become the padding of the op that reads it, and stay where that would be another computation."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsparse import Fold, Model, compare, layers
from onnxsparse.analysis.checker import first_fault
from onnxsparse.ops import OpView, find
from onnxsparse.ops.padding import Zeros
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime.session import Feeds
from tests.graphs import ASIDE, NAMINGS, Array, model, node, proto, value

X = {"x": "1x4x7x9"}
W = {"w": "6x4x3x3"}
BEHIND = [0, 0, 0, 0, 0, 0, 1, 1]
"""Before: none; after: one row and one column, as a convolution of stride 2 pads in TensorFlow."""
LONG = np.array(BEHIND, np.int64)


def folded(built: Model, **options: bool) -> tuple[Model, list[str]]:
    done = built.copy()
    notes = list(Fold(**options).run(done).notes)
    assert first_fault(done) is None
    return done, notes


def ops(built: Model) -> list[str]:
    return [n.op_type for n in built.proto.graph.node]


def attributes(built: Model, name: str = "y") -> dict[str, Any]:
    found = next(n for n in built.proto.graph.node if name in n.output)
    return {a.name: onnx.helper.get_attribute_value(a) for a in found.attribute}


def assert_same(a: Model, b: Model) -> None:
    """To float rounding: another kernel may sum in another order."""
    result = compare(a, b)
    assert all(o.sqnr_db is not None and o.sqnr_db >= 120 for o in result.outputs), result


def assert_folds(built: Model, *kept: str) -> Model:
    done, _ = folded(built)
    assert [op for op in ops(done) if op not in ASIDE] == list(kept)
    assert_same(built, done)
    again, notes = folded(done)
    assert notes == ["nothing to fold"]
    assert again.to_bytes() == done.to_bytes()
    return done


def assert_stays(built: Model) -> None:
    done, notes = folded(built)
    assert "Pad" in ops(done)
    assert not any("Pad" in note for note in notes), notes


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
    done, notes = folded(built)
    assert notes == ["1 × Pad folded into Conv"]
    assert attributes(done) == {"pads": [0, 0, 1, 1]}
    if opset >= 7:
        assert_same(built, done)


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
    assert folded(built)[1] == ["1 × constant folded", "1 × Pad folded into Conv"]


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
    assert folded(built)[1] == ["1 × Pad folded into AveragePool and Conv"]
    assert [attributes(done, name)["pads"] for name in ("y", "z", "a")] == [[0, 0, 1, 1], [1, 1, 2, 2], [0, 0, 1, 1]]


def test_a_constant_that_another_node_reads_stays() -> None:
    zero = node("Constant", "", "v", value=onnx.numpy_helper.from_array(ZERO))
    nodes = [zero, node("Pad", "x p v", "h"), node("Conv", "h w", "g"), node("Add", "g v", "y")]
    assert_folds(model(nodes, X, ["y"], {"p": LONG, **W}), "Constant", "Conv", "Add")


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
    done, notes = folded(built)
    assert notes == ["2 × Pad folded into Conv"]
    assert_same(built, done)


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
    done, notes = folded(built, pads=False)
    assert (ops(done), notes) == (["Pad", "Conv"], ["nothing to fold"])


CONV = node("Conv", "h w", "y")


@pytest.mark.parametrize(
    ("pad", "weights"),
    [
        (node("Pad", "x p", "h", mode="reflect"), {"p": LONG}),
        (node("Pad", "x p", "h", mode="edge"), {"p": LONG}),
        (node("Pad", "x p v", "h"), {"p": LONG, "v": np.float32(1)}),
        (node("Pad", "x p v", "h"), {"p": LONG, "v": np.float32(np.nan)}),
        (node("Pad", "x p", "h"), {"p": np.array([0, 1, 0, 0, 0, 0, 1, 1]), "w": "6x5x3x3"}),
        (node("Pad", "x p", "h"), {"p": np.array([1, 0, 0, 0, 0, 0, 1, 1])}),
        (node("Pad", "x p", "h"), {"p": np.array([0, 0, -1, 0, 0, 0, 1, 1])}),
    ],
    ids=["mirrored", "repeated", "ones", "NaN", "channels", "batch", "cropped"],
)
def test_other_pads_stay(pad: onnx.NodeProto, weights: dict[str, str | Array]) -> None:
    assert_stays(model([pad, CONV], X, ["y"], {**W, **weights}))


def test_an_attribute_with_another_value_stays() -> None:
    pad = node("Pad", "x", "h", pads=BEHIND, value=1.0)
    assert_stays(model([pad, CONV], X, ["y"], W, opset=10))


def test_sizes_and_values_that_come_in_stay() -> None:
    size, zero = ("8", onnx.TensorProto.INT64), ("", onnx.TensorProto.FLOAT)
    assert_stays(model([node("Pad", "x p", "h"), CONV], {**X, "p": size}, ["y"], W))
    assert_stays(model([node("Pad", "x p v", "h"), CONV], {**X, "v": zero}, ["y"], {"p": LONG, **W}))
    computed = [node("Neg", "n", "p"), node("Pad", "x p", "h"), CONV]
    built = model(computed, X, ["y"], {"n": -LONG, **W})
    assert folded(built, constants=False)[1] == ["nothing to fold"]
    assert_folds(built, "Conv")


QDQ = {"s": np.float32(0.1), "z": np.uint8(3)}


@pytest.mark.parametrize(
    ("nodes", "outputs", "weights"),
    [
        ([node("Conv", "h w", "y", auto_pad="SAME_UPPER")], ["y"], {}),
        ([node("Conv", "h w", "y", auto_pad="SAME_LOWER", strides=[2, 2])], ["y"], {}),
        ([node("Conv", "h w", "y", auto_pad="VALID", pads=[1, 1, 1, 1])], ["y"], {}),
        ([CONV], ["y", "h"], {}),
        ([CONV, node("Relu", "h", "z")], ["y", "z"], {}),
        ([CONV, node("Conv", "h w", "z", auto_pad="SAME_UPPER")], ["y", "z"], {}),
        ([node("Conv", "u h", "y")], ["y"], {"u": "2x4x16x16"}),
        ([node("Conv", "h h", "y")], ["y"], {}),
        ([node("ConvTranspose", "h w", "y")], ["y"], {"w": "4x6x3x3"}),
        ([node("MaxPool", "h", "y", kernel_shape=[3, 3])], ["y"], {}),
        ([node("LpPool", "h", "y", kernel_shape=[3, 3])], ["y"], {}),
        ([node("GlobalAveragePool", "h", "y")], ["y"], {}),
        ([node("Relu", "h", "r"), node("Conv", "r w", "y")], ["y"], {}),
        (
            [node("QuantizeLinear", "h s z", "q"), node("DequantizeLinear", "q s z", "d"), node("Conv", "d w", "y")],
            ["y"],
            QDQ,
        ),
    ],
    ids=[
        "SAME_UPPER",
        "SAME_LOWER",
        "VALID and pads at once",
        "a model output",
        "read elsewhere",
        "read by one that cannot",
        "read as a weight",
        "read as input and weight",
        "ConvTranspose",
        "MaxPool",
        "LpPool",
        "GlobalAveragePool",
        "something between",
        "quantizers between",
    ],
)
def test_a_pad_stays_before(nodes: list[onnx.NodeProto], outputs: list[str], weights: dict[str, str | Array]) -> None:
    assert_stays(model([node("Pad", "x p", "h"), *nodes], X, outputs, {"p": LONG, **W, **weights}))


def test_a_pad_that_a_body_reads_stays() -> None:
    bodies: dict[str, Any] = {}
    for name in ("then_branch", "else_branch"):
        bodies[name] = onnx.helper.make_graph([node("Conv", "h w", name)], name, [], [value(name, None)])
    nodes = [node("Pad", "x p", "h"), node("If", "c", "y", **bodies)]
    assert_stays(model(nodes, {**X, "c": ("", onnx.TensorProto.BOOL)}, ["y"], {"p": LONG, **W}))


def test_nothing_reads_it() -> None:
    assert_stays(model([node("Pad", "x p", "h"), node("Relu", "x", "y")], X, ["y"], {"p": LONG}))


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
        assert ops(folded(model(nodes, X, opset=7))[0]) == ["AveragePool"]


def pad_model(draw: st.DrawFn, dims: int, reader: onnx.NodeProto, sizes: list[int], weights: dict[str, str]) -> Model:
    """A Pad of up to 3 elements on each side of each spatial axis, in one of its three spellings."""
    pads = draw(st.lists(st.integers(0, 3), min_size=2 * dims, max_size=2 * dims))
    full = [0, 0, *pads[:dims], 0, 0, *pads[dims:]]
    opset = draw(st.sampled_from([10, 17, 18]))
    axes = [axis - draw(st.sampled_from([0, dims + 2])) for axis in range(2, dims + 2)]
    pad = {
        10: node("Pad", "x", "h", pads=full),
        17: node("Pad", "x p", "h"),
        18: node("Pad", "x p _ a", "h"),
    }[opset]
    given_pads = np.array(pads if opset == 18 else full, np.int64)
    arrays: dict[str, str | Array] = {"p": given_pads, "a": np.array(axes, np.int64), **weights}
    read = {name for made in (pad, reader) for name in made.input}
    arrays = {n: a for n, a in arrays.items() if n in read}
    shape = "x".join(map(str, sizes))
    return model([pad, reader], {"x": shape}, ["y"], arrays, opset=opset, naming=draw(NAMINGS))


@st.composite
def padded_convolutions(draw: st.DrawFn) -> Model:
    """One to three spatial axes, any kernel, stride, dilation, groups, and padding of its own."""
    dims = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = dims) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel, dilations, group = each(1, 3), each(1, 2), draw(st.integers(1, 3))
    into, out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    given: dict[str, Any] = {"strides": each(1, 3), "dilations": dilations, "group": group}
    given |= draw(st.sampled_from([{}, {"auto_pad": "VALID"}, {"auto_pad": "NOTSET"}]))
    if given.get("auto_pad") != "VALID" and draw(st.booleans()):
        given["pads"] = each(0, 2, 2 * dims)
    if draw(st.booleans()):
        given["kernel_shape"] = kernel
    sizes = [
        draw(st.integers(1, 2)),
        group * into,
        *(d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True)),
    ]
    weight = "x".join(map(str, [group * out, into, *kernel]))
    return pad_model(draw, dims, node("Conv", "h w", "y", **given), sizes, {"w": weight})


@st.composite
def padded_averages(draw: st.DrawFn) -> Model:
    dims = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = dims) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel = each(1, 5)
    given: dict[str, Any] = {"kernel_shape": kernel, "strides": each(1, 3), "ceil_mode": draw(st.integers(0, 1))}
    given |= draw(st.sampled_from([{}, {"count_include_pad": 1}, {"auto_pad": "VALID"}]))
    if given.get("auto_pad") != "VALID" and draw(st.booleans()):
        given["pads"] = [draw(st.integers(0, size - 1)) for size in kernel * 2]
    sizes = [1, 2, *(k + draw(st.integers(0, 4)) for k in kernel)]
    return pad_model(draw, dims, node("AveragePool", "h", "y", **given), sizes, {})


@settings(max_examples=150, deadline=None)
@given(padded_convolutions())
def test_any_convolution_gives_the_same_with_the_zeros_inside(built: Model) -> None:
    assert_folds(built, "Conv")


@settings(max_examples=100, deadline=None)
@given(padded_averages())
def test_any_average_that_folds_gives_the_same(built: Model) -> None:
    done, _ = folded(built)
    assert_same(built, done)
    assert attributes(built).get("ceil_mode") == 0 or "Pad" in ops(done)


def test_a_quantized_model_has_no_float_pad_between_its_layers() -> None:
    """What it is for: a Pad that stays float needs a scale on either side of it."""
    nodes = [
        node("Conv", "x w", "a"),
        node("Relu", "a", "b"),
        node("Pad", "b p", "h"),
        node("Conv", "h v", "y", strides=[2, 2]),
    ]
    built = model(nodes, X, ["y"], {**W, "v": "6x6x3x3", "p": LONG})
    samples: list[Feeds] = [{"x": np.random.default_rng(i).standard_normal((1, 4, 7, 9)).astype(np.float32)} for i in range(4)]
    report = Quantize(target="onnxruntime-x86").run(built, samples)
    assert "folded first: 1 × Pad folded into Conv" in report.notes
    assert "Pad" not in ops(built)
