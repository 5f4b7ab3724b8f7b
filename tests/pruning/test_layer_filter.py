"""`--only`, `--exclude` and targets of single layers."""

from pathlib import Path

import pytest

from onnxsparse import ParamError, layers
from tests.graphs import chain, node, proto
from tests.pruning.pruned import prune, reasons, sparsity_of


class TestPatterns:
    def test_only(self) -> None:
        pruned, report = prune(chain(3, 8, 16, 4), sparsity_op=0.3, only=("conv1",))
        assert {n for n, s in sparsity_of(pruned).items() if s} == {"conv1"}
        assert reasons(report)["conv0"] == "not among --only"

    @pytest.mark.parametrize("pattern", ["conv0", "re:^conv0", "*0.weight", "conv[0]"])
    def test_exclude(self, pattern: str) -> None:
        pruned, report = prune(chain(3, 8, 16, 4), sparsity_op=0.3, exclude=(pattern,), protect="none")
        assert sparsity_of(pruned)["conv0"] == 0
        assert reasons(report)["conv0"] == "excluded"

    def test_an_op_type(self) -> None:
        nodes = [node("Conv", "x a", "c"), node("Flatten", "c", "f"), node("Gemm", "f b", "y")]
        built = proto(nodes, {"x": "1x3x4x4"}, ["y"], {"a": "8x3x1x1", "b": "128x9"})
        pruned, _ = prune(built, sparsity_op=0.5, only=("op:Gemm",))
        assert {n for n, s in sparsity_of(pruned).items() if s} == {"y"}

    def test_a_module_prefix_ends_at_a_name_part(self) -> None:
        nodes = [node("Conv", "x a", "c", name="/net/conv1/Conv"), node("Conv", "c b", "y", name="/net/conv10/Conv")]
        built = proto(nodes, {"x": "1x8x4x4"}, ["y"], {"a": "8x8x1x1", "b": "8x8x1x1"})
        pruned, _ = prune(built, sparsity_op=0.3, exclude=("net.conv1",))
        assert {n for n, s in sparsity_of(pruned).items() if s} == {"/net/conv10/Conv"}

    def test_a_file_of_patterns(self, tmp_path: Path) -> None:
        (tmp_path / "layers.txt").write_text("# the ends\nconv0\n\nconv2\n")
        pruned, _ = prune(chain(3, 8, 16, 4), sparsity_op=0.3, exclude=(f"@{tmp_path}/layers.txt",))
        assert {n for n, s in sparsity_of(pruned).items() if s} == {"conv1"}

    @pytest.mark.parametrize("pattern", ["conv9", "op:Gemm", "re:nothing", "*.none", "conv"])
    def test_a_pattern_that_matches_nothing_is_an_error(self, pattern: str) -> None:
        with pytest.raises(ParamError, match=r"matches no layer of the model \(names look like 'conv0'"):
            prune(chain(3, 8, 16, 4), exclude=(pattern,))

    def test_a_broken_expression_is_an_error(self) -> None:
        with pytest.raises(ParamError, match="is not a regular expression"):
            prune(chain(3, 8, 16, 4), only=("re:(",))


class TestOwnTargets:
    def test_a_layer_of_its_own_and_the_others_make_up_for_it(self) -> None:
        pruned, _ = prune(chain(8, 8, 32, 32, 8), sparsity_op=0.5, layer_sparsity=("conv1=0.25", "conv3=0.5"))
        found = sparsity_of(pruned)
        assert found["conv1"] == 0.25
        assert found["conv3"] == 0.5
        assert layers(pruned).totals.sparsity_op == pytest.approx(0.5, abs=0.001)

    def test_every_layer_with_one_exception(self) -> None:
        pruned, _ = prune(chain(8, 8, 32, 8), sparsity_op=0.5, scope="layer", layer_sparsity=("conv1=0",))
        assert sparsity_of(pruned) == {"conv0": 0.5, "conv1": 0, "conv2": 0.5}

    @pytest.mark.parametrize("text", ["conv1", "conv1=2", "=0.5", "conv1=half"])
    def test_what_is_no_override_is_said(self, text: str) -> None:
        with pytest.raises(ParamError, match="write it as PATTERN=VALUE"):
            prune(chain(3, 4), layer_sparsity=(text,))
