"""The house: imports point down, rooms of one floor do not know each other, what is inside ``src`` is relative."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
FLOORS = {
    "config": 1.0,
    "files": 1.1,
    "scores": 1.2,
    "metrics": 1.2,
    "style": 1.2,
    "backbone": 2,
    "synthetic": 2,
    "data": 3,
    "classifier": 4,
    "localisation": 4,
    "eda": 4,
    "inspection": 5,
}
MODULES = sorted(SRC.rglob("*.py"))


def room_of(path):
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported(path):
    """Dotted names of all that a module imports from ``src``, and the absolute imports of it."""
    package = path.relative_to(SRC).with_suffix("").parts[:-1]
    names, absolute = [], []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            absolute += [alias.name for alias in node.names if alias.name.split(".")[0] == "src"]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            absolute += [node.module] if node.module.split(".")[0] == "src" else []
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            modules = [[*base, alias.name] for alias in node.names] if node.module is None else [base]
            names += [".".join(module) for module in modules]
    return names, absolute


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_imports_are_relative_and_point_down(path):
    names, absolute = imported(path)
    assert not absolute
    room = room_of(path)
    for name in names:
        other = name.split(".")[0]
        assert other == room or FLOORS[other] < FLOORS[room], f"{path.relative_to(SRC)} imports {name}"


def test_no_module_imports_itself_by_a_circle():
    graph = {}
    for path in MODULES:
        key = ".".join(path.relative_to(SRC).with_suffix("").parts)
        graph[key] = {name for name in imported(path)[0] if (SRC / Path(*name.split("."))).with_suffix(".py").is_file()}
    done, way = set(), []

    def visit(name):
        assert name not in way, f"a circle: {' -> '.join([*way, name])}"
        if name in done:
            return
        way.append(name)
        for other in graph[name]:
            visit(other)
        way.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_the_rooms_are_those_of_the_plan():
    places = {path.name.removesuffix(".py") for path in SRC.iterdir() if not path.name.startswith("__")}
    assert places <= set(FLOORS) and len(places) <= 12


def test_a_rooms_init_says_what_it_is_for_and_exports_nothing():
    for path in SRC.rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) and len(tree.body) == 1, path
