/* Measured times in microseconds, every one kept, printed as percentiles. */
#ifndef SAMPLES_H
#define SAMPLES_H
#include <stddef.h>

typedef struct {
  float *v;
  size_t n, cap;
} samples;

void samples_add(samples *s, double us);
/* Appends ,"name":{"n":..,"mean":..,"p50":..,...} to standard output; nothing when there are none. */
void samples_print(const char *name, samples *s);
#endif
