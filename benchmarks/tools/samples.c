#include "samples.h"

#include <stdio.h>
#include <stdlib.h>

void samples_add(samples *s, double us) {
  if (s->n == s->cap) {
    s->cap = s->cap ? s->cap * 2 : 4096;
    s->v = realloc(s->v, s->cap * sizeof *s->v);
    if (!s->v) abort();
  }
  s->v[s->n++] = us;
}
static int compare(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}
void samples_print(const char *name, samples *s) {
  static const struct {
    const char *name;
    double at;
  } shown[] = {{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p999", .999}};
  if (!s->n) return;
  qsort(s->v, s->n, sizeof *s->v, compare);
  double sum = 0;
  for (size_t i = 0; i < s->n; i++)
    sum += s->v[i];
  printf(",\"%s\":{\"n\":%zu,\"mean\":%.1f", name, s->n, sum / s->n);
  for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
    printf(",\"%s\":%.1f", shown[i].name, s->v[(size_t)(s->n * shown[i].at)]);
  printf(",\"max\":%.1f}", s->v[s->n - 1]);
}
