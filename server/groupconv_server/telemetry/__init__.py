"""Telemetry: metrics, logs with request ids, an audit of refusals, traces (docs/observability.md)."""
