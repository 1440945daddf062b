"""Pictures that are not separate files: members of a tar file, or samples of a data set."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Picture


@dataclass(frozen=True)
class Member(Picture):
    """A picture in an uncompressed tar file; `path` names both."""

    tar: str = ""
    offset: int = 0
    size: int = 0

    def exists(self) -> bool:
        """Whether the tar file exists."""
        return os.path.isfile(self.tar)

    def read(self) -> bytes:
        """The bytes of the member."""
        with open(self.tar, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Sample(Picture):
    """Picture number `index` of a data set with the interface of torchvision's; `path` names both."""

    dataset: Any = field(default=None, compare=False, repr=False)
    index: int = 0

    def exists(self) -> bool:
        """Always true: the data set has been opened."""
        return True

    def read(self) -> bytes:
        """The picture as a PNG file."""
        picture = self.dataset[self.index][0]
        encoded = BytesIO()
        picture.convert("RGB").save(encoded, "png", compress_level=0)
        return encoded.getvalue()


def members(path: Path) -> Iterator[tuple[str, Member]]:
    """The name and position of every file in a tar file.

    Raises InputError if it is not an uncompressed tar file.
    """
    try:
        with tarfile.open(path, "r:") as tar:  # not compressed: members are read in any order
            for member in tar:
                if member.isfile():
                    yield (
                        member.name,
                        Member(
                            f"{path}/{member.name}",
                            tar=str(path),
                            offset=member.offset_data,
                            size=member.size,
                        ),
                    )
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{path}: not a readable tar file ({error})") from error
