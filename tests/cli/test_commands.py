"""The commands as a person types them, and what they say when something is wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxsparse import layers, load
from onnxsparse.cli import app as cli
from tests.commands import Run, files
from tests.graphs import chain, node, proto, weight


class TestTheMainJob:
    def test_a_bare_prune_goes_to_half_and_says_so(self, run: Run, source: Path, tmp_path: Path) -> None:
        assert run("prune", source, tmp_path / "out.onnx") == 0
        assert layers(load(tmp_path / "out.onnx")).totals.sparsity_op == pytest.approx(0.5, abs=0.01)
        for words in ("no target was given", "--sparsity-op", "SQNR", "as large as before", "seeded random inputs"):
            assert words in run.out, words

    def test_the_chain(self, run: Run, source: Path, tmp_path: Path) -> None:
        pruned, annotated, facts = tmp_path / "p.onnx", tmp_path / "a.onnx", tmp_path / "facts.json"
        assert run("prune", source, pruned, "--sparsity-op", "0.7", "--masks", tmp_path / "m.npz") == 0
        assert run("annotate", pruned, annotated) == 0
        assert run("compare", pruned, annotated, "--min-sqnr", "100") == 0
        assert run("inspect", annotated, "--json", facts) == 0
        found = json.loads(facts.read_text())
        assert found["totals"]["sparsity_op"] == pytest.approx(0.7, abs=0.01)
        assert set(found["totals"]) == {"weights", "zero_weights", "sparsity", "macs", "nonzero_macs", "sparsity_op", "complete"}
        keys = {"node", "op_type", "weights", "zero_weights", "macs", "sparsity", "sparsity_op"}
        assert all(keys <= set(layer) for layer in found["layers"])
        assert found["unknown_ops"] == []
        assert set(np.load(tmp_path / "m.npz").files) == {"conv0.weight", "conv1.weight", "conv2.weight"}
        assert run("apply-masks", source, tmp_path / "again.onnx", "--masks", tmp_path / "m.npz") == 0
        assert (tmp_path / "again.onnx").read_bytes() == pruned.read_bytes()
        assert run("strip", annotated, tmp_path / "s.onnx") == 0
        assert (tmp_path / "s.onnx").read_bytes() == pruned.read_bytes()

    def test_json_goes_to_standard_output_alone(self, run: Run, source: Path) -> None:
        assert run("inspect", source, "--json", "-") == 0
        assert json.loads(run.out)["model"] == "in.onnx"

    def test_in_place(self, run: Run, source: Path) -> None:
        assert run("prune", source, source, "--sparsity-op", "0.6", "--no-compare", "--force") == 0
        assert run("prune", source, source, "--sparsity-op", "0.6", "--force") == 0
        assert "nothing was pruned: sparsity_op is already 0.6 or more" in run.out

    def test_top_and_sort(self, run: Run, source: Path) -> None:
        assert run("inspect", source, "--top", "1", "--sort", "macs") == 0
        assert "conv1" in run.out
        assert "conv0" not in run.out
        assert "… 2 more" in run.out

    def test_a_side_file_needs_no_output(self, run: Run, source: Path, tmp_path: Path) -> None:
        assert run("annotate", source, "--side-file", tmp_path / "a.json") == 0
        assert files(tmp_path) == ["a.json", "in.onnx"]
        assert json.loads((tmp_path / "a.json").read_text())["signature"] == "netron:attachment"

    def test_compare_fails_below_the_bar(self, run: Run, source: Path, tmp_path: Path) -> None:
        run("prune", source, tmp_path / "out.onnx", "--sparsity-op", "0.9", "--no-compare")
        assert "not every output reaches 60 dB" in run.fails(1, "compare", source, tmp_path / "out.onnx", "--min-sqnr", "60")

    def test_a_model_that_cannot_run_is_pruned_and_that_is_said(self, run: Run, tmp_path: Path) -> None:
        nodes = [node("MatMul", "x w", "h"), node("Mystery", "h", "y", domain="acme")]
        onnx.save(proto(nodes, {"x": "4x8"}, ["y"], {"w": "8x8"}, domains={"acme": 1}), tmp_path / "in.onnx")
        assert run("prune", tmp_path / "in.onnx", tmp_path / "out.onnx") == 0
        assert "the outputs were not compared: onnxruntime cannot load" in run.out
        assert run("inspect", tmp_path / "in.onnx") == 0
        assert "unknown op acme:Mystery" in run.out

    def test_what_was_assumed_is_printed(self, run: Run, tmp_path: Path) -> None:
        onnx.save(proto([node("MatMul", "x w", "y")], {"x": "Nx8"}, ["y"], {"w": "8x8"}), tmp_path / "in.onnx")
        assert run("inspect", tmp_path / "in.onnx") == 0
        assert "assumed: axis 0 of input 'x' is 1 (batch)" in run.out
        assert run("inspect", tmp_path / "in.onnx", "--dim", "N=3") == 0
        assert "assumed" not in run.out


def broken(folder: Path, kind: str) -> Path:
    """A model that cannot be used, of each kind."""
    path = folder / "bad.onnx"
    if kind == "text":
        path.write_text("this is no model")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(chain(3, 8, 4).SerializeToString()[:-700])
    elif kind == "external":
        onnx.save(chain(3, 8, 4), path, save_as_external_data=True, location="w.bin", size_threshold=0)
        (folder / "w.bin").unlink()
    elif kind == "nan":
        array = weight("8x8")
        array[0, 0] = np.nan
        onnx.save(proto([node("MatMul", "x w", "y")], {"x": "2x8"}, ["y"], {"w": array}), path)
    elif kind == "zero-size":
        onnx.save(proto([node("MatMul", "x w", "y")], {"x": "2x8"}, ["y"], {"w": np.zeros((8, 0), np.float32)}), path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("text", "not an ONNX model"),
        ("empty", "not an ONNX model"),
        ("truncated", "truncated"),
        ("external", "w.bin: No such file"),
        ("nan", "has NaN or infinite elements"),
        ("zero-size", "has no elements"),
    ],
)
def test_a_model_that_cannot_be_used(run: Run, tmp_path: Path, kind: str, message: str) -> None:
    path = broken(tmp_path, kind)
    before = files(tmp_path)
    assert message in run.fails(1, "prune", path, tmp_path / "out.onnx", "--sparsity-op", "0.5")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sparsity-op", "1.5"), "--sparsity-op: Input should be less than 1 (got 1.5)"),
        (("--sparsity-op", "-0.1"), "--sparsity-op"),
        (("--sparsity-op", "half"), "half"),
        (("--sparsity-op", "0.5", "--sparsity", "0.5"), "not both"),
        (("--sparsity-op", "0.99", "--max-layer-sparsity", "0.5"), "cannot be reached: 50 % is the most"),
        (("--score", "magic"), "magic"),
        (("--exclude", "nothing"), "--exclude 'nothing' matches no layer of in.onnx (names look like 'conv0')"),
        (("--exclude", "@nowhere.txt"), "cannot read the file"),
        (("--input-shape", "1,3,9,9"), "is fixed to 8"),
        (("--dim", "N=1"), "has no dimension 'N'"),
        (("--dim", f"N={1 << 63}"), "of at most 63 bits"),
        (("--input-shape", f"1,3,8,{10**30}"), "of at most 63 bits"),
        (("--unknown",), "--unknown"),
        (("--masks", "/nowhere/m.npz"), "does not exist"),
    ],
)
def test_an_option_that_cannot_be(run: Run, source: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    before = source.read_bytes()
    assert message in run.fails(2, "prune", source, tmp_path / "out.onnx", *options)
    assert files(tmp_path) == ["in.onnx"]
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"no", "no npy or npz file"), (np.zeros((5, 5), np.float32), "takes 1x3x8x8, the array is 5x5")],
)
def test_wrong_data(run: Run, source: Path, tmp_path: Path, content: bytes | np.ndarray | None, message: str) -> None:
    data = tmp_path / "data.npy"
    if isinstance(content, bytes):
        data.write_bytes(content)
    elif content is not None:
        np.save(data, content)
    before = files(tmp_path)
    assert message in run.fails(1, "prune", source, tmp_path / "out.onnx", "--data", data)
    assert message in run.fails(1, "compare", source, source, "--data", data)
    assert files(tmp_path) == before


def test_targets_that_cannot_be_written(run: Run, source: Path, tmp_path: Path) -> None:
    assert "is a folder" in run.fails(2, "prune", source, tmp_path)
    assert "does not exist" in run.fails(2, "prune", source, tmp_path / "no" / "out.onnx")
    assert "name the file to write" in run.fails(2, "annotate", source)
    assert files(tmp_path) == ["in.onnx"]


def test_a_full_disk(run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    options = ("--no-compare", "--masks", tmp_path / "m.npz")
    assert "No space left on device" in run.fails(1, "prune", source, tmp_path / "out.onnx", *options)
    assert files(tmp_path) == ["in.onnx"]


def test_an_unreadable_file(run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert "Permission denied" in run.fails(1, "prune", source, tmp_path / "out.onnx")


def test_an_input_is_never_changed(run: Run, source: Path, tmp_path: Path) -> None:
    before, when = source.read_bytes(), source.stat().st_mtime_ns
    for command in (("prune", source, tmp_path / "o.onnx"), ("annotate", source, tmp_path / "o.onnx"), ("inspect", source)):
        assert run(*command) == 0
    assert (source.read_bytes(), source.stat().st_mtime_ns) == (before, when)


def test_debug_shows_the_traceback(source: Path) -> None:
    with pytest.raises(Exception, match="No such file"):
        cli.main(["prune", "none.onnx", "out.onnx", "--debug"])


def spawn(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from onnxsparse.cli.app import run; run()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_leaves_no_partial_file(tmp_path: Path) -> None:
    """At several moments of a run that takes a while."""
    onnx.save(chain(3, 512, 512, 512, 64, size=16), tmp_path / "in.onnx")
    for moment in (0.4, 0.7, 1.0):
        process = spawn("prune", tmp_path / "in.onnx", tmp_path / "out.onnx")
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT), err
        assert set(files(tmp_path)) <= {"in.onnx", "out.onnx"}
        if (tmp_path / "out.onnx").exists():
            onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)
            (tmp_path / "out.onnx").unlink()


def imported(arguments: Sequence[str]) -> set[str]:
    """The modules that a command imports, from a process of its own."""
    code = f"import sys; from onnxsparse.cli.app import main\nmain({list(arguments)!r})\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["data", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not imported(arguments) & {"numpy", "onnx", "onnxruntime", "pydantic", "onnxsparse.ir.model"}


def test_weight_types_of_every_kind_survive(run: Run, tmp_path: Path) -> None:
    made = onnx.helper.make_tensor("odd", TensorProto.INT4, [3], [1, -2, 3])
    built = chain(3, 8, 4)
    built.graph.initializer.append(made)
    onnx.save(built, tmp_path / "in.onnx")
    assert run("prune", tmp_path / "in.onnx", tmp_path / "out.onnx", "--sparsity-op", "0.3") == 0
    assert onnx.load(tmp_path / "out.onnx").graph.initializer[-1] == made
