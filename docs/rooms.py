"""Draws the rooms of the package into architecture.md: the line of imports, and who imports from whom.

python -m docs.rooms
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE = Path(__file__).parent / "architecture.md"
BEGIN, END = "<!-- rooms: made by docs/rooms.py -->", "<!-- end of rooms -->"

Line = Sequence[Sequence[str]]


def drawing(line: Line, edges: Iterable[tuple[str, str]]) -> str:
    """The line as text, and a Mermaid graph of the rooms that exist.

    `line`: from left to right, rooms in one brace together. `edges`: (importing room, imported room). An arrow that follows from
    others is left out.
    """
    found = set(edges)
    rooms = {name for edge in found for name in edge}
    steps = " → ".join("{" + ", ".join(names) + "}" if len(names) > 1 else names[0] for names in line)
    nodes = [f"    {name}" for names in line for name in names if name in rooms]
    arrows = [f"    {a} --> {b}" for a, b in sorted(shortest(found))]
    return "\n".join([BEGIN, "", f"    {steps}", "", "```mermaid", "graph RL", *nodes, *arrows, "```", "", END])


def shortest(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges of an acyclic graph without those that a longer way replaces."""
    following: dict[str, set[str]] = {}
    for a, b in edges:
        following.setdefault(a, set()).add(b)

    def reached(name: str) -> set[str]:
        return following.get(name, set()).union(*(reached(other) for other in following.get(name, ())))

    return {(a, b) for a, b in edges if not any(b in reached(other) for other in following[a] - {b})}


def main() -> None:
    from tests.test_house import LINE, edges

    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: drawing(LINE, edges()), text), encoding="utf-8")


if __name__ == "__main__":
    main()
