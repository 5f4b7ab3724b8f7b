"""Arrays in files: which array an input takes, how many samples it holds, and what is said of files that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from onnxsparse import Model, ModelError
from onnxsparse.calibration.arrays import read_arrays
from onnxsparse.calibration.data import check_data, data_files, open_data
from onnxsparse.ir.option_roles import split_key
from tests.graphs import FLOAT, INT32, Array, model, node


def taking(shape: str, dtype: int = FLOAT) -> Model:
    return model([node("Identity", "x", "y")], {"x": (shape, dtype)})


def two_inputs() -> Model:
    return model([node("Add", "a b", "y")], {"a": "1x2", "b": "1x2"})


def floats(*rows: list[float]) -> Array:
    return np.array(rows, np.float32)


def read(source: Path, built: Model) -> list[list[float]]:
    return [feeds["x"].ravel().tolist() for feeds in open_data(source, built)]


def refused(source: Path, built: Model) -> str:
    """The one line that says why, without the folder."""
    with pytest.raises(ModelError) as caught:
        list(open_data(source, built))
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{source.parent}/", "")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """`p` and `q` fit an input of 1x2; `wide` and `whole` do not."""
    whole, wide = np.zeros((2, 2), np.int64), floats([1, 2, 3], [4, 5, 6])
    np.savez(tmp_path / "d.npz", p=floats([1, 2], [3, 4]), q=floats([5, 6]), wide=wide, whole=whole)
    return tmp_path / "d.npz"


class TestKeys:
    @pytest.mark.parametrize(("key", "samples"), [("p", [[1, 2], [3, 4]]), ("q", [[5, 6]])])
    def test_a_key_names_the_array(self, several: Path, key: str, samples: list[list[float]]) -> None:
        assert read(Path(f"{several}:{key}"), taking("1x2")) == samples

    def test_a_key_that_is_missing(self, several: Path) -> None:
        line = "--data d.npz: no array 'r'; it has p, q, wide, whole"
        assert refused(Path(f"{several}:r"), taking("1x2")) == line
        with pytest.raises(ModelError, match="no array 'r'; it has p, q, wide, whole"):
            check_data(Path(f"{several}:r"), "--data")

    def test_an_array_that_does_not_fit(self, several: Path) -> None:
        assert "takes 1x2, the array is 2x3" in refused(Path(f"{several}:wide"), taking("1x2"))
        assert "takes float32, the array has int64" in refused(Path(f"{several}:whole"), taking("1x2"))

    def test_a_key_for_a_model_with_two_inputs(self, several: Path) -> None:
        assert "':p' names one array, but the model takes a, b; leave it out" in refused(Path(f"{several}:p"), two_inputs())

    @pytest.mark.parametrize("name", ["input:0", "block/input", "b.npz:x"])
    def test_names_with_colons_and_slashes(self, tmp_path: Path, name: str) -> None:
        np.savez(tmp_path / "d.npz", **{name: floats([1, 2])}, allow_pickle=False)
        source = Path(f"{tmp_path / 'd.npz'}:{name}")
        assert split_key(source) == (tmp_path / "d.npz", name)
        assert read(source, taking("1x2")) == [[1, 2]]
        assert data_files(source) == [tmp_path / "d.npz"]

    def test_a_file_whose_name_has_a_colon(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x=floats([1, 2]))
        (tmp_path / "d.npz").rename(tmp_path / "d.npz:x")
        assert split_key(tmp_path / "d.npz:x") == (tmp_path / "d.npz:x", None)
        assert split_key(tmp_path / "d.npz:") == (tmp_path / "d.npz:", None)


class TestWithoutKey:
    def test_the_only_array_that_fits(self, several: Path) -> None:
        assert read(several, taking("1x3")) == [[1, 2, 3], [4, 5, 6]]

    def test_several_that_fit(self, several: Path) -> None:
        line = "--data d.npz: p and q fit input 'x' of the model; name one after a colon, as in :p"
        assert refused(several, taking("1x2")) == line

    def test_the_inputs_name_goes_before_the_shape(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x=floats([1, 2]), y=floats([3, 4]))
        assert read(tmp_path / "d.npz", taking("1x2")) == [[1, 2]]
        np.savez(tmp_path / "e.npz", x=floats([1]), y=floats([3, 4]))
        assert "takes 1x2, the array is 1x1" in refused(tmp_path / "e.npz", taking("1x2"))


class TestShapes:
    @pytest.mark.parametrize(
        ("stored", "wanted", "count"),
        [
            ((2, 3), "1x2x3", 1),  # without a batch axis
            ((1, 2, 3), "1x2x3", 1),
            ((4, 2, 3), "1x2x3", 4),
            ((4, 1, 2, 3), "1x2x3", 4),
            ((4, 2, 3), "2x2x3", 2),
            ((4, 2, 3), "Nx2x3", 4),
            ((5,), "1", 5),
            ((), "1", 1),
            ((5,), "", 5),
        ],
    )
    def test_how_many_samples(self, tmp_path: Path, stored: tuple[int, ...], wanted: str, count: int) -> None:
        values = np.arange(int(np.prod(stored)), dtype=np.float32).reshape(stored)
        np.save(tmp_path / "d.npy", values)
        found = [feeds["x"] for feeds in open_data(tmp_path / "d.npy", taking(wanted))]
        assert len(found) == count
        assert {array.shape for array in found} == {tuple(int(s.replace("N", "1")) for s in wanted.split("x") if s)}
        assert np.concatenate([array.ravel() for array in found]).tolist() == values.ravel().tolist()

    @pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
    def test_fortran_order(self, tmp_path: Path, save: "np.ufunc") -> None:
        file = tmp_path / ("d.npy" if save is np.save else "d.npz")
        save(file, np.asfortranarray(np.arange(12, dtype=np.float32).reshape(2, 2, 3)))
        found = [feeds["x"] for feeds in open_data(file, taking("1x2x3"))]
        assert [array.ravel().tolist() for array in found] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
        assert all(array.flags.c_contiguous for array in found)

    def test_integers_that_the_input_cannot_hold(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.array([[1, 2], [3, 2**31]]))
        found = open_data(tmp_path / "d.npy", taking("1x2", INT32))
        assert found.feeds[0]["x"].dtype == np.int32
        with pytest.raises(ModelError, match="takes int32, which cannot hold the array's values"):
            found.feeds[1]


class TestFiles:
    def test_headers_alone_are_read_until_a_sample_is(self, tmp_path: Path) -> None:
        np.save(tmp_path / "d.npy", np.zeros((3, 1000), np.float32))
        whole = (tmp_path / "d.npy").read_bytes()
        (tmp_path / "d.npy").write_bytes(whole[:200])
        found = open_data(tmp_path / "d.npy", taking("1x1000"))
        assert len(found) == 3
        assert refused(tmp_path / "d.npy", taking("1x1000")).startswith("--data d.npy: the file is damaged")

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_an_npz_with_damaged_content(self, tmp_path: Path, save: "np.ufunc") -> None:
        save(tmp_path / "d.npz", x=np.random.default_rng(0).random((4, 500), np.float32))
        damaged = bytearray((tmp_path / "d.npz").read_bytes())
        damaged[2000:2400] = b"\xff" * 400
        (tmp_path / "d.npz").write_bytes(damaged)
        assert len(open_data(tmp_path / "d.npz", taking("1x500"))) == 4
        assert refused(tmp_path / "d.npz", taking("1x500")).startswith("--data d.npz: the file is damaged")

    def test_a_truncated_npz(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x=floats([1, 2]))
        (tmp_path / "d.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:-10])
        assert refused(tmp_path / "d.npz", taking("1x2")) == "--data d.npz: it is no npy or npz file"

    def test_arrays_of_an_npz_are_mapped_unless_they_are_compressed(self, tmp_path: Path) -> None:
        x, y, z = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 3), np.int64), np.array(7.0)
        np.savez(tmp_path / "d.npz", x=x, y=y, z=z)
        np.savez_compressed(tmp_path / "c.npz", x=x, y=y, z=z)
        mapped, held = (read_arrays(tmp_path / name, {"x", "y", "z"}) for name in ("d.npz", "c.npz"))
        for found in (mapped, held):
            assert all(
                found[name].dtype == value.dtype and np.array_equal(found[name], value)
                for name, value in (("x", x), ("y", y), ("z", z))
            )
        assert {name for name, array in mapped.items() if isinstance(array, np.memmap)} == {"x", "z"}
        assert not any(isinstance(array, np.memmap) for array in held.values())

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_any_damage_is_one_line(self, tmp_path: Path, save: "np.ufunc") -> None:
        save(tmp_path / "d.npz", x=np.arange(64, dtype=np.float32).reshape(2, 32))
        whole = (tmp_path / "d.npz").read_bytes()
        random = np.random.default_rng(0)
        for _ in range(300):
            damaged = bytearray(whole)
            for at in random.integers(len(whole), size=3):
                damaged[at] = random.integers(256)
            (tmp_path / "d.npz").write_bytes(damaged)
            try:
                list(open_data(tmp_path / "d.npz", taking("1x32")))
            except ModelError as error:
                assert "\n" not in str(error)

    def test_one_file_after_the_other(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", floats([1, 2], [3, 4]))
        np.savez(tmp_path / "b.npz", x=floats([5, 6]))
        found = open_data(tmp_path, taking("1x2"))
        assert found.names == ("a.npy[0]", "a.npy[1]", "b.npz")
        assert [found.feeds[at]["x"].ravel().tolist() for at in (2, 0, 1)] == [[5, 6], [1, 2], [3, 4]]
