"""The spans that nodes make, as the SDK of OpenTelemetry keeps them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

__all__ = ["ON", "Spans", "events_of", "id_of", "parent_of", "recorded", "trace_of", "traceparent"]

ON = {"tracing": {"enabled": True}}


@functools.cache
def _exporter() -> InMemorySpanExporter:
    # There is one provider for a whole process, for ever.
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter := InMemorySpanExporter()))
    trace.set_tracer_provider(provider)
    return exporter


@attrs.frozen
class Spans:
    """What has ended since the block began."""

    exporter: InMemorySpanExporter

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        """In the order in which they ended."""
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of that name."""
        return [span for span in self.all if span.name == name]

    def one(self, name: str, kind: trace.SpanKind | None = None) -> ReadableSpan:
        """The only one of that name (and kind)."""
        (found,) = (span for span in self.named(name) if kind in {None, span.kind})
        return found

    def of_trace(self, trace_id: int) -> list[ReadableSpan]:
        """Those of one trace."""
        return [span for span in self.all if span.context is not None and span.context.trace_id == trace_id]


@contextmanager
def recorded() -> Iterator[Spans]:
    """Keep the spans that end from now on, until the next block begins."""
    exporter = _exporter()
    exporter.clear()
    yield Spans(exporter)


def traceparent(span: ReadableSpan) -> str:
    """*span* as it travels, without its flags."""
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-"


def parent_of(span: ReadableSpan) -> int:
    """The id of a span's parent."""
    assert span.parent is not None
    return span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    """The id of a span."""
    assert span.context is not None
    return span.context.span_id


def trace_of(span: ReadableSpan) -> int:
    """The id of a span's trace."""
    assert span.context is not None
    return span.context.trace_id


def events_of(span: ReadableSpan) -> list[str]:
    """The names of a span's events."""
    return [event.name for event in span.events]
