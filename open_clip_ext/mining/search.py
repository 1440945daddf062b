"""The best partners of each picture, by products of features in chunks: no N x N is ever in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

ROWS, COLUMNS = 1024, 8192  # of a chunk: 34 MB
Value = Callable[[slice, slice], Tensor]


class Alike:
    """Which pictures must not be partners, since they have a label in common.

    Args:
        n: the number of pictures.
        labels: (picture, label), such as the hash of its file or one of its captions.
    """

    def __init__(self, n: int, labels: Iterable[tuple[int, str]]) -> None:
        pairs = np.fromiter(_hashed(labels), dtype=[("label", "<u8"), ("picture", "<i8")])
        pairs = np.unique(pairs)  # sorted by label
        _, begins, counts = np.unique(pairs["label"], return_index=True, return_counts=True)
        self._pictures = pairs["picture"]
        shared = counts > 1
        self._begins, self._ends = begins[shared], (begins + counts)[shared]
        groups = np.repeat(np.arange(shared.sum()), counts[shared])
        members = self._pictures[np.repeat(shared, counts)]
        order = np.argsort(members, kind="stable")
        self._groups = groups[order]
        self._of = np.searchsorted(members[order], np.arange(n + 1))

    def __call__(self, picture: int) -> NDArray[np.int64]:
        """The pictures that have a label in common with one, and that one itself."""
        groups = self._groups[self._of[picture] : self._of[picture + 1]]
        found = [self._pictures[self._begins[g] : self._ends[g]] for g in groups]
        return np.unique(np.concatenate([np.array([picture]), *found]))


def _hashed(labels: Iterable[tuple[int, str]]) -> Iterator[tuple[int, int]]:
    for picture, label in labels:
        yield int.from_bytes(blake2b(label.encode(), digest_size=8).digest(), "big"), picture


def nearest(features: Tensor, same: float) -> Value:
    """Cosine of two pictures; -inf from `same` on, since they may be one picture.

    Args:
        features: of unit length, `[N, D]`.
        same: a cosine.
    """

    def value(rows: slice, columns: slice) -> Tensor:
        cosines = features[rows] @ features[columns].T
        return cosines.masked_fill_(cosines >= same, -math.inf)

    return value


def blind(blind: Tensor, seeing: Tensor, above: float, below: float) -> Value:
    """The negated cosine under the seeing model, for pairs that the blind one takes for alike; else -inf.

    Such are the CLIP-blind pairs of Tong et al., Eyes Wide Shut, CVPR 2024.

    Args:
        blind: features `[N, D]`, of unit length, of the model that sees no difference.
        seeing: those of the other one, `[N, D']`.
        above: the cosine that the first has to exceed.
        below: the cosine that the second has to fall below.
    """

    def value(rows: slice, columns: slice) -> Tensor:
        cosines = seeing[rows] @ seeing[columns].T
        alike = blind[rows] @ blind[columns].T > above
        return (-cosines).masked_fill_(~(alike & (cosines < below)), -math.inf)

    return value


def best(
    n: int,
    count: int,
    value: Value,
    alike: Alike,
    rows: int = ROWS,
    columns: int = COLUMNS,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The partners of each picture with the greatest values.

    Args:
        n: the number of pictures.
        count: K, partners of a picture.
        value: of a chunk of pairs, `[rows, columns]`; -inf for those that are none.
        alike: pictures that must not be partners.
        rows: pictures at a time.
        columns: partners at a time.

    Returns:
        Partners `[n, K]`, the best first, -1 where there are no more; and their values `[n, K]`.
    """
    partners = np.full((n, count), -1, np.int64)
    values = np.full((n, count), -math.inf, np.float32)
    with tqdm(total=n, desc="pairs", unit="picture", disable=None) as bar:
        for at in range(0, n, rows):
            these = slice(at, min(at + rows, n))
            excluded = [alike(picture) for picture in range(these.start, these.stop)]
            who = np.repeat(np.arange(len(excluded)), [len(others) for others in excluded])
            whom = np.concatenate(excluded)
            found, places = (torch.from_numpy(array[these].copy()) for array in (values, partners))
            for begin in range(0, n, columns):
                those = slice(begin, min(begin + columns, n))
                chunk = value(these, those)
                inside = (whom >= those.start) & (whom < those.stop)
                out = (torch.from_numpy(who[inside]), torch.from_numpy(whom[inside] - those.start))
                chunk[tuple(index.to(chunk.device) for index in out)] = -math.inf
                top = chunk.topk(min(count, chunk.shape[1]), dim=1)
                both = torch.cat([found, top.values.float().cpu()], 1)
                found, order = both.topk(count, dim=1)
                places = torch.cat([places, top.indices.cpu() + begin], 1).gather(1, order)
            values[these] = found.numpy()
            partners[these] = np.where(np.isneginf(values[these]), -1, places.numpy())
            bar.update(these.stop - these.start)
    return partners, values
