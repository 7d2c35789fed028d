r"""Steppers of jump processes, on spaces whose laws are summed over all states.

The toy has two sites of four states, and data of full support that are not independent. Runs
start from the marginal at 1, so that nothing but the steps is in error. There is no Monte Carlo,
but where draws are compared with laws.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import discdiff as dd
from discdiff import enumeration, steppers
from discdiff.enumeration import marginal, total_variation
from discdiff.heads import Exact
from discdiff.steppers.jumps import forward, reversal

pytestmark = pytest.mark.usefixtures("float64")

K, STEPS = 4, (8, 16, 32, 64, 128)


class Toy:
    """Two sites: a process, the law of the data, the exact head and the law at 1."""

    def __init__(self, process, mix=1.0, sites=2):
        generator = torch.Generator().manual_seed(1)
        draw = lambda n, least: torch.rand(n, generator=generator, dtype=torch.float64) + least
        alone = [draw(K, 0.3) for _ in range(sites)]
        alone = torch.stack([(v / v.sum()).log() for v in alone])
        together = draw(K**sites, 0.0) ** 2
        self.process, self.states = process, enumeration.states(process, (sites,))
        product = alone.gather(1, self.states.T).sum(0).exp()
        self.data = mix * together / together.sum() + (1 - mix) * product
        self.exact = Exact(process, self.states, self.data)
        self.shape, self.prior = (sites,), self

    def at(self, t):
        """The law of the noisy state on all states."""
        size = len(self.states)
        law = self.process.marginal(self.states.repeat_interleave(size, 0), t)
        return self.data @ law.log_prob(self.states.repeat(size, 1)).exp().reshape(size, size)

    def log_prob(self, x):
        return self.at(1.0).log()[x @ torch.tensor([K, 1])[-x.shape[1] :]]

    def error(self, stepper, steps, head=None):
        law = marginal(
            self.process, head or self.exact, self.shape, stepper, steps=steps, prior=self
        )
        assert abs(float(law.probs.sum()) - 1) < 1e-7
        return total_variation(law, self.data)

    def errors(self, stepper, steps=STEPS):
        return [self.error(stepper, n) for n in steps]


def replaced():
    return dd.Replace(torch.full((K,), 1 / K)).on(dd.clock.Constant(3.0))


def walk():
    Q = torch.diag(torch.ones(K - 1), 1) + torch.diag(torch.ones(K - 1), -1)
    return dd.RateMatrix(Q - Q.sum(1).diag()).on(dd.clock.Linear(0.5, 4.0))


def ratios(errors):
    return [a / b for a, b in zip(errors, errors[1:], strict=False)]


def generator(toy, t, noise=1.0, both=False):
    """The matrix of reverse rates on all states, per unit of own time."""
    size = len(toy.states)
    time = torch.full((size,), t)
    (leaf,) = toy.process.leaves(time)
    jumps = reversal(leaf, toy.exact(toy.states, time), toy.states, noise)
    jumps = jumps + forward(leaf, toy.states) if both else jumps
    strides = torch.tensor([K, 1])[:, None]
    shift = ((jumps.points - toy.states.unsqueeze(-1)) * strides).flatten(1)
    index = (torch.arange(size)[:, None] + shift).clamp(0, size - 1)
    G = torch.zeros(size, size).scatter_add(1, index, jumps.rates.flatten(1))
    return G - G.sum(1).diag()


# -- generators -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [replaced, walk])
def test_the_reversal_undoes_the_process(make):
    """p R̂ = −p R, where p R is the change of the marginal by the process itself."""
    toy, t = Toy(make()), 0.4
    p, (leaf,) = toy.at(t), list(toy.process.leaves(torch.full((16,), t)))
    jumps = forward(leaf, toy.states)
    strides = torch.tensor([K, 1])[:, None]
    shift = ((jumps.points - toy.states.unsqueeze(-1)) * strides).flatten(1)
    R = torch.zeros(16, 16).scatter_add(
        1, (torch.arange(16)[:, None] + shift).clamp(0, 15), jumps.rates.flatten(1)
    )
    R = R - R.sum(1).diag()
    gap = float((p @ generator(toy, t) + p @ R).abs().max())
    print(f"{make.__name__}: p (R̂ + R) = {gap:.1e}")
    assert gap < 1e-15


@pytest.mark.parametrize("make", [replaced, walk])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 3.0])
def test_every_noise_level_has_the_same_marginals(make, noise):
    toy, t = Toy(make()), 0.4
    p = toy.at(t)
    gap = float((p @ generator(toy, t, noise) - p @ generator(toy, t)).abs().max())
    print(f"{make.__name__}, noise {noise}: {gap:.1e}")
    assert gap < 1e-15
    flux = p[:, None] * generator(toy, t, 0.0)
    assert float((flux * flux.T)[~torch.eye(16, dtype=torch.bool)].abs().max()) < 1e-30


@pytest.mark.parametrize("make", [replaced, walk])
def test_the_corrector_is_reversible(make):
    toy, t = Toy(make()), 0.4
    p, G = toy.at(t), generator(toy, t, both=True)
    flux = p[:, None] * G
    stationary, balance = float((p @ G).abs().max()), float((flux - flux.T).abs().max())
    print(f"{make.__name__}: stationary {stationary:.1e}, detailed balance {balance:.1e}")
    assert stationary < 1e-15 and balance < 1e-15


def test_the_conditional_reversal_is_a_flow_and_a_metropolis_chain():
    r"""reverse(uniform | x_0) = α/(1 − α) 1[y = x_0] + (1/K) min(1, q(y)/q(x))."""
    process, t = dd.Replace(torch.full((K,), 1 / K)), torch.full((K,), 0.7)
    x, x_0 = torch.arange(K), torch.full((K,), 2)
    (leaf,) = process.leaves(t)
    rates = reversal(leaf, dd.estimates.Data(x_0), x).rates
    alpha = float((-t[0]).exp())
    q = torch.full((K,), (1 - alpha) / K)
    q[2] += alpha
    flow = alpha / (1 - alpha) * (torch.arange(K) == 2).double().expand(K, -1)
    metropolis = (q[None] / q[:, None]).clamp(max=1) / K
    goal = (flow + metropolis) * (1 - torch.eye(K))
    gap = float((rates - goal).abs().max())
    print(f"flow + Metropolis: {gap:.1e}")
    assert gap < 1e-15
    least = reversal(leaf, dd.estimates.Data(x_0), x, 0.0).rates
    torch.testing.assert_close(least, flow * (1 - torch.eye(K)), rtol=0, atol=1e-15)


# -- orders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [replaced, walk])
def test_euler_and_analytic_halve_and_analytic_is_better(make):
    toy = Toy(make(), mix=0.5)
    euler, analytic = toy.errors(steppers.Euler()), toy.errors(steppers.Analytic())
    print(f"{make.__name__}: Euler", euler, ratios(euler))
    print(f"{make.__name__}: analytic", analytic, ratios(analytic))
    assert all(1.8 < r < 2.2 for r in ratios(euler) + ratios(analytic))
    assert all(a < e for a, e in zip(analytic, euler, strict=True))


@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("kind", [steppers.Euler, steppers.TauLeaping])
def test_every_noise_level_is_of_first_order(kind, noise):
    errors = Toy(replaced(), mix=0.5).errors(kind(noise=noise), (64, 128, 256))
    print(kind.__name__, noise, errors, ratios(errors))
    assert all(1.8 < r < 2.2 for r in ratios(errors))


@pytest.mark.parametrize("theta", [0.35, 0.5])
@pytest.mark.parametrize("make", [replaced, walk])
def test_trapezoidal_is_of_second_order(make, theta):
    """Where sites depend on each other so little that no rate halves by another's jump."""
    errors = Toy(make(), mix=0.2).errors(steppers.Trapezoidal(theta), (32, 64, 128, 256))
    print(f"{make.__name__}, theta {theta}:", errors, ratios(errors))
    assert all(3.6 < r < 4.4 for r in ratios(errors))


def test_trapezoidal_is_of_second_order_for_one_site_of_any_law():
    """Rates of one site fall to nothing by a jump: cut off as published they leave order 1."""
    errors = Toy(replaced(), sites=1).errors(steppers.Trapezoidal(), (64, 128, 256, 512))
    print("one site:", errors, ratios(errors))
    assert all(3.6 < r < 4.4 for r in ratios(errors))


def test_trapezoidal_falls_to_first_order_where_sites_exclude_each_other():
    """What the docstring says; it is still far better than Euler."""
    toy = Toy(replaced(), mix=1.0)
    errors = toy.errors(steppers.Trapezoidal(), (32, 64, 128, 256))
    print("excluding sites:", errors, ratios(errors))
    assert ratios(errors)[-1] < 3.6
    assert errors[0] < toy.error(steppers.Analytic(), 32) / 3


@pytest.mark.parametrize("chain", [dd.Replace(dd.one_hot(3, 4)), dd.Masking([1.0, 2.0, 0.5])])
def test_trapezoidal_falls_to_first_order_where_rates_are_infinite_at_the_data(chain):
    """And leaves masks; stopped before, it is of second order. Laws of one site, summed."""
    process, x, data = chain.on(dd.clock.Constant(1.0)), torch.arange(3)[:, None], [0.2, 0.5, 0.3]
    data = torch.tensor(data)
    states = torch.arange(4)[:, None]

    def at(t):
        law = process.marginal(x.repeat_interleave(4, 0), t)
        return data @ law.log_prob(states.repeat(3, 1)).exp().reshape(3, 4)

    class Late:
        def log_prob(self, x):
            return at(1.0).log()[x[:, 0]]

    exact = Exact(process, x, data)

    def law(n, end, stepper):
        grid = torch.linspace(1, end, n + 1)
        return marginal(process, exact, (1,), stepper, grid=grid, prior=Late()).probs

    half = steppers.Trapezoidal()
    errors = {end: [total_variation(law(n, end, half), at(end)) for n in (32, 64, 128)]
              for end in (0.0, 0.1)}  # fmt: skip
    print(type(chain).__name__, errors, {end: ratios(v) for end, v in errors.items()})
    assert all(1.8 < r < 2.2 for r in ratios(errors[0.0]))
    assert all(3.6 < r < 4.4 for r in ratios(errors[0.1]))
    left = [float(law(32, 0.0, v)[3]) for v in (half, steppers.Euler())]
    print("masks left:", left)
    assert left[0] > 2 * left[1] > 0


@pytest.mark.parametrize("make", [replaced, walk])
def test_a_corrector_is_of_first_order_and_changes_nothing_that_is_exact(make):
    toy = Toy(make(), mix=0.5)
    errors = toy.errors(steppers.Corrector(steppers.Euler(), steps=1, size=0.5), (64, 128, 256))
    print(f"{make.__name__}: corrected", errors, ratios(errors))
    assert all(1.7 < r < 2.3 for r in ratios(errors))
    assert toy.error(steppers.Corrector(steppers.Ancestral(), steps=0), 3) < 1e-12


# -- analytic steps -------------------------------------------------------------------------------

SPOKEN = (dd.heads.LeaveOneOut, dd.heads.Posterior, dd.heads.Ratio, dd.heads.Conditional)


@pytest.mark.parametrize("make", [replaced, walk])
@pytest.mark.parametrize("kind", SPOKEN)
def test_an_analytic_step_is_exact_for_one_site(make, kind):
    """Posterior, leave-one-out and staggered (Tweedie) steps are one law, of any step size."""
    toy = Toy(make(), sites=1)
    errors = [toy.error(steppers.Analytic(), n, toy.exact.as_(kind)) for n in (1, 2, 7)]
    print(make.__name__, kind.__name__, errors)
    assert errors[0] < 2e-13  # ratios are carried back by the inverse of P, of norm e^Λ
    assert max(errors[1:]) < 4e-15


@pytest.mark.parametrize("make", [replaced, walk])
def test_analytic_steps_agree_whatever_the_head_says(make):
    toy = Toy(make())
    errors = [toy.error(steppers.Analytic(), 8, toy.exact.as_(kind)) for kind in SPOKEN]
    errors.append(toy.error(steppers.Analytic(), 8))
    print(errors)
    assert max(errors) - min(errors) < 1e-12


def test_analytic_on_coupled_sites_is_exact():
    generator = torch.Generator().manual_seed(0)
    Q = torch.rand(6, 6, generator=generator)
    Q = Q - Q.diag().diag()
    process = dd.RateMatrix(Q - Q.sum(1).diag(), sites=(2, 3)).on(dd.clock.Constant(1.0))
    states = enumeration.states(process, (2,))
    data = torch.rand(6, generator=generator).softmax(0)
    exact = Exact(process, states, data)
    start = process.marginal(states.repeat_interleave(6, 0), 1.0).log_prob(states.repeat(6, 1))

    class Start:
        def log_prob(self, x):
            return (data @ start.exp().reshape(6, 6)).log()

    for kind in (dd.heads.Ratio, dd.heads.LeaveOneOut):
        law = marginal(process, exact.as_(kind), (2,), steppers.Analytic(), steps=3, prior=Start())
        assert total_variation(law, data) < 1e-12
    law = marginal(process, exact, (2,), prior=Start())
    assert total_variation(law, data) < 1e-9


def test_analytic_refuses_what_it_cannot_do():
    real = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
    with pytest.raises(dd.Unsolved, match="does not only jump"):
        dd.sample(real, dd.heads.Mean(lambda x, t: x), (2, 3), stepper=steppers.Analytic())
    death = dd.Death().on(dd.clock.Constant(1.0))
    head = dd.heads.Missing(lambda x, t: x)
    with pytest.raises(dd.Unsolved, match="Missing"):
        dd.sample(death, head, (2, 3), stepper=steppers.Analytic(), start=torch.zeros(2, 3))


# -- draws ----------------------------------------------------------------------------------------

DRAWN = {
    "Euler": steppers.Euler(),
    "Euler, noise 1/2": steppers.Euler(noise=0.5),
    "leaps": steppers.TauLeaping(),
    "leaps, noise 0": steppers.TauLeaping(noise=0.0),
    "analytic": steppers.Analytic(),
    "trapezoidal": steppers.Trapezoidal(0.4),
    "corrector": steppers.Corrector(steppers.Euler(), steps=2, size=0.7),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("make", [replaced, walk])
def test_draws_have_the_law_of_the_step(make, name):
    """χ² of 40 000 draws of three steps against the law; beyond 5 standard deviations fails."""
    torch.manual_seed(0)
    toy, count = Toy(make()), 40_000
    for head in (toy.exact.as_(dd.heads.Posterior), toy.exact.as_(dd.heads.LeaveOneOut)):
        law = marginal(toy.process, head, (2,), DRAWN[name], grid=[0.8, 0.5, 0.2], prior=toy)
        start = toy.states[torch.multinomial(toy.at(1.0), count, True)]
        x = dd.sample(toy.process, head, (count, 2), grid=[0.8, 0.5, 0.2], stepper=DRAWN[name],
                      start=start)  # fmt: skip
        seen, mean = torch.bincount(law.index(x), minlength=16), count * law.probs
        excess = float((((seen - mean) ** 2 / mean).sum() - 15) / 30**0.5)
        print(make.__name__, name, f"{excess:.2f} standard deviations")
        assert excess < 5


def test_ordinal_leaps_add_up_and_are_cut_off():
    """Poisson numbers of both neighbours: the law is a difference of two, clamped to the ends."""
    torch.manual_seed(0)
    process, count = walk(), 40_000
    head = dd.heads.LeaveOneOut(lambda x, t: torch.zeros(*x.shape, K))
    x = torch.full((count,), 1)
    t, s = torch.full((count,), 0.9).double(), torch.full((count,), 0.5).double()
    y, _ = steppers.TauLeaping(ordinal=True).step(process, head, x, t, s, None)
    (leaf,), (goal,) = process.leaves(t[:1]), process.leaves(s[:1])
    rates = reversal(leaf, head(x[:1], t[:1]), x[:1]).rates[0] * (leaf.time - goal.time)
    up, down = (torch.distributions.Poisson(r) for r in (rates[2], rates[0]))
    n = torch.arange(40.0)
    joint = up.log_prob(n)[:, None] + down.log_prob(n)[None]
    goal = (1 + n[:, None] - n[None]).clamp(0, K - 1).long().flatten()
    law = torch.zeros(K).scatter_add(0, goal, joint.exp().flatten())
    assert float(rates[3]) == 0 and bool(((y >= 0) & (y < K)).all())
    mean = count * law
    chi = float(((torch.bincount(y, minlength=K) - mean) ** 2 / mean).sum())
    print(f"ordinal leaps: chi square {chi:.1f} of 3")
    assert chi < 20


def test_counts_are_cut_off_at_the_ends_of_their_space():
    torch.manual_seed(0)
    urn = dd.Ehrenfest(4).on(dd.clock.Constant(3.0))
    exact = Exact(urn, torch.arange(5.0), torch.full((5,), 0.2))
    x = dd.sample(urn, exact, (500,), steps=2, stepper=steppers.TauLeaping())
    assert bool(((x >= 0) & (x <= 4)).all())


# -- cached steps, infilling ----------------------------------------------------------------------


class Counting(nn.Module):
    """A network that does not read the time, and counts its calls."""

    def __init__(self, size):
        super().__init__()
        torch.manual_seed(3)
        self.table, self.calls = torch.randn(size, size), 0

    def forward(self, x, t):
        self.calls += 1
        others = self.table[x].sum(1, keepdim=True) - self.table[x]
        return others


def masked(size=5):
    return dd.Replace(dd.one_hot(size - 1, size)).on(dd.clock.LogLinear())


def test_cached_steps_ask_only_after_a_change_and_draw_the_same():
    net, process = Counting(5), masked()
    head = dd.heads.Posterior(net, absent=4)
    runs = {}
    for stepper in (steppers.Ancestral(), steppers.Cached(steppers.Ancestral())):
        torch.manual_seed(0)
        net.calls = 0
        runs[type(stepper).__name__] = dd.sample(process, head, (2, 6), steps=400, stepper=stepper)
        print(type(stepper).__name__, "calls:", net.calls)
    assert net.calls <= 2 * 6 + 1
    assert torch.equal(runs["Ancestral"], runs["Cached"])


@pytest.mark.parametrize("wrap", [lambda v: v, steppers.Cached])
def test_corrected_first_hitting_leaves_no_mask(wrap):
    """It goes on step by step where others are between: the law is that of the data."""
    torch.manual_seed(0)
    process, atoms = masked(3), torch.cartesian_prod(*[torch.arange(2)] * 2)
    weights = torch.tensor([0.4, 0.1, 0.2, 0.3])
    stepper = steppers.Corrector(wrap(steppers.FirstHitting()))
    x = dd.sample(process, Exact(process, atoms, weights), (4000, 2), steps=30, stepper=stepper)
    seen = (x.unsqueeze(1) == atoms).all(-1).double().mean(0)
    torch.testing.assert_close(seen, weights, rtol=0, atol=0.03)


EVERY = (
    steppers.Euler(),
    steppers.TauLeaping(),
    steppers.Analytic(),
    steppers.Trapezoidal(),
    steppers.Corrector(steppers.Analytic(), steps=1, size=0.3),
    steppers.Cached(steppers.Analytic()),
    steppers.FirstHitting(),
    steppers.Uniformization(),
    steppers.Gillespie(),
)


@pytest.mark.parametrize("stepper", EVERY, ids=lambda v: type(v).__name__)
def test_infilling_keeps_what_is_known(stepper):
    torch.manual_seed(0)
    values, mask = torch.tensor([1, 0, 3, 0]), torch.tensor([True, True, False, False])
    if isinstance(stepper, steppers.FirstHitting):
        process, head = masked(), dd.heads.Posterior(Counting(5), absent=4)
    else:
        process, head = replaced(), dd.heads.LeaveOneOut(Counting(4))
    x = dd.sample(process, head, (3, 4), steps=3, stepper=stepper, known=(values, mask))
    assert bool((x[:, :2] == values[:2]).all()) and bool((x < K).all())


TOKENS = torch.tensor([[-1.0, 0.7, 0.3], [0.1, -0.5, 0.4], [0.6, 0.2, -0.8]])
HIDING = {  # the mask is the last state, at Λ = ∞ where runs start
    "mask": lambda: dd.Replace(dd.one_hot(3, 4)),
    "mask each": lambda: dd.Masking([1.0, 2.0, 0.5]),
    "kill": lambda: dd.Killing(dd.RateMatrix(TOKENS)),
    "kill replaced": lambda: dd.Killing(dd.Replace([1 / 3] * 3), 2.0),
}


def infilled(name, clamped, stepper, draws=6000):
    """Draws of two free sites beside a known one, as a table, and their law given that one."""
    torch.manual_seed(0)
    process = HIDING[name]().on(dd.clock.LogLinear())
    data = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(2)).double() ** 2
    atoms = torch.cartesian_prod(*[torch.arange(3)] * 3)
    known = torch.tensor([0, 2, 0]), torch.tensor([False, True, False])
    weights, given = (data / data.sum()).flatten(), data[:, 2] / data[:, 2].sum()
    options = {} if clamped else {"known": known}
    if clamped:
        process, kept = process.given(known), atoms[:, 1] == 2
        atoms, weights = atoms[kept], given.flatten()
    head = Exact(process, atoms, weights)
    x = dd.sample(process, head, (draws, 3), steps=8, stepper=stepper, **options)
    assert bool((x[:, 1] == 2).all()) and bool((x < 3).all())
    return torch.bincount(x[:, 0] * 3 + x[:, 2], minlength=9).view(3, 3) / draws, given


@pytest.mark.parametrize("name", HIDING)
def test_clamped_sites_leave_the_others_their_law_from_infinity(name):
    """Given what is clamped, the draws of the exact head are exact for any steps."""
    seen, goal = infilled(name, True, steppers.Ancestral())
    assert total_variation(seen, goal) < 0.025


@pytest.mark.parametrize("name", ["mask", "mask each"])
def test_what_is_known_of_masked_sites_is_shown_at_once(name):
    seen, goal = infilled(name, False, steppers.Ancestral())
    assert total_variation(seen, goal) < 0.025


def test_what_is_known_elsewhere_is_drawn_anew_and_approximate():
    seen, goal = infilled("kill", False, steppers.Ancestral())
    assert total_variation(seen, goal) > 0.04


@pytest.mark.parametrize("name", ["mask each", "kill", "kill replaced"])
def test_a_token_that_is_held_at_infinity_is_bridged_as_from_earlier(name):
    """The limit: bridges and posteriors of a token at an own time of 80."""
    process, x = HIDING[name](), torch.arange(4)
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    says = dd.estimates.Posterior(logits.double(), absent=(3,))
    s, late = torch.full((4,), 0.7), torch.full((4,), 80.0)
    laws = [process.engine.bridge(says, x, s, t) for t in (late, late * torch.inf)]
    tables = [torch.stack([law.log_prob(torch.full_like(x, k)) for k in range(4)]) for law in laws]
    torch.testing.assert_close(tables[1].exp(), tables[0].exp(), rtol=1e-8, atol=1e-9)


def test_a_corrector_of_a_diffusion_is_langevin():
    """Data N(0, 1) under VP stay N(0, 1): many corrector steps keep them so."""
    torch.manual_seed(0)
    vp = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 4.0))
    head = dd.heads.Score(lambda x, t: -x)
    stepper = steppers.Corrector(steppers.Ancestral(), steps=3, size=1.0)
    x = dd.sample(vp, head, (20_000,), steps=50, stepper=stepper)
    assert abs(float(x.mean())) < 0.03 and abs(float(x.var()) - 1) < 0.05


def test_ratios_of_counts_are_told_what_they_serve():
    process = dd.Ehrenfest(5).on(dd.clock.Constant(2.0))
    head, x = dd.heads.Ratio(lambda x, t: torch.zeros(*x.shape, 2)), torch.tensor([[1.0]])
    assert dd.loss(process, head, x, 0.5).shape == (1,)
    for ask in (lambda: dd.elbo(process, head, x), lambda: dd.sample(process, head, (1, 1))):
        with pytest.raises(dd.Unsolved, match="does not say what x_0 was.*Euler"):
            ask()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["LeaveOneOut", "Conditional", "Ratio"])
@pytest.mark.parametrize(
    "stepper", ["Ancestral", "Analytic", "Euler", "TauLeaping", "Trapezoidal"]
)
@pytest.mark.parametrize("chain", [dd.Replace([0.25] * 4), dd.Ring(4)])
def test_what_is_no_law_is_not_drawn_from(chain, stepper, kind, value):
    """Overflown logits have no probabilities and no rates: a draw would be of no state at all."""
    process = chain.on(dd.clock.Constant(1.0))
    head = getattr(dd.heads, kind)(lambda x, t: torch.zeros(*x.shape, 4) + value)
    with pytest.raises(ValueError, match=r"finite sum|NaN"):
        stepper = getattr(dd.steppers, stepper)()
        dd.sample(process, head, (3, 2), grid=[0.9, 0.5, 0.1], stepper=stepper)


def test_leaps_of_counts_need_finite_rates():
    process = (dd.Death() + dd.Immigration(2.0)).on(dd.clock.Constant(1.0))
    head = dd.heads.Ratio(lambda x, t: torch.full((*x.shape, 2), torch.inf))
    with pytest.raises(ValueError, match="rates of leaving a state must have a finite sum"):
        leap = dd.steppers.TauLeaping()
        dd.sample(process, head, (3, 2), grid=[0.9, 0.5, 0.1], stepper=leap)
