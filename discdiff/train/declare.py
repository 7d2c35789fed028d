"""Processes by name or from a user's file, and the encoding and head that suit them.

`process_named` declares blackout, masked, uniform, variance-preserving diffusion and chains for
given data, or takes ``PATH:NAME``, a process in a Python file. `encoding_for` and `head_for` find
by trial how the data become states, and what a network can say that determines the reversal: the
process itself decides, by accepting or refusing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pyro.distributions import Gamma, Logistic
from torch import Tensor, nn
from torch.distributions import Laplace

from .. import clock, heads
from ..increments import Normal
from ..increments.base import NOWHERE
from ..likelihood import elbo, vlb
from ..nn import Precondition
from ..process import Chain, Mixture, Process, Product, batch_size
from ..solve import Unsolved
from ..stepper import Stepper
from ..steppers import Shift, Tilt
from ..terms import Death, Linear, Noise, Replace, one_hot
from ..walks import Walk, linear_betas, log_snr_betas
from ..zoo.ddpm import ddpm_chain
from .data import Categories, Counts, Kind, Reals
from .describe import Description
from .encoding import AsCategories, AsCounts, AsDensity, AsReals, AsTable, Encoding

State = Any
NAMES = ("blackout", "masked", "uniform", "vp", "ddpm", "laplace", "logistic", "gamma")
STEPS = 1000  # of the chains
LOGITS = 1024  # a network does not say more per entry of counts


def process_named(name: str, data: Description) -> Process:
    """The process of this name for these data, or the one that ``PATH:NAME`` declares.

    Raises:
        ValueError: If the data are not of the kind that the process needs, or there is no such
            process.
    """
    kind = data.kind
    if name in NAMES:
        _require_exact(data)
    if name == "blackout":
        _require_kind(name, kind, (Counts,), "counts")
        return Death().on(clock.Logistic(15.0))
    if name == "vp":
        _require_kind(name, kind, (Counts, Reals), "numbers")
        return (Linear(-1 / 2) + Noise(1.0)).on(clock.Linear(0.1, 20.0))
    if name in ("masked", "uniform"):
        _require_kind(name, kind, (Counts, Categories), "integers")
        assert not isinstance(kind, Reals)
        return _masked(kind.levels) if name == "masked" else _uniform(kind.levels)
    if name in NAMES:
        _require_kind(name, kind, (Counts, Reals), "numbers")
        return _chain(name)
    if ":" in name:
        process = process_from_file(name)
        if not (process.timed or isinstance(process, Chain)):
            raise ValueError(f"--process {name}: it has no clock; declare it with .on(clock)")
        return process
    raise ValueError(f"--process {name}: expected {', '.join(NAMES)} or PATH:NAME")


def process_from_file(source: str) -> Process:
    """The process that a Python file declares under a name.

    Arguments:
        source: ``PATH:NAME``; NAME is a process, or a function without arguments that returns one.

    Raises:
        ValueError: If there is no such file or name, the file raises, or it is no process.
    """
    path, colon, name = source.rpartition(":")
    if not colon:
        raise ValueError(f"{source}: expected PATH:NAME, a Python file and a process in it")
    module = _imported(Path(path), source)
    if not hasattr(module, name):
        raise ValueError(f"{source}: {path} declares nothing of the name {name}")
    found = getattr(module, name)
    process = found() if callable(found) and not isinstance(found, nn.Module) else found
    if not isinstance(process, Process):
        raise ValueError(f"{source}: {name} is no process but a {type(process).__name__}")
    return process


def encoding_for(process: Process, data: Description) -> Encoding:
    """How these data become states of this process.

    Raises:
        ValueError: If they cannot, with what each attempt met.
    """
    if any(isinstance(part, Mixture) for part in process.modules()):
        raise ValueError(
            f"the state of {process!r} holds a label that says which process runs, and "
            f"{data.name} has none: train the processes of the mixture one by one"
        )
    if isinstance(process, Product):
        return _table_for(process, data)
    _require_exact(data)
    refusals = []
    for encoding in _encodings(process, data):
        try:
            process.check_data(encoding.encode(examples(data)), "x_0")
            return encoding
        except ValueError as error:
            refusals.append(f"as {type(encoding).__name__.removeprefix('As').lower()}: {error}")
    raise ValueError(f"{data.name} cannot be states of {process!r}; " + "; ".join(refusals))


def head_for(process: Process, encoding: Encoding, data: Description) -> heads.Head:
    """A head without a network whose estimates determine the reversal of this process.

    Raises:
        Unsolved: If none of the known heads does.
    """
    if isinstance(process, Product):
        assert isinstance(encoding, AsTable)
        return heads.Product(
            None,
            {
                name: _suitable(part, encoding.parts[name], data.columns[name], False)
                for name, part in process.parts.items()
            },
        )
    return _suitable(process, encoding, data, preconditioned(process, encoding, data))


def preconditioned(process: Process, encoding: Encoding, data: Description) -> bool:
    """Whether moments tell a network the best affine guess of these data (`nn.Precondition`)."""
    if not isinstance(encoding, AsReals | AsDensity) or isinstance(process, Product):
        return False
    if isinstance(process, Chain):
        return preconditioned(process.process, encoding, data)
    state = torch.zeros(process.state_shape((1, *data.event)))
    half = torch.full((1,), 0.5, dtype=torch.float64)
    try:
        Precondition(None, process).coefficients(state, half)
    except (AttributeError, NotImplementedError, ValueError):
        return False
    return len(list(process.leaves(half))) == 1


def _suitable(
    process: Process, encoding: Encoding, data: Description, says_data: bool
) -> heads.Head:
    refusals = []
    for head in _heads(encoding, data.kind, says_data):
        refusal = _unaffordable(encoding, head, data.kind)
        refusal = refusal or _refusal(process, encoding, head, data)
        if refusal is None:
            return head
        refusals.append(f"{type(head).__name__}: {refusal}")
    raise Unsolved(f"no head determines the reversal of {process!r}; " + "; ".join(refusals))


def outputs_of(head: heads.Head, encoding: Encoding, kind: Kind) -> tuple[int, ...]:
    """What a network says per entry of the state, as a shape."""
    if isinstance(encoding, AsCategories):
        return (encoding.size,)
    if isinstance(head, heads.Posterior):
        assert not isinstance(kind, Reals)
        return (kind.levels,)
    return (2,) if isinstance(head, heads.Turnover | heads.Ratio) else ()


def examples(data: Description) -> Tensor:
    """Two items that data so described could hold: the least and the largest values."""
    if isinstance(data.kind, Reals):
        return torch.stack([data.mean - data.std, data.mean + data.std]).expand(2, *data.event)
    values = torch.zeros(2, *data.event, dtype=torch.int64)
    values[1] = data.kind.levels - 1
    return values


def states_for(process: Process) -> State:
    """A few states that a process accepts, for checks that need some.

    Raises:
        ValueError: If none of the usual shapes is accepted.
    """
    if isinstance(process, Product):
        return {name: states_for(part) for name, part in process.parts.items()}
    if isinstance(process, Mixture):
        state = states_for(process.members[0])  # type: ignore[arg-type]
        label = torch.arange(batch_size(state)) % len(process.members)
        return {"label": label, "state": state}
    (leaf, *_) = process.leaves(process.instant(0.5))
    support = leaf.core.support
    top = float(getattr(support, "upper_bound", 5))
    if leaf.core.dtype is not None:
        entries = torch.arange(int(top) + 1)[:8]
    elif bool(support.check(torch.tensor(-0.5))):
        entries = torch.tensor([-1.0, -0.2, 0.3, 1.5])
    else:
        entries = torch.tensor([0.0, 1.0, 3.0, 5.0]).clamp(max=top)
    for size in range(1, 5):
        x = torch.stack([entries.roll(i) for i in range(size)], 1)
        try:
            return process.check_data(x, "x")
        except ValueError:
            continue
    raise ValueError(f"no example states are known for {process!r}; give some by --data")


def _chain(name: str) -> Chain:
    """DDPM, or a walk with increments of another law to nearly normal noise."""
    if name == "ddpm":
        return ddpm_chain(linear_betas(STEPS))
    laws = {
        "laplace": Laplace(0.0, 1.0),
        "logistic": Logistic(0.0, 1.0),
        "gamma": Gamma(4.0, 1.0),
    }
    return Walk(laws[name], log_snr_betas(STEPS))


def stepper_for(process: Process) -> Stepper | None:
    """How the model steps back along a chain: in the shape of its increments, if they have one.

    Tilted steps lose nothing in the limit of many; laws without exponential moments are shifted.
    """
    if not isinstance(process, Walk) or isinstance(process.steps.increment, Normal):
        return None
    return Shift() if process.steps.increment.domain == NOWHERE else Tilt(posterior=True)


def _masked(levels: int) -> Process:
    return Replace(one_hot(levels, levels + 1)).on(clock.LogLinear())


def _uniform(levels: int) -> Process:
    pi = torch.full((levels,), 1 / levels, dtype=torch.float64)
    return Replace(pi).on(clock.LogLinear())


def _require_kind(name: str, kind: Kind, kinds: tuple[type, ...], what: str) -> None:
    if isinstance(kind, kinds):
        return
    found = kind.example if isinstance(kind, Reals) else "these are tokens"
    others = "vp" if isinstance(kind, Reals) else "masked or uniform"
    raise ValueError(f"--process {name} needs {what}, but {found}; use --process {others}")


def _require_exact(data: Description) -> None:
    """Raises if the data hold integers that floating states do not tell from their neighbours."""
    if isinstance(data.kind, Reals):
        return
    dtype = torch.get_default_dtype()
    bits = round(1 - math.log2(torch.finfo(dtype).eps))
    if data.kind.levels > 2**bits:
        raise ValueError(
            f"{data.name} holds the value {data.kind.levels - 1}, and integers must lie below "
            f"2^{bits} = {2**bits}: {str(dtype).removeprefix('torch.')} does not tell larger ones "
            "apart. Count in larger units, or give fractions (1.5 for 1500000) and a process on "
            "real numbers"
        )


def _imported(path: Path, source: str) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"--process {source}: there is no file {path}")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--process {source}: {path} is no Python file")
    module = module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--process {source}: {path} raised {error!r}") from error
    return module


def _table_for(process: Product, data: Description) -> AsTable:
    if set(process.names) != set(data.columns):
        raise ValueError(
            f"the process has the parts {sorted(process.names)}, but the columns of {data.name} "
            f"are {sorted(data.columns)}"
        )
    parts = process.parts
    return AsTable({name: encoding_for(parts[name], c) for name, c in data.columns.items()})


def _encodings(process: Process, data: Description) -> Iterator[Encoding]:
    """Reals first: a process on counts refuses fractions, one on reals accepts counts.

    One that is pushed to the unit interval refuses negative reals.
    """
    if isinstance(data.kind, Reals):
        yield AsDensity(data.mean, data.std)
        return
    yield AsReals(data.kind.levels)
    yield AsReals(data.kind.levels, 0.0)
    yield AsCounts()
    yield AsCategories(_states(process, data.kind.levels))


def _states(process: Process, levels: int) -> int:
    """The number of states of a finite process; that of the data where it cannot be told."""
    (leaf,) = process.leaves(process.instant(0.5))
    top = getattr(leaf.core.support, "upper_bound", levels - 1)
    return max(int(top) + 1, levels)


def _heads(encoding: Encoding, kind: Kind, says_data: bool) -> Iterator[heads.Head]:
    if isinstance(encoding, AsCounts):
        yield from (heads.Missing(), heads.Turnover(), heads.Ratio(), heads.Posterior())
    elif isinstance(encoding, AsCategories):
        assert not isinstance(kind, Reals)
        absent = tuple(range(kind.levels, encoding.size))
        posterior, leave_one_out = heads.Posterior(None, absent), heads.LeaveOneOut(None, absent)
        yield from (posterior, leave_one_out) if absent else (leave_one_out, posterior)
        yield heads.Ratio()
    else:
        yield from (heads.Mean(),) if says_data else ()
        yield from (heads.Epsilon(), heads.Velocity(), heads.Mean(), heads.Score())


def _unaffordable(encoding: Encoding, head: heads.Head, kind: Kind) -> str | None:
    """Why a posterior of counts would be too large for a network; None if it is not."""
    if not isinstance(encoding, AsCounts) or not isinstance(head, heads.Posterior):
        return None
    (size,) = outputs_of(head, encoding, kind)
    return f"{size} logits per entry are more than {LOGITS}" if size > LOGITS else None


class _Zeros(nn.Module):
    """A network that says nothing: zeros of the shape a head expects."""

    def __init__(self, process: Process, head: heads.Head, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.of = process.to_data if isinstance(head, heads.Mean) else lambda x: x
        self.outputs = outputs

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros(*self.of(x).shape, *self.outputs)


def _bound(process: Process, head: heads.Head, x_0: State) -> Tensor:
    if not isinstance(process, Chain):
        return elbo(process, head, x_0)
    return vlb(process, head, x_0, stepper=stepper_for(process), draws=1).nats


def _refusal(
    process: Process, encoding: Encoding, head: heads.Head, data: Description
) -> str | None:
    """Why a head does not suit a process; None if it does."""
    head.net = _Zeros(process, head, outputs_of(head, encoding, data.kind))
    x_0 = encoding.encode(examples(data))
    try:
        bound = _bound(process, head, x_0)
    except (Unsolved, ValueError, NotImplementedError) as error:
        return str(error)
    finally:
        head.net = None
    return None if bool(bound.isfinite().all()) else "its bound is not finite"
