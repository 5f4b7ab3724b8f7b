"""What a command says on stderr while it works: text for people, or with --log json one JSON object per line (docs/json.md)."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from onnxsparse.errors import ParamError

INTERRUPTED = 130
"""Exit code of a command ended by Ctrl-C, by the convention of shells: 128 + SIGINT."""

FORMATS = ("text", "json")
"""Values of --log."""

_as_json: ContextVar[bool] = ContextVar("as_json", default=False)


def take_format(tokens: Sequence[str]) -> list[str]:
    """Set the format from `--log FORMAT` among the arguments of a command. Returns the other arguments.

    Raises ParamError for an unknown format.
    """
    rest: list[str] = []
    given = "text"
    remaining = iter(tokens)
    for token in remaining:
        if token == "--log" or token.startswith("--log="):
            given = next(remaining, "") if token == "--log" else token.partition("=")[2]
        else:
            rest.append(token)
    if given not in FORMATS:
        raise ParamError(f"--log {given}: the formats are {' and '.join(FORMATS)}")
    _as_json.set(given == "json")
    return rest


def is_json() -> bool:
    """Whether stderr gets JSON."""
    return _as_json.get()


@contextmanager
def as_json(on: bool) -> Iterator[None]:
    """Set whether stderr gets JSON within the block, as in another process of the same command."""
    token = _as_json.set(on)
    try:
        yield
    finally:
        _as_json.reset(token)


def event(name: str, **facts: object) -> None:
    """Print one event as a line of JSON; nothing if stderr is for people."""
    if is_json():
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"time": now, "event": name, **facts}), file=sys.stderr, flush=True)


def complain(message: str, exit_code: int) -> int:
    """Print why a command fails, as one line. Returns `exit_code`."""
    line = " ".join(message.split())
    if is_json():
        event("failed", message=line, exit_code=exit_code)
    else:
        print(f"onnxsparse: {line}", file=sys.stderr)
    return exit_code
