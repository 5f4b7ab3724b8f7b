"""Pruning to a sparsity: targets, protected layers, the cap, and what stays."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxsparse import ParamError, layers
from onnxsparse.ir.model import Model
from tests.graphs import chain, node, proto
from tests.pruning.pruned import prune, reasons, sparsity_of


@pytest.mark.parametrize("score", ["lamp", "l1"])
@pytest.mark.parametrize("target", [0.0, 0.3, 0.5, 0.77, 0.95])
def test_global_pruning_lands_within_one_weight(score: str, target: float) -> None:
    pruned, report = prune(chain(3, 8, 16, 16, 4), sparsity_op=target, score=score)
    totals = layers(pruned).totals
    largest = max(use.uses or 0 for layer in layers(pruned) for use in layer.weights)
    assert totals.zero_macs is not None
    assert target * totals.weight_macs <= totals.zero_macs < target * totals.weight_macs + largest
    assert report.after == totals


def test_the_papers_setting_is_a_global_sort_by_magnitude() -> None:
    built = Model.from_proto(chain(3, 8, 16, 4))
    options = {"score": "l1", "cost_exponent": 0, "protect": "none", "max_layer_sparsity": 1}
    pruned, _ = prune(built, sparsity_op=0.6, **options)
    kept, gone = [], []
    for layer in layers(built):
        before, after = built.weights[layer.weights[0].tensor], pruned.weights[layer.weights[0].tensor]
        assert np.array_equal(after[after != 0], before[after != 0])
        kept.append(np.abs(before[after != 0]))
        gone.append(np.abs(before[after == 0]))
    assert np.concatenate(gone).max() <= np.concatenate(kept).min()


def test_plain_sparsity_counts_weights() -> None:
    pruned, _ = prune(chain(3, 8, 16, 4), sparsity=0.61)
    totals = layers(pruned).totals
    assert totals.zero_weights == int(np.ceil(0.61 * totals.weights))


def test_layer_scope_takes_every_layer_to_the_target_within_one_weight() -> None:
    pruned, _ = prune(chain(3, 8, 16, 16, 4), sparsity_op=0.8, scope="layer", protect="none")
    for layer in layers(pruned):
        assert layer.zeros == int(np.ceil(0.8 * layer.elements)), layer.node


def test_without_a_target_half_goes_and_that_is_said() -> None:
    _, report = prune(chain(3, 8, 16, 4))
    assert report.after is not None
    assert report.after.sparsity_op == pytest.approx(0.5, abs=0.01)
    assert any("no target was given" in note for note in report.notes)


def test_stem_and_output_are_spared_while_the_target_allows() -> None:
    pruned, report = prune(chain(8, 8, 32, 32, 8), sparsity_op=0.5)
    found = sparsity_of(pruned)
    assert found["conv0"] == found["conv3"] == 0
    assert not any("protected" in note for note in report.notes)


def test_protected_layers_are_cut_when_the_others_do_not_suffice_and_that_is_said() -> None:
    pruned, report = prune(chain(8, 8, 32, 32, 8), sparsity_op=0.9)
    assert sparsity_of(pruned)["conv0"] > 0
    assert any("conv0 (stem)" in note and "cannot be reached" in note for note in report.notes)


def test_protect_none_spares_nothing() -> None:
    pruned, report = prune(chain(8, 8, 32, 32, 8), sparsity_op=0.5, protect="none", cost_exponent=0)
    assert sparsity_of(pruned)["conv0"] > 0
    assert not any("protected" in note for note in report.notes)


def test_sizes_make_no_stem() -> None:
    """The input's sizes reach every Reshape, its data only the first layer."""
    nodes = [
        node("MatMul", "x a", "h0"),
        node("Shape", "x", "sizes"),
        node("Reshape", "h0 sizes", "r0"),
        node("MatMul", "r0 b", "h1"),
        node("Reshape", "h1 sizes", "r1"),
        node("MatMul", "r1 c", "h2"),
        node("Shape", "h1", "late"),
        node("Reshape", "h2 late", "y"),
    ]
    built = proto(nodes, {"x": "8x16"}, ["y"], {"a": "16x16", "b": "16x16", "c": "16x16"})
    _, report = prune(built, sparsity_op=0.2)
    spared = "spared, the target is reached without it: "
    assert reasons(report) == {"h0": f"{spared}stem", "h2": f"{spared}output layer"}


def depthwise_net() -> onnx.ModelProto:
    weights = {"a": "16x3x3x3", "d": "16x1x3x3", "p": "32x16x1x1", "q": "32x32x1x1", "z": "8x32x1x1"}
    nodes = [
        node("Conv", "x a", "stem"),
        node("Conv", "stem d", "dw", group=16),
        node("Conv", "dw p", "pw"),
        node("Conv", "pw q", "qw"),
        node("Conv", "qw z", "y", name="head"),
    ]
    return proto(nodes, {"x": "1x3x16x16"}, ["y"], weights)


def test_depthwise_layers_are_spared() -> None:
    pruned, _ = prune(depthwise_net(), sparsity_op=0.4)
    assert sparsity_of(pruned)["dw"] == 0


@pytest.mark.parametrize("cap", [0.6, 0.75, 1.0])
def test_no_layer_exceeds_the_cap(cap: float) -> None:
    pruned, _ = prune(chain(3, 8, 16, 16, 4), sparsity_op=0.55, max_layer_sparsity=cap, cost_exponent=0)
    for node_name, sparsity in sparsity_of(pruned).items():
        assert sparsity <= cap, node_name


def test_a_target_above_the_cap_is_refused_with_what_is_possible() -> None:
    with pytest.raises(ParamError, match=r"sparsity_op 0.9 cannot be reached: 50 % is the most .* with --max-layer-sparsity 0.5"):
        prune(chain(3, 8, 16, 4), sparsity_op=0.9, max_layer_sparsity=0.5)


def test_excluding_too_much_makes_the_target_impossible() -> None:
    with pytest.raises(ParamError, match="cannot be reached"):
        prune(chain(3, 8, 64, 4), sparsity_op=0.9, exclude=("conv1",))


def test_zeros_that_are_there_count_and_stay() -> None:
    once, _ = prune(chain(3, 8, 16, 16, 4), sparsity_op=0.5)
    twice, _ = prune(once, sparsity_op=0.8)
    assert layers(twice).totals.sparsity_op == pytest.approx(0.8, abs=0.01)
    for name in once.weights:
        assert not np.any((once.weights[name] == 0) & (twice.weights[name] != 0)), name


def test_a_target_already_met_changes_nothing() -> None:
    once, _ = prune(chain(3, 8, 16, 16, 4), sparsity_op=0.7)
    twice, report = prune(once, sparsity_op=0.7)
    assert not report.changes
    assert twice.to_bytes() == once.to_bytes()
    assert any("nothing was pruned" in note for note in report.notes)


def test_pruning_is_deterministic_even_where_all_weights_tie() -> None:
    built = chain(3, 8, 16, 4)
    for tensor in built.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.ones(tuple(tensor.dims), np.float32), tensor.name))
    first, _ = prune(built, sparsity_op=0.5)
    second, _ = prune(built, sparsity_op=0.5)
    assert first.to_bytes() == second.to_bytes()
    assert layers(first).totals.sparsity_op == pytest.approx(0.5, abs=0.01)


def test_biases_and_names_stay() -> None:
    built = chain(3, 8, 16, 4)
    built.metadata_props.add(key="author", value="someone")
    built.graph.node[0].doc_string = "the stem"
    pruned, _ = prune(built, sparsity_op=0.7)
    after = onnx.ModelProto.FromString(pruned.to_bytes())
    for tensor in (*built.graph.initializer, *after.graph.initializer):
        if tensor.name.endswith(".weight"):
            tensor.ClearField("raw_data")
    assert after == built


def test_both_targets_exclude_each_other() -> None:
    with pytest.raises(ParamError, match="not both"):
        prune(chain(3, 4), sparsity=0.5, sparsity_op=0.5)
