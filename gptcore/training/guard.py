"""Which updates are made: a loss or gradient that is not finite, or a spike, is kept out of weights and statistics.

The device judges, and the optimizers read its verdict there, so no update waits for the host. Every verdict follows
from the steps before it alone: a run that was killed and resumed takes the same ones.

W is `spike_window`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gptcore.config import Training

LEAST_STD = (0.01, 0.2)
"""Standard deviations count as no smaller, of the logarithms of loss and norm: a window in which nothing moves makes no
spike of noise. With a z of 6 that is a loss 6 % above the usual, and a norm 3.3 times as large."""
LEAST = 1e-30
"""A loss or norm of nothing counts as this much, so that it has a logarithm."""


class Diverged(RuntimeError):
    """Updates were skipped again and again, and the run may not go back any more."""


class NotFinite(Diverged):
    """It was a loss or gradient that is nan or infinite."""


@dataclass(frozen=True)
class Skip:
    """An update that was not made, and the limits that held for it."""

    step: int
    """Counted from 1, as the metrics do."""
    loss: float
    norm: float
    loss_limit: float
    norm_limit: float

    @property
    def finite(self) -> bool:
        """Whether it was a spike only."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)

    def __str__(self) -> str:
        named = (("loss", self.loss, self.loss_limit), ("gradient norm", self.norm, self.norm_limit))
        for name, value, _ in named:
            if not math.isfinite(value):
                return f"{name} is {value} at step {self.step}"
        name, value, limit = next(over for over in named if over[1] > over[2])
        return f"{name} is {value:.4g} at step {self.step}, and its limit {limit:.4g}"


class Guard:
    """Judges every update by the ones before it (as OLMo-core's SkipStepOptimizer does).

    One-sided: only a rise is a spike. Measured on logarithms, since both values are skewed where batches are small: of
    a thousand updates of fine-tuning, plain losses made one a spike that was a hard batch. A gradient that clipping
    lets through whole is none. What was skipped never enters the window it would be measured against.
    """

    def __init__(self, config: Training, device: torch.device) -> None:
        self.size, self._z = config.spike_window, config.spike_z
        self._places = torch.arange(self.size, device=device)
        self._least_std = torch.tensor(LEAST_STD, device=device)
        self._harmless = torch.tensor([-math.inf, math.log(config.grad_clip)], device=device)
        self._window = torch.zeros(2, self.size, device=device)  # log loss and log norm of the last W updates made
        self._made = torch.zeros((), dtype=torch.int64, device=device)
        self._recent = torch.zeros(5, self.size, device=device)  # the last W steps: skipped, then the values of a Skip
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def judge(self, step: int, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether to skip the update `step`, counted from 0: a scalar on the device, 1.0 to skip it and 0.0 to make it.

        1. The limits: mean plus z standard deviations of the window, once it is half full. 2. The verdict. 3. What is
        made enters the window. 4. The step is noted, for whoever asks.
        """
        both = torch.stack([loss, norm]).float()  # (2,)
        values, limits = both.clamp_min(LEAST).log(), self._limits()
        made = (torch.isfinite(both) & (values <= limits)).all()
        self._window = torch.where((self._places == self._made % self.size) & made, values[:, None], self._window)
        self._made = self._made + made
        self._skipped = self._skipped + ~made
        self._recent[:, step % self.size] = torch.cat([(~made).float()[None], both, limits.exp()])
        return (~made).float()

    def _limits(self) -> Tensor:
        """Of the logarithms of loss and norm (2,); infinite while there is nothing to measure against."""
        if self._z is None:
            return torch.full_like(self._least_std, math.inf)
        known = self._places < self._made  # (W,)
        count = known.sum()
        mean = (self._window * known).sum(1) / count
        variance = ((self._window - mean[:, None]) ** 2 * known).sum(1) / (count - 1)
        limits = (mean + self._z * variance.sqrt().maximum(self._least_std)).maximum(self._harmless)
        return torch.where(count >= max(2, self.size // 2), limits, math.inf)

    # What follows waits for the device.

    def skips(self, steps: int) -> list[Skip]:
        """The skips among the last W of so many steps, the oldest first."""
        rows = self._recent.T.tolist()
        among = range(max(0, steps - self.size), steps)
        return [Skip(step + 1, *rows[step % self.size][1:]) for step in among if rows[step % self.size][0]]

    @property
    def skipped(self) -> int:
        """Updates skipped so far, those of stretches that the run went back over too."""
        return int(self._skipped)

    def begin_again(self, skipped: int) -> None:
        """After going back: the window stays, but old skips count against nobody."""
        self._recent.zero_()
        self._skipped.fill_(skipped)

    def tensors(self) -> dict[str, Tensor]:
        """All that the next verdict depends on."""
        return {"window": self._window, "made": self._made, "recent": self._recent, "skipped": self._skipped}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        device = self._places.device
        self._window, self._made = tensors["window"].to(device), tensors["made"].to(device)
        self._recent, self._skipped = tensors["recent"].to(device), tensors["skipped"].to(device)
