/* One HTTP/1.1 answer, parsed as it arrives, in whatever pieces; a stream's chunks are handed to `chunk` one by one. */
#ifndef ANSWER_H
#define ANSWER_H
#include <stdint.h>

enum result { MORE, COMPLETE, BROKEN };

typedef struct answer {
  int state, status, sse, closes, done, next_index, ordered;
  long long remain; /* of the body or the HTTP chunk; -1: until the connection closes */
  uint64_t first;   /* when its first content came; 0: not yet */
  int held, line_n;
  char buffer[65536]; /* what is not parsed yet: a head or a chunk size that arrived in part */
  char line[8192];    /* an event's line that arrived in part */
} answer;

/* Called for every content chunk of a stream: when it was sent and when it came, in ns. */
typedef void on_chunk(answer *a, uint64_t sent, uint64_t came);

void answer_begin(answer *a);
/* `n` bytes were read to the end of a->buffer at time `t`. */
enum result answer_feed(answer *a, int n, uint64_t t, on_chunk *chunk);
/* The connection was closed: was that the end of the answer? */
enum result answer_closed(const answer *a);
/* Whether every chunk came once, in order, and the end was told ([DONE], unless `no_done`). */
int answer_whole(const answer *a, int no_done);
#endif
