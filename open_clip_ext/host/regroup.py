"""An optimizer's state, by the names of parameters.

Upstreams divide a model's parameters among the groups of their optimizer in other ways: the task API spares
positional embeddings weight decay, for one. torch numbers parameters group by group, so that a state of
one upstream does not fit the other's optimizer, or fits it wrongly.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from open_clip_ext.training.run import parameter_names

Names = Sequence[Sequence[str]]
STOCK = "_open_clip_ext_stock"  # what a replaced method was


def load_by_name(model: nn.Module, saved: Names) -> None:
    """Let the next optimizer that loads a state take it by the names of parameters.

    This replaces what an earlier call arranged, if no optimizer has loaded a state since.

    Args:
        model: whose parameters the optimizer has.
        saved: their names in each group of the optimizer that the state is of.
    """
    load = vars(Optimizer.load_state_dict).get(STOCK, Optimizer.load_state_dict)

    def load_state_dict(self: Optimizer, state_dict: dict[str, Any]) -> None:
        Optimizer.load_state_dict = load  # type: ignore[method-assign]
        load(self, regrouped(self, state_dict, saved, parameter_names(model, self)))

    setattr(load_state_dict, STOCK, load)
    Optimizer.load_state_dict = load_state_dict  # type: ignore[method-assign]


def regrouped(optimizer: Optimizer, state: Mapping[str, Any], saved: Names, now: Names) -> dict[str, Any]:
    """The state of another optimizer with the same parameters, as `optimizer` can load it.

    Its groups keep their own weight decay; everything else is the other's.

    Args:
        optimizer: newly made.
        state: of the other one.
        saved: the names of the parameters in each of its groups.
        now: the same of `optimizer`.

    Returns:
        `state` itself if the groups are the same, or the parameters are others: torch then says so.
    """
    groups = state["param_groups"]
    places = {
        name: (index, group)
        for group, its in zip(groups, saved, strict=True)
        for index, name in zip(group["params"], its, strict=True)
    }
    if list(saved) == list(now) or places.keys() != {name for its in now for name in its}:
        return dict(state)
    logging.info("open_clip_ext: the checkpoint's optimizer has other groups; its state is taken by name")
    made, its_state = [], {}
    for own, its in zip(optimizer.state_dict()["param_groups"], now, strict=True):
        kept = {key: own[key] for key in ("params", "weight_decay")}
        made.append({**own, **(places[its[0]][1] if its else {}), **kept})
        for index, name in zip(own["params"], its, strict=True):
            if places[name][0] in state["state"]:
                its_state[index] = state["state"][places[name][0]]
    return {**state, "state": its_state, "param_groups": made}
