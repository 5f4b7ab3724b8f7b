"""Every pass sees the same graph: inputs with defaults, functions, settled Ifs, sequences, outputs that nothing reads."""

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxsparse import Model, ParamError, Prune, PruneChannels, Quantize, layers
from onnxsparse.runtime import runner
from tests.graphs import BOOL, FLOAT, node, proto, value, weight


def branch(nodes: list[onnx.NodeProto], *initializers: onnx.TensorProto) -> onnx.GraphProto:
    """A body without inputs, whose output is the last node's."""
    out = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)
    return helper.make_graph(nodes, "branch", [], [out], list(initializers))


def quantized(built: Model, **feeds: np.ndarray) -> tuple[Model, list[str], dict[str, str]]:
    """The model, the notes, and why nodes stay float."""
    done = built.copy()
    report = Quantize(target="onnxruntime-x86").run(done, samples=[feeds])
    return done, list(report.notes), {skip.node: skip.reason for skip in report.skipped}


class TestDefaults:
    """From IR version 4 on, an initializer that is an input as well is a default, which a caller may override."""

    def built(self) -> Model:
        nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r v", "y")]
        made = proto(nodes, {"x": "2x4"}, ["y"], {"w": "4x16", "v": "16x3"})
        made.graph.input.append(value("w", "4x16"))
        return Model.from_proto(made)

    def test_it_is_pruned_as_the_weight_that_runs_unless_overridden(self) -> None:
        built = self.built()
        assert layers(built).totals.weight_macs == 2 * (4 * 16 + 16 * 3)
        Prune(sparsity=0.5, protect="none", scope="layer").run(built)
        assert np.count_nonzero(built.weights["w"] == 0) == 32
        assert [v.name for v in built.proto.graph.input] == ["x", "w"]

    def test_its_channels_stay(self) -> None:
        with pytest.raises(ParamError, match=r"all channels have to stay .*is an input, which callers may override"):
            PruneChannels(round_to=1).run(self.built())

    def test_its_layer_stays_float_and_the_input_remains(self) -> None:
        done, _, stays = quantized(self.built(), x=weight("2x4", 3))
        assert stays == {
            "a": "stays float: its weights are inputs, which callers may override; "
            "fold --constant-defaults makes them constants"
        }  # fmt: skip
        other = {"x": weight("2x4", 3), "w": np.zeros((4, 16), np.float32)}
        assert np.array_equal(runner(done).run(other)["y"], np.zeros((2, 3)))

    def test_a_condition_that_callers_may_override_settles_nothing(self) -> None:
        """Both branches count as possible, the larger one is taken."""
        then, other = (branch([node("MatMul", f"x {weights}", weights * 2)]) for weights in "wv")
        made = proto(
            [node("If", "c", "y", then_branch=then, else_branch=other)],
            {"x": "2x4"},
            ["y"],
            {"w": "4x16", "v": "4x3", "c": np.array(False)},
        )
        assert layers(Model.from_proto(made)).totals.macs == 2 * 4 * 3
        made.graph.input.append(value("c", "", BOOL))
        assert layers(Model.from_proto(made)).totals.macs == 2 * 4 * 16
