"""`prune-channels` on the command line: what it writes, plans, recipes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxsparse import Model, load
from tests.channels.cutting import shapes
from tests.commands import Run, files
from tests.graphs import chain, node, proto, weight


class TestTheCommand:
    def test_cuts_and_says_so(self, run: Run, source: Path, tmp_path: Path) -> None:
        assert run("prune-channels", source, tmp_path / "out.onnx", "--round-to", "1") == 0
        assert "12 channels of 2 groups were cut" in run.out
        assert "proven in onnxruntime" in run.out
        found = load(tmp_path / "out.onnx")
        assert shapes(found, "conv0.weight", "conv1.weight", "conv2.weight") == {
            "conv0.weight": (4, 3, 3, 3),
            "conv1.weight": (8, 4, 3, 3),
            "conv2.weight": (4, 8, 3, 3),
        }
        original = load(source)
        assert list(found.proto.graph.input) == list(original.proto.graph.input)
        assert list(found.proto.graph.output) == list(original.proto.graph.output)

    def test_the_plan_is_only_shown(self, run: Run, source: Path, tmp_path: Path) -> None:
        before = files(tmp_path)
        assert run("prune-channels", source, "--plan", "--round-to", "1") == 0
        assert "conv0" in run.out
        assert "is an output of the model (y)" in run.out
        assert files(tmp_path) == before

    def test_a_plan_makes_the_same_cut_again(self, run: Run, source: Path, tmp_path: Path) -> None:
        first = ("prune-channels", source, tmp_path / "a.onnx", "--round-to", "1", "--json", tmp_path / "plan.json")
        assert run(*first) == 0
        plan = json.loads((tmp_path / "plan.json").read_text())
        assert {(c["tensor"], c["axis"], c["role"], len(c["removed"])) for c in plan["cuts"]} == {
            ("conv0.weight", 0, "produces", 4),
            ("conv0.bias", 0, "per_channel", 4),
            ("conv1.weight", 1, "consumes", 4),
            ("conv1.weight", 0, "produces", 8),
            ("conv1.bias", 0, "per_channel", 8),
            ("conv2.weight", 1, "consumes", 8),
        }
        assert run("prune-channels", source, tmp_path / "b.onnx", "--from-plan", tmp_path / "plan.json") == 0
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
        onnx.save(chain(3, 12, 16, 4), tmp_path / "other.onnx")
        arguments = ("prune-channels", tmp_path / "other.onnx", tmp_path / "c.onnx", "--from-plan", tmp_path / "plan.json")
        assert "axis 0 of 'conv0.weight' does not have 8 channels" in run.fails(2, *arguments)

    @pytest.mark.parametrize(
        ("removed", "message"),
        [
            ([-1], "has an index outside of its 8 channels"),
            ([8], "has an index outside of its 8 channels"),
            ([True], "'removed' must be a list of indices"),
            ([], "it cuts nothing"),
            (list(range(8)), "it cuts all channels of a group of in.onnx"),
        ],
    )
    def test_a_plan_that_makes_no_sense_is_refused(
        self, run: Run, source: Path, tmp_path: Path, removed: list[int], message: str
    ) -> None:
        entry = {"tensor": "conv0.weight", "axis": 0, "removed": removed, "role": "produces", "size": 8}
        (tmp_path / "plan.json").write_text(json.dumps({"cuts": [entry]}))
        before = files(tmp_path)
        arguments = ("prune-channels", source, tmp_path / "out.onnx", "--from-plan", tmp_path / "plan.json")
        assert message in run.fails(2, *arguments)
        assert files(tmp_path) == before

    def test_a_plan_fits_the_model_with_its_normalisation_folded(self, run: Run, tmp_path: Path) -> None:
        nodes = [node("Conv", "x w b", "a"), node("BatchNormalization", "a s s m v", "n"), node("Conv", "n u c", "y")]
        held: dict[str, Any] = {
            "w": "8x3x1x1",
            "b": "8",
            "s": "8",
            "m": "8",
            "v": np.ones(8, np.float32),
            "u": "4x8x1x1",
            "c": "4",
        }
        onnx.save(proto(nodes, {"x": "1x3x6x6"}, ["y"], held), tmp_path / "in.onnx")
        plan = ("--json", tmp_path / "plan.json")
        assert run("prune-channels", tmp_path / "in.onnx", tmp_path / "a.onnx", "--round-to", "1", *plan) == 0
        assert run("fold", tmp_path / "in.onnx", tmp_path / "folded.onnx") == 0
        again = ("--from-plan", tmp_path / "plan.json")
        assert run("prune-channels", tmp_path / "folded.onnx", tmp_path / "b.onnx", *again) == 0
        assert run("compare", tmp_path / "a.onnx", tmp_path / "b.onnx", "--min-sqnr", "100") == 0

    def test_to_a_share_of_the_macs(self, run: Run, source: Path, tmp_path: Path) -> None:
        assert run("prune-channels", source, tmp_path / "out.onnx", "--macs", "0.4", "--round-to", "1", "--scope", "all") == 0
        assert run("inspect", tmp_path / "out.onnx", "--json", "-") == 0
        left = json.loads(run.out)["totals"]["macs"]
        assert run("inspect", source, "--json", "-") == 0
        assert 0.3 < left / json.loads(run.out)["totals"]["macs"] <= 0.4

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--ratio", "1.5"), "--ratio: Input should be less than 1"),
            (("--ratio", "0.5", "--macs", "0.5"), "give one of --ratio, --macs"),
            (("--only", "nothing"), "matches no layer"),
            (("--macs", "0.0001"), "of the operations of in.onnx can be cut"),
            (("--importance", "activation"), "needs --data"),
            (("--from-plan", "none.json"), "cannot read the plan none.json"),
        ],
    )
    def test_wrong_options_are_one_line(
        self, run: Run, source: Path, tmp_path: Path, options: tuple[str, ...], message: str
    ) -> None:
        before = files(tmp_path)
        assert message in run.fails(2, "prune-channels", source, tmp_path / "out.onnx", *options)
        assert files(tmp_path) == before

    def test_nothing_to_cut_says_why(self, run: Run, source: Path, tmp_path: Path) -> None:
        before = files(tmp_path)
        message = run.fails(2, "prune-channels", source, tmp_path / "out.onnx", "--round-to", "64")
        assert "no group gets smaller when it is rounded to --round-to (the largest has 16 channels)" in message
        onnx.save(chain(3, 8), tmp_path / "one.onnx")
        message = run.fails(2, "prune-channels", tmp_path / "one.onnx", tmp_path / "out.onnx")
        assert "all channels have to stay (1 × is an output of the model)" in message
        assert files(tmp_path) == sorted([*before, "one.onnx"])

    def test_open_channel_sizes_are_said(self, run: Run, tmp_path: Path) -> None:
        nodes = [node("Conv", "x w", "a"), node("Reshape", "a s", "b"), node("MatMul", "b v", "y")]
        weights: dict[str, Any] = {"w": "8x3x1x1", "v": "8x4", "s": np.array([0, -1, 8])}
        onnx.save(proto(nodes, {"x": "1x3xHxW"}, ["y"], weights), tmp_path / "in.onnx")
        message = run.fails(2, "prune-channels", tmp_path / "in.onnx", tmp_path / "out.onnx")
        assert "depends on sizes that are not known" in message
        assert "give the open sizes with --input-shape" in message

    def test_the_targets_alignment_is_kept(self, run: Run, tmp_path: Path) -> None:
        onnx.save(chain(3, 40, 40, 4), tmp_path / "in.onnx")
        assert run("prune-channels", tmp_path / "in.onnx", tmp_path / "out.onnx", "--backend", "roofline") == 0
        assert load(tmp_path / "out.onnx").weights.shape("conv0.weight")[0] == 32

    def test_expected_values_go_into_biases(self, run: Run, tmp_path: Path) -> None:
        """A channel that is always 3 is worth as much in the bias: nothing is lost by cutting it."""
        onnx.save(chain(3, 4, 4, kernel=1), tmp_path / "in.onnx")
        built = load(tmp_path / "in.onnx")
        first, bias = np.array(built.weights["conv0.weight"]), np.array(built.weights["conv0.bias"])
        first[1:3], bias[1:3] = 0, 3
        built.weights["conv0.weight"], built.weights["conv0.bias"] = first, bias
        built.save(tmp_path / "in.onnx")
        np.savez(tmp_path / "data.npz", x=weight("4x3x8x8"))
        common = ("prune-channels", tmp_path / "in.onnx", tmp_path / "out.onnx", "--round-to", "1")
        plan = {"cuts": [cut_of("conv0.weight", 0), cut_of("conv0.bias", 0), cut_of("conv1.weight", 1)]}
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        arguments = (*common, "--from-plan", tmp_path / "plan.json", "--calibration", tmp_path / "data.npz", "--no-repair")
        assert run(*arguments) == 0
        assert "folded into 1 biases" in run.out
        assert run("compare", tmp_path / "in.onnx", tmp_path / "out.onnx", "--min-sqnr", "100") == 0

    def test_folding_that_changes_more_is_refused(
        self, run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def overdone(cut: Model, *_: object) -> int:
            cut.weights["conv1.weight"] = np.array(cut.weights["conv1.weight"]) * 2
            return 1

        monkeypatch.setattr("onnxsparse.passes.prune_channels.compensate", overdone)
        np.savez(tmp_path / "data.npz", x=weight("4x3x8x8"))
        before = files(tmp_path)
        arguments = ("prune-channels", source, tmp_path / "out.onnx", "--calibration", tmp_path / "data.npz", "--round-to", "1")
        assert "changed more than biases" in run.fails(1, *arguments)
        assert files(tmp_path) == before

    def test_in_a_recipe_with_the_others(self, run: Run, source: Path, tmp_path: Path) -> None:
        steps = ["prune-channels: {round_to: 1}", "prune: {sparsity_op: 0.5}", "annotate", f"report: {{json: {tmp_path}/r.json}}"]
        (tmp_path / "r.yaml").write_text("passes:\n" + "".join(f"  - {step}\n" for step in steps))
        assert run("run", tmp_path / "r.yaml", source, tmp_path / "out.onnx") == 0
        found = json.loads((tmp_path / "r.json").read_text())["totals"]
        assert found["sparsity_op"] == pytest.approx(0.5, abs=0.01)


def cut_of(tensor: str, axis: int) -> dict[str, object]:
    return {"tensor": tensor, "axis": axis, "removed": [1, 2], "role": "produces", "size": 4}
