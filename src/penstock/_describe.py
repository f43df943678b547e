"""A flow in a few lines, for people: ``repr(flow)``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from penstock._typing import Array
from penstock.columns import Names
from penstock.conditioners import MLP
from penstock.groups import Group
from penstock.lattice import Lattice
from penstock.plan import EMBEDDING, Plan
from penstock.spec import FlowSpec, latent_kinds
from penstock.support import Interval, Real, Support, number_names

SHOWN = 20  # names of columns


def describe(
    spec: FlowSpec,
    plan: Plan,
    buffers: Array,
    *,
    fitted: bool,
    backend: str,
    names: tuple[Names, Names] = ((), ()),
    lattice: Lattice | None = None,
) -> str:
    """Name size, columns, base, layers, embedding and backend, a line each."""
    context = f" given {plan.context_dim}" if plan.context_dim else ""
    state = "fitted (a further fit is a warm start)" if fitted else "not fitted"
    dim = f"{plan.dim} dimension{'' if plan.dim == 1 else 's'}"
    lines = [f"Flow of {dim}{context}, {plan.n_free:,} parameters, {plan.dtype.name}, {state}"]
    lines += [f"  {title:9} {_shown(words)}" for title, words in zip(("columns", "given"), names, strict=True) if words]
    numbers = iter(buffers[len(buffers) - len(plan.support_numbers) :].tolist())
    for title, support, known in (("support", spec.support, names[0]), ("given in", spec.context_support, names[1])):
        if support:
            lines.append(f"  {title:9} {_supports(support, numbers, known)}")
    if lattice is not None:
        lines.append(f"  lattice   {lattice.described(names[0])} (column, step)")
    lines.append(f"  base      {_base(spec)}")
    lines += [f"  layer {number:<3} {_layer(spec, plan, number)}" for number in range(len(spec.layers))]
    if spec.embedding is not None:
        lines.append(f"  embedding {_network(spec.embedding, plan, EMBEDDING)}, {_size(plan, EMBEDDING)}")
    return "\n".join([*lines, f"  backend   {backend}"])


def _shown(names: Names) -> str:
    """Names on one line."""
    return ", ".join(names if len(names) <= SHOWN else (*names[: SHOWN - 1], "...", names[-1]))


def _supports(support: Sequence[Support], numbers: Iterator[float], names: Names) -> str:
    """The supports of the columns that are not real, with the numbers of their own."""
    words: list[str] = []
    scales: dict[Group, dict[int, list[float]]] = {}
    places: dict[Group, int] = {}
    for i, own in enumerate(support):
        if isinstance(own, Real):
            continue
        if isinstance(own, Group):
            first = i == min(own.chain)
            found = [next(numbers) for _ in number_names(own, i)]
            scales.setdefault(own, {})[i] = found
            if first:
                places[own] = len(words)
                words.append("")
            if i == max(own.chain):
                given = [f"{number:.4g}" for column in own.columns for number in scales[own][int(column)]]
                words[places[own]] = own.described(names) + (f" (s={', '.join(given)})" if given else "")
            continue
        size = ""
        if isinstance(own, Interval):
            given = [f"{name}={next(numbers):.4g}" for name in number_names(own, i)]
            size = f" ({', '.join(given or [str(own.map)])})"
        words.append(f"{names[i] if names else i} {own}{size}")
    return _shown(tuple(words))


def _base(spec: FlowSpec) -> str:
    """The base, and the latent dimensions of circles and boxes, on which it is uniform whatever it is on lines."""
    others = tuple(str(i) for i, kind in enumerate(latent_kinds(spec)) if kind != "line")
    return f"{spec.base}, uniform on latent {_shown(others)}" if others else str(spec.base)


def _layer(spec: FlowSpec, plan: Plan, number: int) -> str:
    """A layer, with the sizes that it has in this flow."""
    layer = spec.layers[number]
    words = [type(layer).__name__]
    if layer.transform is not None:
        words.append(repr(layer.transform))
    if layer.conditioner is not None:
        words.append(_network(layer.conditioner, plan, number))
    options = {field.name: getattr(layer, field.name) for field in fields(layer)}  # type: ignore[arg-type]
    words += [str(options[name]) for name in ("split", "order") if name in options]
    if options.get("explicit", "to_latent") != "to_latent":
        words.append(f"explicit {options['explicit']}")
    size = _size(plan, number)
    return ", ".join([*words, size] if size else words)


def _network(network: MLP, plan: Plan, layer: int) -> str:
    widths = "-".join(map(str, plan.widths(layer)))
    return f"MLP {widths} {network.activation}{' residual' if network.residual else ''}"


def _size(plan: Plan, layer: int) -> str:
    size = sum(tensor.size if tensor.mask is None else int(tensor.mask.sum()) for tensor in plan.tensors_of(layer))
    return f"{size:,} parameters" if size else ""
