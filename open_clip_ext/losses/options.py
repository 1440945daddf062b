"""Options of a loss are annotated class attributes: `dataclasses` makes the constructor of them.

Added here: bounds, choices, and which options have no effect beside the others.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any, TypeVar, dataclass_transform

from torch import nn

from open_clip_ext.plugins import alternatives

T = TypeVar("T")


def option(
    *,
    default: T,
    least: float | None = None,
    most: float | None = None,
    needs: str | tuple[str, ...] = (),
) -> T:
    """An option of a loss, a NAME=VALUE of `--loss-cfg`. Its type is that of the annotation.

    Args:
        default: the published value.
        least: smallest value of a number, which must then be finite.
        most: greatest value of a number.
        needs: options of which one must not be 0 for this one to have an effect.
    """
    metadata = {"least": least, "most": most, "needs": (needs,) if isinstance(needs, str) else needs}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(option,))
class Declared(nn.Module):
    """A module whose annotated class attributes are the keywords of its constructor.

    Subclasses are dataclasses: their constructor takes the options of their bases, too. What else they
    need is made in `__post_init__`, after a call of this one's.

    Raises:
        TypeError: when a subclass is defined whose options cannot be.
        ValueError: when an option gets a value it does not take.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        generated = "__init__" not in vars(cls)
        try:
            dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        except (TypeError, ValueError) as error:  # an option without annotation, a list as a default
            raise TypeError(f"{cls.__name__}: {error}") from error
        if generated:
            # As written they are strings, and those of a base mean nothing in the module of a subclass.
            cls.__init__.__annotations__ = typing.get_type_hints(cls.__init__)
            for field in _options(cls):
                field.type = cls.__init__.__annotations__[field.name]
        names = {field.name for field in _options(cls)}
        for field in _options(cls):
            where = f"{cls.__name__}.{field.name}"
            if field.default is dataclasses.MISSING:
                raise TypeError(f"{where} has no default: it is an option, or is annotated in __post_init__")
            # The instance's attribute would hide the method.
            if any(callable(vars(base).get(field.name)) for base in cls.__mro__):
                raise TypeError(f"{where} is the name of an option and of a method; rename one of them")
            if field.name in nn.Module.__annotations__:
                raise TypeError(f"{where} is an attribute of every torch.nn.Module; rename the option")
            if vars(cls).get(field.name, field.default) is not field.default:
                raise TypeError(f"{where} is an option of a base: annotate its new default, too")
            if unknown := set(field.metadata.get("needs", ())) - names:
                raise TypeError(f"{where} needs {', '.join(sorted(unknown))}, which is no option")
            if generated:
                _check_default(field, where)

    def __post_init__(self) -> None:
        super().__init__()
        for field in _options(self):
            _check(field.name, getattr(self, field.name), field.type, *_bounds(field))

    def idle_options(self) -> dict[str, str]:
        """Options without effect beside the others, each with the reason."""
        idle = {}
        for field in _options(self):
            needs = field.metadata.get("needs", ())
            if needs and not any(getattr(self, need) for need in needs):
                idle[field.name] = f"{' and '.join(needs)} {'is' if len(needs) == 1 else 'are'} 0"
        return idle


def _options(declared: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(declared)


def _bounds(field: dataclasses.Field[Any]) -> tuple[float | None, float | None]:
    return field.metadata.get("least"), field.metadata.get("most")


def _check_default(field: dataclasses.Field[Any], where: str) -> None:
    try:
        _check(where, field.default, field.type, *_bounds(field))
    except ValueError as error:
        raise TypeError(f"the default of {error}") from error


def _check(name: str, value: Any, hint: Any, least: float | None, most: float | None) -> None:
    """Raise ValueError unless `value` is one of the choices in `hint`, or a number within the bounds."""
    choices = [choice for choice in alternatives(hint) if isinstance(choice, str)]
    if least is None:
        wanted = ""
    elif most is None:
        wanted = f"a number >= {least:g}"
    else:
        wanted = f"a number in [{least:g}, {most:g}]"
    if choices and (isinstance(value, str) or not wanted):
        fits = value in choices
        wanted = f"{', '.join(choices)} or {wanted}" if wanted else f"one of {', '.join(choices)}"
    else:
        fits = least is None or (
            math.isfinite(value) and least <= value <= (math.inf if most is None else most)
        )
    if not fits:
        raise ValueError(f"{name} is {value!r}, expected {wanted}")
