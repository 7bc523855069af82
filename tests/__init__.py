"""Tests: flat, one file per module; real servers on loopback, no mocks of our own code."""
