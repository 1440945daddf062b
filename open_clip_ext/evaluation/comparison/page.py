"""The comparison as one self-contained HTML page with styles, plots and pictures."""

from __future__ import annotations

import base64
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_clip_ext.evaluation.comparison import figures, report, scatter
from open_clip_ext.evaluation.comparison.paired import IMPROVED, WORSE, Comparison
from open_clip_ext.evaluation.comparison.report import Part

SIDE = 220  # of a thumbnail, in pixels
# A figure with its interval, `76.9 [75.0, 78.8]`.
INTERVAL = re.compile(r"([+-]?[\d.]+) \[([+-]?[\d.]+), ([+-]?[\d.]+)\]")


def html(found: Comparison, made: Sequence[Part], *, pictures: bool = True) -> str:
    """The page.

    Args:
        found: the comparison.
        made: its report.
        pictures: whether to include thumbnails of the items' pictures.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("open_clip_ext.evaluation.comparison", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    labels = [result.label for result in found.results]
    plots = {"differences": figures.differences(found)}
    if found.picture:
        plots["trade-off"] = scatter.trade_off(found.picture, labels)
    plots |= {f"groups/{one.name}": figures.bars(one.groups, labels) for one in found.benchmarks}
    verdicts = [
        {
            "label": labels[k + 1],
            "word": verdict.word,
            "kind": {IMPROVED: "good", WORSE: "bad"}.get(verdict.word, "open"),
            "reasons": verdict.reasons,
            "plot": Markup(figures.verdict(found, k)),
        }
        for k, verdict in enumerate(found.verdicts)
    ]
    return environment.get_template("page.html").render(
        title=report.heading(found),
        labels=labels,
        many=len(labels) > report.MANY,
        colours=figures.COLOURS,
        mark=lambda k: Markup(figures.mark(k)),
        verdicts=verdicts,
        notes=found.notes,
        sections=_sections(made),
        plots={key: Markup(plot) for key, plot in plots.items()},
        thumbnails=_thumbnails(made) if pictures else {},
    )


def _sections(made: Sequence[Part]) -> list[tuple[Part, list[Part]]]:
    """Parts of level 2, each with those below it, without the verdict, which has its own place."""
    found: list[tuple[Part, list[Part]]] = []
    for part in made:
        if part.level == 2:
            found.append((part, []))
        else:
            found[-1][1].append(part)
    return [(part, below) for part, below in found if part.key != "verdict"]


def cell(text: str) -> Any:
    """A table's cell. Its interval is dimmed, and a change whose interval excludes zero is marked."""
    from markupsafe import Markup

    matched = INTERVAL.fullmatch(text)
    if not matched:
        return text
    value, low, high = matched.groups()
    kind = ""
    if value[0] in "+-":
        kind = "up" if float(low) > 0 else "down" if float(high) < 0 else ""
    return Markup('<span class="{}">{}</span> <span class="ci">[{}, {}]</span>').format(
        kind, value, low, high
    )


def _thumbnails(made: Sequence[Part]) -> dict[str, str]:
    """Data URIs of the examples' pictures, as far as they can be read."""
    paths = {path for part in made for example in part.examples for path, _ in example.pictures}
    found = {path: thumbnail(path) for path in sorted(paths)}
    return {path: uri for path, uri in found.items() if uri}


def thumbnail(path: str) -> str | None:
    """A picture as a small data URI; None if it cannot be read.

    Args:
        path: of a file, or of a member of an uncompressed tar file (`shards/0.tar/0001.jpg`).
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(_bytes(Path(path)))) as image:
            small = image.convert("RGB")
    except (OSError, KeyError, tarfile.TarError):  # also an OSError: a file that is not a picture
        return None
    small.thumbnail((SIDE, SIDE))
    encoded = io.BytesIO()
    small.save(encoded, "jpeg", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _bytes(path: Path) -> bytes:
    if archive := next((parent for parent in path.parents if parent.is_file()), None):
        with tarfile.open(archive, "r:") as tar:
            member = tar.extractfile(str(path.relative_to(archive)))
            return member.read() if member else b""
    return path.read_bytes()
