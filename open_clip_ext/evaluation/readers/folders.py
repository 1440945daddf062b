"""Classification from folders of pictures, one folder per class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Picture
from open_clip_ext.evaluation.readers.classnames import read_lines, read_templates
from open_clip_ext.evaluation.scoring import classification
from open_clip_ext.evaluation.scoring.classification import Classes

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def imagenet(*, images: Path, templates: Path | None = None) -> Benchmark:
    """ImageNet-1k, V2, Sketch, A, R or O: a folder of WordNet ids, or of labels 0 to 999.

    The names are OpenAI's, from open_clip. A folder with fewer ids is scored among its own classes, as usual
    for ImageNet-A, R and O.

    Args:
        images: the folder with the class folders.
        templates: a file of templates (default: OpenAI's 80).
    """
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    ids = ImageNetInfo("imagenet-1k").label_names()
    label = {folder: index for index, folder in enumerate(ids)}
    label |= {str(index): index for index in range(len(ids))}
    folders = class_folders(images)
    unknown = [folder.name for folder in folders if folder.name not in label]
    if unknown:
        raise InputError(
            f"{images}: the folder {unknown[0]} is not named after a class of ImageNet-1k "
            "(n01440764, ... or 0 to 999); read other classes with image-folder"
        )
    folders.sort(key=lambda folder: label[folder.name])
    names = [IMAGENET_CLASSNAMES[label[folder.name]] for folder in folders]
    files: dict[str, str] = {}
    return of_folders(f"imagenet-{images.name}", folders, names, read_templates(templates, files), files)


def image_folder(*, images: Path, classnames: Path | None = None, templates: Path | None = None) -> Benchmark:
    """Any folder of class folders, in the order of their names.

    Args:
        images: the folder with the class folders.
        classnames: a file with a name per line (default: the folders' names, with `_` read as a space).
        templates: a file of templates (default: OpenAI's 80 for ImageNet).
    """
    folders = class_folders(images)
    files: dict[str, str] = {}
    names = [folder.name.replace("_", " ") for folder in folders]
    if classnames:
        names = read_lines(classnames, files)
        if len(names) != len(folders):
            raise InputError(
                f"{classnames}: {len(names)} class names for the {len(folders)} folders of {images}"
            )
    return of_folders(f"image-folder-{images.name}", folders, names, read_templates(templates, files), files)


def class_folders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, by name. Raises InputError if there is none."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; it should hold a folder of pictures for each class")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not folders:
        raise InputError(f"{root}: no folder in it; it should hold a folder of pictures for each class")
    return folders


def pictures_in(folder: Path) -> Iterator[Picture]:
    """The pictures below a folder, by path."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield Picture(str(path))


def of_folders(
    name: str,
    folders: Sequence[Path],
    names: Sequence[str],
    templates: tuple[str, ...],
    files: dict[str, str],
    notes: Sequence[str] = (),
) -> Benchmark:
    """Classification of the pictures below `folders`, whose classes have these names.

    Raises InputError if there is no picture.
    """
    found = [(picture, label) for label, path in enumerate(folders) for picture in pictures_in(path)]
    if not found:
        raise InputError(f"{folders[0].parent}: no picture in its folders ({', '.join(SUFFIXES)})")
    pictures, labels = zip(*found, strict=True)
    return classification.benchmark(name, pictures, labels, Classes(tuple(names), templates), files, notes)
