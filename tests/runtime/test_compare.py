"""Comparing two models: figures by hand, and agreement that proves nothing is called that."""

import math
from pathlib import Path

import numpy as np
import pytest

from onnxsparse import BackendError, Model, ModelError, ParamError, compare, load_samples
from onnxsparse.runtime import distance
from onnxsparse.runtime.inputs import DIFFERENCE
from onnxsparse.runtime.samples import Samples
from tests.graphs import BOOL, FLOAT, INT64, chain, model, node, weight


def linear(scale: float = 1.0, bias: float = 0.0) -> Model:
    nodes = [node("Mul", "x a", "m"), node("Add", "m b", "y")]
    return model(nodes, {"x": "2x4"}, ["y"], {"a": np.array(scale, np.float32), "b": np.array(bias, np.float32)})


@pytest.mark.parametrize("block", [3, 1 << 20])
def test_figures_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(distance, "BLOCK_ELEMENTS", block)
    x = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)
    given = load_samples(write(tmp_path, x=np.stack([x, -x])), linear())
    result = compare(linear(), linear(bias=0.5), given).outputs[0]
    assert result.max_difference == 0.5
    assert result.mean_difference == 0.5
    assert result.sqnr_db == pytest.approx(10 * math.log10(2 * 60 / (16 * 0.25)))
    assert result.top1 == 1.0
    assert result.vacuous is None


def write(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]  # the stub takes every keyword for its own option
    return folder / "data.npz"


def test_equal_models_are_equal() -> None:
    result = compare(linear(), linear())
    assert result.outputs[0].sqnr_db == math.inf
    assert result.passes(100)
    assert result.to_json()["outputs"][0]["identical"] is True  # type: ignore[index]  # JSON


def test_top1_counts_rows(tmp_path: Path) -> None:
    flip = model([node("Mul", "x s", "y")], {"x": "2x3"}, ["y"], {"s": np.array([1, 9, 1], np.float32)})
    same = model([node("Mul", "x s", "y")], {"x": "2x3"}, ["y"], {"s": np.array([1, 1, 1], np.float32)})
    x = np.array([[[3, 1, 0], [1, 3, 0]], [[2, 1, 0], [1, 8, 0]]], np.float32)
    result = compare(same, flip, load_samples(write(tmp_path, x=x), same))
    assert result.outputs[0].top1 == 0.5


def vacuous(found: Model) -> str | None:
    result = compare(found, found)
    assert not result.passes(0) or result.outputs[0].vacuous is None
    return result.outputs[0].vacuous


def test_an_output_that_ignores_its_input_is_vacuous() -> None:
    nodes = [node("Mul", "x zero", "m"), node("Add", "m c", "y")]
    built = model(nodes, {"x": "1x4"}, ["y"], {"zero": np.zeros(4, np.float32), "c": weight("4")})
    assert "does not depend on the input" in str(vacuous(built))


def test_a_constant_output_is_vacuous() -> None:
    built = model([node("Mul", "x zero", "y")], {"x": "1x4"}, ["y"], {"zero": np.zeros(4, np.float32)})
    assert vacuous(built) == "it is constant"


def test_an_empty_output_is_vacuous() -> None:
    nodes = [node("Greater", "x huge", "b"), node("Compress", "x b", "y", axis=0)]
    assert vacuous(model(nodes, {"x": "4"}, ["y"], {"huge": np.array(1e9, np.float32)})) == "it is empty"


def test_not_a_number_is_no_agreement() -> None:
    built = model([node("Sqrt", "x", "y")], {"x": "64"})
    assert vacuous(built) == "it has NaN or infinite values"


def test_one_sample_is_probed_with_another(tmp_path: Path) -> None:
    x = np.ones((2, 4), np.float32)
    assert compare(linear(), linear(), load_samples(write(tmp_path, x=x), linear())).outputs[0].vacuous is None


def test_what_feeds_a_topk_is_compared_too() -> None:
    nodes = [node("Mul", "x a", "scores"), node("TopK", "scores k", "y i", name="best", axis=1)]
    built = model(nodes, {"x": "1x9"}, ["y", "i"], {"a": np.array(2, np.float32), "k": np.array([2], np.int64)})
    names = {o.name: o.feeds for o in compare(built, built).outputs}
    assert names == {"y": None, "i": None, "scores": "TopK best"}


def test_seeded_inputs_fit_what_the_model_does_with_them() -> None:
    """Token ids stay inside the table, masks are one, a selector is what the model compares it with."""
    nodes = [
        node("Gather", "table ids", "e"),
        node("Cast", "mask", "m", to=FLOAT),
        node("Mul", "e m", "masked"),
        node("Equal", "rate wanted", "known"),
        node("Where", "known masked zero", "y"),
    ]
    inputs = {"ids": ("1x50", INT64), "mask": ("1x50x1", INT64), "rate": ("", INT64)}
    weights = {"table": "7x5", "wanted": np.array(16000, np.int64), "zero": np.array(0, np.float32)}
    built = model(nodes, inputs, ["y"], weights)
    result = compare(built, built)
    assert result.outputs[0].vacuous is None
    assert result.notes == (
        "2 seeded random inputs",
        "input 'ids' is drawn from 0 to 6",
        "input 'mask' is set to 1",
        "input 'rate' is set to 16000",
        DIFFERENCE,
    )


def test_boolean_inputs_are_true() -> None:
    built = model([node("Cast", "b", "y", to=FLOAT)], {"b": ("3", BOOL)})
    assert "input 'b' is set to 1" in compare(built, built).notes


class TestData:
    @pytest.mark.parametrize("shape", [(2, 4), (5, 2, 4), (6, 4)])
    def test_samples_are_told_by_their_shape(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        found = load_samples(write(tmp_path, x=np.zeros(shape, np.float32)), linear())
        assert len(found.feeds) == int(np.prod(shape)) // 8
        assert found.feeds[0]["x"].shape == (2, 4)

    def test_a_folder(self, tmp_path: Path) -> None:
        for i in range(3):
            np.save(tmp_path / f"{i}.npy", np.full((2, 4), i, np.float32))
        (tmp_path / "folder.npy").mkdir()
        assert [f["x"][0, 0] for f in load_samples(tmp_path, linear()).feeds] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 5), np.float32), "takes 2x4, the array is 3x5"),
            (np.zeros((2, 4), np.uint8), "takes float32, the array has uint8"),
            (np.zeros((0, 4), np.float32), "the array is 0x4"),
        ],
    )
    def test_what_does_not_fit_is_said(self, tmp_path: Path, array: np.ndarray, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_samples(write(tmp_path, x=array), linear())

    def test_a_missing_input_is_said(self, tmp_path: Path) -> None:
        built = model([node("Add", "a b", "y")], {"a": "4", "b": "4"})
        with pytest.raises(ModelError, match="no array for input 'b'"):
            load_samples(write(tmp_path, a=np.zeros(4, np.float32)), built)

    def test_an_empty_folder_and_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"holds no \.npy, \.npz or image files"):
            load_samples(tmp_path, linear())
        with pytest.raises(ModelError, match="No such file"):
            load_samples(tmp_path / "none.npz", linear())
        (tmp_path / "bad.npz").write_text("no")
        with pytest.raises(ModelError, match="it is no npy or npz file"):
            load_samples(tmp_path / "bad.npz", linear())


def test_open_sizes_are_said() -> None:
    built = model([node("Relu", "x", "y")], {"x": "1x3xHxW"})
    with pytest.raises(ParamError, match=r"input 'x' of the model has open sizes \(1x3x\?x\?\)"):
        compare(built, built)


def test_a_model_that_cannot_run_is_said() -> None:
    built = model([node("Mystery", "x", "y", domain="acme")], {"x": "4"}, domains={"acme": 1})
    with pytest.raises(BackendError, match="onnxruntime cannot load the model"):
        compare(built, built)


def test_an_old_model_may_list_unused_inputs() -> None:
    """An initializer that is among the inputs as well, as IR 3 has them, must not become an input that has to be fed."""
    unread = {"x": "2x4", "w": "4x3", "unread": "4x400"}
    built = model([node("MatMul", "x w", "y")], unread, weights={"w": "4x3", "unread": "4x400"}, ir_version=3)
    assert compare(built, built).outputs[0].sqnr_db == math.inf


def test_outputs_that_only_one_model_has_are_said() -> None:
    other = Model.from_proto(chain(3, 4))
    other.proto.graph.output[0].name = "renamed"
    other.proto.graph.node[-1].output[0] = "renamed"
    assert "output 'y' is only in the model" in compare(Model.from_proto(chain(3, 4)), other).notes


def test_shapes_that_differ_are_said() -> None:
    longer = model([node("Concat", "x x", "y", axis=1)], {"x": "2x4"})
    output = compare(linear(), longer).outputs[0]
    assert output.sqnr_db is None
    assert output.vacuous == "has shape [2, 4] in one model and [2, 8] in the other"


def test_one_sample_of_a_model_with_open_sizes() -> None:
    """Whether outputs change at all is probed with a random input of the sample's shape."""
    built = model([node("Conv", "x w", "y")], {"x": "1x3xHxW"}, ["y"], {"w": "4x3x1x1"})
    one = Samples([{"x": np.ones((1, 3, 5, 7), np.float32)}])
    assert compare(built, built.copy(), one).outputs[0].vacuous is None
