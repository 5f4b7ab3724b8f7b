"""The command line: commands are registered by module path, so that `--help` imports none of them; an error is one line."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter, ValidationError
from cyclopts.help import DefaultFormatter, HelpPanel, InlineText
from rich.console import Console, ConsoleOptions
from rich.text import Text

from onnxsparse.cli import log
from onnxsparse.errors import OnnxSparseError, ParamError
from onnxsparse.pipeline.registry import passes

COMMANDS = {
    "inspect": ("onnxsparse.cli.commands:inspect", "Show what each layer of a model costs and how sparse it is."),
    "report": ("onnxsparse.cli.cost_commands:report", "Predict what a model costs on a target, layer by layer."),
    "compare": ("onnxsparse.cli.compare_commands:compare", "Run two models on the same inputs and show how far they are apart."),
    "view": ("onnxsparse.cli.commands:view", "Open an annotated temporary copy of a model in Netron."),
    "run": ("onnxsparse.cli.pipeline_commands:run", "Run the passes of a recipe (YAML) one after the other."),
    "passes": ("onnxsparse.cli.pipeline_commands:show_passes", "Show the available passes and their options."),
    "search": (
        "onnxsparse.cli.search_commands:search",
        "Find the combination of channels, zeros and widths that meets a budget.",
    ),
    "calibrate-backend": (
        "onnxsparse.cli.cost_commands:calibrate_backend",
        "Fit a target's numbers to measurements of your own.",
    ),
}
"""Commands that are more than one pass: name → (where the function is, one line of help). They go before a pass of their name."""


GROUPS = {
    "data": (
        "Look at data for a model's inputs.",
        {"check": ("onnxsparse.cli.data_commands:check", "Show what each input of a model gets, as numbers and as pictures.")},
    ),
}
"""Commands of two words: first word → (one line of help, second word → as in COMMANDS)."""


class Paragraphs(DefaultFormatter):
    """Help in which the text of an option is one paragraph: the lines of its docstring are joined, without their indent."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        for entry in panel.entries:
            if isinstance(entry.description, InlineText) and isinstance(entry.description.primary_renderable, Text):
                entry.description.primary_renderable = Text(" ".join(entry.description.primary_renderable.plain.split()))
        super().__call__(console, options, panel)


def make_app() -> App:
    """The application with all commands: the fixed ones, and one per pass."""
    app = App(
        name="onnxsparse",
        help="Prune, quantize, annotate, inspect and compare ONNX models, on the ONNX file alone.",
        help_epilogue="Every command has its own --help, and takes --debug (show the traceback of an error) and --log json "
        "(progress and errors as lines of JSON on stderr).",
        help_format="plaintext",
        help_formatter=Paragraphs(),
        version=lambda: version("onnxsparse"),
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=(), consume_multiple=False),
    )
    for name, (function, summary) in COMMANDS.items():
        app.command(function, name=name, help=summary)
    for name, (summary, commands) in GROUPS.items():
        group = App(name=name, help=summary)
        for inner, (function, line) in commands.items():
            group.command(function, name=inner, help=line)
        app.command(group)
    for name, entry in passes().items():
        if name not in COMMANDS and name not in GROUPS:
            app.command(f"onnxsparse.cli.pipeline_commands:{name}", name=name, help=entry.summary)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. `arguments` None: those of the process.

    Returns the exit code: 0; 1 for a model that cannot be used, or a limit that is exceeded; 2 for a wrong option; 130 after
    Ctrl-C. With --debug, errors are raised instead.
    """
    tokens = join_hyphens(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    try:
        tokens = log.take_format([t for t in tokens if t != "--debug"])
        log.event("started", arguments=tokens)
        result = make_app()(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        if sys.stdout is not None:  # the shell may have closed it
            sys.stdout.flush()  # so that a full disk is reported here and not when Python exits
    except CycloptsError as error:
        return fail(one_line(error), ParamError.exit_code, debug)
    except OnnxSparseError as error:
        return fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return fail("interrupted; nothing was written", log.INTERRUPTED, debug)
    except BrokenPipeError:
        silence()  # the reader of the output, such as head, has closed it
        return 0
    except MemoryError as error:
        return fail(f"not enough memory: {error}", OnnxSparseError.exit_code, debug)
    except OSError as error:
        # errors outside of the files that have messages of their own: a temporary folder, standard output, a port in use
        silence()
        where = f"{error.filename}: " if error.filename else "cannot read or write: "
        return fail(f"{where}{error.strerror or error}", OnnxSparseError.exit_code, debug)
    exit_code = result if isinstance(result, int) else 0
    log.event("finished", exit_code=exit_code)
    return exit_code


def silence() -> None:
    """Redirect standard output to the null device, since Python would report the error once more when it closes the stream."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return  # standard output is not a file, or is closed


def join_hyphens(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--json -` as `--json=-`, since cyclopts would take the hyphen (standard output) for an option."""
    tokens: list[str] = []
    for argument in arguments:
        if argument == "-" and tokens and tokens[-1].startswith("--"):
            tokens[-1] += "=-"
        else:
            tokens.append(argument)
    return tokens


def fail(message: str, exit_code: int, debug: bool) -> int:
    """Print an error as one line on stderr and return `exit_code`. Raises the current exception if `debug`."""
    if debug:
        raise
    return log.complain(message, exit_code)


def one_line(error: CycloptsError) -> str:
    """The message of a wrong option without the frame that cyclopts prints around it."""
    errors = getattr(error.__cause__, "errors", None)  # pydantic's error, which cyclopts wraps
    if isinstance(error, ValidationError) and errors is not None:
        found = errors()[0]
        option = f"--{str(found['loc'][0]).replace('_', '-')}"  # what follows is an index, or a branch of a union
        return f"{option}: {found['msg']} (got {found['input']})"
    return str(error)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
