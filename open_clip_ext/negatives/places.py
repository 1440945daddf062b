"""The list of negatives that training data carry for a caption."""

from __future__ import annotations

from collections.abc import Sequence

from open_clip_ext.negatives.records import Candidate


def places(texts: Sequence[Candidate], types: Sequence[str]) -> list[str]:
    """The valid negatives by type; a type of which there is none has an empty place.

    With one text of each type, as `negatives make` gives by default, each type is always at the same
    place, which CE-CLIP's thresholds need.
    """
    by_type: dict[str, list[str]] = {type: [] for type in types}
    for text in texts:
        if text.valid and not text.keeps and text.type in by_type:
            by_type[text.type].append(text.text)
    return [text for found in by_type.values() for text in found or [""]]
