"""An immutable snapshot of a flow's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.core import tile as views
from penstock._numba.core.plan import HI, LO, LOWER, LOWER_GAP, MAP, MIDDLE, SCALE, UNIT, UPPER, UPPER_GAP
from penstock._numba.engine.layout import Layout

Array = np.ndarray[Any, Any]

BOX = codes.COLUMN_MAPS.index("box")


def with_numbers(mapped: Array, numbers: Array, own: Array, buffers: Array) -> Array:
    """Rows of Packed.mapped, with what buffers decide."""
    found, boxes = numbers.copy(), mapped[:, MAP] == BOX
    scaled = (own >= 0) & ~boxes
    found[scaled, SCALE] = buffers[own[scaled]]
    m, s = found[boxes, MIDDLE], found[boxes, UNIT] = buffers[own[boxes]], buffers[own[boxes] + 1]
    for end, image, gap in ((LO, LOWER, LOWER_GAP), (HI, UPPER, UPPER_GAP)):
        t = np.clip((found[boxes, end] - m) / s, -(2.0**500), 2.0**500)
        root = np.sqrt(1 + t * t)
        found[boxes, image], found[boxes, gap] = t / root, 1 / (root * (root + np.abs(t)))
    found[boxes, SCALE] = s * (0.5 * (found[boxes, UPPER] - found[boxes, LOWER]))
    return found


class Packed:
    """Parameters and standardisation, and the digest of the table that they belong to."""

    def __init__(self, layout: Layout, params: Array, buffers: Array) -> None:
        """The arrays are not copied: they must not change."""
        loc, scale = buffers[layout.ends.loc], buffers[layout.ends.scale]
        context_loc, context_scale = buffers[layout.ends.context_loc], buffers[layout.ends.context_scale]
        ends = layout.ends
        with np.errstate(all="ignore"):
            mapped = with_numbers(ends.mapped, ends.mapped_numbers, ends.mapped_buffers, buffers)
            context_mapped = with_numbers(
                ends.context_mapped, ends.context_mapped_numbers, ends.context_mapped_buffers, buffers
            )  # fmt: skip
            log_scale = float(np.sum(np.log(scale))) + float(np.sum(np.log(mapped[:, SCALE])))
            self.view = views.Packed(
                params, loc, scale, 1.0 / scale, log_scale, context_loc, 1.0 / context_scale, mapped,
                context_mapped,
            )  # fmt: skip
        self.digest, self.mapped, self.context_mapped = layout.digest, ends.mapped, ends.context_mapped
        self.given: Any = None  # the one context that all calls with these numbers have

    @property
    def params(self) -> Array:
        """The flat vector."""
        params: Array = self.view.params
        return params

    def with_params(self, params: Array) -> Packed:
        """The same standardisation with other parameters."""
        other = object.__new__(Packed)
        other.__dict__.update(self.__dict__, view=self.view._replace(params=params), given=None)
        return other

    def with_context(self, given: Any) -> Packed:
        """The same numbers for calls that all have one context."""
        other = object.__new__(Packed)
        other.__dict__.update(self.__dict__, given=given)
        return other
