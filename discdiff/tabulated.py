r"""Laws read from tables: many grids in one book, one row of it per batch element.

A draw is a normal one, sent through the increasing map to the law (see `numerics.fourier`): its
cell is found by arithmetic, whatever the size of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, register_kl

from .laws import _RealLaw
from .numerics.fourier import CELLS, TAIL, Cubic, Grid, quintic

NODES = 257  # of the quadrature of divergences


class Book:
    """Grids by key, made when they are first asked for, in flat tensors.

    Arguments:
        make: From a key to its grid.
    """

    def __init__(self, make: Callable[[Hashable], Grid]) -> None:
        self.make, self.places = make, {}
        self.grids: list[Grid] = []
        self._flat: tuple[Tensor, ...] = ()
        self._transport: Tensor | None = None

    def rows(self, keys: Iterable[Hashable], device: torch.device) -> Tensor:
        """The rows of keys, (B,); grids that are missing are made."""
        keys = list(keys)
        for key in keys:
            if key not in self.places:
                self.grids.append(self.make(key))  # which may refuse: then the key has no place
                self.places[key] = len(self.grids) - 1
        return torch.tensor([self.places[key] for key in keys], device=device)

    def flat(self, device: torch.device) -> tuple[Tensor, ...]:
        """Density (3, N), cdf (N,), and per row: start, low, step, first, last."""
        if not self._flat or len(self._flat[2]) < len(self.grids):
            self._flat = self._joined()
        if self._flat[0].device != device:
            self._flat = tuple(v.to(device) for v in self._flat)
        return self._flat

    def transport(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The cubics of draws, (rows · CELLS, 4)."""
        held = self._transport
        if held is None or len(held) < CELLS * len(self.grids) or held.dtype != dtype:
            held = torch.cat([grid.transport for grid in self.grids]).to(dtype)
        self._transport = held.to(device)
        return self._transport

    def _joined(self) -> tuple[Tensor, ...]:
        sizes = torch.tensor([len(grid.cdf) for grid in self.grids])
        start = sizes.cumsum(0) - sizes
        real = lambda values: torch.tensor(values, dtype=torch.float64)
        return (
            torch.cat([grid.density for grid in self.grids], 1),
            torch.cat([grid.cdf for grid in self.grids]),
            start,
            real([grid.low for grid in self.grids]),
            real([grid.step for grid in self.grids]),
            torch.tensor([grid.ends[0] for grid in self.grids]),
            torch.tensor([grid.ends[1] for grid in self.grids]),
        )


class Tabulated(_RealLaw):
    r"""The law of :math:`\mathrm{loc} + \mathrm{scale} \cdot y`, y from a row of a book.

    Where the density of y is below 1e-11 its logarithm goes on along its slope: no more than
    1e-10 of mass is concerned.

    Arguments:
        loc: Any shape.
        scale: Positive, broadcastable.
        row: The row of each entry, broadcastable.
        book: The grids, of laws of standard deviation one.
    """

    def __init__(self, loc: Tensor, scale: Tensor, row: Tensor, book: Book) -> None:
        self.loc, self.scale, self.row, self.book = loc, scale, row, book
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape))

    @property
    def mean(self) -> Tensor:
        return self.loc.expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        return (self.scale**2).to(self.loc.dtype).expand(self.batch_shape)

    def _standard(self, x: Tensor) -> Tensor:
        return (x.double() - self.loc.double()) / self.scale.double()

    def log_prob(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        density, _, start, low, step, first, last = self.book.flat(x.device)
        row, y = self.row, self._standard(x)
        start, low, h = start[row], low[row], step[row]
        left, right = low + h * first[row], low + h * last[row]
        inside = torch.maximum(torch.minimum(y, right), left)
        at = (inside - low) / h
        cell = at.detach().floor().long()
        cell = torch.minimum(torch.maximum(cell, first[row]), last[row] - 1)
        f, slope = quintic(density, start + cell, at - cell, h)
        beyond = (y - inside) * (slope / f).detach()
        value = f.clamp(min=torch.finfo(f.dtype).tiny).log() + beyond
        return (value - self.scale.double().log()).to(self.loc.dtype)

    def cdf(self, x: Tensor) -> Tensor:
        density, cdf, start, low, step, _, _ = self.book.flat(x.device)
        row, y = self.row, self._standard(x)
        start, low, h = start[row], low[row], step[row]
        at = ((y - low) / h).clamp(min=0.0)
        size = self._sizes(x.device)[row]
        cell = torch.minimum(at.floor().long(), size - 2)
        w = (at - cell).clamp(max=1.0)
        left, right = start + cell, start + cell + 1
        f = h * density[0, left], h * density[0, right]
        return Cubic(cdf[left], cdf[right], *f)(w).to(self.loc.dtype)

    def _sizes(self, device: torch.device) -> Tensor:
        _, cdf, start, *_ = self.book.flat(device)
        return torch.cat([start[1:], start.new_tensor([len(cdf)])]) - start

    def _draw(self, shape: Size) -> Tensor:
        density, cdf, start, low, step, _, _ = self.book.flat(self.loc.device)
        shape = shape + self.batch_shape
        dtype = torch.promote_types(self.loc.dtype, torch.float32)
        return self.at(torch.randn(shape, dtype=dtype, device=self.loc.device))

    def at(self, z: Tensor) -> Tensor:
        """Where the increasing map takes standard normal numbers."""
        dtype = z.dtype
        at = (z.clamp(-TAIL, TAIL) + TAIL) * (CELLS / (2 * TAIL))
        cell = at.floor().clamp(max=CELLS - 1)
        powers = self.book.transport(dtype, z.device)[cell.long() + CELLS * self.row]
        w = at - cell
        y = powers[..., 2] + w * powers[..., 3]
        y = powers[..., 0] + w * (powers[..., 1] + w * y)
        return (self.loc + self.scale.to(dtype) * y).to(self.loc.dtype)


@register_kl(Tabulated, Distribution)
def _kl_tabulated(p: Tabulated, q: Distribution) -> Tensor:
    r"""By the trapezoid in z, :math:`\mathbb{E}_p\, g(y) = \int g(G(z))\, \Phi'(z)\, dz`."""
    z = torch.linspace(-TAIL, TAIL, NODES, dtype=torch.float64, device=p.loc.device)
    weight = (-(z**2) / 2).exp()
    total = torch.zeros(p.batch_shape, dtype=torch.float64, device=z.device)
    for at, w in zip(z, weight / weight.sum(), strict=True):
        y = p.at(at.expand(p.batch_shape).to(p.loc.dtype))
        total = total + w * (p.log_prob(y) - q.log_prob(y))
    return total.to(p.loc.dtype)
