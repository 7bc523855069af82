"""What an operator may say, read once and checked whole. Knows nothing of adapters or the gateway."""

from .loader import ConfigError, load, parse, where
from .schema import Config

__all__ = ["Config", "ConfigError", "load", "parse", "where"]
