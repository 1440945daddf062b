"""CoN-CLIP: NegCLIP's contrast with negated captions. Its text part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from open_clip_ext.losses.base import HardNegativeLoss


class CoNCLIPLoss(HardNegativeLoss):
    """CoN-CLIP's loss without negative images.

        L = 1/2 [ mean_i CE(s v_i.[T ; N], i) + mean_i CE(s t_i.V, i) ]        n_i: the negated caption

    The equation is NegCLIP's. What makes it CoN-CLIP is the data, one negated caption for each caption, and
    the locked image tower (`--lock-image`).

    The paper's full loss has an image for each negated caption, too. Such companion images do not exist here
    yet, so that version cannot be had.

    Source: Learn "No" to Say "Yes" Better, arXiv 2403.20312; jaisidhsingh/CoN-CLIP@503388a.

    Differs: any K, missing negatives, and several processes.
    """

    paper = "Singh et al., WACV 2025, arXiv 2403.20312"
    companions: ClassVar[Mapping[str, int]] = {"neg": 1}
