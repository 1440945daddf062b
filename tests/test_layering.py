"""Dependencies point one way, and upstream's trainer is named in the host adapter alone."""

from __future__ import annotations

import ast
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
    "model": ["model", "data", "errors", "precision"],
    "teacher": ["", "errors", "model"],
    "precision": [],
    "tables": [],
    "plugins": ["errors"],
    "registry": ["errors", "plugins"],
    "negatives": ["negatives", "csv_files", "data", "errors", "files", "plugins", "tables", "texts"],
    "training": ["training", "", "errors", "model", "negatives", "registry", "teacher"],
    "host": [
        *("host", "", "csv_files", "data", "errors", "evaluation", "files", "model"),
        *("negatives", "precision", "teacher", "texts", "training"),
    ],
    "losses": ["losses", "precision", "teacher"],
    "evaluation": [
        *("evaluation", "", "errors", "files", "model", "plugins", "tables", "texts"),
    ],
    "demo": ["demo", "", "errors", "evaluation", "files", "registry", "tables"],
    "cluster": ["cluster", "", "_startup", "host", "registry"],
}


def imports(path: Path) -> set[str]:
    """Every module a file imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "open_clip_ext":
            found |= {
                f"open_clip_ext.{alias.name}"
                if (PACKAGE / alias.name).exists() or (PACKAGE / f"{alias.name}.py").exists()
                else "open_clip_ext"
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found - {"__future__"}


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


def test_nothing_branches_on_the_name_of_a_loss():
    names = {"clip", "negclip", "ce-clip", "degla"}
    for path in MODULES:
        if "demo" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not constants & names, f"{path}:{node.lineno}"
