"""The words of OpenTelemetry's semantic conventions for generative AI: metrics and spans name things alike.

Source: opentelemetry.io/docs/specs/semconv/gen-ai (registry of ``gen_ai.*``). In Prometheus, dots become underscores.
"""

from collections.abc import Mapping

from config.schema import Config

PROVIDERS: Mapping[str, str] = {
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "gemini": "gcp.gemini",
    "groq": "groq",
    "mistral": "mistral_ai",
    "openai": "openai",
    "perplexity": "perplexity",
    "vertex": "gcp.vertex_ai",
    "vertex-anthropic": "gcp.vertex_ai",
    "xai": "x_ai",
}
"""An adapter -> the well-known value of ``gen_ai.provider.name``; others keep the adapter's name."""
NOBODY = "sluice"
"""The provider of what the gateway answered itself."""


def provider_names(config: Config) -> dict[str, str]:
    """An account of the configuration -> ``gen_ai.provider.name``."""
    return {name: PROVIDERS.get(p.adapter, p.adapter) for name, p in config.providers.items()}
