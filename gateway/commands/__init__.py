"""The commands of ``sluice``, one module each, named like the command."""
