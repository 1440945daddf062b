"""Images of a CSV file that cannot be read: found before a run, or passed over within it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from open_clip_ext.errors import InputError

# Images that are looked for, and those of them that are decoded, before a run; spread over the file.
LOOKED_FOR, DECODED = 1024, 64
# Rows one after the other without a readable image after which a run stops: it is not the images then.
PATIENCE = 100


def check(paths: Sequence[str], folder: Path) -> tuple[dict[int, str], int]:
    """What is wrong with some of the images, by their place; and how many were looked at.

    Args:
        paths: all of them.
        folder: of the file that names them.
    """
    decoded = set(spread(len(paths), DECODED))
    rows = sorted(decoded.union(spread(len(paths), LOOKED_FOR)))

    def reason(row: int) -> str:
        looked_at = row in decoded or not os.path.exists(paths[row])
        return problem(paths[row], folder) if looked_at else ""

    with ThreadPoolExecutor(16) as pool:
        reasons = list(pool.map(reason, rows))
    return {row: found for row, found in zip(rows, reasons, strict=True) if found}, len(rows)


def spread(count: int, most: int) -> range:
    """At most `most` places of `count`, evenly spread."""
    return range(0, count, max(1, -(-count // most)))


def problem(path: str, folder: Path) -> str:
    """What is wrong with an image, to follow its name; empty if it can be read.

    Args:
        path: as the file has it.
        folder: of the file that names it.
    """
    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except FileNotFoundError:
        return _missing(path, folder)
    except IsADirectoryError:
        return "is a folder"
    except UnidentifiedImageError:
        return "is no picture" if os.path.getsize(path) else "is empty"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except Exception as error:  # each format has its own
        return f"cannot be read ({error})"
    return ""


def _missing(path: str, folder: Path) -> str:
    if not path.strip():
        return "has no name"
    if "://" in path:
        return "is an address; download the pictures first"
    if os.path.exists(path.strip()):
        return "does not exist; without the blanks around its name it does"
    if os.path.isabs(path):
        return "does not exist on this node"
    taken = f"does not exist: relative paths start at the folder that the run is started in, {Path.cwd()}"
    inside = os.path.exists(folder / path)
    return f"{taken}; start it in {folder.resolve()}, where this one exists" if inside else taken


class ReadableImages(Dataset[Any]):
    """Upstream's CSV samples, watched for images that cannot be read.

    One raises InputError. Or, if such images are skipped, the sample is the next row's that can be
    read: batches keep their size, on all ranks, and a resumed run repeats them.

    Args:
        samples: upstream's dataset.
        path: the CSV file.
        skipped: told how many images are skipped; None to skip none.
    """

    def __init__(self, samples: Any, path: str, skipped: Callable[[int], None] | None) -> None:
        self.samples, self.path, self.skipped = samples, path, skipped

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        sentence = ""
        for row in range(index, index + PATIENCE):
            row %= len(self)
            try:
                return self.samples[row]
            except Exception:
                image = str(list(self.samples.images)[row])  # with the task API a pandas Series
                reason = problem(image, Path(self.path).parent)
                if not reason:  # then it is not the image's fault, or no longer
                    raise
                sentence = f"{self.path}, data row {row + 1}: picture {image!r} {reason}"
            if self.skipped is None:
                raise InputError(
                    f"{sentence}; repair it or leave out the row and go on from the last checkpoint, or skip "
                    "such pictures by --skip-broken-images"
                )
            self.skipped(1)
            logging.warning(f"open_clip_ext: {sentence}; the next row takes its place")
        raise InputError(f"{sentence}, and neither can those of the {PATIENCE - 1} rows before it be read")
