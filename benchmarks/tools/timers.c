#include "timers.h"

#include <stddef.h>

#define MOST 65536

static timer *heap[MOST];
static int n;

static void place(int i, timer *t) {
  heap[i] = t;
  t->at = i;
}
static void up(int i) {
  timer *t = heap[i];
  for (; i && heap[(i - 1) / 2]->due > t->due; i = (i - 1) / 2)
    place(i, heap[(i - 1) / 2]);
  place(i, t);
}
static void down(int i) {
  timer *t = heap[i];
  for (int child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && heap[child + 1]->due < heap[child]->due) child++;
    if (heap[child]->due >= t->due) break;
    place(i, heap[child]);
  }
  place(i, t);
}
timer *timers_first(void) {
  return n ? heap[0] : NULL;
}
void timers_set(timer *t, uint64_t due) {
  timers_clear(t);
  t->due = due;
  place(n, t);
  up(n++);
}
void timers_clear(timer *t) {
  int i = t->at;
  if (i < 0) return;
  t->at = -1;
  timer *last = heap[--n];
  if (last == t) return;
  place(i, last);
  up(i);
  down(last->at);
}
