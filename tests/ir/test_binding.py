"""Which sizes inputs get, and what is said about it."""

import pytest

from onnxsparse import ParamError
from onnxsparse.ir.binding import Binding
from onnxsparse.ir.model import Model
from tests.graphs import model, node


def built(**inputs: str) -> Model:
    return model([node("Identity", next(iter(inputs)), "y")], inputs)


def bound(found: Model, *input_shape: str, dim: tuple[str, ...] = ()) -> Binding:
    return found.bind(input_shape, dim).binding


@pytest.mark.parametrize("text", ["x:2,3,8,9", "x=2x3x8x9", "2,3,8,9", "2x3x8x9", "x:[2, 3, 8, 9]"])
def test_every_way_to_write_a_shape(text: str) -> None:
    assert bound(built(x="Nx3xHxW"), text).shapes == {"x": (2, 3, 8, 9)}


def test_a_name_with_a_colon() -> None:
    assert bound(built(**{"in:0": "Nx3"}), "in:0:2,3").shapes == {"in:0": (2, 3)}


def test_a_symbol_binds_everywhere() -> None:
    found = bound(built(a="Nx3", b="NxM"), "a:4,3", dim=("M=7",))
    assert found.shapes == {"a": (4, 3), "b": (4, 7)}
    assert found.assumed == ()


def test_batch_is_one_and_that_is_told() -> None:
    found = bound(built(x="Nx3x8x8"))
    assert found.shapes == {"x": (1, 3, 8, 8)}
    assert found.assumed == ("axis 0 of input 'x' is 1 (batch)",)


def test_a_batch_axis_is_known_by_its_name_too() -> None:
    assert bound(built(state="2xbatchx128")).shapes == {"state": (2, 1, 128)}


def test_the_models_own_image_size_counts() -> None:
    found = built(images="batchx3xheightxwidth")
    found.proto.metadata_props.add(key="imgsz", value="[320, 640]")
    assert bound(found).shapes == {"images": (1, 3, 320, 640)}
    assert "imgsz" in found.binding.assumed[0]


def test_the_caller_overrules_the_models_own_size() -> None:
    found = built(images="batchx3xheightxwidth")
    found.proto.metadata_props.add(key="imgsz", value="640")
    assert bound(found, "1,3,64,64").shapes == {"images": (1, 3, 64, 64)}


@pytest.mark.parametrize(
    "text", ["", "a lot", "[1, 2, 3]", "[0, 640]", "True", "{[]: 1}", "-" * 10**5 + "1", f"[{1 << 63}, 640]"]
)
def test_an_image_size_that_is_none_is_left(text: str) -> None:
    found = built(images="1x3xHxW")
    found.proto.metadata_props.add(key="imgsz", value=text)
    assert bound(found).unbound == ("images: 1x3x?x?",)


def test_other_open_sizes_stay_open() -> None:
    assert bound(built(x="Nx3xHx-1")).shapes == {"x": (1, 3, None, None)}


@pytest.mark.parametrize(
    ("texts", "dims", "message"),
    [
        (("x:1,3",), (), "has 4 dimensions"),
        (("x:1,4,8,8",), (), "axis 1 of input 'x' of the model is fixed to 3"),
        (("z:1,3,8,8",), (), "has no input 'z'; it has x"),
        (("x:1,3,8,H",), (), "sizes are positive whole numbers"),
        (("x:1,3,0,8",), (), "sizes are positive whole numbers"),
        ((), ("Q=1",), "has no dimension 'Q'; it has H, N, W"),
        ((), ("N",), "write it as NAME=SIZE"),
        ((), ("N=0",), "write it as NAME=SIZE"),
        (("x:2,3,8,8",), ("N=1",), "dimension 'N' of the model is given as 2 and as 1"),
    ],
)
def test_contradictions_are_said(texts: tuple[str, ...], dims: tuple[str, ...], message: str) -> None:
    with pytest.raises(ParamError, match=message):
        bound(built(x="Nx3xHxW"), *texts, dim=dims)


def test_a_bare_shape_needs_a_single_input() -> None:
    with pytest.raises(ParamError, match="name the input, one of a, b"):
        bound(built(a="Nx3", b="N"), "1,3")
