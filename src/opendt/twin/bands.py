"""Prediction bands with measured coverage: weighted, locally scaled, adaptive conformal quantiles per lead time.

Around any point forecast with a rough standard deviation, a band is made of the recent scores (measured - forecast) / scale:

- *scale*: the forecast's own standard deviation times the square root of how large scores have been of late. The square root
  is half-way between "errors come in bursts" and "they do not": less nervous than either on its own;
- *weights*: recent scores count more (half-life), because a data centre is not exchangeable in time: Barber, Candès, Ramdas,
  Tibshirani, "Conformal prediction beyond exchangeability", Annals of Statistics 51 (2023). Which half-life is right depends on
  how long a data centre stays the same, so several stand beside each other and are weighed, per side and group of leads, by the
  pinball loss of their quantiles so far (`mixture.Hedge`);
- *adaptation*: the nominal level of each side moves with its recent misses: Gibbs, Candès, "Adaptive conformal inference
  under distribution shift", NeurIPS 2021;
- a *prior* of Gaussian scores that counts as some hours of data, for the time before there are any.

Lower and upper side are separate, so that a band may be lopsided. Only outcomes that have been settled are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.twin.mixture import Hedge

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_PRIOR_SCORES: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 40) for i in range(40)])
_MAX_JUMP: Final = 4.0  # one forecast's errors count up to this multiple of the usual size
_NEGLIGIBLE: Final = 2.0**-6  # scores that weigh less than this against a new one are dropped
_ADAPTED: Final = (0.2, 2.0)  # the nominal level of a side stays within these multiples of the wanted one


@dataclass(frozen=True, slots=True, kw_only=True)
class BandSettings:
    """How a band is made.

    Parameters
    ----------
    issue_interval_s : float
        Time between forecasts, in s.
    lead_edges : tuple of int
        Borders of the groups of leads that share quantiles: group g holds leads ``edges[g] <= i < edges[g + 1]``, counted from 0.
    coverage_ratio : float
        Share of outcomes wanted inside.
    score_half_lives_h : tuple of float
        Half-lives of a score's weight, in h, that are weighed against each other: from a day, so that day and night both count, by
        doubling to over a week.
    scale_half_life_h : float
        Half-life of the recent size of scores, in h.
    prior_h : float
        Weight of the Gaussian prior in hours of data.
    adaptation_per_h : float
        Change of the nominal level per hour of misses (gamma of adaptive conformal inference, per hour).
    """

    issue_interval_s: float
    lead_edges: tuple[int, ...]
    coverage_ratio: float = 0.9
    score_half_lives_h: tuple[float, ...] = (24.0, 48.0, 96.0, 192.0)
    scale_half_life_h: float = 1.0
    prior_h: float = 10.0
    adaptation_per_h: float = 0.01

    def __post_init__(self) -> None:
        """Refuse groups that do not follow each other and levels that are no ratios.

        Raises
        ------
        ValueError
            If `lead_edges` does not rise from 0 or `coverage_ratio` is not between 0 and 1.
        """
        if len(self.lead_edges) < 2 or self.lead_edges[0] != 0 or min(np.diff(self.lead_edges)) < 1:
            raise ValueError(f"band setting lead_edges is {self.lead_edges}, expected rising numbers from 0")
        if not 0.0 < self.coverage_ratio < 1.0:
            raise ValueError(f"band setting coverage_ratio is {self.coverage_ratio}, expected a ratio between 0 and 1")


HOUR_BAND: Final = BandSettings(issue_interval_s=3600, lead_edges=(0, 10, 40, 120))
"""An hour of 120 leads every hour."""

FIVE_MINUTE_BAND: Final = BandSettings(issue_interval_s=300, lead_edges=(0, 3, 7, 10), score_half_lives_h=(24.0,))
"""Five minutes of 10 leads every five minutes: a day holds 288 of them, enough for a quantile of 5 %."""

BLIND_HOUR_BAND: Final = BandSettings(issue_interval_s=3600, lead_edges=(0, 3, 8, 20, 40, 80, 120))
"""An hour without knowing its workload: errors grow with the lead, and an hour holds little more than one independent outcome."""


class _Group:
    """Scores of one group of leads, kept sorted, with a weight for each half-life."""

    def __init__(self, prior_weight: float, decays: NDArray[np.float64]) -> None:
        self._decays = decays[:, None]
        self.scores = _PRIOR_SCORES.copy()
        self.weights = np.full((decays.size, self.scores.size), prior_weight / self.scores.size)

    def quantiles(self, low: float, high: float) -> NDArray[np.float64]:
        """Lower and upper quantile for each half-life, shape (2, half-lives)."""
        index = np.empty((2, len(self.weights)), dtype=np.int64)
        for column, weights in enumerate(self.weights):  # row by row: numpy is three times as fast on them
            mass = weights.cumsum()
            index[:, column] = mass.searchsorted((low * mass[-1], high * mass[-1]))
        return np.asarray(self.scores[np.minimum(index, self.scores.size - 1)])

    def add(self, scores: NDArray[np.float64], weight: float) -> None:
        self.weights *= self._decays
        keep = self.weights.max(axis=0) > _NEGLIGIBLE * weight / max(scores.size, 1)
        count = np.count_nonzero(keep)
        if _PRIOR_SCORES.size <= count < keep.size:
            self.scores, self.weights = self.scores[keep], np.stack([weights[keep] for weights in self.weights])
        if scores.size:
            self._merge(np.sort(scores), weight / scores.size)

    def _merge(self, scores: NDArray[np.float64], weight: float) -> None:
        """Put a few sorted scores among the many that are sorted, by copying what lies between them."""
        places = self.scores.searchsorted(scores, side="right").tolist()
        merged = np.empty(self.scores.size + scores.size)
        weights = np.full((len(self.weights), merged.size), weight)
        start = 0
        for already, stop in enumerate([*places, self.scores.size]):
            into = slice(start + already, stop + already)
            merged[into], weights[:, into] = self.scores[start:stop], self.weights[:, start:stop]
            start = stop
        merged[np.arange(scores.size) + places] = scores
        self.scores, self.weights = merged, weights


class AdaptiveBand:
    """A band around one kind of forecast, issued at a regular interval for the same leads each time.

    Parameters
    ----------
    settings : BandSettings
        `HOUR_BAND`, `FIVE_MINUTE_BAND` or one's own.

    Notes
    -----
    Use: `issue` a band, let its outcomes happen, `settle` them, issue the next. Forecasts that overlap need a band per offset.
    """

    def __init__(self, settings: BandSettings) -> None:
        """Start from the Gaussian prior."""
        self.settings = settings
        self._interval_h = settings.issue_interval_s / 3600.0
        edges = settings.lead_edges
        decays = 0.5 ** (self._interval_h / np.array(settings.score_half_lives_h))
        self._groups = [_Group(settings.prior_h, decays) for _ in edges[1:]]
        # Half-lives compete for each group and side.
        self._hedge = Hedge(2 * len(self._groups), decays.size, self._interval_h)
        self._parts = [slice(a, b) for a, b in pairwise(edges)]
        self._miss_ratio = (1.0 - settings.coverage_ratio) / 2.0
        self._levels = np.full((len(self._groups), 2), self._miss_ratio)
        self._recent = 1.0  # recent mean absolute score
        # Forecast, its deviation, the band, and the quantiles of each group that it was mixed from.
        self._open: tuple[NDArray[np.float64], ...] | None = None

    def issue(self, mean_w: ArrayLike, sd_w: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Band around a forecast.

        Parameters
        ----------
        mean_w, sd_w : array_like, shape (leads,)
            Forecast and its rough standard deviation (only its relative size over leads and time matters), in W.

        Returns
        -------
        lower_w, upper_w : ndarray, shape (leads,)
            The band, in W; never below 0, and never off the forecast.

        Raises
        ------
        ValueError
            If shapes differ or are not those of the settings, or a standard deviation is not positive.
        """
        mean, sd = np.asarray(mean_w, float), np.asarray(sd_w, float)
        leads = self.settings.lead_edges[-1]
        if mean.shape != sd.shape or mean.ndim != 1 or mean.size > leads or not np.all(sd > 0):
            raise ValueError(
                f"a band got forecasts of shape {mean.shape} with sd_w of shape {sd.shape}, smallest {np.min(sd, initial=np.inf)};"
                f" expected up to {leads} leads and positive sd_w"
            )
        scale = self._recent**0.5
        low, high = np.empty(mean.size), np.empty(mean.size)
        quantiles = np.empty((len(self._groups), 2, len(self.settings.score_half_lives_h)))
        for own, group, level in zip(quantiles, self._groups, self._levels.tolist(), strict=True):
            own[:] = group.quantiles(level[0], 1.0 - level[1])
        for part, (lowest, highest) in zip(self._parts, self._mixed(quantiles).tolist(), strict=True):
            low[part], high[part] = lowest, highest
        lower = np.clip(mean + np.minimum(low, 0.0) * scale * sd, 0.0, mean)
        upper = mean + np.maximum(high, 0.0) * scale * sd
        self._open = (mean, sd, lower, upper, quantiles)
        return lower, upper

    def _mixed(self, quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted means over the half-lives of `quantiles`, shape (groups, 2)."""
        mixed: NDArray[np.float64] = np.vecdot(quantiles, self._hedge.weights.reshape(quantiles.shape))
        return mixed

    def _judge(self, quantiles: NDArray[np.float64], below: NDArray[np.float64]) -> None:
        """Charge the half-lives with the pinball losses of their quantiles, linearised at the mean.

        `below` is the share of scores below the mean of each group and side; NaN where there are none.
        """
        if quantiles.shape[2] > 1:
            level = np.array([self._miss_ratio, 1.0 - self._miss_ratio])
            losses = (below - level)[..., None] * (quantiles - self._mixed(quantiles)[..., None])
            self._hedge.charge(losses.reshape(-1, quantiles.shape[2]))

    def settle(self, measured_w: ArrayLike) -> None:
        """Learn from what happened to the last issued forecast; leads without outcome are NaN, and may be left off the end.

        Raises
        ------
        ValueError
            If nothing was issued since the last `settle`, or there are more outcomes than leads.
        """
        if self._open is None:
            raise ValueError("a band has outcomes to settle but no forecast was issued: call issue() first")
        mean, sd, lower, upper, quantiles = self._open
        outcome = np.asarray(measured_w, float)
        if outcome.ndim != 1 or outcome.size > mean.size:
            raise ValueError(f"a band got outcomes of shape {outcome.shape}, expected at most {mean.size} leads")
        self._open = None
        count = outcome.size
        raw = (outcome - mean[:count]) / sd[:count]
        scale = self._recent**0.5
        mixed, below = self._mixed(quantiles), np.full((len(self._groups), 2), np.nan)
        beyond = np.stack([outcome < lower[:count], outcome > upper[:count]])
        step = self.settings.adaptation_per_h * self._interval_h
        for index, (group, part) in enumerate(zip(self._groups, self._parts, strict=True)):
            there = np.flatnonzero(np.isfinite(raw[part])) + part.start
            scores = raw[there] / scale
            group.add(scores, self._interval_h)
            if there.size:
                below[index] = np.count_nonzero(scores[:, None] < mixed[index], axis=0) / there.size
                misses = np.count_nonzero(beyond[:, there], axis=1) / there.size
                self._levels[index] += step * (self._miss_ratio - misses)
        self._judge(quantiles, below)
        self._levels = np.clip(self._levels, _ADAPTED[0] * self._miss_ratio, _ADAPTED[1] * self._miss_ratio)
        sizes = np.abs(raw[np.isfinite(raw)])
        if sizes.size:
            keep = 0.5 ** (self._interval_h / self.settings.scale_half_life_h)
            self._recent = self._recent * keep + (1.0 - keep) * min(float(sizes.mean()), _MAX_JUMP * self._recent)
            self._recent = max(self._recent, 1e-6)

    def snapshot(self) -> dict[str, Any]:
        """The whole state as plain data for JSON, without the settings."""
        return {
            "groups": [{"scores": g.scores.tolist(), "weights": g.weights.tolist()} for g in self._groups],
            "hedge": self._hedge.snapshot(),
            "levels": self._levels.tolist(),
            "recent": self._recent,
            "open": None if self._open is None else [part.tolist() for part in self._open],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot` of a band with the same settings.

        Raises
        ------
        ValueError
            If the state has another number of groups.
        """
        if len(state["groups"]) != len(self._groups):
            raise ValueError(f"band state has {len(state['groups'])} groups of leads, expected {len(self._groups)}")
        for group, saved in zip(self._groups, state["groups"], strict=True):
            group.scores, group.weights = np.array(saved["scores"]), np.array(saved["weights"])
        self._hedge.restore(state["hedge"])
        self._levels = np.array(state["levels"])
        self._recent = state["recent"]
        self._open = None if state["open"] is None else tuple(np.array(part) for part in state["open"])
