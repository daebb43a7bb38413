"""The self-check: a removed network must compute what the masked one computes, or the group is locked.

About a third of every unlocked group is removed at once in evaluation mode, and a few units of every group in training
mode, where the smaller network must also give gradients. Four forward passes when all is well, much of them known, or
three where the modes change nothing; see `lockstep` for how the two networks are compared. A group that fails is first
tried with other plain numbers of the model following it (see `attributes`), and locked if none of them helps.

Approximate groups are held to running and training, and to outputs of the same shapes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from torch import nn

from rlprune.channels.attributes import Choice, kept_inside
from rlprune.channels.comparing import SHARE, Comparer, Difference, around
from rlprune.channels.copying import shaken
from rlprune.channels.forward import Forward
from rlprune.channels.groups import ChannelGroups
from rlprune.channels.lockstep import DIFFERS
from rlprune.channels.plan import PruningPlan
from rlprune.errors import UserError

__all__ = ["CHECKS", "TRIES", "Checker", "check_groups", "shaken"]

CHECKS = ("on", "strict", "off")
_NUMBER = re.compile(r"\d+")
Chosen = dict[Choice, int]  # the option of each number that may follow
Make = tuple[str, frozenset[tuple[str, int, str]]]  # kind of a module, where in it a group lives
TRIES = 24  # comparisons spent on finding out which plain numbers follow
TURNS = 3  # further checks for numbers that might follow one of several groups which lost as many units so far


def check_groups(
    model: nn.Module, groups: ChannelGroups, forward: Forward, strict: bool = False, choices: Sequence[Choice] = ()
) -> ChannelGroups:
    """The groups with every one locked whose removal would not equal its masking on the example inputs.

    Args:
        model: the model the groups were traced from.
        groups: the groups; locked ones are left out.
        forward: the example inputs.
        strict: raise instead of locking.
        choices: plain numbers of the model's modules that may follow.

    Raises:
        UserError: in strict mode, listing the groups that fail and why.
    """
    checker = Checker(model, groups, forward, choices)
    failed = checker.settle()
    if failed and strict:
        lines = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(f"{len(failed)} channel groups fail the self-check ({lines}); lock them with keep=")
    return groups.with_attributes(checker.groups.attributes).with_locks(failed)


class Checker(Comparer):
    """Finds the groups whose removal does not equal their masking, and which plain numbers follow the others."""

    def __init__(
        self, model: nn.Module, groups: ChannelGroups, forward: Forward, choices: Sequence[Choice] = ()
    ) -> None:
        super().__init__(model, groups, forward, choices)
        self._tries = TRIES
        self._failing: dict[tuple[Make, str], str] = {}
        self._kinds = {path: type(module).__qualname__ for path, module in model.named_modules()}

    def settle(self) -> dict[str, str]:
        """All checks, in both modes: group name -> reason, for every group that must be locked."""
        failed = self.failures(SHARE)
        self.groups = self.groups.with_locks(failed)
        self.leave_alone(SHARE)
        while self.turn < TURNS and self.undecided():
            failed.update(self.failures(SHARE))
            self.groups = self.groups.with_locks(failed)
        self.turn = 0
        tied = {name for attribute in self.groups.attributes for name, _ in attribute.terms[1::2]}
        if tied:  # numbers that follow several groups must do so where some of these stay whole, too
            failed.update(self.failures(SHARE, whole=tied))
            self.groups = self.groups.with_locks(failed)
        self.train()
        if self.runs():
            self.follow_more()
        else:
            self.train(False)
        return {**failed, **self.failures(0.0)}

    def failures(self, *shares: float, whole: Collection[str] = ()) -> dict[str, str]:
        """Group name -> reason, for every group that must be locked; `shares` of the units are removed in turn.

        Groups that are to stay `whole` are left out.
        """
        able = [group for group in self.groups.prunable if group.max_removable and group.name not in whole]
        failed: dict[str, str] = {}
        exact = [group.name for group in able if not group.approximate]
        rounds = [exact, [group.name for group in able]] if len(exact) < len(able) else [exact]
        for share, names in itertools.product(shares or (0.0, SHARE), rounds):
            left = [name for name in names if name not in failed]
            stopped = False
            while left:
                plan = self.plan(left, share)
                difference = self._wrong(plan) if stopped else self.compare(plan)
                if difference is None:
                    break
                failed.update(again := self._again(difference, left))
                stopped = not difference.numeric and not again
                if not again and not (stopped and self._runs_further(left, share, difference)):
                    failed.update(self._failing_of(left, share, difference))
                if any(name in failed for name in left):
                    left = [name for name in left if name not in failed]
                    self.forget()
        return failed

    def _failing_of(self, left: list[str], share: float, difference: Difference) -> dict[str, str]:
        """Groups that must be locked, and why, given that all of `left` fail; none if other numbers help them."""
        failed: dict[str, str] = {}
        found, alone = self._culprits(left, share, difference)
        for name, what in found.items():
            before = self.chosen
            if self._other_numbers([name] if alone else list(found), share):
                self._generalise(before, left, share)
                break
            failed[name] = self._named(name, what.reason)
            if alone:
                failed.update(self._alike(name, what, left, failed))
        return failed

    def leave_alone(self, share: float) -> None:
        """Let numbers stay with which the smaller network computes the same: they may mean other things than widths.

        What is called like a width follows, since code outside of the forward pass may read it.
        """
        plan = self.plan([group.name for group in self.groups.prunable if group.max_removable], share)
        kinds = list(
            dict.fromkeys(
                (c.kind, c.name)
                for c, option in self.chosen.items()
                if (a := c.attribute(option)) and a.after(plan.counts) != a and not c.says_width
            )
        )
        for keys in [kinds, *([key] for key in kinds)] if len(kinds) > 1 else [kinds][: len(kinds)]:
            before = self.chosen
            self.follow({c: len(c.options) if (c.kind, c.name) in keys else option for c, option in before.items()})
            if self._wrong(plan):
                self.follow(before)
            elif keys is kinds:
                return

    def _wrong(self, plan: PruningPlan) -> Difference | None:
        """As `compare`, at the least cost: whether the smaller network runs comes first."""
        return self.compare(plan, values=False) or self.compare(plan)

    def _was_right(self, names: Sequence[str], share: float) -> bool:
        """Whether what follows now would have passed in the turns before this one, too."""
        return not any(self._wrong(plan) for plan in self.earlier(names, share))

    def _alike(self, name: str, what: Difference, left: list[str], failed: Collection[str]) -> dict[str, str]:
        """Groups of the same make as two that fail for the same reason, as those of repeated blocks do."""
        make = next(filter(None, (self._make(name, path) for path in (*what.inside, ""))))
        first = self._failing.setdefault((make, _NUMBER.sub("#", what.reason)), name)
        return {} if first == name else self._as_in(first, make, what.reason, [n for n in left if n not in failed])

    def _again(self, difference: Difference, left: list[str]) -> dict[str, str]:
        """Groups of the same make as one that failed alone, in modules that stop for the reason that its own did."""
        pattern = _NUMBER.sub("#", difference.reason)
        for name, path in itertools.product(self._suspects(left, difference), difference.inside):
            make = self._make(name, path)
            if make is not None and (make, pattern) in self._failing:
                return self._as_in(self._failing[make, pattern], make, difference.reason, left)
        return {}

    def _as_in(self, first: str, make: Make, reason: str, left: list[str]) -> dict[str, str]:
        """The reason for groups of one make."""
        return {
            name: self._named(name, f"as in {first}, {reason}")
            for name in left
            if any(self._make(name, path) == make for path in around(self.groups[name].slots[0].tensor))
        }

    def _make(self, name: str, path: str = "") -> Make | None:
        """Where a group lives in a module, whichever of several equal ones that is; None if it also lives elsewhere."""
        prefix = f"{path}." if path else ""
        slots = self.groups[name].slots
        if not all(slot.tensor.startswith(prefix) for slot in slots):
            return None
        where = frozenset((_NUMBER.sub("#", s.tensor[len(prefix) :]), s.dim, s.role) for s in slots)
        return self._kinds.get(path, ""), where

    def _other_numbers(self, names: list[str], share: float, what: Difference | None = None) -> bool:
        """Whether groups that fail pass once other numbers follow; they then do.

        The number that was read last before the smaller network failed (`what`) is tried first. A change with which
        more operators run than before is kept while another is looked for.
        """
        before, plan = self.chosen, self.plan(names, share)
        what = what or self.compare(plan, values=False)
        for chosen in self._promising(self._changes(names, what), plan, what):
            if self._tries <= 0:
                break
            self._tries -= 1
            self.follow(chosen)
            result = self._wrong(plan)
            if result is None:
                if self._was_right(names, share):
                    return True
            elif what is not None and result.steps > what.steps and self._other_numbers(names, share, result):
                return True
        self.follow(before)
        return False

    def _promising(
        self, changes: Sequence[Chosen], plan: PruningPlan, what: Difference | None, reached: int = 0
    ) -> Iterator[Chosen]:
        """What to choose instead: changes with which the call that was not finished comes to its end, if it is known.

        One with which it gets further is looked at together with each of the others. What has no effect is left out.
        Numbers of one name in modules of one kind are changed alike first.
        """
        before, seen = self.chosen, [self.changes(plan, self.chosen)]
        for change, chosen in ((c, {**before, **w}) for c in changes for w in (self._widely(c), c)):
            after = self.changes(plan, chosen)
            if after in seen:
                continue
            seen.append(after)
            stop = None if what is None else what.stop
            further = None if stop is None else stop.gets(next(iter(change)).module, self.model, after)
            if further is None or further < 0:
                yield chosen
            elif further > reached:
                self.follow(chosen)
                rest = [other for other in changes if other.keys() != change.keys()]
                yield from self._promising(rest, plan, what, further)
                self.follow(before)

    def _widely(self, change: Chosen) -> Chosen:
        """The same change of all numbers of that name in modules of one kind."""
        (first, option), *_ = change.items()
        alike = (c for c in self.chosen if (c.kind, c.name) == (first.kind, first.name))
        return {c: min(option, len(c.options)) for c in alike}

    def _changes(self, names: list[str], what: Difference | None) -> list[Chosen]:
        """Other ways for one of the numbers that may follow, those read last first."""
        found = []
        chosen = {choice: option for choice, option in self.chosen.items() if not choice.groups.isdisjoint(names)}
        if what is not None and what.read:
            last = {key: place for place, key in enumerate(what.read)}
            read = [choice for choice in chosen if (choice.module, choice.name) in last]
            chosen = {c: chosen[c] for c in sorted(read, key=lambda c: -last[c.module, c.name])}
        for choice, option in chosen.items():
            others = (len(choice.options), *range(len(choice.options)))  # to stay as it is comes first
            found += [{choice: other} for other in others if other != option]
            if choice.place is not None:  # of equal numbers in a list this one alone
                alike = (c for c in chosen if (c.module, c.name) == (choice.module, choice.name) and c is not choice)
                found += [alone] if (alone := {c: len(c.options) for c in alike}) else []
        return found

    def _runs_further(self, names: list[str], share: float, what: Difference) -> bool:
        """Whether the network runs further once the number that was read last follows in another way; it then does."""
        before, plan = self.chosen, self.plan(names, share)
        if not what.read or self._tries <= 0:
            return False
        for chosen in self._promising(self._changes(names, what)[:2], plan, what):
            self._tries -= 1
            self.follow(chosen)
            result = self._wrong(plan)
            if result is None and not self._was_right(names, share):
                continue  # right in this turn by chance
            if result is None or (result.steps > what.steps and not result.numeric):
                self._generalise(before, names, share)
                return True
        self.follow(before)
        return False

    def _generalise(self, before: Chosen, names: list[str], share: float) -> None:
        """Let numbers of modules of one kind follow alike, if the network then runs further than without."""
        now, plan = self.chosen, self.plan(names, share)
        changed = {(c.kind, c.name): option for c, option in now.items() if before[c] != option}
        alike = {c: min(changed.get((c.kind, c.name), option), len(c.options)) for c, option in now.items()}
        reached = self.compare(plan, values=False) if alike != now else None
        if reached is not None:
            self.follow(alike)
            result = self.compare(plan, values=False)
            if result is not None and result.steps <= reached.steps:
                self.follow(now)

    def _named(self, name: str, reason: str) -> str:
        """A reason with the plain numbers that stand in the way."""
        if DIFFERS in reason:
            return reason
        found = [choice for choice in self.chosen if name in choice.groups]
        words = [f"{'.'.join(filter(None, (c.module, c.name)))} = {c.value}" for c in found]
        if not found:
            sizes = {self.groups.shapes[slot.tensor][slot.dim] for slot in self.groups[name].slots}
            words = [word for size in sorted(sizes) for word in self._kept_inside.get(size, ())]
        if not words:
            return reason
        inside = "" if found else " if they are made plain attributes of the module"
        return f"{reason}; numbers that may stand for it{inside}: {', '.join(words[:3])}"

    @cached_property
    def _kept_inside(self) -> dict[int, list[str]]:
        return kept_inside(self.model)

    def _suspects(self, names: list[str], difference: Difference) -> list[str]:
        """Groups that the layers at which a difference showed make or read."""
        at = set(difference.layers)
        return [n for n in names if not at.isdisjoint((*self.groups[n].consumers, *self.groups[n].producers))]

    def _culprits(self, names: list[str], share: float, difference: Difference) -> tuple[dict[str, Difference], bool]:
        """What is wrong with at least one group, given that all of `names` fail; and whether each fails alone."""
        if len(names) == 1:
            return {names[0]: difference}, True
        suspects = self._suspects(names, difference)
        if suspects and len(suspects) <= 8 and len(suspects) < len(names):
            alone = {n: self.compare(self.plan([n], share), difference.numeric) for n in suspects}
            found = {n: result for n, result in alone.items() if result is not None}
            if found:
                return found, True
        half = len(names) // 2
        for part in (names[:half], names[half:]):
            result = self.compare(self.plan(part, share), difference.numeric)
            if result is not None:
                return self._culprits(part, share, result)
        together = replace(difference, reason=f"together with other groups: {difference.reason}")
        return dict.fromkeys(names, together), False
