"""What turns pictures and captions into similarities; the plain one is the cosine of their features.

A scorer is a subclass of `Scorer` in the entry-point group `open_clip_ext.scorers`. The annotated keywords of
its constructor are the options of `--scorer NAME KEY=VALUE ...`.
"""

from __future__ import annotations

import argparse
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext import plugins
from open_clip_ext.errors import InputError
from open_clip_ext.evaluation.items import Benchmark, Encoder, Picture, Score
from open_clip_ext.files import sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

GROUP = "open_clip_ext.scorers"
FLAG = "--scorer"
PLAIN = "cosine"
Pair = tuple[Picture, str]


class Scorer(ABC):
    """How similar pictures and captions are.

    Attributes:
        rerank: in retrieval, the number of first candidates of a query, by the cosine, that are put into a
            new order by this scorer. 0: the cosine's order is final.
    """

    rerank: int = 10

    def check(self, benchmark: Benchmark) -> None:  # noqa: B027  # not every scorer has something to check
        """Raise InputError if the benchmark cannot be scored. Called before a model is loaded."""

    @abstractmethod
    def similarities(self, encoder: Encoder, pairs: Sequence[Pair]) -> Tensor:
        """The similarity of each pair.

        Args:
            encoder: the model. It encodes a picture or text once, however often it is asked.
            pairs: N different pictures with captions.

        Returns:
            `[N]`, finite, higher for what fits better.
        """

    def counts(self) -> dict[str, int]:
        """Numbers for the reader of the scores, counted since the last call."""
        return {}


class Cosine(Scorer):
    """The dot product of the unit features of picture and caption: the plain score."""

    rerank = 0

    def similarities(self, encoder: Encoder, pairs: Sequence[Pair]) -> Tensor:
        """`[N]` in fp64, separately for each pair: equal features give exactly equal products, and tie."""
        import torch

        pictures = {picture: n for n, picture in enumerate(dict.fromkeys(p for p, _ in pairs))}
        texts = {caption: n for n, caption in enumerate(dict.fromkeys(c for _, c in pairs))}
        seen, read = encoder.pictures(list(pictures)), encoder.texts(list(texts))
        left = [pictures[picture] for picture, _ in pairs]
        right = [texts[caption] for _, caption in pairs]
        parts = (slice(start, start + AT_ONCE) for start in range(0, len(pairs), AT_ONCE))
        return torch.cat([(seen[left[at]].double() * read[right[at]].double()).sum(-1) for at in parts])


# Pairs whose features are gathered at once: 8 kB each.
AT_ONCE = 8192


@dataclass(frozen=True)
class Chosen:
    """A scorer and how it was asked for.

    Attributes:
        name: as registered.
        scorer: made with its options.
        options: all of them, with those left at their default.
        files: the files that they name, path -> sha256.
    """

    name: str
    scorer: Scorer
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def accept(self, benchmark: Benchmark) -> None:
        """Raise InputError if the benchmark does not take this scorer, or this scorer not the benchmark."""
        if self.name != PLAIN and not takes(benchmark.score):
            raise InputError(
                f"{FLAG} {self.name}: {benchmark.name} ({benchmark.family}) is scored in its own way, not by "
                f"pairs of a picture and a caption; evaluate it without {FLAG}, into another folder"
            )
        with _theirs(self.name):
            self.scorer.check(benchmark)

    def bound(self, score: Score) -> Score:
        """A function for rows, with this scorer if it takes one."""
        return partial(score, scorer=self) if takes(score) else score

    def record(self) -> dict[str, Any]:
        """For `result.json`: the name and the options, of a path its last part."""
        options = {key: str(v.name if isinstance(v, Path) else v) for key, v in self.options.items()}
        return {"name": self.name, "options": options}

    def similarities(self, encoder: Encoder, pairs: Sequence[Pair]) -> NDArray[Any]:
        """`[N]` in fp64.

        Raises InputError if the scorer fails, or returns another shape or what is not finite.
        """
        import torch

        flag = "" if self.name == PLAIN else f"{FLAG} {self.name}: "
        with _theirs(self.name):
            found = torch.as_tensor(self.scorer.similarities(encoder, pairs))
        if found.shape != (len(pairs),):
            raise InputError(
                f"{flag}it returned the shape {list(found.shape)} for {len(pairs)} pairs of a picture and "
                f"a caption; it must return [{len(pairs)}]"
            )
        values = found.detach().double().cpu()
        if not values.isfinite().all():
            picture, caption = pairs[int(values.isfinite().int().argmin())]
            raise InputError(
                f"{flag}similarities are not finite (first: {picture.path} with {caption!r}), so there is "
                "nothing to score"
            )
        return values.numpy()

    def counts(self) -> dict[str, int]:
        """What the scorer has counted since the last call. Raises InputError if it is no numbers by name."""
        with _theirs(self.name):
            return {str(name): int(value) for name, value in self.scorer.counts().items()}


@contextmanager
def _theirs(name: str) -> Iterator[None]:
    """Around the code of a scorer, which may be anyone's and raise anything."""
    import torch

    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if name == PLAIN:  # ours, and the model's alone
            raise
        raise InputError(f"{FLAG} {name}: it failed ({type(error).__name__}: {error})") from error


COSINE = Chosen(PLAIN, Cosine())


def takes(score: Score | None) -> bool:
    """Whether the rows of a benchmark are made from similarities: by default, or with a keyword `scorer`."""
    return score is None or "scorer" in inspect.signature(score).parameters


def described(entry: Mapping[str, Any]) -> str:
    """The scorer of a benchmark's entry in `result.json`, in words; without one it is the plain one."""
    record = entry.get("scorer") or {"name": PLAIN, "options": {}}
    return " ".join([record["name"], *(f"{key}={value}" for key, value in record["options"].items())])


# --- the command line -------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--scorer`."""
    parser.add_argument(
        FLAG,
        nargs="+",
        default=[PLAIN],
        metavar=("NAME", "KEY=VALUE"),
        help="what turns a picture and a caption into a similarity, and its options; `open-clip-ext eval "
        f"list` lists them (default: {PLAIN})",
    )


def from_arguments(args: argparse.Namespace) -> Chosen:
    """The scorer of `--scorer`.

    Raises InputError if it is unknown or broken, or an option is wrong.
    """
    name, *pairs = args.scorer
    flag = f"{FLAG} {name}"
    known = plugins.entries(GROUP)
    made = plugins.load(known, name, FLAG, "scorer")
    if not (isinstance(made, type) and issubclass(made, Scorer)):
        raise InputError(f"{flag}: {known[name].value} is no subclass of {Scorer.__module__}.Scorer")
    options = plugins.options(made)
    given = plugins.parse_options(options, pairs, flag, f"scorer {name}")
    plugins.require(options, given, flag)
    every = {option.name: given.get(option.name, option.default) for option in options.values()}
    paths = [value for value in given.values() if isinstance(value, Path)]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{flag}: {path}: no such file")
    with _theirs(name):
        scorer = made(**given)
    return Chosen(name, scorer, every, {str(path): sha256(path) for path in paths})
