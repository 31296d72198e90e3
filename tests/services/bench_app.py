"""The FastAPI service as the benchmark needs it: with instrumentation of its own, or with a clock at two places.

--instrument adds what people put into such a service to measure it. --clock takes every request's duration and writes
all of them to a file at the end: in a plain ASGI middleware around the application, and in the HTTP protocol, from the
moment that uvicorn is given the request's bytes to the moment that it has handed the answer's last byte to the system.
The two differ by the time that a request waits in the event loop for its turn. --count counts the requests in a file of
eight bytes, so that others can read at any time how many there have been.
"""

import argparse
import ctypes
import json
import mmap
import time

import uvicorn
from fastapi_app import app
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def with_prometheus():
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator().instrument(app).expose(app)


def with_otel_metrics():
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.trace import NoOpTracerProvider

    provider = MeterProvider(metric_readers=[InMemoryMetricReader()])
    FastAPIInstrumentor.instrument_app(app, meter_provider=provider, tracer_provider=NoOpTracerProvider())


def with_otel_traces():
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS

        def shutdown(self):
            pass

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, meter_provider=NoOpMeterProvider())


INSTRUMENTS = {"prometheus": with_prometheus, "otel-metrics": with_otel_metrics, "otel-traces": with_otel_traces}

middleware_seconds = []
protocol_seconds = []


class Clock:
    """A plain ASGI middleware that takes the time."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start = time.perf_counter()
        try:
            await self.app(scope, receive, send)
        finally:
            middleware_seconds.append(time.perf_counter() - start)


class ClockedProtocol(HttpToolsProtocol):
    """Takes the time of requests that come one after the other on a connection, each in one piece."""

    def data_received(self, data):
        self.began = time.perf_counter()
        super().data_received(data)

    def on_response_complete(self):
        protocol_seconds.append(time.perf_counter() - self.began)
        super().on_response_complete()


class CountedProtocol(HttpToolsProtocol):
    """Counts requests where others see it."""

    def on_response_complete(self):
        self.answered.value += 1
        super().on_response_complete()

    @classmethod
    def counting_in(cls, path):
        """Makes the file."""
        with open(path, "w+b") as file:
            file.truncate(ctypes.sizeof(ctypes.c_uint64))
            cls.answered = ctypes.c_uint64.from_buffer(mmap.mmap(file.fileno(), 0))
        return cls


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--instrument", choices=INSTRUMENTS)
    parser.add_argument("--clock")
    parser.add_argument("--count")
    options = parser.parse_args()
    application = app
    protocol = "httptools"
    if options.instrument:
        INSTRUMENTS[options.instrument]()
    if options.clock:
        application = Clock(app)
        protocol = ClockedProtocol
    if options.count:
        protocol = CountedProtocol.counting_in(options.count)
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=options.port,
        http=protocol,
        loop="asyncio",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
    if options.clock:
        with open(options.clock, "w") as file:
            json.dump({"middleware": middleware_seconds, "protocol": protocol_seconds}, file)


if __name__ == "__main__":
    main()
