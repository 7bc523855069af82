#define _GNU_SOURCE
#include "answer.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER };

void answer_begin(answer *a) {
  memset(a, 0, offsetof(answer, buffer));
  a->ordered = 1;
}

/* "data: ..." whose content holds "@<ns>#<index>". */
static void event_line(answer *a, uint64_t t, on_chunk *chunk) {
  if (a->line_n < 6 || memcmp(a->line, "data:", 5)) return;
  a->line[a->line_n] = 0;
  if (strstr(a->line, "[DONE]")) {
    a->done = 1;
    return;
  }
  char *p = strchr(a->line, '@');
  if (!p) return;
  uint64_t sent = strtoull(p + 1, &p, 10);
  int index = *p == '#' ? atoi(p + 1) : -1;
  if (!a->first) a->first = t;
  if (index != a->next_index) a->ordered = 0;
  a->next_index = index + 1;
  chunk(a, sent, t);
}

static void payload(answer *a, const char *p, int n, uint64_t t, on_chunk *chunk) {
  if (!a->sse) return;
  for (int i = 0; i < n;) {
    const char *end = memchr(p + i, '\n', n - i);
    int k = end ? end - (p + i) : n - i;
    if (a->line_n + k < (int)sizeof a->line - 1) {
      memcpy(a->line + a->line_n, p + i, k);
      a->line_n += k;
    } else
      a->ordered = 0; /* no line of ours is so long */
    i += k;
    if (end) {
      event_line(a, t, chunk);
      a->line_n = 0;
      i++;
    }
  }
}

static void head(answer *a, const char *h) {
  a->status = atoi(h + 9);
  a->sse = strcasestr(h, "text/event-stream") != NULL;
  a->closes = strcasestr(h, "\r\nconnection: close") != NULL;
  const char *length = strcasestr(h, "\r\ncontent-length:");
  if (strcasestr(h, "\r\ntransfer-encoding: chunked")) {
    a->state = CHUNK_SIZE;
    return;
  }
  a->state = BODY;
  a->remain = length ? atoll(length + 17) : -1;
  if (!length) a->closes = 1;
}

/* Takes what can be taken of `n` bytes at `p`; returns how many, 0 when more must come first. */
static int step(answer *a, char *p, int n, uint64_t t, on_chunk *chunk, enum result *result) {
  char *end;
  int k = n;
  switch (a->state) {
  case HEAD:
    if (!(end = memmem(p, n, "\r\n\r\n", 4))) return 0;
    *end = 0;
    if (n < 12 || memcmp(p, "HTTP/1.", 7)) {
      *result = BROKEN;
      return n;
    }
    head(a, p);
    if (a->state == BODY && a->remain == 0) *result = COMPLETE;
    return end + 4 - p;
  case BODY:
  case CHUNK:
    if (a->remain >= 0 && k > a->remain) k = a->remain;
    payload(a, p, k, t, chunk);
    if (a->remain < 0) return k;
    a->remain -= k;
    if (!a->remain && a->state == BODY) *result = COMPLETE;
    if (!a->remain && a->state == CHUNK) a->state = CHUNK_END;
    return k;
  case CHUNK_SIZE:
    if (!(end = memmem(p, n, "\r\n", 2))) return 0;
    a->remain = strtoll(p, NULL, 16);
    a->state = a->remain ? CHUNK : TRAILER;
    return end + 2 - p;
  case CHUNK_END:
    if (n < 2) return 0;
    if (memcmp(p, "\r\n", 2)) *result = BROKEN;
    a->state = CHUNK_SIZE;
    return 2;
  default: /* TRAILER: header lines, then an empty one */
    if (!(end = memmem(p, n, "\r\n", 2))) return 0;
    if (end == p) *result = COMPLETE;
    return end + 2 - p;
  }
}

enum result answer_feed(answer *a, int n, uint64_t t, on_chunk *chunk) {
  enum result result = MORE;
  int at = 0, k;
  a->held += n;
  while (result == MORE && at < a->held && (k = step(a, a->buffer + at, a->held - at, t, chunk, &result)))
    at += k;
  memmove(a->buffer, a->buffer + at, a->held - at);
  a->held -= at;
  if (result == COMPLETE && a->held) a->closes = 1; /* nobody asked for what follows */
  return result == MORE && a->held >= (int)sizeof a->buffer - 1 ? BROKEN : result;
}

enum result answer_closed(const answer *a) {
  return a->state == BODY && a->remain < 0 ? COMPLETE : BROKEN;
}

int answer_whole(const answer *a, int no_done) {
  return !a->sse || ((a->done || no_done) && a->ordered && a->next_index > 0);
}
