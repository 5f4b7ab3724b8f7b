"""What the int8 benchmarks compute from what they measure."""

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from benchmarks.accuracy.int8 import drop
from benchmarks.peers.int8_methods import METHODS, Method, quantize, select
from benchmarks.peers.int8_runtime import fused, sqnr_db


def test_noise_of_a_tenth_is_twenty_decibels() -> None:
    assert sqnr_db(np.full(4, 10.0), np.full(4, 9.0)) == pytest.approx(20)
    assert sqnr_db(np.ones(4), np.ones(4)) == np.inf
    assert sqnr_db(np.ones(4), np.full(4, np.nan)) == -np.inf


def test_a_drop_is_paired_over_pictures_and_draws() -> None:
    """One of four pictures lost in one of two draws: 12.5 points. Picture means 0, 0, 50, 0: variance 625, over 4: 156.25.
    Draw means 25, 0: variance 312.5, over 2 draws 156.25. Residuals ±12.5 six times, ±37.5 twice: 3750 over 3 degrees of freedom,
    over 8 cells 156.25. So the variance of the mean is 156.25."""
    lost, half, pictures = drop("1111", ["1101", "1111"])
    assert lost == 12.5
    assert pictures == pytest.approx(1.96 * 156.25**0.5)
    assert half == pytest.approx(1.96 * 156.25**0.5)


def test_a_pictures_gain_takes_from_the_drop() -> None:
    lost, _, _ = drop("10", ["01", "10"])
    assert lost == 0


def test_a_tool_that_is_not_there_is_said_not_to_have_run(tmp_path: Path) -> None:
    missing, absent = METHODS[0], Method("x", "nncf")
    paths = (tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "calib.npz")
    assert quantize(missing, {}, *paths).fault == "not run"
    assert "No such file" in quantize(absent, {"nncf": str(tmp_path / "python")}, *paths).fault


def test_memory_is_that_of_the_command_and_not_of_the_caller(tmp_path: Path) -> None:
    ballast = np.ones(40_000_000)  # 320 MB, which a forked process would start with
    target = tmp_path / "out.onnx"
    command = f"{sys.executable} -S -c \"import sys; x = b'1' * 100_000_000; open(sys.argv[3], 'w')\""
    cost = quantize(Method("x", "onnxsparse"), {"onnxsparse": command}, tmp_path / "in.onnx", target, tmp_path / "calib.npz")
    assert not cost.fault
    assert cost.peak_mb is not None
    assert 95 < cost.peak_mb < 200, f"{cost.peak_mb} MB with {ballast.nbytes} bytes in the caller"


def test_methods_are_chosen_by_their_label() -> None:
    assert {m.tool for m in select(["nncf: *"])} == {"nncf"}
    assert select([]) == METHODS
    assert len({m.label for m in METHODS}) == len(METHODS)


def test_what_is_left_in_float_is_counted(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])])
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert str(fused(path, path)) == "0 of 1 (left: 1 Mul)"
