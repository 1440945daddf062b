"""Tables as aligned text and as Markdown. The first columns hold words, the others numbers."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(head: Sequence[str], body: Sequence[Sequence[object]], words: int = 1) -> str:
    """Plain text in columns. The first `words` are left-aligned. A head with a line break takes two lines."""
    rows = max(name.count("\n") for name in head) + 1
    heads = [[*[""] * rows, *name.split("\n")][-rows:] for name in head]
    lines = [*zip(*heads, strict=True), *(list(map(cell, line)) for line in body)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    drawn = [
        "  ".join(
            text.ljust(width) if k < words else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    drawn.insert(rows, "-" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(drawn)


def cell(value: object) -> str:
    """A value formatted for a table."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [
        [name.replace("\n", " ") for name in head],
        ["---", *["--:"] * (len(head) - 1)],
        *([cell.strip().replace("|", "\\|") for cell in line] for line in body),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
