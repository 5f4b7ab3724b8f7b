"""Calibration data: arrays and images as a model's input, with pixels worked out by hand; one line for what does not fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxsparse import ModelError, ParamError
from onnxsparse.calibration.data import open_data
from onnxsparse.calibration.preprocessing import Preprocessing, Resize
from onnxsparse.ir.model import Model
from onnxsparse.runtime.session import Feeds
from tests.graphs import FLOAT, FLOAT16, UINT8, Array, model, node

PLAIN = Preprocessing()


def taking(shape: str, dtype: int = FLOAT) -> Model:
    """A model with one input `x` of this shape."""
    return model([node("Identity", "x", "y")], {"x": (shape, dtype)})


def two_inputs() -> Model:
    return model([node("Add", "a b", "y")], {"a": "1x2", "b": "1x2"})


def read(source: Path, built: Model, images: Preprocessing = PLAIN) -> list[Feeds]:
    return list(open_data(source, built, images))


def arrays(source: Path, built: Model) -> list[list[float]]:
    return [feed["x"].ravel().tolist() for feed in read(source, built)]


def refused(source: Path, built: Model, images: Preprocessing = PLAIN) -> str:
    """The one line that says why."""
    with pytest.raises((ModelError, ParamError)) as caught:
        read(source, built, images)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(str(source), "SOURCE")


def floats(*rows: list[float]) -> Array:
    return np.array(rows, np.float32)


class TestArrays:
    @pytest.mark.parametrize("shape", ["1x2", "Nx2"])
    def test_an_npz_is_as_many_samples_as_its_first_axis_holds(self, tmp_path: Path, shape: str) -> None:
        np.savez(tmp_path / "d.npz", x=floats([1, 2], [3, 4], [5, 6]))
        assert arrays(tmp_path / "d.npz", taking(shape)) == [[1, 2], [3, 4], [5, 6]]
        assert read(tmp_path / "d.npz", taking(shape))[0]["x"].shape == (1, 2)

    def test_batches_of_the_models_size(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
        assert arrays(tmp_path / "d.npy", taking("2x2")) == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert "input 'x' of the model takes 3x2, the array is 4x2" in refused(tmp_path / "d.npy", taking("3x2"))

    def test_a_folder_is_read_by_name_and_other_files_are_not(self, tmp_path: Path) -> None:
        np.save(tmp_path / "b.npy", floats([3, 4]))
        np.savez(tmp_path / "a.npz", any_name=floats([1, 2]))
        np.save(tmp_path / "c.NPY.npy", floats([5, 6]))
        (tmp_path / "labels.txt").write_text("cat")
        (tmp_path / "folder.npy").mkdir()
        assert arrays(tmp_path, taking("1x2")) == [[1, 2], [3, 4], [5, 6]]

    def test_several_inputs_go_by_name(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", b=floats([3, 4], [7, 8]), a=floats([1, 2], [5, 6]))
        found = read(tmp_path / "d.npz", two_inputs())
        assert [(f["a"].tolist(), f["b"].tolist()) for f in found] == [([[1, 2]], [[3, 4]]), ([[5, 6]], [[7, 8]])]

    def test_doubles_become_floats(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.array([[0.1, 0.2]]))
        assert read(tmp_path / "d.npy", taking("1x2"))[0]["x"].dtype == np.float32

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            ({"x": np.zeros((1, 3), np.float32)}, "input 'x' of the model takes 1x2, the array is 1x3"),
            ({"x": np.zeros((0, 2), np.float32)}, "input 'x' of the model takes 1x2, the array is 0x2"),
            ({"x": np.zeros((1, 2), np.uint8)}, "input 'x' of the model takes float32, the array has uint8"),
            ({"p": np.zeros(1), "q": np.zeros(1)}, "no array for input 'x' of the model; it has p, q"),
            ({}, "no array for input 'x' of the model; it has none"),
        ],
    )
    def test_what_does_not_fit_is_said(self, tmp_path: Path, content: dict[str, Array], line: str) -> None:
        np.savez(tmp_path / "d.npz", allow_pickle=False, **content)
        assert refused(tmp_path / "d.npz", taking("1x2")) == f"--data SOURCE: {line}"

    def test_no_samples_for_an_open_batch(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.zeros((0, 2), np.float32))
        assert "the array is 0x2" in refused(tmp_path / "d.npy", taking("Nx2"))

    def test_inputs_of_different_numbers_of_samples(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", a=floats([1, 2], [3, 4]), b=floats([1, 2]))
        assert refused(tmp_path / "d.npz", two_inputs()) == "--data SOURCE: different numbers of samples (a: 2, b: 1)"

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "d.npz").write_bytes(b"no zip")
        assert refused(tmp_path / "d.npz", taking("1x2")) == "--data SOURCE: it is no npy or npz file"
        assert refused(tmp_path / "nowhere", taking("1x2")) == "--data SOURCE: No such file or directory"


class TestFolders:
    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert refused(tmp_path, taking("1x2")) == "--data SOURCE: the folder holds no .npy, .npz or image files"

    def test_arrays_and_images_together(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", floats([1, 2]))
        Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
        assert refused(tmp_path, taking("1x2")) == "--data SOURCE: the folder holds both arrays and images; separate them"


class TestFeeds:
    """What a caller of the library gives."""

    def given(self, array: Array, built: Model, name: str = "x") -> list[Feeds]:
        return list(open_data([{name: array}], built, PLAIN))

    def test_a_batch_where_the_model_takes_any(self) -> None:
        assert self.given(np.zeros((5, 2), np.float32), taking("Nx2"))[0]["x"].shape == (5, 2)

    def test_a_batch_of_none(self) -> None:
        with pytest.raises(ModelError, match="takes 1x2, the array is 0x2"):
            self.given(np.zeros((0, 2), np.float32), taking("Nx2"))

    def test_extra_names_are_left_out(self) -> None:
        feeds: Feeds = {"x": floats([1, 2]), "label": np.array(3)}
        assert [list(f) for f in open_data([feeds], taking("1x2"), PLAIN)] == [["x"]]

    @pytest.mark.parametrize(
        ("array", "name", "line"),
        [
            (floats([1, 2, 3]), "x", "input 'x' of the model takes 1x2, the array is 1x3"),
            (floats([1, 2], [3, 4]), "x", "input 'x' of the model takes 1x2, the array is 2x2"),
            (np.zeros((0, 2), np.float32), "x", "input 'x' of the model takes 1x2, the array is 0x2"),
            (np.zeros((1, 2)), "x", "input 'x' of the model takes float32, the array has float64"),
            (floats([1, 2]), "image", "no array for input 'x' of the model; it has image"),
        ],
    )
    def test_what_does_not_fit_is_said_with_its_number(self, array: Array, name: str, line: str) -> None:
        with pytest.raises(ModelError) as caught:
            self.given(array, taking("1x2"), name)
        assert str(caught.value) == f"sample 0: {line}"


# 2 high, 3 wide; each pixel's red, green and blue
PIXELS = np.array([[[0, 51, 102], [255, 0, 0], [10, 20, 30]], [[1, 2, 3], [0, 255, 0], [204, 153, 51]]], np.uint8)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def pixels(source: Path, built: Model, images: Preprocessing = PLAIN) -> Array:
    (feed,) = read(source, built, images)
    found: Array = feed["x"]
    assert found.flags.c_contiguous
    return found


class TestImages:
    def test_pixels_become_shares_of_255_channels_first(self, picture: Path) -> None:
        found = pixels(picture, taking("1x3x2x3"))
        assert found.shape == (1, 3, 2, 3)
        assert found.dtype == np.float32
        assert found[0, :, 0, 0].tolist() == pytest.approx([0, 0.2, 0.4])
        assert found[0, :, 1, 2].tolist() == pytest.approx([0.8, 0.6, 0.2])

    def test_channels_last_where_the_input_has_them_there(self, picture: Path) -> None:
        assert pixels(picture, taking("1x2x3x3"), Preprocessing(layout="nhwc"))[0, 1, 2].tolist() == pytest.approx(
            [0.8, 0.6, 0.2]
        )
        found = pixels(picture, taking("Nx2x3x1"))  # one channel, so that it must be last: 0.299 R + 0.587 G + 0.114 B
        assert found.shape == (1, 2, 3, 1)
        assert found[0, 1, 2, 0] * 255 == pytest.approx(0.299 * 204 + 0.587 * 153 + 0.114 * 51, abs=1)

    def test_mean_and_std_by_hand(self, picture: Path) -> None:
        found = pixels(picture, taking("1x3x2x3"), Preprocessing(mean=(0.5, 0.25, 0.1), std=(0.5, 0.25, 0.2)))
        assert found[0, :, 0, 0].tolist() == pytest.approx(
            [-1, -0.2, 1.5]
        )  # (0 − 0.5) / 0.5, (0.2 − 0.25) / 0.25, (0.4 − 0.1) / 0.2
        assert found[0, :, 0, 1].tolist() == pytest.approx([1, -1, -0.5])
        one = pixels(picture, taking("1x3x2x3"), Preprocessing(mean=(0.5,), std=(0.25,)))
        assert one[0, :, 0, 0].tolist() == pytest.approx([-2, -1.2, -0.4])

    def test_blue_first(self, picture: Path) -> None:
        """The means are the input's first, second and third channel's: blue's comes first then."""
        found = pixels(picture, taking("1x3x2x3"), Preprocessing(channels="bgr", mean=(0.4, 0, 0)))
        assert found[0, :, 0, 0].tolist() == pytest.approx([0, 0.2, 0], abs=1e-7)

    def test_bytes_stay_bytes_and_halves_are_halves(self, picture: Path) -> None:
        assert np.array_equal(pixels(picture, taking("1x3x2x3", UINT8))[0], PIXELS.transpose(2, 0, 1))
        assert pixels(picture, taking("1x3x2x3", FLOAT16)).dtype == np.float16

    def test_any_size_where_the_model_takes_any(self, picture: Path) -> None:
        assert pixels(picture, taking("Nx3xHxW")).shape == (1, 3, 2, 3)

    @pytest.mark.parametrize(
        ("resize", "size", "rows"),
        [
            ("crop", 2, [[10, 30]] * 2),
            # halved, over a triangle of two old pixels either way: (0·3 + 10·3 + 30·1) / 7 and (10·1 + 30·3 + 40·3) / 7
            ("stretch", 2, [[9, 31]] * 2),
            ("letterbox", 4, [[0] * 4, [0, 10, 30, 40], [0, 10, 30, 40], [0] * 4]),
        ],
    )
    def test_how_other_sizes_fit(self, tmp_path: Path, resize: Resize, size: int, rows: list[list[int]]) -> None:
        """Columns of 0, 10, 30 and 40 in an image of 4 × 2, for a square model."""
        Image.fromarray(np.tile(np.array([0, 10, 30, 40], np.uint8), (2, 1))).save(tmp_path / "w.png")
        found = pixels(tmp_path / "w.png", taking(f"1x1x{size}x{size}", UINT8), Preprocessing(resize=resize))
        assert found[0, 0].tolist() == rows

    def test_a_folder_one_image_a_sample(self, tmp_path: Path) -> None:
        for name, level in (("b.PNG", 51), ("a.jpg", 255)):
            Image.new("RGB", (4, 4), (level,) * 3).save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("none")
        found = read(tmp_path, taking("1x3x4x4"))
        assert [feed["x"].mean() for feed in found] == pytest.approx([1, 0.2])

    def test_images_that_are_left_out_are_not_read(self, tmp_path: Path) -> None:
        for at in range(5):
            Image.new("L", (2, 2), at).save(tmp_path / f"{at}.png")
        for at in (1, 3):
            (tmp_path / f"{at}.png").write_text("no image")
        found = open_data(tmp_path, taking("1x1x2x2", UINT8), PLAIN).every(2)
        assert [feed["x"].max() for feed in found] == [0, 2, 4]

    def test_other_kinds_of_pixels(self, tmp_path: Path) -> None:
        Image.new("L", (3, 2), 102).save(tmp_path / "p.png")
        assert pixels(tmp_path / "p.png", taking("1x3x2x3")).ravel().tolist() == pytest.approx([0.4] * 18)
        Image.new("RGBA", (3, 2), (51, 102, 255, 0)).save(tmp_path / "p.png")
        assert pixels(tmp_path / "p.png", taking("1x3x2x3"))[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.4, 1])

    def test_an_unreadable_image(self, tmp_path: Path, picture: Path) -> None:
        (tmp_path / "q.png").write_bytes(picture.read_bytes()[:60])
        (tmp_path / "r.png").write_text("no image")
        for name in ("q.png", "r.png"):
            assert refused(tmp_path / name, taking("1x3x2x3")).startswith("--data SOURCE: it cannot be read as an image (")

    @pytest.mark.parametrize(
        ("built", "images", "line"),
        [
            (two_inputs(), PLAIN, "--data: images are for models with one input; the model has 2: give arrays (npz)"),
            (taking("1x5x2x3"), Preprocessing(mean=(0, 0)), "--mean and --std take one number, or one for each of 3 channels"),
            (
                taking("1x8x2x2"),
                PLAIN,
                "--data: input 'x' of the model is 1x8x2x2, not an image of 1 or 3 channels; give --layout",
            ),
            (taking("1x12"), PLAIN, "--data: input 'x' of the model is 1x12, not an image of 1 or 3 channels"),
            (
                taking("1x12"),
                Preprocessing(layout="nchw"),
                "--data: input 'x' of the model is 1x12, not an image of 1 or 3 channels",
            ),
            (
                taking("1x4x2x3"),
                Preprocessing(layout="nchw"),
                "--data: input 'x' of the model is 1x4x2x3, not an image of 1 or 3",
            ),
            (taking("2x3x2x3"), PLAIN, "--data: input 'x' of the model is 2x3x2x3, which is 2 images at once; give arrays (npz)"),
        ],
    )
    def test_models_that_take_no_images(self, picture: Path, built: Model, images: Preprocessing, line: str) -> None:
        assert line in refused(picture, built, images)

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            ({"std": (0.0,)}, "--std must be larger than 0"),
            ({"mean": (123.675, 116.28, 103.53)}, "--mean and --std are for pixels from 0 to 1; divide those"),
        ],
    )
    def test_numbers_that_make_no_sense(self, options: dict[str, tuple[float, ...]], line: str) -> None:
        with pytest.raises(ParamError, match=line):
            Preprocessing(**options)  # type: ignore[arg-type]  # options come from the test's table
