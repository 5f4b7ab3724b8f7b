"""Labels: which sample has which, and one clear line for a file without them."""

from pathlib import Path

import numpy as np
import pytest

from onnxsparse import ParamError
from onnxsparse.calibration.data import open_data
from onnxsparse.runtime.labels import read_labels
from onnxsparse.runtime.metric import TestData, load_metric
from onnxsparse.runtime.samples import Samples
from tests.graphs import model, node

SCORES = model([node("Identity", "x", "y")], {"x": "1x3"})
"""A score for each of three classes."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(count: int) -> Samples:
    return Samples([{"x": np.zeros((1, 3), np.float32)}] * count)


def labelled(text: str, file: str = "labels.txt") -> Path:
    Path(file).write_text(text)
    return Path(file)


def test_rows_of_picked_samples_have_their_own_labels() -> None:
    uneven = Samples([{"x": np.zeros((count, 3), np.float32)} for count in (1, 3, 2)])
    data = TestData(uneven.pick([2, 0]), labelled("10\n20\n21\n22\n30\n31\n"))
    assert data.labels is not None
    assert data.labels.tolist() == [30, 31, 10]


@pytest.mark.parametrize("name", ["l.npz", "l.npz:y", "l.npy"])
def test_labels_come_from_arrays(name: str) -> None:
    np.savez("l.npz", x=np.zeros((3, 4), np.float32), y=np.array([2, 0, 1]), weights=np.zeros(3))
    np.save("l.npy", np.array([2, 0, 1]))
    assert read_labels(Path(name)).of(rows(3)).tolist() == [2, 0, 1]


def test_the_only_array_needs_no_name() -> None:
    np.savez("masks.npz", masks=np.ones((2, 4, 4), bool))
    assert read_labels(Path("masks.npz")).of(rows(2)).shape == (2, 4, 4)


@pytest.mark.parametrize(
    "text",
    [
        "a.npy,4\nb.npy,5\nc.npy,6\n",
        "c 6\na 4\n\nb 5\n",  # stems, another order, an empty line
        'file,label\n"val/b.npy",5\nval/c.npy, 6\nval/a.npy,4\nunused.npy,9\n',
    ],
)
def test_labels_are_found_by_name(text: str) -> None:
    Path("d").mkdir()
    for name in "abc":
        np.save(f"d/{name}.npy", np.zeros((1, 3), np.float32))
    samples = open_data(Path("d"), SCORES)
    assert read_labels(labelled(text, "l.csv")).of(samples).tolist() == [4, 5, 6]
    assert read_labels(labelled(text, "l.csv")).of(samples.pick([2])).tolist() == [6]


def test_the_stem_of_a_file_with_several_samples_names_none_of_them() -> None:
    np.save("d.npy", np.zeros((2, 1, 3), np.float32))
    samples = open_data(Path("d.npy"), SCORES)
    assert read_labels(labelled("d.npy[1] 7\nd.npy[0] 5\n")).of(samples).tolist() == [5, 7]
    with pytest.raises(ParamError, match=r"--labels labels\.txt: no label for sample 'd\.npy\[0\]' \(names .* like 'd'\)"):
        read_labels(labelled("d 7\n")).of(samples)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("no.txt", "No such file or directory"),
        ("two.npz", "several arrays of integers with one axis; name one after a colon, of a, b"),
        ("none.npz", "no array of integers with one axis; name one after a colon, of c, d"),
        ("two.npz:c", "no array 'c'; it has a, b"),
        ("no.npz:c", "No such file or directory"),
        ("float.npy", "top1 takes one integer for each sample; the array is float64 2×3"),
        ("scalar.npy", "labels have one entry for each sample; the array is a single number"),
        ("text.npy", "it is no npy or npz file, or has arrays of objects"),
        ("text.npz:a", "it is no npz file"),
        (
            "coco.json",
            "labels are read from npy, npz (F.npz:key), txt or csv; other files are for metrics that read data.labels_file",
        ),
        ("word.txt", "line 2: 'one' is no integer, and no name with an integer"),
        ("huge.txt", "line 1: '99999999999999999999' is no integer, and no name with an integer"),
        ("mixed.txt", "some lines have a name and others none"),
        ("twice.csv", "line 3: 'a' has label 1 in an earlier line"),
    ],
)
def test_labels_that_cannot_be_read_are_refused_before_work_begins(file: str, said: str) -> None:
    np.savez("two.npz", a=np.arange(2), b=np.arange(2))
    np.savez("none.npz", c=np.zeros(2), d=np.zeros(2))
    np.save("float.npy", np.zeros((2, 3)))
    np.save("scalar.npy", np.array(1))
    texts = {"text.npy": "0\n", "text.npz": "0\n", "coco.json": "{}", "word.txt": "0\none\n", "huge.txt": "9" * 20}
    for name, text in {**texts, "mixed.txt": "0\na 1\n", "twice.csv": "a,1\nb,2\na,2\n"}.items():
        Path(name).write_text(text)
    with pytest.raises(ParamError) as caught:
        load_metric("top1", Path(file))
    assert str(caught.value) == f"--labels {file}: {said}"
