"""A scripted upstream that speaks several dialects on loopback."""
