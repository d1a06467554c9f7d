"""The chronicle: turns the registry's events into what people see of the run."""

from __future__ import annotations

import trio

from aegis_core import Node, Role
from aegis_core.events import (
    Event,
    InstanceDeregistered,
    InstanceLost,
    InstanceRegistered,
    ResourceRegistered,
    ResourceReleased,
    ResourceTransferred,
    RoleChanged,
)
from exchange.owner import SERVICE, symbol_of
from exchange.progress import Progress


class Chronicle:
    """Keeps the rows of a `Progress` and writes its notes.

    Args:
        progress: Is kept up to date.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._orphans: dict[str, str] = {}

    async def follow(self, node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the events that *node* sees, until cancelled."""
        async with node.events(service=SERVICE) as events:
            task_status.started()
            async for event in events:
                self.tell(event)

    def tell(self, event: Event) -> None:
        """Take one event."""
        progress, name = self._progress, event.instance_id
        symbol = symbol_of(event.resource_id)
        match event:
            case InstanceRegistered():
                progress.row(name).health = "ONLINE"
                progress.note(f"{name} registered")
            case InstanceDeregistered():
                progress.row(name).health = "LEFT"
            case InstanceLost():
                row = progress.row(name)
                row.health = "LOST"
                orphans = sorted({*map(symbol_of, event.released), *row.owned})
                self._orphans.update(dict.fromkeys(orphans, name))
                row.owned.clear()
                row.waiting.clear()
                progress.note(f"{name} is lost: its lease ended, {', '.join(orphans) or 'nothing'} became free")
            case ResourceRegistered():
                self._move(symbol, name)
                lost = self._orphans.pop(symbol, None)
                if lost is not None:
                    progress.fail_overs += 1
                    progress.row(name).fail_overs += 1
                    progress.note(f"{name} took over {symbol} from {lost}, epoch {event.epoch}")
            case ResourceTransferred():
                self._move(symbol, name)
                progress.transfers += 1
            case ResourceReleased():
                for row in progress.rows.values():
                    row.owned.discard(symbol)
            case RoleChanged() if event.resource_id:
                waiting = progress.row(name).waiting
                if event.new is Role.STANDBY:
                    waiting.add(symbol)
                else:
                    waiting.discard(symbol)
            case _:
                pass  # The rest is no news to people.

    def _move(self, symbol: str, name: str) -> None:
        for row in self._progress.rows.values():
            row.owned.discard(symbol)
        self._progress.row(name).owned.add(symbol)
