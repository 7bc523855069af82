"""Those who are told about finished calls."""
