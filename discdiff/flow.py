r"""The probability flow of a diffusion, and the likelihood that it gives.

With :math:`v` the drift and :math:`G = B B^\top`, the flow along

.. math::
    f(x, t) = v - \tfrac12 G\, \nabla \log p_t - \tfrac12 \nabla \cdot G

has the marginals of the diffusion, and so

.. math::
    \log p(x_0) = \log p_1(x_1) + \int_0^1 \nabla \cdot f(x_t, t)\, dt .

Under a lift, data are only a part of the state. With :math:`y` the state at a small time *s*, of
law :math:`q(\cdot \mid x_0)`, and the normalised decoder of `elbo`,

.. math::
    \log p(x_0) \ge \mathbb{E}_{y \sim q}\big[ \log p_s(y) + \log p(x_0 \mid y)
        - \log q(y \mid x_0) \big],

in which only the first term needs the flow. The bound is tight where the model's law of y given
the data is q.

References:
    | Score-based generative modeling through stochastic differential equations (Song et al., 2021)
    | FFJORD: Free-form continuous dynamics for scalable reversible generative models (Grathwohl et
      al., 2019)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torchdiffeq import odeint, odeint_adjoint

from . import laws
from .heads import Head, require_head
from .numerics.autodiff import divergence, quadratic_forms, signs
from .process import Generator, Lifted, Process, Pushed, Timed, require_process
from .reverse import drift_of
from .shapes import along
from .solve import Unsolved
from .steps import log_jacobian
from .validation import require

State = Any


@dataclass(frozen=True)
class Followed:
    r"""What following the probability flow gives.

    Arguments:
        log_prob: The log-likelihood in nats, shape (B,); under a lift an estimate of a bound.
        error: Its standard error that is due to the probes, shape (B,): 0 for the exact trace,
            infinite for one probe.
        end: The state at time 1.
    """

    log_prob: Tensor
    error: Tensor
    end: Tensor


def log_prob(
    process: Process,
    head: Head,
    x_0: State,
    *,
    prior: Distribution | None = None,
    context: Any = None,
    stop: float = 1e-5,
    probes: int = 0,
    adjoint: bool = False,
    rtol: float = 1e-7,
    atol: float = 1e-7,
) -> Tensor:
    r"""The log-likelihood of the probability flow of a continuous process, in nats.

    Under a lift it is an unbiased estimate, from one draw of the auxiliaries, of a lower bound.
    The density of data *and* auxiliaries is that of the process before the lift, with
    `heads.Score` or any head that was meant for it.

    Arguments:
        process: A process on real vectors, on a clock with a finite end; lifted or pushed, too.
        head: A network with a meaning.
        x_0: Data, shape (B, *event).
        prior: The law at time 1 of the model; the process's own by default.
        context: Handed to the network.
        stop: Before this time the score is taken to be that at this time: at 0 it may be
            infinite. Under a lift, the time s at which the decoder takes over.
        probes: Number of Hutchinson probes for the divergence, the same along the path: unbiased,
            with the standard error that `probability_flow` returns. 0: the exact trace, one
            backward pass per entry of the event.
        adjoint: Whether gradients, with respect to x_0 and to parameters of head, process and
            context, come from the adjoint equation, solved backwards: memory does not grow with
            the number of steps. A network that hides its parameters from ``head.parameters()``
            gets no gradient this way.
        rtol: Relative tolerance of the solver.
        atol: Absolute tolerance of the solver.

    Returns:
        Shape (B,), in the state's dtype.

    Raises:
        ValueError: If stop does not lie in (0, 1), or the clock has no finite end.
        Unsolved: If the state is not continuous, or the process is scaled or clamped.

    Example:
        >>> from discdiff import Linear, Noise, clock, heads
        >>> vp = (Linear(-0.5) + Noise(1.0)).on(clock.Linear(0.1, 20.0))
        >>> normal = heads.Score(lambda x, t: -x)  # data from N(0, 1) stay there
        >>> log_prob(vp, normal, torch.zeros(1, 2))
        tensor([-1.8379])
    """
    options = {"stop": stop, "probes": probes, "adjoint": adjoint, "rtol": rtol, "atol": atol}
    found = probability_flow(process, head, x_0, prior=prior, context=context, **options)
    return found.log_prob


def probability_flow(
    process: Process,
    head: Head,
    x_0: State,
    *,
    prior: Distribution | None = None,
    context: Any = None,
    stop: float = 1e-5,
    probes: int = 0,
    adjoint: bool = False,
    rtol: float = 1e-7,
    atol: float = 1e-7,
) -> Followed:
    r"""The likelihood of `log_prob` with its standard error, and where the flow ends.

    The arguments are those of `log_prob`.

    Example:
        >>> from discdiff import Linear, Noise, clock, heads
        >>> vp = (Linear(-0.5) + Noise(1.0)).on(clock.Linear(0.1, 20.0))
        >>> normal = heads.Score(lambda x, t: -x)
        >>> probability_flow(vp, normal, torch.zeros(1, 2), probes=4).error
        tensor([0.])
    """
    require_head(head)
    require_process(process)
    x_0 = process.check_data(x_0, "x_0")
    _require_flow(process, x_0)
    require(0 < stop < 1, f"stop must lie in (0, 1); it is {stop}")
    require(probes >= 0, f"probes must be ≥ 0; it is {probes}")
    t = torch.full((x_0.shape[0],), stop, dtype=torch.float64, device=x_0.device)
    lifted = isinstance(process, Lifted)
    x = laws.draw(process._marginal(x_0, t)) if lifted else x_0
    (leaf,) = process.leaves(t)
    y = leaf.get(x)
    flow = _Flow(process, head, context, x, stop, signs(y, probes) if probes else None)
    start = (y, y.new_zeros(max(probes, 1), y.shape[0]))
    span = torch.tensor([stop if lifted else 0.0, 1.0], dtype=torch.float64, device=y.device)
    y, traces = _solved(flow, start, span, adjoint, {"rtol": rtol, "atol": atol})
    end = leaf.put(x, y)
    value = (prior or process.prior(x_0.shape)).log_prob(end) + traces.mean(0)
    if lifted:
        estimate = leaf.read(head(x, t, context))
        decoder = leaf.core.engine.decode(estimate, x, leaf.time)
        value = value + decoder.log_prob(x_0) - process._marginal(x_0, t).log_prob(x)
    change = log_jacobian(process, x_0) - log_jacobian(process, end)
    return Followed((value + change).to(x_0.dtype), _standard_error(traces, probes), end)


def _require_flow(process: Process, x_0: State) -> None:
    """Raises unless the process has a probability flow that is known here."""
    if not isinstance(x_0, Tensor):
        raise Unsolved("the probability flow of a product is that of its parts: ask for each")
    inner = process
    while isinstance(inner, Pushed):
        inner = inner.process
    if not isinstance(inner, Timed | Generator | Lifted):
        raise Unsolved("the probability flow is known for sums of terms on a clock: ask those")
    (leaf,) = process.leaves(process.instant(1.0))
    if leaf.core.support.is_discrete:
        raise Unsolved("a discrete state has no probability flow: use elbo")
    require(process.timed, "log_prob needs a process on a clock: declare .on(clock)")
    require(
        bool(leaf.time.isfinite().all()),
        f"the flow needs a clock with a finite end, such as clock.Constant; it is {leaf.clock!r}",
    )


class _Flow(nn.Module):
    """The velocity of the probability flow and its divergence, forward in time.

    Arguments:
        process: The process.
        head: A network with a meaning.
        context: Handed to the network.
        x: A state of the process: its own part is replaced along the flow.
        stop: Earlier times count as this one.
        probes: Hutchinson probes; None: the exact trace.
    """

    def __init__(
        self,
        process: Process,
        head: Head,
        context: Any,
        x: Tensor,
        stop: float,
        probes: Tensor | None,
    ) -> None:
        super().__init__()
        self.process, self.head, self.context = process, head, context
        self.x, self.stop, self.probes = x, stop, probes

    def velocity(self, y: Tensor, t: Tensor) -> Tensor:
        """The velocity at a state of the one sum of terms and a time ()."""
        time = t.to(torch.float64).clamp(min=self.stop).expand(y.shape[0])
        (leaf,) = self.process.leaves(time)
        estimate = leaf.read(self.head(leaf.put(self.x, y), time, self.context))
        backward = drift_of(leaf, estimate, y, noise=0.0)
        assert backward is not None
        return -backward * along(leaf.speed, y)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, _ = state
        field = lambda y: self.velocity(y, t)
        if self.probes is None:
            return field(y), divergence(field, y).unsqueeze(0)
        return field(y), quadratic_forms(field, y, self.probes)

    def given(self) -> Iterator[Tensor]:
        """What gradients of the flow lead to, but for the state."""
        yield from self.parameters()
        if isinstance(self.context, Tensor):
            yield self.context


def _solved(
    flow: _Flow,
    start: tuple[Tensor, Tensor],
    span: Tensor,
    adjoint: bool,
    tolerance: dict[str, float],
) -> tuple[Tensor, Tensor]:
    """The state and the integrals of the divergence at time 1."""
    # No trial step may lead beyond the ends of the clock, nor across the kink at stop.
    ends = {"step_t": torch.tensor([0.0, flow.stop, 1.0], dtype=torch.float64, device=span.device)}
    options: dict[str, Any] = {"method": "dopri5", "options": ends, **tolerance}
    if adjoint:
        given = tuple(v for v in flow.given() if v.requires_grad)
        y, traces = odeint_adjoint(flow, start, span, adjoint_params=given, **options)
    else:
        y, traces = odeint(flow, start, span, **options)
    return y[-1], traces[-1]


def _standard_error(traces: Tensor, probes: int) -> Tensor:
    """The standard error of the mean over probes (n, B), shape (B,)."""
    if probes < 2:
        return torch.full_like(traces[0], torch.inf if probes else 0.0)
    return traces.std(0) / math.sqrt(probes)
