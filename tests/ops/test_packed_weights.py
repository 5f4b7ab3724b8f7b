"""Weights of com.microsoft's ops that are packed, or of which the data decides how often they are used."""

import numpy as np
import pytest

from onnxsparse import Prune, layers
from tests.graphs import model, node, single

MS = "com.microsoft"


def test_mixed_experts_have_weights_but_their_uses_depend_on_the_data() -> None:
    nodes = [node("MoE", "x r f _ g", "h", domain=MS, k=2), node("MatMul", "h w", "y")]
    weights: dict[str, str | np.ndarray] = {"f": "4x32x16", "g": "4x16x32", "w": "16x3"}
    found = layers(model(nodes, {"x": "1x6x16", "r": "6x4"}, ["y"], weights, domains={MS: 1}))
    assert (found.totals.macs, found.totals.complete) == (6 * 16 * 3, False)
    assert found.totals.weights == 2 * 4 * 32 * 16 + 16 * 3
    assert found[0].unknown == "how often it uses each expert's weights depends on the data"


@pytest.mark.parametrize(
    ("kind", "zeros"),
    [(0, 2), (1, 3)],  # FP4: 0 and 8; NF4: 7, the low half of the last byte is padding
)
def test_zeros_of_packed_floats_are_their_codes_of_zero(kind: int, zeros: int) -> None:
    weight: dict[str, str | np.ndarray] = {
        "b": np.array([0x70, 0x78, 0x17, *[0x11] * 22, 0x17], np.uint8),
        "s": np.ones(4, np.float32),
    }
    found = layers(single("MatMulBnb4", "a b s", {"a": "2x17"}, weight, domain=MS, K=17, N=3, block_size=16, quant_type=kind))
    assert (found.totals.weights, found.totals.zero_weights, found[0].weights[0].bits) == (51, zeros, 4)


def test_a_packed_weight_that_lacks_an_attribute_has_unknown_macs() -> None:
    weight: dict[str, str | np.ndarray] = {"b": np.zeros((7, 2, 16), np.uint8), "s": np.ones(14, np.float32)}
    assert layers(single("MatMulNBits", "a b s", {"a": "3x64"}, weight, domain=MS, N=7))[0].unknown == "it has no attribute 'K'"


def test_a_weight_packed_in_an_unknown_way_is_not_pruned() -> None:
    packed = np.full(224, 0x12, np.uint8)
    options = {"K": 64, "N": 7, "block_size": 32, "quant_type": 5}
    built = single("MatMulBnb4", "a b s", {"a": "3x64"}, {"b": packed, "s": np.ones(14, np.float32)}, domain=MS, **options)
    assert layers(built)[0].computed_weight == "how its weight is packed is not known"
    Prune(sparsity=0.5).run(built)
    assert np.array_equal(built.weights["b"], packed)
