"""What routers do for clients: one table of operations, for every way in.

::

    operation = OPERATIONS["resource.register"]
    request = operation.read({"service_name": "rooms", "instance_id": "rooms-1", "resource_ids": ["lobby"]})
    reply = await operation.carry_out(router, request, principal)

`Operation.read` makes the request (a class of `aegis_core.router.requests`) of a plain map as it was decoded, and
`Operation.carry_out` answers with a class of `aegis_core.router.replies`, whose fields are what travels
(`aegis_core.codec.encode_plain` takes it as it is). Both raise errors of the library and nothing else;
`aegis_core.codec.error_to_wire` and `aegis_core.codec.status_of` say how those travel. `Operation.request` and
`Operation.reply` are the classes, for whoever describes them.

In whose name
-------------
An operation that concerns an instance is asked in its name. A ``lease_id`` proves that, whoever asks. Without one,

- a *principal* needs the permission (`aegis_core.hookspecs.aegis_authorize`), as an admin has;
- None believes the instance id: so on a transport that is trusted as a whole.

``force`` needs a permission in any case: of the principal if there is one, else of the instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from aegis_core.router import calls, registrations, replies, requests, resources
from aegis_core.router.operation import Operation

__all__ = ["OPERATIONS", "Operation"]

# Requests and replies differ from operation to operation; each knows its own.
OPERATIONS: Final[Mapping[str, Operation[Any, Any]]] = MappingProxyType(
    {
        operation.name: operation
        for operation in (
            Operation(
                name="service.register",
                request=requests.RegisterService,
                reply=replies.InstanceRegistered,
                action=registrations.register,
            ),
            Operation(
                name="service.unregister",
                request=requests.UnregisterService,
                reply=replies.InstanceUnregistered,
                action=registrations.unregister,
            ),
            Operation(
                name="service.heartbeat",
                request=requests.Heartbeat,
                reply=replies.HeartbeatTaken,
                action=registrations.heartbeat,
            ),
            Operation(
                name="route.request",
                request=requests.RouteRequest,
                reply=replies.Routed,
                action=calls.route,
                read_quickly=requests.read_route,
            ),
            Operation(
                name="resource.register",
                request=requests.RegisterResources,
                reply=replies.ResourcesRegistered,
                action=resources.register,
            ),
            Operation(
                name="resource.release",
                request=requests.ReleaseResources,
                reply=replies.ResourcesReleased,
                action=resources.release,
            ),
            Operation(
                name="resource.bulk_register",
                request=requests.BulkRegister,
                reply=replies.BulkRegistered,
                action=resources.bulk_register,
            ),
            Operation(
                name="resource.bulk_release",
                request=requests.BulkRelease,
                reply=replies.BulkReleased,
                action=resources.bulk_release,
            ),
            Operation(
                name="resource.transfer",
                request=requests.Transfer,
                reply=replies.ResourcesTransferred,
                action=resources.transfer,
            ),
            Operation(
                name="message.status", request=requests.MessageStatus, reply=replies.MessageState, action=calls.status
            ),
            Operation(
                name="resource.query", request=requests.Query, reply=replies.ResourcesFound, action=resources.query
            ),
        )
    }
)
"""All operations, by name."""
