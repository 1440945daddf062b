"""The recipe `degla`, run on a scripted endpoint."""

from __future__ import annotations

from contextlib import contextmanager

from open_clip_ext.negatives.recipes.by_model import DeGLA
from open_clip_ext.negatives.records import Candidate

CAPTIONS = [f"a dog runs past house {i}" for i in range(24)]


@contextmanager
def degla(endpoint, **options):
    generator = DeGLA(base_url=endpoint.url, **{"patience": 1, "structured": "none", **options})
    try:
        yield generator
    finally:
        generator.close()


def run(endpoint, captions=CAPTIONS, **options) -> dict[str, list[Candidate]]:
    with degla(endpoint, **options) as generator:
        return {captions[index]: found for index, found in generator.generate(captions)}


def everything(reason: str) -> list[Candidate]:
    return [Candidate(type, "", reason=reason) for type in DeGLA.types]
