"""Outputs behind the first decide nothing unless something reads them; ops that look at ranges or at a whole axis say so."""

from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse import Fold, Model, ParamError, PruneChannels, Quantize
from onnxsparse.channels.groups import solve
from onnxsparse.runtime.session import runner
from tests.graphs import FLOAT, INT64, model, node, op_types, weight

MS = "com.microsoft"


def reasons(built: Model, **options: bool) -> str:
    """Why channels stay, in one text."""
    return "\n".join(f"{f.node}: {f.reason}" for f in solve(built, **options).frozen())


def cut(built: Model, **options: Any) -> Model:
    """Half of the channels, proven."""
    done = built.copy()
    report = PruneChannels(round_to=1, **options).run(done)
    assert any(note.startswith("proven in onnxruntime") for note in report.notes)
    return done


def normalised(outputs: str, *between: onnx.NodeProto, last: str = "n") -> Model:
    nodes = [node("MatMul", "x w", "a"), node("LayerNormalization", "a g b", outputs, name="norm"), *between]
    weights: dict[str, Any] = {"w": "6x8", "g": weight("8") + 2, "b": "8", "v": "8x3"}
    return model([*nodes, node("MatMul", f"{last} v", "y")], {"x": "2x5x6"}, ["y"], weights)


class TestLayerNormalization:
    @pytest.mark.parametrize("outputs", ["n", "n mean", "n mean deviation", "n _ deviation"])
    def test_statistics_that_nothing_reads(self, outputs: str) -> None:
        done = cut(normalised(outputs), cut_norms=True)
        assert done.weights.shape("v") == (4, 3)

    def test_statistics_that_are_read_are_those_of_what_is_left(self) -> None:
        between = [node("Mul", "n deviation", "p"), node("Sub", "p mean", "q")]
        done = cut(normalised("n mean deviation", *between, last="q"), cut_norms=True)
        assert done.weights.shape("v") == (4, 3)
        assert list(next(n for n in done.proto.graph.node if n.name == "norm").output) == ["n", "mean", "deviation"]

    def test_other_statistics_stay_with_the_reason(self) -> None:
        norm = node("SkipLayerNormalization", "a c g b", "n mean", domain=MS)
        nodes = [
            node("MatMul", "x w", "a"),
            node("MatMul", "x u", "c"),
            norm,
            node("Mul", "n mean", "m"),
            node("MatMul", "m v", "y"),
        ]
        weights = {"w": "6x8", "u": "6x8", "g": "8", "b": "8", "v": "8x3"}
        built = model(nodes, {"x": "2x5x6"}, ["y"], weights, domains={MS: 1})
        assert "a: is in output 1 of SkipLayerNormalization, which is read and has no rule (n)" in reasons(built, cut_norms=True)


def pooled(op: str, outputs: str, *between: onnx.NodeProto, last: str = "p", **attributes: Any) -> Model:
    nodes = [node("Conv", "x w", "a"), node(op, "a", outputs, **attributes), *between, node("Conv", f"{last} v", "y")]
    return model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": "8x3x3x3", "v": "4x8x1x1"})


class TestIndicesAndMasks:
    @pytest.mark.parametrize(("op", "attributes"), [("MaxPool", {"kernel_shape": [2, 2]}), ("Dropout", {})])
    def test_unread_they_hold_nothing(self, op: str, attributes: dict[str, Any]) -> None:
        assert cut(pooled(op, "p second", **attributes)).weights.shape("v") == (4, 4, 1, 1)

    def test_indices_that_are_read_count_over_channels(self) -> None:
        between = [node("Cast", "second", "f", to=FLOAT), node("Add", "p f", "q")]
        built = pooled("MaxPool", "p second", *between, last="q", kernel_shape=[2, 2])
        with pytest.raises(ParamError, match="is counted in the indices of MaxPool"):
            cut(built)

    def test_a_dropout_whose_mask_nothing_reads_goes(self) -> None:
        built = pooled("Dropout", "p mask")
        report = Fold().run(built)
        assert op_types(built) == ["Conv", "Conv"]
        assert report.notes == ["1 outputs that nothing reads were left out of their nodes", "1 × Dropout removed"]

    def test_one_whose_mask_is_read_stays(self) -> None:
        built = pooled("Dropout", "p mask", node("Cast", "mask", "f", to=FLOAT), node("Mul", "p f", "q"), last="q")
        assert Fold().run(built).notes == ["nothing to fold"]

    def test_statistics_of_a_batch_normalisation_say_that_it_trains(self) -> None:
        """Before version 14 nothing else does."""
        nodes = [node("Conv", "x w", "a"), node("BatchNormalization", "a s b m v", "y mean var saved_mean saved_var")]
        weights = {"w": "6x3x1x1", **dict.fromkeys("sbmv", "6")}
        built = model(nodes, {"x": "1x3x4x4"}, ["y"], weights, opset=9)
        assert Fold().run(built).notes == ["nothing to fold"]
        assert len(built.proto.graph.node[1].output) == 5


class TestStates:
    @pytest.mark.parametrize(("outputs", "read"), [("s h c", "s"), ("s h c", "h"), ("s h c", "c"), ("_ h", "h")])
    def test_units_are_cut_whichever_output_is_read(self, outputs: str, read: str) -> None:
        nodes = [node("LSTM", "x w r", outputs, name="lstm", hidden_size=8), node("MatMul", f"{read} v", "y")]
        built = model(nodes, {"x": "5x2x4"}, ["y"], {"w": "1x32x4", "r": "1x32x8", "v": "8x3"})
        assert cut(built).weights.shape("r") == (1, 16, 4)

    def test_keys_that_leave_an_attention_stay(self) -> None:
        nodes = [node("MatMul", f"x w{i}", f"{i}") for i in "qkv"]
        nodes += [node("Attention", "q k v", "o key", q_num_heads=4, kv_num_heads=4, name="att"), node("MatMul", "o wo", "y")]
        weights = {f"w{i}": "8x8" for i in "qkvo"}
        unread = model(nodes, {"x": "2x5x8"}, ["y"], weights, opset=23, ir_version=10)
        assert cut(unread).weights.shape("wo") == (4, 8)
        read = model(nodes, {"x": "2x5x8"}, ["y", "key"], weights, opset=23, ir_version=10)
        assert "k: is in output 1 of Attention, which is read and has no rule (att)" in reasons(read)


class TestRanges:
    def test_what_a_recurrent_layer_quantizes_inside_stays(self) -> None:
        """Its output's sizes are unknown, so that it could not be run alone; the layer before, and what it reads, are not cut."""
        rng = np.random.default_rng(0)
        lstm = node("DynamicQuantizeLSTM", "b w r c _ _ _ _ s z s z", "s0 h0 c0", domain=MS, hidden_size=8, name="lstm")
        nodes = [node("MatMul", "x u", "a"), node("Relu", "a", "ar"), node("MatMul", "ar v", "b"), lstm]
        nodes += [node("Squeeze", "s0 one", "q"), node("MatMul", "q t", "y")]
        held: dict[str, Any] = {name: rng.integers(-99, 99, (1, k, 32), np.int8) for name, k in (("w", 6), ("r", 8))}
        held |= {"s": np.full(1, 0.01, np.float32), "z": np.zeros(1, np.int8), "one": np.array([1])}
        floats = {"u": "4x16", "v": "16x6", "c": "1x64", "t": "8x3"}
        built = model(nodes, {"x": "5x2x4"}, ["y"], {**floats, **held}, domains={MS: 1})
        for norms in (False, True):
            done = cut(built, cut_norms=norms)
            assert [done.weights.shape(name) for name in ("u", "v", "w")] == [(4, 8), (8, 6), (1, 6, 32)]
            assert "b: is quantized by a range inside DynamicQuantizeLSTM (lstm)" in reasons(built, cut_norms=norms)

    @pytest.mark.parametrize(
        ("op", "attributes", "stays"),
        [
            ("LpNormalization", {}, True),
            ("LpNormalization", {"axis": 1}, False),
            ("MeanVarianceNormalization", {"axes": [2]}, True),
            ("Softmax", {}, True),
            ("LogSoftmax", {"axis": 1}, False),
            ("Hardmax", {"axis": 2}, True),
            ("CumSum", {}, True),
        ],
    )
    def test_an_op_that_looks_over_an_axis_keeps_it(self, op: str, attributes: dict[str, Any], stays: bool) -> None:
        """The channels are the last axis of three."""
        order = "a last" if op == "CumSum" else "a"
        nodes = [
            node("MatMul", "x w", "a"),
            node(op, order, "b", **attributes),
            node("Mul", "a b", "c"),
            node("MatMul", "c v", "y"),
        ]
        held = {"last": np.array(2)} if op == "CumSum" else {}
        built = model(nodes, {"x": "2x5x6"}, ["y"], {"w": "6x8", "v": "8x3", **held})
        assert bool(solve(built).groups) != stays
        if not stays:
            cut(built)


class TestSequences:
    def sequences(self) -> Model:
        """Layers whose results go through sequences; the one behind a Relu could be cut but for that."""
        nodes = [
            node("MatMul", "x w", "a"),
            node("SequenceConstruct", "a a", "s", name="join"),
            node("SequenceAt", "s zero", "b"),
            node("Relu", "b", "c"),
            node("MatMul", "c v", "y"),
        ]
        return model(nodes, {"x": "2x6"}, ["y"], {"w": "6x8", "v": "8x3", "zero": np.array(0)})

    def test_channels_in_a_sequence_stay_with_the_reason(self) -> None:
        assert reasons(self.sequences()).splitlines()[0] == "a: no rule for SequenceConstruct (join)"

    def test_layers_around_one_are_quantized(self) -> None:
        built = self.sequences()
        report = Quantize(target="onnxruntime-x86").run(built, samples=[{"x": weight("2x6", 3)}])
        assert not report.skipped
        assert np.isfinite(runner(built).run({"x": weight("2x6", 3)})["y"]).all()

    def test_a_sequence_of_constants_is_not_folded(self) -> None:
        nodes = [node("SequenceConstruct", "w w", "s"), node("SequenceAt", "s i", "v"), node("MatMul", "x v", "y")]
        built = model(nodes, {"x": "2x6", "i": ("", INT64)}, ["y"], {"w": "6x8"})
        assert Fold().run(built).notes == ["nothing to fold"]
