"""List the benchmarks, or run one.

python -m benchmarks                              # names, each with the first line of its docstring
python -m benchmarks zoo/prune ZOO --out TABLE.md
"""

import ast
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """Name → first line of the docstring, of every file with a `main`. Nothing is imported: some need a peer's packages."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        module = ast.parse(path.read_text())
        has_main = any(isinstance(part, ast.FunctionDef) and part.name == "main" for part in module.body)
        if has_main and path != Path(__file__):
            name = path.relative_to(FOLDER).with_suffix("").as_posix()
            found[name] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def main() -> None:
    """Raises SystemExit for a name that no benchmark has."""
    known = benchmarks()
    if not sys.argv[1:]:
        width = max(map(len, known))
        print("\n".join(f"{name:<{width}}  {summary}" for name, summary in known.items()))
        return
    name = sys.argv[1].removesuffix(".py")
    if name not in known:
        raise SystemExit(f"benchmarks: no benchmark is called {name!r}; `python -m benchmarks` lists them")
    del sys.argv[0]
    runpy.run_module("benchmarks." + name.replace("/", "."), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
