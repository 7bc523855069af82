"""What is to be thought of each difference. The first rule that fits decides."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal


@dataclass(frozen=True)
class Verdict:
    word: Literal["ours", "choice"]
    reason: str


def ours(reason: str) -> Verdict:
    return Verdict("ours", reason)


def choice(reason: str) -> Verdict:
    return Verdict("choice", reason)


RULES: tuple[tuple[str, str, str, Verdict], ...] = (
    ("anthropic", "*", "tools?*?.type", choice("a tool without a type is a custom one")),
    ("anthropic", "*auto", "tool_choice", choice("auto is what goes without saying")),
    (
        "anthropic",
        "call with empty*",
        "messages?1?.content",
        ours("theirs puts words of its own into the model's mouth"),
    ),
    ("anthropic", "empty result", "*content", choice("an empty result may be left out")),
    ("anthropic", "json schema", "output_*", ours("output_config is the documented field, output_format its beta")),
    ("anthropic", "json object", "*", choice("ours instructs and begins the answer, theirs does nothing")),
    ("*", "effort", "*budget_tokens", choice("a low effort: ours gives it 2048 tokens, theirs the least")),
    ("bedrock", "*", "*inputSchema.json.required", choice("an empty list of demands")),
    ("bedrock", "tool choice none", "toolConfig", ours("Converse has no none: with tools the model may call one")),
    ("bedrock", "empty result", "*", ours("Converse refuses a blank text")),
    ("bedrock", "json object", "toolConfig", choice("ours holds the model to JSON by a tool, theirs not at all")),
    ("bedrock", "effort", "additionalModelResponseFieldPaths", choice("theirs asks for the count of thoughts")),
    ("bedrock", "user", "requestMetadata", choice("ours keeps the user for the provider's logs")),
    (
        "gemini",
        "results out of order",
        "contents?2?*",
        ours("results without ids are matched by order: theirs swaps two"),
    ),
    ("gemini", "call with empty*", "contents?1?.parts", ours('theirs invents the argument {"type": "object"}')),
    (
        "gemini",
        "*",
        "tools?0?.functionDeclarations*",
        choice("parametersJsonSchema takes whole schemas, parameters a part"),
    ),
    ("gemini", "*", "contents*.response*", choice("output and content are read alike")),
    ("gemini", "*auto", "toolConfig", choice("AUTO is what goes without saying")),
    ("mistral", "*", "tools?*?.function.parameters", ours("Mistral demands the parameters")),
    ("mistral", "tool choice named", "tool_choice", ours("theirs loses the choice")),
    ("mistral", "call with empty*", "*arguments", ours("an empty text is no JSON object")),
    ("mistral", "empty result", "*", ours("theirs loses the result, and with it the pair of call and result")),
    ("mistral", "effort", "reasoning_effort", choice("theirs knows a list of models, ours lets the provider say")),
    ("cohere", "*", "tools?*?.function.parameters", ours("Cohere demands the parameters")),
    ("cohere", "tool choice*", "tool_choice", ours("theirs loses the choice")),
    ("cohere", "tool choice named", "tools", ours("Cohere cannot name a tool, so only that one is offered")),
    ("cohere", "text beside calls", "messages*", ours("what is said along with calls is their tool_plan")),
    ("cohere", "call with empty*", "*content", choice("an empty content may be left out")),
    ("cohere", "call with empty*", "*arguments", ours("an empty text is no JSON object")),
    ("cohere", "empty result", "*content", choice("ours says that it is empty")),
    ("cohere", "one stop", "stop_sequences", ours("Cohere takes a list only")),
    ("cohere", "json *", "response_format*", ours("theirs loses the format")),
    ("groq", "*", "max_*tokens", choice("max_tokens is the deprecated name")),
    ("groq", "user", "user", choice("Groq takes it")),
    (
        "deepseek",
        "*",
        "thinking",
        ours("a forced call, or one in the history without its thoughts, is refused while thinking"),
    ),
    ("deepseek", "one call at a time", "*", choice("DeepSeek documents no such parameter")),
    ("deepseek", "image", "*", ours("theirs loses the image, ours refuses what the model cannot see")),
    ("deepseek", "*", "max_*tokens", ours("DeepSeek documents max_tokens only")),
    ("deepseek", "sampling", "seed", choice("DeepSeek documents no seed")),
    ("deepseek", "json schema", "response_format*", ours("DeepSeek documents json_object only")),
    (
        "deepseek",
        "effort",
        "reasoning_effort",
        choice("DeepSeek reads the effort; theirs tells only that it shall think"),
    ),
    ("openrouter", "*", "usage", choice("OpenRouter tells the usage anyway")),
    ("openrouter", "*", "max_*tokens", choice("OpenRouter takes both names")),
    ("openrouter", "user", "user", choice("OpenRouter takes it")),
)
"""Patterns of the provider, the case and the path; ``?`` stands for a bracket."""


def verdict_on(provider: str, case: str, path: str) -> Verdict | None:
    for providers, cases, paths, verdict in RULES:
        if fnmatchcase(provider, providers) and fnmatchcase(case, cases) and fnmatchcase(path, paths):
            return verdict
    return None
