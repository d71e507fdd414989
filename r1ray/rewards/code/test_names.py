"""Which names of a solution its assertions mean, and which are the standard library's.

A solution that defines `abs` or `len`, or imports `math` from a file of its own, must not decide what the assertions
mean by it: they get the real ones.
"""

from __future__ import annotations

import ast
import builtins
import sys
from typing import Any

from r1ray.errors import GraderError

_BUILTINS = frozenset(dir(builtins))


def names_for_tests(code: str, source: str, names: Any) -> dict[str, Any]:
    """Sort the names that assertions use and do not define themselves.

    Args:
        code: the assertions.
        source: the solution.
        names: what the solution says it defines; anything at all may stand here.

    Returns:
        `names`: the solution's; `modules`: of the standard library, where the assertions use them as modules;
        `imports`: name to module, for what the solution has from the standard library.
        A built-in name is the solution's only where the assertions call a single built-in and nothing else, which
        then is what they test.

    Raises:
        GraderError: the assertions are not Python.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GraderError(f"the tests are not Python: {error}") from error
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    own = _defined(tree)
    foreign = loaded - own - _BUILTINS
    tested = (called - own) & _BUILTINS
    if not foreign and len(tested) == 1:
        foreign = tested
    modules = sorted((foreign & sys.stdlib_module_names & _dotted(tree)) - called)
    imports = {name: module for name, module in _library_imports(source).items() if name in foreign}
    given = names if isinstance(names, list) else []
    theirs = {name for name in given if isinstance(name, str) and name in foreign} - imports.keys() - {*modules}
    return {"names": sorted(theirs), "modules": modules, "imports": imports}


def _dotted(tree: ast.AST) -> set[str]:
    """Return the names whose attributes are used."""
    nodes = (node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def _library_imports(source: str) -> dict[str, str]:
    """Return what a solution imports from modules of the standard library, by name, unless it defines it too."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module in sys.stdlib_module_names and not node.level
        for alias in node.names
        if alias.asname is None and alias.name != "*"
    }
    defined = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    return {name: module for name, module in found.items() if name not in defined}


def _defined(tree: ast.AST) -> set[str]:
    """Return every name that a piece of source binds, anywhere in it."""
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            own.add(node.id)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).partition(".")[0])
    return own
