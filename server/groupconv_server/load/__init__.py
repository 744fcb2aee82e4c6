"""The load test: Locust drives users that send requests by the SDK and check the answers (docs/load-testing.md)."""
