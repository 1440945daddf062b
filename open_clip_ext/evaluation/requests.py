"""What scoring will ask of a model, found out without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from open_clip_ext.evaluation.items import Encoder, Picture

if TYPE_CHECKING:
    from torch import Tensor

# `pictures` or `texts`, and the inputs of one call, in order.
Request = tuple[str, Sequence[Any]]


class Requests:
    """Takes the place of a model and notes what is asked of it. All its features are equal, `[N, 1]`."""

    def __init__(self) -> None:
        self.noted: list[Request] = []

    def pictures(self, pictures: Sequence[Picture], *, unit: bool = True) -> Tensor:
        """Note a call."""
        return self._note("pictures", pictures)

    def texts(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        """Note a call."""
        return self._note("texts", texts)

    def _note(self, kind: str, inputs: Sequence[Any]) -> Tensor:
        import torch

        self.noted.append((kind, list(inputs)))
        return torch.ones(len(inputs), 1)


def of(score: Callable[[Encoder], object]) -> list[Request]:
    """The calls that `score` makes of an encoder; they must not depend on the features."""
    noting = Requests()
    score(noting)
    return noting.noted
