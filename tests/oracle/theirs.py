"""LiteLLM's side, run by the interpreter that has it: JSON of cases in, JSON of bodies out. No network."""

import json
import os
import sys

for name in ("OPENAI", "ANTHROPIC", "GEMINI", "MISTRAL", "COHERE", "GROQ", "DEEPSEEK", "OPENROUTER"):
    os.environ[f"{name}_API_KEY"] = "x"
os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "AWS_ACCESS_KEY_ID": "AK",
    "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION_NAME": "us-east-1",
}  # fmt: skip

import litellm  # noqa: E402
from litellm.types.utils import CallTypes  # noqa: E402
from litellm.utils import return_raw_request  # noqa: E402

litellm.telemetry = False
litellm.drop_params = True
litellm.suppress_debug_info = True


def body(model: str, request: dict) -> dict:
    try:
        told = return_raw_request(CallTypes.completion, {**request, "model": model})
    except Exception as exc:
        return {"error": f"{type(exc).__name__}"}
    made = told.get("raw_request_body")
    return {"body": made} if isinstance(made, dict) else {"error": str(told.get("error"))[:200]}


asked = json.load(sys.stdin)
made = [body(*item) for item in asked]
sys.stdout.write(
    "\n=====\n" + json.dumps({"version": litellm.__dict__.get("__version__", ""), "made": made}, default=str)
)
