"""Intervals and p-values against plain loops, exact enumeration and coverage."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from fractions import Fraction

import numpy as np
import pytest

from open_clip_ext.evaluation.scoring import bootstrap


def micro(names, sums, counts):
    return sums.sum(-1) / counts.sum(-1)


def macro(names, sums, counts):
    with np.errstate(invalid="ignore"):
        return np.nanmean(sums / counts, axis=-1)


def items(n=60, images=12, models=2, seed=0):
    """Items that share images: an image is easy or hard for all of its items."""
    rng = random.Random(seed)
    clusters = [f"image{rng.randrange(images)}" for _ in range(n)]
    groups = [rng.choice(["add", "replace", "swap"]) for _ in range(n)]
    easy = {c: rng.random() for c in sorted(set(clusters))}
    correct = [[int(rng.random() < easy[c]) for c in clusters] for _ in range(models)]
    return clusters, groups, correct


def by_hand(names, drawn, clusters, groups, right, kind):
    """The score of drawn images, item by item."""
    won = {g: [] for g in names}
    for image in drawn:
        for c, g, one in zip(clusters, groups, right, strict=True):
            if c == image:
                won[g].append(one)
    if kind == "micro":
        return statistics.fmean(itertools.chain(*won.values()))
    return statistics.fmean(statistics.fmean(w) for w in won.values() if w)


@pytest.mark.parametrize(("kind", "aggregate"), [("micro", micro), ("macro", macro)])
def test_equals_a_loop_over_every_possible_draw(kind, aggregate):
    """Four images have 256 draws: the replicates have their mean, quantiles and spread."""
    clusters, groups, correct = items(n=18, images=4)
    names, images = sorted(set(groups)), sorted(set(clusters))
    [found] = bootstrap.replicates(clusters, groups, correct, [aggregate])
    for m, right in enumerate(correct):
        exact = [
            by_hand(names, drawn, clusters, groups, right, kind)
            for drawn in itertools.product(images, repeat=len(images))
        ]
        assert found.value[m] == pytest.approx(by_hand(names, images, clusters, groups, right, kind))
        assert found.drawn[:, m].mean() == pytest.approx(statistics.fmean(exact), abs=0.01)
        assert found.drawn[:, m].std() == pytest.approx(statistics.pstdev(exact), abs=0.01)
        assert set(found.drawn[:, m].round(9)) == set(np.round(exact, 9))
    assert found.clusters == 4


@pytest.mark.parametrize("at_once", [1, 40, 2**22])
def test_a_seed_s_replicates_are_sums_over_its_counts(at_once, monkeypatch):
    """In loops over counts, kinds and groups; to the last digit, as sums of whole numbers are exact."""
    monkeypatch.setattr(bootstrap, "AT_ONCE", at_once)
    clusters, groups, correct = items(n=40, images=60, models=3)
    names, images = sorted(set(groups)), sorted(set(clusters))
    content = {}
    for image in images:
        own = []
        for g, name in enumerate(names):
            places = [i for i, pair in enumerate(zip(clusters, groups, strict=True)) if pair == (image, name)]
            if places:
                own.append((g, len(places), *(sum(right[i] for i in places) for right in correct)))
        content[image] = tuple(own)
    kinds = sorted(set(content.values()))
    assert len(kinds) < len(images)
    sizes = np.array([list(content.values()).count(kind) for kind in kinds])
    draws = np.random.default_rng(3).multinomial(len(images), sizes / len(images), size=30)
    expected = []
    for counts in draws:
        n, right = [0] * len(names), [[0] * len(names) for _ in correct]
        for count, kind in zip(counts.tolist(), kinds, strict=True):
            for g, number, *won in kind:
                n[g] += count * number
                for m, one in enumerate(won):
                    right[m][g] += count * one
        expected.append([[a, n[-1]] for *_, a in right])

    def last(names, sums, counts):
        """What of the last group is right, and how many items it has."""
        return np.stack([sums[..., -1], counts[..., -1]], axis=-1)

    [found] = bootstrap.replicates(clusters, groups, correct, [last], resamples=30, seed=3)
    assert found.drawn.tolist() == expected


def test_models_are_scored_on_the_same_draws():
    """The difference of a model and one that differs in one image has that image's spread alone."""
    clusters, groups, (right, _) = items()
    other = [1 - one if c == "image3" else one for c, one in zip(clusters, right, strict=True)]
    [found] = bootstrap.replicates(clusters, groups, [right, other], [micro])
    difference = found.drawn[:, 1] - found.drawn[:, 0]
    absent = (1 - 1 / found.clusters) ** found.clusters
    assert (difference == 0).mean() == pytest.approx(absent, abs=0.02)


def test_identical_models_differ_by_nothing():
    clusters, groups, (right, _) = items()
    [found] = bootstrap.replicates(clusters, groups, [right, right], [macro])
    difference = found.drawn[:, 1] - found.drawn[:, 0]
    assert bootstrap.interval(difference) == (0, 0)
    assert bootstrap.p_value(difference) == 1


def test_the_order_of_items_does_not_matter():
    clusters, groups, correct = items()
    order = random.Random(1).sample(range(len(clusters)), len(clusters))
    shuffled = [[x[i] for i in order] for x in (clusters, groups, *correct)]
    [one] = bootstrap.replicates(clusters, groups, correct, [macro], resamples=500)
    [two] = bootstrap.replicates(shuffled[0], shuffled[1], shuffled[2:], [macro], resamples=500)
    assert np.array_equal(one.value, two.value)
    assert np.array_equal(one.drawn, two.drawn)


def test_aggregations_and_seeds():
    clusters, groups, correct = items()
    both = bootstrap.replicates(clusters, groups, correct, [micro, macro], resamples=700)
    [alone] = bootstrap.replicates(clusters, groups, correct, [macro], resamples=700)
    [other] = bootstrap.replicates(clusters, groups, correct, [macro], resamples=700, seed=1)
    assert np.array_equal(both[1].drawn, alone.drawn)
    assert not np.array_equal(other.drawn, alone.drawn)
    assert alone.drawn.shape == (700, 2)


def test_a_cluster_widens_the_interval():
    """A hundred images of four alike items are no four hundred items."""
    right = [i % 2 for i in range(100) for _ in range(4)]
    shared = [f"{i}" for i in range(100) for _ in range(4)]
    own = [f"{i}" for i in range(400)]
    widths = []
    for clusters in (shared, own):
        [found] = bootstrap.replicates(clusters, ["all"] * 400, [right], [micro])
        low, high = bootstrap.interval(found.drawn[:, 0])
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.06)
    assert widths[1] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.06)


def test_the_interval_covers_the_truth():
    """19 of 20 intervals of a paired difference hold the true one, with images that have several items."""
    rng, held, trials = random.Random(0), 0, 300
    for trial in range(trials):
        clusters, a, b = [], [], []
        for image in range(80):
            easy = rng.random()  # the base is right at this rate, the other half way from it to 1
            for _ in range(rng.randrange(1, 6)):
                clusters.append(str(image))
                a.append(int(rng.random() < easy))
                b.append(int(rng.random() < (1 + easy) / 2))
        [found] = bootstrap.replicates(
            clusters, ["all"] * len(a), [a, b], [micro], resamples=1000, seed=trial
        )
        low, high = bootstrap.interval(found.drawn[:, 1] - found.drawn[:, 0])
        held += low <= 0.25 <= high
    assert 0.90 <= held / trials <= 0.98


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (3, 9), (9, 3), (20, 20), (0, 30)])
def test_mcnemar_is_the_exact_binomial(wins, losses):
    n = wins + losses
    tail = sum(Fraction(math.comb(n, i), 2**n) for i in range(min(wins, losses) + 1))
    assert bootstrap.mcnemar(wins, losses) == pytest.approx(float(min(1, 2 * tail)), rel=1e-9)


def test_mcnemar_of_many_items():
    assert bootstrap.mcnemar(20_000, 20_000) == 1
    assert 0 < bootstrap.mcnemar(20_000, 20_400) < 0.05


def test_p_values():
    assert bootstrap.p_value(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    drawn = np.random.default_rng(0).normal(2, 1, 100_000)
    assert bootstrap.p_value(drawn) == pytest.approx(0.0455, rel=0.1)
    assert bootstrap.p_value(-drawn) == bootstrap.p_value(drawn)


def test_holm():
    assert bootstrap.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert bootstrap.holm([0.6, 0.7]) == [1, 1]
    assert bootstrap.holm([]) == []
