"""The losses: one file per paper, made of the building blocks in `functional`.

Loaded when they are asked for: `open-clip-ext --help` imports a module of this package, and must not wait
for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_clip_ext.losses import functional
    from open_clip_ext.losses.ahnpl import AHNPLLoss
    from open_clip_ext.losses.ce_clip import CECLIPLoss
    from open_clip_ext.losses.clip import CLIPLoss
    from open_clip_ext.losses.con_clip import CoNCLIPLoss
    from open_clip_ext.losses.degla import DeGLALoss
    from open_clip_ext.losses.hard_positives import HardPositivesLoss
    from open_clip_ext.losses.negclip import NegCLIPLoss
    from open_clip_ext.losses.omni_neg import OmniNegLoss
    from open_clip_ext.losses.rank_clip import RankCLIPLoss
    from open_clip_ext.losses.read import READLoss
    from open_clip_ext.losses.tsvlc import TSVLCLoss

__all__ = [
    "AHNPLLoss",
    "CECLIPLoss",
    "CLIPLoss",
    "CoNCLIPLoss",
    "DeGLALoss",
    "HardPositivesLoss",
    "NegCLIPLoss",
    "OmniNegLoss",
    "READLoss",
    "RankCLIPLoss",
    "TSVLCLoss",
    "functional",
]

MODULES = {
    "AHNPLLoss": "ahnpl",
    "CECLIPLoss": "ce_clip",
    "CLIPLoss": "clip",
    "CoNCLIPLoss": "con_clip",
    "DeGLALoss": "degla",
    "HardPositivesLoss": "hard_positives",
    "NegCLIPLoss": "negclip",
    "OmniNegLoss": "omni_neg",
    "READLoss": "read",
    "RankCLIPLoss": "rank_clip",
    "TSVLCLoss": "tsvlc",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{MODULES.get(name, name)}")
    return getattr(module, name, module)
