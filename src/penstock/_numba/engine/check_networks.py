"""Checks the linear layers of a network of a plan table."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.engine.record import Record, covers
from penstock.plan_table import INPUT, NONE

Array = np.ndarray[Any, Any]

WIDTH_MAX = 2**20  # of a hidden layer, and of what any layer reads
OUTPUT_MAX = 2**24  # of a network's output
COUNT_MAX = 2**40  # no count or offset of a real flow comes near


def check_linears(ints: Array, network: Record, linears: list[Record], read: Array, degrees: Array | None) -> None:
    """LINEARS of a network: widths, sources, parameters, and of a masked network degrees.

    ``read`` are the numbers of features of the dimensions that it reads.
    """
    n_context, n_in = network["n_context"], network["n_in"]
    widths = {INPUT: n_in, codes.CONTEXT: n_context}
    n_degrees = len(read) + 1
    known: dict[int, Array] = {}  # degrees of what a layer can read
    if degrees is not None:
        known[codes.CONTEXT] = np.zeros(n_context, np.int64)
        known[INPUT] = np.concatenate([known[codes.CONTEXT], np.repeat(np.arange(1, n_degrees), read)])
    starts, counts = [], []

    def source(linear: Record, field: str, i: int) -> int:
        value = linear[field]
        linear.need(0 <= value < i or value in widths, field, f"is {value}, which is nothing before it")
        linear.need(value != codes.CONTEXT or n_context > 0, field, "is a context that the network does not read")
        return value

    for i, linear in enumerate(linears):
        last = i + 1 == len(linears)
        rows = linear.within("n_in", 1 if n_in or i else 0, WIDTH_MAX)
        columns = linear.within("n_out", 1, OUTPUT_MAX if last else WIDTH_MAX)
        reads = source(linear, "source", i)
        linear.within("n_in", widths[reads], widths[reads])
        linear.code("activation_before", codes.ACTIVATIONS)
        linear.code("activation", codes.ACTIVATIONS)
        others = []
        if linear.code("skip", codes.SKIPS):
            others.append(("skip_source", source(linear, "skip_source", i)))
        else:
            linear.within("skip_source", NONE, NONE)
        if linear.within("gate", NONE, i - 1) != NONE:
            others.append(("gate", linear["gate"]))
        for field, other in others:
            linear.need(widths[other] == columns, field, f"has width {widths[other]}, not {columns}")
        if last:
            linear.within("n_out", network["n_out"], network["n_out"])
            linear.within("activation", 0, 0)
        widths[i] = columns
        starts.append(linear.within("weight", 0, COUNT_MAX))
        counts.append(rows * columns)
        if linear.within("bias", NONE, COUNT_MAX) != NONE:
            starts.append(linear["bias"])
            counts.append(columns)
        if degrees is None:
            for field in ("in_degrees", "out_degrees"):
                linear.within(field, NONE, NONE)
            continue
        inputs, outputs = (linear.ints(ints, f, n) for f, n in (("in_degrees", rows), ("out_degrees", columns)))
        linear.need(np.array_equal(inputs, known[reads]), "in_degrees", "are not those of its source")
        fine = bool(np.all((outputs >= 0) & (outputs < n_degrees)))
        linear.need(fine, "out_degrees", f"must lie within 0 to {n_degrees - 1}")
        linear.need(not last or np.array_equal(outputs, degrees), "out_degrees", "are not those of theta")
        for field, other in others:
            linear.need(bool(np.all(known[other] <= outputs)), field, "has degrees above those of the outputs")
        known[i] = outputs
    first = network.within("params", 0, COUNT_MAX)
    network.need(
        covers([s - first for s in starts], counts, sum(counts)), "params", "are not filled by its linear layers"
    )
    network.within("n_params", sum(counts), sum(counts))
