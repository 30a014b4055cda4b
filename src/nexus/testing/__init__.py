"""What tests of programs on Nexus need: virtual time, faults, fixtures for pytest, and the conformance suite."""
