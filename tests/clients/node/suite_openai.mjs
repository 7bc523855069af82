// openai-node: raw calls, streams, helpers, stored completions, errors.
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const { SLUICE_URL: baseURL, SLUICE_KEY: apiKey, SLUICE_PREFIX: prefix } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const api = client.chat.completions;
const messages = [{ role: 'user', content: 'Say one two three' }];
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const tools = [{ type: 'function', function: { name: 'weather', parameters } }];
const Place = z.object({ city: z.string(), days: z.int() });
const response_format = zodResponseFormat(Place, 'place');
const ask = (script, more = {}) => ({ model: `${prefix}-${script}`, messages, ...more });
const calls = (message) => message.tool_calls.map((c) => [c.function.name, JSON.parse(c.function.arguments)]);
const tokens = (usage) => [usage.prompt_tokens, usage.completion_tokens];
const content = (completion) => completion.choices[0].message.content;

async function refusal(promise, ...names) {
  try {
    await promise;
  } catch (error) {
    if (error instanceof OpenAI.APIError) return [error.status, ...names.map((name) => error[name])];
    throw error;
  }
  return ['no error'];
}

async function cut() {
  try {
    for await (const _ of await api.create(ask('cut', { stream: true })));
  } catch {
    return 'error';
  }
  return 'complete';
}

async function stored() {
  const metadata = { run: crypto.randomUUID() };
  const made = [];
  for (let i = 0; i < 2; i += 1) made.push((await api.create(ask('echo', { store: true, metadata }))).id);
  const found = [];
  for await (const one of api.list({ limit: 1, order: 'asc', metadata })) found.push(one.id);
  if (made.toSorted().join() !== found.toSorted().join()) return { made, found };
  const [item] = (await api.messages.list(made[0])).data;
  if (item.content !== messages[0].content) return item;
  if ((await api.update(made[0], { metadata: { a: 'b' } })).id !== made[0]) return 'update';
  for (const id of made) if (!(await api.delete(id)).deleted) return 'delete';
  return (await refusal(api.retrieve(made[0]), 'code')).join() === '404,not_found';
}

let text = '';
let streamUsage;
for await (const chunk of await api.create(ask('echo', { stream: true, stream_options: { include_usage: true } }))) {
  text += chunk.choices[0]?.delta.content ?? '';
  if (chunk.usage) streamUsage = tokens(chunk.usage);
}
const whole = await api.create(ask('echo'));
const tool = (await api.create(ask('tools', { tools }))).choices[0].message;
const answer = { role: 'tool', tool_call_id: tool.tool_calls[0].id, content: 'rain' };
const { data, response } = await api.create(ask('echo')).withResponse();
const vectors = await client.embeddings.create({ model: 'embedding', input: ['one', 'two words'] });
const names = [];
for await (const model of client.models.list()) names.push(model.id);
const stranger = new OpenAI({ baseURL, apiKey: 'sk-wrong-0123456789abcdef0123', maxRetries: 0 });
const tool_choice = { type: 'function', function: { name: 'weather' } };

console.log(JSON.stringify({
  whole: content(whole),
  usage: tokens(whole.usage),
  stream: text,
  stream_usage: streamUsage,
  tool: calls(tool),
  forced_tool: calls((await api.create(ask('ok', { tools, tool_choice }))).choices[0].message),
  parallel_tools: calls((await api.create(ask('parallel', { tools }))).choices[0].message),
  stream_tools: calls((await api.stream(ask('parallel', { tools })).finalChatCompletion()).choices[0].message),
  two_turns: content(await api.create(ask('tools', { tools, messages: [...messages, tool, answer] }))),
  structured: (await api.parse(ask('ok', { response_format }))).choices[0].message.parsed,
  stream_structured: (await api.stream(ask('ok', { response_format })).finalChatCompletion()).choices[0].message.parsed,
  refusal: (await api.stream(ask('refusal')).finalChatCompletion()).choices[0].message.refusal,
  unknown_model: await refusal(api.create({ model: 'none', messages }), 'code'),
  wrong_key: await refusal(stranger.models.list(), 'code'),
  bad_parameter: await refusal(api.create(ask('ok', { temperature: 3 })), 'code', 'param'),
  context: await refusal(api.create(ask('context')), 'code'),
  upstream_down: (await refusal(api.create(ask('500'))))[0],
  cut_stream: await cut(),
  models: names.includes(`${prefix}-echo`),
  request_id: response.headers.get('x-request-id') === data._request_id,
  embedding: [vectors.data[0].embedding.length, vectors.usage.prompt_tokens],
  stored: await stored(),
}));
