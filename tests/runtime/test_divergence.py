"""Where two models part: the first tensors that differ are named, and nothing behind or beside them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from onnxsparse import Fold, Model, load
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime import tensor_trace as tracing
from onnxsparse.runtime.bisect import Divergence, TensorLoss, bisect
from onnxsparse.runtime.samples import Samples
from onnxsparse.runtime.session import Runner
from tests.commands import Run
from tests.graphs import FLOAT, FLOAT16, chain, model, node, value

SAMPLE_MODELS = Path(__file__).parent.parent.parent / "sample_models"


def four_layers() -> Model:
    """conv0, relu0, conv1, relu1, conv2, relu2, conv3, y."""
    return Model.from_proto(chain(3, 8, 8, 8, 4))


def scaled(built: Model, factor: float, *weights: str) -> Model:
    twin = built.copy()
    for name in weights:
        twin.weights[name] = np.multiply(twin.weights[name], np.float32(factor))
    return twin


def negated(built: Model, *weights: str) -> Model:
    """A copy with some weights of the other sign: where there is no bias, noise is four times the signal, −6 dB."""
    return scaled(built, -1, *weights)


def renamed(built: Model, old: str, new: str) -> Model:
    twin = built.copy()
    for made in twin.proto.graph.node:
        for names in (made.input, made.output):
            names[:] = [new if name == old else name for name in names]
    return twin


def firsts(found: Divergence) -> list[str]:
    return [loss.tensor for loss in found.first]


def only(found: Divergence) -> TensorLoss:
    (loss,) = found.first
    return loss


def branches() -> Model:
    """Three convolutions beside each other behind a fourth, summed."""
    nodes = [
        node("Conv", "x w0", "stem"),
        *(node("Conv", f"stem w{i}", f"branch{i}") for i in (1, 2, 3)),
        node("Sum", "branch1 branch2 branch3", "sum"),
        node("Relu", "sum", "y"),
    ]
    return model(nodes, {"x": "1x3x8x8"}, ["y"], {"w0": "8x3x1x1", "w1": "4x8x1x1", "w2": "4x8x1x1", "w3": "4x8x1x1"})


class TestTheFirst:
    def test_a_model_and_itself_are_equal_everywhere(self) -> None:
        found = bisect(four_layers(), four_layers())
        assert (found.compared, found.diverging, found.worst_sqnr_db) == (8, 0, math.inf)
        assert not found.first
        assert not found.losses

    def test_one_weight_in_the_middle_is_found_at_the_node_that_uses_it(self) -> None:
        found = bisect(four_layers(), negated(four_layers(), "conv1.weight"))
        loss = only(found)
        assert (loss.tensor, loss.node, loss.op_type) == ("conv1", "conv1", "Conv")
        assert (loss.source, loss.source_sqnr_db) == ("relu0", math.inf)
        assert loss.downstream == 5  # relu1, conv2, relu2, conv3, y
        assert found.diverging == 6
        assert loss.sqnr_db is not None
        assert loss.sqnr_db < 0

    def test_its_figure_is_the_one_worked_out_by_hand(self) -> None:
        """x is 1, 2, 3, 4; half of it is added: the noise power is 0.25 of the signal's, 6.02 dB."""
        nodes = [node("Mul", "x one", "m"), node("Mul", "m scale", "y")]
        a, b = (
            model(nodes, {"x": "4"}, ["y"], {"one": np.ones(4, np.float32), "scale": np.array(scale, np.float32)})
            for scale in (1.0, 1.5)
        )
        loss = only(bisect(a, b, Samples(({"x": np.arange(1, 5, dtype=np.float32)},))))
        assert loss.tensor == "y"
        assert loss.sqnr_db == pytest.approx(10 * math.log10(4))

    def test_two_branches_are_both_named_and_the_third_and_their_sum_are_not(self) -> None:
        found = bisect(branches(), negated(branches(), "w1", "w3"))
        assert firsts(found) == ["branch1", "branch3"]
        assert [loss.downstream for loss in found.first] == [2, 2]

    def test_a_tensor_with_another_name_in_between_is_looked_through(self) -> None:
        changed = renamed(negated(four_layers(), "conv0.weight"), "relu0", "other")
        found = bisect(four_layers(), changed)
        assert firsts(found) == ["conv0"]
        assert found.compared == 7
        assert (found.uncompared.only_first, found.uncompared.only_second) == (1, 1)

    def test_a_change_under_another_name_shows_at_the_next_shared_tensor(self) -> None:
        found = bisect(four_layers(), renamed(negated(four_layers(), "conv1.weight"), "conv1", "other"))
        assert (only(found).tensor, only(found).source) == ("relu1", "relu0")

    def test_a_loss_is_counted_from_the_worst_source(self) -> None:
        nodes = [node("Mul", "x a", "near"), node("Mul", "x b", "far"), node("Sub", "near far", "y")]

        def built(a: float, b: float) -> Model:
            return model(nodes, {"x": "4"}, ["y"], {"a": np.array(a, np.float32), "b": np.array(b, np.float32)})

        loss = next(loss for loss in bisect(built(2, 1), built(2.02, 0.9)).losses if loss.tensor == "y")  # 1 against 1.12
        assert loss.source == "far"
        assert loss.source_sqnr_db == pytest.approx(20, abs=1e-3)
        assert loss.lost_db == pytest.approx(20 - 10 * math.log10(1 / 0.12**2), abs=1e-3)

    def test_the_threshold_decides(self) -> None:
        twin = scaled(four_layers(), 1.01, "conv1.weight")  # 40 dB
        assert not bisect(four_layers(), twin, min_sqnr_db=30).first
        assert firsts(bisect(four_layers(), twin, min_sqnr_db=50)) == ["conv1"]

    def test_what_a_body_takes_from_outside_is_a_source(self) -> None:
        found = bisect(with_body(), negated(with_body(), "w"))
        assert firsts(found) == ["h"]
        assert only(found).downstream == 1
        assert any("bodies are not entered" in text and "choice" in text for text in found.notes)

    def test_a_node_without_a_name_is_told_by_its_place(self) -> None:
        a = model([node("Mul", "x s", "y", name="")], {"x": "4"}, ["y"], {"s": np.array(1, np.float32)})
        b = model([node("Mul", "x s", "y", name="")], {"x": "4"}, ["y"], {"s": np.array(3, np.float32)})
        assert only(bisect(a, b)).node == "#0 y"


def with_body() -> Model:
    """h = x·w, and −h of it in the branch that an If takes."""
    branches = [helper.make_graph([node(op, "h", f"{op}_out")], op, [], [value(f"{op}_out", "2x4")]) for op in ("Neg", "Abs")]
    choice = node("If", "yes", "y", name="choice", then_branch=branches[0], else_branch=branches[1])
    return model([node("MatMul", "x w", "h"), choice], {"x": "2x4"}, ["y"], {"w": "4x4", "yes": np.array(True)})


class TestWhatDoesNotCompare:
    def test_another_shape_diverges_and_is_told(self) -> None:
        a = model([node("Relu", "x", "h"), node("Concat", "h h", "c", axis=1), node("ReduceSum", "c", "y")], {"x": "2x4"})
        b = model([node("Relu", "x", "h"), node("Concat", "h h h", "c", axis=1), node("ReduceSum", "c", "y")], {"x": "2x4"})
        loss = only(bisect(a, b))
        assert (loss.tensor, loss.sqnr_db, loss.lost_db, loss.downstream) == ("c", None, None, 1)
        assert loss.problem == "has shape [2, 8] in one model and [2, 12] in the other"

    def test_not_a_number_in_one_model_diverges_and_the_model_is_named(self) -> None:
        a = model([node("Abs", "x", "h"), node("Relu", "h", "y")], {"x": "64"})
        b = model([node("Sqrt", "x", "h"), node("Relu", "h", "y")], {"x": "64"})
        assert only(bisect(a, b)).problem == "has NaN or infinite values in the second model alone"
        assert only(bisect(b, a)).problem == "has NaN or infinite values in the first model alone"

    def test_the_infinities_of_a_mask_do_not_count_where_both_have_them(self) -> None:
        mask = np.array([0, -np.inf, 0, -np.inf], np.float32)
        nodes = [node("Mul", "x scale", "s"), node("Add", "s mask", "masked"), node("Softmax", "masked", "y")]
        a, b, far = (
            model(nodes, {"x": "8x4"}, ["y"], {"scale": np.array(scale, np.float32), "mask": mask}) for scale in (1, 1.001, 3)
        )
        found = bisect(a, b)
        assert not found.first
        assert any(text.endswith("do not count: masked") for text in found.notes)
        masked = next(loss for loss in bisect(a, far).losses if loss.tensor == "s")
        assert masked.sqnr_db == pytest.approx(10 * math.log10(1 / 4), abs=1e-4)

    def test_infinities_at_other_places_diverge(self) -> None:
        a, b = (
            model([node("Add", "x mask", "y")], {"x": "2"}, ["y"], {"mask": np.array(mask, np.float32)})
            for mask in ([-np.inf, 0], [0, -np.inf])
        )
        assert only(bisect(a, b)).problem == "has NaN or infinite values at different places"

    def test_noise_on_zero_has_no_figure(self) -> None:
        a, b = (model([node("Mul", "x s", "y")], {"x": "4"}, ["y"], {"s": np.array(scale, np.float32)}) for scale in (0.0, 1.0))
        assert only(bisect(a, b)).problem == "is zero in the first model"

    def test_integers_and_what_is_computed_of_weights_are_counted_and_left_out(self) -> None:
        nodes = [
            node("Shape", "x", "shape"),
            node("Transpose", "w", "turned", perm=[1, 0]),
            node("MatMul", "x turned", "h"),
            node("Reshape", "h shape", "y"),
        ]
        built = model(nodes, {"x": "4x4"}, ["y"], {"w": "4x4"})
        found = bisect(built, negated(built, "w"))
        assert (found.compared, found.uncompared.not_float, found.uncompared.constant) == (2, 1, 1)
        assert firsts(found) == ["h"]  # and not the transposed weight

    def test_half_precision_is_compared_with_single(self) -> None:
        a = model([node("Relu", "x", "h"), node("Mul", "h two", "y")], {"x": "64"}, ["y"], {"two": np.array(2, np.float32)})
        nodes = [
            node("Cast", "x", "half", to=FLOAT16),
            node("Relu", "half", "h"),
            node("Cast", "h", "single", to=FLOAT),
            node("Mul", "single two", "y"),
        ]
        b = model(nodes, {"x": "64"}, ["y"], {"two": np.array(2, np.float32)})
        found = bisect(a, b)
        assert (found.compared, found.diverging) == (2, 0)
        assert 60 < (found.worst_sqnr_db or 0) < 90  # 11 bits of 6 dB and more

    def test_models_with_no_name_in_common_do_not_pass(self) -> None:
        a, b = (model([node("Relu", "x", name)], {"x": "4"}, [name]) for name in ("y", "z"))
        found = bisect(a, b)
        assert (found.compared, found.passes) == (0, False)


class TestMemory:
    @pytest.mark.parametrize("tensors_at_a_time", [1, 2, 3])
    def test_groups_fit_the_budget_and_change_no_figure(self, monkeypatch: pytest.MonkeyPatch, tensors_at_a_time: int) -> None:
        """The tensors of the first three layers have 8·8·8 elements of 4 bytes, in two models."""
        read: list[int] = []
        whole = bisect(four_layers(), negated(four_layers(), "conv1.weight"))
        run = Runner.run

        def watched(self: Runner, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            values = run(self, feeds)
            read.append(sum(v.nbytes for v in values.values() if v.dtype == np.float32))
            return values

        monkeypatch.setattr(Runner, "run", watched)
        found = bisect(four_layers(), negated(four_layers(), "conv1.weight"), budget_bytes=tensors_at_a_time * 2 * 8 * 8 * 8 * 4)
        assert found == whole
        assert max(read) == tensors_at_a_time * 8 * 8 * 8 * 4

    def test_all_samples_count_and_none_is_held(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the last of three samples shows the change."""
        nodes = [node("Relu", "x", "h"), node("Clip", "h _ top", "y")]
        a, b = (model(nodes, {"x": "4"}, ["y"], {"top": np.array(top, np.float32)}) for top in (100, 10))
        monkeypatch.setattr(tracing, "groups_within", one_by_one)
        found = bisect(a, b, Samples(tuple({"x": np.full(4, v, np.float32)} for v in (1, 2, 50))))
        assert firsts(found) == ["y"]
        assert only(found).sqnr_db == pytest.approx(10 * math.log10((1 + 4 + 2500) / 1600))
        assert found.samples == 3


def one_by_one(sizes: dict[str, int], _budget_bytes: int) -> Iterator[list[str]]:
    return ([name] for name in sizes)


@pytest.fixture(scope="module")
def digits() -> tuple[Model, Model, Samples]:
    """A trained model, its int8 version, and eight samples."""
    images = np.load(SAMPLE_MODELS / "digits_test.npz")["x"][:8]
    a = load(SAMPLE_MODELS / "digits.onnx").bind(["image:1,1,8,8"])
    feeds = tuple({"image": image[None]} for image in images)
    b = a.copy()
    Quantize().run(b, Samples(feeds, source="digits"))
    return a, b, Samples(feeds)


class TestPasses:
    def test_fold_leaves_every_tensor_that_it_leaves_the_same(self) -> None:
        nodes = [
            node("Conv", "x w", "c"),
            node("BatchNormalization", "c scale bias mean var", "b"),
            node("Relu", "b", "r"),
            node("Conv", "r v", "y"),
        ]
        ones = {"mean": "8", "bias": "8", "scale": "8", "var": np.full(8, 2, np.float32)}
        a = model(nodes, {"x": "1x3x8x8"}, ["y"], {"w": "8x3x3x3", "v": "4x8x3x3", **ones})
        b = a.copy()
        Fold().run(b)
        found = bisect(a, b)
        assert (found.compared, found.uncompared.only_first, found.diverging) == (3, 1, 0)
        assert 100 < (found.worst_sqnr_db or 0) < math.inf
        assert not found.losses  # rounding is no loss

    def test_int8_diverges_nowhere_and_the_largest_losses_are_listed(self, digits: tuple[Model, Model, Samples]) -> None:
        found = bisect(*digits)
        assert not found.first
        assert len(found.losses) == 10
        assert found.losses[0].tensor == "/0/Conv_output_0"  # where noise comes in
        lost = [loss.lost_db or 0 for loss in found.losses]
        assert lost == sorted(lost, reverse=True)
        for loss in found.losses[1:]:
            assert loss.lost_db == pytest.approx((loss.source_sqnr_db or 0) - (loss.sqnr_db or 0))
        assert found.uncompared.only_first == 0

    def test_int8_figures_do_not_depend_on_what_is_read_together(self, digits: tuple[Model, Model, Samples]) -> None:
        """With onnxruntime's fusions they would: a layer runs in integers only where nobody reads its inside."""
        assert bisect(*digits, budget_bytes=1) == bisect(*digits)

    def test_one_wrong_scale_of_an_int8_model_is_found(self, digits: tuple[Model, Model, Samples]) -> None:
        a, b, samples = digits
        scale = next(name for name in b.weights if name.startswith("onnx::Conv_113") and name.endswith("_scale"))
        assert only(bisect(a, scaled(b, 1.5, scale), samples)).node == "/4/conv2/Conv"


class TestTheCommand:
    @pytest.fixture
    def changed(self, source: Path, tmp_path: Path) -> Path:
        negated(load(source), "conv1.weight").save(tmp_path / "b.onnx")
        return tmp_path / "b.onnx"

    def test_it_names_tensor_node_and_figures(self, run: Run, source: Path, changed: Path) -> None:
        assert run("compare", source, changed, "--bisect") == 0
        assert "b.onnx against in.onnx: 4 of 6 tensors are below 30 dB, first" in run.out
        assert any(line.split()[:3] == ["conv1", "Conv", "conv1"] for line in run.out.splitlines())
        assert "6 tensors of the same name compared" in run.out
        assert "2 seeded random inputs" in run.out

    def test_of_many_it_shows_some_and_why_they_do_not_compare(self, run: Run, tmp_path: Path) -> None:
        for copies, file in ((2, "a.onnx"), (3, "b.onnx")):
            nodes = [node("Concat", " ".join(["x"] * copies), f"y{i}", axis=0) for i in range(15)]
            model(nodes, {"x": "4"}, [f"y{i}" for i in range(15)]).save(tmp_path / file)
        assert run("compare", tmp_path / "a.onnx", tmp_path / "b.onnx", "--bisect") == 0
        assert "… 3 more" in run.out
        assert "y11 has shape [8] in one model and [12] in the other" in run.out
        assert "where most is lost" not in run.out

    def test_it_fails_if_told_how_near_to_be(self, run: Run, source: Path, changed: Path) -> None:
        assert "not every tensor reaches 20 dB" in run.fails(1, "compare", source, changed, "--bisect", "--min-sqnr", "20")
        assert run("compare", source, source, "--bisect", "--min-sqnr", "20") == 0
        assert "no tensor diverges, all 6 are equal" in run.out

    def test_json_has_what_is_documented(self, run: Run, source: Path, changed: Path, tmp_path: Path) -> None:
        assert run("compare", source, changed, "--bisect", "--json", tmp_path / "found.json") == 0
        found = json.loads((tmp_path / "found.json").read_text())
        documented = (Path(__file__).parent.parent.parent / "docs" / "json.md").read_text()
        section = documented.split("## `compare --bisect --json`")[1].split("\n## ")[0]
        assert not [key for key in (*found, *found["first"][0]) if f"`{key}`" not in section]
        assert found["first"][0]["tensor"] == "conv1"
        assert found["first"][0]["input_identical"] is True

    def test_every_difference_counts_with_an_infinite_threshold(self, run: Run, source: Path, tmp_path: Path) -> None:
        scaled(load(source), 1.0001, "conv2.bias").save(tmp_path / "b.onnx")
        assert run("compare", source, tmp_path / "b.onnx", "--bisect", "--json", "-") == 0
        assert json.loads(run.out)["first"] == []
        assert run("compare", source, tmp_path / "b.onnx", "--bisect", "--min-sqnr", "inf", "--json", "-") == 1
        assert [loss["tensor"] for loss in json.loads(run.out)["first"]] == ["conv2"]

    def test_a_threshold_that_is_no_number_is_refused(self, run: Run, source: Path) -> None:
        assert "--min-sqnr is a number" in run.fails(2, "compare", source, source, "--bisect", "--min-sqnr", "nan")
