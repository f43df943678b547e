/* The library comes and goes as a plugin does, and nothing of it stays, although a thread that has called it lives on:
 * `unload LIBRARY MODEL TIMES`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "penstock/penstock.h"

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

static struct {
  void *handle;
  penstock_status (*load)(const char *, penstock_flow **);
  void (*free)(penstock_flow *);
  penstock_status (*log_prob)(const penstock_flow *, int64_t, const double *, int64_t, const double *, int64_t,
                              double *);
  penstock_status (*set_num_threads)(int);
  penstock_status (*shutdown)(void);
  const char *(*last_error)(void);
} library;

static const char *model;

static void find(const char *name, void *function) {
  void *const found = dlsym(library.handle, name);
  CHECK(found != NULL);
  memcpy(function, &found, sizeof found);
}

static void ask(void) {
  static const double x[2 * 4000];
  static __thread double p[4000];
  penstock_flow *flow, *none;
  CHECK(library.load(model, &flow) == PENSTOCK_OK);
  CHECK(library.log_prob(flow, 1, x, 2, NULL, 0, p) == PENSTOCK_OK && p[0] < 0);
  CHECK(library.log_prob(flow, 4000, x, 2, NULL, 0, p) == PENSTOCK_OK && p[3999] == p[0]);
  CHECK(library.log_prob(flow, -1, x, 2, NULL, 0, p) == PENSTOCK_ERROR_ARGUMENT && strlen(library.last_error()) > 0);
  CHECK(library.load("/there/is/no/such/file", &none) == PENSTOCK_ERROR_FILE && none == NULL);
  library.free(flow);
}

/* A thread that lives from the first to the last time, and calls each time. */
static pthread_barrier_t turn;

static void *stay(void *times) {
  int i;
  for (i = 0; i < *(const int *)times; i++) {
    pthread_barrier_wait(&turn);
    ask();
    pthread_barrier_wait(&turn);
  }
  return NULL;
}

static long resident_kib(void) {
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%*d %ld", &pages) == 1 && fclose(file) == 0);
  return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int n, char **arguments) {
  pthread_t thread;
  long before = 0, grown;
  int i, times;
  CHECK(n == 4);
  model = arguments[2];
  times = atoi(arguments[3]);
  CHECK(pthread_barrier_init(&turn, NULL, 2) == 0);
  CHECK(pthread_create(&thread, NULL, stay, &times) == 0);
  for (i = 0; i < times; i++) {
    library.handle = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library.handle != NULL);
    find("penstock_load", &library.load);
    find("penstock_free", &library.free);
    find("penstock_log_prob_f64", &library.log_prob);
    find("penstock_set_num_threads", &library.set_num_threads);
    find("penstock_shutdown", &library.shutdown);
    find("penstock_last_error", &library.last_error);
    CHECK(library.set_num_threads(i % 3 + 1) == PENSTOCK_OK);
    pthread_barrier_wait(&turn);
    ask();
    pthread_barrier_wait(&turn);
    CHECK(library.shutdown() == PENSTOCK_OK);
    CHECK(dlclose(library.handle) == 0);
    CHECK(dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) == NULL);
    before = i == times / 10 ? resident_kib() : before;
  }
  grown = resident_kib() - before;
  printf("%ld KiB more after %d times\n", grown, times);
  CHECK(grown < 2048 + times); /* not a page a time */
  CHECK(pthread_join(thread, NULL) == 0);
  return 0;
}
