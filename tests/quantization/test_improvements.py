"""What makes an int8 model better, and what shows where it is not good: on small networks, in onnxruntime."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxsparse.errors import ParamError
from onnxsparse.ir.model import Model
from onnxsparse.ir.weights import Array
from onnxsparse.passes.quantize import Quantize
from onnxsparse.runtime.compare import compare
from onnxsparse.runtime.samples import Samples
from tests.commands import Run, files
from tests.graphs import chain, model, node, weight

SHAPE = (1, 3, 8, 8)


def feeds(count: int, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(SHAPE).astype(np.float32)} for _ in range(count)]


def deep() -> Model:
    return Model.from_proto(chain(3, 8, 8, 8, 4))


def sqnr_db(plain: Model, quantized: Model) -> float:
    found = compare(plain, quantized, Samples(tuple(feeds(8, seed=1)))).worst_sqnr_db
    assert found is not None
    return found


def quantized(plain: Model, **options: object) -> Model:
    copy = plain.copy()
    Quantize(**{"correct_bias": False, **options}).run(copy, feeds(24))  # type: ignore[arg-type]  # any option
    return copy


def uneven(plain: Model, factors: NDArray[np.float64]) -> Model:
    """The same function, channels of the first activation scaled apart."""
    for name, by in (
        ("conv0.weight", factors[:, None, None, None]),
        ("conv0.bias", factors),
        ("conv1.weight", 1 / factors[:, None, None]),
    ):
        plain.weights[name] = (plain.weights[name].astype(np.float64) * by).astype(np.float32)
    return plain


def test_a_corrected_bias_takes_the_mean_error_away() -> None:
    plain = deep()
    plain.weights["conv1.weight"] = np.abs(plain.weights["conv1.weight"])  # so that what is read is far from zero in the mean
    before, after = quantized(plain, power_of_two="all"), quantized(plain, power_of_two="all", correct_bias=True)
    assert sqnr_db(plain, after) > sqnr_db(plain, before)


def test_equalization_gives_every_channel_its_integers() -> None:
    plain = uneven(deep(), np.geomspace(0.01, 1, 8))
    assert sqnr_db(plain, quantized(plain, equalize=True)) > sqnr_db(plain, quantized(plain)) + 6


def test_equalization_changes_nothing_else() -> None:
    plain = uneven(deep(), np.geomspace(0.01, 1, 8))
    wide = {"activation_bits": 16, "weight_bits": 16}
    assert sqnr_db(plain, quantized(plain, equalize=True, **wide)) > 60


@pytest.mark.parametrize("target", ["cv22", "onnxruntime-x86"])
def test_wide_layers_add_up(target: str) -> None:
    plain = deep()
    levels = [sqnr_db(plain, quantized(plain, target=target, wide_layers=count)) for count in (0, 2, 4)]
    assert levels[0] < levels[1] < levels[2]
    assert levels[2] > 60


def test_as_many_layers_as_an_sqnr_takes(tmp_path: Path) -> None:
    """The samples of --test, which nothing was calibrated on, are those of `sqnr_db`."""
    plain = deep()
    copy = plain.copy()
    np.save(tmp_path / "test.npy", np.concatenate([each["x"] for each in feeds(8, seed=1)]))
    report = Quantize(min_sqnr=45.0, test=tmp_path / "test.npy").run(copy, feeds(24))
    assert sqnr_db(plain, copy) >= 45
    said = [text for text in report.notes if "have more bits" in text or "SQNR of 45 dB" in text]
    assert len(said) == 2
    assert not any("not reached" in text for text in said)


def test_a_diagnosis_names_the_broken_slice(run: Run, tmp_path: Path) -> None:
    """Two heads on one output, one a thousand times as large: on one scale the small one is lost."""
    built = model(
        [node("Conv", "x w", "a"), node("Concat", "a s", "both", axis=1), node("Conv", "both v", "y", kernel_shape=[1, 1])],
        {"x": "1x3x8x8", "s": "1x1x8x8"},
        weights={"w": "2x3x1x1", "v": np.diag([1000.0, 1.0, 1.0]).astype(np.float32).reshape(3, 3, 1, 1)},
    )
    built.save(tmp_path / "in.onnx")
    rng = np.random.default_rng(0)
    data = {name: rng.standard_normal((16, *shape)).astype(np.float32) for name, shape in (("x", (3, 8, 8)), ("s", (1, 8, 8)))}
    np.savez(tmp_path / "c.npz", **data)  # type: ignore[arg-type]  # numpy's stubs take its own options for arrays' names
    out = [tmp_path / "out.onnx", "--data", tmp_path / "c.npz", "--diagnose", "--diagnosis-json", tmp_path / "d.json"]
    assert run("quantize", tmp_path / "in.onnx", *out, "--diagnosis-html", tmp_path / "d.html") == 0, run.err
    found = json.loads((tmp_path / "d.json").read_text())
    whole = next(part for part in found["slices"] if part["axis"] is None)
    worst = found["slices"][0]
    assert (worst["axis"], whole["sqnr_db"] > 25, worst["sqnr_db"] < 5) == (1, True, True)
    assert worst["index"] in (1, 2)
    assert "worst outputs and slices of them" in " ".join(run.out.split())
    assert "https://" not in (tmp_path / "d.html").read_text().split("<script", 1)[0]


def test_an_output_that_is_not_finite_any_more_comes_first(tmp_path: Path) -> None:
    built = model(
        [
            node("Conv", "x w", "c"),
            node("Sigmoid", "c", "s"),
            node("Conv", "s v", "t"),
            node("Relu", "t", "r"),
            node("Log", "r", "y"),
        ],
        {"x": "1x3x8x8"},
        weights={"w": weight("4x3x1x1") * 2, "v": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)},
    )
    copy = built.copy()
    report = Quantize(diagnosis_json=tmp_path / "d.json", correct_bias=False).run(copy, feeds(8))
    with (tmp_path / "d.json").open("wb") as file:
        report.artifacts[tmp_path / "d.json"](file)
    found = json.loads((tmp_path / "d.json").read_text())
    compared = compare(built, copy, Samples(tuple(feeds(8))))
    assert compared.outputs[0].broken
    assert compared.worst_sqnr_db is None
    assert found["slices"][0]["problem"] == "it has NaN or infinite values"
    assert (found["slices"][0]["sqnr_db"], found["slices"][0]["identical"]) == (None, False)


def test_a_constant_divisor_never_becomes_zero() -> None:
    built = model(
        [
            node("Conv", "x w", "c"),
            node("MaxPool", "c", "m", kernel_shape=[1, 1]),
            node("Div", "m d", "q"),
            node("Conv", "q v", "y"),
        ],
        {"x": "1x3x8x8"},
        weights={"w": "4x3x1x1", "d": np.array([0.002, 1, 0.5, 2], np.float32).reshape(4, 1, 1), "v": "2x4x1x1"},
    )
    assert sqnr_db(built, quantized(built)) > 20


def test_sixteen_bits_take_a_given_range_as_it_is(run: Run, source: Path, tmp_path: Path) -> None:
    names = ("x", "relu0", "relu1", "y")
    (tmp_path / "r.json").write_text(json.dumps({"schema": 1, "ranges": {name: [-1, 1] for name in names}}))
    options = ("--ranges", tmp_path / "r.json", "--activation-bits", "16", "--export", tmp_path)
    assert run("quantize", source, tmp_path / "out.onnx", *options) == 0, run.err
    found = json.loads((tmp_path / "choices.json").read_text())["activations"]
    assert {round(entry["scale"] * 32767, 4) for entry in found} == {1.0}


def test_an_export_never_lands_on_samples(run: Run, source: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "sample_00000.npy", np.zeros((4, 3, 8, 8), np.float32))
    before = (tmp_path / "sample_00000.npy").read_bytes()
    options = ("--data", tmp_path, "--export", tmp_path)
    assert "already holds samples" in run.fails(2, "quantize", source, tmp_path / "out.onnx", *options)
    assert (tmp_path / "sample_00000.npy").read_bytes() == before
    assert files(tmp_path) == ["in.onnx", "sample_00000.npy"]


def test_exported_samples_are_those_that_were_given(run: Run, source: Path, tmp_path: Path) -> None:
    given = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "c.npy", given)
    (tmp_path / "e").mkdir()
    assert run("quantize", source, tmp_path / "out.onnx", "--data", tmp_path / "c.npy", "--export", tmp_path / "e") == 0, run.err
    listed = (tmp_path / "e" / "samples.txt").read_text().split()
    assert listed == ["sample_00000.npy", "sample_00001.npy"]  # the one in the middle is held out
    assert all(np.array_equal(np.load(tmp_path / "e" / name)[0], array) for name, array in zip(listed, given[::2], strict=True))


def test_one_scale_a_tensor_in_an_opset_without_quantizers() -> None:
    built = Model.from_proto(chain(3, 8, 4))
    built.proto.opset_import[0].version = 9
    assert sqnr_db(built, quantized(built, per_tensor=True)) > 20


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ParamError, match="--equalize changes the ranges"):
        Quantize(equalize=True, ranges=tmp_path / "r.json").run(deep(), feeds(2))
    with pytest.raises(ParamError, match="onnxruntime-x86 computes with integers of 4 or 7 or 8 bits"):
        Quantize(target="onnxruntime-x86", activation_bits=16).run(deep(), feeds(2))
    with pytest.raises(ParamError, match="one of --wide-layers and --min-sqnr"):
        Quantize(wide_layers=1, min_sqnr=20.0).run(deep(), feeds(2))
    np.save(tmp_path / "c.npy", np.zeros((4, 3, 8, 8), np.float32))
    with pytest.raises(ParamError, match="is for images"):
        Quantize(data=tmp_path / "c.npy", mean="0.5").run(deep())


def test_sixteen_bits_leave_room_for_what_is_added_after_a_product() -> None:
    """onnxruntime makes a 32-bit bias of it, whose scale is the product's; at both ends of 16 bits it would overflow."""
    built = model(
        [node("MatMul", "x w", "m"), node("Add", "m b", "y")],
        {"x": "4x16"},
        weights={"w": weight("16x8") * 0.01, "b": weight("8", 1)},
    )
    data = [{"x": weight("4x16", seed)} for seed in range(8)]
    copy = built.copy()
    Quantize(activation_bits=16, weight_bits=16).run(copy, data)
    found = compare(built, copy, Samples(tuple(data))).worst_sqnr_db
    assert found is not None
    assert found > 60


@pytest.mark.parametrize("opset", [17, 21])
def test_wide_layers_can_be_quantized_anew(opset: int) -> None:
    plain = deep()
    plain.proto.opset_import[0].version = opset
    wide = quantized(plain, activation_bits=16, weight_bits=16)
    report = Quantize(requantize=True).run(wide, feeds(8))
    assert any("4 layers" in text for text in report.notes)
    assert {wide.weights[f"conv{i}.weight"].dtype.itemsize for i in range(3)} == {1}
    assert sqnr_db(plain, wide) > 20


@pytest.mark.parametrize("option", ["--save-ranges", "--diagnosis-json", "--record"])
def test_nothing_is_written_over_what_is_read_or_written_otherwise(run: Run, source: Path, tmp_path: Path, option: str) -> None:
    np.save(tmp_path / "c.npy", np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32))
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    for taken in ("in.onnx", "out.onnx", "c.npy"):
        said = run.fails(2, "quantize", source, tmp_path / "out.onnx", "--data", tmp_path / "c.npy", option, tmp_path / taken)
        assert "is named twice" in said, taken
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
