r"""Steppers of linear diffusions: the factor R, DDIM, exponential steps, splitting, noise."""

import itertools

import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import Normal

import discdiff as dd
from discdiff import estimates, steppers

pytestmark = pytest.mark.usefixtures("float64")

T = torch.tensor([0.02, 0.3, 1.5], dtype=torch.float64)
S = torch.tensor([0.0007, 0.02, 0.3], dtype=torch.float64)


def motion(name):
    """Linear diffusions in their own time, with the standard deviation of auxiliaries."""
    if name == "damped":
        return dd.Linear([[0.0, 4.0], [-1.0, -4.0]]) + dd.Noise([[0.0], [2**0.5]])
    if name == "third":
        Q = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        return dd.Langevin(Q, torch.tensor([0.0, 0.0, 1.0]).diag(), torch.eye(3))
    if name == "varying":
        A = lambda t: torch.stack([-t, 1 + t, -1 - t * t, -2 + t], -1).reshape(*t.shape, 2, 2)
        return dd.Linear(A) + dd.Noise([[0.0], [1.0]])
    half = torch.tensor([[0.1, 0.9, -0.5, 0.3], [0, 0.2, 0.7, -0.8], [0, 0, 0.4, 1], [0, 0, 0, 0]])
    D = torch.eye(4) + 0.2 * (half + half.mT)
    return dd.Langevin(half - half.mT, D, torch.eye(4) + 0.1)


NAMES = ("damped", "third", "full", "varying")
LIFTS = (False, True)


def engine(name, lift):
    process = motion(name)
    return process.lift(Normal(0.1, 0.3)).seen.engine if lift else process.engine


def times(name):
    return (T / 2, S / 2) if name == "varying" else (T, S)


def covariance(solved, t):
    root = solved.root(solved.kernel(t))
    return root @ root.mT


def relative(found, true):
    """The largest error of a covariance, entry by entry, in units of its standard deviations."""
    std = true.diagonal(dim1=-2, dim2=-1).sqrt()
    return float(((found - true).abs() / (std.unsqueeze(-1) * std.unsqueeze(-2))).max())


def transport(solved, s, t):
    """R_s R_t⁻¹: what DDIM applies to the state."""
    return solved.affine(estimates.Mean, s, t, 0.0).a


def flow_rate(solved, t):
    """A + G Σ⁻¹ / 2."""
    A, _, G = solved._system(t)
    inverse = solved.inverse(solved.kernel(t))
    return A + G @ inverse.mT @ inverse / 2


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("name", NAMES)
def test_r_is_a_factor_of_the_covariance(name, lift):
    solved, (t, s) = engine(name, lift), times(name)
    root = transport(solved, s, t)
    assert relative(root @ covariance(solved, t) @ root.mT, covariance(solved, s)) < 1e-11
    if name != "third":  # at t = 0.02 its variances span sixteen orders of magnitude
        assert relative(root @ covariance(solved, t) @ root.mT, covariance(solved, s)) < 2e-13


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("name", NAMES)
def test_r_composes(name, lift):
    solved = engine(name, lift)
    r, s, t = (torch.tensor([v]) for v in (0.01, 0.1, 0.9))
    both = transport(solved, r, s) @ transport(solved, s, t)
    assert torch.allclose(both, transport(solved, r, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("name", NAMES)
def test_r_solves_its_equation(name, lift):
    """Identity 15: from one datum the flow is Φ y₀ + m + R ε with one ε; Cholesky's is not."""
    solved, (s, t) = engine(name, lift), (torch.tensor([0.1]), torch.tensor([0.8]))
    size = solved.size

    def slope(u, entries):
        found = flow_rate(solved, torch.tensor([u]))[0] @ torch.tensor(entries).reshape(size, -1)
        return found.reshape(-1).numpy()

    start = torch.eye(size).reshape(-1).numpy()
    run = solve_ivp(slope, (0.1, 0.8), start, method="DOP853", rtol=1e-11, atol=1e-12)
    forward = torch.tensor(run.y[:, -1]).reshape(size, size)
    back = transport(solved, s, t)[0]
    assert torch.allclose(torch.linalg.inv(forward), back, rtol=0, atol=1e-9)
    wrong = solved.root(solved.kernel(s)) @ solved.inverse(solved.kernel(t))
    assert float((wrong - back).abs().max()) > 0.05


@pytest.mark.parametrize("eta", (0.0, 0.3, 0.999, 1.0))
@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_eta_keeps_the_marginals(name, lift, eta):
    solved, (t, s) = engine(name, lift), times(name)
    for early in (s, torch.zeros(3)):
        move = solved.affine(estimates.Mean, early, t, eta)
        early_, late = solved.kernel(early), solved.kernel(t)
        mean = move.a @ late.load + move.b  # P_s for data of one
        assert torch.allclose(mean, early_.load, rtol=0, atol=1e-11)
        found = move.a @ covariance(solved, t) @ move.a.mT
        found = found + (move.c @ move.c.mT if eta else 0.0)
        true = covariance(solved, early)
        assert torch.allclose(found, true, rtol=0, atol=1e-11)


def test_eta_leads_to_the_bridge():
    solved = engine("damped", True)
    near, bridge = (solved.affine(estimates.Mean, S, T, eta) for eta in (1 - 1e-10, 1.0))
    assert torch.allclose(near.a, bridge.a, rtol=1e-4)


def test_learned_numbers_have_gradients_through_r():
    process = motion("full")
    dd.learn(process)
    (parameter, *_) = [p for p in process.parameters() if p.requires_grad]
    t, s = T[1:2], S[1:2]

    def value():
        return transport(process.engine, s, t).square().sum()

    (slope,) = torch.autograd.grad(value(), parameter)
    index = int(slope.abs().argmax())
    with torch.no_grad():
        flat, step = parameter.reshape(-1), 1e-5
        flat[index] += step
        up = value()
        flat[index] -= 2 * step
        down = value()
        flat[index] += step
    assert torch.allclose((up - down) / (2 * step), slope.reshape(-1)[index], rtol=1e-6)


def vp():
    return (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))


def lifted():
    return motion("damped").on(dd.clock.Linear(0.5, 6.0)).lift(Normal(0.0, 0.2))


def head(process):
    """A network with no symmetry, that speaks of the data."""
    flat = isinstance(process, dd.Lifted)
    return dd.heads.Mean(lambda y, t: torch.tanh(y[..., 0] - 0.5 * y[..., 1] if flat else 1.3 * y))


SHAPE = (5, 3)


def start(process):
    return process.prior(SHAPE).sample()


@pytest.mark.parametrize("make", (vp, lifted))
@pytest.mark.parametrize("order", (1, 2))
def test_a_prepared_run_is_the_steps_one_by_one(make, order):
    process = make()
    stepper, x = steppers.Exponential(order), start(process)
    whole = dd.sample(process, head(process), SHAPE, steps=12, stepper=stepper, start=x)
    memory = stepper.init(process, x)
    for t, s in itertools.pairwise(torch.linspace(1, 0, 13)):
        # Times that differ in memory are not taken for one time.
        t, s = t.repeat(SHAPE[0]), s.repeat(SHAPE[0])
        x, memory = stepper.step(process, head(process), x, t, s, memory)
    assert torch.allclose(whole, process.to_data(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", (vp, lifted))
@pytest.mark.parametrize("kind", (dd.heads.Epsilon, dd.heads.Score, dd.heads.Mean))
def test_all_heads_make_the_same_steps(make, kind):
    process = make()
    exact = dd.Exact(process, torch.tensor([[0.3, -1.0, 0.2], [1.0, 0.4, -0.7]]))
    x = start(process)
    for stepper in (steppers.Ancestral(eta=0.0), steppers.Exponential()):
        runs = [
            dd.sample(process, speaker, SHAPE, grid=[0.9, 0.5, 0.2], stepper=stepper, start=x)
            for speaker in (exact, exact.as_(kind))
        ]
        assert torch.allclose(*runs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", (vp, lifted))
def test_the_first_order_is_ddim(make):
    """Identity 23: DPM-Solver++(1) = DDIM."""
    process = make()
    x, t, s = start(process), torch.tensor(0.6).expand(5), torch.tensor(0.3).expand(5)
    once, _ = steppers.Exponential(order=1).step(process, head(process), x, t, s, None)
    ddim, _ = steppers.Ancestral(eta=0.0).step(process, head(process), x, t, s, None)
    assert torch.allclose(once, ddim, rtol=0, atol=4e-16)
    if make is vp:
        alpha, sigma = ((-vp().clock(v) / 2).exp() for v in (t, s)), ()
        (a, b), _ = alpha, sigma
        c, d = (1 - a**2).sqrt(), (1 - b**2).sqrt()
        level = (a / c).log() - (b / d).log()
        x_0 = head(process)(x, t).value
        plus = (d / c)[:, None] * x - (b * torch.expm1(level))[:, None] * x_0
        assert torch.allclose(once, plus, rtol=0, atol=4e-16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_second_order_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(12)
    integral = -scheduler.alphas_cumprod.double().log()
    clock = dd.clock.Tabulated(torch.linspace(0, 1, 1001), torch.cat([torch.zeros(1), integral]))
    process = (dd.Linear(-0.5) + dd.Noise(1.0)).on(clock)
    x = theirs = torch.randn(SHAPE)
    net = lambda y, t: torch.tanh(y) + 0.1 * y
    for index in scheduler.timesteps:
        theirs = scheduler.step(net(theirs, None), index, theirs).prev_sample
    grid = [*(scheduler.timesteps + 1.0).div(1000).tolist(), 1e-3]
    ours = dd.sample(
        process,
        dd.heads.Epsilon(net),
        SHAPE,
        grid=grid,
        stepper=steppers.Exponential(),
        start=x,
    )
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", (vp, lifted))
@pytest.mark.parametrize(
    "stepper",
    (steppers.Ancestral(eta=0.0), steppers.Exponential(), steppers.Euler(noise=0.0)),
    ids=repr,
)
def test_deterministic_steps_draw_no_noise(make, stepper):
    process = make()
    x = start(process)
    before = torch.random.get_rng_state()
    for speaker in (head(process), dd.Exact(process, torch.randn(2, 3))):
        grid = [0.9, 0.5, 0.2, 0.1] if isinstance(stepper, steppers.Euler) else [0.9, 0.5, 0.0]
        before = torch.random.get_rng_state()
        dd.sample(process, speaker, SHAPE, grid=grid, stepper=stepper, start=x)
        assert torch.equal(before, torch.random.get_rng_state())


def rewound(solved, s, t):
    """Matrix and covariance of half a step of splitting, in own time."""
    law = solved.rewind(torch.eye(solved.size), s.expand(solved.size), t.expand(solved.size))
    return law.mean.mT, law.covariance_matrix[0]


@pytest.mark.parametrize("name", ("damped", "third", "full"))
def test_splitting_runs_the_stationary_process_backwards(name):
    """Identity 24: its linear part is that of (Q − D) S⁻¹; s and t swap under the limit."""
    solved = engine(name, False)
    A, _, G = (v[0] for v in solved._system(torch.zeros(1)))
    _, S = solved._stationary()
    Q = -(A @ S + G / 2)
    assert torch.allclose(Q, -Q.mT, atol=1e-14)
    s, t = torch.tensor([0.35]), torch.tensor([0.8])
    K = (Q - G / 2) @ torch.linalg.inv(S)
    zero = torch.zeros_like(K)
    block = torch.cat([torch.cat([K, G], -1), torch.cat([zero, -K.mT], -1)])
    whole = torch.matrix_exp((t - s) * torch.stack([block, block]))[0]
    size = solved.size
    phi, psi = whole[:size, :size], whole[:size, size:]
    found, cov = rewound(solved, s, t)
    assert torch.allclose(found, phi, rtol=0, atol=1e-13)
    assert torch.allclose(cov, psi @ phi.mT, rtol=0, atol=1e-13)
    forward = solved.flow(s, t)
    assert torch.allclose(found @ S, (forward.phi[0] @ S).mT, atol=1e-13)  # Cov(X_s, X_t)
    assert torch.allclose(found @ S @ found.mT + cov, S, atol=1e-13)


def test_each_half_of_splitting_has_its_own_increment_of_the_clock(monkeypatch):
    process = lifted()
    t, m, s = (torch.full((5,), v) for v in (0.6, 0.4, 0.2))
    x, halves = start(process), []
    kind = type(process.seen.engine)
    rewind = kind.rewind

    def seen(self, x, s, t):
        halves.append(float((t - s)[0]))
        return rewind(self, x, s, t)

    monkeypatch.setattr(kind, "rewind", seen)
    steppers.Splitting(order=1).step(process, head(process), x, t, s, None)
    clock = process.process.clock
    right = [float((clock(a) - clock(b))[0]) for a, b in ((t, m), (m, s))]
    assert halves == pytest.approx(right, abs=1e-14)
    assert abs(right[0] - right[1]) > 0.1  # the published code takes the first increment twice


def test_wrong_numbers_are_refused():
    for make in (
        lambda: steppers.Exponential(order=3),
        lambda: steppers.Splitting(order=0),
        lambda: steppers.Euler(noise=-1.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
    mask = dd.Replace(torch.full((3,), 1 / 3)).on(dd.clock.LogLinear())
    categories = dd.Exact(mask, torch.tensor([[0, 1]]))
    for stepper in (steppers.Exponential(), steppers.Splitting()):
        with pytest.raises(dd.Unsolved, match="linear diffusions"):
            dd.sample(mask, categories, (2, 2), grid=[0.9, 0.1], stepper=stepper)


def test_a_velocity_says_nothing_of_vectors():
    process = motion("full").on(dd.clock.Constant(2.0))
    head = dd.heads.Velocity(lambda x, t: x)
    for stepper in (steppers.Ancestral(), steppers.Ancestral(eta=0.0), steppers.Exponential(2)):
        with pytest.raises(dd.Unsolved, match="Velocity does not determine"):
            dd.sample(process, head, (2, 4), steps=3, stepper=stepper)


def test_a_number_changed_in_place_is_seen():
    process, x, t = motion("third"), torch.ones(1, 3), torch.tensor([0.5])
    before = process.transition(x, torch.zeros(1), t).mean
    process.recipe.Q.mul_(0.5)
    Q, D = process.recipe.Q, process.recipe.D
    exact = torch.linalg.matrix_exp(-(Q + D) * t) @ x[0]
    after = process.transition(x, torch.zeros(1), t).mean[0]
    assert not torch.allclose(before[0], after)
    assert torch.allclose(after, exact, rtol=1e-12)


def runs():
    masked = dd.Replace(dd.one_hot(3, 4)).on(dd.clock.LogLinear())
    counts = dd.Death().on(dd.clock.Logistic(15.0))
    words = dd.heads.Posterior(lambda x, t: x.unsqueeze(-1) * torch.arange(4.0), absent=3)
    missing = dd.heads.Missing(lambda x, t: x - 1)
    net = lambda x, t: {"word": words.net(x["word"], t), "count": missing.net(x["count"], t)}
    both = dd.heads.Product(net, word=dd.heads.Posterior, count=dd.heads.Missing)
    shift = torch.distributions.transforms.AffineTransform(1.0, 2.0)
    return {
        "masked": (masked, words, (5, 3)),
        "counts": (counts, missing, (5, 3)),
        "table": (dd.Product(word=masked, count=counts), both, {"word": (5, 2), "count": (5, 1)}),
        "pushed": (counts.push(shift), missing, (5, 3)),
    }


@pytest.mark.parametrize("name", runs())
def test_prepared_draws_from_bridges_are_the_same_draws(name):
    process, speaker, shape = runs()[name]
    stepper, x = steppers.Ancestral(), process.prior(shape).sample()
    torch.manual_seed(1)
    whole = dd.sample(process, speaker, shape, steps=12, start=x)
    torch.manual_seed(1)
    for t, s in itertools.pairwise(torch.linspace(1, 0, 13)):
        x, _ = stepper.step(process, speaker, x, t.repeat(5), s.repeat(5), None)
    for a, b in zip(_tensors(whole), _tensors(x), strict=True):
        assert torch.equal(a, b)


def _tensors(x):
    return list(x.values()) if isinstance(x, dict) else [x]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_chain_along_no_axis_steps_as_along_the_axes(float64, eta):
    """Noise comes to two coordinates through a third: in turned coordinates the same."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    Q = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    D = torch.diag(torch.tensor([0.0, 0.0, 1.0]))
    plain = dd.Langevin(Q, D, torch.eye(3))
    turned = dd.Langevin(turn @ Q @ turn.T, turn @ D @ turn.T, torch.eye(3))
    x, s, t = torch.randn(4, 3), torch.full((4,), 0.3), torch.full((4,), 2.0)
    said = dd.estimates.Mean(torch.randn(4, 3))
    goal = plain._bridge(said, x, s, t, eta).mean @ turn.T
    found = turned._bridge(dd.estimates.Mean(said.value @ turn.T), x @ turn.T, s, t, eta).mean
    if eta == 0.5:  # between the ends a step is the one nearest to a blend, in a frame
        assert bool(found.isfinite().all())
    else:
        torch.testing.assert_close(found, goal, rtol=1e-8, atol=1e-8)


def chain(size, sources, turn):
    """Coordinates that pull on the next ones, the last with noise; auxiliaries are turned."""
    ahead = torch.ones(size - 1).diag(1)
    noise = (torch.arange(size) >= size - sources).double().diag()
    Q = ahead.T - ahead
    return dd.Langevin(turn @ Q @ turn.T, turn @ noise @ turn.T, torch.eye(size))


def turned_auxiliaries(size, seed):
    """An orthogonal matrix that leaves the first coordinate as it is."""
    turn = torch.eye(size)
    generator = torch.Generator().manual_seed(seed)
    turn[1:, 1:] = torch.linalg.qr(torch.randn(size - 1, size - 1, generator=generator))[0]
    return turn


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size, sources", [(3, 1), (4, 1), (4, 2)])
def test_a_lift_along_no_axis_steps_as_along_the_axes(size, sources, eta):
    """Auxiliaries of one variance may be turned: the data see the same process."""
    for seed in range(4):
        turn = turned_auxiliaries(size, seed)
        plain, turned = (
            chain(size, sources, T).lift(Normal(0.0, 0.2)).seen.engine
            for T in (torch.eye(size), turn)
        )
        for s, t in ((0.0, 0.1), (0.01, 0.1), (0.1, 0.5), (0.01, 3.0)):
            s, t = torch.tensor([s]), torch.tensor([t])
            goal, found = (e.affine(estimates.Mean, s, t, eta) for e in (plain, turned))
            torch.testing.assert_close(found.a, turn @ goal.a @ turn.T, rtol=1e-7, atol=1e-8)
            torch.testing.assert_close(found.b, turn @ goal.b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_a_lift_along_no_axis_follows_the_equation_of_r(seed):
    """R' = (A + G Σ⁻¹ / 2) R, by another solver, in the coordinates in which it is given."""
    solved = chain(4, 1, turned_auxiliaries(4, seed)).lift(Normal(0.0, 0.2)).seen.engine

    def slope(u, entries):
        R = torch.tensor(entries).reshape(4, 4)
        return (flow_rate(solved, torch.tensor([u]))[0] @ R).ravel()

    run = solve_ivp(slope, (0.2, 0.9), torch.eye(4).ravel(), "DOP853", rtol=1e-11, atol=1e-12)
    forward = torch.tensor(run.y[:, -1]).reshape(4, 4)
    back = transport(solved, torch.tensor([0.2]), torch.tensor([0.9]))[0]
    assert torch.allclose(torch.linalg.inv(forward), back, rtol=0, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stepper", [steppers.Ancestral(eta=0.0), steppers.Exponential()])
def test_deterministic_samples_of_a_lift_along_no_axis(stepper, seed):
    """The samples of a system and of the turned one, from turned starts."""
    turn, x, runs = turned_auxiliaries(4, seed), torch.randn(5, 2, 4), []
    read = lambda T: dd.heads.Mean(lambda y, t: torch.tanh((y @ T)[..., 0] - (y @ T)[..., 1]))
    for T in (torch.eye(4), turn):
        whole = chain(4, 1, T).on(dd.clock.Constant(3.0)).lift(Normal(0.0, 0.2))
        options = {"steps": 12, "stepper": stepper, "start": x @ T.T}
        runs.append(dd.sample(whole, read(T), (5, 2), **options))
    assert torch.allclose(*runs, rtol=0, atol=1e-7)


def test_auxiliaries_that_only_turn_with_the_data_leave_them_without_a_density():
    """Data and one auxiliary rotate without noise: given the data the state lies on a line."""
    Q = torch.zeros(4, 4)
    Q[0, 1], Q[1, 0], Q[2, 3], Q[3, 2] = 1.0, -1.0, 1.0, -1.0
    process = dd.Langevin(Q, torch.tensor([0.0, 0.0, 0.0, 1.0]).diag(), torch.eye(4))
    solved = process.lift(Normal(0.0, 0.2)).seen.engine
    assert not solved.reached
    with pytest.raises(dd.Unsolved, match="does not reach every direction"):
        solved.affine(estimates.Mean, torch.tensor([0.1]), torch.tensor([0.5]), 0.0)


def worst_deviation(order, grid):
    """The largest logarithm of a standard deviation over the true one: a chain of k = 3."""
    process = chain(3, 1, torch.eye(3)).on(dd.clock.Constant(10.0))
    generated, mean, variance = (
        torch.Generator().manual_seed(0),
        torch.tensor([0.5, 0.0, -0.5]),
        0.04,
    )

    def posterior_mean(y, t):
        flow = process.process.engine.flow(torch.zeros_like(t), process.clock(t))
        cov = variance * flow.phi @ flow.phi.mT + flow.cov
        rest = torch.linalg.solve(cov, (y - flow.phi @ mean).unsqueeze(-1))
        return mean + variance * (flow.phi.mT @ rest).squeeze(-1)

    options = {"start": torch.randn(2000, 3, generator=generated), "grid": grid}
    stepper = steppers.Exponential(order)
    x = dd.sample(process, dd.heads.Mean(posterior_mean), (2000, 3), stepper=stepper, **options)
    return (x.std(0) / variance**0.5).log()


def test_order_two_overshoots_unless_time_falls_by_a_constant_factor_near_one():
    """Data behind two coordinates: what the docstring of `Exponential` says of grids."""
    uniform = torch.linspace(1, 0, 101).tolist()
    geometric, coarse = ([*torch.logspace(0, -4, n).tolist(), 0.0] for n in (100, 25))
    assert float(worst_deviation(2, uniform).abs().max()) > 0.4
    assert float(worst_deviation(2, coarse).max()) > 1.0
    assert float(worst_deviation(2, geometric).abs().max()) < 0.12
    for grid in (uniform, geometric, coarse):
        assert float(worst_deviation(1, grid).max()) < 0.05
