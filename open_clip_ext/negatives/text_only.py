"""How well a reader who does not see the pictures tells negatives from captions.

The reader is a linear model of hashed n-grams, fitted to pairs of a caption and a negative of it:

    P(the negative is the negative) = sigmoid(w . (x(negative) - x(caption)))

x counts n-grams of one to three words and signs, in lower case, as CLIP's tokenizer reads them, and has unit
length. Every pair is scored by a model that was fitted to other pictures (K folds, by picture). A reader that
cannot tell is right for one pair in two. Hsieh et al., SugarCrepe, NeurIPS 2023, show that benchmarks whose
negatives can be told in such a way are solved without a picture; a model in training finds the same shortcut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from open_clip_ext.errors import InputError
from open_clip_ext.negatives.records import NEGATIVE, Text
from open_clip_ext.negatives.rewrite import Entry
from open_clip_ext.negatives.store import Store

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FOLDS = 5
FEWEST = 50  # pairs of a type; of fewer nothing is said
MOST = 20_000  # pairs of a type that models are fitted to; more change little and take memory
WORDS = r"\w+|[^\w\s]"
FEATURES = 2**18  # that n-grams are hashed to
PENALTY = 1e-5  # on the squares of the weights
EPOCHS = 5

Place = tuple[str, str]  # name of the generator, type


class Pair(NamedTuple):
    """A caption, a negative of it, and what tells its picture apart."""

    caption: str
    negative: str
    group: str


@dataclass(frozen=True)
class Told:
    """How well negatives of one type are told from their captions.

    Attributes:
        pairs: that were scored.
        accuracy: the share of pairs in which the negative is taken for the negative; a tie is half a pair.
        half: half the width of its 95 % interval, by pictures.
    """

    pairs: int
    accuracy: float
    half: float


class Readers:
    """For each type the models of all folds; a pair is scored by the one that has not seen its picture.

    Args:
        pairs: by generator and type. Types of fewer than `FEWEST` pairs, or with pictures in one fold only,
            get no model.
    """

    def __init__(self, pairs: Mapping[Place, Sequence[Pair]]) -> None:
        self._vectorizer = _vectorizer()
        self._weights = {place: self._fit(its) for place, its in pairs.items() if len(its) >= FEWEST}

    def knows(self, place: Place) -> bool:
        """Whether there are models of a type."""
        return bool(self._weights.get(place))

    def score(self, place: Place, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """P(the negative is the negative) of each pair, `[N]`; 0.5 where no model knows."""
        found = np.full(len(pairs), 0.5)
        if not pairs or not self.knows(place):
            return found
        differences, folds = self._differences(pairs), _folds(pairs)
        for fold, weights in self._weights[place].items():
            rows = np.flatnonzero(folds == fold)
            found[rows] = 1 / (1 + np.exp(-(differences[rows] @ weights)))
        return found

    def _fit(self, pairs: Sequence[Pair]) -> dict[int, NDArray[np.float64]]:
        """The weights `[FEATURES]` by the fold that they have not seen."""
        from scipy.sparse import vstack
        from sklearn.linear_model import SGDClassifier

        differences, folds = self._differences(pairs), _folds(pairs)
        found = {}
        for fold in range(FOLDS):
            seen = differences[np.flatnonzero(folds != fold)]
            if seen.shape[0] in (0, len(pairs)):
                continue
            # Each pair in both orders: without an intercept the model then knows nothing but differences.
            model = SGDClassifier(
                loss="log_loss", alpha=PENALTY, fit_intercept=False, average=True, max_iter=EPOCHS, tol=None,
                random_state=0,
            )  # fmt: skip
            model.fit(vstack([seen, -seen]), np.repeat([1, 0], seen.shape[0]))
            found[fold] = model.coef_[0]
        return found

    def _differences(self, pairs: Sequence[Pair]) -> csr_matrix:
        negatives = self._vectorizer.transform(f"^ {pair.negative} $" for pair in pairs)
        return negatives - self._vectorizer.transform(f"^ {pair.caption} $" for pair in pairs)


def measure(pairs: Mapping[Place, Sequence[Pair]]) -> dict[Place, Told | None]:
    """How well the negatives of each type are told; None of a type with too few to say."""
    readers = Readers(pairs)
    return {
        place: _told(readers.score(place, its), [pair.group for pair in its])
        if readers.knows(place)
        else None
        for place, its in pairs.items()
    }


def too_few(places: Iterable[Place]) -> str:
    """The sentence that names the types of which nothing is said."""
    return (
        f"Too few to say how texts alone tell them (below {FEWEST} pairs, or too few pictures): "
        f"{', '.join(map(' '.join, places))}"
    )


def _told(scores: NDArray[np.float64], groups: Sequence[str]) -> Told:
    """Accuracy with an interval over groups: the delta method for a ratio of sums over pictures."""
    right = (scores > 0.5) + 0.5 * (scores == 0.5)
    accuracy = float(right.mean())
    _, place = np.unique(groups, return_inverse=True)
    sums = np.bincount(place, right - accuracy)
    return Told(len(scores), accuracy, 1.96 * float(np.sqrt((sums**2).sum())) / len(scores))


def sample(store: Store, most: int = MOST, entries: Iterable[Entry] | None = None) -> dict[Place, list[Pair]]:
    """Up to `most` pairs of each type, about: those of the pictures whose names have the smallest hashes.

    Args:
        store: the store.
        most: pairs of a type.
        entries: its captions, with other pictures than the store's; None for the store's.

    Raises InputError if the store has no valid negatives.
    """
    from tqdm import tqdm

    counts = {
        (generator, type): count
        for (generator, type, kind, reason), count in store.tally().items()
        if kind == NEGATIVE and not reason
    }
    if not counts:
        raise InputError(f"{store.path}: it has no valid negatives")
    pairs: dict[Place, list[Pair]] = {place: [] for place in counts}
    entries = tqdm(
        entries or store.entries(), total=len(store), desc="texts", unit="caption", disable=None, leave=False
    )
    for caption, images, texts in entries:
        share = _hash(group_of(caption, images), "sample") / 2**64
        for place, pair in pairs_of(caption, images, texts):
            if share * counts[place] < most:
                pairs[place].append(pair)
    return pairs


def pairs_of(caption: str, images: Sequence[str], texts: Iterable[Text]) -> Iterator[tuple[Place, Pair]]:
    """The valid negatives of a caption as pairs."""
    group = group_of(caption, images)
    for text in texts:
        if text.valid and text.kind == NEGATIVE:
            yield (text.generator, text.type), Pair(caption, text.text, group)


def group_of(caption: str, images: Sequence[str]) -> str:
    """What tells the picture of a caption apart: its first file, or the caption where it has none."""
    return images[0] if images else caption


def _folds(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """The fold of each pair, by its picture, `[N]`."""
    return np.array([_hash(pair.group, "fold") % FOLDS for pair in pairs], np.int64)


def _hash(text: str, salt: str) -> int:
    return int.from_bytes(blake2b(f"{salt}/{text}".encode(), digest_size=8).digest(), "big")


def _vectorizer() -> Any:
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise InputError(
            "a classifier of texts needs scikit-learn; pip install 'open_clip_ext[negatives]'"
        ) from error
    return HashingVectorizer(
        token_pattern=WORDS, ngram_range=(1, 3), n_features=FEATURES, alternate_sign=False
    )
