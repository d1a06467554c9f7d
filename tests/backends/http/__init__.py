"""The HTTP backend beyond the contract that the conformance suites prove."""
