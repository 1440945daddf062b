"""The model card: what the checkpoint's own record says, and the scores of an `eval run`.

Names of files are given without their folders: a card is public.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import ModelCardData
from safetensors import SafetensorError

from open_clip_ext import __version__
from open_clip_ext.evaluation import models, result_folder, run
from open_clip_ext.evaluation.models import Loaded
from open_clip_ext.model.checkpoints import numpy_numbers
from open_clip_ext.training.run import STATE_KEY, Run

# Lines of params.txt that a reader needs to repeat a run.
PARAMETERS = (
    *("epochs", "batch_size", "accum_freq", "world_size", "opt", "lr", "wd", "beta1", "beta2", "eps"),
    *("warmup", "lr_scheduler", "grad_clip_norm", "precision", "lock_image", "lock_text", "siglip", "seed"),
)
USE = """\
```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("YOUR_NAME/{name}")
processor = AutoProcessor.from_pretrained("YOUR_NAME/{name}", backend="pil")  # resizes as open_clip does
inputs = processor(
    text=["a dog", "a cat"], images=image, padding="max_length", truncation=True, return_tensors="pt"
)
scores = model(**inputs).logits_per_image
```

```python
import open_clip

model, preprocess = open_clip.create_model_from_pretrained("hf-hub:YOUR_NAME/{name}")
tokenizer = open_clip.get_tokenizer("hf-hub:YOUR_NAME/{name}")
```"""


def write(
    name: str,
    loaded: Loaded,
    scores: Mapping[str, Any] | None,
    found: Mapping[str, Mapping[str, float]],
) -> str:
    """The text of a model card.

    Args:
        name: of the folder.
        loaded: the model.
        scores: the `result.json` of an `eval run` of it, if there is one.
        found: how far the exported features are from the original ones.
    """
    checkpoint = Path(loaded.record["checkpoint"])
    parameters = models.parameters(checkpoint) if checkpoint.is_file() else {}
    state = _state(checkpoint) if checkpoint.is_file() else {}
    parts = [
        _front_matter(loaded, parameters, state),
        f"# {name}",
        "TODO: what this model is for, what it was trained on and what it must not be used for.",
        "## Use",
        USE.format(name=name),
        "## Training",
        "\n".join(_table(_facts(loaded, parameters, state))),
        "## Evaluation",
        _evaluation(scores),
        "## Conversion",
        "\n".join(_conversion(found)),
    ]
    return "\n\n".join(parts) + "\n"


def _state(checkpoint: Path) -> dict[str, Any]:
    """What a `--loss` run left in its checkpoint; empty for any other file."""
    with (
        suppress(OSError, ValueError, RuntimeError, pickle.UnpicklingError, SafetensorError),
        numpy_numbers(),
    ):
        content = torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)
        if Run.wrote(content):
            return dict(content["optimizer"][STATE_KEY])
    return {}


def _front_matter(loaded: Loaded, parameters: Mapping[str, str], state: Mapping[str, Any]) -> str:
    data = ModelCardData(
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "transformers", "open_clip_ext", *([state["loss"]] if state else [])],
        base_model=base_model(loaded.record["name"], parameters),
    )
    license_ = "license:  # yours to choose; those of the base model and of the data may bind you"
    return f"---\n{license_}\n{data.to_yaml()}\n---"


def base_model(name: str, parameters: Mapping[str, str]) -> str | None:
    """The base model on the hub, if open_clip knows it there.

    Args:
        name: of an open_clip model, or `hf-hub:NAME`.
        parameters: of the run, from its params.txt.
    """
    import open_clip

    if name.startswith(models.HUB):
        return name.removeprefix(models.HUB)
    tag = open_clip.get_pretrained_cfg(name, parameters.get("pretrained", ""))
    return str(tag.get("hf_hub", "")).strip("/") or None


def _facts(
    loaded: Loaded, parameters: Mapping[str, str], state: Mapping[str, Any]
) -> Iterator[tuple[str, object]]:
    yield "model", _plain(loaded.record["name"])
    yield "activation", loaded.record["activation"]
    if parameters.get("pretrained"):
        yield "starting weights", _plain(parameters["pretrained"])
    if parameters.get("merge"):
        yield "weights", f"interpolated: {parameters['merge']}"
    if parameters.get("train_data"):
        yield "data", _plain(parameters["train_data"])
    if state:
        yield "loss", state["loss"]
        yield "options of the loss", _pairs(state["options"])
        yield "companion texts of a caption", _pairs(state["companions"])
        if store := state.get("negatives"):
            yield "their generators", f"{_pairs(store['generators'])} ({store['captions']:,} captions)"
        if "generations" in state:
            yield "generations", state["generations"]
        yield "optimizer steps", f"{state['steps']:,}"
    for key in PARAMETERS:
        if parameters.get(key, "False") != "False":
            yield key, parameters[key]
    if state:
        yield "trained with", f"open_clip_ext {state['version']}"
    yield "sha256 of the weights", loaded.record["sha256"]


def _evaluation(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return "TODO: no scores were given (`open-clip-ext eval run`, then `export --scores`)."
    made = ", ".join(f"{package} {number}" for package, number in scores["versions"].items())
    return (
        f"```\n{run.table(scores['benchmarks'])}\n```\n\nBy `open-clip-ext eval run` of open_clip_ext "
        f"{scores['package']}, precision {scores['model']['precision']} ({made})."
    )


def _conversion(found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    versions = {**result_folder.versions(), "transformers": transformers.__version__}
    made = ", ".join(f"{package} {number}" for package, number in versions.items())
    yield f"Exported by open_clip_ext {__version__} ({made}). Greatest difference from the checkpoint:"
    yield ""
    names = list(found)
    yield from _table(
        ((what, *(f"{found[name][what]:.0e}" for name in names)) for what in found[names[0]]), "", *names
    )


def _table(rows: Any, *head: str) -> Iterator[str]:
    head = head or ("", "")
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"


def _pairs(entries: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={_plain(str(value))}" for key, value in entries.items()) or "none"


def _plain(value: str) -> str:
    """A name as it is; of a path, its last part."""
    return os.path.basename(value.removeprefix(models.LOCAL)) if os.sep in value else value
