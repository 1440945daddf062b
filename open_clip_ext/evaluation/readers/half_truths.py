"""Half-truths (Kargi et al., "Half-Truths Break Similarity-Based Retrieval", 2026, arXiv 2602.23906).

A short true caption against the same with a wrong detail added. The similarity should drop, but often rises.
The authors published their code without these items, so this reads a file that the user makes.
"""

from __future__ import annotations

from pathlib import Path

from open_clip_ext.evaluation.items import Benchmark
from open_clip_ext.evaluation.readers.files import Annotations, pair, picture


def read(*, annotations: Path, images: Path) -> Benchmark:
    """Read it.

    Args:
        annotations: `half_truths.jsonl` or its folder; fields `id`, `filename`, `caption`, `half_truth`
            and `kind` (such as `entity` or `relation`).
        images: the folder of the file names.
    """
    source = Annotations(annotations)
    items = [
        pair(row, str(row["id"]), shown, "caption", "half_truth", row.text("kind"))
        for _, row in source.items("half_truths.jsonl")
        for shown in (picture(images, row.text("filename")),)
    ]
    return Benchmark("half-truths", items, ("micro", "macro"), source.files)
