"""Every attribute of an object is set in its constructor, so the constructor shows the whole state of a class."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "retrain_worker"
CONSTRUCTORS = ("__init__", "__post_init__")
#: its layers keep what their backward pass needs, as layers do
EXEMPT = PACKAGE / "worker/training/fast_path.py"


def attributes_set_in(node: ast.AST) -> Iterator[str]:
    """The names in `self.NAME = ...`, of tuples and annotated assignments, too."""
    for found in ast.walk(node):
        if (
            isinstance(found, ast.Attribute)
            and isinstance(found.ctx, ast.Store)
            and isinstance(found.value, ast.Name)
            and found.value.id == "self"
        ):
            yield found.attr


def late_attributes(tree: ast.Module) -> Iterator[str]:
    """`Class.attribute` for each that a method sets and neither the constructor nor the class body declares."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        declared = {
            target.id
            for statement in node.body
            for target in ([statement.target] if isinstance(statement, ast.AnnAssign) else [])
            if isinstance(target, ast.Name)
        }
        methods = [method for method in node.body if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)]
        declared |= {name for method in methods if method.name in CONSTRUCTORS for name in attributes_set_in(method)}
        for method in methods:
            yield from (f"{node.name}.{name}" for name in set(attributes_set_in(method)) - declared)


def test_a_late_attribute_is_found() -> None:
    code = "class A:\n def __init__(self):\n  self.a = 1\n def f(self):\n  self.a, self.b = 1, 2"

    assert list(late_attributes(ast.parse(code))) == ["A.b"]


def test_no_attribute_appears_outside_a_constructor() -> None:
    modules = set(PACKAGE.rglob("*.py")) - {EXEMPT}
    late = [f"{path.name}: {name}" for path in modules for name in late_attributes(ast.parse(path.read_text()))]

    assert late == []
