"""Running commands inside a test."""

from pathlib import Path

import pytest

from onnxsparse.cli import app as cli


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


class Run:
    """Runs commands in this process and keeps what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        code = cli.main([str(a) for a in arguments])
        self.out, self.err = self.capsys.readouterr()
        return code

    def fails(self, exit_code: int, *arguments: object) -> str:
        """Expects one line on stderr and this exit code; returns the line."""
        assert self(*arguments) == exit_code, self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("onnxsparse: ")
        return self.err
