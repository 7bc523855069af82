/* A binary heap of connections by the time they are due. */
#ifndef TIMERS_H
#define TIMERS_H
#include <stdint.h>

typedef struct timer {
  uint64_t due;
  int at; /* its place in the heap; -1: none */
} timer;

timer *timers_first(void); /* NULL: none is set */
void timers_set(timer *t, uint64_t due);
void timers_clear(timer *t);
#endif
