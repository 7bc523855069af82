"""Those who are told about finished calls. They import the nouns of ``call`` and nothing else of the gateway."""
