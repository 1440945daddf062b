"""The start-up files: armed however installed, silent, harmless, and gone when uninstalled."""

from __future__ import annotations

import email
import json
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import environments
import pytest
from environments import Environment

from open_clip_ext import _startup, cli
from open_clip_ext.host.released import SEAMS

# Prints the finders of ours that wait for upstream's trainer.
TRIGGERS = """
import sys
print([type(finder).__module__ for finder in sys.meta_path if type(finder).__name__ == "Trigger"])
"""
ARMED = "['open_clip_ext._startup']\n"
UNARMED = "[]\n"
# Prints which seams hold upstream's own function, before and after its main module is imported.
OWN_FUNCTIONS = """
import importlib, json, sys
from open_clip_ext import _startup
from open_clip_ext.host.released import SEAMS
modules = [importlib.import_module(seam.module) for seam in SEAMS]
held = [getattr(module, seam.name) for module, seam in zip(modules, SEAMS)]
waiting = _startup.armed()
import open_clip_train.main
now = [getattr(module, seam.name) for module, seam in zip(modules, SEAMS)]
print(json.dumps({
    "waiting": waiting,
    "held": [not hasattr(function, "__wrapped__") for function in held],
    "kept": [a is b for a, b in zip(held, now)],
    "bound": open_clip_train.main.parse_args is now[0],
}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, str]:
    """The wheel that comes out of the source distribution, and all that was said meanwhile."""
    folder = tmp_path_factory.mktemp("sdist")
    source = environments.copy_source(folder / "source")
    command = ["-m", "build", "--no-isolation", "--outdir", folder, source]
    made = subprocess.run(
        [sys.executable, *map(str, command)],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert list(folder.glob("*.tar.gz"))
    return next(folder.glob("*.whl")), made.stdout


@pytest.fixture(scope="module")
def sdist_wheel(built) -> Path:
    return built[0]


@pytest.fixture(scope="module", params=["wheel", "sdist", "source", "editable", "strict"])
def installed(request, tmp_path_factory, packages) -> Environment:
    """The plugin installed in one of the ways there are; bare.json lists the files before."""
    folder = tmp_path_factory.mktemp(request.param)
    made = environments.create(folder / "venv", packages)
    (folder / "bare.json").write_text(json.dumps(sorted(map(str, made.files()))))
    if request.param == "wheel":
        made.install(request.getfixturevalue("wheel"))
    elif request.param == "sdist":
        made.install(request.getfixturevalue("sdist_wheel"))
    else:
        source = environments.copy_source(folder / "source")
        options = {
            "source": [],
            "editable": ["--editable"],
            "strict": ["--config-settings", "editable_mode=strict", "--editable"],
        }
        made.install(*options[request.param], source)
    return made


# Every way to install it


def test_it_is_armed(installed):
    assert installed.run("-c", TRIGGERS).stdout == ARMED


def test_start_up_imports_the_standard_library_and_nothing_else(installed):
    names = installed.run("-c", "import sys; print(*sys.modules)").stdout.split()
    ours = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    of_the_interpreter = {"__main__", "sitecustomize", "usercustomize"}
    assert ours - of_the_interpreter == {"open_clip_ext", "open_clip_ext._startup"}


def test_the_kill_switch_leaves_it_unarmed(installed):
    assert installed.run("-c", TRIGGERS, OPEN_CLIP_EXT=0).stdout == UNARMED


def test_uninstalling_leaves_nothing(installed, tmp_path):
    spare = installed.copy(tmp_path / "venv")
    spare.pip("uninstall", "--yes", "--quiet", "open_clip_ext")
    bare = json.loads((installed.folder.parent / "bare.json").read_text())
    assert sorted(map(str, spare.files())) == bare
    assert spare.run("-c", TRIGGERS).stdout == UNARMED


# The files themselves


def test_building_warns_of_nothing_that_ends(built):
    """setuptools says so of metadata in a form that it will refuse, `license = {text = ...}` among them."""
    said = [line for line in built[1].splitlines() if "deprecated" in line.lower()]
    assert said == []


def test_the_wheel_tells_its_license_and_has_types(wheel, sdist_wheel):
    for made in (wheel, sdist_wheel):
        with zipfile.ZipFile(made) as archive:
            names = archive.namelist()
            assert "open_clip_ext/py.typed" in names
            (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
            assert metadata.replace("METADATA", "licenses/LICENSE") in names
            about = email.message_from_bytes(archive.read(metadata))
        assert about["License-Expression"] == "MIT"
        assert not any("License ::" in classifier for classifier in about.get_all("Classifier"))
        assert len(about.get_all("Project-URL")) == 4


def test_the_wheel_holds_both_files_at_its_root(wheel, sdist_wheel):
    for made in (wheel, sdist_wheel):
        with zipfile.ZipFile(made) as archive:
            assert {name for name in archive.namelist() if name.endswith((".pth", ".start"))} == {
                "open_clip_ext.pth",
                "open_clip_ext.start",
            }


def test_the_pth_is_one_line_that_site_executes(target):
    text = (target / "open_clip_ext.pth").read_text()
    assert text.startswith("import ")
    assert text.count("\n") == 1


def test_the_start_file_names_arm(target):
    """PEP 829 resolves each line by `pkgutil.resolve_name` and calls what it finds."""
    (line,) = (target / "open_clip_ext.start").read_text().splitlines()
    assert line == "open_clip_ext._startup:arm"
    assert pkgutil.resolve_name(line) is _startup.arm


def test_arming_twice_arms_once(armed):
    again = f"from open_clip_ext._startup import arm; arm(); arm(){TRIGGERS}"
    assert armed.run("-c", again).stdout == ARMED


# What may go wrong


def test_a_left_over_file_is_silent(unarmed, target, tmp_path):
    spare = unarmed.copy(tmp_path / "venv")
    shutil.copy(target / "open_clip_ext.pth", spare.site)
    started = spare.run("-c", "print('well')")
    assert (started.returncode, started.stdout, started.stderr) == (0, "well\n", "")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("_startup.py", "raise RuntimeError"),
        ("_startup.py", "def ("),
        ("_startup.py", "import no_such_module"),
        ("_startup.py", "def arm(): return no_such_name"),
        ("__init__.py", "raise OSError"),
    ],
)
def test_a_broken_package_breaks_no_interpreter(armed, tmp_path, file, text):
    spare = armed.copy(tmp_path / "venv")
    (spare.site / "open_clip_ext" / file).write_text(text)
    started = spare.run("-c", "print('well')")
    assert (started.returncode, started.stdout, started.stderr) == (0, "well\n", "")


def test_a_broken_adapter_lets_a_plain_run_go_on_and_stops_one_with_a_loss(armed, tmp_path):
    spare = armed.copy(tmp_path / "venv")
    (spare.site / "open_clip_ext" / "host" / "released.py").write_text("import no_such_module")
    plain = spare.run("-c", "from open_clip_ext._startup import install; install()")
    assert plain.returncode == 0
    assert plain.stderr.count("\n") == 1
    assert "no_such_module" in plain.stderr
    run = spare.run("-m", "open_clip_train.main", "--loss=degla")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1


# Where start-up files are not read


def test_without_site_it_is_not_armed(armed):
    assert armed.run("-S", "-c", TRIGGERS).stdout == UNARMED


def test_on_pythonpath_it_is_not_armed(unarmed, target):
    assert unarmed.run("-c", TRIGGERS, PYTHONPATH=target).stdout == UNARMED


def test_running_the_package_needs_no_start_up_file(unarmed, packages, target):
    shown = unarmed.run("-S", "-m", "open_clip_ext", "--help", PYTHONPATH=f"{target}:{packages}")
    assert shown.returncode == 0, shown.stderr
    assert "--loss NAME" in shown.stdout
    assert "--loss-dist-impl" in shown.stdout


def test_running_the_package_under_the_kill_switch_says_so(armed):
    refused = armed.run("-m", "open_clip_ext", "--help", OPEN_CLIP_EXT=0)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "OPEN_CLIP_EXT=0" in refused.stderr


# The trigger


def own_functions(environment: Environment, **variables: object) -> dict:
    ran = environment.run("-c", OWN_FUNCTIONS, **variables)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_upstream_s_functions_are_its_own_until_its_trainer_is_asked_for(armed):
    found = own_functions(armed)
    assert found["waiting"], "importing upstream's other modules fired the trigger"
    assert all(found["held"])
    assert not any(found["kept"])
    assert found["bound"], "upstream's main module bound a function before it was wrapped"


def test_upstream_s_functions_stay_its_own_under_the_kill_switch(armed):
    found = own_functions(armed, OPEN_CLIP_EXT=0)
    assert not found["waiting"]
    assert all(found["held"])
    assert all(found["kept"])


def test_without_the_plugin_upstream_refuses_our_second_flag(armed):
    """It takes `--loss` for `--loss-dist-impl`; `--loss-cfg` is what stops such a run."""
    parse = "import sys; from open_clip_train.params import parse_args; parse_args(sys.argv[1:])"
    assert armed.run("-c", parse, "--loss=degla", OPEN_CLIP_EXT=0).returncode == 0
    run = armed.run("-c", parse, "--loss=degla", "--loss-cfg", "ema_decay=0.9", OPEN_CLIP_EXT=0)
    assert run.returncode == 2
    assert "unrecognized arguments: --loss-cfg" in run.stderr


# The doctor


@pytest.fixture
def at_the_doctor_s(monkeypatch):
    """This process as an armed one, its trigger first, without a kill switch."""
    monkeypatch.delenv("OPEN_CLIP_EXT", raising=False)
    others = [finder for finder in sys.meta_path if not isinstance(finder, _startup.Trigger)]
    monkeypatch.setattr(sys, "meta_path", [_startup.Trigger(), *others])


def test_the_doctor_is_content(armed):
    visit = armed.call(armed.folder / "bin" / "open-clip-ext", "doctor")
    assert visit.returncode == 0, visit.stdout + visit.stderr
    assert visit.stdout.endswith("all well\n")


def test_the_doctor_finds_it_unarmed(at_the_doctor_s, monkeypatch, capsys):
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[1:])
    assert cli.main(["doctor"]) == 1
    assert "FAIL  armed in this interpreter: no start-up file was read" in capsys.readouterr().out


def test_the_doctor_finds_the_kill_switch(at_the_doctor_s, monkeypatch, capsys):
    monkeypatch.setenv("OPEN_CLIP_EXT", "0")
    assert cli.main(["doctor"]) == 1
    assert "OPEN_CLIP_EXT=0 turns it off" in capsys.readouterr().out


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.name)
def test_the_doctor_finds_a_seam_that_takes_other_parameters(at_the_doctor_s, monkeypatch, capsys, seam):
    monkeypatch.setattr(f"{seam.module}.{seam.name}", lambda task: None)
    assert cli.main(["doctor"]) == 1
    assert f"{seam.name} takes (task), not ({seam.parameters[0]}" in capsys.readouterr().out


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.name)
def test_the_doctor_finds_a_seam_that_is_gone(at_the_doctor_s, monkeypatch, capsys, seam):
    monkeypatch.delattr(f"{seam.module}.{seam.name}")
    assert cli.main(["doctor"]) == 1
    assert f"{seam.module} has no {seam.name}" in capsys.readouterr().out


# An upstream that does not fit


def edited_upstream(folder: Path, packages: Path, file: str, old: str, new: str) -> Path:
    """A copy of upstream's trainer with one edit, to be found before the installed one."""
    copy = folder / "open_clip_train"
    shutil.copytree(packages / "open_clip_train", copy)
    text = (copy / file).read_text()
    assert text.count(old) == 1
    (copy / file).write_text(text.replace(old, new))
    return folder


@pytest.fixture(scope="module")
def on_a_mismatch(armed, packages, tmp_path_factory) -> subprocess.CompletedProcess[str]:
    """A plain call to the parser of an upstream that does not fit, then one with `--loss`."""
    folder = edited_upstream(
        tmp_path_factory.mktemp("mismatch"),
        packages,
        "file_utils.py",
        "def pt_load(file_path, map_location=None)",
        "def pt_load(file_path, weights_only=True)",
    )
    calls = (
        "from open_clip_train.main import parse_args;"
        "print(parse_args(['--lr', '0.5']).lr); parse_args(['--loss', 'degla'])"
    )
    return armed.run("-c", calls, PYTHONPATH=folder)


def test_a_plain_run_does_not_mind_an_upstream_that_does_not_fit(on_a_mismatch):
    assert on_a_mismatch.stdout == "0.5\n"


def test_a_loss_on_an_upstream_that_does_not_fit_stops_with_one_sentence(on_a_mismatch):
    assert on_a_mismatch.returncode == 2
    assert on_a_mismatch.stderr.count("\n") == 1
    assert "open_clip_train.file_utils.pt_load takes (file_path, weights_only)" in on_a_mismatch.stderr


def test_an_upstream_with_a_flag_of_the_same_name_stops_with_one_sentence(armed, packages, tmp_path):
    folder = edited_upstream(
        tmp_path,
        packages,
        "params.py",
        "    args = parser.parse_args(args)\n",
        "    parser.add_argument('--loss')\n    args = parser.parse_args(args)\n",
    )
    run = armed.run("-m", "open_clip_train.main", "--loss", "degla", PYTHONPATH=folder)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "has a flag of the same name" in run.stderr
    assert "--loss" in run.stderr


def test_a_seam_that_someone_decorated_is_wrapped_all_the_same(armed, packages, tmp_path):
    folder = edited_upstream(
        tmp_path,
        packages,
        "params.py",
        "def parse_args(args):",
        "import functools\ndef decorated(f):\n    return functools.wraps(f)(lambda args: f(args))\n"
        "@decorated\ndef parse_args(args):",
    )
    run = armed.run("-m", "open_clip_train.main", "--loss", "no-such-loss", PYTHONPATH=folder)
    assert (run.returncode, run.stderr.count("no such loss")) == (2, 1)


def test_an_upstream_without_a_module_stops_with_one_sentence(armed, packages, tmp_path):
    folder = edited_upstream(tmp_path, packages, "file_utils.py", "def pt_load", "def pt_load")
    (folder / "open_clip_train" / "file_utils.py").unlink()
    run = armed.run(
        "-c",
        "import open_clip_ext.host as h; h.install();"
        "from open_clip_train.params import parse_args; parse_args(['--loss', 'degla'])",
        PYTHONPATH=folder,
    )
    assert run.returncode == 2
    assert "open_clip_train.file_utils cannot be imported" in run.stderr
