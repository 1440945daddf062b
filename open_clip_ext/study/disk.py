"""What a study needs on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from open_clip_ext.study import parts, results
from open_clip_ext.study.settings import Base, Study

# A checkpoint holds weights and Adam's two averages in fp32, with a teacher a fourth copy; a training keeps
# two, `epoch_latest.pt` and the last.
COPIES, FILES = 4, 2


def needed(study: Study, out: Path) -> int:
    """Bytes that the trainings that are left will write.

    Features are small beside them: they are kept of the bases, and of a training and its mixtures while these
    are evaluated.
    """
    chosen = results.chosen(study, out)
    left = {
        base.name: sum(
            part.kind == parts.TRAIN and part.base == base.name and not part.done
            for part in parts.every(study, out, chosen)
        )
        for base in study.bases
    }
    # Seeds of methods with a value to choose, whose parts are not known yet.
    for method in study.methods:
        for base in study.bases:
            if method.tried and (method.name, base.name) not in chosen:
                left[base.name] += len(study.seeds) - 1
    return sum(left[base.name] * FILES * COPIES * weights(base) for base in study.bases)


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
