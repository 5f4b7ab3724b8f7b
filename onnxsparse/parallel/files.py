"""Files that jobs name, sent to workers on other machines once, and kept there under a digest of their content."""

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self


class Movable(Protocol):
    """A job that names files."""

    def moved(self, root: Path) -> Self:
        """The same job, with every path below `root` instead of below the root of the file system."""


@dataclass(frozen=True)
class Bundle:
    """Contents of files by absolute path, and a digest of all of them."""

    files: dict[str, bytes]
    digest: str

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Self:
        """The files as they are now; what lies in folders is to be named itself."""
        files = {str(path.absolute()): path.read_bytes() for path in sorted(set(paths))}
        found = hashlib.sha256()
        for path, content in files.items():
            found.update(f"{len(path)} {path} {len(content)} ".encode())
            found.update(content)
        return cls(files, found.hexdigest())

    def unpack(self, place: Path) -> Path:
        """The folder below `place` with these files, which is made if it is not there."""
        target = place / f"onnxsparse-{self.digest[:16]}"
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(prefix=".new-", dir=place) as name:
            root = Path(name) / "files"
            for path, content in self.files.items():
                file = below(root, Path(path))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            if not target.exists():
                root.rename(target)
        return target


def below(root: Path, path: Path) -> Path:
    """The place of an absolute path below `root`."""
    return root / path.relative_to(path.anchor)
