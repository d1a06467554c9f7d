"""The engine: every rule of registration, roles, ownership and routing, as plain functions without I/O.

An operation is ``(view, request, *, at, ...) -> Decision`` or raises a typed error. The *view* is a `Snapshot` of the
store as one node knows it; a `Decision` names what to write, under which expectations, and computes the answer from
the revisions that the commit returns. The engine knows neither trio nor a backend, holds no lock, and reads no clock:
what time it is, it is told (``now``: the node's monotonic seconds; ``at``: aware UTC for people, deciding nothing).

How a shell drives it::

    while True:
        try: decision = decide(view)
        except NotYetKnown: await sync(); continue
        except AegisError: ...                      # believe it only if decided on a view that was synced since asked
        if decision.rests_on_view: ...              # the same
        try: revisions = await commit(decision.writes)
        except Conflict: await sync(); continue
        fold the writes into the view
        return decision.answer(revisions)
"""

from __future__ import annotations
