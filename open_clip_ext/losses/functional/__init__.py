"""The building blocks of the losses: tensors in, one scalar out, no state, no communication.

Legend: B samples, K negatives of each, D embedding width.

    v [B, D]     images          s            logit scale (exponentiated), one element
    t [B, D]     captions        m [B, K]     `valid`: negative k of sample i exists; None: all do
    n [B, K, D]  negatives       CE(row, j)   softmax cross-entropy of a row of logits, target j
    p [B, J, D]  other true captions          their `valid` is m [B, J], the number of them J_i

Features have unit length. Arithmetic is done in the dtype that comes in; the losses feed fp32.

A negative that does not exist has logit -inf in every softmax. What is stored in its slot changes
no value and no gradient, not even if it is NaN. Means run over all B rows where nothing else is said,
so a sample without negatives adds exactly 0 to the terms that look at its own negatives only, and one
without other true captions adds 0 to the terms about those.

`columns` is for several processes: the functions score the rows they are given against the columns
of the whole batch. None means that the rows are the whole batch. Where it has identities, `same`, a column
that is the same as a row is left out of that row's softmax (docs/losses.md#equal-pictures-and-captions).

Logits with all columns are made by `cross_entropy_of_product`, a block of rows at a time. Those with
own negatives are `[B, 1+K]`.
"""

from __future__ import annotations

from open_clip_ext.losses.functional.contrast import clip, hard_negative_clip, masked_clip, nt_xent
from open_clip_ext.losses.functional.features import (
    moved,
    moved_similarity,
    principal_part,
    self_distillation,
)
from open_clip_ext.losses.functional.images import (
    disturbed_contrast,
    disturbed_images,
    more_pairs_clip,
    negative_images_clip,
    negative_pairs_clip,
)
from open_clip_ext.losses.functional.local import calibrated_choice, local_similarity, selective_calibration
from open_clip_ext.losses.functional.orders import cross_modal_order, in_modal_order
from open_clip_ext.losses.functional.own import (
    image_grounded,
    released_negatives,
    same_place,
    text_grounded,
    tiled,
)
from open_clip_ext.losses.functional.positives import (
    bag_clip,
    from_positives,
    image_grounded_bag,
    image_grounded_positives,
    keep_apart,
    positives_clip,
    to_positives,
)
from open_clip_ext.losses.functional.ranking import adaptive_thresholds, cross_modal_rank, intra_modal
from open_clip_ext.losses.functional.samples import Samples
from open_clip_ext.losses.functional.units import existing_pairs, sigmoid_contrast, units

__all__ = [
    "Samples",
    "adaptive_thresholds",
    "bag_clip",
    "calibrated_choice",
    "clip",
    "cross_modal_order",
    "cross_modal_rank",
    "disturbed_contrast",
    "disturbed_images",
    "existing_pairs",
    "from_positives",
    "hard_negative_clip",
    "image_grounded",
    "image_grounded_bag",
    "image_grounded_positives",
    "in_modal_order",
    "intra_modal",
    "keep_apart",
    "local_similarity",
    "masked_clip",
    "more_pairs_clip",
    "moved",
    "moved_similarity",
    "negative_images_clip",
    "negative_pairs_clip",
    "nt_xent",
    "positives_clip",
    "principal_part",
    "released_negatives",
    "same_place",
    "selective_calibration",
    "self_distillation",
    "sigmoid_contrast",
    "text_grounded",
    "tiled",
    "to_positives",
    "units",
]
