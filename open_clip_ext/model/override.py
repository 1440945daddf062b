"""Other methods for one instance of a model, which stays what it was in every other respect.

Only the class of the instance is exchanged, for a subclass of the same name. So the parameters and
the state dict stay upstream's, `isinstance(model, CLIP)` holds, and DDP sees a single forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

# Attribute of a class made here: the name under which its instance carries the state.
KEY = "_open_clip_ext_key"


def override(model: nn.Module, key: str, state: object, **methods: Callable[..., Any]) -> None:
    """Give `model` other methods, in place; they find `state` with `state_of(model, key)`.

    Args:
        model: the instance. What overrides its methods already stays in effect under the new ones.
        key: the name of `state` among those of this model.
        state: kept past `nn.Module`, which would make a module in it a part of the model.
        methods: by name.
    """
    base = type(model)
    made = type(base.__name__, (base,), {**methods, KEY: key, "__doc__": base.__doc__})
    made.__module__, made.__qualname__ = base.__module__, base.__qualname__
    model.__class__ = made
    model.__dict__[key] = state


def restore(model: nn.Module) -> None:
    """Take back, in place, whatever `override` did to `model`."""
    while KEY in vars(type(model)):
        del model.__dict__[vars(type(model))[KEY]]
        model.__class__ = type(model).__mro__[1]


def state_of(model: nn.Module, key: str) -> Any:
    """The state that `override` gave `model` under `key`."""
    return model.__dict__[key]
