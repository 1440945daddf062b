"""Tables as aligned text and as Markdown; the first column is words, the others are figures."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Plain text in columns; a head with a line break takes two lines."""
    rows = max(name.count("\n") for name in head) + 1
    heads = [[*[""] * rows, *name.split("\n")][-rows:] for name in head]
    lines = [*zip(*heads, strict=True), *body]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    drawn = [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    drawn.insert(rows, "-" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(drawn)


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [
        [name.replace("\n", " ") for name in head],
        ["---", *["--:"] * (len(head) - 1)],
        *([cell.strip().replace("|", "\\|") for cell in line] for line in body),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
