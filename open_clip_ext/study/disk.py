"""What a study needs on disk."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from open_clip_ext import registry
from open_clip_ext.study import parts, results
from open_clip_ext.study.settings import Base, Method, Study

# A checkpoint holds weights and Adam's two averages in fp32, with a teacher a fourth copy, and with anchors
# one of the model that the run started from. A training keeps two, `epoch_latest.pt` and the last.
TRAINED, FILES = 3, 2


def needed(study: Study, out: Path) -> int:
    """Bytes that the trainings that are left will write.

    Features are small beside them: they are kept of the bases, and of a training and its mixtures while these
    are evaluated.
    """
    chosen = results.chosen(study, out)
    left = Counter(
        (part.method, part.base)
        for part in parts.every(study, out, chosen)
        if part.kind == parts.TRAIN and not part.done
    )
    total = 0
    for base in study.bases:
        of_base = 0
        for method in study.methods:
            trainings = left[method.name, base.name]
            if method.tried and (method.name, base.name) not in chosen:
                # Seeds of a method with a value to choose, whose parts are not known yet.
                trainings += len(study.seeds) - 1
            of_base += trainings * copies(method.on(base))
        total += of_base * FILES * weights(base)
    return total


def copies(method: Method) -> int:
    """Copies of the weights in a checkpoint of a method, at most; the options of the loss must be good.

    Four at least: a loss from elsewhere may make a teacher that it does not declare.
    """
    loss = registry.load(method.loss)
    options = [f"{name}={value}" for name, value in method.options.items()]
    built = loss(**registry.parse_options(method.loss, loss, options))
    frozen = (getattr(loss, "teacher", None), getattr(built, "anchored", False))
    return max(4, TRAINED + sum(map(bool, frozen)))


def weights(base: Base) -> int:
    """Bytes of a model's weights in fp32."""
    if base.model.startswith("local-dir:"):
        folder = Path(base.model.removeprefix("local-dir:"))
        return sum(path.stat().st_size for path in folder.glob("open_clip_model*"))
    import open_clip
    import torch

    from open_clip_ext.evaluation.models import quiet

    with quiet(), torch.device("meta"):
        model = open_clip.create_model(base.model, pretrained=None, load_weights=False, device="meta")
    return 4 * sum(int(parameter.numel()) for parameter in model.parameters())


def free(out: Path) -> int:
    """Bytes free where the study writes."""
    there = next(path for path in (out, *out.parents) if path.exists())
    return shutil.disk_usage(there).free


def text(study: Study, out: Path) -> str:
    """Both in GB."""
    return (
        f"disk: at most {needed(study, out) / 1e9:.1f} GB more for checkpoints, {free(out) / 1e9:.1f} GB free"
    )


def problem(study: Study, out: Path) -> str:
    """A sentence if the disk would not hold it; empty if it would."""
    want, have = needed(study, out), free(out)
    if want <= have:
        return ""
    return (
        f"--out {out}: the checkpoints of this study need up to {want / 1e9:.1f} GB, and {have / 1e9:.1f} GB "
        "are free; name a folder on another disk, or remove what is not needed"
    )
