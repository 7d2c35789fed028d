r"""The loss: the rate at which the reversal given the data departs from the model's.

With :math:`s` the score of :math:`p_t(\cdot \mid x_0)` and :math:`\hat s` what the head makes of
:math:`x_t`, each term of the generator adds

.. math::
    \text{drift: } 0, \qquad
    \text{diffusion: } \tfrac12 \|B^\top (s - \hat s)\|^2, \qquad
    \text{jump: } \sum_y D(r(y) \| \hat r(y)), \quad
    D(r \| \hat r) = r \log (r / \hat r) - r + \hat r,

with the reverse rates :math:`r(y) = r(y \to x)\, p_t(y) / p_t(x)`. Terms add up, a clock
multiplies by its rate, products add over their parts. An engine may know the sum in closed form.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .drawn import full_precision, learns, with_draw
from .estimates import Data, Estimate
from .heads import Head, require_head, require_possible
from .numerics.special import bregman_log, safe_log
from .process import Chain, Leaf, Process, first_tensor, map_state, require_process, require_shape
from .shapes import sum_event
from .solve import Score, Unsolved
from .stepper import Stepper, require_stepper
from .steps import Steps
from .terms import Diffusion, Drift, Jump
from .validation import require, require_kind, shown, values_are_checked
from .weights import NLL, Weight

State = Any


def loss(
    process: Process,
    head: Head,
    x_0: State,
    t: float | Tensor,
    *,
    weight: Weight | None = None,
    context: Any = None,
    x_t: State | None = None,
    stepper: Stepper | None = None,
) -> Tensor:
    r"""The integrand of the path-KL at time t, one draw of :math:`x_t` per batch element.

    Of a `Chain` it is the term of the bound at index k = t, with the head called at the time of
    the process,

    .. math::
        \mathrm{KL}(q(x_{k-1} | x_k, x_0) \| p_\theta(x_{k-1} | x_k)) \quad (k \ge 2), \qquad
        -\log p_\theta(x_0 \mid x_1) \quad (k = 1).

    Arguments:
        process: The process, or a chain.
        head: A network with a meaning.
        x_0: Data, shape (B, *event) or a dict.
        t: Times in the open interval, a number or of shape () or (B,); `times` draws them. Of a
            chain an index in 1 … T, also one per batch element.
        weight: A `weights` object; the likelihood's by default. The terms of a chain have none:
            multiply what is returned.
        context: Handed to the network.
        x_t: The noisy state; drawn from the marginal if not given.
        stepper: For chains, a stepper whose step is a law; `steppers.Ancestral` by default.

    Returns:
        Shape (B,), in nats per unit of clock time, times the weight. Its mean over :math:`x_t`,
        integrated over t, is the path-KL. Of a chain, in nats: summed over k, with the prior's
        KL, its mean is that of `vlb`. Where the process itself is learned on a discrete state and
        :math:`x_t` is drawn here, a score-function term makes the gradient unbiased and leaves
        the value alone; with :math:`x_t` given, the gradient is that at this state.

    Raises:
        ValueError: If data lie outside the support, a shape does not fit, x_t is given where the
            data cannot lead, or an option is given that is not of this kind of process.
        Unsolved: If the head does not determine the score, or the step has no law. Of a walk, also
            if the steps back leave out states that it reaches, so that the bound is infinite, or
            if more than a thousandth of the noise of a step is lost as states are rounded.
    """
    require_process(process)
    require_head(head)
    if isinstance(process, Chain):
        require(weight is None, "the terms of a chain have no weight: multiply what is returned")
        return _term(process, head, x_0, t, stepper, context, x_t)
    require(stepper is None, "a stepper is for the steps of a chain: see process.at(times)")
    weight = weight or NLL()
    require_kind(weight, Weight, "weight must be of dd.weights")
    x_0 = process.check_data(x_0, "x_0")
    require_possible(process, head, x_0)
    t = _check_noisy_time(process, process.check_time(t, x_0, "t"))
    exactly = full_precision(x_0)
    with exactly:
        parts = weighed(process, t, weight)  # what is small comes before what is large
        noisy, target = _noisy(process, x_0, t, x_t)
    estimate = head(noisy, t, context)
    with exactly:
        value = summed(parts, target, estimate, noisy)
        if x_t is not None or not torch.is_grad_enabled() or not learns(process):
            return value
        return with_draw(process, process._marginal(x_0, t), noisy, value)


def _term(
    chain: Chain,
    head: Head,
    x_0: State,
    k: float | Tensor,
    stepper: Stepper | None,
    context: Any,
    x_t: State | None,
) -> Tensor:
    """One draw of the k-th term of a chain's bound, shape (B,)."""
    require_stepper(stepper)
    process, x_0 = chain.process, chain.check_data(x_0, "x_0")
    require_possible(process, head, x_0)
    k = chain.check_time(k, x_0, "t")
    if values_are_checked(k):
        require(bool((k > 0).all()), "the loss of a chain has terms 1 … T: index 0 is the data")
    steps, t = Steps(process, head, x_0, stepper, context), chain.time(k)
    exactly = full_precision(x_0)
    with exactly:
        x_s, x = steps.states(chain, k) if x_t is None else (None, _noisy(process, x_0, t, x_t)[0])
    estimate = steps.said(x, t)
    with exactly:
        value = steps.term(chain, k, x, estimate, x_s)
        return value if x_t is not None else steps.drawn(value, x, t, x_s, chain.time(k - 1))


def _check_noisy_time(process: Process, t: Tensor) -> Tensor:
    """The times, after it was checked that there is noise, and a finite rate, at each."""
    if values_are_checked(t) and t.numel():
        least, most = t.detach().aminmax()
        require(float(least) > 0, "loss needs t > 0: at t = 0 nothing is noisy")
        if float(most) >= 1:
            ends = all(bool(leaf.time.isfinite().all()) for leaf in process.leaves(t))
            require(ends, "loss needs t < 1 on this clock: at t = 1 its rate is infinite")
    return t


def _noisy(process: Process, x_0: State, t: Tensor, x_t: State | None) -> tuple[State, Estimate]:
    """The noisy state, drawn where none is given, and what the data say at it."""
    if x_t is None:
        return process._perturb(x_0, t)
    x_t = process.check_state(x_t, "x_t")
    require_shape(x_t, process.state_shape(map_state(lambda v: v.shape, x_0)), "x_t")
    if values_are_checked(first_tensor(x_t)):
        _require_reachable(process, x_0, t, x_t)
    return x_t, Data(x_0)


def _require_reachable(process: Process, x_0: State, t: Tensor, x_t: State) -> None:
    """Raises ``ValueError`` where the marginal given the data has no mass at x_t."""
    zero = torch.zeros_like(t)
    lost = process._marginal(x_0, t).log_prob(x_t) == -torch.inf
    if not bool(lost.any()):
        return
    where = f" in row {int(lost.nonzero()[0])}"
    for leaf, early in zip(process.leaves(t), process.leaves(zero), strict=True):
        data, noisy = early.get(x_0), leaf.get(x_t)
        law = leaf.core.engine.marginal(data, leaf.time)
        each = getattr(law, "base_dist", law).log_prob(noisy)
        bad = leaf.still(each == -torch.inf, x_t)
        if bool(bad.any()):
            part = f" (part {leaf.name!r})" if leaf.name else ""
            where = f"{part}, where it is {shown(noisy[bad])} and x_0 is {shown(data[bad])}"
            break
    raise ValueError(f"x_t must be a state that x_0 can lead to at its time; it is not{where}")


def integrand(
    process: Process,
    target: Estimate,
    estimate: Estimate,
    x_t: State,
    t: Tensor,
    weight: Weight | None = None,
) -> Tensor:
    """The divergence rate between the reversals that two estimates determine, shape (B,)."""
    return summed(weighed(process, t, weight or NLL()), target, estimate, x_t)


def weighed(process: Process, t: Tensor, weight: Weight) -> list[tuple[Leaf, Tensor]]:
    """The leaves, each with its speed times its weight, shape (B,)."""
    return [(leaf, leaf.speed * weight(leaf)) for leaf in process.leaves(t)]


def summed(
    parts: list[tuple[Leaf, Tensor]], target: Estimate, estimate: Estimate, x_t: State
) -> Tensor:
    """The sum over leaves of their divergence rates times numbers, shape (B,)."""
    total = None
    for leaf, scale in parts:
        rate = kl_rate(leaf, leaf.read(target), leaf.read(estimate), x_t, scale)
        total = rate if total is None else total + rate
    assert total is not None
    return total


def kl_rate(
    leaf: Leaf,
    target: Estimate,
    estimate: Estimate,
    x_t: State,
    scale: Tensor | None = None,
) -> Tensor:
    """The divergence rate of one leaf per unit of its own time, or times numbers, shape (B,)."""
    x, t, engine = leaf.get(x_t), leaf.time, leaf.core.engine
    leaf.core.check_estimate(estimate, x)
    closed = engine.kl_rate(target, estimate, x, t)
    if closed is not None:
        values, factor = closed
        values = sum_event(leaf.still(values, x_t))
        factor = leaf.coefficient if factor is None else factor
        factor = factor if scale is None else factor * scale
        return values * factor.to(values.dtype)
    rate = sum_over_terms(leaf, target, estimate, x_t)
    return rate if scale is None else rate * scale.to(rate.dtype)


def sum_over_terms(leaf: Leaf, target: Estimate, estimate: Estimate, x_t: State) -> Tensor:
    """The divergence rate of one leaf as the sum of its terms' rules, shape (B,)."""
    x, t = leaf.get(x_t), leaf.time
    score, score_hat = leaf.score(target, x), leaf.score(estimate, x)
    rates = [rule(term, score, score_hat, x, t) for term in leaf.core.terms]
    return torch.stack([sum_event(leaf.still(rate, x_t)) for rate in rates]).sum(0)


def rule(term: Any, score: Score, score_hat: Score, x: Tensor, t: Tensor) -> Tensor:
    """What one term adds to the divergence rate, per entry."""
    if isinstance(term, Drift):
        return torch.zeros_like(x)
    if isinstance(term, Diffusion):
        return diffusion_rule(term, score, score_hat, x, t)
    if isinstance(term, Jump):
        return jump_rule(term, score, score_hat, x, t)
    if not term.local:
        raise Unsolved(
            f"the loss of {term!r} would compare rates at a continuum of points: take the loss or "
            "the vlb of the chain process.at(times)"
        )
    raise TypeError(f"{type(term).__name__} is neither a drift, a diffusion nor a jump")


def diffusion_rule(
    term: Diffusion, score: Score, score_hat: Score, x: Tensor, t: Tensor
) -> Tensor:
    r""":math:`\tfrac12 \|B^\top (s - \hat s)\|^2`, per entry."""
    error = term.unmix(score.gradient - score_hat.gradient, x, t)
    return term.scale.to(x.dtype) * error.square() / 2


def jump_rule(term: Jump, score: Score, score_hat: Score, x: Tensor, t: Tensor) -> Tensor:
    r""":math:`\sum_y D(r(y) \| \hat r(y))`, per entry."""
    points, log_rates = jumps_into(term, x, t)
    log_r, log_r_hat = (reverse_log_rates(s, points, log_rates) for s in (score, score_hat))
    return bregman_log(log_r.exp(), log_r_hat).sum(-1)


def jumps_into(term: Jump, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The points that jump to x and the logarithms of their rates, −∞ at x itself."""
    points, rates = term.frozen(t).into(x)
    own = points == x.unsqueeze(-1 - term.event_axes)
    own = own.all(-1) if term.event_axes else own
    rates = torch.where(own, torch.zeros_like(rates), term.scale.to(rates.dtype) * rates)
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return points, safe_log(rates).to(dtype)


def reverse_log_rates(score: Score, points: Tensor, log_rates: Tensor) -> Tensor:
    r""":math:`\log r(y \to x) + \log p_t(y) / p_t(x)`, −∞ where no jump leads."""
    none = log_rates == -torch.inf
    ratio = score.log_ratio(points)
    return torch.where(none, log_rates, log_rates + torch.where(none, 0.0, ratio))
