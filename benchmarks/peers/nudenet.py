"""Int8 on a detector whose boxes and scores leave by one output: nudenet's 320n, a YOLOv8n with 18 classes.

    python -m venv VENV && VENV/bin/pip install onnx onnxruntime scikit-image
    VENV/bin/python -m benchmarks.peers.nudenet data --model 320n.onnx --out FOLDER
    python -m benchmarks.peers.nudenet run --model 320n.onnx --data FOLDER --onnxsparse onnxsparse --onnxruntime ORT/bin/python \\
        --nncf NNCF/bin/python --modelopt MODELOPT/bin/python --out nudenet.json
    python -m benchmarks.peers.nudenet table nudenet.json --out benchmarks/results/nudenet-int8.md

from the project's root; the interpreters are those of benchmarks/peers/int8.py, the model is in the wheel of nudenet==3.4.2
(nudenet/320n.onnx). Class scores of ordinary pictures are near zero, where nothing tells a good head from a dead one. So `data`
climbs: from a crop of scikit-image's photographs, patches are pasted for as long as the score of one class grows. Each class of
faces, feet, bellies and armpits gets inputs that score above 0.3, for calib.npz and, from other seeds, for test.npz.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.efficientnet_lite0 import PICTURES, pictures
from benchmarks.peers.int8_methods import METHODS, Cost, add_tools, given_tools, one_line, quantize, select
from benchmarks.peers.int8_runtime import outputs, samples, session, sqnr_db
from benchmarks.tables import heading, saved, table_row

SIZE = 320
CLASSES = {"FACE_FEMALE": 1, "FEET_EXPOSED": 7, "BELLY_COVERED": 8, "FEET_COVERED": 9, "ARMPITS_EXPOSED": 11, "FACE_MALE": 12}
CLASSES |= {"BELLY_EXPOSED": 13}
CALIBRATION, TEST = 4, 2
"""Inputs per class."""
LIT, ENOUGH = 0.3, 0.5
"""An input counts from the first score on; the climb ends at the second."""
STARTS, STEPS, TRIES = 10, 200, 5
TEST_SEED = 1000
BOXES, SCORES = slice(0, 4), slice(4, None)

Score = Callable[[np.ndarray], float]


# Inputs that light the scores up


@dataclass(frozen=True)
class Painter:
    """Random crops and patches, height x width x 3, from 0 to 1."""

    sources: Sequence[np.ndarray]
    rng: np.random.Generator

    def crop(self, height: int, width: int) -> np.ndarray:
        source = self.sources[int(self.rng.integers(len(self.sources)))]
        side = int(self.rng.integers(48, min(source.shape[:2]) + 1))
        top, left = (int(self.rng.integers(0, room - side + 1)) for room in source.shape[:2])
        return scaled(source[top : top + side, left : left + side], height, width)

    def patch(self, height: int, width: int) -> np.ndarray:
        """Part of a picture, one colour, or a soft pattern of a few."""
        kind = self.rng.integers(3)
        if kind == 0:
            return self.crop(height, width)
        grid = (1, 1) if kind == 1 else self.rng.integers(2, 6, 2)
        return scaled(self.rng.random((*grid, 3)), height, width)

    def retouched(self, picture: np.ndarray) -> np.ndarray:
        """With one patch more, faded out towards its edges."""
        height, width = (int(side) for side in self.rng.integers(16, 200, 2))
        top, left = (
            int(self.rng.integers(-height // 2, SIZE - height // 2)),
            int(self.rng.integers(-width // 2, SIZE - width // 2)),
        )
        patch = self.patch(height, width)
        rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
        share = np.clip(1.5 * (1 - rows**2 - columns**2), 0, 1)[..., None] * self.rng.uniform(0.3, 1)
        above, before = max(-top, 0), max(-left, 0)
        inside = np.s_[above : SIZE - top, before : SIZE - left]
        result = picture.copy()
        seen = result[max(top, 0) : top + height, max(left, 0) : left + width]
        seen += share[inside] * (patch[inside] - seen)
        return result


def scaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    from skimage.transform import resize

    return np.asarray(resize(picture, (height, width), order=1), np.float32)


def climb(painter: Painter, score: Score) -> tuple[float, np.ndarray]:
    """The best of a few crops, retouched for as long as that helps."""
    starts = [painter.crop(SIZE, SIZE) for _ in range(STARTS)]
    best, picture = max(((score(start), start) for start in starts), key=lambda pair: pair[0])
    for _ in range(STEPS):
        if best >= ENOUGH:
            break
        changed = painter.retouched(picture)
        found = score(changed)
        if found > best:
            best, picture = found, changed
    return best, picture


def fed(picture: np.ndarray) -> np.ndarray:
    """1 x 3 x height x width."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)


def scorer(runner: Any, row: int) -> Score:
    """The largest score of one class."""
    name = runner.get_inputs()[0].name
    return lambda picture: float(runner.run(None, {name: fed(picture)})[0][0, SCORES][row].max())


def lit_inputs(model: Path, count: int, seed: int) -> Iterator[np.ndarray]:
    """`count` per class. Raises SystemExit for a class that no climb lights up."""
    runner = session(model)
    sources = [picture.astype(np.float32) / 255 for picture in pictures(PICTURES)]
    for label, row in CLASSES.items():
        score = scorer(runner, row)
        for index in range(count):
            painters = (Painter(sources, np.random.default_rng((seed, row, index, again))) for again in range(TRIES))
            best, picture = next((found for p in painters if (found := climb(p, score))[0] >= LIT), (0.0, None))
            if picture is None:
                raise SystemExit(f"peers/nudenet: {TRIES} climbs did not bring {label} to {LIT}")
            print(f"{label}: {best:.2f}", flush=True)
            yield fed(picture)


def write_data(model: Path, folder: Path) -> None:
    """N x 1 x 3 x 320 x 320: the batch is an axis of its own because the model leaves it open."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("calib.npz", CALIBRATION, 0), ("test.npz", TEST, TEST_SEED)):
        np.savez(folder / name, images=np.stack(list(lit_inputs(model, count, seed))))


# Judging


@dataclass(frozen=True)
class Row:
    """One method. `top_score` is the mean over the inputs of the largest score, to lay beside the float model's."""

    label: str
    fault: str = ""
    scores_db: float | None = None
    boxes_db: float | None = None
    all_db: float | None = None
    top_score: float | None = None
    cpu_s: float | None = None
    peak_mb: float | None = None


def judged(label: str, reference: np.ndarray, found: np.ndarray, cost: Cost) -> Row:
    """Outputs are N x 1 x 22 x anchors."""
    noise = [sqnr_db(reference[:, :, part], found[:, :, part]) for part in (SCORES, BOXES, slice(None))]
    top = float(found[:, :, SCORES].max(axis=(1, 2, 3)).mean())
    return Row(label, "", noise[0], noise[1], noise[2], top, cost.cpu_s, cost.peak_mb)


def rows(options: Any) -> Iterator[Row]:
    inputs = samples(options.data / "test.npz")
    reference = outputs(options.model, inputs)
    yield Row("float", top_score=judged("", reference, reference, Cost()).top_score)
    tools = given_tools(options)
    for method in select(options.only):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "int8.onnx"
            cost = quantize(method, tools, options.model, target, options.data / "calib.npz")
            try:
                yield (
                    Row(method.label, cost.fault)
                    if cost.fault
                    else judged(method.label, reference, outputs(target, inputs, plain=True), cost)
                )
            except Exception as error:  # whatever onnxruntime raises is the finding
                yield Row(method.label, f"onnxruntime: {one_line(error)}")


def line(label: str, row: Row | None) -> str:
    if row is None or row.fault:
        return table_row((label, row.fault if row else "not run", *[None] * 5))
    values = ((row.scores_db, 2), (row.boxes_db, 2), (row.all_db, 2), (row.top_score, 3), (row.cpu_s, 1), (row.peak_mb, 0))
    return table_row((label, *(None if value is None else f"{value:.{digits}f}" for value, digits in values)))


def margin(found: Sequence[Row]) -> str:
    """How far our best scores are from the peers' best."""
    known = [row for row in found if row.scores_db is not None]
    mine, peers = ([r for r in known if r.label.startswith("onnxsparse") is side] for side in (True, False))
    if not mine or not peers:
        return ""
    best, rival = (max(side, key=lambda row: row.scores_db or 0) for side in (mine, peers))
    return f"\nClass scores: {best.label} is {(best.scores_db or 0) - (rival.scores_db or 0):.2f} dB above {rival.label}.\n"


PREFACE = f"""# Int8 on nudenet's detector, side by side

Made by `benchmarks/peers/nudenet.py` on inputs found by climbing until one of {len(CLASSES)} classes scores above {LIT}:
{CALIBRATION * len(CLASSES)} to calibrate, {TEST * len(CLASSES)} others to judge. Signal to noise ratio in dB of the class scores,
of the boxes, and of both as one output, as onnxruntime runs the file; the largest score of an input, in the mean; CPU seconds and
peak memory of the whole process that quantizes, on one core.
"""
COLUMNS = ("method", "scores dB", "boxes dB", "output dB", "top score", "CPU s", "peak MB")


def table(paths: Sequence[Path]) -> str:
    found = {row["label"]: Row(**row) for path in paths for row in json.loads(path.read_text()) if row["fault"] != "not run"}
    lines = [line(label, found.get(label)) for label in ("float", *(method.label for method in METHODS))]
    return "\n".join([PREFACE, *heading(COLUMNS), *lines]) + "\n" + margin(list(found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data, run, shown = (commands.add_parser(name) for name in ("data", "run", "table"))
    for part in (data, run):
        part.add_argument("--model", type=Path, required=True)
    run.add_argument("--data", type=Path, required=True, help="the folder that `data` wrote")
    add_tools(run)
    shown.add_argument("results", type=Path, nargs="+")
    for part in (data, run, shown):
        part.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "data":
        write_data(options.model, options.out)
    elif options.command == "run":
        for row in saved(rows(options), options.out):
            print(row, flush=True)
    else:
        options.out.write_text(table(options.results))


if __name__ == "__main__":
    main()
