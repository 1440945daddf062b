"""Which pairs of open_clip_torch and torch to run, what came of each, and the table of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

STEPS = ("install", "doctor", "training", "resume")
SHOWN = ("open_clip_torch", "torch", "torchvision", "timm")
MARKERS = ("<!-- matrix -->", "<!-- /matrix -->")
ERRORS = r"open_clip_ext: |FAIL |ERROR: |[\w.]*(Error|Exception)\b"
INTRODUCTION = """\
## Releases of open_clip_torch and torch

`make matrix` writes this table: each release of open_clip_torch that `pyproject.toml` allows, with the oldest
and the newest torch that fits, installed by pip. With each pair, `open-clip-ext doctor` checks the run that
follows: two epochs of `--loss degla` on a CPU, with a tiny model and drawn pictures. The run is then stopped
by a signal within an epoch and resumed. Its losses and last checkpoint, with the teacher in it, must equal
those of the run that was not stopped, to the bit.
"""


@dataclass(frozen=True)
class Corner:
    """A release of open_clip_torch with a version of torch; None stands for the newest that pip finds."""

    release: str
    torch: str | None

    @property
    def name(self) -> str:
        return f"{self.release}-{self.torch or 'newest'}"


@dataclass
class Outcome:
    """How far a corner came: the steps it passed, and one sentence on the one that it did not."""

    passed: list[str] = field(default_factory=list)
    why: str = ""
    installed: dict[str, str] = field(default_factory=dict)
    where: str = ""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @property
    def whole(self) -> bool:
        return self.passed == list(STEPS)

    def cell(self, step: str) -> str:
        """A step after a failed one was not run."""
        if step in self.passed:
            return "passed"
        return "failed" if self.why and step == STEPS[len(self.passed)] else "not run"


def load(path: Path) -> Outcome:
    """What was saved there, or that the corner was not run."""
    return Outcome(**json.loads(path.read_text())) if path.exists() else Outcome()


def fitting(requirements: Iterable[str], package: str, versions: Iterable[str]) -> list[str]:
    """The versions of a package that all these requirements allow, the oldest first."""
    wanted = [r.specifier for r in map(Requirement, requirements) if r.name == package and not r.marker]
    return sorted((v for v in versions if all(v in s for s in wanted)), key=Version)


def choose(
    ours: Sequence[str], releases: Mapping[str, Sequence[str]], torches: Iterable[str]
) -> list[Corner]:
    """All corners, the most telling first: those of one torch together, in each the two ends first.

    Args:
        ours: the plugin's requirements.
        releases: the requirements of every release of open_clip_torch.
        torches: versions of torch that are on the index.
    """
    torches = list(torches)
    first, *others = fitting(ours, "open_clip_torch", releases)
    ends = [first, *others[-1:], *others[:-1]]
    oldest = {release: fitting([*ours, *releases[release]], "torch", torches) for release in ends}
    return [
        *(Corner(release, oldest[release][0]) for release in ends if len(oldest[release]) > 1),
        *(Corner(release, None) for release in ends if oldest[release]),
    ]


def reason(printed: str) -> str:
    """The last line that reports an error: ours, the doctor's, pip's or an exception's; else the last."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()] or ["it printed nothing"]
    errors = [line for line in lines if re.match(ERRORS, line)]
    return (errors or lines)[-1]


def table(outcomes: Mapping[Corner, Outcome]) -> str:
    """The section of the page: a row for each corner, and a sentence for each that failed."""
    rows = [[*SHOWN, *STEPS[1:]], ["---"] * (len(SHOWN) + len(STEPS) - 1)]
    failures = []
    # Releases in order, the oldest torch first.
    for corner in sorted(outcomes, key=lambda c: (Version(c.release), c.torch is None)):
        outcome = outcomes[corner]
        wanted = {"open_clip_torch": corner.release, "torch": corner.torch or "newest"}
        versions = {**wanted, **outcome.installed}
        rows.append([*(versions.get(name, "") for name in SHOWN), *map(outcome.cell, STEPS[1:])])
        if outcome.why:
            failures.append(f"- {corner.release} with torch {versions['torch']}: {outcome.why}")
    places = sorted({outcome.where for outcome in outcomes.values() if outcome.where})
    lines = [INTRODUCTION, *(f"| {' | '.join(row)} |" for row in rows), ""]
    lines += [*failures, ""] if failures else []
    return "\n".join([*lines, f"Run on {'; '.join(places)}."])


def rewrite(page: Path, section: str) -> None:
    """Put the section between its markers; at the end of a page that has none, or on a new page."""
    text = page.read_text() if page.exists() else "# Compatibility\n"
    begin, end = MARKERS
    marked = f"{begin}\n{section}\n{end}"
    if begin in text:
        text = re.sub(f"{begin}.*{end}", lambda _: marked, text, flags=re.DOTALL)
    else:
        text = f"{text.rstrip()}\n\n{marked}\n"
    page.write_text(text)
