/* The clock that the upstream stamps chunks with and the load generator reads: one machine, one CLOCK_MONOTONIC. */
#ifndef CLOCK_H
#define CLOCK_H
#include <stdint.h>
#include <time.h>

#define SECOND 1000000000ull

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * SECOND + t.tv_nsec;
}
static inline struct timespec timespec_of(uint64_t ns) {
  return (struct timespec){ns / SECOND, ns % SECOND};
}
#endif
