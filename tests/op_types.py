"""Finds source that decides by an op's type, which only `onnxsparse/ops` may do.

1. A name is a table if the module binds it to a literal that holds strings, or if it is in capitals: a constant of some module.
2. An expression holds op knowledge if a string or a table is in it. "Constant" alone is none: it is how a graph spells an
   initializer.
3. Reported are: an op type compared with op knowledge (`==`, `in` and their opposites), a `match` on an op type, a table that is
   looked up by one (`[…]`, `.get(…)`), and `.startswith(…)` or `.endswith(…)` of one.

An op type is the attribute `op_type` of anything, a variable of that name, or the `op` of a graphsurgeon node. Lists that come
from elsewhere, as those of a target file, are data and pass.
"""

import ast
from collections.abc import Iterator

LITERALS = (ast.Tuple, ast.List, ast.Set, ast.Dict)


def decisions(source: str) -> list[int]:
    """The lines of Python source that decide by op type."""
    tree = ast.parse(source)
    tables = set(bound_to_literals(tree))
    return sorted({node.lineno for node in ast.walk(tree) if isinstance(node, ast.expr | ast.Match) and decides(node, tables)})


def bound_to_literals(tree: ast.AST) -> Iterator[str]:
    """Names that the module gives to collections with strings in them."""
    for node in ast.walk(tree):
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and value is not None and holds_strings(value) and is_collection(value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def is_collection(value: ast.expr) -> bool:
    """A literal, or a call that makes a collection of one: `frozenset(("Conv", "Gemm"))`, `"Conv Gemm".split()`."""
    if isinstance(value, ast.Call):
        return any(isinstance(part, LITERALS) for part in value.args) or isinstance(value.func, ast.Attribute)
    return isinstance(value, LITERALS)


def decides(node: ast.expr | ast.Match, tables: set[str]) -> bool:
    """Whether one expression or statement, apart from those inside it, decides by op type."""
    match node:
        case ast.Match():
            return has_op_type(node.subject)
        case ast.Compare():
            sides = [node.left, *node.comparators]
            return any(map(has_op_type, sides)) and any(knows_ops(side, tables) for side in sides if not has_op_type(side))
        case ast.Subscript():
            return has_op_type(node.slice) and knows_ops(node.value, tables)
        case ast.Call(func=ast.Attribute(value=value, attr=name)):
            looked_up = name == "get" and any(map(has_op_type, node.args[:1])) and knows_ops(value, tables)
            return looked_up or (is_op_type(value) and name in ("startswith", "endswith"))
    return False


def is_op_type(node: ast.expr) -> bool:
    named = isinstance(node, ast.Name) and node.id == "op_type"
    return named or (isinstance(node, ast.Attribute) and node.attr in ("op_type", "op"))


def has_op_type(node: ast.expr) -> bool:
    """An op type, or a key that holds one: `(node.domain, node.op_type)`."""
    return is_op_type(node) or (isinstance(node, ast.Tuple) and any(map(is_op_type, node.elts)))


def knows_ops(node: ast.expr, tables: set[str]) -> bool:
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    names |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return holds_strings(node) or any(name in tables or is_in_capitals(name) for name in names)


def holds_strings(node: ast.expr) -> bool:
    return any(isinstance(p, ast.Constant) and isinstance(p.value, str) and p.value != "Constant" for p in ast.walk(node))


def is_in_capitals(name: str) -> bool:
    return name.isupper() and len(name) > 1
