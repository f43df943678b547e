"""Copies of flows: what they share, what they do not, and what stays with a subclass."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import standardisation
from helpers import assert_same_bits, each_backend
from penstock import flow as flow_module
from penstock.files import model


class Labelled(ps.Flow):
    """A flow of somebody's own."""

    label = ""

    def doubled(self) -> int:
        """Something that it can do."""
        return 2 * self.dim


def labelled(backend: str = "auto") -> Labelled:
    """A trained one."""
    flow = Labelled(ps.StandardNormal(2), [ps.Coupling(conditioner=ps.MLP((4,)))], rng=0, backend=backend)
    flow.fit(flow.sample(200, rng=0), epochs=2, rng=0)
    flow.label = "mine"
    return flow


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": lambda flow: flow.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda flow: pickle.loads(pickle.dumps(flow)),
    "bound method": lambda flow: pickle.loads(pickle.dumps(flow.log_prob)).__self__,
    "astype": lambda flow: flow.astype("float64"),
}


@pytest.mark.parametrize("way", WAYS)
@each_backend
def test_a_copy_is_of_the_same_class_with_the_same_attributes_and_history(way: str, backend: str) -> None:
    flow = labelled(backend)
    twin = WAYS[way](flow)
    assert type(twin) is Labelled
    assert (twin.label, twin.doubled(), twin.backend) == ("mine", 4, backend)
    assert repr(vars(twin.history)) == repr(vars(flow.history))
    assert twin.history is not flow.history
    assert_same_bits(twin.params.astype(flow.dtype), flow.params)
    assert_same_bits(standardisation(twin), standardisation(flow))
    assert twin.initialised
    if way != "astype":
        x = flow.sample(5, rng=1)
        assert_same_bits(twin.log_prob(x), flow.log_prob(x))


def test_what_a_callback_and_a_failed_fit_give_is_of_the_same_class() -> None:
    flow, seen = labelled(), []

    def stop(state: ps.TrainingState) -> None:
        seen.append(type(state.flow))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        flow.fit(flow.sample(200, rng=0), epochs=1, rng=0, callbacks=[stop])
    best: Any = error.value.best  # type: ignore[attr-defined]
    assert {*seen, type(best)} == {Labelled}
    assert best.label == "mine"


@pytest.mark.parametrize("way", WAYS)
def test_copies_do_not_touch_each_other(way: str) -> None:
    flow = labelled()
    before, length = flow.params.copy(), len(flow.history)
    one, other = WAYS[way](flow), WAYS[way](flow)
    one.params = one.params + 1
    one.label = "another"
    one.history.epoch.append(7)
    other.reset(5)
    assert_same_bits(flow.params, before)
    assert (flow.label, other.label, len(flow.history)) == ("mine", "mine", length)
    assert_same_bits(WAYS[way](flow).params, before.astype(one.dtype))


def test_every_attribute_of_a_flow_is_known_to_its_copies() -> None:
    assert set(vars(ps.realnvp(2, rng=0))) == flow_module.OWN


def test_a_flow_that_is_sent_again_and_again_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool pickles the bound method with every task."""
    flow, reads = labelled(), []
    flow.params = flow.params + np.float32(0.25)  # one that no other test has sent
    real = model.from_bytes
    monkeypatch.setattr(model, "from_bytes", lambda data: reads.append(len(data)) or real(data))
    x = flow.sample(3, rng=0)
    calls = [pickle.loads(pickle.dumps(flow.log_prob)) for _ in range(5)]
    assert len(reads) == 1
    for call in calls:
        assert_same_bits(call(x), flow.log_prob(x))
    assert len({id(call.__self__._runner()) for call in calls}) == 1
    monkeypatch.setattr(flow_module, "KEPT_BYTES", 10)
    for _ in range(2):
        pickle.loads(pickle.dumps(flow))
    assert len(reads) == 3


def test_a_damaged_pickle_is_refused() -> None:
    data = bytearray(pickle.dumps(labelled()))
    data[data.index(b"layers.0.conditioner") + 2000] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        pickle.loads(bytes(data))


def test_building_takes_time_in_proportion_to_the_dimensions() -> None:
    """Couplings of many dimensions, on every kind of split: in the square of dim this takes minutes."""
    dim, network = 20_000, ps.MLP((2,))
    splits = ("half", "alternating_swapped", "random", tuple(range(1, dim)))
    layers = [ps.Coupling(conditioner=network, split=split) for split in splits]
    flow = ps.Flow(ps.StandardNormal(dim), [*layers, ps.Permutation("random"), ps.Elementwise()], rng=0)
    assert ps.from_bytes(flow.to_bytes()).spec == flow.spec
