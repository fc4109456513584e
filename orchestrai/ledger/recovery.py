"""What a process that died left behind: its claims end, and what it had sent without an answer is in doubt."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from orchestrai.ids import now_us
from orchestrai.ledger import queries, reservations
from orchestrai.ledger.lock import bury, is_alive
from orchestrai.ledger.reservations import Charge
from orchestrai.ledger.rows import AttemptRow, insert


def recover(connection: sqlite3.Connection, owners: Path) -> int:
    """Take over from every owner that is proved dead, inside the caller's transaction.

    A request that was recorded before it left and has no recorded end may or may not have been answered and
    billed. It is kept as an attempt in doubt, with unknown cost where requests cost cash; its task may be asked
    again. A finished task has no claim, so nothing finished is ever asked again.

    Args:
        connection: Inside a write transaction.
        owners: The folder of signs of life.

    Returns:
        The number of attempts that are now in doubt.
    """
    working = set(queries.claiming_owners(connection))
    working.update(owner for (owner,) in connection.execute("SELECT owner_id FROM owners WHERE ended_at IS NULL"))
    dead = [owner for owner in working if not is_alive(owners, owner)]
    reservations.forget_old(connection, now_us())
    return sum(_take_over(connection, owners, owner) for owner in dead)


def _take_over(connection: sqlite3.Connection, owners: Path, owner: str) -> int:
    now = now_us()
    open_attempts = connection.execute(
        "SELECT s.seq, o.tier = 'paid' FROM claims c JOIN sends s ON s.seq = c.send_seq JOIN offers o USING (offer_id) "
        "LEFT JOIN attempts a USING (send_seq) WHERE c.owner_id = ? AND a.send_seq IS NULL",
        (owner,),
    ).fetchall()
    # What they had reserved counts as used: they may have been answered.
    reservations.settle(connection, {send_seq: Charge(None, None, None) for send_seq, _ in open_attempts})
    insert(
        connection,
        AttemptRow,
        [
            AttemptRow(
                send_seq,
                "in_doubt",
                error_class="connection",
                error_message="the process ended before the answer was recorded",
                cost=None if costs_cash else 0,
                cost_source="unknown" if costs_cash else "zero",
                finished_at=now,
            )
            for send_seq, costs_cash in open_attempts
        ],
    )
    connection.execute("DELETE FROM claims WHERE owner_id = ?", (owner,))
    connection.execute(
        "UPDATE batches SET status = 'interrupted', finished_at = ?, revision = revision + 1 "
        "WHERE owner_id = ? AND status = 'running'",
        (now, owner),
    )
    connection.execute("UPDATE owners SET ended_at = ? WHERE owner_id = ?", (now, owner))
    bury(owners, owner)
    return len(open_attempts)
