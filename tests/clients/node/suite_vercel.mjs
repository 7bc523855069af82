// Vercel AI SDK through @ai-sdk/openai-compatible: it checks every chunk with zod.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from 'ai';
import { z } from 'zod';

const { SLUICE_URL: baseURL, SLUICE_KEY: apiKey, SLUICE_PREFIX: prefix } = process.env;
const sluice = createOpenAICompatible({
  name: 'sluice', baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true,
});
const prompt = 'Say one two three';
const ask = (script) => ({ model: sluice(`${prefix}-${script}`), prompt, maxRetries: 0 });
const inputSchema = z.object({ city: z.string() });
const schema = z.object({ city: z.string(), days: z.int() });
const idle = { weather: tool({ description: 'The weather of a city.', inputSchema }) };
const weather = tool({ description: 'The weather of a city.', inputSchema, execute: async ({ city }) => `rain in ${city}` });
const tokens = (usage) => [usage.inputTokens, usage.outputTokens];

async function unknown() {
  try {
    await generateText({ model: sluice('none'), prompt, maxRetries: 0 });
  } catch (error) {
    if (APICallError.isInstance(error)) return [error.statusCode, JSON.parse(error.responseBody).error.code];
    throw error;
  }
  return ['no error'];
}

async function cut() {
  try {
    for await (const part of streamText({ ...ask('cut'), onError() {} }).fullStream) {
      if (part.type === 'error') return 'error';
    }
  } catch {
    return 'error';
  }
  return 'complete';
}

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

const whole = await generateText(ask('echo'));
const streamed = streamText(ask('echo'));
const text = (await collect(streamed.textStream)).join('');
const called = await generateText({ ...ask('tools'), tools: idle });
const agent = await generateText({ ...ask('tools'), tools: { weather }, stopWhen: stepCountIs(3) });
const partial = streamObject({ ...ask('ok'), schema });
for await (const _ of partial.partialObjectStream);

console.log(JSON.stringify({
  whole: whole.text,
  usage: tokens(whole.usage),
  stream: text,
  stream_usage: tokens(await streamed.usage),
  tool: called.toolCalls.map((c) => [c.toolName, c.input]),
  agent: agent.text.includes('rain in demo'),
  structured: (await generateObject({ ...ask('ok'), schema })).object,
  stream_structured: await partial.object,
  unknown_model: await unknown(),
  cut_stream: await cut(),
}));
