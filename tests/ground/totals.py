"""Sums up a ledger's rows, deleted ones included, to be compared with what was sent."""

from sqlalchemy import func, select

from gateway.store.queries import Store
from gateway.store.tables import attempts, sums
from gateway.trace import Sums


class Totals(Sums, frozen=True, kw_only=True):
    """Sums over the attempts of one target with one outcome, deleted ones included."""

    target_id: str
    outcome: str
    attempts: int


def totals_of(store: Store, since_ns: int = 0) -> list[Totals]:
    """Sum tokens by class and cost over the attempts started since then (wall clock), by target and outcome.

    Of deleted ones only their day is known: they count when it began since then.
    """
    names = ("attempts", *Sums.__struct_fields__)
    with store._database.reading() as connection:
        added: dict[tuple[str, str], list[int]] = {}
        for table, began, number in (
            (attempts, attempts.c.started_at_ns, func.count()),
            (sums, sums.c.day_ns, func.sum(sums.c.attempts)),
        ):
            group = (table.c.target_id, table.c.outcome)
            summed = (number, *(func.sum(table.c[name]) for name in names[1:]))
            query = select(*group, *summed).where(began >= since_ns).group_by(*group)
            for target_id, outcome, *numbers in connection.execute(query):
                # Postgres sums 64-bit integers into a Decimal.
                before = added.get((target_id, outcome), [0] * len(names))
                added[target_id, outcome] = [one + int(more) for one, more in zip(before, numbers, strict=True)]
    return [
        Totals(target_id=target_id, outcome=outcome, **dict(zip(names, numbers, strict=True)))
        for (target_id, outcome), numbers in sorted(added.items())
    ]
