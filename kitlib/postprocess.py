"""From the probabilities of one scan to its masks; every step is off until `Settings` says otherwise."""

import json
from dataclasses import asdict, dataclass

import numpy as np

from kitlib import contest


@dataclass(frozen=True)
class Settings:
    """How probabilities become masks.

    Attributes:
        threshold: per organ, in contest.ORGANS' order: a voxel counts from this probability on.
    """

    threshold: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def to_json(self) -> str:
        """Write the settings as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Read what `to_json` wrote; fields left out keep their defaults."""
        return cls(**{name: tuple(value) for name, value in json.loads(text).items()})


def masks(probabilities: np.ndarray, settings: Settings | None = None) -> np.ndarray:
    """Turn the probabilities of one scan into masks.

    Args:
        probabilities: (D, H, W, organs) float in [0, 1], organs in contest.ORGANS' order.
        settings: None means a plain threshold of 0.5.

    Returns:
        (D, H, W, organs) bool.
    """
    settings = settings or Settings()
    if probabilities.ndim != 4 or probabilities.shape[-1] != len(contest.ORGANS):
        raise ValueError(f"expected probabilities of shape (D, H, W, {len(contest.ORGANS)}), got {probabilities.shape}")
    return probabilities >= np.asarray(settings.threshold, probabilities.dtype)
