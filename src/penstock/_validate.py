"""The front door: user input is checked here, once. Messages name the argument, what was expected and what came.

Rows come out as float32 or float64 arrays in native byte order, with whatever strides they had: nothing
that is one already is copied, and the tile loader reads the rest as it lies.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from penstock import _device_arrays, columns
from penstock._typing import Array

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)


def positive_int(value: Any, *, name: str) -> int:
    """``value`` as an int of at least one."""
    number = _integer(value, name=name)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def count(value: Any, *, name: str) -> int:
    """``value`` as an int of at least zero."""
    number = _integer(value, name=name)
    if number < 0:
        raise ValueError(f"{name} must be at least 0, got {number}")
    return number


def draws(value: Any, *, name: str) -> tuple[int, ...]:
    """The shape of draws: of one by itself for None, of so many, or a shape that was given; ``1e6`` counts as an integer."""
    if value is None:
        return ()
    if isinstance(value, tuple):
        return tuple(count(_whole(length), name=f"{name}[{axis}]") for axis, length in enumerate(value))
    return (count(_whole(value), name=name),)


def _whole(value: Any) -> Any:
    """An int in the place of a float that is one."""
    return int(value) if isinstance(value, (float, np.floating)) and float(value).is_integer() else value


def number_of_first(value: Any, count: int, limit: int, *, name: str) -> int:
    """``value`` as the number of the first of ``count`` things, each of whose numbers lies below ``limit``."""
    number = _integer(value, name=name)
    if not 0 <= number <= limit - count:
        raise ValueError(
            f"{name} must be at least 0, and numbers must stay below 2**{limit.bit_length() - 1}, got {number}"
        )
    return number


def _integer(value: Any, *, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def positive_number(value: Any, *, name: str, allow_inf: bool = False) -> float:
    """``value`` as a float above zero."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None
    if not number > 0 or (math.isinf(number) and not allow_inf):
        raise ValueError(f"{name} must be a {'positive' if allow_inf else 'positive finite'} number, got {number}")
    return number


def non_negative_number(value: Any, *, name: str) -> float:
    """``value`` as a finite float of at least zero."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {number}")
    return number


def decay_rates(values: Any, *, name: str) -> tuple[float, float]:
    """Two numbers in [0, 1)."""
    try:
        first, second = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two numbers, got {values!r}") from None
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"{name} must lie in [0, 1), got {values!r}")
    return first, second


def count_or_fraction(value: Any, *, name: str) -> int | float:
    """An int of at least zero, or a float of at least 0 and below 1."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return count(value, name=name)
    fraction = non_negative_number(value, name=name)
    if fraction >= 1:
        raise ValueError(f"{name} must be an int (steps) or a float below 1 (a fraction of all steps), got {value}")
    return fraction


def number_from(value: Any, minimum: float, *, name: str) -> float:
    """``value`` as a float of at least ``minimum``, infinity included; True and False are no numbers here."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = positive_number(value, name=name, allow_inf=True)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum:g}, got {number}")
    return number


def choice(value: Any, options: tuple[str, ...], *, name: str) -> str:
    """``value`` if it is one of ``options``."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return str(value)


def index_list(values: Any, *, name: str) -> tuple[int, ...]:
    """``values`` as a tuple of non-negative ints."""
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of indices, got {type(values).__name__}")
    try:
        indices = tuple(operator.index(v) for v in values)
    except TypeError:
        raise TypeError(f"{name} must hold integers, got {values!r}") from None
    if any(i < 0 for i in indices):
        raise ValueError(f"{name} must hold indices of at least 0, got {indices}")
    return indices


def instance(value: Any, types: Iterable[type], *, name: str) -> None:
    """Raise unless ``value`` is an instance of exactly one of ``types``."""
    allowed = tuple(types)
    if type(value) in allowed:
        return
    names = ", ".join(cls.__name__ for cls in allowed)
    if isinstance(value, type):
        raise TypeError(f"{name} must be an instance, got the class {value.__name__}; write {value.__name__}(...)")
    raise TypeError(f"{name} must be one of {names}, got {type(value).__name__}")


def sequence(values: Any, *, name: str) -> tuple[Any, ...]:
    """``values`` as a tuple."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence, got {type(values).__name__}")
    return tuple(values)


def names(values: Any, *, name: str) -> tuple[str, ...]:
    """``values``, one string or several, as a tuple of them."""
    if isinstance(values, str):
        return (values,)
    strings = sequence(values, name=name)
    for i, string in enumerate(strings):
        if not isinstance(string, str):
            raise TypeError(f"{name}[{i}] must be a string, got {string!r}")
    return strings


def callables(values: Any, *, name: str) -> tuple[Any, ...]:
    """``values``, one callable or several, as a tuple of them."""
    if callable(values):
        return (values,)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a callable or a sequence of callables, got {values!r}")
    calls = tuple(values)
    for i, call in enumerate(calls):
        if not callable(call):
            raise TypeError(f"{name}[{i}] must be a callable, got {call!r}")
    return calls


def widths(value: Any, *, name: str) -> tuple[int, ...]:
    """``value``, one positive int or several, as a tuple of them."""
    try:
        values: tuple[Any, ...] = (operator.index(value),)
    except TypeError:
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise TypeError(f"{name} must be an integer or a sequence of integers, got {value!r}") from None
        values = tuple(value)
    return tuple(positive_int(number, name=name) for number in values)


def float_dtype(value: Any, *, name: str = "dtype") -> np.dtype[Any]:
    """``value`` as the native float32 or float64."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name} must be 'float32' or 'float64', got {value!r}") from None
    if value is None or dtype not in (FLOAT32, FLOAT64):
        raise ValueError(f"{name} must be 'float32' or 'float64', got {value!r}")
    return FLOAT32 if dtype == FLOAT32 else FLOAT64


def path(value: Any, *, name: str = "path") -> str:
    """``value`` as the name of a file."""
    try:
        return os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name} must be a string or a path, got {type(value).__name__}") from None


def bytes_like(value: Any, *, name: str) -> memoryview:
    """``value`` as a flat run of bytes."""
    try:
        return memoryview(value).cast("B")
    except TypeError:
        raise TypeError(f"{name} must be bytes, got {type(value).__name__}") from None


def seed(rng: Any, *, name: str = "rng") -> int:
    """64 bits from what ``numpy.random.default_rng`` takes; a Generator is advanced once."""
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        kind = type(error)
        raise kind(f"{name} must be what numpy.random.default_rng takes, got {rng!r}: {error}") from None
    return int(generator.integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True))


def key(rng: Any, given: Any) -> int:
    """The 64 bits of draws: a key that was given, or those of ``rng``."""
    if given is None:
        return seed(rng)
    if rng is not None:
        raise ValueError("rng and key both decide the draws; give one of them")
    number = _integer(given, name="key")
    if not 0 <= number < 2**64:
        raise ValueError(f"key must be at least 0 and below 2**64, as penstock.key(rng) gives it, got {number}")
    return number


def no_context(context: Any, *, name: str = "context") -> None:
    """Raise if a context was given to a flow that has none."""
    if context is not None:
        seed = "; a seed goes by name, rng=0" if isinstance(context, int) else ""
        raise ValueError(
            f"{name} was given, but this flow has none (context_dim=0){seed}: a flow has no targets, and one that depends on "
            "other variables is built for so many of them, as penstock.nsf_ar(dim, context_dim=1)"
        )


def as_context(context: Any, context_dim: int, shape: tuple[int, ...], *, name: str = "context") -> Array | None:
    """``context`` of rows whose results have the given shape: of shape (context_dim,), (m, context_dim) or (m, n, context_dim).

    That is one for all rows, one for each row or block, or one for each row of each block. For a row by itself, of shape (),
    it may be of any number of rows.
    """
    if context_dim == 0:
        no_context(context, name=name)
        return None
    array = _given(context, context_dim, name=name)
    fitting: list[tuple[int, ...]] = [(context_dim,)]
    fitting += [(*shape[: i + 1], context_dim) for i in range(len(shape))]
    if array.shape in fitting or (not shape and array.ndim == 2 and array.shape[1] == context_dim):
        return array
    words = " or ".join(map(str, fitting)) if shape else f"({context_dim},) or (m, {context_dim})"
    raise ValueError(
        f"{name} must have shape {words} for these rows, got {array.shape}" + _as_column(array, context_dim, name)
    )


def as_contexts(context: Any, context_dim: int, *, name: str = "context") -> Array | None:
    """``context`` of draws: one row, of shape (context_dim,), or (m, context_dim), or blocks of (m, n, context_dim)."""
    if context_dim == 0:
        no_context(context, name=name)
        return None
    array = _given(context, context_dim, name=name)
    if array.ndim not in (1, 2, 3) or array.shape[-1] != context_dim:
        raise ValueError(
            f"{name} must have shape ({context_dim},), (m, {context_dim}) or (m, n, {context_dim}), got {array.shape}"
            + _as_column(array, context_dim, name)
        )
    return array


def as_one_context(context: Any, context_dim: int, *, name: str = "context") -> Array:
    """One row of ``context``, of shape (context_dim,); a table of one row is one, too."""
    if context_dim == 0:
        raise ValueError("this flow has no context (context_dim=0)")
    array = _given(context, context_dim, name=name)
    if array.shape not in ((context_dim,), (1, context_dim)):
        raise ValueError(f"{name} must be one row, of shape ({context_dim},), got {array.shape}")
    return array.reshape(context_dim)


def _as_column(array: Array, count: int, name: str) -> str:
    """What to write for numbers that are a column, and lack the axis that says so."""
    return f"; for one column write {name}[:, None]" if count == 1 and array.ndim == 1 else ""


def as_context_rows(context: Any, context_dim: int, rows: int, *, name: str = "context", of: str = "X") -> Array | None:
    """``context`` with a row for each of so many rows."""
    if context_dim == 0:
        no_context(context, name=name)
        return None
    array = _given(context, context_dim, name=name)
    if array.shape != (rows, context_dim):
        raise ValueError(
            f"{name} must have shape ({rows}, {context_dim}), one row for each of {of}, got {array.shape}"
            + _as_column(array, context_dim, name)
        )
    return array


def _given(context: Any, context_dim: int, *, name: str) -> Array:
    if context is None:
        raise ValueError(f"{name} must be given: this flow has context_dim={context_dim}")
    return reals(context, name=name)


def reals(values: Any, *, name: str) -> Array:
    """``values`` as a native float32 or float64 array, without a copy where it is one.

    Integers become float64, float16 becomes float32, and other byte orders are swapped. Complex
    numbers, objects and strings are refused.
    """
    _device_arrays.refuse(values, name)
    values = columns.plain(values, name=name)
    # Another thread may be importing the module just now.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    if isinstance(values, masked) and np.ma.is_masked(values):
        raise TypeError(f"{name} has masked entries; fill them or drop those rows first")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as an array of numbers: {error}") from None
    dtype = array.dtype
    for native in (FLOAT32, FLOAT64):
        if dtype is native:
            return array
        if dtype == native:  # an equal one that is another object, as pickles bring: the same bytes under the usual one
            return array.view(native)
    if dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize > 4):
        with np.errstate(all="ignore"):  # long doubles may leave the range
            return array.astype(FLOAT64)
    if dtype.kind == "f":
        return array.astype(FLOAT32)
    raise TypeError(f"{name} must hold real numbers, got {_what(values)} of dtype {dtype}")


def _what(values: Any) -> str:
    return "an array" if isinstance(values, np.ndarray) else type(values).__name__


def as_rows(x: Any, dim: int, *, name: str) -> Array:
    """``x`` as an array of shape (rows, dim)."""
    array = reals(x, name=name)
    if array.ndim != 2 or array.shape[1] != dim:
        hint = _as_column(array, dim, name)
        if array.ndim == 1 and len(array) == dim and not hint:
            hint = f"; for one row write {name}[None]"
        raise ValueError(f"{name} must have shape (rows, {dim}), got {array.shape}{hint}")
    return array


def as_batch(x: Any, dim: int, *, name: str) -> tuple[Array, tuple[int, ...]]:
    """``x`` of shape (dim,), (rows, dim) or (m, n, dim) as rows, and the shape of a result with one number a row."""
    array = reals(x, name=name)
    shape = array.shape
    if array.ndim == 2 and shape[1] == dim:
        return array, shape[:1]
    if array.ndim == 1 and shape[0] == dim:
        return array[None], ()
    if array.ndim == 3 and shape[2] == dim:
        # A view unless the first two axes cannot be merged into one stride.
        return array.reshape(shape[0] * shape[1], dim), shape[:2]
    if array.ndim == 2:
        raise ValueError(f"{name} must have shape (rows, {dim}), got {shape}")
    hint = _as_column(array, dim, name)
    raise ValueError(f"{name} must have shape ({dim},), (rows, {dim}) or (m, n, {dim}), got {shape}{hint}")


def as_shaped(values: Any, shape: tuple[int, ...], dtype: np.dtype[Any] | None, *, name: str) -> Array:
    """``values`` of exactly this shape as a C-contiguous array, in the precision asked for if any."""
    array = reals(values, name=name)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    with np.errstate(all="ignore"):
        return np.require(array, dtype or array.dtype, ("C", "A"))


def as_probabilities(values: Any, *, name: str) -> Array:
    """``values`` as a float64 array of numbers in [0, 1]."""
    array = reals(values, name=name).astype(FLOAT64)
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        raise ValueError(f"{name} must lie in [0, 1], got {array[wrong][0]}")
    return array


def finite(value: Any, *, name: str) -> float:
    """``value`` as a finite float."""
    array = reals(value, name=name)
    if array.shape != () or not np.isfinite(array):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(array)


def fraction(value: Any, *, name: str) -> float:
    """``value`` as a float strictly between 0 and 1."""
    number = positive_number(value, name=name)
    if number >= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {number}")
    return number


def function(value: Any, *, name: str) -> Any:
    """``value`` if it can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function of a batch of rows, got {type(value).__name__}")
    return value


def as_booleans(values: Any, rows: int, *, name: str) -> Array:
    """``values`` as an array of one boolean for each of so many rows."""
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must return booleans, one for each row, got {array.dtype}")
    if array.shape != (rows,):
        raise ValueError(f"{name} must return an array of shape ({rows},), got {array.shape}")
    return array


def as_weights(weight: Any, rows: int, *, name: str) -> Array:
    """``weight`` as a contiguous array of one finite number a row."""
    array = as_shaped(weight, (rows,), None, name=name)
    all_finite(array, name=name)
    return array


def as_positive_weights(weight: Any, rows: int, *, name: str) -> Array:
    """Weights of a distribution, float64: finite, none negative, and not all 0."""
    array = as_weights(as_shaped(weight, (rows,), FLOAT64, name=name), rows, name=name)
    if (array < 0).any():
        raise ValueError(f"{name} must not be negative here, got {array.min():g}")
    if not array.any():
        raise ValueError(f"{name} is 0 for all rows")
    return array


def as_params(values: Any, n_params: int, dtype: np.dtype[Any], *, name: str = "params") -> Array:
    """A copy of ``values`` as the flat vector of a flow; every number must be finite in its precision."""
    array = as_shaped(values, (n_params,), None, name=name)
    with np.errstate(all="ignore"):
        params = np.array(array, dtype=dtype)
    all_finite(params, name=name)
    return params


def as_gradient(values: Any, n_params: int, *, name: str) -> Array:
    """A float64 copy of ``values``, a finite number for each parameter of a flow."""
    array = as_shaped(values, (n_params,), None, name=name)
    all_finite(array, name=name, note="; the flow was not changed")
    return np.array(array, np.float64)


def all_finite(array: Array, *, name: str, note: str = "") -> None:
    """Raise if a number of an array of any shape is not finite, with its place: ``X[row, column]``."""
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.unravel_index(int(np.argmin(finite)), array.shape)
        place = f"[{', '.join(map(str, bad))}]" if bad else ""
        raise ValueError(f"{name} must be finite, but {name}{place} is {array[bad]}{note}")


def as_out(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *, avoid: Iterable[Array | None] = (), name: str = "out"
) -> Array:
    """A view of ``out`` that results can be written straight into: the very shape and dtype, C order, writeable."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} of shape {shape}, got {out.dtype} of shape {out.shape}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise ValueError(f"{name} must be a writeable, aligned array in C order")
    if any(array is not None and np.may_share_memory(out, array) for array in avoid):
        raise ValueError(f"{name} must not overlap the input")
    return out.view(dtype, np.ndarray)


def as_theta(theta: Any, shape: tuple[int, ...], n_theta: int, *, name: str = "theta") -> Array:
    """``theta`` for ``x`` of the given shape: (rows, dim, n_theta), or (dim, n_theta) for all rows."""
    array = reals(theta, name=name)
    expected = (*shape, n_theta)
    if array.shape != expected and array.shape != expected[-2:]:
        either = f" or {expected[-2:]}" if len(expected) > 2 else ""
        raise ValueError(f"{name} must have shape {expected}{either}, got {array.shape}")
    return array
