/* What the C tests share: checks that end the program. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "penstock/penstock.h"

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: CHECK(%s) failed; last error: %s\n", __FILE__, __LINE__, #condition, \
              penstock_last_error());                                                              \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

/* The model of a name in the folder of the test's models. */
static penstock_flow *model(const char *folder, const char *name) {
  char path[4096];
  penstock_flow *flow;
  CHECK(snprintf(path, sizeof path, "%s/%s.safetensors", folder, name) < (int)sizeof path);
  CHECK(penstock_load(path, &flow) == PENSTOCK_OK);
  CHECK(flow != NULL);
  return flow;
}

#endif
