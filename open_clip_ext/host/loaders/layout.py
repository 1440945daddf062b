"""How an upstream lays out the samples and batches of its training loaders."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any


class Layout(abc.ABC):
    """Where image and text are, in a sample as in a batch of them, and how a sample brings a number along."""

    @abc.abstractmethod
    def image(self, batch: Any) -> Any:
        """The image of a sample, or the images of a batch."""

    @abc.abstractmethod
    def with_image(self, batch: Any, image: Any) -> Any:
        """The sample or batch with another image, or other images."""

    @abc.abstractmethod
    def text(self, batch: Any) -> Any:
        """The text of a sample, or the texts of a batch."""

    @abc.abstractmethod
    def with_text(self, batch: Any, text: Any) -> Any:
        """The sample or batch with another text, or other texts."""

    @abc.abstractmethod
    def with_number(self, sample: Any, number: int) -> Any:
        """The sample with a number."""

    @abc.abstractmethod
    def split_numbers(self, batch: Any) -> tuple[Any, Sequence[Any]]:
        """A batch of such samples as upstream's loop wants it, and their numbers."""
