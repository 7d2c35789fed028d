"""Processes inside Pyro models: plates, inference of declared numbers, bounds by Pyro's ELBO."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import transform_to

import discdiff as dd
from discdiff.params import rate_matrix

F64 = torch.float64
Q3 = torch.tensor([[-1.2, 1.0, 0.2], [0.3, -0.8, 0.5], [0.6, 0.1, -0.7]], dtype=F64)


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(before)


def rates(v):
    return transform_to(rate_matrix)(v.log())


# -- sites ----------------------------------------------------------------------------------------

B = 4
CATS = torch.tensor([[0, 1], [2, 1], [0, 0], [1, 2]])
COUNTS = torch.tensor([[3.0, 5], [4, 2], [7, 1], [0, 2]], dtype=F64)
REALS = torch.tensor([[0.3, -1], [2, 0.5], [0, 0], [1, 1]], dtype=F64)
SITES = {
    "rates": (dd.RateMatrix(Q3), CATS),
    "rates, one entry": (dd.RateMatrix(Q3), CATS[:, 0]),
    "coupled sites": (dd.RateMatrix(torch.ones(9, 9) - 9 * torch.eye(9), sites=(3, 3)), CATS),
    "replacement": (dd.Replace([0.2, 0.5, 0.3]), CATS),
    "death": (dd.Death(), COUNTS),
    "immigration": (dd.Death() + dd.Immigration(2.0), COUNTS),
    "birth": (dd.Birth() + dd.Death(), COUNTS),
    "Ehrenfest": (dd.Ehrenfest(9), COUNTS),
    "reactions": (dd.Reaction([-1, 1], 1.0), COUNTS),
    "VP": (dd.Linear(-0.5) + dd.Noise(1.0), REALS),
    "scaled": ((dd.Linear(-0.5) + dd.Noise(1.0)).scaled(lambda t: 1 + t), REALS),
    "given": (
        (dd.Linear(-0.5) + dd.Noise(1.0)).given((torch.zeros(2), torch.tensor([False, True]))),
        REALS * torch.tensor([1.0, 0.0], dtype=F64),
    ),
}


@pytest.mark.parametrize("name", SITES)
def test_laws_are_sites_in_a_plate(name):
    process, x_s = SITES[name]
    s, t = torch.linspace(0, 0.3, B), torch.linspace(0.4, 1, B)

    def model(x_t=None):
        with pyro.plate("data", B):
            middle = pyro.sample("x_m", process.transition(x_s, s, t))
            return pyro.sample("x_t", process.transition(middle, t, t + 0.5), obs=x_t)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    for site in ("x_m", "x_t"):
        node = trace.nodes[site]
        assert node["fn"].batch_shape == (B,)
        assert node["value"].shape == x_s.shape and node["value"].dtype == x_s.dtype
        assert node["log_prob"].shape == (B,) and bool(node["log_prob"].isfinite().all())
    middle, end = trace.nodes["x_m"]["value"], trace.nodes["x_t"]["value"]
    law = process.transition(middle, t, t + 0.5)
    torch.testing.assert_close(trace.nodes["x_t"]["log_prob"], law.log_prob(end))
    seen = poutine.trace(poutine.condition(model, {"x_m": middle})).get_trace(end)
    torch.testing.assert_close(seen.log_prob_sum(), trace.log_prob_sum())
    subsampled = poutine.trace(poutine.scale(model, 3.0)).get_trace(end)
    assert math.isfinite(float(subsampled.log_prob_sum()))


def test_a_law_spreads_over_a_plate():
    law = dd.RateMatrix(Q3).transition(torch.tensor([0]), 0.0, 1.0)
    with pyro.plate("data", 50):
        drawn = pyro.sample("x", law)
    assert drawn.shape == (50,)
    torch.testing.assert_close(law.expand((50,)).log_prob(drawn), law.log_prob(drawn))
    assert law.expand((1,)) is law


def observations(count):
    tau = -torch.rand(count).log()
    x = torch.randint(3, (count,))
    return x, tau, dd.RateMatrix(Q3).transition(x, 0.0, tau).sample()


def rate_model(x, tau, y):
    v = pyro.sample("rates", dist.Gamma(1.0, 1.0).expand([6]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x_t", dd.RateMatrix(rates(v)).transition(x, 0.0, tau), obs=y)


def test_svi_on_rates():
    data = observations(200)
    guide = pyro.infer.autoguide.AutoNormal(rate_model)
    svi = SVI(rate_model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    losses = [svi.step(*data) for _ in range(150)]
    assert sum(losses[-20:]) / 20 < sum(losses[:5]) / 5 - 2
    found = guide.median()["rates"]
    off = ~torch.eye(3, dtype=torch.bool)
    assert float((found - Q3[off]).abs().max()) < 0.5


def test_svi_on_a_learned_module():
    """A process is a module: pyro.module registers its free reals."""
    x, tau, y = observations(300)
    chain = dd.learn(dd.RateMatrix(torch.ones(3, 3) - 3 * torch.eye(3)))

    def model():
        process = pyro.module("chain", chain)
        with pyro.plate("data", len(x)):
            pyro.sample("x_t", process.transition(x, 0.0, tau), obs=y)

    svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    losses = [svi.step() for _ in range(80)]
    truth = -float(dd.RateMatrix(Q3).transition(x, 0.0, tau).log_prob(y).sum())
    assert losses[-1] < truth < losses[0]
    assert bool(rate_matrix.check(chain.Q))


def test_rate_matrices_as_pyro_parameters():
    Q = pyro.param("Q", Q3, constraint=rate_matrix)
    torch.testing.assert_close(Q, Q3)
    assert Q.unconstrained().shape == (6,)


def test_nuts_moves_and_stays_near_the_truth():
    """A short chain: the mean of 50 draws is within 0.6 of rates whose posterior s.d. is ≈ 0.2."""
    data = observations(150)
    mcmc = MCMC(NUTS(rate_model), num_samples=50, warmup_steps=30, disable_progbar=True)
    mcmc.run(*data)
    drawn = mcmc.get_samples()["rates"]
    off = ~torch.eye(3, dtype=torch.bool)
    assert drawn.shape == (50, 6) and bool((drawn > 0).all())
    assert len(drawn.unique(dim=0)) > 30
    assert float((drawn.mean(0) - Q3[off]).abs().max()) < 0.6


# -- a trained discrete-time model as sites -------------------------------------------------------


class Net(nn.Module):
    """A small fixed network."""

    def __init__(self, outputs, states=None):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.table = torch.randn(states or 1, outputs, generator=generator, dtype=F64)
        self.states = states

    def forward(self, x, t):
        scale = (1 - 0.5 * t).reshape((-1,) + (1,) * (x.dim() - 1))
        if self.states is None:
            return scale * (0.7 * x + 0.2 * x.mean(-1, keepdim=True))
        return scale[..., None] * self.table[x.long()]


def decoder(process, head, x, t):
    """The last step of the model: to 0, or the decoder where a step to 0 leaves no noise."""
    if process is VP:
        (leaf,) = process.leaves(t)
        return leaf.core.engine.decode(head(x, t), x, leaf.time)
    return dd.steppers.Ancestral().law(process, head(x, t), x, t, torch.zeros_like(t))


def as_pyro(process, head, times, x_0):
    """The model of ancestral steps down the times, and the forward process as its guide."""
    stepper, count = dd.steppers.Ancestral(), len(x_0)
    down = [*reversed(times), 0.0]
    full = lambda t: torch.full((count,), float(t))
    names = [f"x_{k}" for k in range(len(times), -1, -1)]

    def model():
        with pyro.plate("data", count):
            x = pyro.sample(names[0], process.prior(x_0.shape))
            for name, t, s in zip(names[1:-1], down[:-2], down[1:-1], strict=True):
                x = pyro.sample(name, stepper.law(process, head(x, full(t)), x, full(t), full(s)))
            pyro.sample("x_0", decoder(process, head, x, full(times[0])), obs=x_0)

    def guide():
        with pyro.plate("data", count):
            x = pyro.sample(names[0], process.marginal(x_0, down[0]))
            for name, t, s in zip(names[1:-1], down[:-2], down[1:-1], strict=True):
                x = pyro.sample(name, process.bridge(x_0, x, s, t))

    return model, guide


CHAIN = dd.RateMatrix(Q3).on(dd.clock.Constant(2.0))
MASKED = dd.Replace(dd.one_hot(3, 4)).on(dd.clock.LogLinear())
VP = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 12.0))
BLACKOUT = dd.Death().on(dd.clock.Logistic(6.0))
MODELS = {
    "VP": (VP, lambda: dd.heads.Epsilon(Net(0)), torch.tensor([[0.4, -1.1]], dtype=F64)),
    "VP, mean": (VP, lambda: dd.heads.Mean(Net(0)), torch.tensor([[0.4, -1.1]], dtype=F64)),
    "masked": (MASKED, lambda: dd.heads.Posterior(Net(4, 4), absent=3), torch.tensor([[0, 2]])),
    "dense": (CHAIN, lambda: dd.heads.Posterior(Net(3, 3)), torch.tensor([[0, 2]])),
    "dense, leave-one-out": (
        CHAIN,
        lambda: dd.heads.LeaveOneOut(Net(3, 3)),
        torch.tensor([[1, 2]]),
    ),
    "blackout": (
        BLACKOUT,
        lambda: dd.heads.Posterior(Net(8, 8)),
        torch.tensor([[3.0, 6.0]], dtype=F64),
    ),
}
TIMES = [0.1, 0.4, 0.7, 1.0]


def mean_and_error(values):
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def pyro_bounds(model, guide):
    """log q − log p of each element of the batch, by Pyro's traces."""
    with torch.no_grad():
        q = poutine.trace(guide).get_trace()
        p = poutine.trace(poutine.replay(model, q)).get_trace()
        q.compute_log_prob()
        p.compute_log_prob()
    logs = [
        sum(
            n["log_prob"]
            for n in trace.nodes.values()
            if n["type"] == "sample" and "x_" in n["name"]
        )
        for trace in (q, p)
    ]
    return logs[0] - logs[1]


@pytest.mark.parametrize("name", MODELS)
def test_trace_elbo_is_our_bound(name):
    """Two estimates of one number: they differ by 5 standard errors for one seed in 1.7e6."""
    process, head, x_0 = MODELS[name]
    many, head = x_0.expand(20_000, *x_0.shape[1:]).contiguous(), head()
    model, guide = as_pyro(process, head, TIMES, many)
    theirs, e = mean_and_error(pyro_bounds(model, guide))
    with torch.no_grad():
        ours, f = mean_and_error(dd.vlb(process, head, many, torch.tensor(TIMES)).nats)
    assert math.isfinite(theirs) and theirs > 0.1
    assert abs(theirs - ours) < 5 * math.hypot(e, f)
    assert math.hypot(e, f) < 0.02 * abs(ours)
    elbo = Trace_ELBO().loss(model, guide) / len(many)
    assert abs(elbo - ours) < 5 * math.hypot(e, f)


@pytest.mark.parametrize("name", ["VP", "VP, mean"])
def test_mean_field_elbo_is_our_bound(name):
    """Pyro's estimator with closed-form KLs."""
    process, head, x_0 = MODELS[name]
    many, head = x_0.expand(20_000, 2).contiguous(), head()
    model, guide = as_pyro(process, head, TIMES, many)
    theirs = TraceMeanField_ELBO().loss(model, guide) / len(many)
    ours, f = mean_and_error(dd.vlb(process, head, many, torch.tensor(TIMES)).nats.detach())
    assert abs(theirs - ours) < 5 * math.sqrt(2) * f


def test_mean_field_elbo_of_a_chain():
    """Finite chains have their KL in torch's registry; what Pyro guards against is gradients."""
    process, head, x_0 = MODELS["dense"]
    many, head = x_0.expand(20_000, 2).contiguous(), head()
    model, guide = as_pyro(process, head, TIMES, many)
    with pyro.validation_enabled(False):
        theirs = TraceMeanField_ELBO().loss(model, guide) / len(many)
    ours, f = mean_and_error(dd.vlb(process, head, many, torch.tensor(TIMES)).nats.detach())
    assert abs(theirs - ours) < 5 * math.sqrt(2) * f


def test_one_step_is_equal_without_noise():
    """From the mask alone nothing is drawn: both bounds are −log p(x_0), to rounding."""
    process, head, x_0 = MODELS["masked"]
    head = head()
    model, guide = as_pyro(process, head, [1.0], x_0)
    ours = float(dd.vlb(process, head, x_0, torch.tensor([1.0])).nats)
    assert Trace_ELBO().loss(model, guide) == pytest.approx(ours, rel=1e-13)


def test_bounds_agree_path_by_path():
    """Pyro's bound summed over every path equals ours summed over every state: no Monte Carlo."""
    process, x_0, times = CHAIN, torch.tensor([0]), [0.4, 1.0]
    head = dd.heads.Posterior(Net(3, 3))
    paths = list(itertools.product(range(3), repeat=2))
    many = x_0.expand(len(paths))
    values = {f"x_{k + 1}": torch.tensor([path[k] for path in paths]) for k in range(2)}
    model, guide = as_pyro(process, head, times, many)
    logs = []
    for part in (guide, model):
        trace = poutine.trace(poutine.condition(part, values)).get_trace()
        trace.compute_log_prob()
        sites = [n for n in trace.nodes.values() if n["type"] == "sample" and "x_" in n["name"]]
        logs.append(sum(n["log_prob"] for n in sites))
    theirs = float((logs[0].exp() * (logs[0] - logs[1])).sum())

    # dd.vlb with every state in the batch at each time, weighted by its probability
    states = torch.arange(3)
    total = dd.likelihood.prior_kl(process, x_0)[0]
    stepper = dd.steppers.Ancestral()
    for s, t in zip([0.0, *times[:-1]], times, strict=True):
        full = torch.full((3,), t)
        weight = process.marginal(many[:3], t).log_prob(states).exp()
        step = stepper.law(process, head(states, full), states, full, torch.full((3,), s))
        exact = process.bridge(many[:3], states, s, t)
        gap = dd.laws.kl(exact, step) if s else -step.log_prob(many[:3])
        total = total + (weight * gap).sum()
    assert theirs == pytest.approx(float(total), rel=1e-12)


def test_training_by_pyro_lowers_our_bound():
    """SVI on the network of the sites trains what dd.vlb measures."""
    x_0 = 0.3 * torch.randn(64, 2) + 1

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x, t):
            return self.linear(torch.cat([x, t[:, None].to(x)], -1))

    net = Line()
    head = dd.heads.Mean(net)
    sites, guide = as_pyro(VP, head, TIMES, x_0)

    def model():
        pyro.module("net", net)
        sites()

    measure = lambda: float(dd.vlb(VP, head, x_0, torch.tensor(TIMES)).nats.detach().mean())
    before = measure()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
    for _ in range(60):
        svi.step()
    assert measure() < before - 1


def test_the_benchmark_runs(tmp_path):
    root = Path(__file__).parent.parent
    options = ["--warmup", "5", "--samples", "5", "--out", str(tmp_path / "nuts.csv")]
    command = [sys.executable, root / "benchmarks" / "nuts.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "Q01,1.0000," in (tmp_path / "nuts.csv").read_text(), done.stderr
