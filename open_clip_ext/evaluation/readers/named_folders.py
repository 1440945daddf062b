"""Data sets that are published as a folder per class, with clip-benchmark's class names and templates.

They have clip-benchmark's names. Caltech-101 and RESISC45 have no official split and are read completely;
clip-benchmark's shards, which the benchmark `wds` reads, have VTAB's test splits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark
from open_clip_ext.evaluation.readers.classnames import of_clip_benchmark, read_lines, read_templates
from open_clip_ext.evaluation.readers.folders import class_folders, of_folders


def _reader(name: str, count: int, below: tuple[str, ...], what: str) -> Callable[..., Benchmark]:
    """The reader of a data set.

    Args:
        name: clip-benchmark's.
        count: how many classes it has.
        below: folders in `images` that may hold the class folders; the first that exists does.
        what: the docstring's description of it.
    """

    def read(*, images: Path, classnames: Path | None = None, templates: Path | None = None) -> Benchmark:
        root = next((images / folder for folder in below if (images / folder).is_dir()), images)
        folders = class_folders(root)
        if len(folders) != count:
            raise InputError(f"{root}: {len(folders)} folders, but {name} has {count} classes")
        files: dict[str, str] = {}
        named = [folder.name.replace("_", " ") for folder in folders]
        names = (
            read_lines(classnames, files) if classnames else of_clip_benchmark("classnames", name) or named
        )
        if len(names) != count:
            raise InputError(f"{classnames}: {len(names)} class names for the {count} classes of {name}")
        known = None if templates else of_clip_benchmark("zeroshot_classification_templates", name)
        return of_folders(
            name, folders, names, known or read_templates(templates, files), files, [f"all of {root.name}"]
        )

    read.__doc__ = f"""{what}

    Args:
        images: the folder with the class folders, or the one above it.
        classnames: a file with a name per line, in the order of the folders' names (default:
            clip-benchmark's, or the folders').
        templates: a file of templates (default: clip-benchmark's).
    """
    return read


fer2013 = _reader("fer2013", 7, ("test",), "FER2013 as Kaggle's msambare/fer2013 has it: 7,178 in `test`.")
resisc45 = _reader("resisc45", 45, ("NWPU-RESISC45",), "NWPU-RESISC45, 31,500 pictures.")
caltech101 = _reader(
    "caltech101",
    102,
    ("101_ObjectCategories", "caltech-101/101_ObjectCategories"),
    "Caltech-101 with its background class, 9,144 pictures in `101_ObjectCategories`.",
)
