"""The quantize pass, from the command line to the int8 file."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from onnxsparse import ParamError, layers, load
from onnxsparse.calibration.methods import Method
from onnxsparse.ir.model import Model
from onnxsparse.passes.quantize import Quantize, numbers
from onnxsparse.pipeline.base import StepReport, budget_bytes
from onnxsparse.runtime.session import Feeds, runner
from tests.commands import Run, files
from tests.graphs import Array, chain, model, node, weight
from tests.quantization.test_placement import graph

SHAPE = "1x3x8x8"


def feeds(count: int = 3, shape: str = SHAPE) -> list[Feeds]:
    return [{"x": weight(shape, 90 + seed)} for seed in range(count)]


def quantize(built: onnx.ModelProto | Model, **options: object) -> tuple[Model, StepReport]:
    done = Model.from_proto(built) if isinstance(built, onnx.ModelProto) else built.copy()
    report = Quantize(**options).run(done, feeds())  # type: ignore[arg-type]  # from the test's table
    return done, report


def sqnr_db(before: Model, after: Model, given: list[Feeds]) -> float:
    """Over all outputs and samples."""
    signal, noise = 0.0, 0.0
    a, b = runner(before), runner(after)
    for feed in given:
        expected, found = a.run(feed), b.run(feed)
        for name, whole in expected.items():
            signal += float(np.square(whole, dtype=np.float64).sum())
            noise += float(np.square(np.subtract(found[name], whole, dtype=np.float64)).sum())
    return 10 * math.log10(signal / noise)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "calib.npz", x=np.concatenate([feed["x"] for feed in feeds(8)]))
    return tmp_path / "calib.npz"


class TestThePass:
    @pytest.mark.parametrize("target", ["cv22", "onnxruntime-x86"])
    @pytest.mark.parametrize("method", ["minmax", "moving-average", "percentile", "entropy", "mse"])
    def test_the_int8_model_computes_what_the_float_model_did(self, target: str, method: Method) -> None:
        built = Model.from_proto(chain(3, 8, 16, 4))
        done, report = quantize(built, target=target, method=method)
        assert graph(done)[0::2] == [
            f"conv{i} = Conv({a}', conv{i}.weight', conv{i}.bias')" for i, a in enumerate(("x", "relu0", "relu1"))
        ]
        assert sqnr_db(built, done, feeds()) > 20
        assert report.notes[0] == f"ranges of 4 activations by {method} over 3 samples; that is few: use 32 to 512"
        assert report.notes[1] == f"{target}: 3 layers and 0 other ops in integers"
        kind = "symmetric" if target == "cv22" else "asymmetric"
        assert report.notes[2] == (
            f"activations: 4 of 8 bits ({kind}); weights: 3 of 8 bits (one scale per output channel); 3 biases of 32 bits"
        )
        assert [(c.tensor, c.nodes, c.elements) for c in report.changes] == [
            ("conv0.weight", ("conv0",), 216),
            ("conv1.weight", ("conv1",), 1152),
            ("conv2.weight", ("conv2",), 576),
        ]

    def test_onnxruntime_makes_one_integer_op_of_every_layer(self, tmp_path: Path) -> None:
        done, _ = quantize(chain(3, 8, 16, 4), target="onnxruntime-x86")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "fused.onnx")
        onnxruntime.InferenceSession(done.to_bytes(), options, providers=["CPUExecutionProvider"])
        ops = [n.op_type for n in onnx.load(tmp_path / "fused.onnx").graph.node if n.op_type != "Transpose"]
        assert ops == ["QuantizeLinear", "QLinearConv", "QLinearConv", "QLinearConv", "DequantizeLinear"]

    def test_options_of_integers(self) -> None:
        built = Model.from_proto(chain(3, 8, 4))
        coarse, fine = (
            sqnr_db(built, quantize(built, **o)[0], feeds()) for o in ({}, {"activation_bits": 16, "weight_bits": 16})
        )
        assert fine > coarse + 30
        assert quantize(built, per_tensor=True)[0].weights.shape("conv0.weight_scale") == ()
        for kind, names in (
            ("weights", ["conv0.weight_scale"]),
            ("activations", ["x_scale"]),
            ("all", ["conv0.weight_scale", "x_scale"]),
        ):
            done, _ = quantize(built, power_of_two=kind)
            powers = {n: bool((np.frexp(done.weights[n])[0] == 0.5).all()) for n in ("conv0.weight_scale", "x_scale")}
            assert powers == {n: n in names for n in powers}

    def test_zeros_stay_and_are_counted(self) -> None:
        built = Model.from_proto(chain(3, 8, 16, 4))
        mask = np.random.default_rng(0).random((16, 8, 3, 3)) < 0.7
        built.weights["conv1.weight"] = np.where(mask, np.float32(0), built.weights["conv1.weight"])
        done, report = quantize(built)
        assert not done.weights["conv1.weight"][mask].any()
        assert report.before is not None and report.after is not None
        assert report.before.zero_weights == mask.sum()
        rounded = sum(int((done.weights[f"conv{i}.weight"] == 0).sum()) for i in range(3)) - int(mask.sum())
        assert rounded > 0
        assert report.after.zero_weights == mask.sum() + rounded
        assert report.notes[-1].startswith(f"all {mask.sum()} weights that were zero are integer 0; {rounded} others")
        assert sum(change.zeros_before for change in report.changes) == mask.sum()

    def test_batch_normalisation_is_folded_first(self) -> None:
        nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c s b m v", "n"), node("Relu", "n", "y")]
        numbers: dict[str, str | Array] = {"w": "4x3x3x3", "s": "4", "b": "4", "m": "4", "v": np.full(4, 2, np.float32)}
        built = model(nodes, {"x": SHAPE}, ["y"], numbers)
        done, report = quantize(built)
        assert report.notes[0] == "folded first: 1 × BatchNormalization folded into Conv"
        assert [n.op_type for n in done.proto.graph.node if "Linear" not in n.op_type] == ["Conv", "Relu"]
        assert sqnr_db(built, done, feeds()) > 25

    def test_layers_by_name(self) -> None:
        built = chain(3, 8, 16, 4)
        integers = ["conv0.weight", "conv1.weight", "conv2.weight"]

        def weights(**options: object) -> list[str]:
            done, _ = quantize(built, **options)
            return [name for name in integers if done.weights[name].dtype == np.int8]

        assert weights(only=("conv1", "conv2")) == integers[1:]
        assert weights(exclude=("re:conv[01]",)) == integers[2:]
        assert weights(only=("op:Conv",), exclude=("conv1",)) == [integers[0], integers[2]]
        done, report = quantize(built, keep_float=("relu0",))
        assert graph(done)[:2] == ["conv0 = Conv(x', conv0.weight', conv0.bias')", "relu0 = Relu(conv0')"]
        assert [(s.node, s.reason) for s in report.skipped] == [("relu0", "stays float: --keep-float names it")]
        _, report = quantize(built, only=("conv1",), exclude=("conv0",))
        assert {s.node: s.reason for s in report.skipped} == {
            "conv0": "stays float: --only leaves it out",
            "conv2": "stays float: --only leaves it out",
        }

    @pytest.mark.parametrize("option", ["only", "exclude", "keep_float"])
    def test_a_pattern_that_matches_nothing(self, option: str) -> None:
        with pytest.raises(ParamError, match=rf"quantize: --{option.replace('_', '-')} 'conv9' matches no layer of the model"):
            quantize(chain(3, 8, 4), **{option: ("conv9",)})

    def test_nothing_to_quantize(self) -> None:
        built = model([node("Softmax", "x", "y")], {"x": "2x4"})
        done, report = quantize(built)
        assert done.to_bytes() == built.to_bytes()
        assert report.notes == ["nothing to quantize: no layer of the model has float weights that cv22 takes as integers"]
        assert not report.rewrote

    def test_quantizing_twice_is_said_and_changes_nothing(self) -> None:
        once, _ = quantize(chain(3, 8, 4))
        twice, report = quantize(once)
        assert twice.to_bytes() == once.to_bytes()
        assert report.notes == ["nothing to do: 2 layers are quantized already, and nothing else is a layer with float weights"]

    def test_activations_that_reach_infinity_stay_float(self) -> None:
        nodes = [
            node("Conv", "x w", "c"),
            node("Exp", "c", "e"),
            node("MaxPool", "e", "p", kernel_shape=[1, 1]),
            node("Conv", "p v", "d"),
            node("Relu", "d", "y"),
        ]
        built = model(nodes, {"x": SHAPE}, ["y"], {"w": weight("4x3x1x1") * 100, "v": np.abs(weight("4x4x1x1", 1))})
        done, report = quantize(built)
        assert graph(done) == ["c = Conv(x', w')", "e = Exp(c')", "p = MaxPool(e)", "d = Conv(p, v)", "y = Relu(d)"]
        assert {s.node: s.reason for s in report.skipped} == {"d": "stays float: it reads or produces values that are not finite"}

    def test_what_is_asked_wrongly(self) -> None:
        with pytest.raises(ParamError, match="give calibration data with --data"):
            Quantize().run(Model.from_proto(chain(3, 4)))
        with pytest.raises(ParamError, match="--memory 3 apples: write it as 512MB or 2GB"):
            quantize(chain(3, 4), memory="3 apples")
        with pytest.raises(ParamError, match="--mean red: give numbers with commas between them"):
            quantize(chain(3, 4), mean="red")

    @pytest.mark.parametrize(("text", "size"), [("512MB", 512 * 10**6), ("2gb", 2 * 10**9), ("1.5 kB", 1500), ("7B", 7)])
    def test_bytes(self, text: str, size: int) -> None:
        assert budget_bytes(text) == size

    def test_numbers(self) -> None:
        assert numbers("--mean", "0.5, 0.25,1") == (0.5, 0.25, 1)
        assert numbers("--mean", "") == ()


class TestTheCommand:
    def test_a_file_in_and_an_int8_file_out(self, run: Run, source: Path, data: Path, tmp_path: Path) -> None:
        before = source.read_bytes()
        assert run("quantize", source, tmp_path / "out.onnx", "--data", data, "--target", "onnxruntime-x86") == 0, run.err
        assert "3 layers and 0 other ops in integers" in run.out
        assert "judged on 1 of the 8 samples of" in " ".join(run.out.split())
        onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)
        assert sqnr_db(load(source), load(tmp_path / "out.onnx"), feeds(8)) > 20
        assert (tmp_path / "out.onnx").stat().st_size < source.stat().st_size
        assert source.read_bytes() == before

    @pytest.mark.parametrize("target", ["cv22", "onnxruntime-x86"])
    @pytest.mark.parametrize("method", ["mse", "percentile"])
    def test_saved_ranges_give_the_same_file(
        self, run: Run, source: Path, data: Path, tmp_path: Path, target: str, method: Method
    ) -> None:
        saved, options = tmp_path / "r.json", ("--target", target, "--no-compare", "--no-correct-bias")
        assert (
            run("quantize", source, tmp_path / "a.onnx", "--data", data, "--save-ranges", saved, "--method", method, *options)
            == 0
        )
        content = json.loads(saved.read_text())
        assert (content["method"], content["samples"], list(content["ranges"])) == (method, 7, ["x", "relu0", "relu1", "y"])
        assert run("quantize", source, tmp_path / "b.onnx", "--ranges", saved, *options) == 0, run.err
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()

    def test_ranges_edited_by_hand(self, run: Run, source: Path, data: Path, tmp_path: Path) -> None:
        saved = tmp_path / "r.json"
        assert run("quantize", source, tmp_path / "a.onnx", "--data", data, "--save-ranges", saved) == 0
        content = json.loads(saved.read_text())
        content["ranges"]["relu0"] = [0, 254]
        del content["ranges"]["relu1"]
        saved.write_text(json.dumps(content))
        line = run.fails(1, "quantize", source, tmp_path / "b.onnx", "--ranges", saved)
        assert line.endswith("--ranges has none for activation 'relu1' of in.onnx; give --data as well\n")
        assert run("quantize", source, tmp_path / "b.onnx", "--ranges", saved, "--data", data) == 0, run.err
        a, b = load(tmp_path / "a.onnx"), load(tmp_path / "b.onnx")
        assert float(b.weights["relu0_scale"]) == 2
        for name in ("x_scale", "relu1_scale", "y_scale"):
            assert a.weights[name] == b.weights[name], name

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            ("{", "it is not JSON"),
            ("[]", "it is not a file of ranges of schema 1, as --save-ranges writes"),
            ('{"schema": 2, "ranges": {}}', "it is not a file of ranges of schema 1"),
            ('{"schema": 1, "ranges": {"x": [1]}}', "'x' is [1], not [low, high]"),
            ('{"schema": 1, "ranges": {"x": [2, 1]}}', "'x' is [2, 1], not [low, high]"),
            ('{"schema": 1, "ranges": {"x": [0, NaN]}}', "'x' is [0, nan], not [low, high]"),
            ('{"schema": 1, "ranges": {"x": [true, "a"]}}', "not [low, high]"),
        ],
    )
    def test_what_is_no_file_of_ranges(self, run: Run, source: Path, tmp_path: Path, content: str, line: str) -> None:
        (tmp_path / "r.json").write_text(content)
        assert line in run.fails(1, "quantize", source, tmp_path / "out.onnx", "--ranges", tmp_path / "r.json")
        assert files(tmp_path) == ["in.onnx", "r.json"]

    @pytest.mark.parametrize(
        ("make", "code", "line"),
        [
            (lambda folder: ("--data", folder / "none.npz"), 1, "none.npz: No such file or directory"),
            (lambda folder: ("--ranges", folder / "none.json"), 1, "none.json: No such file or directory"),
            (lambda folder: ("--data", folder / "empty"), 1, "the folder holds no .npy, .npz or image files"),
            (lambda folder: ("--data", folder / "nan.npz"), 1, "sample 1 turns activation 'x' of in.onnx into NaN"),
            (lambda folder: ("--data", folder / "nan.npz", "--target", "cv25"), 2, "no target 'cv25'"),
            (lambda folder: (), 2, "give calibration data with --data"),
        ],
    )
    def test_an_error_is_a_line_and_leaves_no_file(
        self, run: Run, source: Path, tmp_path: Path, make: Callable[[Path], tuple[object, ...]], code: int, line: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        np.savez(tmp_path / "nan.npz", x=np.full((1, 3, 8, 8), np.nan, np.float32))
        before = files(tmp_path)
        assert line in run.fails(
            code, "quantize", source, tmp_path / "out.onnx", "--save-ranges", tmp_path / "r.json", *make(tmp_path)
        )
        assert files(tmp_path) == before

    def test_images(self, run: Run, source: Path, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        for number in range(2):
            Image.new("RGB", (20, 10), (51 * number, 0, 255)).save(tmp_path / "photos" / f"{number}.png")
        options = ("--data", tmp_path / "photos", "--mean", "0.5", "--std", "0.25,0.25,0.5", "--method", "minmax")
        assert run("quantize", source, tmp_path / "out.onnx", "--save-ranges", tmp_path / "r.json", *options) == 0, run.err
        assert json.loads((tmp_path / "r.json").read_text())["ranges"]["x"] == [-2, 1]  # (0 − 0.5) / 0.25, (1 − 0.5) / 0.5

    def test_in_a_recipe_between_prune_and_report(self, run: Run, source: Path, data: Path, tmp_path: Path) -> None:
        steps = [
            {"prune": {"sparsity_op": 0.5}},
            {"quantize": {"data": str(data)}},
            "annotate",
            {"report": {"json": str(tmp_path / "r.json")}},
        ]
        (tmp_path / "recipe.yaml").write_text(json.dumps({"passes": steps}))
        assert run("run", tmp_path / "recipe.yaml", source, tmp_path / "out.onnx") == 0, run.err
        done = load(tmp_path / "out.onnx")
        totals = layers(done).totals
        assert totals.sparsity_op is not None and totals.sparsity_op >= 0.5
        assert all(done.weights[f"conv{i}.weight"].dtype == np.int8 for i in range(3))
        found = json.loads((tmp_path / "r.json").read_text())
        assert found["totals"]["sparsity_op"] == pytest.approx(totals.sparsity_op, abs=1e-4)


def test_a_range_of_no_activation_is_said(run: Run, source: Path, tmp_path: Path) -> None:
    ranges = {name: [-4, 4] for name in ("x", "relu0", "relu1", "y", "misspelt")}
    (tmp_path / "r.json").write_text(json.dumps({"schema": 1, "ranges": ranges}))
    assert run("quantize", source, tmp_path / "out.onnx", "--ranges", tmp_path / "r.json") == 0, run.err
    assert "--ranges has 'misspelt', which the model does not produce" in " ".join(run.out.split())
