"""The losses: one file per paper, made of the building blocks in `functional`."""

from __future__ import annotations

from open_clip_ext.losses import functional
from open_clip_ext.losses.ce_clip import CECLIPLoss
from open_clip_ext.losses.clip import CLIPLoss
from open_clip_ext.losses.degla import DeGLALoss
from open_clip_ext.losses.negclip import NegCLIPLoss

__all__ = ["CECLIPLoss", "CLIPLoss", "DeGLALoss", "NegCLIPLoss", "functional"]
