"""Preprocessing: pixels worked out by hand, and files in which something is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxsparse import Model, ModelError, ParamError
from onnxsparse.calibration.data import open_data
from onnxsparse.calibration.preprocessing import KEYS, Preprocessing, preprocessing_toml, read_preprocessing
from tests.graphs import FLOAT, INT8, INT32, UINT8, Array, model, node


def taking(shape: str, dtype: int = FLOAT) -> Model:
    return model([node("Identity", "x", "y")], {"x": (shape, dtype)})


def pixels(source: Path, built: Model, images: Preprocessing) -> Array:
    (feeds,) = open_data(source, built, images)
    found: Array = feeds["x"]
    return found


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Red, 4 wide and 2 high."""
    Image.new("RGB", (4, 2), (200, 0, 0)).save(tmp_path / "w.png")
    return tmp_path / "w.png"


class TestFitting:
    def test_a_crop_keeps_a_fraction_of_the_shorter_side(self, tmp_path: Path) -> None:
        """Half of 4 × 8: rows 1 and 2, columns 3 and 4."""
        values = np.arange(32, dtype=np.uint8).reshape(4, 8)
        Image.fromarray(values).save(tmp_path / "p.png")
        found = pixels(tmp_path / "p.png", taking("1x1x2x2", UINT8), Preprocessing(crop_fraction=0.5))
        assert found[0, 0].tolist() == [[11, 12], [19, 20]]

    def test_a_crop_of_an_image_that_has_the_size_already(self, tmp_path: Path) -> None:
        """As if it were doubled and cropped: an edge is 3/4 · 50 + 1/4 · 9 = 40, a corner 3/4 · 40 + 1/4 · 9 = 32."""
        values = np.full((4, 4), 9, np.uint8)
        values[1:3, 1:3] = 50
        Image.fromarray(values).save(tmp_path / "p.png")
        found = pixels(tmp_path / "p.png", taking("1x1x4x4", UINT8), Preprocessing(crop_fraction=0.5))
        assert found[0, 0].tolist() == [[32, 40, 40, 32], [40, 50, 50, 40], [40, 50, 50, 40], [32, 40, 40, 32]]

    def test_a_small_fraction_of_a_small_image(self, wide: Path) -> None:
        assert (pixels(wide, taking("1x3x2x2", UINT8), Preprocessing(crop_fraction=0.01))[0, 0] == 200).all()

    @pytest.mark.parametrize(("anchor", "rows"), [("center", [7, 200, 200, 7]), ("top-left", [200, 200, 7, 7])])
    def test_a_letterbox_and_its_anchor(self, wide: Path, anchor: str, rows: list[int]) -> None:
        images = Preprocessing(resize="letterbox", fill=7, anchor=anchor)  # type: ignore[arg-type]  # from the test's table
        found = pixels(wide, taking("1x3x4x4", UINT8), images)
        assert found[0, 0].tolist() == [[level] * 4 for level in rows]

    def test_a_fill_of_three_numbers(self, wide: Path) -> None:
        """Red, green and blue, whatever the order of the channels; their mean where there is one channel."""
        images = Preprocessing(resize="letterbox", fill=(10, 20, 60))
        assert pixels(wide, taking("1x3x4x4", UINT8), images)[0, :, 0, 0].tolist() == [10, 20, 60]
        assert pixels(wide, taking("1x1x4x4", UINT8), images)[0, :, 0, 0].tolist() == [30]
        blue_first = Preprocessing(resize="letterbox", fill=(10, 20, 60), channels="bgr")
        assert pixels(wide, taking("1x3x4x4", UINT8), blue_first)[0, :, 0, 0].tolist() == [60, 20, 10]

    def test_a_size_for_a_model_that_takes_any(self, wide: Path) -> None:
        assert pixels(wide, taking("1x3xHxW"), Preprocessing(size=(3, 5))).shape == (1, 3, 3, 5)
        assert pixels(wide, taking("1xHxWx3"), Preprocessing(size=(3, 5), layout="nhwc")).shape == (1, 3, 5, 3)

    def test_a_size_that_contradicts_the_model(self, wide: Path) -> None:
        with pytest.raises(ParamError, match="input 'x' of the model is 1x3x3x4, but the preprocessing's size is 3x5"):
            pixels(wide, taking("1x3x3x4"), Preprocessing(size=(3, 5)))

    def test_an_image_that_does_not_fit_where_one_size_is_open(self, wide: Path) -> None:
        assert pixels(wide, taking("1x3x2xW"), Preprocessing()).shape == (1, 3, 2, 4)
        with pytest.raises(ModelError, match=r"the image becomes 1x3x2x4, the input takes 1x3x8x\?; give both sizes"):
            pixels(wide, taking("1x3x8xW"), Preprocessing())


class TestValues:
    def test_a_mean_of_0_to_255(self, wide: Path) -> None:
        """(200 − 123.5) / 58 and (0 − 116) / 58."""
        images = Preprocessing(scale=1, mean=(123.5, 116, 103), std=(58,))
        found = pixels(wide, taking("1x3x2x4"), images)[0, :, 0, 0]
        assert found.tolist() == pytest.approx([76.5 / 58, -2, -103 / 58])

    def test_another_scale(self, wide: Path) -> None:
        """From −1 to 1: 200 / 127.5 − 1."""
        found = pixels(wide, taking("1x3x2x4"), Preprocessing(scale=1 / 127.5, mean=(1,)))[0, :, 0, 0]
        assert found.tolist() == pytest.approx([200 / 127.5 - 1, -1, -1])

    def test_integers_get_the_pixels(self, wide: Path) -> None:
        assert pixels(wide, taking("1x3x2x4", INT32), Preprocessing(mean=(0.5,)))[0, :, 0, 0].tolist() == [200, 0, 0]

    def test_types_that_pixels_do_not_fit(self, wide: Path) -> None:
        with pytest.raises(ModelError, match="of int8, which pixels are not converted to; give arrays"):
            pixels(wide, taking("1x3x2x4", INT8), Preprocessing())

    def test_pixels_of_16_bits(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((2, 2), 3000, np.uint16)).save(tmp_path / "deep.png")
        with pytest.raises(ModelError, match=r"deep\.png: it has more than 8 bits per pixel"):
            pixels(tmp_path / "deep.png", taking("1x1x2x2"), Preprocessing())


EVERYTHING = Preprocessing(
    size=(320, 640),
    resize="letterbox",
    crop_fraction=0.875,
    fill=(1, 2, 3),
    anchor="top-left",
    mean=(0.485, 0.456, 0.406),
    std=(0.1,),
    scale=1 / 127.5,
    layout="nhwc",
    channels="bgr",
)


class TestFiles:
    @pytest.mark.parametrize("images", [Preprocessing(), Preprocessing(fill=114, resize="stretch"), EVERYTHING])
    def test_a_round_trip(self, tmp_path: Path, images: Preprocessing) -> None:
        (tmp_path / "p.toml").write_text(preprocessing_toml(images))
        assert read_preprocessing(tmp_path / "p.toml") == images

    def test_the_round_trip_has_every_key(self) -> None:
        assert [key for key in KEYS if f"\n{key} = " not in preprocessing_toml(EVERYTHING)] == []

    def test_the_former_name_of_letterbox(self, tmp_path: Path) -> None:
        (tmp_path / "p.toml").write_text('resize = "pad"')
        assert read_preprocessing(tmp_path / "p.toml").resize == "letterbox"

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            ("sizes = 3", f"there is no key 'sizes'; the keys are {', '.join(KEYS)}"),
            ('resize = "fit"', "resize: Input should be 'crop', 'stretch' or 'letterbox' (got 'fit')"),
            ("size = 320", "size: Input should be a valid tuple (got 320)"),
            ("size = [320]", "--size takes height and width, as 320,320"),
            ("size = [0, 320]", "size: Input should be greater than or equal to 1 (got 0)"),
            ('mean = ["dark"]', "mean: Input should be a valid number, unable to parse string as a number (got 'dark')"),
            ("mean = [nan]", "mean: Input should be a finite number (got nan)"),
            ("fill = 256", "fill: Input should be less than or equal to 255 (got 256)"),
            ("crop_fraction = 1.5", "crop_fraction: Input should be less than or equal to 1 (got 1.5)"),
            ("std = [0]", "--std must be larger than 0"),
            ("mean = [123.0]", "--mean and --std are for pixels from 0 to 1; divide those for 0 to 255 by 255, or set scale = 1"),
            ("size: 3", "it is not TOML: "),
        ],
    )
    def test_what_is_wrong_is_one_line(self, tmp_path: Path, content: str, line: str) -> None:
        (tmp_path / "p.toml").write_text(content)
        with pytest.raises(ParamError) as caught:
            read_preprocessing(tmp_path / "p.toml")
        assert str(caught.value).startswith(f"--preprocess {tmp_path / 'p.toml'}: {line}")
        assert "\n" not in str(caught.value)

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "p.toml").write_bytes(b"\xff\xfe\x00")
        for name, reason in (("none.toml", "No such file or directory"), ("p.toml", "it is not text"), (".", "Is a directory")):
            with pytest.raises(ParamError) as caught:
                read_preprocessing(tmp_path / name)
            assert str(caught.value) == f"--preprocess {tmp_path / name}: {reason}"
