"""`open-clip-ext export`: a checkpoint as a folder that `transformers` and open_clip both load.

The folder appears only after both have loaded it and their features are those of the checkpoint. Nothing is
uploaded.
"""

from __future__ import annotations

import argparse
import copy
import shlex
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.errors import InputError, TrainingError
from open_clip_ext.files import atomic_folder
from open_clip_ext.model.checkpoints import first_line

if TYPE_CHECKING:
    from open_clip_ext.evaluation.models import Loaded

# The oldest whose image processors can be told to resize with PIL, as open_clip does.
TRANSFORMERS = "5.4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    from open_clip_ext.evaluation.models import ACTIVATIONS

    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint, a tag of --model, or local-dir:FOLDER"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a folder that is new or empty"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="default: what the params.txt beside the checkpoint says"
    )
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, help="where nothing beside the checkpoint says so"
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="RESULT",
        help="the folder of an `eval run` of this checkpoint, for the model card",
    )


def main(args: argparse.Namespace) -> int:
    """Load, convert, write, compare, print."""
    _require_place(args.out)
    _require_transformers()
    from safetensors import SafetensorError

    from open_clip_ext.evaluation import models, result_folder
    from open_clip_ext.export import card

    scores = None if args.scores is None else result_folder.read(args.scores)
    loaded = models.from_end(args.checkpoint, args.model, args.activation)
    if scores is not None:
        _require_same_model(args.scores, scores["model"], args.checkpoint, loaded.record)
    try:
        with atomic_folder(args.out) as folder:
            _write(loaded, folder, args.checkpoint)
            found = _compared(loaded, folder, args.checkpoint)
            text = card.write(args.out.resolve().name, loaded, scores, found)
            (folder / "README.md").write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(f"--out {args.out}: cannot be written ({first_line(error)})") from error
    for name, differences in found.items():
        print(f"{name}: " + ", ".join(f"{what} to {value:.0e}" for what, value in differences.items()))
    print(
        f"{args.out}: loads in both; fill in the license and what is missing in README.md, and upload it with"
    )
    print(f"  hf upload YOUR_NAME/{shlex.quote(args.out.resolve().name)} {shlex.quote(str(args.out))}")
    return 0


def _require_place(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists already, and is not an empty folder; name another")
    if not out.resolve().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.resolve().parent}; make it first")


def _require_transformers() -> None:
    from packaging.version import Version

    try:
        found = version("transformers")
    except PackageNotFoundError:
        found = "0"
    if Version(found) < Version(TRANSFORMERS):
        raise InputError(
            f"export needs transformers {TRANSFORMERS} or later; pip install 'open_clip_ext[export]'"
        )


def _require_same_model(
    path: Path, scored: Mapping[str, Any], checkpoint: str, exported: Mapping[str, Any]
) -> None:
    """Refuse scores of other weights, or of the same weights with another activation or preprocessing."""
    for what in ("sha256", "activation", "preprocess"):
        if _plain(scored[what]) != _plain(exported[what]):
            raise InputError(
                f"--scores {path}: is of {scored['checkpoint']} with {what} {scored[what]}, and {checkpoint} "
                f"has {exported[what]}; score this checkpoint with `open-clip-ext eval run`"
            )


def _plain(value: Any) -> Any:
    """As JSON has it: tuples are lists."""
    if isinstance(value, Mapping):
        return {key: _plain(its) for key, its in value.items()}
    return [_plain(its) for its in value] if isinstance(value, list | tuple) else value


def _write(loaded: Loaded, folder: Path, checkpoint: str) -> None:
    """Fill `folder` with the files of both libraries."""
    from open_clip.push_to_hf_hub import save_for_hf

    from open_clip_ext.export import architectures, compare, processors

    tokenizer = loaded.tokenizer
    try:
        with compare.silent():
            made = architectures.convert(loaded.model, processors.end_of_text(tokenizer))
            siglip = made.config.model_type == "siglip"
            side, length = (
                made.config.vision_config.image_size,
                made.config.text_config.max_position_embeddings,
            )
            words = processors.convert_tokenizer(tokenizer, length, reads_padding=siglip)
            images = processors.convert_preprocessing(loaded.record["preprocess"], side, siglip=siglip)
            made.save_pretrained(folder)
            # What the run changed in the configuration of its model.
            config = copy.deepcopy(loaded.record["config"])
            config["custom_text"] = hasattr(loaded.model, "text")
            config["vision_cfg"]["image_size"] = side
            config["text_cfg"]["context_length"] = length
            if loaded.model.logit_bias is not None:
                config["init_logit_bias"] = float(loaded.model.logit_bias)
            save_for_hf(loaded.model, words, config, str(folder), safe_serialization=True)
            processors.save(images, words, folder, siglip=siglip)
    except architectures.Unfit as error:
        raise InputError(
            f"{checkpoint}: cannot be exported, because {error}; CLIPModel and SiglipModel of transformers "
            "hold CLIP with a ViT, and SigLIP; use the checkpoint with open_clip"
        ) from error


def _compared(loaded: Loaded, folder: Path, checkpoint: str) -> dict[str, dict[str, float]]:
    """How far the features of each library are from those of the checkpoint.

    Raises TrainingError if one is further off than the tolerance, or does not load the folder.
    """
    from open_clip_ext.export import compare

    original = compare.of_open_clip(loaded.model, loaded.preprocess, loaded.tokenizer)
    found = {}
    for library, features in (
        ("transformers", compare.of_transformers_folder),
        ("open_clip", compare.of_open_clip_folder),
    ):
        try:
            found[library] = compare.differences(original, features(folder))
        except Exception as error:  # of any kind, from another package
            raise TrainingError(
                f"{checkpoint}: {library} cannot use what was written ({first_line(error)}); nothing was kept"
            ) from error
        for what, value in found[library].items():
            if not value <= compare.TOLERANCE:  # also where it is not a number
                raise TrainingError(
                    f"{checkpoint}: in {library} its {what} differ by {value:.1g}, more than "
                    f"{compare.TOLERANCE:g}; nothing was kept"
                )
    return found
