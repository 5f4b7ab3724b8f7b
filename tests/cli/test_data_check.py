"""`data check`: numbers worked out by hand, sheets pixel by pixel, and files that are written whole or not at all."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxsparse import Model, ParamError
from onnxsparse.calibration.contact_sheet import GAP, LINE, SHOWN, TILE, contact_sheet
from onnxsparse.calibration.data import open_data
from onnxsparse.calibration.inspection import INSPECTED, DataFacts, InputFacts, Spread, inspect_data
from onnxsparse.calibration.preprocessing import Preprocessing, read_preprocessing
from onnxsparse.runtime.session import Feeds
from tests.commands import Run, files
from tests.graphs import FLOAT, UINT8, Array, model, node, proto


def taking(shape: str, dtype: int = FLOAT) -> Model:
    return model([node("Identity", "x", "y")], {"x": (shape, dtype)})


def pictures(*levels: float) -> list[Feeds]:
    """Grey samples of 2 × 2 pixels."""
    return [{"x": np.full((1, 1, 2, 2), level, np.float32)} for level in levels]


def inspected(array: Array, shape: str, dtype: int = FLOAT) -> InputFacts:
    """What the input `x` of this shape gets from an array of several samples."""
    feeds = [{"x": sample} for sample in array]
    (facts,) = inspect_data(open_data(feeds, taking(shape, dtype))).inputs
    return facts


class TestNumbers:
    def test_a_spread_by_hand(self) -> None:
        """1, 2, 3, 6: mean 3, squared distances 4 + 1 + 0 + 9 = 14, of 4 values."""
        found = inspected(np.array([[[1, 2]], [[3, 6]]], np.float32), "1x2")
        assert (found.values.minimum, found.values.maximum, found.values.mean) == (1, 6, 3)
        assert found.values.std == pytest.approx(math.sqrt(14 / 4))
        assert (found.shape, found.dtype, found.samples, found.channels) == ((1, 2), "float32", 2, ())

    def test_a_small_spread_far_from_zero(self) -> None:
        """A difference of squares would be lost in rounding."""
        found = inspected(np.array([[[1e9]], [[1e9 + 1]]]), "1x1", onnx.TensorProto.DOUBLE)
        assert found.values.std == pytest.approx(0.5)

    @pytest.mark.parametrize(("shape", "axis"), [("1x3x2x4", 1), ("1x2x4x3", 3), ("1x16x32x32", 1), ("1x32x32x16", 3)])
    def test_channels_are_found_and_told_apart(self, shape: str, axis: int) -> None:
        sizes = [int(size) for size in shape.split("x")]
        levels = np.arange(sizes[axis], dtype=np.float32).reshape([-1 if at == axis else 1 for at in range(4)])
        found = inspected(np.broadcast_to(levels, (2, *sizes)), shape)
        assert list(found.channels) == [Spread(level, level, level, 0) for level in range(sizes[axis])]

    @pytest.mark.parametrize("shape", ["1x17x17x17", "1x3x8", "1x3"])
    def test_no_channels_where_there_are_too_many_or_none(self, shape: str) -> None:
        assert inspected(np.zeros((1, *map(int, shape.split("x")))).astype(np.float32), shape).channels == ()

    def test_values_that_are_no_numbers_are_counted_and_left_out(self) -> None:
        found = inspected(np.array([[[1, np.nan, 3, np.inf]], [[1, 3, -np.inf, 1]]], np.float32), "1x4")
        assert (found.nan_share, found.infinite_share) == (1 / 8, 2 / 8)
        assert (found.values.minimum, found.values.maximum, found.values.mean) == (1, 3, 9 / 5)
        assert found.hints == ("1 of 8 values are NaN", "2 of 8 values are infinite")

    def test_nothing_finite(self) -> None:
        assert inspected(np.full((1, 1, 2), np.nan, np.float32), "1x2").values == Spread(None, None, None, None)

    def test_equal_samples(self) -> None:
        """NaN equals NaN."""
        array = np.array([[[np.nan, 1]], [[2, 1]], [[np.nan, 1]]], np.float32)
        assert inspected(array, "1x2").equal_to_first == 1
        assert "all 2 samples are equal" in inspected(array[::2], "1x2").hints
        assert not inspected(array[1:2], "1x2").hints

    @pytest.mark.parametrize(
        ("shape", "low", "high", "dtype", "hinted"),
        [
            ("1x3x2x2", 0, 255, np.float32, True),
            ("1x3x2x2", 0, 1, np.float32, False),
            ("1x3x2x2", -100, 100, np.float32, False),
            ("1x3x2x2", 0, 300, np.float32, False),
            ("1x5x2x2", 0, 255, np.float32, False),
            ("1x3x2x2", 0, 255, np.uint8, False),
        ],
    )
    def test_a_hint_at_pixels_that_were_not_scaled(
        self, shape: str, low: float, high: float, dtype: type[np.generic], hinted: bool
    ) -> None:
        sizes = [int(size) for size in shape.split("x")]
        array = np.linspace(low, high, math.prod(sizes)).reshape(1, *sizes).astype(dtype)
        found = inspected(array, shape, UINT8 if dtype == np.uint8 else FLOAT)
        assert any("look like pixels" in hint for hint in found.hints) == hinted

    def test_the_first_samples_alone_are_read(self) -> None:
        array = np.zeros((INSPECTED + 1, 1, 1), np.float32)
        array[-1] = 9
        found: DataFacts = inspect_data(open_data([{"x": sample} for sample in array], taking("1x1")))
        assert (found.samples, found.inspected, found.inputs[0].values.maximum) == (INSPECTED + 1, INSPECTED, 0)

    def test_images_of_several_sizes(self, tmp_path: Path) -> None:
        for name, size in (("a.png", (4, 2)), ("b.png", (5, 2))):
            Image.new("RGB", size, (51, 102, 255)).save(tmp_path / name)
        (found,) = inspect_data(open_data(tmp_path, taking("1x3xHxW"))).inputs
        assert found.shape == (1, 3, 2, None)
        assert [channel.mean for channel in found.channels] == pytest.approx([0.2, 0.4, 1])


def tile(sheet: "Image.Image", number: int = 0) -> tuple[int, ...]:
    """The color in the middle of a tile of the first row."""
    found = sheet.convert("RGB").getpixel((GAP + number * (TILE + GAP) + TILE // 2, LINE + GAP + TILE // 2))
    assert isinstance(found, tuple)
    return tuple(round(level) for level in found)


class TestSheet:
    @pytest.mark.parametrize("shape", ["1x3x4x4", "1x4x4x3"])
    @pytest.mark.parametrize(
        "images",
        [
            Preprocessing(),
            Preprocessing(channels="bgr", mean=(0.1, 0.4, 0.5), std=(0.2, 0.3, 0.4)),
            Preprocessing(scale=1, mean=(123.0,), std=(58.0,)),
        ],
    )
    def test_pictures_look_as_before_preprocessing(self, tmp_path: Path, shape: str, images: Preprocessing) -> None:
        Image.new("RGB", (4, 4), (200, 100, 50)).save(tmp_path / "p.png")
        assert tile(contact_sheet(open_data(tmp_path / "p.png", taking(shape), images)).image) == (200, 100, 50)

    def test_arrays_from_the_smallest_to_the_largest_value_shown(self) -> None:
        feeds = pictures(-1, 0, 3)
        sheet = contact_sheet(open_data(feeds, taking("1x1x2x2"))).image
        assert [tile(sheet, at)[0] for at in range(3)] == [0, 64, 255]  # (0 + 1) / 4 · 255 = 63.75

    def test_at_most_so_many_and_evenly_spread(self) -> None:
        """Samples 0, 2, 4 … 30: the second tile is 2 of 30, the largest value shown."""
        feeds = pictures(*range(32))
        found = contact_sheet(open_data(feeds, taking("1x1x2x2")))
        assert found.samples == SHOWN
        assert tile(found.image, 1)[0] == round(2 / 30 * 255)

    def test_values_that_are_no_numbers_are_drawn_black(self) -> None:
        feeds = pictures(np.nan, 1, 2)
        assert [tile(contact_sheet(open_data(feeds, taking("1x1x2x2"))).image, at)[0] for at in range(3)] == [0, 0, 255]

    def test_inputs_that_are_no_images(self) -> None:
        built = model([node("ReduceSum", "x", "s"), node("Add", "s b", "y")], {"x": "1x3x2x2", "b": "1x5"})
        feeds: list[Feeds] = [{"x": np.zeros((1, 3, 2, 2), np.float32), "b": np.zeros((1, 5), np.float32)}]
        assert contact_sheet(open_data(feeds, built)).left_out == ("b (1x5)",)

    @pytest.mark.parametrize("shape", ["1x5", "1x2x4x4", "1x3x1x4"])
    def test_no_image_at_all(self, shape: str) -> None:
        feeds: list[Feeds] = [{"x": np.zeros([int(size) for size in shape.split("x")], np.float32)}]
        with pytest.raises(ParamError, match=rf"no input is an image of 1 or 3 channels: x \({shape}\)"):
            contact_sheet(open_data(feeds, taking(shape)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model of images of any size, a folder of two images, and an array."""
    monkeypatch.chdir(tmp_path)
    onnx.save(proto([node("Identity", "x", "y")], {"x": "Nx3xHxW"}), "m.onnx")
    onnx.save(proto([node("Identity", "x", "y")], {"x": "1x2"}), "flat.onnx")
    Path("png").mkdir()
    for name, level in (("a.png", 0), ("b.png", 255)):
        Image.new("RGB", (4, 2), (level,) * 3).save(f"png/{name}")
    np.savez("flat.npz", x=np.array([[1, 2], [3, 4]], np.float32))
    return tmp_path


class TestCommand:
    def test_what_was_read_is_said(self, run: Run, here: Path) -> None:
        assert run("data", "check", "flat.onnx", "--data", "flat.npz") == 0
        assert "2 samples from flat.npz → input 'x' float32 1x2" in run.out
        assert "1 of the 2 samples are learned from and 1 judged on" in run.out

    def test_the_json_document(self, run: Run, here: Path) -> None:
        assert run("data", "check", "flat.onnx", "--data", "flat.npz", "--test", "flat.npz:x", "--json", "-") == 0
        found = json.loads(run.out)
        assert (found["schema"], found["model"], found["test"]["source"]) == (1, "flat.onnx", "flat.npz:x")
        assert found["data"]["inputs"][0]["values"] == {"minimum": 1, "maximum": 4, "mean": 2.5, "std": math.sqrt(1.25)}
        documented = (Path(__file__).parent.parent.parent / "docs" / "json.md").read_text()
        part = documented.split("## `data check --json`")[1].split("\n## ")[0]
        data = found["data"]
        for key in (*found, *data, *data["inputs"][0], *data["inputs"][0]["values"]):
            assert f"`{key}`" in part, key

    def test_options_become_a_file_that_does_the_same(self, run: Run, here: Path) -> None:
        options = "--size 8,6 --resize letterbox --fill 1,2,3 --mean 0.485,0.456,0.406 --std 0.25 --channels bgr"
        assert run("data", "check", "m.onnx", "--data", "png", "--save-preprocess", "p.toml", *options.split()) == 0
        mean = (0.485, 0.456, 0.406)
        made = Preprocessing(size=(8, 6), resize="letterbox", fill=(1, 2, 3), mean=mean, std=(0.25,), channels="bgr")
        assert read_preprocessing(Path("p.toml")) == made
        by_options = run.out.split("without")[0]
        assert run("data", "check", "m.onnx", "--data", "png", "--preprocess", "p.toml") == 0
        assert run.out.split("without")[0] == by_options
        assert "1x3x8x6" in by_options

    def test_a_file_and_options_together(self, run: Run, here: Path) -> None:
        Path("p.toml").write_text("size = [2, 2]")
        for option in (("--size", "3,3"), ("--resize", "crop")):  # the second is the default
            line = run.fails(2, "data", "check", "m.onnx", "--data", "png", "--preprocess", "p.toml", *option)
            assert "give --preprocess, or options for images" in line

    def test_a_sheet(self, run: Run, here: Path) -> None:
        assert run("data", "check", "m.onnx", "--data", "png", "--sheet", "s.png") == 0
        assert "wrote s.png" in run.out
        with Image.open("s.png") as sheet:
            assert sheet.format == "PNG"
            assert [tile(sheet, at)[0] for at in range(2)] == [0, 255]

    @pytest.mark.parametrize(
        ("options", "code", "line"),
        [
            ("m.onnx --data png --sheet png/a.png", 2, "png/a.png is named twice"),
            ("m.onnx --data png --sheet png/new.png", 2, "png is a folder of samples"),
            ("m.onnx --data png --sheet m.onnx", 2, "m.onnx is named twice"),
            ("m.onnx --data png --sheet o --json o", 2, "o is named twice"),
            ("m.onnx --data png --sheet none/s.png", 2, "none does not exist"),
            ("m.onnx --data nowhere", 1, "--data nowhere: No such file or directory"),
            ("m.onnx --data png --test nowhere", 1, "--test nowhere: No such file or directory"),
            ("m.onnx --data png --size 3", 2, "--size takes height and width, as 320,320"),
            ("m.onnx --data png --mean 1,a", 2, "--mean: Input should be a valid number"),
            ("m.onnx --data png --fill 1,2", 2, "--fill: Input should be"),
            ("m.onnx --data png --fill 256", 2, "--fill: Input should be"),
            ("flat.onnx --data flat.npz --mean 0.5", 2, "arrays are fed as they are"),
            ("flat.onnx --data flat.npz --sheet s.png --json j.json", 2, "no input is an image"),
            ("flat.onnx --data flat.npz:y", 1, "no array 'y'; it has x"),
            ("flat.onnx", 2, "--data requires an argument"),
        ],
    )
    def test_what_cannot_work_is_one_line_and_nothing_is_written(
        self, run: Run, here: Path, options: str, code: int, line: str
    ) -> None:
        before = files(here), files(here / "png")
        assert line in run.fails(code, "data", "check", *options.split())
        assert (files(here), files(here / "png")) == before
