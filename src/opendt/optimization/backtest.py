"""What a change would have brought in the hours that are behind us.

Each past window is lived again from the state of then, with the work that really came, once as it was and once changed. What happens in one
window is of one piece, so a window counts once. A dozen windows seldom prove a gain; but a change that would have lost in all of
them is refused whatever sampled futures say: they may be wrong about what is to come, the past is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opendt.model.certificate import Distribution, Evidence, Reason
from opendt.model.errors import OpenDTError
from opendt.optimization.eprocess import MeanTest, window_test
from opendt.optimization.paired_futures import gain, quantiles
from opendt.twin.posterior import priced_changes
from opendt.twin.whatif import WhatIf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from opendt.model.certificate import Claim
    from opendt.optimization.certificate_inputs import CertificateInputs

__all__ = ["Backtest", "backtest", "past_gains"]


@dataclass(frozen=True, slots=True)
class Backtest:
    """What past windows say: evidence of a gain, the gains themselves, and what speaks against the change."""

    evidence: tuple[Evidence, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    reasons: tuple[Reason, ...] = ()


def backtest(gains: Sequence[ArrayLike], claim: Claim, alpha: float = 0.05) -> Backtest:
    """Say what past windows tell of a claim's gain, each window counting once (`eprocess.window_test`).

    Parameters
    ----------
    gains : sequence of array_like
        Gains of each window, oldest window first; several of one window count as their mean.
    claim : Claim
        Gives margin and range; gains beyond the range count as much as its ends.
    alpha : float
        Chance of refusing a change that would have lost nothing on average.
    """
    known = [np.asarray(one, dtype=float) for one in gains]
    means = np.array([one.mean() for one in known if one.size])
    if not len(means):
        return Backtest()
    reach = claim.range_ratio
    cut = [np.clip(one, -reach, reach) for one in known if one.size]
    for_gain, for_loss = MeanTest(claim.margin_ratio, -reach, reach), MeanTest(0.0, -reach, reach)
    log_e = _strongest(cut, for_gain)
    evidence = Evidence(
        name="backtest",
        bound=for_gain.bound,
        low=for_gain.low,
        high=for_gain.high,
        mean=float(np.mean([one.mean() for one in cut])),
        log_e=log_e if math.isfinite(log_e) else None,
    )
    against = _strongest([-one for one in cut], for_loss)
    reasons: tuple[Reason, ...] = ()
    if against >= math.log(1.0 / alpha):
        text = f"in {len(means)} past windows it would have lost {-means.mean():.1%} on average (evidence of e^{against:.1f})"
        reasons = (Reason(code="backtest", text=text),)
    return Backtest((evidence,), (quantiles("backtest_gain", "ratio", means),), reasons)


def past_gains(inputs: CertificateInputs) -> Iterator[NDArray[np.float64]]:
    """Gain of each past window in which the changes could have been made, oldest first."""
    if inputs.past is None:
        return
    then = inputs.past.simulation.fork()
    for _ in range(inputs.past.windows):
        try:
            changes = priced_changes(inputs.proposal.changes, then, inputs.installed, inputs.curves)
            compared = WhatIf(then, inputs.past.window_ms).compare(changes)
        except OpenDTError:
            pass  # what it would change was not there, or was taken
        else:
            found = gain(inputs.claim, inputs.slo, (compared.baseline, compared.changed))
            if math.isfinite(found):
                yield np.array([found])
        then.advance(then.now_ms + inputs.past.window_ms)


def _strongest(windows: Sequence[NDArray[np.float64]], test: MeanTest) -> float:
    return float(window_test(windows, test).max())
