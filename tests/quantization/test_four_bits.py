"""Weights of 4 bits: how they are stored, that they run as written, and what wide layers are among them."""

import numpy as np
import onnx
import pytest

from onnxsparse import Model, ParamError, Prune, Quantize
from onnxsparse.analysis.layers import layers
from onnxsparse.ir.model import Model as AnyModel
from onnxsparse.runtime.session import Execution
from tests.quantization.int8_models import MS, floats, outputs, quantize, residual, samples, sqnr_db

X86 = "onnxruntime-x86"


def kinds(built: AnyModel) -> dict[str, int]:
    """Weight → its stored type."""
    return {name: built.weights.proto(name).data_type for name in ("w0", "w1", "w2")}


@pytest.mark.parametrize(("opset", "domain"), [(13, MS), (21, "")])
def test_four_bits_are_stored_as_such_and_run(opset: int, domain: str) -> None:
    proto = residual()
    proto.opset_import[0].version = opset
    plain = Model.from_proto(proto)
    written, _ = quantize(plain.copy(), samples(), target=X86, weight_bits=4)
    assert set(kinds(written).values()) == {onnx.TensorProto.INT4}
    assert {node.domain for node in written.proto.graph.node if node.input[0] in kinds(written)} == {domain}
    assert max(np.abs(floats(written, name)).max() for name in kinds(written)) == 7
    feeds = samples(9)[8]
    wanted, found = (next(iter(outputs(each, feeds).values())) for each in (plain, written))
    assert 10 < sqnr_db(wanted, found) < 40
    as_run = next(iter(outputs(written, feeds, Execution.AS_RUN).values()))
    assert np.allclose(found, as_run, atol=0.02 * np.abs(found).max())


def test_a_zero_stays_zero_and_pruning_finds_it() -> None:
    plain = Model.from_proto(residual())
    Prune(sparsity=0.5, protect="none").run(plain)
    zeros = plain.weights["w1"] == 0
    written, _ = quantize(plain.copy(), samples(), target=X86, weight_bits=4)
    assert zeros.any() and not floats(written, "w1")[zeros].any()
    before = layers(written).totals.zero_weights or 0
    Prune(sparsity=0.8, protect="none").run(written)
    assert (layers(written).totals.zero_weights or 0) > before


def test_wide_weights_have_the_width_of_the_file() -> None:
    plain = Model.from_proto(residual())
    written, report = quantize(plain.copy(), samples(), target=X86, weight_bits=4, wide_layers=1)
    assert sorted(kinds(written).values()) == sorted([onnx.TensorProto.INT8, *[onnx.TensorProto.INT4] * 2])
    assert any("0 activations of 16, 1 weights of 8" in note for note in report.notes)


def test_rounding_is_gptq_if_nothing_else_is_asked_for() -> None:
    plain, data = Model.from_proto(residual()), samples(20)
    notes = {
        way: " ".join(quantize(plain.copy(), data, target=X86, weight_bits=4, rounding=way)[1].notes)
        for way in (None, "gptq", "nearest")
    }
    assert "gptq" in notes[None] and "gptq" in notes["gptq"] and "gptq" not in notes["nearest"]
    assert "gptq" not in " ".join(quantize(plain.copy(), data, target=X86)[1].notes)
    assert "gptq" not in " ".join(quantize(plain.copy(), data[:1], target=X86, weight_bits=4)[1].notes)


def test_the_cv22_has_no_four_bits() -> None:
    with pytest.raises(ParamError, match="8 or 16 bits"):
        Quantize(weight_bits=4).run(Model.from_proto(residual()), samples())
