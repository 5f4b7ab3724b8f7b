"""Sparse tensors are weights like any other, and stay sparse in a file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsparse import Annotate, ApplyMasks, Fold, Model, ModelError, Prune, PruneChannels, Quantize, Strip, layers, load
from onnxsparse.runtime.session import runner
from tests.graphs import FLOAT, INT64, model, node, proto, weight

POSITIONS = [0, 5, 9, 14, 20, 31]
"""Of the values in a tensor of 4 × 8: 26 of 32 are zero."""


def sparse(name: str, shape: list[int], positions: list[int], *, coordinates: bool = False) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.arange(1, len(positions) + 1, dtype=np.float32), name)
    flat = np.array(positions, np.int64)
    indices = np.stack(np.unravel_index(flat, shape), axis=1) if coordinates else flat
    made: onnx.SparseTensorProto = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "i"), shape)
    return made


def dense(shape: list[int], positions: list[int]) -> np.ndarray:
    array = np.zeros(int(np.prod(shape)), np.float32)
    array[positions] = np.arange(1, len(positions) + 1)
    return array.reshape(shape)


def two_layers(given: onnx.SparseTensorProto) -> onnx.ModelProto:
    nodes = [node("MatMul", "x ws", "a", name="fc0"), node("Relu", "a", "r"), node("MatMul", "r w1", "y", name="fc1")]
    built = proto([node("MatMul", "x w1", "y")], {"x": "2x8"}, ["y"], {"w1": "8x3"})
    del built.graph.node[:], built.graph.input[:]
    built.graph.node.extend(nodes)
    built.graph.input.append(helper.make_tensor_value_info("x", FLOAT, [2, 4]))
    built.graph.sparse_initializer.append(given)
    return built


@pytest.mark.parametrize("coordinates", [False, True])
def test_a_sparse_initializer_is_a_weight_with_zeros(coordinates: bool) -> None:
    found = layers(Model.from_proto(two_layers(sparse("ws", [4, 8], POSITIONS, coordinates=coordinates))))
    assert [(layer.macs, layer.elements, layer.zeros) for layer in found] == [(2 * 32, 32, 26), (2 * 24, 24, 0)]
    assert found.totals.zero_macs == 2 * 26


def test_in_a_body_and_in_a_constant_too() -> None:
    branch = helper.make_graph(
        [node("MatMul", "x ws", "t")], "then", [], [helper.make_tensor_value_info("t", FLOAT, [2, 8])],
        sparse_initializer=[sparse("ws", [4, 8], POSITIONS)],
    )  # fmt: skip
    constant = helper.make_node("Constant", [], ["wc"], sparse_value=sparse("", [4, 8], POSITIONS[:4]))
    other = helper.make_graph(
        [constant, node("MatMul", "x wc", "e")], "else", [], [helper.make_tensor_value_info("e", FLOAT, [2, 8])]
    )
    made = node("If", "c", "y", then_branch=branch, else_branch=other)
    built = model([made], {"x": "2x4", "c": ("", TensorProto.BOOL)})
    assert np.array_equal(built.weights["ws"], dense([4, 8], POSITIONS))
    assert np.array_equal(built.weights["wc"], dense([4, 8], POSITIONS[:4]))
    assert layers(built).totals.macs == 2 * 32


def saved(built: Model, folder: Path) -> onnx.ModelProto:
    built.save(folder / "out.onnx")
    return onnx.load(folder / "out.onnx")


@pytest.mark.parametrize("coordinates", [False, True])
def test_what_no_pass_changes_is_written_as_it_came(coordinates: bool, tmp_path: Path) -> None:
    before = two_layers(sparse("ws", [4, 8], POSITIONS, coordinates=coordinates))
    built = Model.from_proto(before)
    Annotate().run(built)
    Strip().run(built)
    assert saved(built, tmp_path) == before
    assert onnx.ModelProto.FromString(built.to_bytes()) == before


@pytest.mark.parametrize(("coordinates", "indices"), [(False, [14, 20, 31]), (True, [[1, 6], [2, 4], [3, 7]])])
def test_pruning_leaves_fewer_stored_values(tmp_path: Path, coordinates: bool, indices: list[object]) -> None:
    built = Model.from_proto(two_layers(sparse("ws", [4, 8], POSITIONS, coordinates=coordinates)))
    Prune(sparsity=0.9, protect="none", scope="layer").run(built)
    # 29 of 32 are 90.6 %, 28 are 87.5 %: of 6 values the 3 smallest go
    after = saved(built, tmp_path).graph.sparse_initializer[0]
    assert numpy_helper.to_array(after.values).tolist() == [4, 5, 6]
    assert numpy_helper.to_array(after.indices).tolist() == indices
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(
        runner(load(tmp_path / "out.onnx")).run({"x": x})["y"], runner(built).run({"x": x})["y"]
    )  # fmt: skip


def test_a_negative_zero_stays_negative(tmp_path: Path) -> None:
    built = Model.from_proto(two_layers(sparse("ws", [4, 8], POSITIONS)))
    values = np.array(built.weights["ws"])
    values[0, 1] = -0.0
    built.weights["ws"] = values
    assert saved(built, tmp_path).graph.sparse_initializer
    assert load(tmp_path / "out.onnx").weights["ws"].tobytes() == values.tobytes()


def test_masks_apply_to_it(tmp_path: Path) -> None:
    mask = np.ones((4, 8), np.bool_)
    mask.reshape(-1)[POSITIONS[0]] = False
    np.savez(tmp_path / "masks.npz", ws=mask)
    built = Model.from_proto(two_layers(sparse("ws", [4, 8], POSITIONS)))
    report = ApplyMasks(masks=tmp_path / "masks.npz").run(built)
    assert [(c.tensor, c.zeros_before, c.zeros_after) for c in report.changes] == [("ws", 26, 27)]
    assert saved(built, tmp_path).graph.sparse_initializer[0].values.dims == [5]


def test_a_tensor_that_is_not_sparse_any_more_is_written_dense(tmp_path: Path) -> None:
    built = Model.from_proto(two_layers(sparse("ws", [4, 8], POSITIONS)))
    built.weights["ws"] = weight("4x8")
    after = saved(built, tmp_path)
    assert not after.graph.sparse_initializer
    assert np.array_equal(numpy_helper.to_array(after.graph.initializer[-1]), weight("4x8"))


def test_channels_are_cut_and_integers_written() -> None:
    built = Model.from_proto(two_layers(sparse("ws", [4, 8], POSITIONS)))
    cut = built.copy()
    PruneChannels(round_to=1).run(cut)
    assert cut.weights.shape("ws") == (4, 4)
    report = Quantize(target="onnxruntime-x86").run(built, samples=[{"x": weight("2x4", 3)}])
    assert "all 26 weights that were zero are integer 0" in report.notes


def test_values_in_a_side_file_are_read_and_written_into_the_model(tmp_path: Path) -> None:
    given = sparse("ws", [4, 8], POSITIONS)
    (tmp_path / "values.bin").write_bytes(b"...." + given.values.raw_data)
    given.values.ClearField("raw_data")
    given.values.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", "values.bin"), ("offset", "4"), ("length", "24")):
        given.values.external_data.add(key=key, value=entry)
    (tmp_path / "in.onnx").write_bytes(two_layers(given).SerializeToString())
    built = load(tmp_path / "in.onnx")
    assert np.array_equal(built.weights["ws"], dense([4, 8], POSITIONS))
    (tmp_path / "elsewhere").mkdir()
    after = saved(built, tmp_path / "elsewhere").graph.sparse_initializer[0]
    assert numpy_helper.to_array(after.values).tolist() == [1, 2, 3, 4, 5, 6]


def test_folding_writes_no_dense_copy_of_it(tmp_path: Path) -> None:
    """Its transpose, as a dense constant, takes 4 000 000 bytes for 72."""
    nodes = [node("Transpose", "ws", "wt", perm=[1, 0]), node("MatMul", "x wt", "y")]
    built = proto(nodes, {"x": "2x1000"}, ["y"], {"ws": np.zeros((1000, 1000), np.float32)})
    del built.graph.initializer[:]
    built.graph.sparse_initializer.append(sparse("ws", [1000, 1000], POSITIONS))
    (tmp_path / "in.onnx").write_bytes(built.SerializeToString())
    loaded = load(tmp_path / "in.onnx")
    Fold().run(loaded)
    loaded.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").stat().st_size <= (tmp_path / "in.onnx").stat().st_size


def wrong(**changes: Any) -> onnx.ModelProto:
    given = sparse("ws", changes.get("shape", [4, 8]), [0, 1, 2, 3, 4, 5])
    if "indices" in changes:
        given.indices.CopyFrom(helper.make_tensor("i", INT64, [len(changes["indices"])], changes["indices"]))
    given.dims[:] = changes.get("dims", given.dims)
    return two_layers(given)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (wrong(indices=[0, 1]), r"sparse tensor 'ws' has 6 values and indices of shape \[2\]"),
        (wrong(indices=[0, 1, 2, 3, 4, 32]), r"sparse tensor 'ws' of shape \[4, 8\] has an index outside of it"),
        (wrong(indices=[0, 1, 2, 3, 4, -1]), r"sparse tensor 'ws' of shape \[4, 8\] has an index outside of it"),
        (wrong(dims=[1 << 40, 1 << 40]), "is larger than 2 GB with its zeros"),
    ],
)
def test_a_damaged_one_is_named(damaged: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Model.from_proto(damaged)
