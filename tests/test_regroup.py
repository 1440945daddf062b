"""An optimizer's state is taken by the names of parameters where another upstream has other groups."""

from __future__ import annotations

import copy

import pytest
import torch
from support import assert_same

from open_clip_ext.host.regroup import load_by_name
from open_clip_ext.training.run import parameter_names

DECAY = 0.1


def made(model, *groups):
    """An optimizer with weight decay in the last group alone."""
    parameters = dict(model.named_parameters())
    decays = [0.0] * (len(groups) - 1) + [DECAY]
    return torch.optim.AdamW(
        [
            {"params": [parameters[name] for name in names], "weight_decay": decay}
            for names, decay in zip(groups, decays, strict=True)
        ]
    )


@pytest.fixture
def trained():
    """A model, and an optimizer whose state is another one for each parameter."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    optimizer = made(model, ["0.bias"], ["0.weight", "1.weight", "1.bias"])
    model(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def state_by_name(model, optimizer):
    return {name: optimizer.state[parameter] for name, parameter in model.named_parameters()}


def test_each_parameter_gets_its_own_state_and_the_decay_of_its_new_group(trained):
    model, optimizer = trained
    copied = copy.deepcopy(model)
    other = made(copied, ["1.bias", "0.bias"], ["0.weight", "1.weight"])
    optimizer.param_groups[0]["betas"] = (0.5, 0.6)
    load = torch.optim.Optimizer.load_state_dict
    load_by_name(copied, parameter_names(model, optimizer))
    other.load_state_dict(optimizer.state_dict())
    assert_same(state_by_name(copied, other), state_by_name(model, optimizer))
    assert [group["weight_decay"] for group in other.param_groups] == [0.0, DECAY]
    assert other.param_groups[1]["betas"] == optimizer.param_groups[1]["betas"]
    assert torch.optim.Optimizer.load_state_dict is load


def test_the_same_groups_are_loaded_as_they_are(trained):
    model, optimizer = trained
    other = made(model, ["0.bias"], ["0.weight", "1.weight", "1.bias"])
    load_by_name(model, parameter_names(model, optimizer))
    other.load_state_dict(optimizer.state_dict())
    assert_same(other.state_dict(), optimizer.state_dict())


def test_other_parameters_are_left_to_torch(trained):
    model, optimizer = trained
    fewer = made(model, ["0.bias"], ["0.weight"])
    load_by_name(model, parameter_names(model, optimizer))
    with pytest.raises(ValueError, match="doesn't match the size"):
        fewer.load_state_dict(optimizer.state_dict())


def test_a_run_that_ended_before_its_optimizer_leaves_nothing_to_the_next():
    stock = torch.optim.Optimizer.load_state_dict
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(3, 3, bias=False)
    load_by_name(first, [["weight", "bias"]])
    load_by_name(second, [["weight"]])
    optimizer = torch.optim.AdamW(second.parameters())
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.optim.Optimizer.load_state_dict is stock
