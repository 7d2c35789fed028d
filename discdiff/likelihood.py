r"""Likelihood: the path-KL and the bounds that it gives, in continuous time and in steps.

.. math::
    -\log p(x_0) \le \mathrm{KL}(q(x_1 | x_0) \| \text{prior})
        + \int_0^1 \mathbb{E}\big[\text{kl rate}\big]\, dt.

The integral is finite down to t = 0 for heads that decay there; for others it stops at a small
time and a normalised decoder takes over:
:math:`\log p(x_0) \ge -\text{path-KL on } [s, 1] + \mathbb{E} \log p(x_0 \mid x_s)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from . import laws
from .control import require_control, variate
from .drawn import full_precision, with_draw
from .heads import Head, leaf_heads, require_head, require_possible
from .loss import integrand
from .process import (
    Chain,
    Leaf,
    LiftedSum,
    Mixture,
    Process,
    Product,
    batch_size,
    first_tensor,
    map_state,
    require_law,
    require_process,
)
from .solve import Unsolved
from .stepper import Stepper, require_stepper
from .steps import Steps, divergence, dtype_of, log_jacobian, reconstruction
from .times import clock_key, natural_clocks, require_reach, rule, times
from .validation import require, require_count, shown
from .weights import Weight

State = Any
STOP = 1e-3
CLEAR = 1.0001e4  # a signal-to-noise ratio


def path_kl(
    process: Process,
    head: Head,
    x_0: State,
    *,
    stop: float | None = None,
    nodes: int | None = None,
    prior: Distribution | None = None,
    context: Any = None,
    control: float | None = None,
) -> Tensor:
    r"""The prior's KL plus the time integral of the loss, an unbiased estimate, in nats.

    Arguments:
        process: The process, on a clock.
        head: A network with a meaning.
        x_0: Data, shape (B, *event) or a dict.
        stop: Where the integral stops: 0 for heads that decay there, else 1e-3 by default; under a
            lift later, where the signal-to-noise ratio of the data has fallen to 10⁴. A compiled
            graph keeps the default that it was compiled with: give stop where a lift is learned.
        nodes: Number of quadrature nodes in z for each clock, each with its own draw of
            :math:`x_t`; 121 leave an error of 1e-7. By default one importance-sampled time per
            batch element.
        prior: The law at time 1 of the model; the process's own by default. One that cannot have
            produced :math:`x_1` gives +∞.
        context: Handed to the network.
        control: For linear diffusions and lifts, the coefficient of the control variate
            :math:`\tfrac12 \|B^\top s\|^2 + \tfrac12 \nabla \cdot (B B^\top s)` that is taken
            away, with s the data's own score: its mean is zero, and gradients are left alone. For
            `Epsilon` and `Score` heads that know little yet, 1 divides the variance by 1.2 to 1.9,
            and by 6 to 17 with nodes. For trained ones 0.01, or 0.1 with nodes, gains a few per
            cent, and 1 adds noise.

    Returns:
        Shape (B,).

    Raises:
        ValueError: If stop is 0 and the integral would diverge for this head, or if the process
            is too slow for its clock (see `times`).
        Unsolved: If control is given and a part of the process is no linear diffusion.
    """
    require_process(process)
    share = require_control(process, control)
    x_0 = process.check_data(x_0, "x_0")
    stop = stop_for(process, head, stop)
    require_possible(process, head, x_0)
    with full_precision(x_0):
        start = prior_kl(process, x_0, prior)
    require_reach(process, x_0)
    nodes = None if nodes is None else require_count(nodes, "nodes")
    if nodes is None:
        t, w = times(process, x_0, stop=stop)
        return start + w.to(start.dtype) * _draw_rate(process, head, x_0, t, context, share)
    total = start
    for part, (times_of, weights_of) in quadrature(process, stop, nodes):
        for t, w in zip(times_of, weights_of, strict=True):
            full = t.expand(batch_size(x_0)).to(first_tensor(x_0).device)
            rate = _draw_rate(process, head, x_0, full, context, share, part)
            total = total + w.to(total) * rate
    return total


def elbo(
    process: Process,
    head: Head,
    x_0: State,
    *,
    stop: float | None = None,
    nodes: int | None = None,
    prior: Distribution | None = None,
    context: Any = None,
    control: float | None = None,
) -> Tensor:
    r"""A lower bound on :math:`\log p(x_0)`, an unbiased estimate of it, in nats.

    The arguments are those of `path_kl`. Where the integral stops before 0, a normalised decoder
    of :math:`x_0` given :math:`x_{stop}` completes the bound. For a pushed process the logarithm
    of the Jacobian is included.

    Returns:
        Shape (B,).
    """
    require_process(process)
    x_0 = process.check_data(x_0, "x_0")
    stop = stop_for(process, head, stop)
    options = {"stop": stop, "nodes": nodes, "prior": prior, "context": context}
    bound = -path_kl(process, head, x_0, control=control, **options)
    if stop > 0:
        bound = bound + reconstruction(process, head, x_0, stop, context)
    return bound + log_jacobian(process, x_0).to(bound.dtype)


def stop_for(process: Process, head: Head, stop: float | None) -> float:
    """The time at which the integral stops.

    Raises:
        ValueError: If stop is 0 and the integral would diverge for this head, or if it diverges
            at an infinite end of the clock.
        Unsolved: If no law given the data is known.
    """
    require_head(head)
    _require_law(process)
    real = stop is None or (isinstance(stop, float | int) and 0 <= stop < 1)
    require(real, f"stop must lie in [0, 1); it is {stop!r}")
    pairs = leaf_heads(process, head)
    for (leaf, part), ends in zip(pairs, _ends(process), strict=True):
        if not (ends or leaf.core.engine.settles(part)):
            raise ValueError(
                f"{type(part).__name__} has no finite bound for {leaf.core!r} on {leaf.clock!r}: "
                "where Λ = ∞ nothing short of the truth keeps the integral finite. Take a clock "
                "with a finite end, such as clock.Linear or Constant, or a head that says what "
                "x_0 is"
            )
    finite = all(leaf.core.engine.decays(part) for leaf, part in pairs)
    if stop is None:
        return 0.0 if finite else _clear(process)
    require(
        stop > 0 or finite,
        f"stop = 0: the integral diverges like log(1/t) for {type(head).__name__} here; "
        "choose stop > 0, or a head that decays at t = 0",
    )
    require(0 <= stop < 1, f"stop must lie in [0, 1); it is {stop}")
    return stop


@torch.compiler.assume_constant_result
def _require_law(process: Process) -> None:
    """Raises ``Unsolved`` where a diffusion has no known law given the data.

    A compiled graph plans the engines here, from the numbers as they are when it is compiled.
    """
    for leaf in process.leaves(process.instant(0.5)):
        try:
            leaf.core.engine  # noqa: B018
        except Unsolved as error:
            if leaf.core.support.is_discrete:
                raise
            raise Unsolved(
                f"a bound needs the law given the data, and none is known for {leaf.core!r}. Ways "
                "out: implicit_score_matching trains heads.Score, and log_prob(…, prior=) is the "
                "likelihood of its probability flow; Linear and Noise have bounds"
            ) from error


@torch.compiler.assume_constant_result
@torch.no_grad()
def _ends(process: Process) -> list[bool]:
    """Whether the own time of each leaf ends; in a compiled graph as it was when compiled."""
    return [not bool(leaf.time.isinf().all()) for leaf in process.leaves(process.instant(1.0))]


@torch.compiler.assume_constant_result
def _clear(process: Process) -> float:
    """Where the data of all leaves are noisy; in a compiled graph as it was when compiled."""
    return max(_noisy(leaf) for leaf in process.leaves(process.instant(0.5)))


@torch.no_grad()
def _noisy(leaf: Leaf) -> float:
    """The time, not before `STOP`, at which a lift's data carry noise that float32 can see.

    Noise comes to the data through the auxiliaries, as a power of t; a signal-to-noise ratio of
    10⁴ is what variance-preserving noise on the usual clock has at `STOP`.
    """
    if not isinstance(leaf.core, LiftedSum) or leaf.clock is None:
        return STOP
    t = torch.logspace(math.log10(STOP), 0.0, 193, dtype=torch.float64)
    engine: Any = leaf.core.engine
    loud = engine.snr(leaf.clock(t.to(leaf.time.device)[:-1])) <= CLEAR
    return float(t[int((~loud).sum())])


def prior_kl(process: Process, x_0: State, prior: Distribution | None = None) -> Tensor:
    r""":math:`\mathrm{KL}(q(x_1 \mid x_0) \| \text{prior})`, shape (B,), in nats.

    One draw of it where it has no closed form. Zero, with nothing to compute, for parts whose own
    time at 1 is infinite and whose prior is their limit: :math:`q(x_1 | x_0)` is that limit.
    """
    require(process.timed, "the bound needs a process on a clock: declare .on(clock)")
    if prior is None and isinstance(process, Product):
        each = [prior_kl(part, x_0[name]) for name, part in process.parts.items()]
        return torch.stack([value.to(dtype_of(first_tensor(x_0))) for value in each]).sum(0)
    first, shape = first_tensor(x_0), map_state(lambda v: v.shape, x_0)
    t = torch.ones(first.shape[0], dtype=torch.float64, device=first.device)
    if prior is None and _ends_in_limit(process, shape):
        return torch.zeros(first.shape[0], dtype=dtype_of(first), device=first.device)
    law = process._marginal(x_0, t)
    if prior is None:
        prior = process.prior(shape)
    else:
        require_law(prior, process.state_shape(shape), "prior")
    return divergence(process, law, prior).to(dtype_of(first))


def _ends_in_limit(process: Process, shape: Any) -> bool:
    """Whether the law at the end is the limit, whatever the data."""
    if any(isinstance(m, Mixture) for m in process.modules()):
        return False  # the label of a mixture stays for ever
    if any(_ends(process)):
        return False
    try:
        process._limit(shape)
    except Unsolved:
        return False
    return True


@dataclass(frozen=True)
class OnClock(Weight):
    """One for the leaves with a common time integral, zero for the others."""

    key: Any

    def __call__(self, leaf: Leaf) -> Tensor:
        return torch.full_like(leaf.time, float(clock_key(leaf) == self.key))


def quadrature(
    process: Process, stop: float, nodes: int
) -> Iterator[tuple[OnClock, tuple[Tensor, Tensor]]]:
    """For each clock, the weight that picks its leaves and a rule of n times in its z."""
    for key, clock in natural_clocks(process).items():
        yield OnClock(key), rule(clock, nodes, stop)


def _draw_rate(
    process: Process,
    head: Head,
    x_0: State,
    t: Tensor,
    context: Any,
    control: float = 0.0,
    weight: Weight | None = None,
) -> Tensor:
    exactly = full_precision(x_0)
    with exactly:
        law = process._marginal(x_0, t)
        x_t = laws.draw(law)
    estimate = head(x_t, t, context)
    with exactly:
        value = integrand(process, process.as_estimate(x_0), estimate, x_t, t, weight)
        if control:
            value = value - control * variate(process, x_0, x_t, t, weight).to(value.dtype)
        return with_draw(process, law, x_t, value)


@dataclass(frozen=True)
class Terms:
    r"""The terms of a finite-step bound on :math:`-\log p(x_0)`, each of shape (B,), in nats.

    ``prior`` is DDPM's :math:`L_T`, ``steps`` the sum of its :math:`L_{t-1}`, ``reconstruction``
    its :math:`L_0`.
    """

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor

    @property
    def nats(self) -> Tensor:
        """The bound: the sum of the terms."""
        return self.prior + self.steps + self.reconstruction


def vlb(
    process: Process,
    head: Head,
    x_0: State,
    times: Tensor | None = None,
    stepper: Stepper | None = None,
    *,
    draws: int | None = None,
    prior: Distribution | None = None,
    context: Any = None,
) -> Terms:
    r"""The finite-step bound of a chain, or of a run through given times, by a stepper's laws.

    .. math::
        \mathrm{KL}(q(x_{t_n} | x_0) \| \text{prior})
        + \sum_k \mathbb{E}\, \mathrm{KL}(q(x_{t_{k-1}} | x_{t_k}, x_0) \| p_\theta)
        - \mathbb{E} \log p(x_0 \mid x_{t_1})

    Arguments:
        process: A `Chain`, as ``process.at(times)``; or the process, with ``times``.
        head: A network with a meaning; it is given the times of the process.
        x_0: Data.
        times: Increasing times without 0, ending at 1; those of the chain if it is one.
        stepper: A stepper whose step is a law (`Ancestral` by default).
        draws: Number of steps drawn at random, by batch element, for an unbiased estimate of the
            sum; all n − 1 of them, one network call each, if not given.
        prior: The law at the last time; the chain's own by default.
        context: Handed to the network.

    Returns:
        `Terms` with fields ``prior, steps, reconstruction``; ``nats`` is their sum. One draw of
        each :math:`x_{t_k}` is used; the KL of a step is that of its draw where no closed form
        is known. The last step is the stepper's where it has a density, as where states are
        discrete; else it is the normalised decoder of `elbo`.

    Raises:
        ValueError: If the times do not increase to 1, are missing or are given twice.
        Unsolved: If a law is not known; of a walk, also where its `loss` is.

    Example:
        >>> from discdiff import Replace, clock, heads, one_hot
        >>> chain = Replace(one_hot(2, 3)).on(clock.LogLinear()).at([0.25, 0.5, 1.0])
        >>> head = heads.Posterior(lambda x, t: torch.zeros(*x.shape, 3), absent=2)
        >>> _, x_0 = torch.manual_seed(0), torch.tensor([[0, 1]]).expand(1000, 2)
        >>> vlb(chain, head, x_0).nats.mean().round(decimals=1)  # 2 log 2, whatever the steps
        tensor(1.4000)
    """
    require_process(process)
    require_head(head)
    draws = None if draws is None else require_count(draws, "draws")
    require_stepper(stepper)
    x_0 = process.check_data(x_0, "x_0")
    chain = process if isinstance(process, Chain) else None
    if chain is not None:
        require(times is None, "the times are those of the chain: do not give others")
        process, times = chain.process, chain.times
    require(times is not None, "give times, or the chain process.at(times)")
    assert times is not None
    grid = _increasing(times, first_tensor(x_0), chain is None)
    run = Steps(process, head, x_0, stepper, context)
    if chain is None or float(chain.times[-1]) == 1 and process.timed:
        start = prior_kl(process, x_0, prior)
    else:
        prior = prior or chain.prior(map_state(lambda v: v.shape, x_0))
        start = divergence(process, run.noisy(grid[-1]), prior)
        start = start.to(dtype_of(first_tensor(x_0)))
    steps = torch.zeros_like(start)
    for s, t, count in _chosen(grid, draws):
        steps = steps + count * run.step(s, t)
    return Terms(start, steps, -run.decoded(grid[0]))


def _chosen(grid: list[Tensor], draws: int | None) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Pairs of neighbouring times, and for how many each stands: all, or some drawn at random."""
    count = len(grid) - 1
    if draws is None or count == 0:
        yield from ((s, t, 1.0) for s, t in zip(grid[:-1], grid[1:], strict=True))
        return
    table = torch.stack(grid)
    columns = torch.arange(table.shape[1], device=table.device)
    for _ in range(draws):
        k = torch.randint(count, columns.shape, device=table.device)
        yield table[k, columns], table[k + 1, columns], count / draws


def _increasing(times: Tensor, x: Tensor, whole: bool) -> list[Tensor]:
    """The times of a run, each of shape (B,)."""
    times = torch.as_tensor(times, dtype=torch.float64)
    rising = times.dim() == 1 and bool((times > 0).all()) and bool((times.diff() > 0).all())
    ends = times.numel() > 0 and (not whole or float(times[-1]) == 1)
    require(
        rising and ends,
        f"times must increase, not contain 0 and end at 1; they are {shown(times, 8)}",
    )
    return [t.expand(x.shape[0]).to(x.device) for t in times]
