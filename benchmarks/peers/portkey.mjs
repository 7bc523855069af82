// node --import: Portkey 1.15.2 adds headers to what fetch() returned, which Node 20 forbids for a stream: each one
// would be a 500. Here streams get headers that may be added to; their bodies are the same, whole answers are untouched.
const { fetch, Response } = globalThis;

globalThis.fetch = async (...request) => {
  const answer = await fetch(...request);
  if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) return answer;
  return new Response(answer.body, { status: answer.status, headers: answer.headers });
};
