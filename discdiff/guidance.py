r"""Guidance: heads around heads, that speak of another law than the one that was learned.

Each wrapper says which law it targets. Most tilt a law by a power, and a power of a sum is not the
sum of powers: the noisy laws :math:`p_t(x)\, p_t(y \mid x)^\gamma`, to which ratios and scores
belong, are those of noised data from :math:`p_0(x)\, p_0(y \mid x)^\gamma` only for
:math:`\gamma \in \{0, 1\}` (and at t = 0).

Entries that are known are clamped by ``process.given`` or by ``known=`` of `dd.sample`; what is
known through a matrix and noise, :math:`y = A x_0 + \sigma \eta`, guides by `discdiff.inverse`.

References:
    | Classifier-Free Diffusion Guidance (Ho and Salimans, 2022)
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021)
    | Unlocking Guidance for Discrete State-Space Diffusion and Flow Models (Nisonoff et al., 2025)
    | Simple Guidance Mechanisms for Discrete Diffusion Models (Schiff et al., 2025)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .engines.counts import PureDeath
from .estimates import (
    Conditional,
    Epsilon,
    Estimate,
    Logits,
    Mean,
    Missing,
    Parts,
    Posterior,
    Ratio,
    Score,
    Turnover,
    Velocity,
)
from .heads import Head, require_head
from .process import Process, require_process
from .solve import Unsolved
from .validation import require, require_kind

State = Any
LogProb = Callable[..., Tensor]


def _finite(value: Any, name: str) -> float:
    """The value as a float; raises unless it is one finite number."""
    one = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
    require(
        one and math.isfinite(float(value)), f"{name} must be a finite number; it is {value!r}"
    )
    return float(value)


class Guided(Head):
    """A head around a head.

    Arguments:
        head: The head that is guided, or another wrapper.
    """

    def __init__(self, head: Head) -> None:
        require_head(head)
        super().__init__(None)
        self.head = head
        self.kind = head.kind  # type: ignore[misc]
        self.absent = head.absent
        if hasattr(head, "parts"):
            self.parts = head.parts

    def unsolved(self, estimate: Estimate) -> Unsolved:
        """What is raised where an estimate cannot be guided this way."""
        name, kind = type(self).__name__, type(estimate).__name__
        return Unsolved(f"{name} is not known for {kind}: see its docstring for what it guides")


class ClassifierFree(Guided):
    r"""A head with a context against the same head without it, at a power :math:`\gamma`.

    With :math:`p(\cdot \mid c)` what the head says with the context c, and :math:`p` without,

    .. math:: p_\gamma \propto p(\cdot \mid c)^\gamma\, p^{1 - \gamma} .

    * ``Ratio``, ``Conditional``, ``Missing``, ``Score``: these are linear in, or determine,
      :math:`\log p_t` and its differences, so that what comes out belongs exactly to
      :math:`p_t(x \mid c)^\gamma\, p_t(x)^{1 - \gamma}` at each time t.
    * ``Epsilon``, ``Velocity``, ``Mean``: under normal noise they are linear in the score, and
      exact as above. Of other noise, as walks have it, the means of the data themselves are moved
      by :math:`\gamma`, which no noisy law stands behind but at :math:`\gamma \in \{0, 1\}`.
    * ``Turnover``: made a ratio by the process, to the same effect; ratios cannot leave
      :math:`\Lambda = \infty`.
    * ``Posterior``, ``LeaveOneOut``: the law of :math:`x_0^d` is tilted, site by site. For one
      site this is exactly the posterior of data from
      :math:`p_0(x \mid c)^\gamma\, p_0(x)^{1 - \gamma}`; for more the normalisation of each site
      by itself is an approximation.

    Arguments:
        head: The head.
        scale: :math:`\gamma`: 1 is the conditional model, 0 the unconditional one, more than 1
            guides. Where guidance is written
            :math:`\hat\varepsilon(x, c) + s\, (\hat\varepsilon(x, c) - \hat\varepsilon(x))`, with
            0 the conditional model, this is :math:`\gamma = 1 + s`.
        null: The context that stands for none; by default none is handed to the network.
        unconditional: Another head to be asked without context, instead of the same.
        process: The process, for ``Turnover``.

    Raises:
        Unsolved: For estimates that are no law (``Turnover`` without the process, the exact head).

    Example:
        >>> from discdiff import heads
        >>> net = lambda x, t, c=None: x if c is None else x + c
        >>> ClassifierFree(heads.Epsilon(net), 3.0)(torch.zeros(1), torch.ones(1), 2.0).value
        tensor([6.])
    """

    def __init__(
        self,
        head: Head,
        scale: float,
        null: Any = None,
        unconditional: Head | None = None,
        process: Process | None = None,
    ) -> None:
        super().__init__(head)
        other = head if unconditional is None else unconditional
        require_head(other)
        require(
            other.kind is head.kind,
            f"both heads must say the same: {head.kind.__name__} and {other.kind.__name__}",
        )
        if process is not None:
            require_process(process)
        self.scale, self.null, self.unconditional = _finite(scale, "scale"), null, other
        self.process = process
        if process is not None and head.kind is Turnover and self.scale not in (0, 1):
            self.kind = Ratio  # type: ignore[misc]

    def forward(self, x: State, t: Tensor, context: Any = None) -> Estimate:
        if self.scale == 1:
            return self.head(x, t, context)
        without = self.unconditional(x, t, self.null)
        if self.scale == 0:
            return without
        given = self.head(x, t, context)
        if self.process is not None and isinstance(given, Turnover):
            given, without = (self.process.convert(e, x, t, Ratio) for e in (given, without))
        return self._mixed(given, without)

    def _mixed(self, given: Estimate, without: Estimate) -> Estimate:
        if isinstance(given, Parts) and isinstance(without, Parts):
            each = {k: self._mixed(v, without.parts[k]) for k, v in given.parts.items()}
            return Parts(each)
        if isinstance(given, Logits) and isinstance(without, Logits):
            mixed = _between(given.log_probs, without.log_probs, self.scale)
            return type(given)(mixed, given.absent)
        if not isinstance(given, Ratio | Missing | Score | Epsilon | Velocity | Mean):
            raise self.unsolved(given)
        (name,) = (field.name for field in fields(given))
        mixed = _between(getattr(given, name), getattr(without, name), self.scale)
        return replace(given, **{name: mixed})


def _between(a: Tensor, b: Tensor, scale: float) -> Tensor:
    r""":math:`\gamma a + (1 - \gamma) b`; −∞ where one of them is."""
    none = (a == -torch.inf) | (b == -torch.inf)
    a, b = (v.masked_fill(none, 0.0) for v in (a, b))
    return (b + scale * (a - b)).masked_fill(none, -torch.inf)


class Changes(ABC):
    r"""How a classifier's :math:`\log p(c \mid y) - \log p(c \mid x)` is found, one entry of y
    being another than that of x.

    An entry of categories (integers) may become any of K states, one of counts (floating) one
    unit more or one less, in this order. A count of 0 has none less: its difference is 0.
    """

    @abstractmethod
    def __call__(self, log_prob: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
        """The differences for all entries and the first ``size`` changes, (*x.shape, size)."""


class EveryChange(Changes):
    """The classifier is asked for each state with one entry changed, D·K of them: exact.

    All are one batch of B·D·K states, each with its own time and context; K = 2 on counts, 1 where
    units only die.

    Example:
        >>> EveryChange()(lambda x: -x.sum(-1).double(), torch.tensor([[0, 1]]), 2)
        tensor([[[ 0., -1.],
                 [ 1.,  0.]]], dtype=torch.float64)
        >>> EveryChange()(lambda x: -x.square().sum(-1), torch.tensor([[0.0, 2.0]]), 2)
        tensor([[[-1.,  0.],
                 [-5.,  3.]]])
    """

    def __call__(self, log_prob: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
        flat = x.reshape(len(x), -1)
        batch, count = flat.shape
        entry = torch.arange(count, device=x.device).reshape(1, -1, 1, 1)
        own = entry == entry.reshape(1, 1, 1, -1)
        states = _goals(flat, size).unsqueeze(-1)
        changed = torch.where(own, states, flat.reshape(batch, 1, 1, -1))
        every = changed.reshape(batch, count * size, *x.shape[1:])
        value = log_prob(every.flatten(0, 1)).reshape(*x.shape, size)
        if x.is_floating_point():
            return value - log_prob(x).reshape(-1, *(1,) * x.dim())
        return value - value.gather(-1, x.unsqueeze(-1))


def _goals(x: Tensor, size: int) -> Tensor:
    """What each entry may become, shape (B, D, size): one unit more or less, or any state."""
    if x.is_floating_point():
        return torch.stack([x + 1, (x - 1).clamp(min=0)], -1)[..., :size]
    return torch.arange(size, device=x.device).expand(*x.shape, size)


class FirstOrder(Changes):
    r"""One backward pass: the differences to first order in a one-hot code of the state.

    .. math:: \log p(c \mid y) - \log p(c \mid x) \approx \nabla_{d, y^d} - \nabla_{d, x^d}

    The classifier is handed the code, float of shape (B, *event, K), in place of the state.
    Where :math:`\log p` is linear in the code of each entry this is exact. Counts are handed over
    as they are, and :math:`\pm \partial_d \log p` is taken for a unit more or less: exact where
    :math:`\log p` is linear in each count.

    Example:
        >>> weigh = lambda code: (code * torch.tensor([0.0, 2.0])).sum((-1, -2))
        >>> FirstOrder()(weigh, torch.tensor([[0, 1]]), 2)
        tensor([[[ 0.,  2.],
                 [-2.,  0.]]])
    """

    def __call__(self, log_prob: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
        if x.is_floating_point():
            return self._of_counts(log_prob, x)[..., :size]
        with torch.enable_grad():
            code = one_hot(x, size).to(torch.get_default_dtype()).requires_grad_(True)
            (slope,) = torch.autograd.grad(log_prob(code).sum(), code)
        return slope - slope.gather(-1, x.unsqueeze(-1))

    def _of_counts(self, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(log_prob(at).sum(), at)
        return torch.stack([slope, torch.where(x > 0, -slope, 0.0)], -1)


class Classifier(Guided):
    r"""A head guided by a classifier of noisy states, at a power :math:`\gamma`.

    .. math:: p_{t, \gamma}(x) \propto p_t(x)\, p_t(c \mid x)^\gamma

    * ``Ratio``, ``Conditional``: the law of one entry given the others is tilted by
      :math:`[p_t(c \mid y) / p_t(c \mid x)]^\gamma`: exactly what belongs to
      :math:`p_{t, \gamma}`. With :math:`\gamma = 1` and the true classifier this is the model of
      the data given c.
    * ``Score``: :math:`\gamma \nabla \log p_t(c \mid x)` is added, to the same effect. A run of
      a `Walk` of other than normal increments reads a score to first order in its steps, and tends
      to the law as they shrink; noise that jumps (`LevyWalk`, `MarginalWalk`) reads none. There
      ``Exact`` of the data weighted by :math:`p(c \mid x_0)` draws exactly.
    * ``Posterior`` of a masked process: a masked site is tilted as it is filled. For
      :math:`\gamma = 1` and the true classifier the sum of the tilted law is one already, so
      that this is exact; for other powers it keeps the times of unmasking.
    * all heads of pure death are made ``Missing``: units that are missing are a ratio to one unit
      more, times what the time alone says, so that they are tilted by that unit, exactly, from
      :math:`\Lambda = \infty` on.
    * all others are first made a ratio, or a score, by the process: exact as above, but ratios
      cannot leave :math:`\Lambda = \infty`.

    What has no chance without guidance has none with it.

    Arguments:
        head: The head.
        log_prob: :math:`\log p_t(c \mid x)`, a function of (x, t), or (x, t, context) where a
            context is given, of shape (B,). On real states it is differentiated. On counts it is
            asked for one unit more than there are, and one less.
        scale: :math:`\gamma`.
        process: The process, for heads that say neither ratios nor scores.
        changes: How differences of the classifier are found on discrete states: `EveryChange`,
            exact, or `FirstOrder`, by one backward pass.

    Raises:
        ValueError: If the process is needed and not given.

    Example:
        >>> from discdiff import heads
        >>> score = heads.Score(lambda x, t: -x)
        >>> guided = Classifier(score, lambda x, t: 2 * x.sum(-1), 0.5)
        >>> guided(torch.zeros(1, 3), torch.ones(1)).value
        tensor([[1., 1., 1.]])
    """

    def __init__(
        self,
        head: Head,
        log_prob: LogProb,
        scale: float = 1.0,
        process: Process | None = None,
        changes: Changes | None = None,
    ) -> None:
        super().__init__(head)
        require(callable(log_prob), f"log_prob must be a function of (x, t); it is {log_prob!r}")
        changes = EveryChange() if changes is None else changes
        require_kind(changes, Changes, "changes must be EveryChange() or FirstOrder()")
        if process is not None:
            require_process(process)
        self.log_prob, self.scale = log_prob, _finite(scale, "scale")
        self.process, self.changes = process, changes
        if head.kind in (Ratio, Conditional, Score):
            return
        require(
            process is not None,
            f"guiding {head.kind.__name__} needs the process, which makes it a ratio or a score",
        )
        leaves = list(process.leaves(process.instant(0.5)))  # type: ignore[union-attr]
        require(len(leaves) == 1, "a classifier guides one sum of terms, not a product")
        core = leaves[0].core
        masked = getattr(core.engine, "target", None) is not None and head.kind is Posterior
        if isinstance(core.engine, PureDeath):
            self.kind = Missing  # type: ignore[misc]
        elif not masked:
            self.kind = Ratio if core.support.is_discrete else Score  # type: ignore[misc]

    def forward(self, x: State, t: Tensor, context: Any = None) -> Estimate:
        estimate = self.head(x, t, context)
        if not isinstance(estimate, self.kind):
            assert self.process is not None
            estimate = self.process.convert(estimate, x, t, self.kind)
        if isinstance(estimate, Score):
            return Score(estimate.value + self.scale * self._slope(x, t, context))
        if isinstance(estimate, Missing):
            more = self._tilted(estimate.log_value.unsqueeze(-1), x, t, context)
            return Missing(more.squeeze(-1))
        if isinstance(estimate, Ratio):
            return Ratio(self._tilted(estimate.log_ratio, x, t, context))
        assert isinstance(estimate, Logits)
        tilted = self._tilted(estimate.log_probs, x, t, context)
        return type(estimate)(tilted, estimate.absent)

    def _asked(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
        """The classifier at several states per batch element, with their times and contexts."""
        many = x.shape[0] // t.shape[0]
        repeat = lambda v: v.repeat_interleave(many, 0) if isinstance(v, Tensor) else v
        given = () if context is None else (repeat(context),)
        value = self.log_prob(x, repeat(t), *given)
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        require(
            shape == (len(x),),
            f"log_prob must return one number per state, shape ({len(x)},); it returned {shape}",
        )
        return value

    def _tilted(self, table: Tensor, x: Tensor, t: Tensor, context: Any) -> Tensor:
        """Logarithms for every change, (*x.shape, size), tilted; −∞ stays."""
        if self.scale == 0:
            return table  # also where the classifier says −∞
        asked = lambda y: self._asked(y, t, context)
        tilt = self.scale * self.changes(asked, x, table.shape[-1])
        return (table + tilt.to(table)).masked_fill(table == -torch.inf, -torch.inf)

    def _slope(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self._asked(at, t, context).sum(), at)
        return slope


class AtMost(Guided):
    r"""The missing units of pure death, cut where data would exceed a maximum.

    .. math:: \mathbb{E}[x_0 - x_t \mid x_t] \le K - x_t

    This holds for all data up to K, so that what is exact is not changed. What was learned need
    not know it: where guidance multiplies ratios that should be 0 and are not, counts run away
    from the data. With the cut no draw exceeds K, as no more units return than are missing.

    Arguments:
        head: The head, or a wrapper such as `ClassifierFree`: guide first, then cut.
        maximum: K, the largest count of data.
        process: The process: pure death.

    Raises:
        ValueError: If K is negative.
        Unsolved: If the process is not pure death.

    Example:
        >>> from discdiff import Death, heads
        >>> head = heads.Missing(lambda x, t: torch.full_like(x, 1e6))
        >>> t = torch.full((1,), 50.0)  # all units have died
        >>> AtMost(head, 16, Death())(torch.tensor([[0.0, 15.0, 16.0]]), t).log_value.exp()
        tensor([[16.,  1.,  0.]])
    """

    def __init__(self, head: Head, maximum: int, process: Process) -> None:
        super().__init__(head)
        require(maximum >= 0, f"maximum must be ≥ 0; it is {maximum}")
        leaves = list(process.leaves(process.instant(0.5)))
        if len(leaves) != 1 or not isinstance(leaves[0].core.engine, PureDeath):
            raise Unsolved(f"AtMost cuts what is missing of pure death, not of {process!r}")
        self.maximum, self.process = maximum, process
        self.kind = Missing  # type: ignore[misc]

    def forward(self, x: Tensor, t: Tensor, context: Any = None) -> Missing:
        estimate = self.process._convert(self.head(x, t, context), x, t, Missing)
        leaf = next(iter(self.process.leaves(t)))
        room = self.maximum - x
        log_q = leaf.core.engine.log_q(leaf.time, x)  # type: ignore[attr-defined]
        most = (room.clamp(min=1).log() - log_q).masked_fill(room <= 0, -torch.inf)
        return Missing(torch.minimum(estimate.log_value, most))


class Temperature(Guided):
    r"""What a head says, at a temperature :math:`\tau`: the law to the power :math:`1 / \tau`.

    * ``Posterior``, ``LeaveOneOut``: the law of each :math:`x_0^d` is sharpened by itself; for
      one site the posterior is that of data from :math:`p_0^{1/\tau}`, under noise whose
      likelihood is sharpened as well.
    * ``Conditional``, ``Ratio``, ``Score``, ``Epsilon``: exactly what belongs to
      :math:`p_t^{1 / \tau}` at each time t.

    Arguments:
        head: The head.
        temperature: :math:`\tau > 0`; below 1 sharpens, towards the likeliest state alone.

    Raises:
        ValueError: If the temperature is not positive, or infinite.
        Unsolved: For other estimates.

    Example:
        >>> from discdiff import heads
        >>> head = heads.Posterior(lambda x, t: torch.tensor([[0.0, 1.0]]))
        >>> Temperature(head, 0.5)(torch.tensor([0]), torch.ones(1)).log_probs.exp()
        tensor([[0.1192, 0.8808]])
    """

    def __init__(self, head: Head, temperature: float) -> None:
        super().__init__(head)
        self.temperature = _finite(temperature, "temperature")
        require(self.temperature > 0, f"temperature must be > 0; it is {temperature}")

    def forward(self, x: State, t: Tensor, context: Any = None) -> Estimate:
        return self._cooled(self.head(x, t, context))

    def _cooled(self, estimate: Estimate) -> Estimate:
        if isinstance(estimate, Parts):
            return Parts({k: self._cooled(v) for k, v in estimate.parts.items()})
        if isinstance(estimate, Logits):  # the likeliest state is at 0, however low τ is
            logits = estimate.masked_logits
            below = logits - logits.amax(-1, keepdim=True)
            least = torch.finfo(logits.dtype).tiny  # at which any two logits are apart
            return type(estimate)(below / max(self.temperature, least), estimate.absent)
        if not isinstance(estimate, Ratio | Score | Epsilon):
            raise self.unsolved(estimate)
        return estimate.map(lambda v: v / self.temperature)


class TopP(Guided):
    r"""The fewest states of each site that hold a mass of p, the others dropped.

    For ``Posterior``, ``LeaveOneOut`` and ``Conditional``: the law of each site, cut and
    normalised by itself. It is a heuristic: no noised data have these laws.

    Arguments:
        head: The head.
        mass: p in (0, 1]; 1 drops nothing.

    Raises:
        ValueError: If p lies outside (0, 1].
        Unsolved: For estimates that are no law on states.

    Example:
        >>> from discdiff import heads
        >>> head = heads.Posterior(lambda x, t: torch.tensor([[0.5, 0.3, 0.2]]).log())
        >>> TopP(head, 0.7)(torch.tensor([0]), torch.ones(1)).log_probs.exp()
        tensor([[0.6250, 0.3750, 0.0000]])
    """

    def __init__(self, head: Head, mass: float) -> None:
        super().__init__(head)
        self.mass = _finite(mass, "mass")
        require(0 < self.mass <= 1, f"mass must lie in (0, 1]; it is {mass}")

    def forward(self, x: State, t: Tensor, context: Any = None) -> Estimate:
        return self._cut(self.head(x, t, context))

    def _cut(self, estimate: Estimate) -> Estimate:
        if isinstance(estimate, Parts):
            return Parts({k: self._cut(v) for k, v in estimate.parts.items()})
        if not isinstance(estimate, Logits):
            raise self.unsolved(estimate)
        if self.mass == 1:
            return estimate
        log_probs, order = estimate.log_probs.sort(dim=-1, descending=True, stable=True)
        above = log_probs.exp().cumsum(-1) - log_probs.exp()  # the mass of what is likelier
        kept = torch.empty_like(above, dtype=torch.bool).scatter(-1, order, above < self.mass)
        return type(estimate)(estimate.log_probs.masked_fill(~kept, -torch.inf), estimate.absent)
