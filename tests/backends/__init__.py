"""What our backends do beyond the contract that the conformance suites prove."""
