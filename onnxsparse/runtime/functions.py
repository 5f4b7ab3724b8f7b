"""Functions of the user, by `module:function` or `file.py:function`. A fault in them becomes one line that says where it is."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxsparse.errors import OnnxSparseError, ParamError

NAMED = 8
"""Functions of a module that a message names at most."""


@dataclass(frozen=True)
class UserFunction:
    """A function of the user. `where`: the option with its value, the head of every message."""

    function: Callable[..., Any]
    where: str

    def __call__(self, *arguments: object) -> object:
        """What the function returns; what it prints goes to standard error, because standard output may be a result.

        Raises ParamError for any exception that is not this package's own.
        """
        with redirect_stdout(sys.stderr):
            try:
                return self.function(*arguments)
            except OnnxSparseError:
                raise
            except (Exception, SystemExit) as error:
                raise ParamError(f"{self.where}: {explained(error, self._file)}") from None

    @property
    def _file(self) -> str | None:
        """The file with the function's code; None if it is not known."""
        try:
            return inspect.getfile(inspect.unwrap(self.function))
        except TypeError:  # an object that can be called
            return getattr(sys.modules.get(type(self.function).__module__), "__file__", None)


def load_function(text: str, where: str, parameters: tuple[str, ...]) -> UserFunction:
    """The function that `module:function` or `file.py:function` names. `parameters`: what it is called with, for messages.

    Raises ParamError, with `where` as its head, for a module or file that is missing or cannot be imported, and for a function
    that is missing or does not take the parameters.
    """
    home, _, name = text.rpartition(":")
    if not home or not name:
        raise ParamError(f"{where}: name a module or file and its function, as module:function or file.py:function")
    if home.lower().endswith(".py"):
        module = load_file(Path(home), where)
    elif all(part.isidentifier() for part in home.split(".")):
        module = load_module(home, where)
    else:
        raise ParamError(f"{where}: '{home}' is neither a module nor a file that ends in .py")
    if not hasattr(module, name):
        raise ParamError(f"{where}: {home} has no function '{name}'{known_functions(module, name)}")
    found = getattr(module, name)
    if not callable(found):
        raise ParamError(f"{where}: {name} is no function but of type {type(found).__name__}")
    check_parameters(found, where, parameters)
    return UserFunction(found, where)


def load_module(name: str, where: str) -> ModuleType:
    """The module, from the current folder or the Python environment. Raises ParamError if it is missing or cannot be imported."""
    importlib.invalidate_caches()
    with importable(Path.cwd()), redirect_stdout(sys.stderr):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ParamError(f"{where}: {explained(error)}") from None
            missing = f"no module '{error.name}' in the current folder or the Python environment"
            raise ParamError(f"{where}: {missing}; for a file, write its name with .py") from None
        except (Exception, SystemExit) as error:
            raise ParamError(f"{where}: {explained(error)}") from None


def load_file(path: Path, where: str) -> ModuleType:
    """The module in a file, which may import others from its folder. Raises ParamError if it is missing or cannot be imported."""
    try:
        source = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ParamError(f"{where}: {path}: {getattr(error, 'strerror', None) or error}") from None
    with importable(path.resolve().parent), redirect_stdout(sys.stderr):
        try:
            return run_file(path.resolve(), source)
        except (Exception, SystemExit) as error:
            raise ParamError(f"{where}: {explained(error, str(path.resolve()))}") from None


@lru_cache(maxsize=16)  # a command asks several times for one metric, whose file may load much
def run_file(path: Path, source: bytes) -> ModuleType:
    """Run the `source` of a file as a module. Raises whatever the file does."""
    name = f"{path.stem} of {path.parent}"  # no other module has such a name
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None  # the loader knows its file
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        # not loader.exec_module: it would write a __pycache__ beside the file
        exec(loader.source_to_code(source, str(path)), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules in `folder` can be imported meanwhile."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))


def known_functions(module: ModuleType, name: str) -> str:
    """`; did you mean …?` for a similar name, and the functions that a module defines; for a message."""
    own = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__]
    public = [key for key in own if not key.startswith("_")]
    close = get_close_matches(name, public, n=1)
    guess = f"; did you mean '{close[0]}'?" if close else ";"
    more = f" and {len(public) - NAMED} more" if len(public) > NAMED else ""
    return f"{guess} it has {', '.join(public[:NAMED]) or 'none'}{more}"


def check_parameters(function: Callable[..., Any], where: str, parameters: tuple[str, ...]) -> None:
    """Raises ParamError if a function cannot be called with as many arguments as there are `parameters`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function in C may not tell
        return
    try:
        signature.bind(*parameters)
    except TypeError:
        takes = f"takes {signature}" if signature.parameters else "takes no arguments"
        called = " and ".join(parameters)
        raise ParamError(f"{where}: the function {takes}; it is called with {len(parameters)} arguments, {called}") from None


def explained(error: BaseException, home: str | None = None) -> str:
    """The type, first line and place of an error: the innermost line in the file `home`, else in the first file that was run."""
    name = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{name}: {error.msg} ({shown(error.filename)}, line {error.lineno})"
    text = next(iter(str(error).strip().splitlines()), "")
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    frames = [frame for frame in frames if not frame[0].startswith("<frozen") and frame[0] not in (__file__, importlib.__file__)]
    inside = [frame for frame in frames if frame[0] == (home or frames[0][0])] or frames
    place = f" ({shown(inside[-1][0])}, line {inside[-1][1]})" if inside else ""
    return f"{name}{': ' if text else ''}{text}{place}"


def shown(file: str | None) -> str:
    """A file's path, from the current folder if it is in there."""
    path = Path(file or "?")
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
