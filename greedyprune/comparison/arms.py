"""What is compared: methods, each at several amounts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from greedyprune.classical import Method, method_of
from greedyprune.errors import UserError
from greedyprune.ranges import shown

MOST = 1000  # arms of one comparison
_RANGE = re.compile(r"([^.:/]*(?:\.\d+)?)\.\.([^/]*)(?:/(.*))?")


@dataclass(frozen=True)
class Arm:
    """One method at one amount.

    Attributes:
        method: the method.
        amount: of its `amounts`.
    """

    method: Method
    amount: float

    @property
    def name(self) -> str:
        """`filter_l1:0.3`, as tables call it."""
        return f"{self.method.name}:{self.amount:g}"


def parse_arms(text: str, source: str = "--methods") -> list[Arm]:
    """Arms from `NAME:AMOUNT` and `NAME:FROM..TO` or `NAME:FROM..TO/STEP`, separated by commas.

    Args:
        text: from a user; the step is 0.1, or 1 for a method that takes whole numbers.
        source: what messages call it.

    Returns:
        In the order given, each once.

    Raises:
        UserError: an unknown method, an amount that it does not take, or a range of nothing.
    """
    arms: dict[Arm, None] = {}
    for part in text.split(","):
        name, colon, amounts = (each.strip() for each in part.partition(":"))
        found = _RANGE.fullmatch(amounts) if colon else None
        if found is None:
            arms[Arm(*method_of(part.strip(), source))] = None
            continue
        method, _ = method_of(f"{name}:{found[1].strip()}", source)
        for amount in _between(found, "1" if method.amounts.kind is int else "0.1", part, source):
            arms[Arm(*method_of(f"{name}:{amount}", source))] = None
    if len(arms) > MOST:
        raise UserError(f"{source} asks for {len(arms)} arms; at most {MOST} are compared at once, give larger steps")
    return list(arms)


def _between(found: "re.Match[str]", step: str, part: str, source: str) -> Sequence[Decimal]:
    """The amounts of a range, exact in decimals."""
    texts = (found[1], found[2], step if found[3] is None else found[3])
    try:
        first, last, by = (Decimal(each.strip()) for each in texts)
    except InvalidOperation:
        raise UserError(f"{source} {shown(part)}: {shown(texts[2])} is no step") from None
    if not by.is_finite() or by <= 0 or last < first:
        raise UserError(f"{source} {shown(part)} is a range of nothing; write NAME:FROM..TO/STEP, from low to high")
    count = int((last - first) / by) + 1
    if count > MOST:
        raise UserError(f"{source} {shown(part)} asks for {count} amounts; at most {MOST}, give a larger step")
    return [first + by * number for number in range(count)]
