"""Retrieval with several captions per picture: Karpathy's splits, COCO, Flickr30k.

Recall at k (R@k) is the share of queries with a true answer among their first k, with ties decided against
it. In `i2t` a picture has to find any of its captions, in `t2i` a caption its picture. Captions with the same
words are true of every picture that one of them was written for, because no model can distinguish them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from open_clip_ext.evaluation.items import Benchmark, Encoder, Item, Picture, Row
from open_clip_ext.evaluation.scorer import COSINE, Chosen

if TYPE_CHECKING:
    from torch import Tensor

    from open_clip_ext.evaluation.scoring.ranking import Again

AT = (1, 5, 10)
DIRECTIONS = ("i2t", "t2i")


def benchmark(
    name: str, captioned: Mapping[Picture, Sequence[str]], files: Mapping[str, str], notes: Sequence[str] = ()
) -> Benchmark:
    """A retrieval benchmark from pictures and their captions."""
    items = [
        Item(str(index), (picture,), tuple(captions), "multi-pos", tuple(range(len(captions))))
        for index, (picture, captions) in enumerate(captioned.items())
    ]
    count = sum(len(item.captions) for item in items)
    both = [f"R@{k} macro" for k in AT]
    one = [f"{direction} R@{k} micro" for direction in DIRECTIONS for k in AT]
    return Benchmark(
        name,
        items,
        (*both, *one),
        files,
        (f"{len(items)} pictures, {count} captions; R@k macro is the mean of both directions", *notes),
        "retrieval",
        retrieve,
    )


def retrieve(encoder: Encoder, items: Sequence[Item], scorer: Chosen = COSINE) -> list[Row]:
    """A row per query, pictures first.

    The order of candidates is that of the cosine. Another scorer puts the first `rerank` of each query in its
    own order, as ComCLIP's authors do, because it cannot score every caption with every picture.

    The row of a picture contains its best true caption and the best false one; the row of a caption contains
    the best true picture and the best false one.
    """
    from open_clip_ext.evaluation.scoring.ranking import rank

    captions = [caption for item in items for caption in item.captions]
    owner = [place for place, item in enumerate(items) for _ in item.captions]
    words = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    owners: dict[str, list[int]] = {}
    uses: dict[str, list[int]] = {}
    for index, (caption, place) in enumerate(zip(captions, owner, strict=True)):
        owners.setdefault(caption, []).append(place)
        uses.setdefault(caption, []).append(index)
    own = [[use for caption in dict.fromkeys(item.captions) for use in uses[caption]] for item in items]

    pictures = encoder.pictures([item.pictures[0] for item in items])
    texts = encoder.texts(list(words))[[words[caption] for caption in captions]]
    paths = [item.pictures[0].path for item in items]
    again = _again(scorer, encoder, items, captions, pictures, texts)
    rows = [
        _row("i2t", f"{item.id}/i2t", [path], [captions[found.best], captions[found.rival]], found)
        for item, path, found in zip(items, paths, rank(pictures, texts, own, again[0]), strict=True)
    ]
    return rows + [
        _row(
            "t2i", f"{items[place].id}/t2i/{index}", [paths[found.best], paths[found.rival]], [caption], found
        )
        for index, (caption, place, found) in enumerate(
            zip(captions, owner, rank(texts, pictures, [owners[c] for c in captions], again[1]), strict=True)
        )
    ]


def _again(
    scorer: Chosen,
    encoder: Encoder,
    items: Sequence[Item],
    captions: Sequence[str],
    pictures: Tensor,
    texts: Tensor,
) -> tuple[list[Again] | None, list[Again] | None]:
    """For each picture its first captions, for each caption its first pictures, with new similarities."""
    from open_clip_ext.evaluation.scoring.ranking import first

    count = scorer.scorer.rerank
    if not count:
        return None, None
    shown = [item.pictures[0] for item in items]
    by_picture, by_caption = list(first(pictures, texts, count)), list(first(texts, pictures, count))
    pairs = {(shown[p], captions[c]): 0.0 for p, found in enumerate(by_picture) for c in found}
    pairs |= {(shown[p], captions[c]): 0.0 for c, found in enumerate(by_caption) for p in found}
    pairs = dict(zip(pairs, scorer.similarities(encoder, list(pairs)).tolist(), strict=True))
    return (
        [(found, [pairs[shown[p], captions[c]] for c in found]) for p, found in enumerate(by_picture)],
        [(found, [pairs[shown[p], captions[c]] for p in found]) for c, found in enumerate(by_caption)],
    )


def _row(direction: str, id: str, pictures: list[str], captions: list[str], found: Any) -> Row:
    from open_clip_ext.evaluation.scoring.ranking import metrics

    named = {f"{prefix}R@{k}": k for prefix in ("", f"{direction} ") for k in AT}
    return {
        "id": id,
        "group": direction,
        "pictures": pictures,
        "captions": captions,
        **metrics(found, named),
    }
