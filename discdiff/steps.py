r"""The steps of a run: the process's own against the model's, term by term of the bound.

At times :math:`0 = t_0 < t_1 < \dots < t_n` the k-th term is

.. math::
    L_{k-1} = \mathbb{E}\, \mathrm{KL}(q(x_{t_{k-1}} | x_{t_k}, x_0) \|
        p_\theta(x_{t_{k-1}} | x_{t_k})) \quad (k \ge 2), \qquad
    L_0 = -\mathbb{E} \log p_\theta(x_0 \mid x_{t_1}).

Where states are discrete the second is the first at k = 1: there the process's own step leads to
:math:`x_0` for certain. Where a part is continuous that step has no density; the model's last step
is then the stepper's own if it leaves noise, and a normalised decoder if it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from . import laws
from .drawn import full_precision, learns, with_draw
from .estimates import Estimate
from .heads import Head
from .process import Chain, Process, Pushed, batch_size, first_tensor, map_state
from .shapes import sum_event
from .stepper import Stepper

State = Any


@dataclass(frozen=True)
class Steps:
    """The steps of a run, from data.

    Arguments:
        process: The process.
        head: A network with a meaning.
        x_0: Data.
        stepper: A stepper whose step is a law; by default the bridge, averaged over what the head
            says of the data.
        context: Handed to the network.
    """

    process: Process
    head: Head
    x_0: State
    stepper: Stepper | None = None
    context: Any = None

    def noisy(self, t: Tensor) -> Distribution:
        """The law of the state at t."""
        return self.process._marginal(self.x_0, t)

    def said(self, x: State, t: Tensor) -> Estimate:
        """What the head says at a state."""
        return self.head(x, t, self.context)

    def model(self, estimate: Estimate, x: State, t: Tensor, s: Tensor) -> Distribution:
        """The model's law of the state at s given that at t.

        Raises:
            Unsolved: If it is known to leave out states, so that the bound is infinite.
        """
        verb, options = ("bridge", ()) if self.stepper is None else self.stepper.asks()
        for leaf in self.process.leaves(t):
            leaf.core.engine.require_covering(leaf.read(estimate), verb, options)
        if self.stepper is None:
            return self.process._bridge(estimate, x, s, t)
        return self.stepper.law(self.process, estimate, x, t, s)

    def pair(self, s: Tensor, t: Tensor) -> tuple[State | None, State]:
        """States at s and t; that at s only where it is cheaper drawn before the other."""
        if not any(leaf.core.engine.draws_forward for leaf in self.process.leaves(t)):
            return None, laws.draw(self.noisy(t))
        x_s = laws.draw(self.noisy(s))
        return x_s, laws.draw(self.process._transition(x_s, s, t))

    def states(self, chain: Chain, k: Tensor) -> tuple[State | None, State]:
        """A `pair` at indices k − 1 and k ≥ 1 of a chain.

        At k = 1, where a decoder ends the chain, the first is that of index 1, as is the second.
        """
        if len(chain.times) == 1 or not has_density(self.process):
            return self.pair(chain.time(k - 1), chain.time(k))
        late = k.clamp(min=2)
        x_s, x = self.pair(chain.time(late - 1), chain.time(late))
        if x_s is None:
            return None, laws.draw(self.noisy(chain.time(k)))
        first = lambda a, b: torch.where((k == 1).reshape(-1, *(1,) * (a.dim() - 1)), a, b)
        return x_s, map_state(first, x_s, x)

    def kl(
        self, estimate: Estimate, x: State, t: Tensor, s: Tensor, x_s: State | None = None
    ) -> Tensor:
        """The divergence of the step from t to s, one draw where it has no closed form, (B,)."""
        require_resolved(self.process, s, t, x)
        model = self.model(estimate, x, t, s)
        exact = self.process._bridge(self.process.as_estimate(self.x_0), x, s, t)
        if x_s is not None:
            return exact.log_prob(x_s) - model.log_prob(x_s)
        return divergence(self.process, exact, model)

    def step(self, s: Tensor, t: Tensor) -> Tensor:
        """One draw of the divergence of the step from t to s, shape (B,)."""
        x_s, x = self.pair(s, t)
        value = self.kl(self.said(x, t), x, t, s, x_s)
        return self.drawn(value, x, t, x_s, s)

    def drawn(self, value: Tensor, x: State, t: Tensor, x_s: State | None, s: Tensor) -> Tensor:
        """The value with the gradient of the law of a `pair`."""
        if not learns(self.process):
            return value
        if x_s is None:
            return with_draw(self.process, self.noisy(t), x, value)
        value = with_draw(self.process, self.process._transition(x_s, s, t), x, value)
        return with_draw(self.process, self.noisy(s), x_s, value)

    def decoded(self, t: Tensor) -> Tensor:
        """One draw of the log-likelihood of the data in the last step, from t, shape (B,)."""
        process, x_0 = self.process, self.x_0
        if has_density(process):
            noisy = self.noisy(t)
            x = laws.draw(noisy)
            log_p = with_draw(process, noisy, x, self.log_last(self.said(x, t), x, t))
            return log_p + log_jacobian(process, x_0).to(log_p.dtype)
        noisy = self.noisy(t)
        x = laws.draw(noisy)
        last = self.model(self.said(x, t), x, t, torch.zeros_like(t))
        return with_draw(process, noisy, x, last.log_prob(x_0))

    def log_last(self, estimate: Estimate, x: State, t: Tensor) -> Tensor:
        """The log-density of the data after the last step: the stepper's own, or a decoder's."""
        if self.stepper is not None and self.stepper.ends_in_noise:
            return self.model(estimate, x, t, torch.zeros_like(t)).log_prob(self.x_0)
        return decoded(self.process, estimate, self.x_0, x, t)

    def term(
        self, chain: Chain, k: Tensor, x: State, estimate: Estimate, x_s: State | None = None
    ) -> Tensor:
        """The terms of the bound at indices k ≥ 1 of a chain, (B,), of a state and an estimate.

        No row is looked at to choose a branch: where a decoder ends the chain, both are computed,
        the other one at a neighbouring index.
        """
        if not has_density(self.process):
            return self.kl(estimate, x, chain.time(k), chain.time(k - 1))
        x_0, first = self.x_0, chain.times[:1].expand(k.shape)
        last = -self.log_last(estimate, x, first)
        last = last - log_jacobian(self.process, x_0).to(last.dtype)
        if len(chain.times) == 1:
            return last
        late = k.clamp(min=2)
        kl = self.kl(estimate, x, chain.time(late), chain.time(late - 1), x_s)
        return torch.where(k == 1, last.to(kl.dtype), kl)


def divergence(process: Process, p: Distribution, q: Distribution) -> Tensor:
    """The divergence of q from p, (B,); one draw of it where it has no closed form."""
    try:
        return laws.kl(p, q)
    except NotImplementedError:
        x = laws.draw(p)
        return with_draw(process, p, x, p.log_prob(x) - q.log_prob(x))


def require_resolved(process: Process, s: Tensor, t: Tensor, x: State) -> None:
    """Raises `Unsolved` where states like x are rounded by more than the noise from s to t."""
    for early, late in zip(process.leaves(s), process.leaves(t), strict=True):
        late.core.engine.require_resolved(early.time, late.time, dtype_of(late.get(x)))


def has_density(process: Process) -> bool:
    """Whether a part of the state is continuous, so that a last step to 0 would be a point."""
    leaves = process.leaves(process.instant(1.0))
    return any(not leaf.core.support.is_discrete for leaf in leaves)


def reconstruction(
    process: Process, head: Head, x_0: State, stop: float, context: Any = None
) -> Tensor:
    r"""One draw of :math:`\log p(x_0 \mid x_{stop})` under the normalised decoders."""
    first = first_tensor(x_0)
    t = torch.full((first.shape[0],), stop, dtype=torch.float64, device=first.device)
    exactly = full_precision(x_0)
    with exactly:
        noisy = process._marginal(x_0, t)
        x_t = laws.draw(noisy)
    estimate = head(x_t, t, context)
    with exactly:
        total = decoded(process, estimate, x_0, x_t, t)
        return with_draw(process, noisy, x_t, total)


def decoded(process: Process, estimate: Estimate, x_0: State, x_t: State, t: Tensor) -> Tensor:
    """The log-probability of the data under the decoders, shape (B,)."""
    first = first_tensor(x_0)
    total = torch.zeros(first.shape[0], dtype=dtype_of(first), device=first.device)
    for leaf, early in zip(process.leaves(t), process.leaves(torch.zeros_like(t)), strict=True):
        x, data = leaf.get(x_t), early.get(x_0)
        law = leaf.core.engine.decode(leaf.read(estimate), x, leaf.time)
        if leaf.moving:
            values = leaf.still(laws.entrywise(law).log_prob(data), x_t)
            total = total + sum_event(values)
        else:
            total = total + law.log_prob(data)
    return total


def log_jacobian(process: Process, x: State) -> Tensor:
    """The logarithm of the Jacobian of the pushes in a process, shape (B,)."""
    first = first_tensor(x)
    zero = torch.zeros(batch_size(x), dtype=dtype_of(first), device=first.device)
    if isinstance(process, Pushed):
        y = process.transform.inv(x)
        if process.discrete:  # probabilities of points move with them
            return log_jacobian(process.process, y)
        ladj = process.transform.log_abs_det_jacobian(y, x)
        return log_jacobian(process.process, y) - ladj.reshape(ladj.shape[0], -1).sum(1)
    inner = getattr(process, "process", None)
    if inner is not None:
        return log_jacobian(inner, x)
    parts = getattr(process, "parts", None)
    if parts is not None:
        return sum((log_jacobian(p, x[k]) for k, p in parts.items()), zero)
    return zero


def dtype_of(x: Tensor) -> torch.dtype:
    """The dtype of numbers (B,) about states: theirs, or the default for categories."""
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()
