r"""The certificate: does what is derived agree with what is declared?

`check` holds a process to the laws that every Markov process obeys. None of them needs an oracle:
they tie the transition law to the generator (Dynkin), to itself (Chapman–Kolmogorov), to the
bridge, the limit, the draws and the score, and the loss to the entropy of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Delta
from torch import Tensor

from .. import laws
from ..chains import Stepwise
from ..engines.matrix import MatrixGaussian
from ..estimates import Atoms, Data
from ..expectation import entropy_gap, noisy_states
from ..heads import Exact, Head, require_head
from ..likelihood import prior_kl
from ..loss import integrand, loss
from ..process import (
    Chain,
    Leaf,
    Lifted,
    Process,
    Product,
    Pushed,
    Scaled,
    batch_size,
    first_tensor,
    map_state,
    require_process,
)
from ..shapes import sum_event
from ..solve import Unsolved
from ..steppers import Ancestral
from .chain_laws import beginning, chain_rows
from .entries import chi_square
from .report import Report, Row, measured
from .site import apart, few, returned
from .sites import site

State = Any
ROWS = 6  # states of the example that are looked at
RETURNS = 600  # states that are sent forward and back
BEYOND = 1e4  # nats at which one law has nothing in common with another
QUANTILE = 5.5  # normal quantile of the statistical laws: a failure rate of 4e-8 each


def check(process: Process, x: State, head: Head | None = None) -> Report:
    r"""Holds a process to its laws.

    Arguments:
        process: The process; or a chain, which is held to laws of its steps.
        x: Example data, (B, *event) or a dict; a few are enough.
        head: A head to be held against the exact one of these data, if given: its entropy gap
            must not be negative, and is reported.

    Returns:
        A `Report`: truthy if every law holds, printable as a table. Laws that do not apply give
        their reason. Statistical laws use a fixed seed and fail by chance once in 10⁷ checks.

    Example:
        >>> from discdiff import Death, clock
        >>> bool(check(Death().on(clock.LogLinear()), torch.tensor([[0.0], [3.0], [5.0]])))
        True
    """
    require_process(process)
    if head is not None:
        require_head(head)
    x = process.check_data(x, "x")
    rows = chain_rows if isinstance(process, Chain) else _rows
    dtype = torch.get_default_dtype()
    state = torch.random.get_rng_state()
    try:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        x = map_state(_double, map_state(lambda v: v[:ROWS], x))
        report = Report(repr(process), rows(process, x, head))  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(dtype)
        torch.random.set_rng_state(state)
    return report


def _rows(process: Process, x: State, head: Head | None) -> list[Row]:
    """The laws of a process in continuous time."""
    leaves = list(process.leaves(torch.full((batch_size(x),), 0.5, dtype=torch.float64)))
    if any(isinstance(term, Stepwise) for leaf in leaves for term in leaf.core.terms):
        raise Unsolved("a chain declared by its steps has no law between them: check the chain")
    rows = [row for leaf in leaves for row in _leaf_rows(process, leaf, x)]
    return [*rows, *_whole_rows(process, x, head)]


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


# -- laws of one sum of terms ------------------------------------------------------------------


def _leaf_rows(process: Process, leaf: Leaf, x: State) -> list[Row]:
    """The laws of one leaf, in its own time."""
    start = _leaf_at(process, leaf.name, torch.zeros(batch_size(x), dtype=torch.float64))
    at = site(leaf, start.get(x))
    rows = [
        measured("Dynkin", leaf.name, 1e-6, at.dynkin),
        measured("Chapman–Kolmogorov", leaf.name, 1e-8, at.chapman_kolmogorov),
        measured("normalisation", leaf.name, 1e-8, at.normalisation),
        measured("limit", leaf.name, 1e-7, at.limit),
        measured("bridge", leaf.name, 1e-8, at.bridge),
        measured("agreement", leaf.name, QUANTILE, at.agreement),
        measured("score", leaf.name, 1e-6, at.score),
        measured("heads", leaf.name, 1e-6, at.heads),
        measured("decoder", leaf.name, 1e-6, at.decoder),
        measured("additivity", leaf.name, 1e-8, at.additivity),
        measured("consistency", leaf.name, 1e-8, at.consistency),
    ]
    if leaf.clock is not None:
        rows.append(measured("clock", leaf.name, 1e-6, lambda: clock_error(leaf.clock)))
    return rows


def _leaf_at(process: Process, name: str, t: Tensor) -> Leaf:
    return next(leaf for leaf in process.leaves(t) if leaf.name == name)


def clock_error(clock: Any) -> float:
    """How far Λ, its rate and its inverse are from agreeing."""
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64, requires_grad=True)
    integral = clock(t)
    (slope,) = torch.autograd.grad(integral.sum(), t)
    t = t.detach()
    rate, back = clock.rate(t).detach(), clock.inverse(integral.detach()).detach()
    start = clock(torch.zeros(1, dtype=torch.float64)).detach().abs().max()
    increases = bool((integral.detach().diff() > 0).all())
    return max(apart(rate, slope), apart(back, t), float(start), 0.0 if increases else torch.inf)


# -- laws of the whole -------------------------------------------------------------------------


def _whole_rows(process: Process, x: State, head: Head | None) -> list[Row]:
    """The laws that join data, marginals, reversal, loss and time."""
    leaves = list(process.leaves(torch.full((1,), 0.5, dtype=torch.float64)))
    vectors = any(isinstance(leaf.core.engine, MatrixGaussian) for leaf in leaves)
    data = few(x, 2 if vectors else 3)  # two vectors differ along one line
    rows = [
        measured("reversal", "", QUANTILE, lambda: _reversal(process, data)),
        measured("entropy", "", 1e-6, lambda: _entropy(process, data, None)),
        measured("combinators", "", 1e-8, lambda: _seen(process, x)),
        measured("prior", "", 1e-6, lambda: _refusing(lambda: _prior(process, data))),
    ]
    if isinstance(process, Product):
        rows.insert(1, measured("sum over parts", "", 1e-8, lambda: _sum_over_parts(process, x)))
    if head is not None:
        rows.append(measured("given head", "", 1e-6, lambda: _given_head(process, data, head)))
    return rows


def _seen(process: Process, x: State) -> float:
    """What combinators make of the leaves: their times, the whole's laws, and Bayes' rule."""
    s, t = (torch.full((batch_size(x),), u, dtype=torch.float64) for u in (0.3, 0.7))
    law = process._marginal(x, s)
    lattice = all(leaf.core.support.is_discrete for leaf in process.leaves(s))
    if isinstance(getattr(law, "base_dist", law), Delta) and not lattice:
        raise Unsolved("a state that is certain has no density")
    x_s = laws.draw(law)
    x_t = laws.draw(process._transition(x_s, s, t))
    process.check_state(x_s, "x_s")
    process.check_state(x_t, "x_t")
    early, whole = process._marginal(x, s).log_prob(x_s), process._marginal(x, t).log_prob(x_t)
    late = process._transition(x_s, s, t).log_prob(x_t)
    bridge = process._bridge(Data(x), x_t, s, t).log_prob(x_s)
    worst = apart(bridge, early + late - whole)
    for leaf in process.leaves(t):
        if leaf.clock is not None:
            worst = max(worst, apart(leaf.time, leaf.clock(t)))
            worst = max(worst, apart(leaf.speed, leaf.clock.rate(t)))
    if any(isinstance(part, Pushed | Scaled | Lifted) for part in process.modules()):
        return worst  # their leaves see other coordinates, or less
    return max(worst, apart(whole, _from_leaves(process, x, x_t, t)))


def _from_leaves(process: Process, x: State, x_t: State, t: Tensor) -> Tensor:
    """The log-marginal as the sum over the leaves' own, at the entries that move."""
    zero, total = torch.zeros_like(t), torch.zeros_like(t)
    for leaf, start in zip(process.leaves(t), process.leaves(zero), strict=True):
        law = leaf.core.engine.marginal(start.get(x), leaf.time)
        each = getattr(law, "base_dist", law).log_prob(leaf.get(x_t))
        total = total + sum_event(leaf.still(each, x_t))
    return total


def _prior(process: Process, data: State) -> tuple[float, str]:
    r"""The prior is the limit, or the law at 1 from 0; the bound's KL is that from its density."""
    if not process.timed:
        raise Unsolved("without a clock nothing starts at 1")
    options, one = _effort(process, data, True), torch.ones(1, dtype=torch.float64)
    grid, across = options.get("grid", 193), options.get("across", 1)
    worst, most = 0.0, 0.0
    for n in range(batch_size(data)):
        datum = map_state(lambda v: v[n : n + 1], data)  # noqa: B023
        state, log_w = noisy_states(process, datum, one, grid, data, max(across, 3))
        size, weight = batch_size(state), log_w[:, 0].exp()
        x_0 = map_state(lambda v: v.expand(size, *v.shape[1:]), datum)  # noqa: B023
        shape = map_state(lambda v: v.shape, x_0)
        start = process.prior(shape).log_prob(state).double()
        own = process._marginal(x_0, one.expand(size)).log_prob(state).double()
        left = torch.where(weight > 0, weight * (own - start), 0.0).sum()
        try:
            laws.kl(
                process._marginal(datum, one), process.prior(map_state(lambda v: v.shape, datum))
            )
            said = prior_kl(process, datum).double().sum()
        except NotImplementedError:  # no rule for these two laws: no bound reads one
            said = left
        goal = beginning(process, shape, one[0]).log_prob(state).double()
        some = weight > 0
        for a, b in ((said, left), (start[some], goal[some])):
            worst = max(worst, apart(*(v.clamp(-BEYOND, BEYOND) for v in (a, b))))
        most = max(most, float(said.detach()))
    return worst, f"KL(q(x_1|x_0) ‖ prior) ≤ {most:.1e} nats"


def _given_head(process: Process, data: State, head: Head) -> tuple[float, str]:
    """A head that the process refuses, or that says something else than numbers, fails."""
    t = torch.full((batch_size(data),), 0.5, dtype=torch.float64)
    try:
        value = loss(process, head, data, t)
    except (Unsolved, ValueError, RuntimeError) as reason:
        return torch.inf, f"refused: {str(reason).split('. ')[0]}"
    if not bool(value.isfinite().all()):
        return torch.inf, f"its loss is {value.tolist()}"
    return _entropy(process, data, head)


def _refusing(error: Callable[[], Any]) -> Any:
    """An error, or ``Unsolved`` where too much would have to be enumerated."""
    try:
        return error()
    except NotImplementedError as reason:
        raise Unsolved(f"{reason}") from reason
    except ValueError as reason:
        if "too many" in str(reason) or "too much" in str(reason):
            raise Unsolved(f"{reason}") from reason
        raise


def _reversal(process: Process, data: State) -> tuple[float, str]:
    """Forward, then back in three steps with the exact head: the data law returns."""
    exact, count = Exact(process, data), batch_size(data)
    if process.timed:
        grid = [0.9, 0.6, 0.2, 0.0]
    else:
        grid = [2.0, 0.7, 0.2, 0.0]
    copies = RETURNS // count
    many = map_state(lambda v: v.repeat((copies,) + (1,) * (v.dim() - 1)), data)
    size = copies * count
    full = [torch.full((size,), t, dtype=torch.float64) for t in grid]
    x = laws.draw(process._marginal(many, full[0]))
    for t, s in zip(full[:-1], full[1:], strict=True):
        x = Ancestral().law(process, exact(x, t), x, t, s).sample()
    x = process.to_data(x)
    seen = returned(x, data)
    lost = size - float(seen.sum())
    if lost:
        return torch.inf, f"{lost:.0f} of {size} returned to no datum"
    return chi_square(seen[:, None], torch.full((count, 1), 1 / count)), ""


def _sum_over_parts(process: Product, x: State) -> float:
    """The integrand of a product is the sum over its parts, each by itself on its own data."""
    t = torch.linspace(0.4, 0.7, batch_size(x), dtype=torch.float64)
    x_t = laws.draw(process._marginal(x, t))
    said = Exact(process, x)(x_t, t)
    whole = integrand(process, Data(x), said, x_t, t)
    parts = [
        integrand(part, Data(x[name]), Atoms(said.log_weights, x[name]), x_t[name], t)
        for name, part in process.parts.items()
    ]
    return apart(whole, torch.stack(parts).sum(0))


def _entropy(process: Process, data: State, head: Head | None) -> tuple[float, str]:
    """E[path-KL] = H(p_0) + KL(p_1 ‖ prior) for the exact head, more for any other."""
    exact = Exact(process, data)
    try:
        gap = float(
            entropy_gap(process, head or exact, data, **_effort(process, data, head is None))
        )
    except (ValueError, IndexError) as reason:  # a law of NaNs names no state
        raise Unsolved(f"{reason}") from reason
    if head is None:
        return abs(gap), f"H(p_0) = {_entropy_of(data):.4f} nats"
    return max(-gap, 0.0), f"{gap:.2e} nats above the exact head"


def _effort(process: Process, x: State, exact: bool) -> dict[str, Any]:
    """Nodes and grid: more of them where the noisy states are few."""
    leaves = list(process.leaves(torch.ones(1, dtype=torch.float64)))
    across = 1 if exact else 5
    if len(leaves) > 1:
        return {"nodes": 200, "grid": 81, "across": across}
    core = leaves[0].core
    if isinstance(core.engine, MatrixGaussian):
        shape = process.state_shape(tuple(first_tensor(x).shape))
        single = len(shape) == 2 or first_tensor(x)[0].numel() == 1
        many = 361 if core.engine.size < 4 else 721  # information grows as t to the power 1 - 2k
        fine = {"nodes": many, "grid": 193} if single else {"nodes": 161, "grid": 57}
        return {**fine, "across": across}
    if core.terms[0].categorical:
        return {"nodes": 361}
    if any(getattr(term, "event_axes", 0) for term in core.terms):
        return {"nodes": 145}
    entries = 1 if core.support.is_discrete else first_tensor(x)[0].numel()
    if entries > 2:
        raise Unsolved("three real entries have too many noisy states: check fewer")
    plane = entries > 1
    return {"nodes": 145, "grid": 97} if plane else {}


def _entropy_of(data: State) -> float:
    return float(torch.tensor(float(batch_size(data))).log())
