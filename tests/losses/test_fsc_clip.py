"""FSC-CLIP: focal weights and smoothed labels over own negatives, of whole texts and word by word."""

from __future__ import annotations

import oracles
import pytest
import torch
import torch.nn.functional as F
from reference import arguments, close, features, gradient_norms, leaves, own_idle, set_a, set_b, stream, unit
from set_d import with_kinds

from open_clip_ext.losses import FSCCLIPLoss


def terms(x, **options):
    return FSCCLIPLoss(**options)(**arguments(FSCCLIPLoss, x), output_dict=True)


def choose(options, focal, smoothing):
    """One image's choice of the first."""
    logits, total = torch.stack(options), 0
    for k, log_p in enumerate(logits - logits.logsumexp(0)):
        share = (1 - smoothing) * (k == 0) + smoothing / len(logits)
        total = total - share * (1 - log_p.exp()) ** focal * log_p
    return total


def scr(x, focal=2.0, smoothing=0.02):
    each = []
    for i in range(len(x.v)):
        texts = [x.t[i], *(x.n[i, k] for k in range(x.n.shape[1]) if x.m[i, k])]
        if len(texts) > 1:
            each.append(choose([x.s * oracles.dot(x.v[i], text) for text in texts], focal, smoothing))
    return oracles.mean(each)


def similarity(x, i, words, mask):
    """Image i with a text, by loops, as published: with the weights of a word scaled to [0, 1] first."""
    each = []
    for word in words[1:][mask[1:]]:  # the first begins the text
        a = torch.stack([oracles.dot(word, patch) for patch in x.patches[i]]).detach()
        a = (a - a.min()) / (a.max() - a.min())
        seen = sum(weight * patch for weight, patch in zip(a / a.sum(), x.patches[i], strict=True))
        each.append(x.s * oracles.dot(seen / seen.norm(), word / word.norm()))
    return torch.stack(each).logsumexp(0)


def local_scr(x, focal=2.0, smoothing=0.02):
    each = []
    for i in range(len(x.v)):
        found = [similarity(x, i, x.words[i], x.words_m[i])]
        existing = [k for k in range(x.n.shape[1]) if x.m[i, k]]
        found += [similarity(x, i, x.neg_words[i, k], x.neg_words_m[i, k]) for k in existing]
        if len(found) > 1:
            each.append(choose(found, focal, smoothing))
    return oracles.mean(each)


def words_of_set_a(x):
    """Draws 7 to 11 of set A: patches and words, to which a start of text is added that does not count."""
    draw = stream(0)
    for rows in (6, 6, 24, 6, 6, 24, 6, 6):
        draw(rows, 16)
    x.patches = unit(draw(6, 9, 16))
    words, neg_words = draw(6, 7, 16), draw(24, 7, 16)
    assert neg_words[23, 6, 15].item() == close(-0.4173538642)
    x.words, x.neg_words = words, neg_words.view(4, 6, 7, 16).transpose(0, 1)
    for name, count in (("words", 5), ("neg_words", 6)):
        y = getattr(x, name)
        setattr(x, name, torch.cat([torch.full_like(y[..., :1, :], torch.nan), y], -2))
        mask = torch.arange(8) < 1 + count
        setattr(x, f"{name}_m", mask.expand(*y.shape[:-2], 8))
    return x


def test_reference_values():
    found = terms(with_kinds(k=2), scr_weight=1.0, local_weight=0)
    assert found["contrastive_loss"].item() == close(0.0009921993)
    assert found["scr_loss"].item() == close(0.1429393307)


def test_reference_values_with_missing_negatives():
    a = words_of_set_a(set_a())
    a.m[:] = True
    assert terms(a)["scr_loss"].item() == close(3.5314724355)
    a.m[1, 0] = a.m[2, 1] = False
    assert terms(a)["scr_loss"].item() == close(3.5233081638)
    assert terms(a)["local_scr_loss"].item() == close(0.7230176902)
    b = set_b()
    assert terms(b, scr_weight=1.0, local_weight=0)["scr_loss"].item() == close(0.1655614949)
    v, t, n = leaves(b)
    norms = gradient_norms(terms(b, scr_weight=1.0, local_weight=0)["scr_loss"], v, t, n)
    assert norms == close([0.8630972540, 2.5450457620, 1.8785449093])


@pytest.mark.parametrize(("focal", "smoothing"), [(2.0, 0.02), (0.0, 0.0), (0.5, 0.3), (1.0, 1.0)])
def test_equals_its_loop_oracle(focal, smoothing):
    x = features()
    x.m[0] = False
    found = terms(x, scr_weight=1.0, local_weight=1.0, focal=focal, label_smoothing=smoothing)
    expected = {
        "contrastive_loss": oracles.clip(x.v, x.t, x.s),
        "scr_loss": scr(x, focal, smoothing),
        "local_scr_loss": local_scr(x, focal, smoothing),
    }
    torch.testing.assert_close(found, expected)
    wholes, parts = (x.v, x.t, x.n, x.s), (x.patches, x.words, x.neg_words, x.s)
    for term, wanted in (("scr_loss", wholes), ("local_scr_loss", parts)):
        got, want = (torch.autograd.grad(y[term], wanted) for y in (found, expected))
        torch.testing.assert_close(got, want)


def test_the_content_of_missing_negatives_does_not_matter():
    x = features()
    value = terms(x)["scr_loss"].item()
    with torch.no_grad():
        x.n[~x.m] = torch.nan
    loss = terms(x)["scr_loss"]
    assert loss.item() == close(value)
    gradients = torch.autograd.grad(loss, (x.v, x.t, x.n, x.s))
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[2][~x.m] == 0).all()


@pytest.mark.parametrize("focal", [0.0, 0.5, 2.0])
def test_without_any_negative_and_where_all_is_learned_gradients_are_numbers(focal):
    x = features(b=1)
    x.m[:] = False
    found = terms(x, focal=focal)
    assert found["scr_loss"] == found["local_scr_loss"] == 0
    assert all((g == 0).all() for g in torch.autograd.grad(found["scr_loss"], (x.v, x.t, x.n, x.s)))
    parts = (x.patches, x.words, x.neg_words, x.s)
    assert all((g == 0).all() for g in torch.autograd.grad(found["local_scr_loss"], parts))
    v, n = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[[-1.0, 0.0]]])
    loss = FSCCLIPLoss(focal=focal, local_weight=0)(v, v.detach(), torch.tensor(100.0), n)
    assert torch.autograd.grad(loss, v)[0].isfinite().all()


def test_options_without_effect_are_told():
    assert not own_idle(FSCCLIPLoss(scr_weight=0))
    without = FSCCLIPLoss(scr_weight=0, local_weight=0)
    assert sorted(own_idle(without)) == ["focal", "label_smoothing"]


def test_dense_tokens_are_asked_for_by_the_local_part_alone():
    assert FSCCLIPLoss().wants_dense()
    assert not FSCCLIPLoss(local_weight=0).wants_dense()
    with pytest.raises(ValueError, match="text_tokens is missing, and a term with a weight above 0 needs it"):
        terms(with_kinds(k=2))


def test_where_all_patches_look_alike_a_word_sees_each_of_them():
    x = features()
    with torch.no_grad():
        x.patches[:] = x.patches[:, :1]
    loss = terms(x)["local_scr_loss"]
    assert loss.isfinite()
    assert torch.autograd.grad(loss, x.patches)[0].isfinite().all()


def test_padding_never_counts_not_even_where_a_caption_has_no_word():
    x = features()
    x.words_m[0, 1:] = False
    loss = terms(x)["local_scr_loss"]
    wanted = (x.patches, x.s)
    gradients = torch.autograd.grad(loss, wanted)
    for name in ("words", "neg_words"):
        setattr(x, name, F.pad(getattr(x, name), (0, 0, 0, 3), value=1.0))
        setattr(x, f"{name}_m", F.pad(getattr(x, f"{name}_m"), (0, 3)))
    padded = terms(x)["local_scr_loss"]
    torch.testing.assert_close(padded, loss)
    torch.testing.assert_close(torch.autograd.grad(padded, wanted), gradients)
