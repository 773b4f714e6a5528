"""Slots that were lent: their handlers stay in memory and wait for other invocations, which run in them meanwhile.

What comes for such a handler is held back until there is a slot for it again, so that no more code runs than there
are slots. Where a step of it waits, that goes on at once.
"""

import msgspec

from durable.core.effects import Deliver


class _Lent(msgspec.Struct):
    in_step: bool
    held: list[Deliver] = []


class Lending:
    """Who has lent its slot, and what is held back for it; with what the turn under way has changed of that."""

    def __init__(self) -> None:
        self._lent: dict[int, _Lent] = {}
        #: Those that have news, and go on when there is a slot for them.
        self.returning: dict[int, None] = {}
        #: As they were before this turn, and how much was held back then.
        self._before: dict[int, tuple[_Lent, int] | None] = {}

    def __bool__(self) -> bool:
        return bool(self._lent)

    def __contains__(self, seq: object) -> bool:
        return seq in self._lent

    def only_waits(self, seq: int) -> bool:
        """Whether it has lent its slot, and no step of it runs."""
        lent = self._lent.get(seq)
        return lent is not None and not lent.in_step

    def begin(self, seq: int, *, in_step: bool) -> None:
        """It lends its slot."""
        self._note(seq)
        self._lent[seq] = _Lent(in_step)

    def hold(self, news: Deliver) -> bool:
        """Whether that has to wait until it has a slot again."""
        lent = self._lent.get(news.seq)
        if lent is None or lent.in_step:
            return False
        self._note(news.seq)
        lent.held.append(news)
        self.returning[news.seq] = None
        return True

    def end(self, seq: int) -> list[Deliver]:
        """Its slot is lent no longer; returns what was held back."""
        self._note(seq)
        self.returning.pop(seq, None)
        return self._lent.pop(seq).held

    def end_turn(self) -> None:
        """What the turn has changed is stored."""
        self._before.clear()

    def undo(self) -> set[int]:
        """What the turn has changed is taken back; returns of whom."""
        changed = set(self._before)
        for seq, before in self._before.items():
            self._lent.pop(seq, None)
            if before is not None:
                self._lent[seq], held = before
                del self._lent[seq].held[held:]
        self._before.clear()
        self.returning = {seq: None for seq, lent in self._lent.items() if lent.held}
        return changed

    def _note(self, seq: int) -> None:
        if seq not in self._before:
            lent = self._lent.get(seq)
            self._before[seq] = None if lent is None else (lent, len(lent.held))
