"""The load test: Locust drives users that ask through the SDK and check what comes back (docs/load-testing.md)."""
