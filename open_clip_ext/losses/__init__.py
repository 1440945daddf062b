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
    from open_clip_ext.losses.anchored import AnchoredLoss
    from open_clip_ext.losses.c2lip import C2LIPLoss
    from open_clip_ext.losses.ce_clip import CECLIPLoss
    from open_clip_ext.losses.clap_style import CLAPStyleLoss
    from open_clip_ext.losses.clic import CLICLoss
    from open_clip_ext.losses.clip import CLIPLoss
    from open_clip_ext.losses.con_clip import CoNCLIPLoss
    from open_clip_ext.losses.cs_clip import CSCLIPLoss
    from open_clip_ext.losses.dac import DACLoss
    from open_clip_ext.losses.degla import DeGLALoss
    from open_clip_ext.losses.fsc_clip import FSCCLIPLoss
    from open_clip_ext.losses.hard_positives import HardPositivesLoss
    from open_clip_ext.losses.himo_clip import HiMoCLIPLoss
    from open_clip_ext.losses.macco import MACCOLoss
    from open_clip_ext.losses.negclip import NegCLIPLoss
    from open_clip_ext.losses.omni_neg import OmniNegLoss
    from open_clip_ext.losses.para_clip import ParaCLIPLoss
    from open_clip_ext.losses.rank_clip import RankCLIPLoss
    from open_clip_ext.losses.read import READLoss
    from open_clip_ext.losses.triplet_clip import TripletCLIPLoss
    from open_clip_ext.losses.tsvlc import TSVLCLoss

__all__ = [
    "AHNPLLoss",
    "AnchoredLoss",
    "C2LIPLoss",
    "CECLIPLoss",
    "CLAPStyleLoss",
    "CLICLoss",
    "CLIPLoss",
    "CSCLIPLoss",
    "CoNCLIPLoss",
    "DACLoss",
    "DeGLALoss",
    "FSCCLIPLoss",
    "HardPositivesLoss",
    "HiMoCLIPLoss",
    "MACCOLoss",
    "NegCLIPLoss",
    "OmniNegLoss",
    "ParaCLIPLoss",
    "READLoss",
    "RankCLIPLoss",
    "TSVLCLoss",
    "TripletCLIPLoss",
    "functional",
]

MODULES = {
    "AHNPLLoss": "ahnpl",
    "AnchoredLoss": "anchored",
    "C2LIPLoss": "c2lip",
    "CECLIPLoss": "ce_clip",
    "CLAPStyleLoss": "clap_style",
    "CLICLoss": "clic",
    "CLIPLoss": "clip",
    "CoNCLIPLoss": "con_clip",
    "CSCLIPLoss": "cs_clip",
    "DACLoss": "dac",
    "DeGLALoss": "degla",
    "FSCCLIPLoss": "fsc_clip",
    "HardPositivesLoss": "hard_positives",
    "HiMoCLIPLoss": "himo_clip",
    "MACCOLoss": "macco",
    "NegCLIPLoss": "negclip",
    "OmniNegLoss": "omni_neg",
    "ParaCLIPLoss": "para_clip",
    "RankCLIPLoss": "rank_clip",
    "READLoss": "read",
    "TSVLCLoss": "tsvlc",
    "TripletCLIPLoss": "triplet_clip",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{MODULES.get(name, name)}")
    return getattr(module, name, module)
