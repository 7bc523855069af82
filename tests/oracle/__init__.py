"""Our translations beside LiteLLM's: ``make oracle``."""
