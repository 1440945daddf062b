"""A loss declares its options and terms: what follows from that, and which declarations are refused."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import mypy.api
import pytest
import torch
from our_losses import CLASSES
from reference import arguments, features

from open_clip_ext import registry
from open_clip_ext.losses import DeGLALoss
from open_clip_ext.losses.base import HardNegativeLoss, Loss, Teacher, option, term

ROOT = Path(__file__).parents[2]


class Sharp(DeGLALoss):
    """With what its base declares, in a module that does not import the base's types."""

    own_weight: float = option(default=0.5, least=0)
    own_power: int = 2

    @term("own_weight")
    def own_loss(self, x):
        return x.own.text.abs().pow(self.own_power).sum()


def test_options_and_terms_come_after_those_of_the_base():
    known = registry.options(Sharp)
    shared = registry.SHARED_OPTIONS  # of all losses, so the last
    base = [name for name in registry.options(DeGLALoss) if name not in shared]
    assert list(known) == [*base, "own_weight", "own_power", *shared]
    assert known["tgc"] == registry.options(DeGLALoss)["tgc"]
    assert inspect.signature(Sharp).parameters["own_weight"].annotation is float
    assert (known["own_weight"].hint, known["own_power"].hint, known["own_power"].default) == (float, int, 2)
    assert list(Sharp.weights) == [*DeGLALoss.weights, "own_loss"]
    x = features()
    terms = Sharp(own_weight=3.0, own_power=1, tgc="released")(**arguments(Sharp, x), output_dict=True)
    assert terms["own_loss"] == 3 * x.t.abs().sum()
    assert list(DeGLALoss.weights) == ["contrastive_loss", "igc_loss", "tgc_loss", "distill_loss"]


def test_a_new_default_of_a_base_s_option_needs_its_annotation():
    class Slow(DeGLALoss):
        ema_decay: float = option(default=0.5, least=0, most=1)

    assert (Slow().ema_decay, DeGLALoss().ema_decay) == (0.5, 0.9996)
    assert list(registry.options(Slow)) == list(registry.options(DeGLALoss))


def test_a_loss_with_two_bases_has_the_terms_of_both():
    class Mixin(Loss):
        mixed_weight: float = option(default=2.0, least=0)

        @term("mixed_weight")
        def mixed_loss(self, x):
            return x.scale

    class Both(Mixin, DeGLALoss):
        pass

    assert list(Both.weights) == [*DeGLALoss.weights, "mixed_loss"]
    assert Both().mixed_weight == 2.0


def test_a_loss_that_makes_its_constructor_itself_may():
    class Own(Loss):
        def __init__(self, *, margin: float = 0.1, **distributed: bool | int) -> None:
            super().__init__(**distributed)
            self.margin = margin

    assert (Own(margin=2.0, rank=1, world_size=2).rank, Own().margin) == (1, 0.1)


def nothing(self, x):
    return x.scale


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        (
            {"__annotations__": {"local_loss": "bool"}, "local_loss": term()(nothing)},
            "Bad.local_loss is the name of an option and of a method",
        ),
        ({"rank": nothing}, "Bad.rank is the name of an option and of a method"),
        ({"__annotations__": {"train": "float"}, "train": 0.1}, "Bad.train is the name of an option and of"),
        ({"__annotations__": {"size": "int"}}, "Bad.size has no default"),
        (
            {"__annotations__": {"size": "int"}, "size": option(default=1, needs="own_weight")},
            "Bad.size needs own_weight, which is no option",
        ),
        ({"own": term()(nothing)}, "Bad.own is a term: its name must end in _loss"),
        (
            {"own_loss": term("own_weight")(nothing)},
            "Bad.own_loss is weighted by own_weight, which is no option",
        ),
        ({"world_size": 2}, "Bad.world_size is an option of a base: annotate its new default, too"),
        ({"size": option(default=1)}, "Bad: 'size' is a field but has no type annotation"),
        (
            {"__annotations__": {"training": "bool"}, "training": False},
            "Bad.training is an attribute of every",
        ),
        (
            {"__annotations__": {"size": "float"}, "size": option(default=2, least=0, most=1)},
            "the default of Bad.size is 2, expected a number in [0, 1]",
        ),
        (
            {"__annotations__": {"own": "str"}, "own": "", "own_loss": term("own")(lambda self, x: x.scale)},
            "Bad.own_loss is weighted by own, which is no number",
        ),
        (
            {"own_loss": lambda self, x: x.scale},
            "Bad.own_loss is named as a term: mark it with @term, or rename it",
        ),
        ({"teacher": Teacher(decay="decay")}, "Bad.teacher names decay, which is no option"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_declared(declared, sentence):
    with pytest.raises(TypeError, match=re.escape(sentence)):
        type("Bad", (HardNegativeLoss,), {"__module__": __name__, **declared})


SNIPPET = """
from open_clip_ext.losses import DeGLALoss
from open_clip_ext.losses.base import HardNegativeLoss, option

class Mine(HardNegativeLoss):
    own_weight: float = option(default=0.5, least=0)

DeGLALoss(tgc="released", ema_decay=0.9, rank=1, world_size=2)
Mine(own_weight=2, local_loss=True)
DeGLALoss(tgc="old")  # arg-type
DeGLALoss(tgc_scale="10")  # arg-type
DeGLALoss(temperature=1.0)  # call-arg
Mine(own_weight=None)  # arg-type
x: int = DeGLALoss().tgc  # assignment
"""


def test_a_type_checker_sees_the_constructor(tmp_path):
    (tmp_path / "snippet.py").write_text(SNIPPET)
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    printed, problems, _ = mypy.api.run([*settings, str(tmp_path / "snippet.py")])
    assert problems == ""
    found = re.findall(r"snippet\.py:(\d+): error: .*\[([a-z-]+)\]", printed)
    lines = enumerate(SNIPPET.splitlines(), 1)
    assert found == [(str(i), line.split("  # ")[1]) for i, line in lines if "  # " in line]


@pytest.mark.parametrize("name", CLASSES)
def test_a_number_out_of_bounds_is_refused_for_every_option_that_has_them(name):
    loss = CLASSES[name]
    for field in loss.__dataclass_fields__.values():
        for bound, outside in (("least", -1), ("most", 1)):
            if (limit := field.metadata.get(bound)) is not None:
                loss(**{field.name: limit})
                with pytest.raises(ValueError, match=f"^{field.name} is .*, expected"):
                    loss(**{field.name: limit + outside})


def test_every_option_that_needs_a_weight_is_idle_without():
    for loss in CLASSES.values():
        for field in loss.__dataclass_fields__.values():
            if needs := field.metadata.get("needs"):
                assert loss(**dict.fromkeys(needs, 0)).idle_options()[field.name].startswith(needs[0])


@pytest.mark.parametrize(
    ("returned", "what"), [(None, "NoneType"), (1.0, "float"), (torch.zeros(3), "shape (3,)")]
)
def test_a_term_that_is_no_scalar_is_named(returned, what):
    class Bad(Loss):
        @term
        def own_loss(self, x):
            return returned

    with pytest.raises(TypeError, match=re.escape(f"Bad.own_loss returned {what}, expected a scalar tensor")):
        Bad()(**arguments(Bad, features()))


def test_a_loss_without_a_term_says_so():
    with pytest.raises(TypeError, match="Loss has no term: mark a method with @term"):
        Loss()(**arguments(Loss, features()))


def test_a_teacher_may_have_no_checkpoint():
    class Kept(HardNegativeLoss):
        keep_weight: float = option(default=0.5, least=0)
        decay: float = option(default=0.9, least=0, most=1, needs="keep_weight")
        teacher = Teacher(decay="decay")

    assert Kept().make_teacher(torch.nn.Linear(1, 1)).decay == 0.9
    assert Kept(keep_weight=0).make_teacher(torch.nn.Linear(1, 1)) is None


def test_what_is_staged_leads_no_gradient_into_the_next_step():
    class Follows(HardNegativeLoss):
        def __post_init__(self):
            super().__post_init__()
            self.seen = torch.nn.Buffer(torch.zeros(()))

        @term
        def own_loss(self, x):
            self.stage(seen=x.own.text.sum() + self.seen)
            return x.own.text.sum() + self.seen

    loss, x = Follows(), features()
    x.t.requires_grad_()
    for _ in range(2):
        loss(**arguments(Follows, x)).backward()
        loss.commit()
    assert not loss.seen.requires_grad
    with pytest.raises(TypeError, match=re.escape("Follows.stage(other=()): there is no such buffer")):
        loss.stage(other=torch.zeros(()))
    with pytest.raises(TypeError, match=re.escape("Follows.stage(seen=(2,)): there is ()")):
        loss.stage(seen=torch.zeros(2))


def test_the_state_of_a_loss_is_staged_and_waits_for_a_step():
    class Counts(HardNegativeLoss):
        def __post_init__(self):
            super().__post_init__()
            self.seen = torch.nn.Buffer(torch.zeros(()))

        @term()
        def seen_loss(self, x):
            self.stage(seen=self.seen + 1)
            return self.seen.clone()

    loss, args = Counts(), arguments(HardNegativeLoss, features())
    for _ in range(2):
        assert loss(**args, output_dict=True)["seen_loss"] == 0
    loss.commit()
    assert loss(**args, output_dict=True)["seen_loss"] == 1
    loss.eval()(**args)
    loss.load_state_dict({"seen": torch.tensor(7.0)})  # what was staged before belongs to another life
    loss.commit()
    assert loss.seen == 7
