r"""Heads: what the output of a network means.

A head wraps a network ``net(x, t)`` or ``net(x, t, context)`` and returns a typed estimate of the
data :math:`x_0` given the noisy state :math:`x_t`. It sees neither process nor data; t has shape
(B,). `Exact` is the head of a finite data law: its estimate is the posterior over the atoms, from
which every other estimate follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from . import estimates
from .estimates import Atoms, Estimate, Parts
from .laws import entrywise
from .numerics.special import log_softplus
from .process import Chain, Process, batch_size, first_tensor, map_state, require_process
from .shapes import along
from .validation import require, require_kind, require_numbers, shown, values_are_checked

State = Any

Kind: TypeAlias = "Head | type[Head] | partial[Head]"  # of a part of a table


class Head(nn.Module):
    """A network with a meaning.

    Arguments:
        net: A module (or function) of a state, a time (B,) and, if given, a context.
    """

    kind: ClassVar[type[Estimate]]
    of_reals: ClassVar[bool] = False
    absent: tuple[int, ...] = ()

    def __init__(self, net: Callable[..., Any] | None = None) -> None:
        super().__init__()
        callable_ = callable(net) and not isinstance(net, type | Head)
        require(
            net is None or callable_,
            f"net must be a network or a function of (x, t); it is {net!r}",
        )
        self.net = net
        self._takes = [n for n in (2, 3) if net is None or _takes(net, n)]
        require(
            bool(self._takes),
            f"net must take (x, t) or (x, t, context), as nets of dd.nn do; {net!r} does not",
        )

    def forward(self, x: State, t: Tensor, context: Any = None) -> Estimate:
        net = self.net
        if net is None:
            raise ValueError(f"{type(self).__name__} was given no network")
        if (2 if context is None else 3) not in self._takes:
            given = "without a context" if context is None else "with a context"
            raise ValueError(f"the network of {type(self).__name__} cannot be called {given}")
        output = net(x, t) if context is None else net(x, t, context)
        same = type(output) is type(x) is Tensor and output.dtype is x.dtype
        return self.read(output if same else _raised(output, first_tensor(x)), x)

    def read(self, output: Any, x: State) -> Estimate:
        """The network's output as an estimate."""
        raise NotImplementedError


def _takes(net: Callable[..., Any], count: int) -> bool:
    """Whether a network can be called with so many arguments, as far as its signature tells."""
    try:
        call = signature(net.forward if isinstance(net, nn.Module) else net)
    except (TypeError, ValueError):
        return True
    try:
        call.bind(*range(count))
    except TypeError:
        return False
    return True


def _raised(output: Any, x: Tensor) -> Any:
    """What a network says, at least in float32 unless the state itself is of lower precision."""
    if isinstance(output, Tensor):
        if output.itemsize >= 4 or (x.is_floating_point() and x.itemsize < 4):
            return output
        return output.float() if output.is_floating_point() else output
    if isinstance(output, Mapping):
        return {k: _raised(v, x) for k, v in output.items()}
    return output


def require_head(head: Head) -> None:
    """Raises unless this is a head: a network alone does not say what its output means.

    Raises:
        ValueError: If it is anything else.
    """
    require_kind(head, Head, "head must be a head around a network, such as heads.Epsilon(net)")


def leaf_heads(process: Process, head: Head) -> list[tuple[Any, Any]]:
    """Each leaf with the part of the head that speaks of it."""
    pairs = []
    for leaf in process.leaves(process.instant(0.5)):
        part: Any = head
        for name in leaf.path:
            part = getattr(part, "parts", {}).get(name, part)
        pairs.append((leaf, part))
    return pairs


def require_possible(process: Process, head: Head, x_0: State) -> None:
    """Raises if data are in a state that the head says data cannot take: their bound is −∞.

    Raises:
        ValueError: Naming the states.
    """
    if not values_are_checked(first_tensor(x_0)) or not _excludes(head):
        return
    for leaf, part in leaf_heads(process, head):
        data, absent = leaf.get(x_0), getattr(part, "absent", ())
        if not any(bool((data == state).any()) for state in absent):
            continue
        found = torch.isin(data, torch.tensor(absent).to(data))
        bad = leaf.still(found.double(), x_0) > 0
        where = f" of {leaf.name!r}" if leaf.name else ""
        require(
            not bool(bad.any()),
            f"x_0{where} contains {shown(data[bad])}, which the head says data cannot take: "
            f"absent={tuple(absent)}",
        )


def _excludes(head: Any) -> bool:
    parts = getattr(head, "parts", {})
    return bool(getattr(head, "absent", ())) or any(map(_excludes, parts.values()))


class _Like(Head):
    """A head whose output has the state's shape."""

    of_reals = True

    def read(self, output: Tensor, x: Tensor) -> Estimate:
        # In a run nothing but the shape is looked at, and nothing costs less than that.
        plain = type(output) is type(x) is Tensor and output.shape == x.shape
        if not (plain and output.is_floating_point()) or torch.is_grad_enabled():
            output = _shaped(output, x, type(self))
        return self.kind(output)  # type: ignore[call-arg]


class Mean(Head):
    r"""The network predicts :math:`\mathbb{E}[x_0 \mid x_t]`, of the data's shape."""

    kind = estimates.Mean
    of_reals = True

    def read(self, output: Tensor, x: Tensor) -> Estimate:
        both = isinstance(x, Tensor) and isinstance(output, Tensor)
        of_data = both and tuple(output.shape) == tuple(x.shape[:-1])
        return estimates.Mean(_numbers(output, Mean) if of_data else _shaped(output, x, Mean))


class Epsilon(_Like):
    r"""The network predicts :math:`\mathbb{E}[\varepsilon \mid x_t]`, the noise."""

    kind = estimates.Epsilon


class Velocity(_Like):
    r"""The network predicts :math:`\mathbb{E}[\alpha \varepsilon - \sigma x_0 \mid x_t]`."""

    kind = estimates.Velocity


class Score(_Like):
    r"""The network predicts :math:`\nabla \log p_t(x_t)`."""

    kind = estimates.Score


class Normal(Head):
    r"""A head for the mean of the data, and a variance: :math:`\mathcal{N}(\hat x_0, w)`.

    The bridge averaged over this law is normal with the mean of the plug-in and the variance

    .. math:: \sigma_{s|t}^2 + c^2\, w,

    where :math:`\sigma_{s|t}^2` is the bridge's own and c its factor of :math:`x_0`. So w chooses
    the variance of the reverse steps:

    * w = 0 gives the bridge's, which is right where the data are one point;
    * the variance of the noise, :math:`w = 1 - e^{-\Lambda}` for variance-preserving processes,
      gives that of the forward step, DDPM's :math:`\beta_t`, which is right where the data are
      :math:`\mathcal{N}(0, 1)`;
    * :math:`w = \mathbb{E} \operatorname{Var}(x_0 \mid x_t)` is the best number per time, and
      :math:`\operatorname{Var}(x_0 \mid x_t)` the best function of the state. For normal data
      every step is then exact.

    The loss in continuous time does not see w: learn it by `vlb`.

    Arguments:
        head: A head that determines :math:`\hat x_0`, such as ``Epsilon(net)``.
        variance: A module or function of (x, t), or of (x, t, context) where there is one; numbers
            :math:`w \ge 0` of shape (B,) or of the state's.

    Raises:
        ValueError: If the head does not speak of real numbers, or w is negative or of another
            shape.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | Analytic-DPM: an Analytic Estimate of the Optimal Reverse Variance in Diffusion
          Probabilistic Models (Bao et al., 2022)

    Example:
        >>> from discdiff import Linear, Noise, clock
        >>> vp = (Linear(-0.5) + Noise(1.0)).on(clock.Constant(1.0)).at([0.5, 1.0])
        >>> head = Normal(Mean(lambda x, t: x), lambda x, t: -torch.expm1(-t))
        >>> x = torch.zeros(1, 1)
        >>> vp.bridge(head(x, torch.ones(1)), x, 1, 2).variance  # 1 - e^{-1/2}, the forward step's
        tensor([[0.3935]])
    """

    kind = estimates.Normal
    of_reals = True

    def __init__(self, head: Head, variance: Callable[..., Tensor]) -> None:
        super().__init__(variance)
        require_head(head)
        spoken = (estimates.Mean, estimates.Epsilon, estimates.Velocity, estimates.Score)
        known = issubclass(head.kind, spoken)
        require(known, f"{type(head).__name__} says no mean of real numbers")
        self.head = head

    def forward(self, x: State, t: Tensor, context: Any = None) -> Estimate:
        assert self.net is not None
        told = context is not None and 3 in self._takes
        variance = self.net(x, t, context) if told else self.net(x, t)
        return estimates.Normal(self.head(x, t, context), _spread(variance, x))

    def read(self, output: Any, x: State) -> Estimate:
        raise ValueError(
            "Normal asks a head and a function of its own: it is no part of a Product"
        )


class Missing(Head):
    r"""Units that died: :math:`\mathbb{E}[x_0 - x_t \mid x_t] = (1 - e^{-\Lambda})
    \operatorname{softplus}(\mathrm{net})`, the factor keeps the bound finite."""

    kind = estimates.Missing

    def read(self, output: Tensor, x: Tensor) -> Estimate:
        return estimates.Missing(log_softplus(_shaped(output, x, type(self))))


class Turnover(Head):
    r"""Expected units lost and gained, on a last axis of size 2.

    .. math:: (1 - e^{-\Lambda}) \operatorname{softplus}(\mathrm{net})
    """

    kind = estimates.Turnover

    def read(self, output: Tensor, x: Tensor) -> Estimate:
        return estimates.Turnover(log_softplus(_shaped(output, x, type(self), 2)))


class _Categorical(Head):
    """A head whose output holds logits on the last axis.

    Arguments:
        net: The network.
        absent: States that data cannot take (the mask): one index or several. They get −∞.
    """

    def __init__(
        self, net: Callable[..., Any] | None = None, absent: int | tuple[int, ...] = ()
    ) -> None:
        super().__init__(net)
        every = (absent,) if isinstance(absent, int) else absent
        listed = isinstance(every, tuple | list) and all(isinstance(a, int) for a in every)
        require(listed, f"absent must be one index or a tuple of them; it is {absent!r}")
        self.absent = tuple(every)
        self._ends = min(every, default=0), max(every, default=0), len(set(every))

    def read(self, output: Tensor, x: Tensor) -> Estimate:
        output = _numbers(output, type(self))
        size = output.shape[-1]
        if self.absent and not (self._ends[0] >= 0 and self._ends[1] < size > self._ends[2]):
            raise ValueError(self._misfit(size))
        return self.kind(output, self.absent)  # type: ignore[call-arg]

    def _misfit(self, size: int) -> str:
        """What is wrong with the absent states where there are so many states."""
        bad = [a for a in self.absent if not 0 <= a < size]
        outside = f"absent states {bad} lie outside [0, {size - 1}]"
        return outside if bad else f"all {size} states are absent: {self.absent}"


class Posterior(_Categorical):
    r"""Logits of :math:`\mu(a) = q(x_0^d = a \mid x_t)`, shape (B, *event, K).

    On chains that know P but not by one replacement law, what it says is divided by P(a, x_t) in
    float64, and restricted to states a whose chance is a normal number there, 2.2e-308 or more.
    `LeaveOneOut` divides by no chance.
    """

    kind = estimates.Posterior


class LeaveOneOut(_Categorical):
    r"""Logits of :math:`\pi(a) = q(x_0^d = a \mid x_t^{\setminus d})`, shape (B, *event, K)."""

    kind = estimates.LeaveOneOut


class Conditional(_Categorical):
    r"""Logits of :math:`p_t(x^d = y \mid x_t^{\setminus d})`, shape (B, *event, K)."""

    kind = estimates.Conditional


class Ratio(Head):
    r"""Log-ratios :math:`\log p_t(y) / p_t(x_t)`: (B, *event, K) on finite spaces, (B, *event, 2)
    on counts (one unit more, one unit less)."""

    kind = estimates.Ratio

    def read(self, output: Tensor, x: Tensor) -> Estimate:
        return estimates.Ratio(_numbers(output, Ratio, False))


class Product(Head):
    """One network for a table: ``net(dict, t)`` returns a dict, each part with its own meaning.

    Arguments:
        net: The network.
        parts: A dict of head types (or partials of them, or heads without a network, such as
            ``Posterior(absent=3)``), for names that are no Python identifiers.
        **named: The same by keyword.
    """

    kind = Parts

    def __init__(
        self,
        net: Callable[..., Any] | None = None,
        parts: Mapping[str, Kind] | None = None,
        /,
        **named: Kind,
    ) -> None:
        super().__init__(net)
        both = {**(parts or {}), **named}
        for name, head in both.items():
            made = head.func if isinstance(head, partial) else head
            right = isinstance(head, Head) or (isinstance(made, type) and issubclass(made, Head))
            require(right, f"the head of {name!r} must be of dd.heads; it is {head!r}")
        self.names = tuple(both)
        self.members = nn.ModuleList(h if isinstance(h, Head) else h() for h in both.values())

    @property
    def parts(self) -> dict[str, Head]:
        return dict(zip(self.names, self.members, strict=True))  # type: ignore[arg-type]

    def read(self, output: Mapping[str, Any], x: State) -> Estimate:
        require(
            isinstance(output, Mapping) and set(output) >= set(self.names),
            f"the network of a product must return a dict with the keys {list(self.names)}",
        )
        return Parts({k: head.read(output[k], x[k]) for k, head in self.parts.items()})


class Exact(Head):
    r"""The exact head of a finite data law :math:`\sum_n w_n \delta_{a_n}`: a perfect network.

    .. math:: P(a_n \mid x_t) \propto w_n\, p(x_t \mid a_n)

    Arguments:
        process: The process; of a chain it is its process, at whose times heads are called.
        data: The atoms, shape (N, *event), or a dict of such.
        weights: Their probabilities, shape (N,); equal if not given.

    Raises:
        ValueError: If the weights are no probabilities, or data lie outside the support.
    """

    kind = Atoms

    def __init__(self, process: Process, data: State, weights: Tensor | None = None) -> None:
        super().__init__(None)
        require_process(process)
        self.process = process.process if isinstance(process, Chain) else process
        self.data = process.check_data(data, "data")
        count = batch_size(data)
        if weights is None:
            weights = torch.full((count,), 1 / count, dtype=torch.float64)
        kind = type(weights).__name__
        require(isinstance(weights, Tensor), f"weights must be a tensor; it is a {kind}")
        require(
            weights.shape == (count,) and bool((weights >= 0).all()),
            f"weights of shape {tuple(weights.shape)} must be ≥ 0, one per atom ({count})",
        )
        total = float(weights.sum())
        require(abs(total - 1) < 1e-6, f"weights must sum to one; their sum is {total:g}")
        self.weights = weights.double() / total

    def forward(self, x: State, t: Tensor, context: Any = None) -> Estimate:
        joint = self._log_joint(x, t)
        if values_are_checked(joint) and bool((joint == -torch.inf).all(1).any()):
            joint = self._log_joint_before(joint, x, t)
        device = joint.device
        return Atoms(joint.log_softmax(1), map_state(lambda a: a.to(device), self.data))

    def _log_joint(self, x: State, t: Tensor) -> Tensor:
        r""":math:`\log w_n\, p(x_t \mid a_n)`, shape (B, N)."""
        batch, count = batch_size(x), batch_size(self.data)
        device = first_tensor(x).device

        def tile(a: Tensor) -> Tensor:
            return a.to(device).repeat((batch,) + (1,) * (a.dim() - 1))

        atoms = map_state(tile, self.data)
        law = self.process._marginal(atoms, t.repeat_interleave(count))
        many = map_state(lambda v: v.repeat_interleave(count, 0), x)
        log_prob = law.log_prob(many).reshape(batch, count)
        if values_are_checked(log_prob) and bool((log_prob == torch.inf).any()):
            log_prob = _densest(law, many, batch)
        return log_prob.double() + self.weights.to(device).log()

    def _log_joint_before(self, joint: Tensor, x: State, t: Tensor) -> Tensor:
        r"""The limit from the left where no atom reaches x at :math:`\Lambda = \infty` itself.

        A prompt that is held from the start is such a state.

        Raises:
            ValueError: If no atom reaches x just before t either.
        """
        lost = (joint == -torch.inf).all(1)
        before = torch.nextafter(t, torch.zeros_like(t))
        joint = torch.where(lost.unsqueeze(1), self._log_joint(x, before), joint)
        lost = (joint == -torch.inf).all(1)
        if bool(lost.any()):
            raise ValueError(
                f"x_t cannot be reached from the data of Exact in {int(lost.sum())} of "
                f"{len(lost)} rows, the first of them row {int(lost.nonzero()[0])}, at t = "
                f"{shown(t[lost])}"
            )
        return joint

    def as_(self, kind: Any) -> Head:
        """The same knowledge as a head of another kind: a head type, or a dict of them."""
        for one in kind.values() if isinstance(kind, Mapping) else (kind,):
            right = isinstance(one, type) and issubclass(one, Head)
            require(right, f"kind must be a type of dd.heads; it is {one!r}")
        return _Converted(self, kind)


def _densest(law: Distribution, x: Tensor, batch: int) -> Tensor:
    r"""Log-densities (batch, N) of which some are infinite, compared by balls that shrink.

    A state that was rounded onto a point where the density of its entries is like
    :math:`r^{e - 1}`, e < 1, is there in infinitely many more entries for some atoms than for
    others: those of most such entries are left, compared by their other entries.
    """
    each = entrywise(law).log_prob(x).flatten(1)
    infinite = each == torch.inf
    rest = torch.where(infinite, 0.0, each).sum(1).reshape(batch, -1)
    entries = infinite.sum(1).reshape(batch, -1)
    entries = torch.where(rest > -torch.inf, entries, -1)
    return torch.where(entries == entries.amax(1, keepdim=True), rest, -torch.inf)


class _Converted(Head):
    """The exact head, speaking as another kind of head."""

    def __init__(self, exact: Exact, kind: Any) -> None:
        super().__init__(None)
        self.exact, self.spoken = exact, kind
        self.kind = _estimate_kind(kind)  # type: ignore[misc]
        if isinstance(kind, Mapping):
            self.parts = {k: _Converted(exact, v) for k, v in kind.items()}

    def forward(self, x: State, t: Tensor, context: Any = None) -> Estimate:
        estimate = self.exact(x, t)
        return self.exact.process._convert(estimate, x, t, _converted_kind(self.spoken))


def _converted_kind(kind: Any) -> Any:
    if isinstance(kind, Mapping):
        return {k: _converted_kind(v) for k, v in kind.items()}
    return kind.kind


def _estimate_kind(kind: Any) -> type[Estimate]:
    return Parts if isinstance(kind, Mapping) else kind.kind


def _shaped(output: Tensor, x: State, head: type[Head], *last: int) -> Tensor:
    """The output, which must have the shape of the state (of a mixture's, beside its label)."""
    if not isinstance(x, Tensor) and set(x) == {"label", "state"}:
        x = x["state"]
    if not isinstance(x, Tensor):
        raise ValueError(f"{head.__name__} speaks of one tensor; for a dict use heads.Product")
    shape = (*x.shape, *last) if last else x.shape
    if not isinstance(output, Tensor) or output.shape != shape:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output)
        rule = f"the network of {head.__name__} must return shape {tuple(shape)}"
        raise ValueError(f"{rule}; it returned {found}")
    return _numbers(output, head)


def _spread(variance: Any, x: State) -> Tensor:
    """Variances of shape (B,) or the state's (of a mixture's, beside its label), at its shape."""
    x = x["state"] if isinstance(x, Mapping) and set(x) == {"label", "state"} else x
    if not isinstance(x, Tensor):
        raise ValueError("Normal speaks of one tensor; the state is a dict")
    shape = tuple(variance.shape) if isinstance(variance, Tensor) else type(variance).__name__
    fits = shape in (tuple(x.shape), tuple(x.shape[:1]))
    rule = f"the variance of Normal must have shape {tuple(x.shape[:1])} or {tuple(x.shape)}"
    require(fits, f"{rule}; it is {shape}")
    if values_are_checked(variance):
        bad = ~(variance >= 0)
        require(not bool(bad.any()), f"a variance must be ≥ 0; it contains {shown(variance[bad])}")
    return along(variance, x).expand(x.shape) if variance.dim() == 1 else variance.to(x.dtype)


def _numbers(output: Any, head: type[Head], whole: bool = True) -> Tensor:
    """The output, which must be a floating tensor, without NaN where that means nothing.

    In a run of reals a NaN is seen at the end, and logits are looked at where they are read, so
    that no step has to look at more than it uses.
    """
    if not isinstance(output, Tensor) or not output.dim():
        rule = f"the network of {head.__name__} must return a tensor for a batch"
        raise ValueError(f"{rule}; it returned {output!r}")
    if not output.is_floating_point():
        rule = f"the network of {head.__name__} must return a floating tensor"
        raise ValueError(f"{rule}; it returned {output.dtype}")
    whole = whole and not issubclass(head, _Categorical)
    hidden = whole and (torch.is_grad_enabled() or not head.of_reals)
    if hidden and values_are_checked(output):
        require_numbers(output, head.__name__)
    return output
