"""Providers that speak OpenAI's dialect with small deviations: one row each, data and no code.

A provider that needs behaviour of its own does not belong here; it is a package. What a row leaves out is the
family's common ground. Sources: the providers' API references and recorded traffic.
"""

from collections.abc import Mapping

from .openai.dialect import Dialect
from .params import Fate

PASS, TRANSLATE, EMULATE, DROP, REJECT = Fate.PASS, Fate.TRANSLATE, Fate.EMULATE, Fate.DROP, Fate.REJECT

COMMON: Mapping[str, Fate] = {
    "messages": TRANSLATE,
    "model": TRANSLATE,
    "audio": REJECT,
    "frequency_penalty": PASS,
    "function_call": TRANSLATE,
    "functions": TRANSLATE,
    "logit_bias": REJECT,
    "logprobs": PASS,
    "max_completion_tokens": TRANSLATE,
    "max_tokens": TRANSLATE,
    "metadata": EMULATE,
    "modalities": REJECT,
    "moderation": REJECT,
    "n": REJECT,
    "parallel_tool_calls": PASS,
    "prediction": DROP,
    "presence_penalty": PASS,
    "prompt_cache_key": DROP,
    "prompt_cache_options": DROP,
    "prompt_cache_retention": DROP,
    "reasoning_effort": PASS,
    "response_format": PASS,
    "safety_identifier": DROP,
    "seed": PASS,
    "service_tier": EMULATE,
    "stop": PASS,
    "store": EMULATE,
    "stream": PASS,
    "stream_options": TRANSLATE,
    "temperature": PASS,
    "tool_choice": TRANSLATE,
    "tools": TRANSLATE,
    "top_logprobs": PASS,
    "top_p": PASS,
    "user": DROP,
    "verbosity": DROP,
    "web_search_options": REJECT,
}
"""The common ground: what most servers take under OpenAI's name."""
_SAMPLERS = dict.fromkeys(("top_k", "min_p", "repetition_penalty"), PASS)
_OPEN = {"logit_bias": PASS, "n": PASS, "user": PASS, **_SAMPLERS}
"""What self-hosted engines and routers take besides."""
_NO_LOGPROBS = {"logprobs": REJECT, "top_logprobs": REJECT}
_NO_PENALTIES = {"frequency_penalty": DROP, "presence_penalty": DROP}
_TEXT = frozenset({"text"})
_IMAGES = frozenset({"text", "image_url"})


def _row(name: str, base_url: str = "", *, params: Mapping[str, Fate] | None = None, **more: object) -> Dialect:
    return Dialect(name=name, base_url=base_url, params={**COMMON, **(params or {})}, **more)  # type: ignore[arg-type]


ROWS: Mapping[str, Dialect] = {
    row.name: row
    for row in (
        _row("openai-compatible", params=_OPEN),
        _row(
            "groq",
            "https://api.groq.com/openai/v1",
            params={
                **_NO_LOGPROBS,
                **_NO_PENALTIES,
                "service_tier": TRANSLATE,
                "user": PASS,
                "reasoning_format": PASS,
                "include_reasoning": PASS,
            },
            tiers={"default": "on_demand", "flex": "flex", "priority": "performance"},
            max_tokens="max_completion_tokens",
            parts=_IMAGES,
            message_keys=frozenset({"reasoning"}),
            strict=True,
        ),
        _row(
            "deepseek",
            "https://api.deepseek.com",
            params={"seed": DROP, "parallel_tool_calls": DROP, "thinking": PASS},
            parts=_TEXT,
            json_schema=False,
            thinking="type",
            echo_reasoning=True,
        ),
        _row(
            "together",
            "https://api.together.xyz/v1",
            params={**_NO_LOGPROBS, "logit_bias": PASS, "n": PASS, "safety_model": PASS, **_SAMPLERS},
        ),
        _row(
            "fireworks",
            "https://api.fireworks.ai/inference/v1",
            params={**_OPEN, "service_tier": TRANSLATE, "context_length_exceeded_behavior": PASS},
            tiers={"default": "default", "priority": "priority"},
            reports_tier=False,
            strict=True,
            extra={"context_length_exceeded_behavior": "error"},
        ),
        _row(
            "openrouter",
            "https://openrouter.ai/api/v1",
            params={
                **_OPEN,
                "n": REJECT,
                "service_tier": TRANSLATE,
                "verbosity": PASS,
                "prediction": PASS,
                "web_search_options": PASS,
                **dict.fromkeys(("reasoning", "provider", "models", "transforms", "plugins", "top_a"), PASS),
            },
            tiers={"default": "default", "flex": "flex", "priority": "priority"},
            tiers_declared=True,  # whoever serves the model behind it may have none
            message_keys=frozenset({"reasoning", "reasoning_details"}),
            reasoning_key="reasoning",
        ),
        _row(
            "xai",
            "https://api.x.ai/v1",
            params={
                "n": PASS,
                "logit_bias": PASS,
                "user": PASS,
                "search_parameters": PASS,
                "service_tier": TRANSLATE,
            },
            tiers={"default": "default", "priority": "priority"},
            parts=_IMAGES,
        ),
        _row(
            "perplexity",
            "https://api.perplexity.ai",
            params={
                **_NO_LOGPROBS,
                "tools": REJECT,
                "tool_choice": REJECT,
                "parallel_tool_calls": DROP,
                "functions": REJECT,
                "function_call": REJECT,
                "seed": DROP,
                "stop": REJECT,
                "web_search_options": PASS,
                **dict.fromkeys(("search_domain_filter", "search_recency_filter", "search_mode", "top_k"), PASS),
            },
            stream_options=False,
            flat=True,
            merge_roles=True,
        ),
        _row(
            "cerebras",
            "https://api.cerebras.ai/v1",
            params={
                **_NO_PENALTIES,
                "user": PASS,
                "service_tier": TRANSLATE,
                "clear_thinking": PASS,
                "disable_reasoning": PASS,
            },
            tiers={"default": "default", "flex": "flex", "priority": "priority"},
            tiers_declared=True,  # in preview, priority on dedicated endpoints; others are refused with 400
            max_tokens="max_completion_tokens",
            parts=_TEXT,
            flat=True,
            message_keys=frozenset({"reasoning"}),
            reasoning_key="reasoning",
            strict=True,
        ),
        _row(
            "ollama",
            "http://127.0.0.1:11434/v1",
            params={**_NO_LOGPROBS, "think": PASS},
            parts=_IMAGES,
            message_keys=frozenset({"reasoning"}),
            reasoning_key="reasoning",
        ),
        _row(
            "vllm",
            "http://127.0.0.1:8000/v1",
            params={
                **_OPEN,
                **dict.fromkeys(("chat_template_kwargs", "structured_outputs", "min_tokens", "ignore_eos"), PASS),
            },
            developer_role=True,
            message_keys=frozenset({"reasoning", "reasoning_content"}),
            priorities={"flex": 10, "default": 0, "priority": -10},  # lower ones are served first
            continue_final_message=True,
        ),
        _row(
            "sglang",
            "http://127.0.0.1:30000/v1",
            params={
                **_OPEN,
                **dict.fromkeys(("regex", "ebnf", "separate_reasoning", "chat_template_kwargs"), PASS),
            },
            priorities={"flex": -10, "default": 0, "priority": 10},  # higher ones are served first
            continue_final_message=True,
        ),
        _row(
            "llamacpp",
            "http://127.0.0.1:8080/v1",
            params={
                **_OPEN,
                **dict.fromkeys(("grammar", "cache_prompt", "id_slot", "chat_template_kwargs"), PASS),
            },
            flat=True,
        ),
        _row("lm-studio", "http://127.0.0.1:1234/v1", params=_OPEN | _NO_LOGPROBS | {"n": REJECT}, flat=True),
        _row(
            "moonshot",
            "https://api.moonshot.ai/v1",
            params={**_NO_LOGPROBS, "n": PASS, "seed": DROP, "prompt_cache_key": PASS, "thinking": PASS},
            parts=frozenset({"text", "image_url", "video_url"}),
            thinking="type",
            echo_reasoning=True,
        ),
        _row(
            "zai",
            "https://api.z.ai/api/paas/v4",
            params={
                **_NO_LOGPROBS,
                **_NO_PENALTIES,
                "seed": DROP,
                "parallel_tool_calls": DROP,
                "thinking": PASS,
            },
            json_schema=False,
            thinking="type",
        ),
        _row(
            "qwen",
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            params={
                "n": PASS,
                "reasoning_effort": DROP,  # but for ``none``: there is on and off alone
                **dict.fromkeys(("enable_thinking", "thinking_budget", "top_k", "enable_search"), PASS),
            },
            thinking="enable_thinking",
        ),
        _row("nvidia-nim", "https://integrate.api.nvidia.com/v1", params={**_OPEN, "chat_template_kwargs": PASS}),
        _row("huggingface", "https://router.huggingface.co/v1", params=_OPEN),
        _row("venice", "https://api.venice.ai/api/v1", params={**_OPEN, "venice_parameters": PASS}),
        _row("copilot", "https://api.githubcopilot.com", params={"n": PASS}, max_tokens="max_tokens"),
        _row("crusoe", "https://managed-inference-api-proxy.crusoecloud.com/v1", params=_OPEN),
        _row("doubleword", "https://api.doubleword.ai/v1", params=_OPEN),
        _row(
            "snowflake",
            params=_NO_PENALTIES | _NO_LOGPROBS,
            max_tokens="max_completion_tokens",
            message_keys=frozenset({"reasoning_content", "reasoning_details"}),
        ),
        _row("mistralrs", "http://127.0.0.1:1234/v1", params=_OPEN),
        _row(
            "gemini-openai",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            params={"n": PASS, "extra_body": PASS},
            message_keys=frozenset({"extra_content"}),
        ),
    )
}
"""Every compatible provider by its adapter's name."""
