"""No loss multiplies matrices in TF32, which upstream's trainer allows, and the run's setting stays.

TF32 has 10 bits where fp32 has 23. No CPU has it, so it is emulated: wherever the setting allows it, the
factors of a matrix product are rounded to 10 bits before they meet.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from our_losses import VARIANTS, loss_of
from reference import OTHER_KINDS, SCALE, arguments, identify
from torch.utils._python_dispatch import TorchDispatchMode

from open_clip_ext.losses.base import Loss, in_fp32
from open_clip_ext.precision import without_tf32

CUDA = torch.backends.cuda.matmul
# How a run may have chosen; torch 2.9 brought a setting beside the older one.
CHOICES = {
    "nothing": lambda: None,
    "as upstream": lambda: setattr(CUDA, "allow_tf32", True),
    "against it": lambda: setattr(CUDA, "allow_tf32", False),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
}
if hasattr(CUDA, "fp32_precision"):
    CHOICES["newer"] = lambda: setattr(CUDA, "fp32_precision", "tf32")
    CHOICES["newer, against it"] = lambda: setattr(CUDA, "fp32_precision", "ieee")


@pytest.fixture(autouse=True)
def _setting_put_back():
    yield
    torch.set_float32_matmul_precision("highest")


def setting():
    """Everything that torch tells about it; None where it says that two settings disagree."""

    def read(function):
        try:
            return function()
        except RuntimeError:
            return None

    newer = getattr(torch.backends.mkldnn, "matmul", None)
    return [
        read(torch.get_float32_matmul_precision),
        read(lambda: CUDA.allow_tf32),
        getattr(CUDA, "fp32_precision", None),
        getattr(newer, "fp32_precision", None),
    ]


def rounded(x):
    """The nearest number with 10 bits after the point."""
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class Ampere(TorchDispatchMode):
    """Multiplies as such a GPU does, where it is allowed to."""

    FACTORS = {
        torch.ops.aten.mm: 0,
        torch.ops.aten.bmm: 0,
        torch.ops.aten.addmm: 1,
        torch.ops.aten.addmm_: 1,
    }
    products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        first = self.FACTORS.get(function.overloadpacket)
        if first is not None:
            self.products += 1
            if CUDA.allow_tf32:
                args = list(args)
                args[first : first + 2] = map(rounded, args[first : first + 2])
        return function(*args, **(kwargs or {}))


def evaluate(name):
    """Value and gradients at a scale of 20 for features of which many agree."""
    draw = torch.Generator().manual_seed(0)

    def near(x, distance):
        return F.normalize(x + distance * F.normalize(torch.randn(x.shape, generator=draw), dim=-1), dim=-1)

    v = near(torch.zeros(8, 64), 1)
    t = near(v, 0.6)
    n = near(t[:, None].expand(8, 4, 64), 0.5)
    tv, tt, tn = (near(x, 0.2) for x in (v, t, n))
    x = SimpleNamespace(v=v, t=t, n=n, m=None, tv=tv, tt=tt, tn=tn, s=SCALE.float())
    others = [near(t[:, None].expand(8, 4, 64), 0.5) for _ in OTHER_KINDS]
    for (features, mask, taught), y in zip(OTHER_KINDS, others, strict=True):
        vars(x).update({features: y, mask: None, taught: None})
    words, neg_words = near(t[:, None].expand(8, 6, 64), 0.5), near(n[:, :, None].expand(8, 4, 6, 64), 0.5)
    x.patches, x.words, x.neg_words = near(v[:, None].expand(8, 5, 64), 0.5), words, neg_words
    x.words_m, x.neg_words_m = (torch.ones(y.shape[:-1], dtype=torch.bool) for y in (words, neg_words))
    x.mixed, x.said = near(v, 0.5), near(t[:, None].expand(8, 2, 64), 0.5)
    x.mixed_0, x.said_0 = near(x.mixed, 0.2), near(x.said, 0.2)
    identify(x)
    args = arguments(loss_of(name), x)
    leaves = [
        y.requires_grad_()
        for y in (v, t, n, x.patches, words, neg_words, x.mixed, x.said, *others)
        if any(y is given for given in args.values())
    ]
    value = VARIANTS[name]()(**args)
    return value, torch.autograd.grad(value, leaves)


def test_the_emulation_rounds():
    x = torch.tensor([[1 + 2.0**-10, 1 + 2.0**-12]])
    CUDA.allow_tf32 = True
    with Ampere():
        assert (x @ torch.eye(2)).tolist() == [[1 + 2.0**-10, 1.0]]
        with without_tf32():
            assert (x @ torch.eye(2)).tolist() == x.tolist()


@pytest.mark.parametrize("name", VARIANTS)
def test_no_loss_multiplies_in_tf32(name):
    expected, gradients = evaluate(name)
    CUDA.allow_tf32 = True
    with Ampere() as gpu:
        value, got = evaluate(name)
    assert gpu.products >= 4
    assert torch.equal(value, expected)
    for mine, exact in zip(got, gradients, strict=True):
        # Products with the whole batch have made their gradient by then. What a backward pass still
        # multiplies, captions with their own negatives, follows the run's setting.
        assert (mine - exact).norm() <= (1e-3 if len(loss_of(name).weights) > 1 else 0) * exact.norm()


@pytest.mark.parametrize("choice", CHOICES)
def test_the_run_s_setting_is_off_inside_and_back_outside(choice):
    CHOICES[choice]()
    before = setting()
    with without_tf32():
        assert not CUDA.allow_tf32
        assert setting()[2] in (None, "none", "ieee")
        with without_tf32():
            assert not CUDA.allow_tf32
        assert not CUDA.allow_tf32
    assert setting() == before


@pytest.mark.parametrize("choice", CHOICES)
def test_the_run_s_setting_is_back_after_a_loss_that_raised(choice):
    class Broken(Loss):
        @in_fp32
        def forward(self, x):
            assert not CUDA.allow_tf32
            raise ArithmeticError

    CHOICES[choice]()
    before = setting()
    with pytest.raises(ArithmeticError):
        Broken()(torch.ones(2))
    assert setting() == before
