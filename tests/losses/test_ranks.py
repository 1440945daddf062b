"""Two processes give the values of one, and its gradients where the gather mode promises them.

The modes are the host's: gather (no flag), `--gather-with-grad`, `--local-loss`, and both.
DDP averages parameter gradients over ranks, so a feature gradient counts with 1/2 here.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from functools import partial
from pathlib import Path
from unittest import mock

import open_clip
import pytest
import torch
import torch.distributed as dist
from our_losses import CLASSES, VARIANTS, WITH_IMAGES, loss_of
from reference import arguments, close, features, leaves, live, set_c
from support import together

from open_clip_ext.losses import DeGLALoss, NegCLIPLoss
from open_clip_ext.losses import functional as f
from open_clip_ext.losses.batch import Batch
from open_clip_ext.losses.gather import average, gather
from open_clip_ext.losses.identities import Identities

WORLD = 2
MODES = {
    "gather": {},
    "with-grad": {"gather_with_grad": True},
    "local": {"local_loss": True},
    "local-with-grad": {"local_loss": True, "gather_with_grad": True},
}
WITH_GRAD = ["with-grad", "local-with-grad"]
# Every choice of every option, and every term left out.
OURS = VARIANTS | {
    f"{name} {weight}=0": partial(loss, **{weight: 0})
    for name, loss in CLASSES.items()
    for weight in (*loss.weights.values(), *(w for w in loss.shared_weights.values() if getattr(loss, w)))
    if weight
}
LOSSES = OURS | {"open_clip": open_clip.ClipLoss}
# On a model with a logit bias; upstream's SigLIP in each way of bringing texts to the other ranks.
BIASED = {f"{name} biased": loss for name, loss in (CLASSES | WITH_IMAGES).items()}
SIGLIP = ("bidir", "shift", "reduce", "gather")
PUBLISHED = ("clip", "open_clip", "negclip", "ce-clip", "degla")
REFERENCE = {"negclip": 9.3098877662, "degla": 10.8370146775, "degla tgc=released": 10.7943142136}
BIAS = torch.tensor(-3.0, dtype=torch.float64)
CASES = list(itertools.product([*LOSSES, *BIASED], MODES))


def evaluate(name, x, **mode):
    """Terms, gradients, and the state of the next step."""
    loss = (LOSSES | BIASED)[name](**mode).double()
    if name in BIASED:
        x.b = BIAS.clone().requires_grad_()
    if hasattr(loss, "configure"):
        loss.configure(loss.companions)
    for buffer in loss.buffers():
        buffer += (torch.arange(buffer.numel()) / 2).to(buffer).view_as(buffer)
    terms = loss(**arguments(type(loss), x), output_dict=True)
    wanted = live(x)
    got = torch.autograd.grad(sum(terms.values()), list(wanted.values()), allow_unused=True)
    if hasattr(loss, "commit"):
        loss.commit()
    return {
        "terms": {k: y.item() for k, y in terms.items()},
        "gradients": dict(zip(wanted, got, strict=True)),
        "state": loss.state_dict(),
    }


def batch():
    """Six samples for two ranks; some negatives missing, one type of them on one rank only."""
    x = features(b=6, k=4)
    x.m[3:, 1] = False
    return x


def reference_batch():
    x = set_c()
    x.s = x.s.clone().requires_grad_()
    leaves(x)
    return x


def share(x, rank):
    """The rows of one rank."""
    own = slice(rank * len(x.v) // WORLD, (rank + 1) * len(x.v) // WORLD)
    for name, y in vars(x).items():
        if y.ndim:
            setattr(x, name, y[own].detach().requires_grad_(y.requires_grad))
    return x


def reduce_scatter(output, parts):
    """What gloo lacks."""
    assert all(part.is_contiguous() for part in parts)
    total = torch.stack(parts)
    dist.all_reduce(total)
    output.copy_(total[dist.get_rank()])


def work(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    where = {"rank": rank, "world_size": WORLD}
    out = {}
    for name, mode in CASES:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            out[name, mode] = evaluate(name, share(batch(), rank), **MODES[mode], **where)
        out["warned", name, mode] = [str(warning.message) for warning in warned]
    for name in SIGLIP:
        x = share(batch(), rank)
        x.b = BIAS.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # upstream's own
            value = open_clip.loss.SigLipLoss(dist_impl=name, **where)(x.v, x.t, x.s, x.b)
        gradients = torch.autograd.grad(value, [x.v, x.t, x.s, x.b])
        out[name] = {"value": value.item(), "gradients": dict(zip("vtsb", gradients, strict=True))}
    for mode in MODES:
        x = share(reference_batch(), rank)
        x.m[:] = True
        for name in REFERENCE:
            out["reference", name, mode] = evaluate(name, x, **MODES[mode], **where)
        x = share(batch(), rank)
        x.m = None if rank else torch.ones_like(x.m)
        out["mask on one rank", mode] = evaluate("negclip", x, **MODES[mode], **where)
    numbers = torch.arange(rank, rank + 3)
    x = torch.rand(2, 3, 4, requires_grad=True)
    whole = gather(x, **MODES["with-grad"], **where)
    crossed = torch.arange(48.0).view(3, 4, 4).permute(1, 0, 2)  # a gradient in another order of memory
    out["crossed"] = torch.autograd.grad(whole, x, crossed, retain_graph=True)[0]
    with mock.patch.multiple(dist, get_backend=lambda: "nccl", reduce_scatter=reduce_scatter):
        out["crossed, as on nccl"] = torch.autograd.grad(whole, x, crossed)[0]
    out["gathered"] = gather(numbers % 2 == 0, **where), gather(numbers, **where)
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found; one pair of processes for everything."""
    folder = tmp_path_factory.mktemp("ranks")
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}  # support
    status, output = together(__file__, folder, processes=WORLD, env=env)
    assert status == 0, output
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def averaged(found, name):
    """The gradient of the global batch after DDP's mean over ranks."""
    each = [r["gradients"][name] for r in found]
    if name in ("s", "b"):
        return sum(each) / WORLD
    return None if each[0] is None else torch.cat(each) / WORLD


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_mean_over_ranks_of_every_term_is_the_value_of_one_process(ranks, name, mode):
    one = evaluate(name, batch())
    for term, value in one["terms"].items():
        each = [r[name, mode]["terms"][term] for r in ranks]
        assert sum(each) / WORLD == close(value)
        if "local" not in mode:
            assert each == close([value] * WORLD)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name, make in OURS.items() if list(make().buffers())])
def test_state_is_that_of_the_global_batch_on_every_rank(ranks, name, mode):
    """CE-CLIP's thresholds, RankCLIP's steps."""
    one = evaluate(name, batch())["state"]
    assert all(value.max() > 0 for value in one.values())
    first, second = (r[name, mode]["state"] for r in ranks)
    torch.testing.assert_close(first, one)
    for key, value in first.items():
        assert torch.equal(value, second[key])


@pytest.mark.parametrize("name", [*LOSSES, *BIASED])
@pytest.mark.parametrize("mode", WITH_GRAD)
def test_with_grad_the_averaged_gradient_is_that_of_one_process(ranks, name, mode):
    one = evaluate(name, batch())["gradients"]
    for leaf, want in one.items():
        torch.testing.assert_close(averaged([r[name, mode] for r in ranks], leaf), want)


@pytest.mark.parametrize("exchange", SIGLIP)
def test_clip_with_a_bias_is_upstream_s_siglip(ranks, exchange):
    """Its own rows score all texts, and gradients cross ranks."""
    for r in ranks:
        ours = r["clip biased", "local-with-grad"]
        assert ours["terms"]["contrastive_loss"] == close(r[exchange]["value"])
        for leaf, gradient in r[exchange]["gradients"].items():
            torch.testing.assert_close(ours["gradients"][leaf], gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_without_grad_the_averaged_gradient_of_features_is_one_over_w_of_it(ranks, name):
    one = evaluate(name, batch())["gradients"]
    for leaf, want in one.items():
        got = averaged([r[name, "gather"] for r in ranks], leaf)
        scale = 1 if leaf == "s" else WORLD
        torch.testing.assert_close(got, None if want is None else want / scale)


def constant_columns(name, x):
    """One process in which columns are constants: what `--local-loss` alone differentiates."""
    loss = OURS[name]().double()
    for buffer in loss.buffers():
        if buffer.ndim:
            buffer.set_(torch.arange(4, dtype=torch.float64) / 2)
    args = arguments(type(loss), x)
    scale = args.pop("logit_scale")
    x = Batch(args, scale, gather=torch.Tensor.detach, first=0, identified=loss.identified)
    return sum(loss.terms(x).values())


def by_formulas(name, x):
    """The same of the published losses, without their classes."""
    v, t, n, s, m = x.v, x.t, x.n, x.s, x.m
    columns = f.Samples(v.detach(), t.detach(), n.detach(), m)
    if name == "open_clip":
        return f.clip(v, t, s, columns=columns)
    loss = OURS[name]()
    if loss.identified:
        columns = columns._replace(same=Identities(x.picture, x.caption[:, None], x.n_id))
    if name.startswith("clip"):
        return f.clip(v, t, s, columns=columns)
    terms = [(1, f.hard_negative_clip(v, t, n, s, m, columns=columns))]
    if name.startswith("ce-clip"):
        thresholds = torch.full((4,), 2.0) if loss.threshold == 2.0 else torch.arange(4) / 2
        terms += [
            (loss.cmr_weight, f.cross_modal_rank(v, t, n, s, thresholds, m)[0]),
            (loss.imc_weight, f.intra_modal(v, t, n, s, m, loss.imc, columns=columns)),
        ]
    if name.startswith("degla"):
        own = (n, m) if loss.tgc == "paper" else (f.tiled(columns.neg), f.tiled(m))
        terms += [
            (loss.igc_weight, f.image_grounded(v, t, n, s, m)),
            (loss.tgc_weight, f.text_grounded(t, x.tt, own[0], 10.0, own[1])),
            (loss.distill_weight, f.self_distillation(v, x.tv, t, x.tt, n, x.tn, m)),
        ]
    return sum(weight * term for weight, term in terms if weight)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, constant_columns) for name in OURS),
        *((name, by_formulas) for name in LOSSES if name.split()[0] in PUBLISHED and name not in WITH_IMAGES),
    ],
)
def test_local_loss_alone_differentiates_rows_and_takes_columns_as_constants(ranks, name, expected):
    x = batch()
    leaf = live(x)
    want = torch.autograd.grad(expected(name, x), list(leaf.values()), allow_unused=True)
    for key, gradient in zip(leaf, want, strict=True):
        got = averaged([r[name, "local"] for r in ranks], key)
        torch.testing.assert_close(got, gradient)


def test_local_loss_alone_gives_negclip_negatives_no_gradient(ranks):
    assert all(r["negclip", "local"]["gradients"]["n"] is None for r in ranks)


@pytest.mark.parametrize("mode", MODES)
def test_clip_loss_is_open_clip_on_every_rank(ranks, mode):
    for r in ranks:
        ours, theirs = r["clip", mode], r["open_clip", mode]
        assert ours["terms"]["contrastive_loss"] == close(theirs["terms"]["contrastive_loss"])
        for leaf in ("v", "t", "s"):
            got, want = ours["gradients"][leaf], theirs["gradients"][leaf]
            torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_on_one_rank_only_does_not_block_the_other(ranks, mode):
    x = batch()
    x.m = torch.ones_like(x.m)
    one = evaluate("negclip", x)["terms"]["contrastive_loss"]
    each = [r["mask on one rank", mode]["terms"]["contrastive_loss"] for r in ranks]
    assert sum(each) / WORLD == close(one)


def test_gather_keeps_the_order_of_ranks_and_the_type(ranks):
    for r in ranks:
        bools, numbers = r["gathered"]
        assert bools.tolist() == [True, False, True, False, True, False]
        assert numbers.tolist() == [0, 1, 2, 1, 2, 3]


def test_gather_gives_each_rank_the_sum_of_the_gradients_whatever_their_strides(ranks):
    crossed = torch.arange(48.0).view(3, 4, 4).permute(1, 0, 2)
    for r, rows in zip(ranks, crossed.split(2), strict=True):
        assert torch.equal(r["crossed"], WORLD * rows)
        assert torch.equal(r["crossed, as on nccl"], WORLD * rows)


def test_no_rank_warns(ranks):
    """Nor should open_clip: its own loss gathers by a function that torch calls deprecated."""
    ours = [case for case in CASES if "open_clip" not in case]
    assert [message for r in ranks for case in ours for message in r[("warned", *case)]] == []


def test_one_process_does_not_communicate():
    x = torch.ones(3, requires_grad=True)
    assert gather(x) is x
    assert average(x) is x


def sent(monkeypatch, name, b, k, d, **mode):
    """Bytes that one of two ranks sends in a forward pass, counted where they leave."""
    count = [0]

    def gathered(slices, x):
        count[0] += x.nbytes
        for y in slices:
            y.copy_(x)

    monkeypatch.setattr(dist, "all_gather", gathered)
    monkeypatch.setattr(dist, "all_reduce", lambda x: count.__setitem__(0, count[0] + x.nbytes))
    x = features(b=b, k=k, d=d)
    for field, y in vars(x).items():
        if y.ndim and y.is_floating_point():
            setattr(x, field, y.detach().float().requires_grad_(y.requires_grad))
    LOSSES[name](world_size=2, **mode)(**arguments(loss_of(name), x))
    return count[0]


# What these gather follows from their kinds of companions; others gather less.
GATHERS_KINDS = {*PUBLISHED, "tsvlc", "con-clip", "rank-clip", "read", "hard-positives", "omni-neg", "ahnpl"}
GATHERS_KINDS |= {"triplet-clip", "anchored"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.split()[0] in GATHERS_KINDS])
def test_bytes_sent_per_sample_are_those_of_the_docs(monkeypatch, variant, mode):
    texts, images = loss_of(variant).companions, loss_of(variant).companion_images
    identified = sum(n > 0 for n in texts.values())
    kinds = identified + sum(n > 0 for n in images.values())
    name, masked = variant.removesuffix(" same=mask"), variant.endswith(" same=mask")
    identified -= name == "hard-positives"  # its negatives are met by their own image alone
    if "local" in mode:
        # Of these, one kind is met by its own rows alone.
        kinds -= name in ("hard-positives", "read", "tsvlc contrast=captions")
    for b, k, d in ((3, 4, 7), (5, 2, 16)):
        per_sample = 4 * d * (2 + kinds * k) + kinds * k
        per_sample += masked * 8 * (2 + identified * k)
        terms = 0
        if name == "anchored":
            # Both models' features of the reference texts of a sample, and of its mixed picture.
            per_sample += 2 * 4 * d * (2 if "local" in mode else 2 + 1)
        if "local" not in mode:
            per_sample += {"degla tgc=released": 4 * d}.get(name, 0)
            terms = {"degla": 2, "degla tgc=released": 1, "omni-neg": 1, "anchored": 2}.get(name, 0)
        assert sent(monkeypatch, variant, b, k, d, **MODES[mode]) == b * per_sample + 4 * terms


@pytest.mark.parametrize("mode", MODES)
def test_dense_tokens_are_never_gathered(monkeypatch, mode):
    b, k = 3, 4
    names = "fsc-clip", "fsc-clip local_weight=0"
    with_tokens, without = (sent(monkeypatch, name, b, k, 16, **MODES[mode]) for name in names)
    assert with_tokens - without == (0 if "local" in mode else 8 * b * (1 + k))


@pytest.mark.parametrize("mode", MODES)
def test_reference_values_of_two_ranks(ranks, mode):
    for name, value in REFERENCE.items():
        totals = [sum(r["reference", name, mode]["terms"].values()) for r in ranks]
        assert sum(totals) / WORLD == close(value)


def test_reference_gradient_norms_of_two_ranks(ranks):
    found = [r["reference", "degla", "gather"]["gradients"]["v"].norm().item() for r in ranks]
    assert found == close([5.0954132153, 6.7973153080])
    for mode in WITH_GRAD:
        found = [r["reference", "degla", mode]["gradients"]["v"].norm().item() for r in ranks]
        assert found == close([WORLD * 5.0954132153, WORLD * 6.7973153080])


def test_the_wrong_values_of_a_flattened_gather_do_not_appear(ranks):
    """The authors' code reads the texts [t0; n0; t1; n1] as 8 captions and 32 negatives."""
    x = set_c()

    def misread(t, n):
        flat = torch.cat([t[:4], n[:4].flatten(0, 1), t[4:], n[4:].flatten(0, 1)])
        return flat[:8], flat[8:].view(8, 4, 16)

    (t, n), (tt, tn) = misread(x.t, x.n), misread(x.tt, x.tn)
    negclip = NegCLIPLoss()(x.v, t, x.s, n).item()
    degla = DeGLALoss(tgc="released")(x.v, t, x.s, n, None, x.tv, tt, tn).item()
    assert (negclip, degla) == close((8.1988587664, 9.8362832364))

    for name, wrong in (("negclip", negclip), ("degla tgc=released", degla)):
        for mode in MODES:
            for r in ranks:
                assert sum(r["reference", name, mode]["terms"].values()) != close(wrong)


if __name__ == "__main__":
    work(sys.argv[1])
