"""The evaluation of the drawn world (`world.evaluation`) as benchmarks.

A model with the small vocabulary is loaded in the demo's folder alone, so commands with these benchmarks run
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import groupby

from open_clip_ext.demo import shards, world
from open_clip_ext.demo.world import Scene
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Encoder, Item, Picture, Row
from open_clip_ext.evaluation.scorer import COSINE, Chosen
from open_clip_ext.evaluation.scoring import classification, retrieval
from open_clip_ext.evaluation.scoring.classification import Classes

SIZE = 400  # of a default demo

# A relation is learned late and suddenly, at a step that differs between bases by hundreds. A mean over both
# would depend on when the run ends, so composition contains only the exchanged words.
WORDS = ("swap_obj", "swap_att")
RELATIONS = ("swap_order", "replace_rel")
OTHERS = tuple(kind for kind in world.KINDS if kind not in (*WORDS, *RELATIONS))


@dataclass(frozen=True)
class Drawn(Picture):
    """A scene of an evaluation seed; `path` names its seed and place, the same in all benchmarks."""

    scene: Scene | None = field(default=None, compare=False, repr=False)

    def exists(self) -> bool:
        """Always true: it is drawn when it is read."""
        return True

    def read(self) -> bytes:
        """The picture as a PNG file."""
        return _png(self.scene)


@lru_cache(maxsize=20_000)
def _png(scene: Scene) -> bytes:
    return shards.png(scene)


@lru_cache(maxsize=32)
def _evaluation(seed: int, size: int) -> tuple[world.Evaluation, Mapping[Scene, Picture]]:
    """An evaluation seed, and its pictures by their scenes."""
    found = world.evaluation(seed, size)
    scenes = dict.fromkeys([*found.pairs, *(s for z in found.zero_shot.values() for s in z.scenes)])
    names = {scene: f"drawn-world/seed-{seed}-{place:04d}.png" for place, scene in enumerate(scenes)}
    return found, {scene: Drawn(name, scene=scene) for scene, name in names.items()}


# --- readers --------------------------------------------------------------------------------------


def composition(*, seeds: str, size: int = SIZE) -> Benchmark:
    """Held-out pairs of objects: two nouns or two adjectives exchanged, on which the primary score is.

    Other edits, of words that are replaced or added, are groups of their own.

    Args:
        seeds: evaluation seeds, pooled, such as `11,12`.
        size: pictures of each kind and seed.
    """
    return _edits("drawn-composition", "composition", (*WORDS, *OTHERS), ("swap", "macro"), seeds, size)


def relations(*, seeds: str, size: int = SIZE) -> Benchmark:
    """Held-out pairs of objects: exchanged around the relation, or with another relation.

    Args:
        seeds: evaluation seeds, pooled, such as `11,12`.
        size: pictures of each kind and seed.
    """
    return _edits("drawn-relations", "relations", RELATIONS, ("macro",), seeds, size)


def unmentioned(*, seeds: str, size: int = SIZE) -> Benchmark:
    """Zero-shot sets that fine-tuning captions never mention: background, texture, style, number.

    Args:
        seeds: evaluation seeds, pooled, such as `11,12`.
        size: pictures of each set and seed.
    """
    return _zero_shot("drawn-unmentioned", "zero-shot", world.UNMENTIONED, seeds, size)


def shape(*, seeds: str, size: int = SIZE) -> Benchmark:
    """The zero-shot set of shapes, which fine-tuning captions name.

    Args:
        seeds: evaluation seeds, pooled, such as `11,12`.
        size: pictures of each seed.
    """
    return _zero_shot("drawn-shape", "shape", ("shape",), seeds, size)


def full(*, seeds: str, size: int = SIZE) -> Benchmark:
    """Retrieval with full captions, among the pairs of one seed.

    Args:
        seeds: evaluation seeds, such as `11,12`; R@k is the mean over them.
        size: pictures of each seed.
    """
    return _retrieval("drawn-full", "R@1 full", lambda found: found.captions, seeds, size)


def web(*, seeds: str, size: int = SIZE) -> Benchmark:
    """Retrieval with captions as on the web, among the pairs of one seed.

    Args:
        seeds: evaluation seeds, such as `11,12`; R@k is the mean over them.
        size: pictures of each seed.
    """
    return _retrieval("drawn-web", "R@1 web", lambda found: found.web, seeds, size)


# --- items and rows -------------------------------------------------------------------------------


def _edits(
    name: str, family: str, kinds: Sequence[str], aggregations: tuple[str, ...], seeds: str, size: int
) -> Benchmark:
    items = [
        Item(f"{seed}/{kind}/{place}", (pictures[scene],), (true, false), "i2t", (0,), kind)
        for seed, found, pictures in _read(name, seeds, size)
        for kind in kinds
        for place, (scene, true, false) in enumerate(
            zip(found.pairs, found.captions, found.false[kind], strict=True)
        )
    ]
    return Benchmark(name, items, aggregations, notes=_notes(seeds, size), family=family)


def _zero_shot(name: str, family: str, sets: Sequence[str], seeds: str, size: int) -> Benchmark:
    items = [
        Item(f"{seed}/{group}/{place}", (pictures[scene],), (), "i2t", (label,), group)
        for seed, found, pictures in _read(name, seeds, size)
        for group in sets
        for place, (scene, label) in enumerate(
            zip(found.zero_shot[group].scenes, found.zero_shot[group].labels, strict=True)
        )
    ]
    notes = _notes(seeds, size)
    return Benchmark(name, items, ("top1 macro",), notes=notes, family=family, score=_classify)


def _classify(encoder: Encoder, items: Sequence[Item]) -> list[Row]:
    """A row per picture; the classes are those of its set, which is its group."""
    return [
        row
        for group, own in groupby(items, key=lambda item: item.group)
        for row in classification.classify(
            Classes(world.CLASSES[group], world.TEMPLATES[group]), encoder, list(own)
        )
    ]


def _retrieval(
    name: str, family: str, texts: Callable[[world.Evaluation], list[str]], seeds: str, size: int
) -> Benchmark:
    items = [
        Item(f"{seed}/{place}", (pictures[scene],), (caption,), "multi-pos", (0,))
        for seed, found, pictures in _read(name, seeds, size)
        for place, (scene, caption) in enumerate(zip(found.pairs, texts(found), strict=True))
    ]
    aggregations = ("R@1 macro", "i2t R@1 micro", "t2i R@1 micro")
    return Benchmark(name, items, aggregations, notes=_notes(seeds, size), family=family, score=_retrieve)


def _retrieve(encoder: Encoder, items: Sequence[Item], scorer: Chosen = COSINE) -> list[Row]:
    """A row per query; the candidates are those of its seed, with which its id begins."""
    score = partial(retrieval.retrieve, encoder, scorer=scorer)
    by_seed = groupby(items, key=lambda item: item.id.partition("/")[0])
    return [row for _, own in by_seed for row in score(list(own))]


def _read(
    name: str, seeds: str, size: int
) -> Iterator[tuple[int, world.Evaluation, Mapping[Scene, Picture]]]:
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise InputError(f"{name} seeds={seeds}: must be whole numbers, such as 11,12") from error
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{name} seeds={seeds}: give each once")
    if size < 2:
        raise InputError(f"{name} size={size}: give at least 2")
    for seed in numbers:
        yield seed, *_evaluation(seed, size)


def _notes(seeds: str, size: int) -> tuple[str, ...]:
    return (f"the drawn world, evaluation seeds {seeds}, {size} pictures of each kind",)
