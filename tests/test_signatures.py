"""Parameters of upstream's functions: its source tells the same as its modules, or leaves it to them."""

from __future__ import annotations

import sys

import pytest

from open_clip_ext import host
from open_clip_ext.host import signatures

READ = {
    "of every kind": "def f(a, /, b, c=1, *d, e, g=2, **h): ...",
    "from a neighbour": "from .there import f",
    "from a neighbour under another name": "from .there import g as f",
    "from a package": "from package.there import g, f",
    "twice removed": "from .between import f",
    "where a package may be missing": "try: import no_such_package\nexcept ImportError: ...\ndef f(a): ...",
}
LEFT_TO_THE_MODULES = {
    "decorated": "import functools as t\ndef d(f): return t.wraps(f)(lambda *a: f(*a))\n@d\ndef f(a, b): ...",
    "defined twice": "def f(a): ...\ndef f(b, c): ...",
    "defined where it depends": "import sys\nif sys.platform:\n    def f(a): ...\nelse:\n    def f(b): ...",
    "given another value": "def f(a): ...\nf = lambda b: 0",
    "made": "import functools\nf = functools.partial(lambda a, b: 0, 1)",
    "a class": "class f:\n    def __init__(self, a): ...",
    "from a star": "from .there import *",
    "from __getattr__": "def __getattr__(name): return lambda a, b: 0",
    "not there": "def g(a): ...",
    "not where it is imported from": "from .there import h as f",
    "from a module that is not there": "from .nowhere import f",
    "in a module that needs a package": "import no_such_package\ndef f(a): ...",
    "from a module that needs a package": "from .needy import f",
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Make the module `package.here` of this text; nothing of the package is imported yet."""

    def write(text: str) -> str:
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "there.py").write_text("def f(a, b): ...\ndef g(c): ...\n")
        (package / "between.py").write_text("from .there import f\n")
        (package / "needy.py").write_text("import no_such_package\ndef f(a): ...\n")
        (package / "here.py").write_text(text)
        return "package.here"

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "package"]:
        del sys.modules[name]


def told(parameters, module: str) -> object:
    try:
        return parameters(module, "f")
    except (ImportError, AttributeError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_source_that_can_tell_is_not_imported(write, text):
    module = write(text)
    found = told(signatures.read, module)
    assert "package" not in sys.modules
    assert found == told(signatures.imported, module)


@pytest.mark.parametrize("text", LEFT_TO_THE_MODULES.values(), ids=LEFT_TO_THE_MODULES)
def test_source_that_cannot_tell_is_imported(write, text):
    """So that what is said of a fault is the same in either way."""
    module = write(text)
    assert signatures._read(module, "f") is None
    assert told(signatures.read, module) == told(signatures.imported, module)


def test_a_module_that_is_imported_is_asked_itself(write, monkeypatch):
    module = write("def f(a): ...")
    assert signatures.imported(module, "f") == ("a",)
    monkeypatch.setattr(f"{module}.f", lambda b: None)
    assert signatures.read(module, "f") == ("b",)


@pytest.mark.parametrize("seam", host.choose(signatures.read)[0].seams, ids=lambda seam: seam.name)
def test_the_installed_upstream_is_read_as_it_is(seam):
    assert signatures._read(seam.module, seam.name) == signatures.imported(seam.module, seam.name)


def test_the_doctor_imports_no_model(armed):
    """Which takes most of its time."""
    visit = (
        "import sys; from open_clip_ext import cli; status = cli.main(['doctor']);"
        "sys.exit(status or str({'open_clip', 'torchvision'} & set(sys.modules)))"
    )
    assert armed.run("-c", visit).stderr == "set()\n"
