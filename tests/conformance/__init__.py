"""The conformance suites, on our backends and on broken ones."""
