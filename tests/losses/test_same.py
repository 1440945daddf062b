"""`same=mask`: equal pictures and equal captions are no negatives of each other."""

from __future__ import annotations

import pytest
import torch
from oracles import cross_entropy, dot, mean, own_negatives, self_distillation, slots
from our_losses import CLASSES, IDENTIFIED, WITH_IMAGES
from reference import KINDS, arguments, close, features, live
from support import assert_same

from open_clip_ext.identity import picture_identity, text_identities
from open_clip_ext.losses import CECLIPLoss, CLIPLoss, DeGLALoss, NegCLIPLoss
from open_clip_ext.losses import functional as f
from open_clip_ext.losses.base import Batch, Loss, term
from open_clip_ext.losses.identities import Identities

# Terms in which samples meet without a contrast between them, or which are sums over samples.
NO_CONTRAST = {
    ("rank-clip", "cross_loss"),
    ("rank-clip", "in_loss"),
    ("himo-clip", "component_loss"),
    ("degla", "distill_loss"),
    ("anchored", "similarity_anchor_loss"),
}


# --- the rule as loops ---


def alike(x, i, j):
    """Two samples."""
    return bool(x.picture[i] == x.picture[j] or x.caption[i] == x.caption[j])


def reads_as(x, i, j, k):
    """A negative as the caption of sample i, or of one that is the same."""
    text = x.n_id[j, k]
    first = next((other for other in range(len(x.v)) if x.caption[other] == text), None)
    return bool(text == x.caption[i]) or (first is not None and bool(x.picture[first] == x.picture[i]))


def others(x, i):
    return [j for j in range(len(x.v)) if j == i or not alike(x, i, j)]


def negatives(x, i):
    return [(j, k) for j, k in slots(x.m) if not reads_as(x, i, j, k)]


def contrast(x, v, y, i, edited=()):
    columns = others(x, i)
    row = [x.s * dot(v[i], y[j]) for j in columns] + [x.s * dot(v[i], x.n[j, k]) for j, k in edited]
    return cross_entropy(row, columns.index(i))


def clip(x):
    rows = range(len(x.v))
    return mean([contrast(x, x.v, x.t, i) + contrast(x, x.t, x.v, i) for i in rows]) / 2


def negclip(x):
    rows = range(len(x.v))
    there = mean([contrast(x, x.v, x.t, i, negatives(x, i)) for i in rows])
    return (there + mean([contrast(x, x.t, x.v, i) for i in rows])) / 2


def intra_modal(x):
    rows = [
        [x.s * dot(x.v[i], x.t[i]), *(x.s * dot(x.t[i], x.n[j, k]) for j, k in negatives(x, i))]
        for i in range(len(x.v))
    ]
    return mean([cross_entropy(row, 0) for row in rows])


ORACLES = {
    CLIPLoss: {"contrastive_loss": clip},
    NegCLIPLoss: {"contrastive_loss": negclip},
    CECLIPLoss: {"contrastive_loss": negclip, "imc_loss": lambda x: 0.2 * intra_modal(x)},
    DeGLALoss: {
        "contrastive_loss": negclip,
        "igc_loss": lambda x: 0.1 * own_negatives(x.v, x.t, x.n, x.s, x.m),
        "tgc_loss": lambda x: 0.1 * own_negatives(x.t, x.tt, x.n, 10.0, x.m),
        "distill_loss": lambda x: 0.005 * self_distillation(x.v, x.tv, x.t, x.tt, x.n, x.tn, x.m),
    },
}


def case(b=6):
    """Six samples of four pictures; every negative exists."""
    x = features(b=b)
    for _, mask, _ in KINDS.values():
        getattr(x, mask)[:] = True
    return x


@pytest.mark.parametrize("cls", ORACLES)
def test_value_and_gradient_are_those_of_the_loops(cls):
    x = case()
    terms = cls(same="mask")(**arguments(cls, x), output_dict=True)
    expected = {name: oracle(x) for name, oracle in ORACLES[cls].items()}
    assert {name: terms[name].item() for name in expected} == close(
        {k: y.item() for k, y in expected.items()}
    )
    leaves = [x.v, x.t, x.n, x.s][: None if cls.companions else 2]
    for got, want in zip(
        torch.autograd.grad(sum(terms[name] for name in expected), leaves, allow_unused=True),
        torch.autograd.grad(sum(expected.values()), leaves, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_the_case_has_all_that_the_rule_is_about():
    x = case()
    pairs = [(i, j) for i in range(6) for j in range(i)]
    assert [(i, j) for i, j in pairs if x.picture[i] == x.picture[j]] == [(4, 0), (5, 1)]
    assert [(i, j) for i, j in pairs if x.caption[i] == x.caption[j]] == [(3, 2)]
    left_out = [(i, j, k) for i in range(6) for j, k in slots(x.m) if reads_as(x, i, j, k)]
    # Caption 0 is true of the other sample of its picture, too.
    assert left_out == [(0, 1, 2), (2, 2, 2), (3, 2, 2), (4, 1, 2)]


def test_a_hard_negative_of_another_caption_of_the_picture_stays():
    """It is untrue of the picture, whichever caption it was made of."""
    x = case()
    ids = f.Samples(x.v, x.t, x.n, x.m, same=Identities(x.picture, x.caption[:, None], x.n_id))
    value = f.hard_negative_clip(x.v, x.t, x.n, x.s, x.m, columns=ids)
    (gradient,) = torch.autograd.grad(value, x.n)
    assert x.picture[4] == x.picture[0]
    (row,) = torch.autograd.grad(
        f.hard_negative_clip(x.v[:1], x.t[:1], x.n[:1], x.s, x.m[:1], columns=ids), x.n
    )
    assert gradient[4].abs().min() > 0
    assert row[4].abs().min() > 0


# --- every loss ---


def value(cls, x, **options):
    return cls(**options)(**arguments(cls, x), output_dict=True)


@pytest.mark.parametrize("cls", IDENTIFIED.values())
def test_a_batch_in_which_nothing_is_the_same_has_the_value_of_keep_to_the_bit(cls):
    x = case()
    x.picture, x.caption = torch.arange(6), 100 + torch.arange(6)
    for number, (kind, *_) in enumerate(KINDS.values(), start=1):
        setattr(x, f"{kind}_id", 1000 * number + torch.arange(6 * 3).view(6, 3))
    keep, mask = (value(cls, x, same=same) for same in ("keep", "mask"))
    assert_same(mask, keep)
    leaves = list(live(x).values())
    assert_same(
        *(list(torch.autograd.grad(sum(y.values()), leaves, allow_unused=True)) for y in (mask, keep))
    )


def rows(x, i):
    """A batch of one sample."""
    y = features(b=len(x.v))
    for name, tensor in vars(x).items():
        setattr(y, name, tensor[i : i + 1] if tensor.ndim else tensor)
    return y


@pytest.mark.parametrize("what", ["picture", "caption"])
@pytest.mark.parametrize("bias", [None, -1.0])
@pytest.mark.parametrize("name", IDENTIFIED)
def test_samples_that_are_all_the_same_do_not_meet(name, what, bias):
    """Without untrue texts, a batch of them is as good as each alone. Only masking can make it so."""
    cls, x = CLASSES[name], case()
    if bias is not None:
        x.b = torch.tensor(bias, dtype=torch.float64)
    getattr(x, what)[:] = getattr(x, what)[0]
    for kind in ("neg", "foil", "masked"):
        getattr(x, KINDS[kind][1])[:] = False
    together, apart = value(cls, x, same="mask"), [value(cls, rows(x, i), same="mask") for i in range(6)]
    contrasts = [key for key in together if (name, key) not in NO_CONTRAST]
    for key in contrasts:
        assert together[key].item() == close(mean([y[key].item() for y in apart]))
    keep = value(cls, x)
    assert any(abs(keep[key] - together[key]) > 1e-3 for key in contrasts)


def test_companion_images_cannot_be_told_apart():
    x, loss = case(), WITH_IMAGES["con-clip with images"]
    with pytest.raises(ValueError, match=r"^same=mask cannot tell which pictures companion images show; "):
        value(loss, x, same="mask")
    value(loss, x)


def test_every_row_masked_but_for_itself_gives_0():
    x = case()
    x.picture[:] = 7
    terms = value(CLIPLoss, x, same="mask")
    assert terms["contrastive_loss"] == 0
    assert not torch.autograd.grad(terms["contrastive_loss"], x.v)[0].any()


def test_equal_units_and_paraphrases_are_the_same_too():
    x = case()
    x.picture, x.caption = torch.arange(6), 100 + torch.arange(6)
    for name in ("phrase", "pos"):
        setattr(x, f"{name}_id", torch.full((6, 3), 7))
    x.foil_m[:] = x.n_id[:] = 0
    x.foil_m[:, 0] = True
    for name, key in (
        ("cs-clip", "unit_loss"),
        ("read", "par_loss"),
        ("tsvlc", "pos_loss"),
        ("clap-style", "style_loss"),
    ):
        assert value(CLASSES[name], x, same="mask")[key] < value(CLASSES[name], x)[key] / 2


def test_a_missing_companion_is_the_same_as_nothing():
    """Their token ids are all zeros, so their identities would be equal."""
    x, y = case(), case()
    x.pos_m[:3] = y.pos_m[:3] = False
    x.pos_id[:3] = 0
    y.pos_id[:3] = torch.arange(9).view(3, 3) + 5000
    for name in ("para-clip", "hard-positives", "read", "clap-style", "tsvlc"):
        x.pos, y.pos = x.pos[:, :2], y.pos[:, :2]
        x.pos_m, y.pos_m, x.pos_id, y.pos_id = (z[:, :2] for z in (x.pos_m, y.pos_m, x.pos_id, y.pos_id))
        assert_same(*(value(CLASSES[name], z, same="mask") for z in (x, y)))


def test_label_smoothing_spares_what_is_left_out():
    x, e = case(), 0.1
    total = 0.0
    for i in range(6):
        for a, b in ((x.v, x.t), (x.t, x.v)):
            columns = others(x, i)
            row = [x.s * dot(a[i], b[j]) for j in columns]
            each = [cross_entropy(row, place) for place in range(len(columns))]
            total = total + (1 - e) * each[columns.index(i)] + e * mean(each)
    columns = f.Samples(x.v, x.t, same=Identities(x.picture, x.caption[:, None]))
    assert f.clip(x.v, x.t, x.s, e, columns=columns).item() == close(total.item() / 12)


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_the_value_does_not_depend_on_the_blocks(monkeypatch, rows):
    x = case()
    want = value(NegCLIPLoss, x, same="mask")["contrastive_loss"]
    monkeypatch.setattr("open_clip_ext.losses.chunked_cross_entropy.BLOCK", rows * (6 + 18))
    got = value(NegCLIPLoss, x, same="mask")["contrastive_loss"]
    assert got.item() == close(want.item())


# --- identities, and what is asked of them ---


def test_missing_identities_are_named():
    x = case()
    args = arguments(NegCLIPLoss, x)
    for name in ("image_id", "text_id", "neg_text_id"):
        with pytest.raises(ValueError, match=rf"^{name} is missing, and same=mask needs it$"):
            NegCLIPLoss(same="mask")(**(args | {name: None}))
        with pytest.raises(ValueError, match=rf"^{name} has shape \(7,\), expected"):
            NegCLIPLoss(same="mask")(**(args | {name: torch.arange(7)}))


class Alone(Loss):
    """Nobody meets anybody."""

    @term
    def own_loss(self, x: Batch) -> torch.Tensor:
        return self.average((x.own.image * x.own.text).sum(-1).mean())


def test_a_loss_that_looks_at_no_identity_says_that_masking_changes_nothing():
    args = arguments(Alone, case())
    assert Alone()(**args).isfinite()
    with pytest.raises(ValueError, match=r"^same=mask has no effect on any term of Alone$"):
        Alone(same="mask")(**args)


class Theirs(Loss):
    """A loss of a third party that knows nothing of identities."""

    companions = {"neg": 3}

    @term
    def contrastive_loss(self, x: Batch) -> torch.Tensor:
        v, t, n, valid = x.rows.tensors("neg")
        return f.hard_negative_clip(v, t, n, x.scale, valid, columns=x.columns.of("neg"))


def test_a_loss_of_a_third_party_gets_it_by_the_functions():
    x = case()
    assert value(Theirs, x, same="mask")["contrastive_loss"].item() == close(negclip(x).item())


def test_identities_of_texts_are_those_of_their_token_ids():
    texts = torch.randint(1, 49408, (1000, 3, 16), generator=torch.Generator().manual_seed(0))
    texts[:, :, 9:] = 0
    ids = text_identities(texts)
    assert ids.shape == (1000, 3)
    assert len(ids.unique()) == len(texts.flatten(0, 1).unique(dim=0))
    assert torch.equal(text_identities(texts.clone()), ids)
    assert torch.equal(text_identities(texts[..., :12]), ids)  # padding says nothing
    assert not text_identities(torch.zeros(2, 5, dtype=torch.long)).any()
    swapped = texts.clone()
    swapped[..., [2, 3]] = texts[..., [3, 2]]
    assert ((text_identities(swapped) == ids) == (texts[..., 2] == texts[..., 3])).all()


def test_identities_of_pictures_are_numbers_of_64_bits_for_good():
    assert picture_identity("a.jpg") == picture_identity(b"a.jpg") == -8527827105697740802
    assert len({picture_identity(f"{i}.jpg") for i in range(10_000)}) == 10_000
