"""The public surface, as a newcomer meets it: what a snippet returns, not just that it runs.

Means of random quantities are compared within 5 standard errors at a fixed seed: a failure by
chance has probability 6e-7 each.
"""

import inspect
import math

import pytest
import torch
from pyro.distributions import Normal

import discdiff as dd

B, D, K = 6, 3, 5
MASK = K - 1


@pytest.fixture(autouse=True)
def _reproducible():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def vp():
    return (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))


def uniform():
    return dd.Replace(torch.full((K,), 1 / K))


def masked():
    return dd.Replace(dd.one_hot(MASK, K)).on(dd.clock.LogLinear())


def blackout():
    return dd.Death().on(dd.clock.Logistic(15.0))


def poisson():
    return dd.Death() + dd.Immigration(2.0)


def random_chain(size=K):
    Q = torch.rand(size, size)
    return dd.RateMatrix(Q - Q.sum(1).diag())


def table():
    return dd.Product(income=vp(), job=uniform().on(dd.clock.LogLinear()), visits=blackout())


def table_data(batch=B):
    return {
        "income": torch.randn(batch),
        "job": torch.randint(0, K, (batch,)),
        "visits": torch.randint(0, 9, (batch,)).to(torch.get_default_dtype()),
    }


REALS = torch.tensor([[-1.0, 0.5, 2.0], [0.3, -0.4, 1.0]], dtype=torch.float64)
WORDS = torch.tensor([[0, 1, 2], [3, 3, 0]])
COUNTS = torch.tensor([[0.0, 3.0, 7.0], [2.0, 1.0, 5.0]], dtype=torch.float64)

CASES = {
    "vp": (vp, REALS, "Normal"),
    "uniform": (lambda: uniform().on(dd.clock.LogLinear()), WORDS, "Replaced"),
    "masked": (masked, WORDS, "Replaced"),
    "chain": (lambda: random_chain().on(dd.clock.Constant(3.0)), WORDS, "Table"),
    "blackout": (blackout, COUNTS, "Thinned"),
    "poisson": (lambda: poisson().on(dd.clock.Constant(6.0)), COUNTS, "Convolution"),
}


@pytest.fixture(params=list(CASES))
def case(request):
    make, x_0, law = CASES[request.param]
    return make(), x_0, law


def agrees(values, truth):
    """Whether the mean of independent values is the truth, within 5 standard errors."""
    error = values.std() / math.sqrt(values.numel())
    assert abs(float(values.mean() - truth)) <= 5 * float(error), (values.mean(), truth, error)


# -- declare --------------------------------------------------------------------------------------


def test_every_name_of_the_surface_is_there():
    verbs = (
        "simulate explain times loss path_kl elbo vlb ratio_matching cross_entropy "
        "implicit_score_matching reverse sample log_prob check learn one_hot "
        "validate set_validation"
    )
    terms = (
        "Linear Field Noise RateMatrix Replace Death Immigration Birth Ehrenfest Reaction Jump "
        "Drift Diffusion"
    )
    combinators = "Sum Timed Chain Product Mixture Pushed Scaled Given Exact Unsolved"
    for name in f"{verbs} {terms} {combinators}".split():
        assert hasattr(dd, name), name
    inside = {
        dd.heads: "Mean Epsilon Velocity Score Normal Missing Turnover Posterior LeaveOneOut "
        "Conditional Ratio Product",
        dd.clock: "Constant Linear Cosine LogLinear Logistic Geometric Function Learned Tabulated",
        dd.steppers: "Ancestral Euler Heun Churn TauLeaping Analytic Trapezoidal Corrector Cached "
        "Uniformization FirstHitting Gillespie",
        dd.inverse: "Observed Reweighted Likelihood Tweedie Covariance",
        dd.guidance: "ClassifierFree Classifier AtMost Temperature TopP EveryChange FirstOrder",
        dd.enumeration: "states marginal log_prob total_variation",
        dd.weights: "NLL Flat Simple Blackout MinSNR",
        dd.matching: "Log OneAgainstRest Squared",
        dd.grids: "UniformTime UniformIntegral UniformLogit Karras",
        dd.nn: "MLP Standardise Diffusers Transformer HollowTransformer Masked Energy",
    }
    for module, names in inside.items():
        for name in names.split():
            assert hasattr(module, name), f"{module.__name__}.{name}"


def test_every_public_name_is_documented():
    for name in dir(dd):
        value = getattr(dd, name)
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            assert value.__doc__, name


def test_vp_is_the_published_process():
    x_0 = REALS
    law = vp().marginal(x_0, 0.4)
    integral = 0.1 * 0.4 + 0.5 * (20.0 - 0.1) * 0.4**2
    assert torch.allclose(law.mean, math.exp(-integral / 2) * x_0, rtol=1e-13)
    assert torch.allclose(law.variance, torch.tensor(1 - math.exp(-integral)), rtol=1e-13)


def test_masked_hides_a_share_t_of_the_tokens():
    x_0 = torch.randint(0, MASK, (1, 4000))
    x_t = masked().marginal(x_0, 0.3).sample()
    hidden = x_t == MASK
    agrees(hidden.double().flatten(), 0.3)
    assert torch.equal(x_t[~hidden], x_0[~hidden])


def test_a_state_stands_still_until_time_passes(case):
    process, x_0, _ = case
    assert torch.equal(process.transition(x_0, 0.3, 0.3).sample(), x_0)


# -- derive ---------------------------------------------------------------------------------------


def test_laws_have_a_batch_and_an_event(case):
    process, x_0, kind = case
    law = process.transition(x_0, 0.1, 0.6)
    x_t = law.sample()
    assert x_t.shape == x_0.shape
    assert x_t.dtype == x_0.dtype
    assert tuple(law.batch_shape) == (2,) and tuple(law.event_shape) == (D,)
    assert law.log_prob(x_t).shape == (2,)
    assert kind in repr(type(getattr(law, "base_dist", law)))
    bridge = process.bridge(x_0, x_t, 0.3, 0.6)
    assert bridge.log_prob(bridge.sample()).shape == (2,)
    for law in (process.limit((2, D)), process.prior((2, D))):
        assert law.sample().shape == (2, D) and law.log_prob(law.sample()).shape == (2,)


@pytest.mark.parametrize("t", [0.6, torch.tensor(0.6), torch.tensor([0.6, 0.2])])
def test_times_are_numbers_scalars_or_one_per_sample(case, t):
    process, x_0, _ = case
    assert process.marginal(x_0, t).sample().shape == x_0.shape


def test_variance_exploding_noise_has_a_prior_but_no_limit():
    ve = dd.Noise(1.0).on(dd.clock.Geometric(0.01, 10.0))
    with pytest.raises(dd.Unsolved, match="no limit law"):
        ve.limit((2, D))
    variance = ve.prior((2, D)).variance
    assert torch.allclose(variance, torch.full((2, D), 10.0**2 - 0.01**2), rtol=1e-12)


def test_simulate_gives_one_state_per_time(case):
    process, x_0, _ = case
    path = dd.simulate(process, x_0, [0.0, 0.3, 0.9])
    assert path.shape == (3, *x_0.shape)
    assert torch.equal(path[0], x_0)


def test_simulate_follows_the_law_where_it_is_solved_and_where_not():
    x_0 = torch.full((4000, 1), 2.0)
    exact = dd.simulate(dd.Linear(-1.0) + dd.Noise(0.5), x_0, [1.0])[-1]
    euler = dd.simulate(dd.Field(lambda x, t: -x) + dd.Noise(0.5), x_0, [1.0], steps=256)[-1]
    for x in (exact, euler):
        agrees(x.flatten(), 2.0 * math.exp(-1))
        agrees((x - x.mean()).square().flatten(), (1 - math.exp(-2)) / 8)


def test_explain_names_engine_branch_and_limit_of_every_part():
    plan = dd.explain(table())
    assert [p.part for p in plan.plans] == ["income", "job", "visits"]
    assert [p.engine for p in plan.plans] == ["Gaussian", "Replacement", "PureDeath"]
    income, job, visits = plan.plans
    assert income.branch == "scalar, stable" and income.limit == "Normal, mean 0, variance 1"
    assert job.branch == "uniform π" and "LeaveOneOut" in job.heads
    assert visits.heads == ("Missing", "Posterior", "Ratio") and visits.limit == "certain: 0"
    text = str(plan)
    for word in ("income", "Linear(-0.5) + Noise(1)", "Logistic(15)", "Truncated {Jump}"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 99


def test_explain_says_why_there_is_no_limit_or_no_engine():
    (ve,) = dd.explain(dd.Noise(1.0).on(dd.clock.Geometric(0.01, 10.0))).plans
    assert ve.limit.startswith("none: there is no limit law")
    (field,) = dd.explain(dd.Field(lambda x, t: -(x**3)) + dd.Noise(1.0)).plans
    assert field.engine == "none" and "Field + Noise" in field.reason and not field.heads
    reactions = dd.Reaction([-1, -1], lambda n: n[..., 0] * n[..., 1]) + dd.Reaction(
        [1, 1], lambda n: torch.ones_like(n[..., 0])
    )
    (plan,) = dd.explain(reactions).plans
    assert plan.engine == "Truncated" and plan.reason.startswith("handed on by Particles")


def test_explain_lists_the_heads_that_determine_the_score(case):
    process, x_0, _ = case
    (plan,) = dd.explain(process).plans
    t = torch.full((2,), 0.5)
    exact = dd.Exact(process, x_0)
    for kind in ("Mean", "Epsilon", "Missing", "Turnover", "Posterior", "LeaveOneOut", "Ratio"):
        try:
            loss = dd.loss(process, exact.as_(getattr(dd.heads, kind)), x_0, t)
        except dd.Unsolved:
            # A head may be read although the exact one has no such form (a leave-one-out law is
            # not determined where the mask cannot be undone).
            assert kind not in plan.heads or kind == "LeaveOneOut"
        else:
            assert kind in plan.heads and loss.shape == (2,)


# -- learn ----------------------------------------------------------------------------------------


def test_an_epsilon_head_has_the_textbook_loss():
    process, x_0, t = vp(), REALS, torch.tensor([0.3, 0.7])
    x_t = process.marginal(x_0, t).sample()
    head = dd.heads.Epsilon(lambda x, t: torch.zeros_like(x))
    loss = dd.loss(process, head, x_0, t, x_t=x_t)
    law = process.marginal(x_0, t)
    noise = (x_t - law.mean) / law.variance.sqrt()
    beta = 0.1 + 19.9 * t
    per_step = beta / (2 * law.variance[:, 0]) * noise.square().sum(1)
    assert torch.allclose(loss, per_step, rtol=1e-12)
    simple = dd.loss(process, head, x_0, t, x_t=x_t, weight=dd.weights.Simple())
    assert torch.allclose(simple, noise.square().sum(1), rtol=1e-12)


def test_a_masked_posterior_head_has_the_weighted_cross_entropy():
    process, x_0, t = masked(), WORDS, torch.tensor([0.3, 0.7])
    x_t = torch.tensor([[MASK, 1, MASK], [3, MASK, MASK]])
    logits = torch.randn(2, D, K)
    head = dd.heads.Posterior(lambda x, t: logits, absent=MASK)
    kept = logits.clone()
    kept[..., MASK] = -torch.inf
    nll = -kept.log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
    expected = (nll * (x_t == MASK)).sum(1) / t
    assert torch.allclose(dd.loss(process, head, x_0, t, x_t=x_t), expected, rtol=1e-12)


def test_context_reaches_the_network():
    seen = []

    def net(x, t, y):
        seen.append(y)
        return torch.zeros_like(x)

    y = torch.tensor([4, 2])
    head = dd.heads.Epsilon(net)
    dd.loss(vp(), head, REALS, 0.5, weight=dd.weights.Simple(), context=y)
    dd.sample(vp(), head, (2, D), steps=1, context=y)
    dd.path_kl(vp(), head, REALS, context=y)
    dd.reverse(vp(), head, context=y).drift(REALS, 0.5)
    assert len(seen) == 4 and all(torch.equal(s, y) for s in seen)


def test_times_and_losses_make_an_unbiased_integral(case):
    process, x_0, _ = case
    many = x_0[:1].expand(4000, D).contiguous()
    exact = dd.Exact(process, x_0)
    t, w = dd.times(process, many)
    assert t.shape == w.shape == (4000,) and bool(((t > 0) & (t < 1)).all())
    losses = w * dd.loss(process, exact, many, t)
    # -log of the weight of the datum among the two, by Bayes' rule on whole paths
    truth = dd.path_kl(process, exact, many[:200], nodes=41)
    prior = dd.likelihood.prior_kl(process, many[:1])
    error = truth.std() / math.sqrt(200) + losses.std() / math.sqrt(4000)
    gap = float(losses.mean() + prior - truth.mean())
    assert abs(gap) <= 5 * float(error), (losses.mean(), truth.mean(), error)


def test_path_kl_of_the_exact_head_is_the_entropy_of_the_data(case):
    process, x_0, _ = case
    many = x_0.repeat(400, 1)
    nats = dd.path_kl(process, dd.Exact(process, x_0), many)
    assert nats.shape == (800,)
    prior = dd.likelihood.prior_kl(process, x_0)
    if bool(prior.max() < 1e-4):
        agrees(nats, math.log(2))
    else:  # the entropy identity: + KL(p_1 ‖ prior) of the mixture, at most that of its parts
        assert float(nats.mean() - 5 * nats.std() / math.sqrt(800)) < math.log(2) + prior.mean()


def test_elbo_is_a_lower_bound_in_nats(case):
    process, x_0, _ = case
    bound = dd.elbo(process, dd.Exact(process, x_0), x_0.repeat(300, 1))
    assert bound.shape == (600,)
    if "Noise" in repr(process):
        return  # the data are atoms, whose density is infinite: no bound on it is wrong
    average = bound.mean() - 5 * bound.std() / math.sqrt(600)
    assert float(average) <= -math.log(2) + 1e-3


def test_weights_scale_the_loss(case):
    process, x_0, _ = case
    exact, t = dd.Exact(process, x_0), torch.tensor([0.4, 0.6])
    x_t = process.marginal(x_0, t).sample()
    plain = dd.loss(process, exact, x_0, t, x_t=x_t)
    assert torch.equal(plain, dd.loss(process, exact, x_0, t, x_t=x_t, weight=dd.weights.NLL()))
    (leaf,) = process.leaves(t)
    weighted = dd.loss(process, exact, x_0, t, x_t=x_t, weight=dd.weights.Blackout())
    assert torch.allclose(weighted, plain * dd.weights.Blackout()(leaf), rtol=1e-12)


# -- reverse and sample ---------------------------------------------------------------------------


def test_reverse_of_a_gaussian_is_the_score_sde():
    process, t = vp(), torch.tensor([0.4, 0.6])
    exact = dd.Exact(process, torch.zeros(1, D))
    back = dd.reverse(process, exact)
    beta = (0.1 + 19.9 * t)[:, None]
    variance = process.marginal(torch.zeros(2, D), t).variance
    score = -REALS / variance
    assert torch.allclose(back.drift(REALS, t), beta * (REALS / 2 + score), rtol=1e-10)
    assert torch.allclose(back.noise(REALS, t), beta.sqrt().expand(2, D), rtol=1e-12)
    assert back.rates(REALS, t) == {}


def test_reverse_rates_of_jumps_are_ratios_of_marginals():
    process, t = blackout(), torch.tensor([0.3, 0.7])
    back = dd.reverse(process, dd.Exact(process, COUNTS[:1]))
    x = torch.tensor([[0.0, 2.0, 4.0], [0.0, 1.0, 0.0]])
    points, rates = back.rates(x, t)
    assert torch.equal(points[..., 0], x + 1)
    clock = dd.clock.Logistic(15.0)
    p = clock.survival(t)[:, None]
    expected = (COUNTS[:1] - x) * p / (1 - p) * clock.rate(t)[:, None]
    assert torch.allclose(rates[..., 0], expected, rtol=1e-10)


def test_reverse_of_a_table_is_a_dict():
    process, x = table(), table_data()
    back = dd.reverse(process, dd.Exact(process, x))
    assert set(back.drift(x, 0.5)) == {"income"}
    assert set(back.rates(x, 0.5)) == {"job", "visits"}
    assert back.rates(x, 0.5)["job"][1].shape == (B, K)


def test_samples_return_to_the_data(case):
    process, x_0, _ = case
    x = dd.sample(process, dd.Exact(process, x_0), (64, D), steps=12)
    assert x.shape == (64, D) and x.dtype == x_0.dtype
    near = (x[:, None] - x_0).abs().amax(-1).amin(1)
    assert float(near.max()) < 1e-4
    share = (x - x_0[0]).abs().amax(-1) < 1e-4
    assert abs(float(share.double().mean()) - 0.5) <= 5 * 0.5 / 8


@pytest.mark.parametrize(
    "grid", [[1.0, 0.6, 0.2, 0.0], dd.grids.UniformTime(5), torch.linspace(1, 0, 4)]
)
def test_a_grid_is_times_or_an_object(grid):
    x = dd.sample(masked(), dd.Exact(masked(), WORDS), (8, D), grid=grid)
    assert bool((x[:, None] == WORDS).all(-1).any(1).all())


def test_a_run_may_start_in_the_middle():
    process = masked()
    start = torch.tensor([[0, MASK, MASK]] * 8)
    x = dd.sample(process, dd.Exact(process, WORDS), (8, D), grid=[0.5, 0.2, 0.0], start=start)
    assert torch.equal(x, WORDS[:1].expand(8, D))


def test_known_entries_are_kept(case):
    process, x_0, _ = case
    values, mask = x_0[:1].expand(8, D), torch.tensor([False, True, True])
    head = dd.Exact(process, x_0[:1])
    x = dd.sample(process, head, (8, D), steps=25, known=(values, mask.expand(8, D)))
    assert torch.equal(x[:, 1:], values[:, 1:])


def test_a_prompt_held_at_the_start_tells_the_exact_head_its_atom():
    prompt = WORDS[1:].expand(200, D), torch.tensor([False, True, True])
    x = dd.sample(masked(), dd.Exact(masked(), WORDS), (200, D), steps=3, known=prompt)
    assert torch.equal(x, WORDS[1:].expand(200, D))


def test_the_exact_head_refuses_what_its_data_cannot_reach():
    x = torch.tensor([[MASK, MASK, MASK], [3, 1, MASK]])
    with pytest.raises(ValueError, match="cannot be reached from the data of Exact in 1 of 2"):
        dd.Exact(masked(), WORDS)(x, torch.tensor([0.5, 0.5]).double())


def test_progress_is_counted_on_standard_error(capsys):
    dd.sample(masked(), dd.Exact(masked(), WORDS), (1, D), steps=3, progress=True)
    captured = capsys.readouterr()
    assert captured.err.endswith("step 3/3\n") and not captured.out


def test_a_prior_can_be_given():
    head = dd.heads.Mean(lambda x, t: x)
    prior = Normal(torch.full((4, D), 3.0), 1e-9).to_event(1)
    x = dd.sample(vp(), head, (4, D), steps=1, prior=prior, stepper=dd.steppers.Ancestral(eta=0.0))
    assert torch.allclose(x, torch.full((4, D), 3.0), atol=1e-6)


def test_ddim_draws_no_noise():
    process = vp()
    exact, start = dd.Exact(process, REALS), torch.randn(2, D)
    ddim = dd.steppers.Ancestral(eta=0.0)
    runs = [
        dd.sample(process, exact, (2, D), steps=9, stepper=ddim, start=start) for _ in range(2)
    ]
    assert torch.equal(*runs)


def test_a_table_is_learned_and_sampled_with_one_head():
    process, x_0 = table(), table_data()

    def net(x, t):
        return {
            "income": 0 * x["income"],
            "job": torch.zeros(*x["job"].shape, K),
            "visits": 0 * x["visits"],
        }

    head = dd.heads.Product(
        net, income=dd.heads.Epsilon, job=dd.heads.LeaveOneOut, visits=dd.heads.Missing
    )
    t, w = dd.times(process, x_0)
    loss = dd.loss(process, head, x_0, t)
    assert loss.shape == (B,) and bool((loss >= 0).all()) and w.shape == (B,)
    assert dd.path_kl(process, head, x_0).shape == (B,)
    bound = dd.elbo(process, dd.Exact(process, x_0), x_0)
    assert bound.shape == (B,)
    shape = {"income": (4,), "job": (4,), "visits": (4,)}
    mean = dd.heads.Product(
        net, income=dd.heads.Mean, job=dd.heads.LeaveOneOut, visits=dd.heads.Missing
    )
    x = dd.sample(process, mean, shape, steps=5)
    assert {k: (tuple(v.shape), v.dtype) for k, v in x.items()} == {
        "income": ((4,), torch.float64),
        "job": ((4,), torch.int64),
        "visits": ((4,), torch.float64),
    }


# -- likelihood -----------------------------------------------------------------------------------


class GaussianData(dd.heads.Mean):
    r"""The exact mean for data N(m, s²): (φ v₀ x + v m) / (φ² v₀ + v)."""

    def __init__(self, process, mean, std):
        def net(x, t):
            one = process.marginal(torch.ones_like(x), t)
            v = one.variance
            return (one.mean * std**2 * x + v * mean) / (one.mean**2 * std**2 + v)

        super().__init__(net)


def test_log_prob_of_gaussian_data_is_exact():
    process = vp()
    mean, std = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.7, 1.3, 0.4])
    head = GaussianData(process, mean, std)
    x_0 = mean + std * torch.randn(5, D)
    truth = Normal(mean, std).to_event(1).log_prob(x_0)
    noise = process.marginal(mean.expand(5, D), 1.0)
    phi = process.marginal(torch.ones(5, D), 1.0).mean
    end = Normal(noise.mean, (noise.variance + (phi * std) ** 2).sqrt()).to_event(1)
    found = dd.log_prob(process, head, x_0, prior=end)
    assert found.shape == (5,) and found.dtype == torch.float64
    assert float((found - truth).abs().max()) <= 1e-5
    # The model's own prior is the limit, which the data have not quite reached: KL(p_1 ‖ limit).
    own = dd.log_prob(process, head, x_0)
    assert 1e-4 < float((own - truth).abs().max()) < 0.05


def test_elbo_of_the_exact_mean_is_the_density_of_every_datum():
    """The reversal of a process has the forward paths' law, so nothing is lost at any datum."""
    process, std = vp(), torch.full((D,), 0.8)
    head = GaussianData(process, torch.zeros(D), std)
    x_0 = torch.tensor([[0.1, -0.9, 1.4]])
    end = (1 + process.marginal(torch.ones(1, D), 1.0).mean ** 2 * (0.8**2 - 1)).sqrt()
    prior = Normal(torch.zeros(1, D), end).to_event(1)
    bound = dd.elbo(process, head, x_0.expand(1000, D), stop=1e-3, nodes=31, prior=prior)
    assert float(bound.std()) / math.sqrt(1000) < 0.1
    agrees(bound, Normal(0.0, std).to_event(1).log_prob(x_0))


# -- verify ---------------------------------------------------------------------------------------


def test_check_is_a_truthy_table(case):
    process, x_0, _ = case
    report = dd.check(process, x_0[:, :1])
    assert report, str(report)
    for law in ("Dynkin", "Chapman–Kolmogorov", "bridge", "clock", "entropy"):
        assert law in str(report)
    assert "all laws hold" in str(report)


def test_exact_heads_speak_every_language(case):
    process, x_0, _ = case
    t = torch.tensor([0.4, 0.6])
    x_t = process.marginal(x_0, t).sample()
    exact = dd.Exact(process, x_0, weights=torch.tensor([0.25, 0.75]))
    reference = dd.loss(process, exact, x_0, t, x_t=x_t)
    (plan,) = dd.explain(process).plans
    spoken = 0
    for name in plan.heads:
        try:
            head = exact.as_(getattr(dd.heads, name))
            loss = dd.loss(process, head, x_0, t, x_t=x_t)
        except dd.Unsolved:
            continue
        spoken += 1
        assert torch.allclose(loss, reference, rtol=1e-8, atol=1e-10), name
    assert spoken >= 2


# -- extend ---------------------------------------------------------------------------------------


class Halve(dd.Jump):
    """At unit rate, half of the units leave."""

    def out(self, x):
        return (x // 2)[..., None], torch.ones_like(x)[..., None]

    def into(self, x):
        return torch.stack([2 * x, 2 * x + 1], -1), torch.ones(*x.shape, 2)


def test_a_jump_of_ones_own_is_solved_checked_and_sampled():
    halve = Halve().on(dd.clock.Logistic(15.0))
    x_0 = torch.tensor([[0.0, 3.0], [5.0, 8.0]])
    law = halve.marginal(x_0, 0.5)  # survival 1/2: Λ = log 2, so that 0 jumps happen half the time
    assert torch.allclose(law.log_prob(x_0).exp(), torch.tensor([0.5, 0.25]), atol=1e-9)
    assert dd.check(halve, x_0[:, :1])
    exact = dd.Exact(halve, x_0)
    assert dd.loss(halve, exact, x_0, 0.5).shape == (2,)
    x = dd.sample(halve, exact, (32, 2), steps=6)
    assert bool((x[:, None] == x_0).all(-1).any(1).all())
    path = dd.simulate(Halve(), torch.full((3000, 1), 8.0), [math.log(2)])
    agrees((path == 8).double().flatten(), 0.5)


def test_learn_makes_declared_numbers_parameters_under_their_constraint():
    process = dd.learn(masked())
    assert dd.learn(random_chain()) is not None
    chain = random_chain()
    assert dd.learn(chain) is chain
    assert all(p.requires_grad for p in chain.parameters()) and list(chain.parameters())
    assert torch.allclose(chain.terms[0].Q.sum(1), torch.zeros(K), atol=1e-12)
    assert isinstance(process, dd.Process)


# -- combinators ----------------------------------------------------------------------------------


def test_push_maps_the_state():
    logit_normal = vp().push(torch.distributions.SigmoidTransform())
    x_0 = torch.tensor([[0.2, 0.5], [0.9, 0.7]])
    law = logit_normal.marginal(x_0, 0.5)
    x = law.sample()
    assert bool(((x > 0) & (x < 1)).all())
    y = x.logit()
    inside = vp().marginal(x_0.logit(), 0.5).log_prob(y)
    assert torch.allclose(law.log_prob(x), inside - (x * (1 - x)).log().sum(1), rtol=1e-10)


def test_scaled_stretches_the_state():
    process = vp().scaled(lambda t: 1 + t)
    inner, outer = vp().marginal(REALS, 0.5), process.marginal(REALS, 0.5)
    assert torch.allclose(outer.mean, 1.5 * inner.mean)
    assert torch.allclose(outer.variance, 2.25 * inner.variance)


def test_given_clamps_known_entries():
    known = (torch.tensor([0.0, 3.0, 0.0]), torch.tensor([False, True, False]))
    process = blackout().given(known)
    x_t = process.marginal(torch.tensor([[5.0, 3.0, 7.0]]).expand(50, D), 0.9).sample()
    assert bool((x_t[:, 1] == 3).all()) and bool((x_t[:, 0] < 5).any())


def test_a_mixture_keeps_its_label():
    slow, fast = masked(), dd.Replace(dd.one_hot(MASK, K)).on(dd.clock.Cosine())
    process = dd.Mixture([0.25, 0.75], slow, fast)
    x_0 = process.label(WORDS.repeat(500, 1))
    agrees(x_0["label"].double(), 0.75)
    x_t = process.marginal(x_0, 0.5).sample()
    assert torch.equal(x_t["label"], x_0["label"])
    hidden = (x_t["state"] == MASK).double().mean(1)
    agrees(hidden[x_0["label"] == 0], 0.5)
    agrees(hidden[x_0["label"] == 1], 1 - math.cos(math.pi / 4) ** 2)
    head = dd.heads.Posterior(lambda x, t: torch.zeros(*x["state"].shape, K), absent=MASK)
    assert dd.loss(process, head, x_0, 0.5).shape == (1000,)


def test_a_head_speaks_of_the_state_of_a_mixture():
    process = dd.Mixture([0.5, 0.5], vp(), vp())
    x_0 = process.label(REALS)
    head = dd.heads.Epsilon(lambda x, t: torch.zeros_like(x["state"]))
    assert dd.loss(process, head, x_0, 0.5).shape == (2,)


def test_a_sum_of_terms_runs_together():
    x_0 = torch.full((2, D), 4.0)
    both = (dd.Death() + dd.Immigration(2.0)).marginal(x_0, 1.0)
    assert torch.allclose(both.mean, torch.tensor(4 * math.exp(-1) + 2 * (1 - math.exp(-1))))
    fast = (2.0 * dd.Death()).marginal(x_0, 0.5)
    assert torch.allclose(fast.mean, dd.Death().marginal(x_0, 1.0).mean)


def test_terms_of_rate_zero_have_no_part_in_a_sum():
    x, y = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    alone = dd.Death().transition(x, 0.0, 0.7).log_prob(y)
    for rest in (0 * dd.Birth(), 0 * dd.Immigration(1.0), dd.Immigration(0.0)):
        assert torch.equal((dd.Death() + rest).transition(x, 0.0, 0.7).log_prob(y), alone)
    still = dd.Noise(0.0).on(dd.clock.Constant(1.0))
    assert torch.equal(dd.simulate(still, x, [0.5, 1.0]), x.expand(2, 1, 1))
    moved = (dd.Linear(-1.0) + dd.Noise(0.0)).transition(x, 0.0, 1.0)
    torch.testing.assert_close(moved.sample(), x * math.exp(-1))
