"""Orders of whole lists (RankCLIP).

Notation: see the package.
"""

from __future__ import annotations

from torch import Tensor

from open_clip_ext.losses.chunked_list_mle import Lists, list_mle_of_products
from open_clip_ext.losses.functional.samples import Samples


def cross_modal_order(v: Tensor, t: Tensor, s: Tensor, *, columns: Samples | None = None) -> Tensor:
    """Images order captions as these captions order images, and the reverse.

        L = [ ListMLE(s v_i.T, s t_i.V) + ListMLE(s t_i.V, s v_i.T) ] / B

        ListMLE(x, y) = mean_i sum_j [ logsumexp_{l >= j} x_i,o(l) - x_i,o(j) ]    o sorts y_i, greatest first

    The second list is only sorted. B is the size of the whole batch. Memory: `list_mle_of_products`.

    Source: RankCLIP, arXiv 2404.09387; Jam1ezhang/RankCLIP@841d171. Differs in that equal numbers keep the
    order of the batch instead of a random one, no logit is taken for padding (theirs: one of exactly -1), and
    no 1e-10 is added within the logarithm.
    """
    columns = columns or Samples(v, t)
    return _order(Lists(s * v, columns.text), Lists(s * t, columns.image))


def in_modal_order(v: Tensor, t: Tensor, s: Tensor, *, columns: Samples | None = None) -> Tensor:
    """Images order images as their captions order captions, and the reverse.

        L = [ ListMLE(s v_i.V, s t_i.T) + ListMLE(s t_i.T, s v_i.V) ] / B

    Source and differences as of `cross_modal_order`.
    """
    columns = columns or Samples(v, t)
    return _order(Lists(s * v, columns.image), Lists(s * t, columns.text))


def _order(x: Lists, y: Lists) -> Tensor:
    return (list_mle_of_products(x, y) + list_mle_of_products(y, x)) / len(x.columns)
