"""The flags that a run adds to upstream's; `config` checks them."""

from __future__ import annotations

import argparse

from open_clip_ext import registry

# Those of a `--loss` run, which have no effect without it.
FLAGS = (
    "loss",
    "loss_cfg",
    "companions",
    "num_negatives",
    "negatives",
    "companion_keys",
    "negatives_key",
    "companion_images",
    "image_keys",
    "picture_key",
    "pad_text",
    "save_every_steps",
    "skip_broken_images",
    "generations",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add our argument group to upstream's parser."""
    group = parser.add_argument_group("open_clip_ext", "hard-negative fine-tuning (open-clip-ext losses)")
    group.add_argument("--loss", metavar="NAME", help=f"A registered loss: {', '.join(registry.entries())}.")
    group.add_argument(
        "--loss-cfg",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        help="Options of the loss; `open-clip-ext losses` lists them.",
    )
    group.add_argument(
        "--companions",
        metavar="KIND=COUNT",
        nargs="+",
        action="extend",
        help="Companion texts of each kind per caption in a batch (default: what the loss declares).",
    )
    group.add_argument(
        "--num-negatives",
        metavar="K",
        type=int,
        help="Hard negatives per caption in a batch: short for --companions neg=K.",
    )
    group.add_argument(
        "--negatives",
        metavar="PATH",
        help="A store of negatives and other companion texts (open-clip-ext negatives), for data that "
        "carries none.",
    )
    group.add_argument(
        "--companion-keys",
        metavar="KIND=NAME",
        nargs="+",
        action="extend",
        help="The CSV column or webdataset field that carries a kind (default: the kind's name; for neg: "
        "negatives).",
    )
    group.add_argument(
        "--negatives-key",
        metavar="NAME",
        help="That of the negatives: short for --companion-keys neg=NAME.",
    )
    group.add_argument(
        "--companion-images",
        metavar="KIND=COUNT",
        nargs="+",
        action="extend",
        help="Companion images of each kind per caption in a batch (default: what the loss declares).",
    )
    group.add_argument(
        "--image-keys",
        metavar="KIND=NAME",
        nargs="+",
        action="extend",
        help="The CSV column (a path, or a list of them) or the webdataset members (KEY.NAME.jpg, or "
        "KEY.NAME.0.jpg and so on) that carry a kind of images (default: KIND_image).",
    )
    group.add_argument(
        "--picture-key",
        metavar="NAME",
        help="The CSV column, or the key in a sample's json, that says which picture a sample shows, for "
        "--loss-cfg same=mask (default: the image's path; in shards, its file).",
    )
    group.add_argument(
        "--pad-text",
        action="store_true",
        default=None,
        help="Run every text at the full context length, as upstream does, not at its own.",
    )
    group.add_argument(
        "--save-every-steps",
        metavar="N",
        type=int,
        help="Save a checkpoint that resumes in the middle of an epoch every N optimizer steps too "
        "(default: only when SIGUSR1 or SIGTERM asks the run to save and stop).",
    )
    group.add_argument(
        "--skip-broken-images",
        action="store_true",
        default=None,
        help="Train on without pictures of a CSV that cannot be read: the next row takes the place, and they "
        "are counted (default: stop at the first one; shards always skip theirs).",
    )
    group.add_argument(
        "--generations",
        metavar="KEY=VALUE",
        nargs="+",
        help="An experiment after iterated learning: `every=STEPS keep=SHARE pause=STEPS` takes the text "
        "tower back to its starting weights after every so many steps, but for a share that it keeps "
        "(default: 0), and pauses the image tower for some steps after it (default: 0).",
    )
    group = parser.add_argument_group("open_clip_ext", "benchmarks in evaluation (open-clip-ext eval list)")
    group.add_argument(
        "--eval-benchmarks",
        metavar=("NAME", "KEY=VALUE"),
        nargs="+",
        action="append",
        help="Score a benchmark whenever --val-frequency says so, such as "
        "`sugarcrepe annotations=FOLDER images=FOLDER`; give it once for each, or name a JSON file as "
        "`open-clip-ext eval run --data` takes it. Goes with or without --loss.",
    )
    group.add_argument(
        "--eval-allow-missing",
        action="store_true",
        default=None,
        help="Leave out the benchmarks' items whose pictures are not there.",
    )
