"""How scores are written: fractions in percent, anything else (dB, R², negative errors) as it is, by its own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANY_DROP = 1e9
"""A tolerance that forbids nothing, whatever the score is measured in."""


@dataclass(frozen=True)
class Unit:
    """Of one metric's scores.

    Attributes:
        metric: Its name, such as `accuracy` or `psnr`.
        percent: Whether scores are fractions in [0, 1], which are written in percent.
    """

    metric: str = "score"
    percent: bool = True

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Unit:
        """That of a record's figures; records written before there were other metrics hold fractions."""
        return cls(str(figures.get("metric", "score")), bool(figures.get("percent", True)))

    @property
    def factor(self) -> float:
        """What a score is multiplied by before it is drawn."""
        return 100.0 if self.percent else 1.0

    @property
    def label(self) -> str:
        """For axes and headings."""
        return f"{self.metric} (%)" if self.percent else self.metric

    @property
    def differences(self) -> str:
        """What a difference of two scores is counted in."""
        return "points" if self.percent else self.metric

    def number(self, score: float, *, sign: bool = False) -> str:
        """A score or a difference, without its unit.

        >>> Unit("accuracy").number(0.9325), Unit("psnr", percent=False).number(31.4159, sign=True)
        ('93.25', '+31.42')
        """
        plus = "+" if sign else ""
        if self.percent:
            return f"{100 * score + 0.0:{plus}.2f}"
        return f"{score:{plus}.4g}" if score else "0"

    def score(self, score: float) -> str:
        """A score with its unit.

        >>> Unit("accuracy").score(0.9325), Unit("psnr", percent=False).score(31.4159)
        ('93.25 %', 'psnr 31.42')
        """
        return f"{self.number(score)} %" if self.percent else f"{self.metric} {self.number(score)}"

    def difference(self, value: float) -> str:
        """A difference with its unit.

        >>> Unit("accuracy").difference(0.007), Unit("psnr", percent=False).difference(0.5)
        ('0.70 points', '0.5 psnr')
        """
        return f"{self.number(value)} {self.differences}"

    def interval(self, bounds: Any) -> str:
        """A confidence interval in brackets, or nothing where none is known."""
        return f"[{self.number(bounds[0])}, {self.number(bounds[1])}]" if bounds else ""

    def limits(self, tolerance: float | None) -> bool:
        """Whether a tolerance forbids anything; of fractions, none can drop by more than 1."""
        return tolerance is not None and tolerance < (1.0 if self.percent else ANY_DROP)
