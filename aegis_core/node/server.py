"""Serving: requests come in from a transport, handlers run, answers go out.

Theory of operation
-------------------
`Server.receive` is called by the transport and only hands the request on, so that a slow handler holds up nothing.
Handlers run in *workers*: tasks of the node's nursery, each with one cancel scope, each running one handler at a time,
in a fresh context. A worker that is done takes the next request from the queue, or waits, idle, until it is handed one.
That keeps what a task and a cancel scope cost out of most calls, and it is the limit on concurrent handlers: no request
begins beyond it, and what does not fit in the bounded queue either is refused.

Requests that arrive in one step of the scheduler are handed to the same worker, because many a handler has its answer
without waiting for anything: then one turn of the scheduler does for all. The first that has to wait shows that by its
first step (`Begun`), and the worker hands what it has left to others, one to each, before it waits.

A worker's scope has the deadline of the call, and is entered into the claim of its resource, which cancels it when it
ends. A scope that was cancelled is used up, and its worker ends with it. So does an idle worker when the deadline of its
last call passes, which is how they go when there is nothing to do.

Every request is answered exactly once, however its handler ends.

It is one long file because a request's way from transport to answer is one state machine.
"""

from __future__ import annotations

import contextvars
import logging
import math
from collections import deque
from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, cast

import attrs
import trio

from aegis_core import codec
from aegis_core.backend import Inbound
from aegis_core.envelopes import AnswerEnvelope, RequestEnvelope
from aegis_core.error_codes import remote_error
from aegis_core.errors import (
    AegisError,
    CallTimeout,
    InvalidRequest,
    LeaseLost,
    NoInstance,
    Overloaded,
    RemoteError,
    TransportUnavailable,
    Unauthorized,
    Unavailable,
)
from aegis_core.models import Outcome, ServiceInstance, Shown
from aegis_core.node.admission import Admission, ServedInstance
from aegis_core.node.call import Call, current_call
from aegis_core.node.idempotency import AnswerCache, Attempt, Key
from aegis_core.node.service import RESERVED, Method
from aegis_core.node.stepping import Begun, take_step
from aegis_core.principals import Principal
from aegis_core.served import MethodStatistics, Served

if TYPE_CHECKING:
    from aegis_core.node.claims import Claim
    from aegis_core.node.instance import Instance
    from aegis_core.node.runtime import Runtime

__all__ = ["Server"]

_log = logging.getLogger("aegis.server")

_MOST_IDLE: Final = 64
_SLACK: Final = 1 / 128
_SLACK_FROM: Final = 1.0


@attrs.define(eq=False, repr=False)
class _Job(Shown):
    """One request on its way to its answer."""

    inbound: Inbound
    request: RequestEnvelope
    received: float
    deadline: float
    method: Method | None = None
    claim: Claim | None = None
    attempt: Attempt | None = None
    known: bytes | None = None
    started: bool = False


class Server:
    """Serves one incarnation of one instance.

    Args:
        runtime: The node.
        instance: Whose requests these are.
        tag: Tag of the incarnation's lease.

    Raises:
        TypeError: A method of the service is annotated with what cannot be evaluated, or cannot travel.
    """

    def __init__(self, runtime: Runtime, instance: ServedInstance, tag: str) -> None:
        limits = runtime.settings.limits
        self.running = 0
        self._runtime = runtime
        self._clock = runtime.clock
        self._instance = instance
        self._tag = tag
        self._handle = cast("Instance", instance)
        self._service = instance.service
        self._methods = instance.service.methods
        self._has_middleware = bool(runtime.plugins.middleware)
        self._admission = Admission(runtime, instance)
        self._answers = AnswerCache(runtime.clock)
        self.statistics: Final = {name: MethodStatistics() for name in self._methods}
        self.context = contextvars.copy_context()
        self._most_running = limits.handlers
        self._most_queued = limits.queue
        self._most_bytes = min(transport.max_payload for transport in runtime.transports.values())
        self.queue: deque[_Job] = deque()
        self._workers: dict[_Worker, None] = {}
        self.idle: dict[_Worker, None] = {}
        # Who has been handed a request and has had no turn since.
        self.called: _Worker | None = None
        self._drained: trio.Event | None = None
        self.accepting = True
        # Looked up here, so that a method which cannot be served stops the start and not a call.
        self._structure = {name: method.structure for name, method in self._methods.items()}

    def __repr__(self) -> str:
        name = f"{self._instance.instance_id} ({self._tag})"
        return f"<Server of {name}: {self.running} running, {len(self.queue)} queued>"

    # -- requests come ----------------------------------------------------------------------------

    def receive(self, inbound: Inbound) -> None:
        """Take a request from a transport. Synchronous; never raises: what is wrong with it is answered."""
        try:
            request = codec.decode_request(inbound.payload)
        except InvalidRequest as exc:
            inbound.respond(codec.encode_answer(AnswerEnvelope(None, exc)))
            return
        timeout = request.timeout
        now = trio.current_time()
        deadline = math.inf if timeout is None else now + timeout
        job = _Job(inbound, request, now, deadline)
        if not self.accepting:
            self._respond(job, self._refusal(job))
        elif timeout == 0:
            self._respond(job, self._timed_out(job))
        elif self.has_room:
            self.running += 1
            if self.called is None:
                self.called = self.assign(job)
            else:
                self.called.jobs.append(job)
        elif len(self.queue) < self._most_queued:
            self.queue.append(job)
        else:
            limit = self._most_running + self._most_queued
            what = f"instance {self._instance.instance_id!r}"
            self._respond(job, Overloaded(limit=limit, asked=limit + 1, what=what))

    def announced(self, record: ServiceInstance) -> AbstractContextManager[None]:
        """Within the block, the tools of the backend's own kind see what is served, as *record* says."""
        announce = self._runtime.announce
        return nullcontext() if announce is None else announce(Served(record, self.statistics))

    def assign(self, job: _Job) -> _Worker:
        """Hand *job* to a worker that has nothing else to do, perhaps a new one."""
        if self.idle:
            worker, _ = self.idle.popitem()
            worker.jobs.append(job)
            worker.run_until(job)  # at once, because the deadline of its last job may pass before it runs
            trio.lowlevel.reschedule(worker.task)
        else:
            worker = _Worker(self, job)
            self._workers[worker] = None
            # In the context in which the instance is served, whatever context the transport receives in.
            self.context.run(self._runtime.nursery.start_soon, worker.run)
        return worker

    def _refusal(self, job: _Job) -> AegisError:
        resource_id = job.request.resource_id
        return self._draining() if resource_id is None else self._admission.misdirected(resource_id)

    # -- the end ----------------------------------------------------------------------------------

    def stop_accepting(self) -> None:
        """Answer requests that come from now on with MISDIRECTED or NO_INSTANCE; those that are here go on."""
        self.accepting = False
        for worker in tuple(self.idle):
            worker.scope.cancel()

    def running_since(self, at: float) -> int:
        """How many of the requests that run had been received by *at*, on Trio's clock."""
        jobs = (job for worker in self._workers for job in (worker.job, *worker.jobs))
        return sum(job is not None and job.received <= at for job in jobs)

    async def drained(self) -> None:
        """Wait until nothing runs or is queued."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.running:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def cancel_all(self) -> None:
        """Interrupt every handler, and answer what has not begun as not executed."""
        self.accepting = False
        while self.queue:
            job = self.queue.popleft()
            self._respond(job, self._refusal(job))
        for worker in tuple(self._workers):
            worker.scope.cancel()
            while worker.jobs:
                job = worker.jobs.popleft()
                self.finish(job, self._refusal(job))

    # -- one request ------------------------------------------------------------------------------

    def begin(self, job: _Job, scope: trio.CancelScope) -> Awaitable[object]:
        """Begin to carry *job* out under *scope*: its result to be awaited, and then handed to `conclude`.

        A plain function, as far as nothing has to be waited for: a coroutine around the handler's would be resumed with it.

        Raises:
            AegisError: The request is refused.
        """
        request = job.request
        method = job.method = self._methods.get(request.method)
        resource_id = request.resource_id
        if method is None or request.idempotency_key is not None or request.service_name != self._service.name:
            return self._begin_slowly(job, scope)
        claim: Claim | None = None
        if resource_id is not None:
            claim = self._instance.claims_table.get(resource_id)
            if claim is None or not claim.is_ready or not claim.serves(request.epoch):
                return self._begin_slowly(job, scope)
        elif self._instance.draining:
            raise self._draining()
        return self._run(job, scope, method, claim)

    async def _begin_slowly(self, job: _Job, scope: trio.CancelScope) -> object:
        request, method = job.request, job.method
        if method is None or request.service_name not in {"", self._service.name}:
            return await self._serve_other(request)
        claim: Claim | None = None
        if request.idempotency_key is not None:
            admitted = await self._admit_once(job, (method.name, request.resource_id, request.idempotency_key))
            if isinstance(admitted, bytes):
                job.known = admitted
                return None
            claim = admitted
        elif request.resource_id is not None:
            claim = await self._admission.admit(request, request.resource_id)
        elif self._instance.draining:
            raise self._draining()
        return await self._run(job, scope, method, claim)

    def _run(self, job: _Job, scope: trio.CancelScope, method: Method, claim: Claim | None) -> Awaitable[object]:
        """The handler at work; no checkpoint since *claim* was last looked at."""
        request = job.request
        arguments = method.structure(request.params)
        trace_id = request.trace_id or self._runtime.new_id(16)
        call = Call(
            self._service.name,
            method.name,
            request.resource_id,
            0 if claim is None else claim.epoch,
            trace_id,
            job.deadline,
            request.message_id or trace_id,
            request.idempotency_key,
            claim,
            None if claim is None else claim.state,
            self._handle,
        )
        current_call.set(call)
        if claim is not None:
            job.claim = claim
            claim.enter(scope)
        if self._has_middleware:
            return self._run_in_middleware(job, method, call, arguments)
        job.started = True
        return method.function(call, **arguments)

    async def _admit_once(self, job: _Job, key: Key) -> Claim | bytes | None:
        """The claim to run under (None: without resource) as the first with that key, or the answer of the first."""
        request = job.request
        while True:
            known = self._answers.find(key)
            if known is None and request.resource_id is not None:
                claim = await self._admission.admit(request, request.resource_id)
                known = self._answers.find(key)
                if known is None:
                    job.attempt = self._answers.begin(key)
                    return claim
            elif known is None:
                if self._instance.draining:
                    raise self._draining()
                job.attempt = self._answers.begin(key)
                return None
            answer = await known.wait()
            if answer is not None:
                return answer

    async def _run_in_middleware(
        self, job: _Job, method: Method, call: Call, arguments: Mapping[str, object]
    ) -> object:
        traceparent = job.request.traceparent
        from aegis_core.hookspecs import CallInfo  # noqa: PLC0415 - with the first call that middleware sees

        info = CallInfo(
            side="handled",
            service_name=call.service_name,
            method=call.method,
            instance_id=self._instance.instance_id,
            resource_id=call.resource_id,
            trace_id=call.trace_id,
            message_id=call.message_id,
            carrier={} if traceparent is None else {"traceparent": traceparent},
        )
        async with self._runtime.plugins.around(info):
            job.started = True
            return await method.function(call, **arguments)

    async def _serve_other(self, request: RequestEnvelope) -> object:
        """A reserved method, or a request that is not for this service."""
        service = self._service
        if request.service_name not in {"", service.name}:
            raise InvalidRequest.at("$.service_name", f"this instance serves {service.name!r}")
        if not request.method.startswith(RESERVED):
            listed = ", ".join(self._methods) or "none"
            raise InvalidRequest.at("$.method", f"service {service.name!r} has no such method; it has: {listed}")
        kind, _, name = request.principal.partition(":")
        # Nodes ask in the name of an instance. A token is shown to a router, a node's own program asks on its own node:
        # neither can be established by what a request says.
        if kind != "instance" or not name:
            raise Unauthorized(operation=request.method, target=self._instance.instance_id)
        return await self._runtime.measure(
            request.method,
            self._instance.reserved,
            request.method,
            request.params,
            Principal("instance", name),
            service_name=service.name,
            instance_id=self._instance.instance_id,
            traceparent=request.traceparent or "",
            asked=True,
        )

    # -- answers ----------------------------------------------------------------------------------

    def finish(self, job: _Job, answer: bytes | AegisError) -> None:
        """Send the answer of a job that ran."""
        self._respond(job, answer)
        self.running -= 1
        self._tell_drained()

    def _tell_drained(self) -> None:
        if not self.running and self._drained is not None and not self.queue:
            self._drained.set()
            self._drained = None

    def _respond(self, job: _Job, answer: bytes | AegisError) -> None:
        payload = answer if isinstance(answer, bytes) else codec.encode_answer(AnswerEnvelope(None, answer))
        attempt = job.attempt
        if attempt is not None:
            repeatable = job.method is not None and job.method.idempotent
            if job.started and not (repeatable and isinstance(answer, Unavailable)):
                self._answers.finish(attempt, payload)
            else:
                self._answers.forget(attempt)
        job.inbound.respond(payload)
        counted = self.statistics.get(job.request.method)
        if counted is not None:
            counted.requests += 1
            counted.seconds += trio.current_time() - job.received
            if not isinstance(answer, bytes):
                counted.errors += 1
                counted.last_error = f"{answer.code}: {answer.message}"

    def conclude(self, job: _Job, scope: trio.CancelScope, result: object) -> bytes | AegisError:
        """The answer when *job* came to *result*."""
        if job.claim is not None and not job.claim.exit(scope):
            return job.claim.lost()
        if job.known is not None:
            return job.known
        try:
            answer = codec.encode_result(result)
        except (TypeError, ValueError) as exc:
            return self._crashed(job, exc)
        if len(answer) > self._most_bytes:
            why = f"the result has {len(answer)} bytes, the transport carries at most {self._most_bytes}"
            return RemoteError(kind="ResultTooLarge", remote_message=why)
        return answer

    def fail(self, job: _Job, scope: trio.CancelScope, exc: Exception) -> AegisError:
        """The answer when *exc* ended *job*."""
        if job.claim is not None and not job.claim.exit(scope):
            return job.claim.lost()
        if isinstance(exc, AegisError) and not job.started:
            return exc
        if isinstance(exc, InvalidRequest) and not exc.answered_by:
            return exc
        if isinstance(exc, LeaseLost) and job.claim is not None and job.claim.is_named_by(exc):
            return exc  # its `Claim.check` refused a write, though the lease has been renewed since
        return self._crashed(job, exc)

    def interrupt(self, job: _Job, scope: trio.CancelScope) -> AegisError:
        """The answer when *scope* was cancelled while *job* ran."""
        claim = job.claim
        if claim is not None and (not claim.exit(scope) or claim.interrupted is not None):
            return claim.lost()
        if job.deadline <= trio.current_time():
            return self._timed_out(job)
        return TransportUnavailable(
            reason=f"{self._instance.instance_id} was stopped before it answered",
            outcome=Outcome.MAYBE_EXECUTED if job.started else Outcome.REJECTED,
        )

    def _crashed(self, job: _Job, exc: Exception) -> RemoteError:
        request = job.request
        _log.error(
            "%s of %s failed: %s: %s",
            request.method,
            self._instance.instance_id,
            type(exc).__name__,
            exc,
            exc_info=exc,
            extra={
                "service_name": self._service.name,
                "instance_id": self._instance.instance_id,
                "resource_id": request.resource_id,
                "trace_id": request.trace_id,
                "operation": request.method,
            },
        )
        return remote_error(exc)

    def _timed_out(self, job: _Job) -> CallTimeout:
        return CallTimeout(
            timeout=job.request.timeout or 0.0,
            what=f"{self._service.name}.{job.request.method}",
            outcome=Outcome.MAYBE_EXECUTED if job.started else Outcome.REJECTED,
        )

    def _draining(self) -> NoInstance:
        reason = f"{self._instance.instance_id} is draining"
        return NoInstance(service_name=self._service.name, reason=reason, outcome=Outcome.REJECTED)

    # -- workers ----------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether another request may begin."""
        return self.running < self._most_running

    def next_job(self) -> _Job | None:
        """The next queued job that is still worth running."""
        while self.queue:
            job = self.queue.popleft()
            if job.deadline > trio.current_time():
                return job
            self._respond(job, self._timed_out(job))
        self._tell_drained()
        return None

    def refill(self) -> None:
        """Let others take what is queued, as far as there is room: one worker may have made room for many."""
        while self.has_room and (job := self.next_job()) is not None:
            self.running += 1
            self.assign(job)

    def leave(self, worker: _Worker) -> None:
        """*worker* ends; others take what is queued, and what comes."""
        del self._workers[worker]
        if self.called is worker:
            self.called = None
        worker.hand_on()
        self.refill()


class _Worker:
    """A task that runs one handler at a time."""

    __slots__ = ("_deadline", "_server", "job", "jobs", "scope", "task")

    def __init__(self, server: Server, job: _Job) -> None:
        self._server = server
        self._deadline = math.inf
        self.job: _Job | None = None
        # What it is to do, one after another.
        self.jobs = deque((job,))
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task
        self.run_until(job)

    def run_until(self, job: _Job) -> None:
        """Cancel *job* at its deadline; later by up to 1/128 of its time, when that is more than a second.

        Moving the deadline of a scope costs as much as reading a request. By as much at once, most jobs find it where it is.
        """
        deadline = job.deadline
        left = deadline - job.received
        slack = left * _SLACK if _SLACK_FROM < left < math.inf else 0.0
        if not deadline <= self._deadline <= deadline + slack:
            self._deadline = self.scope.deadline = deadline + slack

    async def run(self) -> None:
        """Work until the scope is used up or nobody needs this worker."""
        server, jobs = self._server, self.jobs
        task = self.task = trio.lowlevel.current_task()
        try:
            with self.scope as scope:
                while jobs:
                    if server.called is self:
                        server.called = None
                    while jobs:
                        job = self.job = jobs.popleft()
                        try:
                            if jobs:
                                result = self._take_step(job)
                                if type(result) is Begun:
                                    result = await result
                            else:
                                if server.queue:
                                    server.refill()
                                result = await server.begin(job, scope)
                            answer = server.conclude(job, scope, result)
                        except Exception as exc:  # noqa: BLE001 - the edge of the handler, which is user code
                            answer = server.fail(job, scope, exc)
                        server.finish(job, answer)
                        self.job = None
                        if jobs:
                            if scope.cancel_called:
                                return
                            self.run_until(jobs[0])
                    # What the handler set in its context is not for the next one.
                    task.context = server.context.copy()
                    if server.queue:
                        await self._take_queued()
                    elif len(server.idle) < _MOST_IDLE and server.accepting:
                        server.idle[self] = None
                        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        except Exception:  # noqa: BLE001 - the same edge
            # A handler raised it together with the cancellation of its scope, which took its part.
            _log.exception("a handler of %r failed while it was being cancelled", server)
        finally:
            if self.job is not None:
                server.finish(self.job, server.interrupt(self.job, self.scope))
            server.leave(self)

    def _take_step(self, job: _Job) -> object:
        """Carry *job* out as far as that takes no waiting: its result, or a `Begun` to be awaited for it.

        In a context of its own, which is the task's as well if it has to wait; the others are handed on then.
        """
        context = self._server.context.copy()
        result = take_step(context, context.run(self._server.begin, job, self.scope))
        if type(result) is Begun:
            self.hand_on()
            self._server.refill()
            self.task.context = context
        return result

    def hand_on(self) -> None:
        """Let others do what is left to do."""
        while self.jobs:
            self._server.assign(self.jobs.popleft())

    async def _take_queued(self) -> None:
        """Go on with what is queued, as far as there is room, unless the scope is used up, after the others had their turn."""
        server = self._server
        if self.scope.cancel_called:
            return
        while server.has_room and (job := server.next_job()) is not None:
            server.running += 1
            self.jobs.append(job)
        if self.jobs:
            self.run_until(self.jobs[0])
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _stop_waiting(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """It was cancelled while it was idle."""
        del self._server.idle[self]
        return trio.lowlevel.Abort.SUCCEEDED
