r"""Each stepper of linear diffusions converges with its order, for k = 1, 2 and 3 coordinates.

There is no Monte Carlo. Data are Gaussian and the head is the exact one, so a step is linear in
the state and in the noise that it draws. It is read off from a batch of states and of noises, and
mean and covariance are propagated exactly. Runs start from the marginal at 1, so that nothing but
the steps is in error. The grid is n equal steps of the cube root of t, which resolves small times
(with √t, the second order of multistep methods has a factor log n). The order is the slope of log
error against log n, where the error is that of the law of the data at t = 0.
"""

import itertools

import pytest
import torch
from torch.distributions import Normal

import discdiff as dd
from discdiff import steppers

pytestmark = pytest.mark.usefixtures("float64")

STEPS = (32, 64, 128, 256)
NEAR = 0.2
MEAN, STD = 0.7, 0.5  # of the data


def scalar():
    return (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 4.0))


def damped():
    """Critically damped, on a clock that is not uniform."""
    motion = dd.Linear([[0.0, 2.0], [-0.5, -2.0]]) + dd.Noise([[0.0], [1.0]])
    return motion.on(dd.clock.Linear(0.5, 3.0)).lift(Normal(0.1, 0.6))


def third():
    """Three coordinates, noise on the last, data on the first."""
    Q = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    motion = dd.Langevin(Q, torch.tensor([0.0, 0.0, 1.0]).diag(), torch.eye(3))
    return motion.on(dd.clock.Linear(1.0, 3.0)).lift(Normal(0.0, 0.7))


def vectors():
    """Data on all three coordinates."""
    A = [[-0.5, 0.3, 0.0], [-0.4, -0.7, 0.2], [0.1, 0.0, -0.6]]
    B = [[0.8, 0.1, 0.0], [0.0, 0.7, 0.0], [0.2, 0.0, 0.9]]
    return (dd.Linear(A) + dd.Noise(B)).on(dd.clock.Linear(0.5, 2.0))


PROCESSES = {"k = 1": scalar, "k = 2": damped, "k = 3": third, "k = 3, no lift": vectors}


class Gaussian:
    """Gaussian data under a linear diffusion: the exact conditional mean and the marginals."""

    def __init__(self, process):
        self.process = process
        (leaf,) = process.leaves(torch.ones(1))
        self.engine, self.core = leaf.core.engine, leaf.core
        self.lifted = isinstance(process, dd.Lifted)
        self.size = getattr(self.engine, "size", 1)
        self.count = 1 if self.lifted else self.size
        eye = torch.eye(self.count)
        self.mean = torch.full((self.count,), MEAN)
        self.cov = STD**2 * (eye + 0.3 * (1 - eye))

    def kernel(self, t):
        """P, m and Σ of the state given the data at one time."""
        (leaf,) = self.process.leaves(t.reshape(1))
        if self.size == 1:
            moments = self.engine.moments(torch.zeros(1), leaf.time)
            return (v.reshape(1, 1) for v in (moments.phi, moments.mean, moments.variance))
        kernel = self.engine.kernel(leaf.time)
        root = self.engine.root(kernel)
        return kernel.load[0], kernel.mean[0], (root @ root.mT)[0]

    def marginal(self, t):
        P, m, noise = self.kernel(t)
        return (P @ self.mean + m.reshape(-1)), P @ self.cov @ P.mT + noise

    def __call__(self, y, t):
        """E[x_0 | y_t], of the data's shape."""
        P, _, _ = self.kernel(t[0])
        mean, cov = self.marginal(t[0])
        gain = self.cov @ P.mT @ torch.linalg.inv(cov)
        x_0 = self.mean + (y - mean) @ gain.mT
        return x_0[..., 0] if self.lifted else x_0


def unit_noises(monkeypatch, size, draws):
    """Replaces each of so many draws of a step by unit vectors, in rows 1 + size and on."""
    calls = itertools.count()

    def noise(shape):
        values = torch.zeros(shape)
        first = 1 + size + size * (next(calls) % draws)
        flat = values.reshape(len(values), -1)
        for i in range(flat.shape[1]):
            flat[first + i, i] = 1.0
        return values

    monkeypatch.setattr(torch, "randn", lambda *shape, **_: noise(_shape(shape)))
    monkeypatch.setattr(torch, "randn_like", lambda v: noise(v.shape))
    monkeypatch.setattr(torch, "normal", lambda mean, std: mean + std * noise(mean.shape))


def _shape(shape):
    return shape[0] if len(shape) == 1 else shape


def final_law(stepper, law, times, monkeypatch, draws):
    """Mean and covariance at the last time, of a run from the marginal at the first.

    A run without noise is one linear map, followed from its start to its end; one with noise has
    no memory, and is followed step by step.
    """
    size = law.size
    x = start = torch.cat([torch.zeros(1, size), torch.eye(size), torch.zeros(size * draws, size)])
    model, memory = dd.heads.Mean(law), stepper.init(law.process, x)
    mean, cov = law.marginal(times[0])
    for t, s in itertools.pairwise(times):
        with monkeypatch.context() as patch:
            unit_noises(patch, size, draws)
            t, s = t.expand(len(x)), s.expand(len(x))
            x, memory = stepper.step(law.process, model, x, t, s, memory)
        if draws:
            mean, cov = moved(x, size, mean, cov)
            x = start
    return (mean, cov) if draws else moved(x, size, mean, cov)


def moved(y, size, mean, cov):
    """The law of a linear image of a Gaussian, from where zero, units and noises are sent."""
    change, noise = (y[1 : 1 + size] - y[0]).mT, (y[1 + size :] - y[0]).mT
    return change @ mean + y[0], change @ cov @ change.mT + noise @ noise.mT


def times_of(n):
    return torch.linspace(1, 0, n + 1) ** 3


def error(stepper, law, n, monkeypatch, draws):
    mean, cov = final_law(stepper, law, times_of(n), monkeypatch, draws)
    part = slice(law.count)
    gaps = (mean[part] - law.mean).abs().sum(), (cov[part, part] - law.cov).abs().sum()
    return float(sum(gaps))


def slope(errors, steps=STEPS):
    """The fitted order of errors at the numbers of steps."""
    x, y = torch.tensor(steps).double().log(), torch.tensor(errors).log()
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


STEPPERS = {  # with the number of draws of a step, and the order
    "Euler": (steppers.Euler(), 1, 1),
    "Euler, probability flow": (steppers.Euler(noise=0.0), 0, 1),
    "Euler, noise 2": (steppers.Euler(noise=2.0), 1, 1),
    "Ancestral": (steppers.Ancestral(), 1, 1),
    "Ancestral, eta 1/2": (steppers.Ancestral(eta=0.5), 1, 1),
    "Exponential 1": (steppers.Exponential(order=1), 0, 1),
    "Exponential 2": (steppers.Exponential(order=2), 0, 2),
    "Heun": (steppers.Heun(), 0, 2),
    "Churn": (steppers.Churn(eta=0.5), 1, 2),
    "Euler, noise 1/2": (steppers.Euler(noise=0.5), 1, 1),
    "Splitting 1": (steppers.Splitting(order=1), 2, 1),
    "Splitting 2": (steppers.Splitting(order=2), 2, 2),
}


# Going back near t = 0, where R turns, Churn needs more steps than these to show its order.
LATE = {("Churn", "k = 2"), ("Churn", "k = 3")}
CASES = [(name, kind) for name in STEPPERS for kind in PROCESSES if (name, kind) not in LATE]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_order(name, kind, monkeypatch):
    stepper, draws, order = STEPPERS[name]
    law = Gaussian(PROCESSES[kind]())
    errors = [error(stepper, law, n, monkeypatch, draws) for n in STEPS]
    shown = ", ".join(f"{v:.2e}" for v in errors)
    print(f"{name}, {kind}: order {slope(errors):.3f}, errors {shown}")
    assert abs(slope(errors) - order) < NEAR


def test_a_wrong_head_has_no_order(monkeypatch):
    """The fit is no formality: with a mean 2 % too large the error does not vanish."""
    law = Gaussian(damped())
    exact = law.__call__
    law.__class__ = type("Wrong", (Gaussian,), {"__call__": lambda _, y, t: 1.02 * exact(y, t)})
    errors = [error(steppers.Heun(), law, n, monkeypatch, 0) for n in STEPS]
    assert slope(errors) < 0.5
