/* What the upstream says: one whole answer and one stream for each dialect that it speaks. */
#ifndef DIALECT_H
#define DIALECT_H
#include <stdint.h>

typedef struct {
  const char *path; /* a request whose path contains this is answered so */
  const char *whole;
  const char *prelude; /* a stream's events before the first content */
  const char *before, *after; /* of one content chunk, around "@<ns>#<index> " */
  const char *finish; /* why it ended; %d is how many chunks there were */
  const char *usage;  /* sent when the request asks for it: %d chunks, %d tokens in all; NULL: the dialect has none */
  const char *last;
} dialect;

#define LONGEST 1024 /* of an event */

extern const dialect DIALECTS[];
extern const int DIALECTS_N;
/* The dialect of a request's head; OpenAI's when no path matches. */
const dialect *dialect_of(const char *head);
#endif
