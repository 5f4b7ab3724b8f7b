"""What the inputs of a model get from data, for a terminal."""

from rich.console import Console
from rich.text import Text

from onnxsparse.calibration.contact_sheet import Sheet
from onnxsparse.calibration.inspection import DataFacts, InputFacts, Spread
from onnxsparse.cli.render.text import note, number, share, table
from onnxsparse.ir.binding import format_shape
from onnxsparse.runtime.samples import Samples, hold_out


def print_data(out: Console, found: DataFacts) -> None:
    """Print where the samples are from, and one table for each input, with what is odd about it."""
    for one in found.inputs:
        shape = f" {format_shape(one.shape)}" if one.shape else ""
        line = f"{plural(found.samples)} from {found.source} → input '{one.name}' {one.dtype}{shape}"
        out.print(Text(line, style="bold"), soft_wrap=True)
        if found.inspected < found.samples:
            note(out, f"numbers of the first {found.inspected} samples")
        print_input(out, one)


def print_input(out: Console, found: InputFacts) -> None:
    """Print the table of an input: all values, then each channel; and what is odd about it."""
    rows = table("", "values", "min", "max", "mean", "std", "NaN", "infinite", "equal to first")
    shares = (share(found.nan_share), share(found.infinite_share))
    rows.add_row("all", *cells(found.values), *shares, str(found.equal_to_first))
    for at, channel in enumerate(found.channels if len(found.channels) > 1 else ()):
        rows.add_row(f"channel {at}", *cells(channel))
    out.print(rows)
    for hint in found.hints:
        note(out, f"odd: {hint}")


def cells(values: Spread) -> tuple[str, ...]:
    """Minimum, maximum, mean and standard deviation as text."""
    return tuple(number(value, ".4g") for value in (values.minimum, values.maximum, values.mean, values.std))


def print_held_out(out: Console, samples: Samples) -> None:
    """Print what commands that learn would judge on without --test."""
    learned, judged = hold_out(samples)
    if len(judged):
        note(out, f"without --test, {len(learned)} of the {len(samples)} samples are learned from and {len(judged)} judged on")
    else:
        note(out, "a single sample is learned from, so that --test is needed to judge")


def print_sheet(out: Console, sheet: Sheet) -> None:
    """Print which inputs are not on the sheet."""
    if sheet.left_out:
        note(out, f"not on the sheet, since they are no images of 1 or 3 channels: {', '.join(sheet.left_out)}")


def plural(count: int) -> str:
    """A number of samples in words."""
    return f"{count} sample{'' if count == 1 else 's'}"
