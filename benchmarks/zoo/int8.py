"""Quantize every graph of a folder for both targets, run what came out, and write a table of it.

    python -m benchmarks.zoo.int8 run ZOO --into zoo-int8.jsonl
    python -m benchmarks.zoo.int8 table zoo-int8.jsonl --out benchmarks/results/zoo-int8.md

from the project's root. benchmarks/zoo/runner.py says what ZOO holds. Every graph is a process of its own, `--jobs N` of
them at a time, and adds a line to the file; of several lines for a graph the last one counts.
`--only TEXT` takes the graphs with that in their names.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.tables import table, table_row
from benchmarks.zoo.int8_graph import LOW_DB, OTHERS, SAMPLES, TARGETS, Result, Row, examine
from benchmarks.zoo.runner import Entry, entries, examined

LIMIT_S = 900
"""For one graph."""


def in_own_process(zoo: Path, into: Path, entry: Entry) -> str:
    """The row of one graph, which is added to the file `into` as a line of JSON."""
    line = made_alone(zoo, entry)
    with into.open("a") as file:
        file.write(line + "\n")
    return table_row(cells(rows_of([line])[0]))


def made_alone(zoo: Path, entry: Entry) -> str:
    """The row of one graph as JSON, made by a process that may crash."""
    command = [sys.executable, "-m", "benchmarks.zoo.int8", "one", str(zoo), "--only", entry.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return json.dumps(asdict(Row(entry.name, 0, {}, faults=(f"process took more than {LIMIT_S} s",))))
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1]
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return json.dumps(asdict(Row(entry.name, 0, {}, faults=(f"process ended with {done.returncode}: {last}",))))


def rows_of(lines: Sequence[str]) -> list[Row]:
    found = {}
    for line in lines:
        fields = json.loads(line)
        fields["results"] = {target: Result(**result) for target, result in fields["results"].items()}
        found[fields["model"]] = Row(**fields)
    return [found[name] for name in sorted(found)]


def cells(row: Row) -> tuple[str, ...]:
    results = [row.results.get(target, Result()) for target in TARGETS]
    reasons = dict.fromkeys(reason for found in results for reason in found.reasons)
    mark = "look: " if row.lowest_db < LOW_DB else ""
    faults = row.all_faults
    return (
        row.model,
        *(f"{found.layers} of {row.linear}" for found in results),
        *(str(found.other_ops) for found in results),
        *(str(found.values) for found in results),
        *(decibels(found) for found in results),
        "fault" if any("checker" in fault for fault in faults) else "passes",
        "fault" if any(word in fault for fault in faults for word in ("run:", "quantize:", "process")) else "yes",
        row.zeros,
        ", ".join(dict.fromkeys(found.other_sizes for found in results if found.other_sizes)),
        f"{sum(found.seconds for found in results):.1f}",
        mark + "; ".join([*faults, *reasons]),
    )


def decibels(found: Result) -> str:
    """Of the worst output; its name where there are several."""
    if found.sqnr_db is None:
        shown = "says nothing" if found.layers else ""
    else:
        shown = f"{found.sqnr_db:.1f}" + (f" ({found.worst})" if found.worst else "")
    return shown if found.inner_db is None else f"{shown}, inside {found.inner_db:.1f}"


def render(rows: Sequence[Row]) -> str:
    faulty = [row for row in rows if row.all_faults]
    nothing = [row for row in rows if not row.is_quantized and not row.all_faults]
    low = [row for row in rows if row.lowest_db < LOW_DB]
    medians = []
    for target in TARGETS:
        found = [r.results[target].sqnr_db for r in rows if target in r.results]
        numbers = [v for v in found if v is not None]
        medians.append(f"{median(numbers):.1f} dB ({target}, {len(numbers)} graphs)" if numbers else f"none ({target})")
    columns = [
        *("model", "layers, cv22", "layers, x86", "other ops, cv22", "other ops, x86", "values, cv22", "values, x86"),
        *("SQNR dB, cv22", "SQNR dB, x86", "checker", "runs", "zeros kept", "other sizes", "s", "notes"),
    ]
    lines = [
        "# Every graph in integers",
        "",
        f"Made by `benchmarks/zoo/int8.py`: default options, {SAMPLES} seeded random samples for the ranges, {OTHERS} others for",
        "the SQNR of the worst output against the float model. Most graphs have random weights and all get random inputs: SQNR",
        "says how far the integers moved the outputs and nothing about accuracy. Zeros kept: of a copy pruned to half. Other",
        "sizes: of open dimensions, how many batch sizes and resolutions it runs at, of those at which the original does.",
        "Inside: of the last layer that depends on the input, where the outputs say nothing or are low (a Sigmoid near zero).",
        "",
        f"- {len(rows)} graphs: {len(rows) - len(faulty) - len(nothing)} quantized, {len(nothing)} with nothing to quantize, "
        f"{len(faulty)} with a fault",
        f"- SQNR, median: {', '.join(medians)}",
        f"- {len(low)} below {LOW_DB:.0f} dB: {', '.join(row.model for row in low) or 'none'}",
        "",
        *table(columns, map(cells, rows)),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "one"):
        command = commands.add_parser(name)
        command.add_argument("zoo", type=Path)
        command.add_argument("--only", default="")
        command.add_argument("--into", type=Path, default=Path("zoo-int8.jsonl"))
        command.add_argument("--jobs", type=int, default=1)
    shown = commands.add_parser("table")
    shown.add_argument("rows", type=Path)
    shown.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "table":
        given.out.write_text(render(rows_of(given.rows.read_text().splitlines())))
        return
    found = entries(given.zoo, given.only)
    if given.command == "run":
        examined(partial(in_own_process, given.zoo, given.into), found, given.jobs)
        return
    for entry in found:
        np.seterr(all="ignore")  # onnx's reference implementation warns of infinities in masks
        with tempfile.TemporaryDirectory() as folder:
            row = examine(entry, Path(folder))
        print(json.dumps(asdict(row)))


if __name__ == "__main__":
    main()
