r"""The time reversal of a process, with a head in place of the unknown score.

Per unit of *reverse* time, each term of the generator becomes

.. math::
    \text{drift: } -v, \qquad
    \text{diffusion: noise } B \text{ and drift }
        B B^\top \nabla \log p_t + \nabla \cdot (B B^\top), \qquad
    \text{jump: rates } r(y \to x)\, p_t(y) / p_t(x) \text{ from } x \text{ to } y.

The divergence :math:`\nabla \cdot (B B^\top)` is zero where B does not depend on the state.

References:
    | Reverse-time diffusion equation models (Anderson, 1982)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .heads import Head, require_head
from .loss import jumps_into, reverse_log_rates
from .numerics.autodiff import divergence, gradient
from .process import Leaf, Process, by_name, require_process
from .shapes import along
from .solve import Score, Unsolved
from .terms import Diffusion, Drift, Jump, WhiteNoise, spread
from .validation import require, values_are_checked

State = Any


def reverse(process: Process, head: Head, context: Any = None) -> Reverse:
    """The reversal of a process as an object with ``drift``, ``noise`` and ``rates``.

    Arguments:
        process: The process.
        head: A network with a meaning, or `Exact`.
        context: Handed to the network.
    """
    return Reverse(process, head, context)


class Reverse:
    """The reversal of a process; all rates are per unit of reverse (clock) time."""

    def __init__(self, process: Process, head: Head, context: Any = None) -> None:
        require_process(process)
        require_head(head)
        process.require_own_coordinates("reverse")
        self.process, self.head, self.context = process, head, context

    def _seen(self, x: State, t: float | Tensor) -> tuple[State, Any, list[Leaf]]:
        x = self.process.check_state(x, "x")
        t = self.process.check_time(t, x, "t")
        for leaf in self.process.leaves(t):
            require_local(leaf)
        if values_are_checked(t):
            require(bool((t > 0).all()), "the reversal needs t > 0: at t = 0 nothing is noisy")
        return x, self.head(x, t, self.context), list(self.process.leaves(t))

    def _collect(self, x: State, t: float | Tensor, read: Any) -> Any:
        x, estimate, leaves = self._seen(x, t)
        values = [read(leaf, leaf.read(estimate), leaf.get(x)) for leaf in leaves]
        pairs = [pair for pair in zip(leaves, values, strict=True) if pair[1] is not None]
        return by_name([leaf for leaf, _ in pairs], [value for _, value in pairs])

    def drift(self, x: State, t: float | Tensor) -> Any:
        """The reverse drift, of the state's shape; a dict of the continuous parts of a product."""
        return self._collect(x, t, lambda leaf, e, y: _speed(leaf, y, drift_of(leaf, e, y)))

    def noise(self, x: State, t: float | Tensor) -> Any:
        """The noise coefficient of the (diagonal) diffusion, of the state's shape."""
        return self._collect(x, t, lambda leaf, e, y: noise_of(leaf, y))

    def rates(self, x: State, t: float | Tensor) -> Any:
        """Points and the rates of jumping there, each (B, *event, M); a dict for a product."""
        return self._collect(x, t, rates_of)


def drift_of(leaf: Leaf, estimate: Any, x: Tensor, noise: float = 1.0) -> Tensor | None:
    """The reverse drift of a leaf per unit of own time, for a share of the reverse noise.

    With ``noise`` = 0 it is the drift of the probability flow.
    """
    if not any(isinstance(term, Drift | Diffusion) for term in leaf.core.terms):
        return None
    require_local(leaf)
    score = leaf.score(estimate, x)
    share = (1 + noise**2) / 2
    drifts = [drift_rule(term, score, share, x, leaf.time) for term in leaf.core.terms]
    return torch.stack([d for d in drifts if d is not None]).sum(0)


def require_local(leaf: Leaf) -> None:
    """Raises `Unsolved` where a term jumps to a continuum of points."""
    for term in leaf.core.terms:
        if not term.local:
            raise Unsolved(
                f"the reversal of {term!r} jumps to a continuum of points, at rates that the "
                "score does not determine: step by steppers.Ancestral, whose bridges are exact, "
                "or of stable noise by steppers.Renewed, from the mean of the data"
            )


def drift_rule(term: Any, score: Score, share: float, x: Tensor, t: Tensor) -> Tensor | None:
    """What one term adds to the reverse drift; None for a jump."""
    if isinstance(term, Drift):
        return -term.scale.to(x.dtype) * term.velocity(x, t)
    if isinstance(term, Diffusion):
        moved = spread(term, score.gradient, x, t) + bend(term, x, t)
        return share * term.scale.to(x.dtype) * moved
    return None


def bend(term: Diffusion, x: Tensor, t: Tensor) -> Tensor | float:
    r"""The divergence :math:`(\nabla \cdot B B^\top)_i = \sum_j \partial_j (B B^\top)_{ij}`.

    It is the gradient, in a vector v, of :math:`\nabla \cdot (B B^\top v)`, which is linear in v:
    one backward pass per entry of the event.
    """
    if isinstance(term, WhiteNoise):
        return 0.0
    of = lambda v: divergence(lambda y: spread(term, v, y, t), x)
    return gradient(of, torch.zeros_like(x))


def noise_of(leaf: Leaf, x: Tensor) -> Tensor | None:
    """The noise coefficient of a leaf's diagonal diffusion, per unit of clock time."""
    diffusions = [term for term in leaf.core.terms if isinstance(term, Diffusion)]
    if not diffusions:
        return None
    if any(getattr(term, "B", torch.zeros(())).dim() == 2 for term in diffusions):
        raise Unsolved("a matrix diffusion has no noise coefficient per entry")
    squares = [
        term.scale.to(x.dtype) * term.mix(torch.ones_like(x), x, leaf.time).square()
        for term in diffusions
    ]
    return (torch.stack(squares).sum(0) * along(leaf.speed, x)).sqrt()


def rates_of(leaf: Leaf, estimate: Any, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The points and reverse rates of a leaf's jumps, per unit of clock time."""
    if not any(isinstance(term, Jump) for term in leaf.core.terms):
        return None
    points, rates = own_rates(leaf, estimate, x)
    return points, rates * along(leaf.speed, rates)


def own_rates(leaf: Leaf, estimate: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The points and reverse rates of a leaf's jumps, per unit of its own time."""
    jumps = [term for term in leaf.core.terms if isinstance(term, Jump)]
    score = leaf.score(estimate, x)
    found = [jumps_into(term, x, leaf.time) for term in jumps]
    axis = -1 - jumps[0].event_axes
    points = torch.cat([points for points, _ in found], axis)
    rates = torch.cat([reverse_log_rates(score, *pair) for pair in found], -1).exp()
    return points, rates


def _speed(leaf: Leaf, x: Tensor, drift: Tensor | None) -> Tensor | None:
    return None if drift is None else drift * along(leaf.speed, x)
