"""Patterns within a weight: N of M, and blocks."""

import numpy as np
import pytest

from onnxsparse import ParamError, layers
from onnxsparse.ir.model import Model
from tests.graphs import chain, model, node
from tests.pruning.pruned import prune, reasons, sparsity_of


class TestStructure:
    @staticmethod
    def groups(array: np.ndarray, axis: int, size: int) -> np.ndarray:
        return np.moveaxis(array, axis, -1).reshape(-1, size)

    def test_two_of_four_along_the_input_axis(self) -> None:
        built = Model.from_proto(chain(4, 8, 16, 4))
        pruned, _ = prune(built, pattern="2:4", protect="none")
        for i in range(3):
            before, after = built.weights[f"conv{i}.weight"], pruned.weights[f"conv{i}.weight"]
            old, new = self.groups(np.abs(before), 1, 4), self.groups(np.abs(after), 1, 4)
            assert (np.count_nonzero(new, axis=1) == 2).all()
            assert np.array_equal(np.sort(new, axis=1)[:, 2:], np.sort(old, axis=1)[:, 2:])

    @pytest.mark.parametrize(("op", "transposed", "axis"), [("MatMul", None, 0), ("Gemm", None, 0), ("Gemm", 1, 1)])
    def test_two_of_four_of_matrices(self, op: str, transposed: int | None, axis: int) -> None:
        built = model([node(op, "x w", "y", transB=transposed)], {"x": "2x16"}, ["y"], {"w": "16x16"})
        pruned, _ = prune(built, pattern="2:4", protect="none")
        assert (np.count_nonzero(self.groups(pruned.weights["w"], axis, 4), axis=1) == 2).all()

    def test_groups_follow_the_weight_through_a_transpose(self) -> None:
        nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
        pruned, _ = prune(model(nodes, {"x": "2x16"}, ["y"], {"w": "12x16"}), pattern="2:4", protect="none")
        assert (np.count_nonzero(self.groups(pruned.weights["w"], 1, 4), axis=1) == 2).all()

    def test_an_input_axis_that_does_not_divide_is_left_alone(self) -> None:
        pruned, report = prune(chain(3, 8, 16, 4), pattern="2:4", protect="none")
        assert sparsity_of(pruned)["conv0"] == 0
        assert reasons(report)["conv0"] == "its input axis has 3 elements, not a multiple of 4"

    def test_groups_leave_protected_layers_alone(self) -> None:
        _, report = prune(chain(4, 8, 16, 4), pattern="2:4")
        assert reasons(report)["conv0"] == "protected: stem"

    def test_groups_and_a_target_exclude_each_other(self) -> None:
        with pytest.raises(ParamError, match="leave the target out"):
            prune(chain(4, 8, 16, 4), pattern="2:4", sparsity_op=0.5)

    @pytest.mark.parametrize(("rows", "columns"), [(4, 1), (1, 4), (4, 4), (3, 5)])
    def test_blocks_go_whole_and_land_within_one_block(self, rows: int, columns: int) -> None:
        built = chain(4, 8, 16, 4)
        pruned, _ = prune(built, pattern=f"{rows}x{columns}", sparsity_op=0.5, protect="none")
        totals = layers(pruned).totals
        uses = max(use.uses or 0 for layer in layers(pruned) for use in layer.weights)
        assert totals.zero_macs is not None
        assert 0.5 * totals.weight_macs <= totals.zero_macs < 0.5 * totals.weight_macs + rows * columns * uses
        array = pruned.weights["conv1.weight"]
        for row in range(0, 16, rows):
            for column in range(0, 8, columns):
                block = array[row : row + rows, column : column + columns] != 0
                positions = block.reshape(-1, *block.shape[2:])
                assert (positions.all(axis=0) | ~positions.any(axis=0)).all(), (row, column)

    @pytest.mark.parametrize("pattern", ["4:2", "0:4", "2:4:8", "blocks", "0x4"])
    def test_an_impossible_pattern_is_refused(self, pattern: str) -> None:
        with pytest.raises(ParamError, match=f"--pattern {pattern}: write element"):
            prune(chain(4, 8, 4), pattern=pattern)
