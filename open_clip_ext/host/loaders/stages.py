"""The stages of upstream's webdataset pipeline, found by what they do.

released  select, decode, rename, map_dict (tokenizes and transforms), to_tuple, batched
task API  select, rename, select, map_dict (tokenizes), map_dict (decodes), map_dict (transforms), batched
with captions inside json a map_dict before the second select
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from open_clip_train import data as upstream
from webdataset.filters import FilterFunction, _rename, _select


def index(stages: Sequence[Any], function: Any) -> int:
    """Where the first filter `function` stands."""
    return _indices(stages, function)[0]


def last_index(stages: Sequence[Any], function: Any) -> int:
    """Where the last one stands."""
    return _indices(stages, function)[-1]


def choosing(stages: Sequence[Any]) -> list[Any]:
    """The stages that choose samples with a caption and an image: what comes out is not decoded yet."""
    places = _indices(stages, _select)
    return list(stages[places[0] : places[-1] + 1])


def wanted(stages: Sequence[Any]) -> tuple[str, str]:
    """The fields that a sample must have to be chosen, and how to choose others, in words."""
    chosen = choosing(stages)[0].args[0]
    if not hasattr(chosen, "image_keys"):
        return "a caption (txt) and an image (png, jpg, jpeg or webp)", "open_clip reads no other names"
    caption = " or ".join(chosen.text_keys or ("json",))
    return (
        f"a caption ({caption}) and an image ({' or '.join(chosen.image_keys)})",
        "name others with --text-key, --json-text-key or --image-key",
    )


def image_fields(stages: Sequence[Any]) -> Sequence[str]:
    """Where the picture of a sample is before it is chosen, the first that there is."""
    chosen = choosing(stages)[0].args[0]
    fields: Sequence[str] = getattr(chosen, "image_keys", ("jpg", "png", "jpeg", "webp"))
    return fields


def caption_field(stages: Sequence[Any]) -> str:
    """Where the caption of a sample is once it is chosen."""
    return "text" if _indices(choosing(stages), _rename) else "txt"


def lenient(stages: Sequence[Any]) -> list[FilterFunction]:
    """The stages that pass over what they cannot read; the last of them decodes images."""
    return [
        stage
        for stage in stages
        if isinstance(stage, FilterFunction) and stage.kw.get("handler") is upstream.log_and_continue
    ]


def with_handler(stage: FilterFunction, handler: Callable[[Exception], bool]) -> FilterFunction:
    """The same stage with another handler of errors, if it has any."""
    options = {**stage.kw, "handler": handler} if "handler" in stage.kw else stage.kw
    return FilterFunction(stage.f, *stage.args, **options)


def carry(
    stages: list[Any],
    field: str,
    attach: Callable[[Any], Any],
    use: Callable[[Any], Any],
    handler: Callable[[Exception], bool],
) -> None:
    """Bring something of a whole sample to where it is chosen; in place.

    Args:
        stages: of upstream's.
        field: the field of a sample in which it is carried.
        attach: adds that field to a sample as it is in its shard.
        use: takes it out again, beside the caption that upstream found.
        handler: of their errors.
    """
    places = _indices(stages, _select)
    for i in _indices(choosing(stages), _rename):
        stages[places[0] + i].kw[field] = field  # upstream drops all others
    stages.insert(places[-1] + 1, mapped(use, handler))
    stages.insert(places[0] + 1, mapped(attach, handler))


def mapped(
    function: Callable[[Any], Any], handler: Callable[[Exception], bool]
) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """As `wds.map`, which would give each sample a `__key__`: a batch of the task API cannot have one."""
    return partial(_each, function, handler)


def _each(
    function: Callable[[Any], Any], handler: Callable[[Exception], bool], samples: Iterable[Any]
) -> Iterator[Any]:
    for sample in samples:
        try:
            made = function(sample)
        except Exception as error:
            if not handler(error):
                return
        else:
            yield made


def _indices(stages: Sequence[Any], function: Any) -> list[int]:
    return [i for i, stage in enumerate(stages) if isinstance(stage, FilterFunction) and stage.f is function]
