r"""Strategies: random processes, rate matrices, clocks and times for hypothesis.

Hypothesis is an optional dependency (the extra ``test``), so this module is imported by name and
is no part of the package root. With it, a law is tested on whatever a user may declare:

.. code-block:: python

    from hypothesis import given
    from discdiff.testing import processes

    @given(processes())
    def test_laws(drawn):
        process, x = drawn
        assert dd.check(process, x)

Everything drawn is small: spaces of a few states and counts of a few units, so that laws can be
summed over all states.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.distributions import Normal

from . import clock
from .chains import MatrixChain
from .clock import Clock
from .process import Process, Product, Sum
from .terms import (
    Birth,
    Death,
    Ehrenfest,
    Immigration,
    Langevin,
    Linear,
    Noise,
    RateMatrix,
    Replace,
    one_hot,
    with_diagonal,
)

Drawn = tuple[Process, Tensor | dict[str, Tensor]]

_rates = st.floats(0.2, 2.0)
_real = st.integers(-8, 8).map(lambda k: k / 4)  # data that differ differ visibly


def times(end: float = 1.0) -> SearchStrategy[float]:
    """Times in [0, end], among them 0, 1e-8 and the end."""
    return st.sampled_from([0.0, 1e-8, end]) | st.floats(0.0, end)


def simplexes(size: int) -> SearchStrategy[Tensor]:
    """Probability vectors of shape (size,): some uniform, some one-hot, some with zeros."""
    parts = st.lists(st.just(0.0) | st.floats(0.05, 1.0), min_size=size, max_size=size)
    general = parts.filter(any).map(_normalised)
    certain = st.integers(0, size - 1).map(lambda k: one_hot(k, size))
    return st.just(_normalised([1.0] * size)) | certain | general


def rate_matrices(size: int) -> SearchStrategy[Tensor]:
    """Rate matrices of shape (size, size), with rates that are zero or between 0.05 and 3."""
    rate = st.just(0.0) | st.floats(0.05, 3.0)
    entries = st.lists(rate, min_size=size**2, max_size=size**2)
    return entries.map(lambda v: with_diagonal(torch.tensor(v).double().reshape(size, size)))


@st.composite
def matrix_chains(draw: st.DrawFn) -> tuple[MatrixChain, Tensor]:
    """Chains of one to five steps on two to four states, of one site or two, with example states.

    One kernel for all steps or one for each; rows may be uniform, certain, or have zeros.
    """
    size, count = draw(st.integers(2, 4)), draw(st.integers(1, 5))
    many = 1 if draw(st.booleans()) else count
    rows = draw(st.lists(simplexes(size), min_size=many * size, max_size=many * size))
    Q = torch.stack(rows).reshape(many, size, size)
    event = draw(st.sampled_from([(), (2,)]))
    chain = MatrixChain(Q) if many == count else MatrixChain(Q[0], steps=count)
    return chain, _states(draw, st.integers(0, size - 1), event)


def clocks() -> SearchStrategy[Clock]:
    """Clocks of every closed form, those with a finite end and those without."""
    return _short_clocks() | st.one_of(
        st.just(clock.Cosine()),
        st.just(clock.LogLinear()),
        st.builds(clock.Logistic, st.floats(1.0, 15.0)),
        st.builds(clock.Linear, st.floats(0.0, 1.0), st.floats(5.0, 20.0)),
    )


def _short_clocks() -> SearchStrategy[Clock]:
    """Clocks whose own time ends early, where what grows has not yet exploded."""
    return st.one_of(
        st.builds(clock.Constant, st.floats(0.2, 1.0)),
        st.builds(clock.Linear, st.floats(0.0, 0.5), st.floats(0.5, 1.0)),
        st.builds(clock.Geometric, st.floats(0.1, 0.5), st.floats(0.6, 1.0)),
    )


def processes() -> SearchStrategy[Drawn]:
    """Processes with example states, from five families.

    Gaussian (scalar and diagonal, with a limit and without), replacement, dense rate matrices (one
    site, several, and two coupled ones), counts (death, immigration, birth, two-state units), and
    products of two or three of these.
    """
    return st.one_of(gaussians(), replacements(), chains(), counts(), products())


@st.composite
def gaussians(draw: st.DrawFn, column: bool = False) -> Drawn:
    """Scalar and diagonal linear diffusions.

    Arguments:
        column: Whether states have one entry and the process runs on a clock, as in a product.
    """
    size = 0 if column else draw(st.sampled_from([0, 0, 0, 2]))
    stable = draw(st.booleans())
    decay = st.floats(-2.0, -0.1) if stable else st.sampled_from([-1.0, 0.0, 0.3])
    a, b, g = (_numbers(draw, some, size) for some in (decay, _real, _rates))
    x = _states(draw, _real, (size,) if size else ()).double()
    on = clocks() if stable else _short_clocks()
    return _timed(draw, Linear(a, b) + Noise(g), on, column), x


@st.composite
def vectors(draw: st.DrawFn) -> Drawn:
    """Langevin systems of two to four coordinates, as they are or lifted, on clocks that end.

    Noise enters at the last coordinate, or at more, and is passed on along a chain that reaches
    all. One in four is critically damped: two eigenvalues of the drift are equal, and it has no
    eigenbasis.
    """
    critical = draw(st.integers(0, 3)) == 0
    system = _critically_damped(draw) if critical else _any_system(draw)
    size = len(system[0])
    # A slow mode on a clock that ends at ∞ is forgotten at times that round to 1.
    ending = _short_clocks() | st.builds(clock.Linear, st.floats(0.0, 1.0), st.floats(5.0, 20.0))
    process = _timed(draw, Langevin(*system), ending, False)
    if not draw(st.booleans()):
        return process, _states(draw, _real, (size,)).double()
    law = Normal(draw(_real), draw(st.floats(0.05, 1.0)))
    return process.lift(law), _states(draw, _real, ()).double()


def _critically_damped(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    mass, speed = draw(st.floats(0.25, 2.0)), draw(_rates)
    Q = torch.tensor([[0.0, -speed], [speed, 0.0]], dtype=torch.float64)
    D = torch.tensor([0.0, 2 * speed * mass**0.5], dtype=torch.float64).diag()
    return Q, D, torch.tensor([1.0, mass], dtype=torch.float64).diag()


def _any_system(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    size = draw(st.integers(2, 4))
    other = st.just(0.0) | st.floats(-1.0, 1.0)
    below = [[draw(_rates if i == j + 1 else other) for j in range(i)] for i in range(size)]
    Q = torch.zeros(size, size, dtype=torch.float64)
    for i, row in enumerate(below):
        Q[i, :i] = torch.tensor(row, dtype=torch.float64)
    noise = draw(st.lists(st.just(0.0) | _rates, min_size=size - 1, max_size=size - 1))
    D = torch.tensor([*noise, draw(_rates)], dtype=torch.float64).diag()
    root = torch.eye(size, dtype=torch.float64)
    if draw(st.booleans()):
        entries = draw(st.lists(st.floats(-0.5, 0.5), min_size=size**2, max_size=size**2))
        root = root + torch.tensor(entries, dtype=torch.float64).reshape(size, size).tril()
    return Q - Q.mT, D, root @ root.mT


@st.composite
def replacements(draw: st.DrawFn, column: bool = False) -> Drawn:
    """Replacement by draws from any law, of one site or two."""
    size = draw(st.integers(2, 4))
    term = Replace(draw(simplexes(size)))
    event = () if column else draw(st.sampled_from([(), (2,)]))
    x = _states(draw, st.integers(0, size - 1), event)
    return _timed(draw, term, clocks(), column), x


@st.composite
def chains(draw: st.DrawFn, column: bool = False) -> Drawn:
    """Dense rate matrices: of one site, of two independent ones, and of two coupled ones."""
    if column or draw(st.booleans()):
        size = draw(st.integers(2, 4 if column else 6))
        term = RateMatrix(draw(rate_matrices(size)))
        event = () if column else draw(st.sampled_from([(), (2,)]))
        x = _states(draw, st.integers(0, size - 1), event)
    else:
        term = RateMatrix(draw(rate_matrices(6)), sites=(2, 3))
        x = _states(draw, st.integers(0, 5), ())
        x = torch.stack([x // 3, x % 3], -1)
    return _timed(draw, term, clocks(), column), x


@st.composite
def counts(draw: st.DrawFn, column: bool = False) -> Drawn:
    """Death, immigration, births and units of two states, with counts of a few units."""
    rate = st.floats(0.3, 1.2)
    x = _states(draw, st.integers(0, 4), ()).double()
    death, arrivals = draw(rate) * Death(), Immigration(draw(rate))
    two = Ehrenfest(draw(st.integers(4, 6)), draw(rate), draw(rate))
    births = [draw(rate) * Birth(), death, arrivals][: draw(st.integers(1, 3))]
    term = draw(st.sampled_from([death, death + arrivals, two, Sum(*births)]))
    if isinstance(term, Sum) and any(isinstance(part, Birth) for part in term.terms):
        return term.on(draw(_short_clocks())), x
    return _timed(draw, term, clocks(), column), x


@st.composite
def products(draw: st.DrawFn) -> Drawn:
    """Two or three columns, at most one of them with many points (real, or counts)."""
    many, few = gaussians(True) | counts(True), replacements(True) | chains(True)
    drawn = [draw(many | few), *(draw(few) for _ in range(draw(st.integers(1, 2))))]
    names = draw(st.permutations("abc"))
    columns = dict(zip(names, drawn, strict=False))
    parts = {name: process for name, (process, _) in columns.items()}
    return Product(parts), {name: x[:2] for name, (_, x) in columns.items()}  # type: ignore


def _normalised(values: list[float]) -> Tensor:
    pi = torch.tensor(values, dtype=torch.float64)
    return pi / pi.sum()


def _numbers(draw: st.DrawFn, one: SearchStrategy[float], size: int) -> float | list[float]:
    """A number, or a diagonal if size is not 0."""
    return draw(st.lists(one, min_size=size, max_size=size)) if size else draw(one)


def _states(draw: st.DrawFn, entry: SearchStrategy, event: tuple[int, ...]) -> Tensor:
    """Two or three states."""
    size = torch.Size((draw(st.integers(2, 3)), *event))
    values = st.lists(entry, min_size=size.numel(), max_size=size.numel())
    return torch.tensor(draw(values)).reshape(size)


def _timed(draw: st.DrawFn, process: Process, on: SearchStrategy[Clock], always: bool) -> Process:
    """The process on a clock; now and then in its own time, unless ``always``."""
    return process.on(draw(on)) if always or draw(st.integers(0, 4)) else process
