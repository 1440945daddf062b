"""Dependencies point one way, and upstream's trainer is named in the host adapter alone."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import open_clip_ext

PACKAGE = Path(open_clip_ext.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
# May import, below open_clip_ext; what is not listed may import anything but the command line.
ALLOWED = {
    "__init__": [],
    "_startup": ["host"],
    "__main__": ["_startup"],
    "errors": [],
    "files": ["errors"],
    "csv_files": ["errors"],
    "texts": [],
    "data": ["texts"],
    "identity": [],
    "model": ["model", "data", "errors", "identity", "precision"],
    "teacher": ["", "errors", "model"],
    "anchoring": ["anchoring", "errors", "teacher"],
    "precision": [],
    "tables": [],
    "plugins": ["errors"],
    "registry": ["errors", "plugins"],
    "language": ["language", "errors"],
    "negatives": [
        *("negatives", "csv_files", "data", "errors", "files", "language", "plugins", "tables", "texts"),
    ],
    "training": [
        *("training", "", "errors", "model", "negatives", "plugins", "registry", "teacher", "texts"),
    ],
    "host": [
        *("host", "", "csv_files", "data", "errors", "evaluation", "files", "identity", "model"),
        *("language", "negatives", "precision", "teacher", "texts", "training"),
    ],
    "losses": ["losses", "anchoring", "errors", "plugins", "precision", "registry", "teacher"],
    "evaluation": [
        *(
            "evaluation",
            "",
            "csv_files",
            "errors",
            "files",
            "language",
            "model",
            "plugins",
            "tables",
            "texts",
        ),
    ],
    "mining": ["mining", "errors", "evaluation", "files", "model", "negatives", "tables"],
    "export": ["export", "", "errors", "evaluation", "files", "model", "training"],
    "demo": ["demo", "", "errors", "evaluation", "files", "registry", "study", "tables"],
    "cluster": ["cluster", "", "_startup", "host", "registry"],
    "study": ["study", "", "cluster", "errors", "evaluation", "files", "plugins", "registry", "tables"],
}


# By their dotted names.
NAMED = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in MODULES
}


def imports(path: Path, typing: bool = True) -> set[str]:
    """Every module a file imports, at its head or in a function; if `typing`, for annotations alone too."""
    tree = ast.parse(path.read_text())
    blocks = [] if typing else filter(for_typing, ast.walk(tree))
    left_out = {node for block in blocks for node in ast.walk(block)}
    found = set()
    for node in set(ast.walk(tree)) - left_out:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in NAMED else node.module for member in members}
    return found - {"__future__"}


def for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_is_below_it(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    ours = {name for name in imports(path) if name.split(".")[0] == "open_clip_ext"}
    below = {name.split(".")[1] if "." in name else "" for name in ours}
    if part != "cli":
        assert below <= set(ALLOWED[part])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_host_adapter_imports_upstream_s_trainer(path):
    if path.relative_to(PACKAGE).parts[0] != "host":
        assert not any(name.split(".")[0] == "open_clip_train" for name in imports(path))


def test_no_modules_import_each_other():
    graph = {name: imports(path, typing=False) & set(NAMED) for name, path in NAMED.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_nothing_branches_on_the_name_of_a_loss():
    names = {"clip", "negclip", "ce-clip", "degla"}
    for path in MODULES:
        if "demo" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not constants & names, f"{path}:{node.lineno}"
