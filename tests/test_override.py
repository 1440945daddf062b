"""One instance gets other methods, and gives them back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from open_clip_ext.model.override import override, restore, state_of


@pytest.fixture
def model():
    return nn.Linear(2, 3)


def doubled(self, x):
    return 2 * nn.Linear.forward(self, x)


def test_the_instance_alone_changes_and_still_is_what_it_was(model):
    other, x = copy.deepcopy(model), torch.ones(1, 2)
    override(model, "state", nn.Linear(1, 1), forward=doubled)
    assert torch.equal(model(x), 2 * other(x))
    assert isinstance(model, nn.Linear)
    assert repr(model) == repr(other)
    assert model.state_dict().keys() == other.state_dict().keys()  # the state's module is no part of it


def test_several_overrides_each_find_their_state_and_all_are_taken_back(model):
    override(model, "one", 1, forward=doubled)
    override(model, "two", 2, extra_repr=lambda self: "two")
    assert (state_of(model, "one"), state_of(model, "two")) == (1, 2)
    before = vars(model).keys() - {"one", "two"}
    restore(model)
    assert type(model) is nn.Linear
    assert vars(model).keys() == before


def test_restoring_a_copy_leaves_the_original_overridden(model):
    override(model, "state", 1, forward=doubled)
    copied = copy.copy(model)
    restore(copied)
    x = torch.ones(1, 2)
    assert torch.equal(model(x), 2 * copied(x))
    assert state_of(model, "state") == 1


def test_what_was_never_overridden_is_left_alone(model):
    restore(model)
    assert type(model) is nn.Linear
