from __future__ import annotations

import pytest
from support_mining import write_data, write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A tiny model, and the files of two sets of weights for it."""
    return write_weights(tmp_path_factory.mktemp("weights"), (0, 1))


@pytest.fixture
def flags(weights, tmp_path) -> list[str]:
    """Of the first model, with a cache of its own."""
    name, file, _ = weights
    cache = str(tmp_path / "cache")
    return [
        "--model",
        name,
        "--pretrained",
        file,
        "--activation",
        "gelu",
        "--device",
        "cpu",
        "--cache",
        cache,
    ]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """captions.csv and n.store in the working directory."""
    found = write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def stop(capsys):
    """Run a command that must stop; its sentence."""
    from open_clip_ext.cli import main

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["negatives", *map(str, arguments)])
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("open_clip_ext: ")

    return run
