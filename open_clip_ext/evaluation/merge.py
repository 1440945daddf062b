"""`open-clip-ext merge`: the weights between two checkpoints (WiSE-FT).

(1 - alpha) A + alpha B, key by key in fp32. Optimizer state is left behind.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_ext.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from open_clip_ext.evaluation.models import Loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `merge`."""
    end = "a checkpoint, a tag of --model, or local-dir:FOLDER"
    parser.add_argument("base", metavar="A", help=end)
    parser.add_argument("tuned", metavar="B", help=f"what was made of it: {end}")
    parser.add_argument(
        "--alpha", type=float, required=True, metavar="X", help="the share of B, from 0 (A) to 1 (B)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .safetensors file, or any other in torch's format",
    )
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for what the two checkpoints do not say themselves."""
    from open_clip_ext.evaluation.models import ACTIVATIONS

    parser.add_argument(
        "--model", metavar="NAME", help="of both (default: what the params.txt beside a checkpoint says)"
    )
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, help="of both, where nothing beside a checkpoint says so"
    )


def main(args: argparse.Namespace) -> int:
    """Merge, from parsed arguments."""
    from open_clip_ext.evaluation import models, weights

    if args.out.is_dir() or not args.out.parent.is_dir():
        raise InputError(f"--out {args.out}: name a file in a folder that exists")
    base, tuned = ends(args.base, args.tuned, args.model, args.activation)
    mixed = Mixture(base, tuned).weights(args.alpha)
    parts = f"{1 - args.alpha:g} of {base.record['sha256']}, {args.alpha:g} of {tuned.record['sha256']}"
    weights.save(args.out, mixed, {**models.origin(tuned), "merge": parts})
    print(
        f"{args.out}: {1 - args.alpha:g} of {args.base} and {args.alpha:g} of {args.tuned}, "
        f"{base.record['name']}, {base.record['activation']}"
    )
    return 0


def ends(base: str, tuned: str, model: str | None, activation: str | None) -> tuple[Loaded, Loaded]:
    """The two models, on the CPU.

    Args:
        base: a checkpoint, a tag of `model`, or `local-dir:FOLDER`.
        tuned: the same.
        model: a name, or None if params.txt has it.
        activation: `gelu` or `quickgelu`, or None if that is known.

    Raises:
        InputError: one cannot be loaded, or they are not the same but for their weights.
    """
    from open_clip_ext.evaluation import models

    a, b = (models.from_end(end, model, activation) for end in (base, tuned))
    for what in ("activation", "preprocess"):
        if a.record[what] != b.record[what]:
            raise InputError(
                f"{base} has {what} {a.record[what]}, {tuned} has {b.record[what]}: "
                "a model between them would be neither"
            )
    return a, b


class Mixture:
    """The models on the way from one to another of `ends`."""

    def __init__(self, base: Loaded, tuned: Loaded) -> None:
        self._names = (base.record["checkpoint"], tuned.record["checkpoint"])
        self._model = base.model
        self._base = {key: value.clone() for key, value in base.model.state_dict().items()}
        self._tuned = tuned.model.state_dict()

    def weights(self, alpha: float) -> dict[str, Tensor]:
        """The state dict at `alpha`, on the CPU."""
        from open_clip_ext.evaluation import weights

        return weights.interpolate(self._base, self._tuned, alpha, self._names)

    def at(self, alpha: float) -> Any:
        """The model at `alpha`, always the same object."""
        self._model.load_state_dict(self.weights(alpha))
        return self._model
