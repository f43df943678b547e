"""What a selection tries: recipes by name, flows and callables, under names of their own, and whether they belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from penstock import _validate, recipes
from penstock.flow import Flow
from penstock.members_fit import seeds
from penstock.trials import Candidate, Recipe

NAMED = ("glow", "iaf", "maf", "nice", "nsf", "nsf_ar", "realnvp")
SMALLER: dict[str, Any] = {"layers": 3, "hidden": (32, 32)}
WIDER: dict[str, Any] = {"hidden": (128, 128)}


def candidates_of(
    asked: Any, dim: int, context_dim: int, supports: dict[str, Any], seed: int
) -> list[Candidate]:  # fmt: skip
    """What is tried, by name."""

    def known(recipe: str, **size: Any) -> Recipe:
        return partial(getattr(recipes, recipe), dim, context_dim=context_dim, **size, **supports)

    if asked is None:
        found = {
            "nsf_ar": known("nsf_ar"),
            "nsf_ar, smaller": known("nsf_ar", **SMALLER),
            "nsf_ar, wider": known("nsf_ar", **WIDER),
        }
        if dim > 1:
            found |= {name: known(name) for name in ("nsf", "maf", "realnvp")}
        return [
            Candidate(name, recipe, own)
            for (name, recipe), own in zip(found.items(), seeds(seed, len(found)), strict=True)
        ]
    if isinstance(asked, (str, Flow)) or callable(asked) or not isinstance(asked, (Sequence, Mapping)):
        raise TypeError(
            f"recipes must be a sequence or a mapping of names, flows and callables, got {type(asked).__name__}"
        )
    if not asked:
        raise ValueError("recipes must name at least one, got none")
    given = dict(asked) if isinstance(asked, Mapping) else _labelled(asked)
    if not any(isinstance(value, str) for value in given.values()):
        for name, value in supports.items():
            if value is not None:
                raise ValueError(f"{name} is for recipes that are given by name; flows and callables have theirs")
    made: dict[str, Recipe] = {}
    for name, value in given.items():
        if isinstance(value, str):
            made[str(name)] = known(_validate.choice(value, NAMED, name="recipes"))
        elif isinstance(value, Flow):
            if value.fitted:
                raise ValueError(f"recipes: {name} must be an unfitted flow; flow.reset() forgets a fit")
            made[str(name)] = partial(_fresh, value)
        elif callable(value):
            made[str(name)] = value
        else:
            raise TypeError(
                f"recipes: {name} must be a name, an unfitted Flow or recipe(rng=seed), got {type(value).__name__}"
            )
    return [
        Candidate(name, recipe, own) for (name, recipe), own in zip(made.items(), seeds(seed, len(made)), strict=True)
    ]


def _fresh(flow: Flow, rng: Any) -> Flow:
    return flow.copy().reset(rng)


def _labelled(asked: Sequence[Any]) -> dict[str, Any]:
    """Names for what has none."""
    found: dict[str, Any] = {}
    for k, value in enumerate(asked):
        name = value if isinstance(value, str) else getattr(value, "__name__", "") or f"recipe {k}"
        found[name if name not in found else f"{name}, {k}"] = value
    return found


def checked(candidates: Sequence[Candidate], dim: int, context_dim: int) -> Flow:
    """The flow of the first candidate, if those of all go with the table and with each other."""
    flows = []
    for own in candidates:
        flow = own.recipe(rng=own.seed)
        if not isinstance(flow, Flow):
            raise TypeError(f"recipes: {own.name} must give a Flow, got {type(flow).__name__}")
        if flow.fitted:
            raise ValueError(f"recipes: {own.name} must give an unfitted flow")
        if (flow.dim, flow.context_dim) != (dim, context_dim):
            raise ValueError(
                f"recipes: {own.name} has {flow.dim} dimensions and {flow.context_dim} of the context, but X has {dim} columns "
                f"and context {context_dim}"
            )
        flows.append(flow)
    first = flows[0]
    for own, flow in zip(candidates, flows, strict=True):
        if flow.spec.support != first.spec.support or flow._columns != first._columns:
            raise ValueError(
                f"recipes: {own.name} has another support than {candidates[0].name}, so that their densities cannot be compared"
            )
    return first
