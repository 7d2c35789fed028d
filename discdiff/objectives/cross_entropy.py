r"""The cross-entropy of the data: what a network should say of :math:`x_0` at :math:`x_t`.

.. math:: -\sum_d \log \mu(x_0^d \mid x_t)

Its minimiser is the posterior, whatever the weight. On chains other than masking that is not what
the path-KL teaches a network whose output is read as a leave-one-out law: the same logits cannot
serve both, and a sum of both losses has neither minimiser.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import laws
from ..estimates import Atoms, Data, LeaveOneOut, Parts, Posterior
from ..heads import Head
from ..process import Leaf, Process
from ..shapes import sum_event
from ..solve import Unsolved
from ..weights import Weight
from .objective import categories, noisy_state, prepared, summed

State = Any


def cross_entropy(
    process: Process,
    head: Head,
    x_0: State,
    t: float | Tensor,
    *,
    weight: Weight | None = None,
    context: Any = None,
    x_t: State | None = None,
    steps: int = 64,
) -> Tensor:
    r"""The cross-entropy of the data under the head's posterior, summed over entries.

    A leave-one-out law becomes a posterior by the transition law, :math:`\mu(a) \propto p(a)\,
    P_t(a, x^d)`: then its minimiser is the leave-one-out law of the data.

    Arguments:
        process: A process whose data are categories or counts.
        head: `heads.Posterior`, `heads.LeaveOneOut` or an exact head.
        x_0: Data, shape (B, *event) or a dict.
        t: Times, a number or of shape () or (B,); `times` draws them.
        weight: A `weights` object; by default each time counts by the clock's rate, as in `loss`,
            with `weights.Flat` all count alike.
        context: Handed to the network.
        x_t: The noisy state; drawn from the marginal if not given, or simulated where none is
            known.
        steps: Euler–Maruyama steps from 0 to t, where :math:`x_t` is simulated.

    Returns:
        Shape (B,), in nats per unit of clock time, times the weight.

    Raises:
        ValueError: If data lie outside the support, or a shape does not fit.
        Unsolved: If the head does not say what each datum is.

    References:
        | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021)

    Example:
        >>> import torch
        >>> import discdiff as dd
        >>> process = dd.Replace(torch.full((4,), 1 / 4)).on(dd.clock.Constant(2.0))
        >>> head = dd.heads.Posterior(lambda x, t: torch.zeros(*x.shape, 4))
        >>> cross_entropy(process, head, torch.tensor([[0, 3]]), 0.5, weight=dd.weights.Flat())
        tensor([2.7726])
    """
    x_0, t, weight = prepared(process, head, x_0, t, weight)
    x, law = noisy_state(process, x_0, t, x_t, steps)
    estimate = head(x, t, context)

    def nats(leaf: Leaf) -> Tensor:
        said, y = leaf.read(estimate), leaf.get(x)
        _require_posterior(said)
        leaf.core.check_estimate(said, y)
        data = leaf.read(Data(x_0))
        assert isinstance(data, Data)
        if leaf.core.dtype is None:  # counts
            law = laws.entrywise(leaf.core.engine.decode(said, y, leaf.time))
            return -sum_event(leaf.still(law.log_prob(data.value), x))
        if not isinstance(said, Posterior):
            said = leaf.core.engine.convert(said, y, leaf.time, Posterior)
        index = categories(leaf, data.value).unsqueeze(-1)
        return -sum_event(leaf.still(said.log_probs.gather(-1, index).squeeze(-1), x))

    return summed(process, x, t, weight, nats, law)


def _require_posterior(estimate: Any) -> None:
    if not isinstance(estimate, Posterior | LeaveOneOut | Atoms | Parts):
        raise Unsolved(
            f"{type(estimate).__name__} does not say what each datum is, so it has no "
            "cross-entropy with it: use heads.Posterior or heads.LeaveOneOut, or loss"
        )
