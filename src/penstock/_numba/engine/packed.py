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


class Packed:
    """Parameters and standardisation, and the digest of the table that they belong to."""

    def __init__(self, layout: Layout, params: Array, buffers: Array) -> None:
        """The arrays are not copied: they must not change."""
        loc, scale = buffers[layout.ends.loc], buffers[layout.ends.scale]
        context_loc, context_scale = buffers[layout.ends.context_loc], buffers[layout.ends.context_scale]
        mapped = layout.ends.mapped_numbers.copy()
        own, boxes = layout.ends.mapped_buffers, layout.ends.mapped[:, MAP] == BOX
        scaled = (own >= 0) & ~boxes
        mapped[scaled, SCALE] = buffers[own[scaled]]
        with np.errstate(all="ignore"):
            m, s = mapped[boxes, MIDDLE], mapped[boxes, UNIT] = buffers[own[boxes]], buffers[own[boxes] + 1]
            for end, image, gap in ((LO, LOWER, LOWER_GAP), (HI, UPPER, UPPER_GAP)):
                t = np.clip((mapped[boxes, end] - m) / s, -(2.0**500), 2.0**500)
                root = np.sqrt(1 + t * t)
                mapped[boxes, image], mapped[boxes, gap] = t / root, 1 / (root * (root + np.abs(t)))
            mapped[boxes, SCALE] = s * (0.5 * (mapped[boxes, UPPER] - mapped[boxes, LOWER]))
            log_scale = float(np.sum(np.log(scale))) + float(np.sum(np.log(mapped[:, SCALE])))
            self.view = views.Packed(
                params, loc, scale, 1.0 / scale, log_scale, context_loc, 1.0 / context_scale, mapped
            )  # fmt: skip
        self.digest, self.mapped = layout.digest, layout.ends.mapped
        self.given: Any = None  # the one context that all calls with these numbers have

    @property
    def params(self) -> Array:
        """The flat vector."""
        params: Array = self.view.params
        return params

    def with_params(self, params: Array) -> Packed:
        """The same standardisation with other parameters."""
        other = object.__new__(Packed)
        other.view, other.digest, other.mapped = self.view._replace(params=params), self.digest, self.mapped
        other.given = None
        return other

    def with_context(self, given: Any) -> Packed:
        """The same numbers for calls that all have one context."""
        other = object.__new__(Packed)
        other.view, other.digest, other.mapped, other.given = self.view, self.digest, self.mapped, given
        return other
