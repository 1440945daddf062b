"""The formulas as loops over index tuples, one number at a time: slow, and hard to get wrong.

Inputs are fp64 tensors shaped as in the package; `m` is the mask, a nested list or a tensor.
Every function can be differentiated.
"""

from __future__ import annotations

import torch


def dot(x, y):
    return sum(x[d] * y[d] for d in range(len(x)))


def cross_entropy(row, target):
    top = max(x.detach() for x in row)
    return top + torch.log(sum(torch.exp(x - top) for x in row)) - row[target]


def mean(xs):
    return sum(xs) / len(xs)


def slots(m):
    return [(i, k) for i in range(len(m)) for k in range(len(m[i])) if m[i][k]]


def clip(v, t, s):
    rows = range(len(v))
    image = mean([cross_entropy([s * dot(v[i], t[j]) for j in rows], i) for i in rows])
    text = mean([cross_entropy([s * dot(t[i], v[j]) for j in rows], i) for i in rows])
    return (image + text) / 2


def hard_negative_clip(v, t, n, s, m):
    rows = range(len(v))
    image, text = [], []
    for i in rows:
        captions = [s * dot(v[i], t[j]) for j in rows]
        edited = [s * dot(v[i], n[j, k]) for j, k in slots(m)]
        image.append(cross_entropy(captions + edited, i))
        text.append(cross_entropy([s * dot(t[i], v[j]) for j in rows], i))
    return (mean(image) + mean(text)) / 2


def find(x, y, pairs, s, columns):
    """The mean over pairs of slots of CE(s x.columns, y)."""
    rows = [[s * dot(x[a], z) for z in columns] for a, _ in pairs]
    wanted = [next(j for j, z in enumerate(columns) if z is y[b]) for _, b in pairs]
    return mean([cross_entropy(row, j) for row, j in zip(rows, wanted, strict=True)]) if pairs else 0 * s


def by_slot(x):
    """`[B, ...]` or `[B, K, ...]` as a dict of rows, the same object at each look."""
    if x.ndim == 2:
        return {i: x[i] for i in range(len(x))}
    return {(i, k): x[i, k] for i in range(len(x)) for k in range(x.shape[1])}


def own_negatives(x, positive, n, s, m):
    """Image-grounded: x = v, positive = t. Text-grounded: x = t, positive = the teacher's t."""
    terms = []
    for i in range(len(x)):
        edited = [s * dot(x[i], n[i, k]) for j, k in slots(m) if j == i]
        terms.append(cross_entropy([s * dot(x[i], positive[i]), *edited], 0))
    return mean(terms)


def text_grounded_released(t, teacher_t, n, s, m):
    b, k = n.shape[:2]
    flat, exists = n.reshape(b * k, -1), [m[i][j] for i in range(b) for j in range(k)]
    terms = []
    for i in range(b):
        edited = [s * dot(t[i], flat[i + j * b]) for j in range(k) if exists[i + j * b]]
        terms.append(cross_entropy([s * dot(t[i], teacher_t[i]), *edited], 0))
    return mean(terms)


def self_distillation(v, tv, t, tt, n, tn, m):
    total = sum(dot(v[i] - tv[i], v[i] - tv[i]) for i in range(len(v)))
    total = total + sum(dot(t[i] - tt[i], t[i] - tt[i]) for i in range(len(t)))
    return total + sum(dot(n[i, k] - tn[i, k], n[i, k] - tn[i, k]) for i, k in slots(m))


def hinge(v, t, n, s, thresholds, m):
    total = 0 * s
    for i, k in slots(m):
        total = total + (thresholds[k] + s * dot(v[i], n[i, k]) - s * dot(v[i], t[i])).clamp(min=0)
    return total / (n.shape[0] * n.shape[1])


def thresholds(v, t, n, s, previous, m, rule="mean", cap=10.0):
    new = []
    p = [float((s * dot(v[i], t[i])).detach()) for i in range(len(v))]
    for k in range(n.shape[1]):
        own = [i for i, j in slots(m) if j == k]
        d = {i: float((s * dot(v[i], n[i, k])).detach()) for i in own}
        if not own:
            new.append(float(previous[k]))
            continue
        gap = sum(p) / len(p) - sum(d.values()) / len(d)
        if rule == "max":
            gap = max(p[i] - d[i] for i in own) / 5
        new.append(min(max(gap, 0.0), cap))
    return torch.tensor(new, dtype=torch.float64)


def intra_modal(v, t, n, s, m, form="paper"):
    terms = []
    for i in range(len(v)):
        positive = s * dot(v[i], t[i])
        edited = [s * dot(t[i], n[j, k]) for j, k in slots(m)]
        if not edited:
            return 0 * s
        row, target = {
            "paper": ([positive, *edited], 0),
            "release": ([positive, *edited], 1),
            "head": (edited, 0),
        }[form]
        terms.append(cross_entropy(row, target))
    return mean(terms)


def texts_of(m):
    """The existing texts of each sample, for a mean over samples of means over these."""
    return [[j for j in range(len(row)) if row[j]] for row in m]


def to_positives(x, p, s, m):
    own = texts_of(m)
    total = 0 * s
    for i in range(len(x)):
        for j in own[i]:
            others = [k for k in range(len(x)) if m[k][j]]
            row = [s * dot(x[i], p[k, j]) for k in others]
            total = total + cross_entropy(row, others.index(i)) / len(own[i])
    return total / len(x)


def from_positives(p, y, s, m):
    own = texts_of(m)
    total = 0 * s
    for i in range(len(p)):
        for j in own[i]:
            row = [s * dot(p[i, j], y[k]) for k in range(len(y))]
            total = total + cross_entropy(row, i) / len(own[i])
    return total / len(p)


def positives_clip(v, p, s, m):
    return (to_positives(v, p, s, m) + from_positives(p, v, s, m)) / 2


def own_negatives_of_positives(v, p, n, s, m, negatives_m):
    own, negatives = texts_of(m), texts_of(negatives_m)
    total = 0 * s
    for i in range(len(v)):
        edited = [s * dot(v[i], n[i, k]) for k in negatives[i]]
        for j in own[i]:
            total = total + cross_entropy([s * dot(v[i], p[i, j]), *edited], 0) / len(own[i])
    return total / len(v)


def keep_apart(t, p, margin, m):
    own = texts_of(m)
    total = 0 * t.sum()
    for i in range(len(t)):
        for j in own[i]:
            total = total + (dot(t[i], p[i, j]) + margin).clamp(min=0) / len(own[i])
    return total / len(t)


def list_mle(x, y):
    """`x` and `y` are lists of rows of numbers."""
    rows = []
    for scored, reference in zip(x, y, strict=True):
        order = sorted(range(len(reference)), key=lambda j: -float(reference[j].detach()))
        terms = []
        while order:
            terms.append(cross_entropy([scored[j] for j in order], 0))
            order = order[1:]
        rows.append(sum(terms))
    return mean(rows)


def products(x, y, s):
    return [[s * dot(x[i], y[j]) for j in range(len(y))] for i in range(len(x))]


def cross_modal_order(v, t, s):
    images, texts = products(v, t, s), products(t, v, s)
    return (list_mle(images, texts) + list_mle(texts, images)) / len(v)


def in_modal_order(v, t, s):
    images, texts = products(v, v, s), products(t, t, s)
    return (list_mle(images, texts) + list_mle(texts, images)) / len(v)


def disturbed_contrast(v, t, n, s, m, form="paper"):
    moved = {}
    for i, k in slots(m):
        sum_ = v[i] + (n[i, k] - t[i]).detach()
        moved[i, k] = sum_ / dot(sum_, sum_) ** 0.5
    terms = []
    for i in range(len(v)):
        if form == "paper":
            others = [s * dot(v[i], y) for y in moved.values()]
        else:
            others = [s * dot(t[i], y) for (j, _), y in moved.items() if j == i]
        terms.append(cross_entropy([s * dot(v[i], t[i]), *others], 0))
    return mean(terms)
