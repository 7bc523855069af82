#include "dialect.h"

#include <string.h>

#define SENTENCE "The gateway forwards this answer unchanged; "
#define TEXT /* 13 of them: an answer of about 1 KB */                                                                 \
  SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE

#define OPENAI_CHUNK                                                                                                   \
  "data: {\"id\":\"chatcmpl-mock0000000000000000000001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
  "\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_mock\",\"choices\":["

const dialect DIALECTS[] = {
    {/* https://platform.openai.com/docs/api-reference/chat */
     .path = "/chat/completions",
     .whole = "{\"id\":\"chatcmpl-mock0000000000000000000001\",\"object\":\"chat.completion\",\"created\":1700000000,"
              "\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
              "\"" TEXT "\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
              "\"usage\":{\"prompt_tokens\":25,\"completion_tokens\":110,\"total_tokens\":135,"
              "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":{"
              "\"reasoning_tokens\":0,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,"
              "\"rejected_prediction_tokens\":0}},\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock\"}",
     .prelude = OPENAI_CHUNK "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                             "\"finish_reason\":null}]}\n\n",
     .before = OPENAI_CHUNK "{\"index\":0,\"delta\":{\"content\":\"",
     .after = "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
     .finish = OPENAI_CHUNK "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n",
     .usage = OPENAI_CHUNK
     "],\"usage\":{\"prompt_tokens\":25,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n",
     .last = "data: [DONE]\n\n"},
    {/* https://docs.anthropic.com/en/docs/build-with-claude/streaming */
     .path = "/messages",
     .whole = "{\"id\":\"msg_mock00000000000000000001\",\"type\":\"message\",\"role\":\"assistant\",\"model\":"
              "\"claude-haiku-4-5\",\"content\":[{\"type\":\"text\",\"text\":\"" TEXT "\"}],\"stop_reason\":"
              "\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":25,\"output_tokens\":110}}",
     .prelude =
         "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_mock00000000000000000001\","
         "\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-haiku-4-5\",\"content\":[],\"stop_reason\":null,"
         "\"stop_sequence\":null,\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n"
         "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":"
         "\"text\",\"text\":\"\"}}\n\n"
         "event: ping\ndata: {\"type\":\"ping\"}\n\n",
     .before = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":"
               "\"text_delta\",\"text\":\"",
     .after = "\"}}\n\n",
     .finish = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
               "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\","
               "\"stop_sequence\":null},\"usage\":{\"output_tokens\":%d}}\n\n",
     .last = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"},
};
const int DIALECTS_N = sizeof DIALECTS / sizeof *DIALECTS;

const dialect *dialect_of(const char *head) {
  const char *end = strstr(head, " HTTP/");
  for (int i = 0; i < DIALECTS_N; i++) {
    const char *p = strstr(head, DIALECTS[i].path);
    if (p && end && p < end) return &DIALECTS[i];
  }
  return DIALECTS;
}
