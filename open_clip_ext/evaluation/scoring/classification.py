"""Zero-shot classification: each picture has to find the name of its class.

A class is the normalized mean of its prompts' normalized features (Radford et al., "Learning
Transferable Visual Models From Natural Language Supervision", ICML 2021, section 3.1.4):

    w_c = normalize(mean_t normalize(text(template_t(name_c))))

as in `open_clip.build_zero_shot_classifier`. Top-k: the name of the class is among the k nearest, with ties
decided against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Encoder, Item, Picture, Row

if TYPE_CHECKING:
    from torch import Tensor

TOP = (1, 5)
# Prompts encoded in one call; ImageNet has 80,000.
PROMPTS_AT_ONCE = 8192


@dataclass(frozen=True)
class Classes:
    """The names of the classes, indexed by label, and the templates for prompts.

    A template marks the place of the name by `{c}` (clip-benchmark's convention) or `{}`.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]

    def prompts(self, name: str) -> list[str]:
        """The prompts of a class."""
        return [template.replace("{c}", name).replace("{}", name) for template in self.templates]

    def weights(self, encoder: Encoder) -> Tensor:
        """The classifier `[C, D]`."""
        import torch
        from torch.nn.functional import normalize

        step = max(1, PROMPTS_AT_ONCE // len(self.templates))
        parts = []
        for start in range(0, len(self.names), step):
            names = self.names[start : start + step]
            features = encoder.texts([prompt for name in names for prompt in self.prompts(name)])
            parts.append(features.view(len(names), -1, features.shape[-1]).mean(1))
        return normalize(torch.cat(parts), dim=-1)


def benchmark(
    name: str,
    pictures: Sequence[Picture],
    labels: Sequence[int],
    classes: Classes,
    files: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Benchmark:
    """A classification benchmark of `pictures` with `labels`, each an index into `classes.names`.

    Raises InputError if a label has no name, a template has no place for the name, or there are fewer than
    two names.
    """
    if len(set(classes.names)) < 2:
        raise InputError(f"{name}: classification needs at least two class names")
    for template in classes.templates or ("",):
        if "{c}" not in template and "{}" not in template:
            raise InputError(f"{name}: the template {template!r} has no {{c}} where the class name goes")
    high = max(labels, default=0)
    if not 0 <= min(labels, default=0) <= high < len(classes.names):
        raise InputError(f"{name}: there is a label {high}, but {len(classes.names)} class names")
    twice = sorted({c for c in classes.names if classes.names.count(c) > 1})
    if twice:
        notes = [
            *notes,
            f"classes of one name ({', '.join(twice)}) are one: the name is right for each of them",
        ]
    items = [
        Item(str(index), (picture,), (), "i2t", (label,), classes.names[label])
        for index, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    ]
    aggregations = ["top1 micro", "top1 macro"]
    if len(classes.names) > TOP[1]:
        aggregations.append("top5 micro")
    return Benchmark(
        name,
        items,
        tuple(aggregations),
        files,
        (f"{len(classes.names)} classes, {len(classes.templates)} templates", *notes),
        "zero-shot",
        partial(classify, classes),
    )


def classify(classes: Classes, encoder: Encoder, items: Sequence[Item]) -> list[Row]:
    """A row per picture, with the right class name and the nearest wrong one as captions."""
    from open_clip_ext.evaluation.scoring.ranking import metrics, rank

    same: dict[str, list[int]] = {}
    for label, name in enumerate(classes.names):
        same.setdefault(name, []).append(label)
    true = [same[classes.names[item.truth[0]]] for item in items]
    features = encoder.pictures([item.pictures[0] for item in items])
    ranked = rank(features, classes.weights(encoder), true)
    tops = [k for k in TOP if k < len(classes.names)]
    return [
        {
            "id": item.id,
            "group": item.group,
            "pictures": [item.pictures[0].path],
            "captions": [classes.names[found.best], classes.names[found.rival]],
            **metrics(found, {f"top{k}": k for k in tops}),
        }
        for item, found in zip(items, ranked, strict=True)
    ]
