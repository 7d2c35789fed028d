r"""Distributions that torch and Pyro lack: the answers of the engines.

All are Pyro distributions. An engine builds them entry by entry and calls ``to_event``, so that
the laws a user sees have batch shape (B,) and the rest as the event. Laws are values: built when
asked for, without torch's argument checks, and then forgotten.

KL divergences go through torch's registry where a rule is known there; discrete laws on few
states are enumerated.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro.distributions as pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl
from torch.distributions.transforms import Transform

from .numerics.special import log_binomial_pmf, log_poisson_pmf, log_sum, xlogx_ratio
from .shapes import along, sum_event
from .validation import require_finite

State = Any
LOG_ROOT = math.log(2 * math.pi) / 2


def point(value: Tensor) -> Distribution:
    """The law that is certain of a state of shape (B, *event)."""
    return pyro.Delta(value, validate_args=False).to_event(value.dim() - 1)


def mean_and_variance(law: Any) -> tuple[Tensor, Tensor]:
    """Of a law, or an affine image of one, which does not say its own.

    Example:
        >>> images = [torch.distributions.AffineTransform(3.0, -2.0)]
        >>> law = torch.distributions.Exponential(1.0)
        >>> mean_and_variance(torch.distributions.TransformedDistribution(law, images))
        (tensor(1.), tensor(4.))
    """
    image = type(law) is torch.distributions.TransformedDistribution
    parts: list[Any] = list(law.transforms) if image else []
    if not all(isinstance(part, torch.distributions.AffineTransform) for part in parts):
        return law.mean, law.variance
    mean, variance = mean_and_variance(law.base_dist) if parts else (law.mean, law.variance)
    for part in parts:
        mean, variance = part.loc + part.scale * mean, part.scale**2 * variance
    return mean, variance


class Still(NamedTuple):
    """The atom of a law that has one beside a density: where it is, and its log-probability."""

    at: Tensor
    log_prob: Tensor


class _Law(TorchDistribution):
    """A law without torch's argument checks; samples carry no gradient."""

    arg_constraints: dict[str, constraints.Constraint] = {}
    atoms = False  # whether ``log_prob`` is that of points, though the state is real

    def __init__(self, batch_shape: Size, event_shape: Size = Size()) -> None:
        super().__init__(Size(batch_shape), Size(event_shape), validate_args=False)

    @property
    def support(self) -> Any:
        """Where draws lie, as far as it is simply said."""
        return None

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        # Pyro expands every law inside a plate; a law of that shape already stays what it is, so
        # that rules for its type (KL) apply.
        return self if Size(batch_shape) == self.batch_shape else super().expand(batch_shape)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no reparameterised draws")

    def sample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self._draw(Size(sample_shape))

    @abstractmethod
    def _draw(self, shape: Size) -> Any:
        """Draws of a sample shape, without gradient."""


class _RealLaw(_Law):
    """A law of real numbers, entry by entry."""

    @property
    def support(self) -> Any:
        return constraints.real


class Normal(pyro.Normal):
    """The normal law, which at scale 0 is certain, drawn without a look for negative scales."""

    def log_prob(self, x: Tensor) -> Tensor:
        certain = self.scale == 0
        white = (x - self.loc) / torch.where(certain, 1.0, self.scale)
        value = -white.square() / 2 - self.scale.log() - LOG_ROOT  # −log 0 = ∞ where x is certain
        return torch.where(certain & (white != 0), -torch.inf, value)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Distribution:
        count = self.loc.dim() if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        return Entries(self, count) if count else self

    def sample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            z = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            return z.mul_(self.scale).add_(self.loc)


class Entries(pyro.Independent):
    """Independent entries of one event: one that cannot be outweighs all that are certain."""

    def log_prob(self, value: Tensor) -> Tensor:
        each = self.base_dist.log_prob(value)
        axes = tuple(range(-self.reinterpreted_batch_ndims, 0))
        return torch.where((each == -torch.inf).any(axes), -torch.inf, each.sum(axes))


@register_kl(Normal, Normal)
def _kl_normals(p: Normal, q: Normal) -> Tensor:
    certain = q.scale == 0
    scale = torch.where(certain, 1.0, q.scale)
    share = (p.scale / scale).square()
    value = (share + ((p.loc - q.loc) / scale).square() - 1 - share.log()) / 2
    same = torch.where((p.scale == 0) & (p.loc == q.loc), 0.0, torch.inf)
    return torch.where(certain, same, value)


class Logistic(pyro.Logistic):
    """The logistic law, whose draws are finite: uniform numbers are kept off 0."""

    def rsample(self, sample_shape: Any = Size()) -> Tensor:
        u = torch.rand(
            self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device
        )
        return self.icdf(u.clamp_(min=torch.finfo(u.dtype).eps / 4))


class Joint(_Law):
    """Independent laws side by side, one per name; draws and values are dicts."""

    def __init__(self, parts: Mapping[str, Distribution]) -> None:
        self.parts = dict(parts)
        super().__init__(next(iter(self.parts.values())).batch_shape)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return all(law.has_rsample for law in self.parts.values())

    @property
    def support(self) -> Any:
        return {name: law.support for name, law in self.parts.items()}

    def _draw(self, shape: Size) -> dict[str, State]:
        return {name: law.sample(shape) for name, law in self.parts.items()}

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Any:
        return {name: draw(law, Size(sample_shape)) for name, law in self.parts.items()}

    def log_prob(self, x: State, *args: Any, **kwargs: Any) -> Tensor:
        terms = [law.log_prob(x[name]) for name, law in self.parts.items()]
        return torch.stack(terms).sum(0)


class Selected(_Law):
    """One of several laws per batch element, as a label says."""

    def __init__(self, label: Tensor, choices: list[Distribution]) -> None:
        self.label, self.choices = label, choices
        super().__init__(choices[0].batch_shape, choices[0].event_shape)

    def _choose(self, each: list[Tensor], lead: int) -> Tensor:
        result = each[0]
        for i, value in enumerate(each):
            is_i = (self.label == i).reshape(self.label.shape + (1,) * (value.dim() - lead - 1))
            result = torch.where(is_i, value, result)
        return result

    def _draw(self, shape: Size) -> Tensor:
        return self._choose([law.sample(shape) for law in self.choices], len(shape))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        each = [law.log_prob(x) for law in self.choices]
        return self._choose(each, each[0].dim() - 1)


class Labelled(_Law):
    """A label drawn from weights and a state drawn from the law it names; draws are dicts."""

    def __init__(self, weights: Tensor, choices: list[Distribution]) -> None:
        self.weights, self.choices = weights, choices
        super().__init__(choices[0].batch_shape)

    def _draw(self, shape: Size) -> dict[str, Tensor]:
        law = pyro.Categorical(probs=self.weights, validate_args=False)
        label = law.sample(shape + self.batch_shape)
        each = [law.sample(shape) for law in self.choices]
        state = each[0]
        for i, value in enumerate(each):
            is_i = (label == i).reshape(label.shape + (1,) * (value.dim() - label.dim()))
            state = torch.where(is_i, value, state)
        return {"label": label, "state": state}

    def log_prob(self, x: State, *args: Any, **kwargs: Any) -> Tensor:
        each = torch.stack([law.log_prob(x["state"]) for law in self.choices])
        chosen = each.gather(0, x["label"].unsqueeze(0))[0]
        return chosen + self.weights.log().to(chosen.dtype)[x["label"]]


class Image(_Law):
    r"""The law of :math:`T(y)` for an invertible map, dicts excluded.

    Arguments:
        law: The law of y.
        transform: T.
        discrete: Whether y lies on a lattice: probabilities move with their points, where
            densities are divided by the Jacobian.
    """

    def __init__(self, law: Distribution, transform: Transform, discrete: bool = False) -> None:
        self.law, self.transform, self.discrete = law, transform, discrete
        self._map: Callable[[Tensor], Tensor] = transform  # type: ignore[assignment]
        self._back: Callable[[Tensor], Tensor] = transform.inv  # type: ignore[assignment]
        event = transform.forward_shape(law.batch_shape + law.event_shape)
        super().__init__(law.batch_shape, Size(event[len(law.batch_shape) :]))

    @property
    def support(self) -> Any:
        return self.transform.codomain

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.law.has_rsample

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        return self._map(self.law.rsample(Size(sample_shape)))

    def _draw(self, shape: Size) -> Tensor:
        return self._map(self.law.sample(shape))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self._back(x)
        if self.discrete:
            return self.law.log_prob(y)
        jacobian = self.transform.log_abs_det_jacobian(y, x)
        rest = jacobian.dim() - self.law.log_prob(y).dim()
        if rest > 0:
            jacobian = jacobian.flatten(-rest).sum(-1)
        return self.law.log_prob(y) - jacobian


class Stretched(_RealLaw):
    r"""The law of :math:`\alpha y` with one factor per batch element."""

    def __init__(self, law: Distribution, alpha: Tensor) -> None:
        self.law, self.alpha = law, alpha
        super().__init__(law.batch_shape, law.event_shape)

    def _factor(self, x: Tensor) -> Tensor:
        dims = len(self.event_shape)
        return self.alpha.to(x.dtype).reshape(self.alpha.shape + (1,) * dims)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.law.has_rsample

    @property
    def mean(self) -> Tensor:
        return self.law.mean * self._factor(self.law.mean)

    @property
    def variance(self) -> Tensor:
        return self.law.variance * self._factor(self.law.variance) ** 2

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        y = self.law.rsample(Size(sample_shape))
        return self._factor(y) * y

    def _draw(self, shape: Size) -> Tensor:
        y = self.law.sample(shape)
        return self._factor(y) * y

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        log_prob = self.law.log_prob(x / self._factor(x))
        return log_prob - self.event_shape.numel() * self.alpha.abs().log().to(log_prob.dtype)


class Affine(_RealLaw):
    r"""The law of :math:`m + c\, y`, entry by entry, for factors of either sign.

    Arguments:
        law: The law of y, with entries as batch dimensions.
        loc: m.
        factor: c, not zero.
    """

    def __init__(self, law: Distribution, loc: Tensor, factor: Tensor) -> None:
        self.law, self.loc, self.factor = law, loc, factor
        self.atoms = getattr(getattr(law, "base_dist", law), "atoms", False)
        super().__init__(torch.broadcast_shapes(law.batch_shape, loc.shape, factor.shape))

    @property
    def mean(self) -> Tensor:
        return self.loc + self.factor * self.law.mean

    @property
    def variance(self) -> Tensor:
        return self.factor**2 * self.law.variance

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.law.has_rsample

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        return self.loc + self.factor * self.law.rsample(Size(sample_shape))

    def _draw(self, shape: Size) -> Tensor:
        return self.loc + self.factor * self.law.sample(shape)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        value = self.law.log_prob((x - self.loc) / self.factor)
        return value if self.atoms else value - self.factor.abs().log()

    def cdf(self, x: Tensor) -> Tensor:
        r""":math:`P(m + c y \le x)`."""
        below = self.law.cdf((x - self.loc) / self.factor)
        return torch.where(self.factor > 0, below, 1 - below)


def stretched(law: Distribution, alpha: Tensor) -> Distribution:
    r"""The law of :math:`\alpha y` with one factor per batch element, normal if that of y is.

    Example:
        >>> law = pyro.Normal(torch.ones(1, 2), 1.0).to_event(1)
        >>> stretched(law, torch.tensor([3.0])).variance
        tensor([[9., 9.]])
    """
    base = getattr(law, "base_dist", law)
    own = getattr(base, "stretched", None)
    if own is not None:
        return own(alpha).to_event(len(law.event_shape) - len(base.event_shape))
    if not isinstance(base, torch.distributions.Normal):
        return Stretched(law, alpha)
    factor = along(alpha, base.loc)
    scaled = pyro.Normal(factor * base.loc, factor.abs() * base.scale, validate_args=False)
    return scaled.to_event(len(law.event_shape))


class Clamped(_Law):
    """A law of independent entries of which some are known and stand still."""

    def __init__(self, law: Distribution, values: Tensor, mask: Tensor) -> None:
        shape = law.batch_shape + law.event_shape
        self.law, self.values, self.known = law, values.expand(shape), mask.expand(shape)
        super().__init__(law.batch_shape, law.event_shape)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.law.has_rsample

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        x = self.law.rsample(Size(sample_shape))
        return torch.where(self.known, self.values.to(x.dtype), x)

    def _draw(self, shape: Size) -> Tensor:
        x = self.law.sample(shape)
        return torch.where(self.known, self.values.to(x.dtype), x)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        each = entrywise(self.law).log_prob(x)
        agrees = x == self.values.to(x.dtype)
        known = torch.where(agrees, torch.zeros_like(each), torch.full_like(each, -torch.inf))
        total = torch.where(self.known, known, each)
        dims = len(self.event_shape)
        return total.flatten(-dims).sum(-1) if dims else total


class Either(_RealLaw):
    """One of two laws per entry: the first where a mask says so."""

    def __init__(self, first: Tensor, one: Distribution, other: Distribution) -> None:
        self.first, self.one, self.other = first, one, other
        super().__init__(other.batch_shape)

    @property
    def mean(self) -> Tensor:
        return torch.where(self.first, self.one.mean, self.other.mean)

    @property
    def variance(self) -> Tensor:
        return torch.where(self.first, self.one.variance, self.other.variance)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.where(self.first, self.one.log_prob(x), self.other.log_prob(x))

    def cdf(self, x: Tensor) -> Tensor:
        return torch.where(self.first, self.one.cdf(x), self.other.cdf(x))

    def _draw(self, shape: torch.Size) -> Tensor:
        return torch.where(self.first, self.one.sample(shape), self.other.sample(shape))


class AtomMixture(_Law):
    r"""A mixture over the points of a finite law, joint over all entries.

    Arguments:
        log_weights: Shape (B, N), normalised.
        component: From one index per batch element to the law of that component.
        repeated: From N to the law of batch (B·N,) of all components.
    """

    def __init__(
        self,
        log_weights: Tensor,
        component: Callable[[Tensor], Distribution],
        repeated: Callable[[int], Distribution],
    ) -> None:
        self.log_weights, self.component, self.repeated = log_weights, component, repeated
        shape = component(torch.zeros(log_weights.shape[0], dtype=torch.int64)).event_shape
        super().__init__(log_weights.shape[:1], shape)

    def _draw(self, shape: Size) -> State:
        if shape:
            raise NotImplementedError("draw once per batch element; repeat the batch for more")
        return self.component(draw_categories(self.log_weights)).sample()

    def log_prob(self, x: State, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(x, Tensor) and x.dim() > 1 + len(self.event_shape):
            return torch.stack([self.log_prob(value) for value in x])
        batch, count = self.log_weights.shape
        each = self.repeated(count).log_prob(_repeat(x, count)).reshape(batch, count)
        weights = self.log_weights.to(each.dtype)
        none = weights == -torch.inf  # the law of an atom that cannot lead here is none
        return log_sum(torch.where(none, -torch.inf, each + weights), 1)


class Thinned(_Law):
    r"""Binomial law of the survivors of ``count`` units, each kept with probability p.

    Arguments:
        count: Units, any shape, non-negative.
        log_p: :math:`\log p`, broadcastable; −∞ allowed. In float64 also where counts are not:
            rounded to float32 it moves the log-probability of a million units by 0.04.
        log_q: :math:`\log (1 - p)`, given apart so that neither end loses accuracy.
    """

    def __init__(self, count: Tensor, log_p: Tensor, log_q: Tensor) -> None:
        self.count, self.log_p, self.log_q = torch.broadcast_tensors(count, log_p, log_q)
        super().__init__(self.count.shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        return self.count * self.log_p.exp().to(self.count.dtype)

    @property
    def variance(self) -> Tensor:
        return self.count * (self.log_p + self.log_q).exp().to(self.count.dtype)

    def _draw(self, shape: Size) -> Tensor:
        count = self.count.expand(shape + self.count.shape)
        dtype = torch.promote_types(count.dtype, torch.float32)  # torch draws none in half
        chance = self.log_p.exp().to(dtype).expand(count.shape)
        return torch.binomial(count.to(dtype), chance).to(count.dtype)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return log_binomial_pmf(x, self.count, self.log_p, self.log_q)


class Poisson(pyro.Poisson):
    """Poisson laws whose log-probabilities are found in float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        return log_poisson_pmf(value, self.rate)


class Rounded(_Law):
    r"""Thinning of a stochastically rounded number of units.

    With :math:`N \in \{\lfloor y \rfloor, \lfloor y \rfloor + 1\}` and :math:`\mathbb{E} N = y`,
    the law of Binomial(N, r), which is Binomial(⌊y⌋, r) plus a Bernoulli of mean r times the
    fractional part of y.
    """

    def __init__(self, units: Tensor, log_r: Tensor, log_1mr: Tensor) -> None:
        self.whole = units.floor()
        self.part = (units - self.whole) * log_r.exp()
        self.base = Thinned(self.whole, log_r, log_1mr)
        super().__init__(self.base.batch_shape)

    @property
    def mean(self) -> Tensor:
        return self.base.mean + self.part

    @property
    def variance(self) -> Tensor:
        return self.base.variance + self.part * (1 - self.part)

    def _draw(self, shape: Size) -> Tensor:
        return self.base.sample(shape) + torch.bernoulli(self.part.expand(shape + self.part.shape))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        stays = self.base.log_prob(x) + torch.log1p(-self.part)
        return torch.logaddexp(stays, self.base.log_prob(x - 1) + self.part.log())


class Shifted(_Law):
    """The law of a state plus an integer increment."""

    def __init__(self, law: Distribution, by: Tensor) -> None:
        self.law, self.by = law, by
        super().__init__(law.batch_shape, law.event_shape)

    @property
    def mean(self) -> Tensor:
        return self.law.mean + self.by

    @property
    def variance(self) -> Tensor:
        return self.law.variance

    def _draw(self, shape: Size) -> Tensor:
        return self.law.sample(shape) + self.by

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        increment = x - self.by
        inside = increment >= 0
        log_prob = self.law.log_prob(torch.where(inside, increment, torch.zeros_like(increment)))
        return torch.where(inside, log_prob, torch.full_like(log_prob, -torch.inf))


class Convolution(_Law):
    """The law of the sum of two independent non-negative integers, entry by entry."""

    def __init__(self, first: Distribution, second: Distribution) -> None:
        self.first, self.second = first, second
        super().__init__(torch.broadcast_shapes(first.batch_shape, second.batch_shape))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        return self.first.mean + self.second.mean

    @property
    def variance(self) -> Tensor:
        return self.first.variance + self.second.variance

    def _draw(self, shape: Size) -> Tensor:
        return self.first.sample(shape) + self.second.sample(shape)

    def splits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All values k of the first summand, shape (M, 1, …), and the log-weights of k at x."""
        most = int(x.detach().max()) if x.numel() else 0
        k = torch.arange(most + 1, dtype=x.dtype, device=x.device)
        k = k.reshape((-1,) + (1,) * x.dim())
        rest = x - k
        inside = rest >= 0
        second = self.second.log_prob(torch.where(inside, rest, torch.zeros_like(rest)))
        joint = self.first.log_prob(k.expand(rest.shape)) + second
        return k, torch.where(inside, joint, torch.full_like(joint, -torch.inf))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return log_sum(self.splits(x)[1], 0)


class Table(_Law):
    """A law on the states 0 … K−1, given by log-probabilities on the last axis."""

    def __init__(self, log_probs: Tensor, dtype: torch.dtype) -> None:
        self.log_probs, self.value_dtype = log_probs, dtype
        super().__init__(log_probs.shape[:-1])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.log_probs.shape[-1] - 1)

    @property
    def probs(self) -> Tensor:
        return self.log_probs.exp()

    @property
    def mean(self) -> Tensor:
        return self.probs @ torch.arange(self.probs.shape[-1], dtype=self.probs.dtype)

    @property
    def variance(self) -> Tensor:
        squares = torch.arange(self.probs.shape[-1], dtype=self.probs.dtype) ** 2
        return self.probs @ squares - self.mean**2

    def _draw(self, shape: Size) -> Tensor:
        log_probs = self.log_probs.expand(shape + self.log_probs.shape)
        return draw_categories(log_probs).to(self.value_dtype)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        last = self.log_probs.shape[-1] - 1
        inside = (x >= 0) & (x <= last)
        index = torch.where(inside, x, torch.zeros_like(x)).long()
        table = self.log_probs.expand(index.shape + (last + 1,))
        found = table.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        return torch.where(inside, found, torch.full_like(found, -torch.inf))


class Mixed(_Law):
    """A mixture, entry by entry, over the last batch axis of a law.

    Arguments:
        log_weights: Shape (*batch, K), normalised.
        chosen: From an index per entry, of the batch shape, to the law of that component.
        each: The law of all components, of batch shape (*batch, K).
    """

    def __init__(
        self, log_weights: Tensor, chosen: Callable[[Tensor], Distribution], each: Distribution
    ) -> None:
        self.log_weights, self.chosen, self.each = log_weights, chosen, each
        super().__init__(log_weights.shape[:-1])

    def _draw(self, shape: Size) -> Tensor:
        if shape:
            every = [self._draw(Size()) for _ in range(shape.numel())]
            return torch.stack(every).reshape(shape + self.batch_shape)
        return self.chosen(draw_categories(self.log_weights)).sample()

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        every = x.unsqueeze(-1).expand(*x.shape, self.log_weights.shape[-1])
        return log_sum(self.log_weights + self.each.log_prob(every), -1)


class Formula(_Law):
    """A law given by how to draw from it and by its log-probability, entry by entry."""

    def __init__(
        self, shape: Size, draw: Callable[[], Tensor], log_prob: Callable[[Tensor], Tensor]
    ) -> None:
        self._sampler, self._density = draw, log_prob
        super().__init__(shape)

    def _draw(self, shape: Size) -> Tensor:
        if shape:
            raise NotImplementedError("draw once per batch element; repeat the batch for more")
        return self._sampler()

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._density(x)


class Indexed(_Law):
    """A law on the points of a box, given by log-probabilities of their joint index.

    Arguments:
        log_probs: Shape (*batch, K), K the number of points.
        shape: The sides of the box; states carry the coordinates on their last axis.
        dtype: Of the states.
    """

    def __init__(self, log_probs: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.log_probs, self.box, self.value_dtype = log_probs, shape, dtype
        super().__init__(log_probs.shape[:-1], Size((len(shape),)))

    @property
    def probs(self) -> Tensor:
        return self.log_probs.exp()

    def _moment(self, power: int) -> Tensor:
        """The mean of a power of every coordinate, over all points of the box."""
        sides = [torch.arange(n, device=self.log_probs.device) for n in self.box]
        points = torch.cartesian_prod(*sides).reshape(-1, len(self.box))
        return self.probs @ points.to(self.log_probs.dtype) ** power

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self.mean**2

    def _draw(self, shape: Size) -> Tensor:
        index = draw_categories(self.log_probs.expand(shape + self.log_probs.shape))
        return torch.stack(torch.unravel_index(index, self.box), -1).to(self.value_dtype)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        index, inside = box_index(x, self.box)
        table = self.log_probs.expand(index.shape + self.log_probs.shape[-1:])
        found = table.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        return torch.where(inside, found, torch.full_like(found, -torch.inf))


def box_index(x: Tensor, box: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The joint index of points on the last axis of x, and whether they lie in the box."""
    sides = torch.tensor(box, device=x.device)
    inside = ((x >= 0) & (x < sides)).all(-1)
    index = torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device)
    for d, side in enumerate(box):
        index = index * side + x[..., d].long().clamp(0, side - 1)
    return index, inside


def draw_categories(log_probs: Tensor) -> Tensor:
    """Categories by inverse distribution function in float64, logits on the last axis.

    Gumbel noise in float32 stops at 16.6, and categories of probability below 1e-7 would never
    be drawn. The probabilities themselves keep the precision of the logits: only their sum
    needs more.

    Raises:
        ValueError: If logits make no law.
    """
    dtype = torch.promote_types(log_probs.dtype, torch.float32)
    cdf = log_probs.detach().softmax(-1, dtype=dtype).cumsum(-1, dtype=torch.float64)
    total = cdf[..., -1:]
    require_finite(total, "a law that is drawn from")
    # u ≤ 1 − 2⁻⁵³, so u·total rounds below the total: the index is of a state that has mass
    u = torch.rand_like(total)
    return torch.searchsorted(cdf, u * total, right=True).squeeze(-1)


def draw(law: Distribution, shape: Size = Size()) -> State:
    """A draw that carries gradients where the law, or a part of it, can give them."""
    carries = law.has_rsample or isinstance(law, Joint)
    return law.rsample(shape) if carries else law.sample(shape)


def hidden_log_prob(law: Distribution, x: State) -> Tensor | None:
    """The log-probability of those parts of a `draw` that carry no gradient; None if all do."""
    if not isinstance(law, Joint):
        return None if law.has_rsample else law.log_prob(x)
    each = (hidden_log_prob(part, x[name]) for name, part in law.parts.items())
    found = [log_prob for log_prob in each if log_prob is not None]
    return torch.stack(found).sum(0) if found else None


def entrywise(law: Distribution) -> Distribution:
    """The law with its entries as batch dimensions.

    Raises:
        ValueError: If the entries are not declared independent.
    """
    if not law.event_shape:
        return law
    base = getattr(law, "base_dist", None)
    if base is None or base.batch_shape != law.batch_shape + law.event_shape:
        raise ValueError(f"the entries of {type(law).__name__} are not independent")
    return base


def kl(p: Distribution, q: Distribution) -> Tensor:
    r""":math:`\mathrm{KL}(p \| q)` in nats, shape (B,).

    Rules of torch's registry where there is one; laws on integers are summed point by point until
    the mass of p that is left out is below 1e-12 (or rounding).

    Raises:
        NotImplementedError: If neither applies.
    """
    if isinstance(p, Joint) and isinstance(q, Joint):
        return torch.stack([kl(p.parts[k], q.parts[k]) for k in p.parts]).sum(0)
    if isinstance(p, Joint) and isinstance(q, Labelled):
        return _labelled_kl(p.parts["state"], q)
    if torch.compiler.is_compiling():
        _look_up_normals()
    try:
        return kl_divergence(p, q)
    except NotImplementedError:
        return sum_event(_summed_kl(p, q))


@torch.compiler.assume_constant_result
def _look_up_normals() -> None:
    """Has torch find and keep its rule for normal laws, which no graph can choose."""
    law = Normal(torch.zeros(1), torch.ones(1), validate_args=False).to_event(1)
    kl_divergence(law, law)


def _summed_kl(p: Distribution, q: Distribution) -> Tensor:
    """The divergence of two laws on integers, entry by entry."""
    if isinstance(p, Joint) or isinstance(q, Joint):
        raise NotImplementedError("laws of several parts are summed part by part only")
    try:
        p, q = entrywise(p), entrywise(q)
    except ValueError as error:
        raise NotImplementedError(str(error)) from error
    like = p.sample()
    if isinstance(p, Indexed) or p.event_shape or not getattr(p.support, "is_discrete", True):
        raise NotImplementedError(f"no KL of {type(p).__name__} from {type(q).__name__}")
    size, bound = 16, getattr(p.support, "upper_bound", None)
    while True:
        k = torch.arange(size, dtype=like.dtype, device=like.device)
        k = k.reshape((-1,) + (1,) * like.dim()).expand(size, *like.shape)
        inside = size if bound is None else min(size, int(bound) + 1)
        log_p = p.log_prob(k[:inside]).movedim(0, -1)
        left = float((1 - log_p.detach().exp().sum(-1)).max())
        if left < max(1e-12, 1e3 * torch.finfo(log_p.dtype).eps) or inside < size:
            return _kl_of_logs(log_p, q.log_prob(k[:inside]).movedim(0, -1))
        if size > 1 << 20:
            raise NotImplementedError(f"{type(p).__name__} has mass {left:.1e} beyond {size}")
        size *= 4


def _labelled_kl(p: Distribution, q: Labelled) -> Tensor:
    """The divergence of a law whose label is certain: that of the label, and of its state."""
    if not isinstance(p, Selected):
        raise NotImplementedError("the label of the first law must be certain")
    each = torch.stack([kl(a, b) for a, b in zip(p.choices, q.choices, strict=True)])
    chosen = each.gather(0, p.label.unsqueeze(0))[0]
    return chosen - q.weights.log().to(chosen.dtype)[p.label]


@register_kl(Clamped, Clamped)
def _kl_clamped(p: Clamped, q: Clamped) -> Tensor:
    """Known entries stand still in both; the others are independent."""
    if not torch.equal(p.known, q.known):
        raise NotImplementedError("no KL of laws with different known entries")
    try:
        each = kl_divergence(entrywise(p.law), entrywise(q.law))
    except (NotImplementedError, ValueError):
        each = _summed_kl(p.law, q.law)
    same = torch.where(p.values == q.values, 0.0, torch.inf).to(each.dtype)
    total = torch.where(p.known, same, each)
    dims = len(p.event_shape)
    return total.flatten(-dims).sum(-1) if dims else total


@register_kl(Image, Image)
def _kl_images(p: Image, q: Image) -> Tensor:
    """One invertible map of both laws changes nothing."""
    if p.transform != q.transform:
        raise NotImplementedError("no KL of the images under different maps")
    return kl(p.law, q.law)


@register_kl(Stretched, Stretched)
def _kl_stretched(p: Stretched, q: Stretched) -> Tensor:
    if p.alpha is not q.alpha and not torch.equal(p.alpha, q.alpha):
        raise NotImplementedError("no KL of laws stretched by different factors")
    return kl(p.law, q.law)


@register_kl(Table, Table)
def _kl_tables(p: Table, q: Table) -> Tensor:
    if p.log_probs.shape[-1] != q.log_probs.shape[-1]:
        raise NotImplementedError("tables of different size are summed point by point")
    return _kl_of_logs(p.log_probs, q.log_probs)


@register_kl(Indexed, Indexed)
def _kl_indexed(p: Indexed, q: Indexed) -> Tensor:
    if p.box != q.box:
        raise NotImplementedError(f"no KL of laws on the boxes {p.box} and {q.box}")
    return _kl_of_logs(p.log_probs, q.log_probs)


def _kl_of_logs(log_p: Tensor, log_q: Tensor) -> Tensor:
    return xlogx_ratio(log_p, log_q).sum(-1)


def _repeat(x: State, count: int) -> State:
    if isinstance(x, Mapping):
        return {k: _repeat(v, count) for k, v in x.items()}
    return x.repeat_interleave(count, 0)
