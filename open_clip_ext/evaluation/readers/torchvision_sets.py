"""Classification data sets that torchvision reads, with clip-benchmark's class names and templates.

They have clip-benchmark's names. Nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Picture
from open_clip_ext.evaluation.readers.classnames import of_clip_benchmark, read_lines, read_templates
from open_clip_ext.evaluation.scoring import classification
from open_clip_ext.evaluation.scoring.classification import Classes
from open_clip_ext.evaluation.stored import Sample


def _reader(name: str, cls: str, separators: str = "_", **options: Any) -> Callable[..., Benchmark]:
    """The reader of a data set.

    Args:
        name: clip-benchmark's.
        cls: the class in `torchvision.datasets`.
        separators: characters that stand for a space in torchvision's class names.
        options: of the class.
    """

    def read(*, images: Path, classnames: Path | None = None, templates: Path | None = None) -> Benchmark:
        dataset = _open(name, cls, images, options)
        files: dict[str, str] = {}
        names = _names(name, dataset, classnames, separators, files)
        classes = Classes(names, _templates(name, templates, files))
        note = f"torchvision.datasets.{cls}({', '.join(f'{k}={v!r}' for k, v in options.items())})"
        return classification.benchmark(
            name, _pictures(dataset, images), _labels(dataset), classes, files, [note]
        )

    read.__doc__ = f"""{cls} as torchvision stores it.

    Args:
        images: the `root` that torchvision was given.
        classnames: a file with a name per line (default: clip-benchmark's or torchvision's).
        templates: a file of templates (default: clip-benchmark's).
    """
    return read


cifar10 = _reader("cifar10", "CIFAR10", train=False)
cifar100 = _reader("cifar100", "CIFAR100", train=False)
mnist = _reader("mnist", "MNIST", train=False)
stl10 = _reader("stl10", "STL10", split="test")
svhn = _reader("svhn", "SVHN", split="test")
dtd = _reader("dtd", "DTD", split="test")
eurosat = _reader("eurosat", "EuroSAT")
food101 = _reader("food101", "Food101", split="test")
pets = _reader("pets", "OxfordIIITPet", split="test")
flowers = _reader("flowers", "Flowers102", split="test")
cars = _reader("cars", "StanfordCars", split="test")
aircraft = _reader("fgvc_aircraft", "FGVCAircraft", split="test")
sun397 = _reader("sun397", "SUN397", separators="_/")
country211 = _reader("country211", "Country211", split="test")
rendered_sst2 = _reader("renderedsst2", "RenderedSST2", split="test")
gtsrb = _reader("gtsrb", "GTSRB", split="test")
pcam = _reader("pcam", "PCAM", split="test")


def _open(name: str, cls: str, root: Path, options: dict[str, Any]) -> Any:
    from torchvision import datasets

    try:
        return getattr(datasets, cls)(str(root), download=False, **options)
    except ImportError as error:
        raise InputError(
            f"{name}: torchvision needs {error.name or error} to read it; pip install it"
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        given = "".join(f", {key}={value!r}" for key, value in options.items())
        raise InputError(
            f"{name}: torchvision finds no complete copy of it below {root} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); put it there with "
            f"torchvision.datasets.{cls}({str(root)!r}{given}, download=True)"
        ) from error


def _labels(dataset: Any) -> list[int]:
    """The label of every picture, without decoding pictures if the data set lists its labels."""
    for attribute in ("targets", "labels", "_labels"):
        if len(found := getattr(dataset, attribute, ())) == len(dataset):
            return [int(label) for label in found]
    for attribute in ("samples", "_samples"):
        if len(found := getattr(dataset, attribute, ())) == len(dataset):
            return [int(label) for _, label in found]
    return [int(dataset[index][1]) for index in range(len(dataset))]


def _pictures(dataset: Any, root: Path) -> list[Picture]:
    """The files of a data set if it lists them, otherwise its samples."""
    for attribute in ("samples", "_samples", "_image_files", "_images"):
        listed: Sequence[Any] = getattr(dataset, attribute, ())
        paths = [entry[0] if isinstance(entry, tuple) else entry for entry in listed]
        if len(paths) == len(dataset) and all(isinstance(path, str | os.PathLike) for path in paths):
            return [Picture(str(path)) for path in paths]
    where = f"{root}/{type(dataset).__name__}"
    return [Sample(f"{where}/{index}", dataset=dataset, index=index) for index in range(len(dataset))]


def _names(
    name: str, dataset: Any, path: Path | None, separators: str, files: dict[str, str]
) -> tuple[str, ...]:
    if path:
        return tuple(read_lines(path, files))
    if known := of_clip_benchmark("classnames", name):
        return known
    names: Sequence[str] = dataset.classes
    return tuple("".join(" " if c in separators else c for c in found) for found in names)


def _templates(name: str, path: Path | None, files: dict[str, str]) -> tuple[str, ...]:
    if path:
        return read_templates(path, files)
    return of_clip_benchmark("zeroshot_classification_templates", name) or read_templates(None, files)
