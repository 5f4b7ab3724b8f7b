"""Masks, written by prune and applied by apply-masks; and weights, written by prune."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnxsparse import ApplyMasks, ModelError, ParamError
from onnxsparse.ir.model import Model
from onnxsparse.pipeline.base import StepReport
from tests.graphs import Array, chain, model, node, weight
from tests.pruning.pruned import prune


class TestMasks:
    def test_round_trip(self, tmp_path: Path) -> None:
        built = Model.from_proto(chain(3, 8, 16, 4))
        pruned, report = prune(built, sparsity_op=0.7, masks=tmp_path / "m.npz")
        with (tmp_path / "m.npz").open("wb") as file:
            report.artifacts[tmp_path / "m.npz"](file)
        again = built.copy()
        ApplyMasks(masks=tmp_path / "m.npz").run(again)
        assert again.to_bytes() == pruned.to_bytes()

    def save(self, path: Path, **masks: np.ndarray) -> ApplyMasks:
        np.savez(path, **masks)  # type: ignore[arg-type]  # the stub takes every keyword for its own option
        return ApplyMasks(masks=path)

    def test_a_mask_for_no_weight(self, tmp_path: Path) -> None:
        with pytest.raises(ParamError, match="has a mask for 'w9', and the model has no such weight"):
            self.save(tmp_path / "m.npz", w9=np.ones((8, 8), bool)).run(Model.from_proto(chain(3, 4)))

    def test_a_mask_of_another_shape(self, tmp_path: Path) -> None:
        mask = {"conv0.weight": np.ones((4, 4), bool)}
        with pytest.raises(
            ParamError, match=r"the mask for 'conv0.weight' is \[4, 4\], and the weight in the model is \[4, 3, 3, 3\]"
        ):
            self.save(tmp_path / "m.npz", **mask).run(Model.from_proto(chain(3, 4)))

    def test_a_mask_that_is_no_mask(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="masks are boolean"):
            self.save(tmp_path / "m.npz", **{"conv0.weight": np.ones((4, 3, 3, 3))}).run(Model.from_proto(chain(3, 4)))

    def test_a_file_that_is_no_npz(self, tmp_path: Path) -> None:
        (tmp_path / "m.npz").write_text("no")
        with pytest.raises(ModelError, match="it is not an npz file"):
            ApplyMasks(masks=tmp_path / "m.npz").run(Model.from_proto(chain(3, 4)))


def written(report: StepReport, file: Path) -> dict[str, Array]:
    with file.open("wb") as stream:
        report.artifacts[file](stream)
    with np.load(file) as archive:
        return dict(archive)


class TestWeights:
    def network(self, dtype: type[np.generic] = np.float32) -> Model:
        """A convolution without bias, one with, and a product."""
        nodes = [
            node("Conv", "x a", "h1"),
            node("Relu", "h1", "r1"),
            node("Conv", "r1 b bb", "h2", name="second"),
            node("GlobalAveragePool", "h2", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f m", "y", name="product"),
        ]
        shapes = {"a": "8x3x3x3", "b": "6x8x3x3", "bb": "6", "m": "6x5"}
        return model(nodes, {"x": "1x3x9x9"}, ["y"], {name: weight(shape).astype(dtype) for name, shape in shapes.items()})

    def data(self, folder: Path) -> Path:
        np.save(folder / "calib.npy", weight("40x3x9x9", 1) + 1)  # a mean, which biases have to make up for
        return folder / "calib.npy"

    def test_repaired_weights_and_biases_by_name(self, tmp_path: Path) -> None:
        file = tmp_path / "w.npz"
        pruned, report = prune(self.network(), sparsity_op=0.5, data=self.data(tmp_path), weights=file)
        added = pruned.proto.graph.node[0].input[2]
        found = written(report, file)
        assert set(found) == {"a", "b", "bb", "m", added}
        for name, values in found.items():
            assert np.array_equal(values, pruned.weights[name])
        assert not np.array_equal(found["bb"], self.network().weights["bb"])
        kept = written(prune(pruned, sparsity_op=0.5, masks=file)[1], file)
        assert all(np.array_equal(found[name] != 0, mask) for name, mask in kept.items())

    def test_layers_that_stay_are_left_out(self, tmp_path: Path) -> None:
        file = tmp_path / "w.npz"
        assert set(written(prune(self.network(), sparsity_op=0.2, exclude=("second",), weights=file)[1], file)) == {"a", "m"}

    def test_values_are_those_of_the_pass(self, tmp_path: Path) -> None:
        file = tmp_path / "w.npz"
        pruned, report = prune(self.network(), weights=file)
        before = pruned.weights["a"].copy()
        pruned.weights["a"] = np.zeros_like(before)
        assert np.array_equal(written(report, file)["a"], before)

    @pytest.mark.parametrize(("dtype", "stored"), [(np.float16, np.float16), (ml_dtypes.bfloat16, np.float32)])
    def test_element_types(self, tmp_path: Path, dtype: type[np.generic], stored: type[np.generic]) -> None:
        built = model([node("MatMul", "x w", "y")], {"x": "2x8"}, ["y"], {"w": weight("8x8").astype(dtype)})
        pruned, report = prune(built, sparsity=0.5, weights=tmp_path / "w.npz")
        (values,) = written(report, tmp_path / "w.npz").values()
        assert values.dtype == stored
        assert np.array_equal(values, pruned.weights["w"].astype(stored))
        assert np.count_nonzero(values) == 32
