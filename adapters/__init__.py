"""Pure translations between OpenAI's Chat Completions and each provider's wire format."""
