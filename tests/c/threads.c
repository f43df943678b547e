/* 32 threads ask one flow for results of many sizes; a trainer refuses a second call; a child of a fork goes on with what its
 * parent has; flows come and go without growth: `threads MODELS LOADS`. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { n_threads = 32, most = 1500, dim = 3, context_dim = 2 };

static double x[most * dim], c[most * context_dim], p[most], g[most * dim], s[most * dim];

static const penstock_flow *shared;

/* Numbers in [-1, 1). */
static double uniform(unsigned *state) {
  *state = *state * 1664525u + 1013904223u;
  return (double)(*state >> 8) / 8388608.0 - 1.0;
}

/* Some of the rows, everywhere, give what all of them gave at once. */
static void *ask(void *number) {
  static const int64_t sizes[] = {1, 2, 63, 64, 65, 1, 300, 1, 1000};
  unsigned state = (unsigned)(size_t)number;
  double *own_p = malloc(most * sizeof(double)), *own_g = malloc(sizeof g), *own_s = malloc(sizeof s);
  int turn;
  CHECK(own_p != NULL && own_g != NULL && own_s != NULL);
  if (state % 2 == 0) {
    CHECK(penstock_set_local_num_threads(2) == PENSTOCK_OK);
  }
  for (turn = 0; turn < 30; turn++) {
    const int64_t n = sizes[(size_t)turn % (sizeof sizes / sizeof sizes[0])];
    const int64_t first = (int64_t)((uniform(&state) + 1) / 2 * (double)(most - n));
    const double *rows = x + first * dim, *given = c + first * context_dim;
    CHECK(penstock_log_prob_f64(shared, n, rows, dim, given, context_dim, own_p) == PENSTOCK_OK);
    CHECK(memcmp(own_p, p + first, (size_t)n * sizeof(double)) == 0);
    CHECK(penstock_log_prob_and_grad_f64(shared, n, rows, dim, given, context_dim, own_p, own_g, dim, NULL, 0) ==
          PENSTOCK_OK);
    CHECK(memcmp(own_g, g + first * dim, (size_t)(n * dim) * sizeof(double)) == 0);
    CHECK(penstock_sample_f64(shared, 5, (uint64_t)first, 0, n, given, context_dim, own_s, dim, NULL) == PENSTOCK_OK);
    CHECK(memcmp(own_s, s + first * dim, (size_t)(n * dim) * sizeof(double)) == 0);
    if (turn % 10 == 9) {
      CHECK(penstock_log_prob_f64(shared, -1, rows, dim, given, context_dim, own_p) == PENSTOCK_ERROR_ARGUMENT);
      CHECK(strcmp(penstock_last_error(), "n must be at least 0, got -1") == 0);
      penstock_trim();
    }
  }
  free(own_p);
  free(own_g);
  free(own_s);
  return NULL;
}

static void all_together(void) {
  pthread_t threads[n_threads];
  size_t i;
  for (i = 0; i < n_threads; i++) {
    CHECK(pthread_create(&threads[i], NULL, ask, (void *)i) == 0);
  }
  for (i = 0; i < n_threads; i++) {
    CHECK(pthread_join(threads[i], NULL) == 0);
  }
}

/* A child in the midst of its parent's calls; under a sanitizer between them, since the locks of its allocator may be held by a
 * thread that the child has not. */
static void fork_meanwhile(void) {
#ifdef SANITIZED
  const size_t n = 0;
#else
  const size_t n = 4;
#endif
  pthread_t threads[4];
  size_t i;
  int turn;
  for (i = 0; i < n; i++) {
    CHECK(pthread_create(&threads[i], NULL, ask, (void *)i) == 0);
  }
  for (turn = 0; turn < 5; turn++) {
    const pid_t child = fork();
    int status = 0;
    CHECK(child >= 0);
    if (child == 0) {
      alarm(120); /* a child that hangs is a failure, not a wait without end */
      CHECK(penstock_set_local_num_threads(0) == PENSTOCK_OK);
      ask((void *)(size_t)7);
#ifndef SANITIZED_THREADS /* which takes new threads for those that a fork has left behind */
      CHECK(penstock_set_local_num_threads(4) == PENSTOCK_OK);
      ask((void *)(size_t)7);
#endif
      CHECK(penstock_shutdown() == PENSTOCK_OK);
      _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  for (i = 0; i < n; i++) {
    CHECK(pthread_join(threads[i], NULL) == 0);
  }
}

static penstock_trainer *trainer;
static long steps, busy;
static pthread_mutex_t counts = PTHREAD_MUTEX_INITIALIZER;

static void *train(void *nothing) {
  int turn;
  for (turn = 0; turn < 60; turn++) {
    penstock_flow *flow;
    const penstock_status status =
        penstock_trainer_step_f64(trainer, 1e-3, 500, x, dim, c, context_dim, NULL, NULL, NULL);
    const penstock_status of_flow = penstock_trainer_flow(trainer, &flow);
    CHECK(status == PENSTOCK_OK || status == PENSTOCK_ERROR_BUSY);
    CHECK(of_flow == PENSTOCK_OK || (of_flow == PENSTOCK_ERROR_BUSY && flow == NULL));
    CHECK(penstock_trainer_steps(trainer) >= 0);
    pthread_mutex_lock(&counts);
    steps += status == PENSTOCK_OK;
    busy += (status == PENSTOCK_ERROR_BUSY) + (of_flow == PENSTOCK_ERROR_BUSY);
    pthread_mutex_unlock(&counts);
    if (of_flow == PENSTOCK_OK) {
      double found;
      CHECK(penstock_log_prob_f64(flow, 1, x, dim, c, context_dim, &found) == PENSTOCK_OK && isfinite(found));
      penstock_free(flow);
    }
  }
  return nothing;
}

static void train_at_once(const penstock_flow *flow) {
  pthread_t threads[4];
  size_t i;
  CHECK(penstock_trainer_new(flow, NULL, &trainer) == PENSTOCK_OK);
  do {
    for (i = 0; i < 4; i++) {
      CHECK(pthread_create(&threads[i], NULL, train, NULL) == 0);
    }
    for (i = 0; i < 4; i++) {
      CHECK(pthread_join(threads[i], NULL) == 0);
    }
  } while (busy == 0);
  CHECK(penstock_trainer_steps(trainer) == steps);
  penstock_trainer_free(trainer);
}

/* Most memory that the process has had, in kilobytes. */
static long peak(void) {
  struct rusage usage;
  CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
  return usage.ru_maxrss;
}

static void come_and_go(const char *models, long loads) {
  long i, before = 0;
  size_t size;
  void *bytes;
  penstock_flow *flow = model(models, "ensemble");
  CHECK(penstock_save_bytes(flow, NULL, 0, &size) == PENSTOCK_OK);
  bytes = malloc(size);
  CHECK(penstock_save_bytes(flow, bytes, size, &size) == PENSTOCK_OK);
  penstock_free(flow);
  for (i = 0; i < loads; i++) {
    penstock_trainer *own;
    double found;
    CHECK(penstock_load_bytes(bytes, size, &flow) == PENSTOCK_OK);
    CHECK(penstock_log_prob_f64(flow, 1, x, dim, c, context_dim, &found) == PENSTOCK_OK);
    CHECK(penstock_trainer_new(flow, NULL, &own) == PENSTOCK_ERROR_UNSUPPORTED);
    penstock_free(flow);
    if (i % 10 == 0) {
      ((char *)bytes)[size / 3] ^= 1;
      CHECK(penstock_load_bytes(bytes, size, &flow) == PENSTOCK_ERROR_FORMAT && flow == NULL);
      ((char *)bytes)[size / 3] ^= 1;
      flow = model(models, "given");
      CHECK(penstock_trainer_new(flow, NULL, &own) == PENSTOCK_OK);
      penstock_free(flow);
      penstock_trainer_free(own);
    }
    if (i == loads / 4) {
      before = peak();
    }
  }
#ifndef SANITIZED /* which keeps what is freed for a while */
  CHECK(peak() - before <= 256);
#else
  (void)before;
#endif
  free(bytes);
}

int main(int n, char **arguments) {
  unsigned state = 1;
  int64_t i;
  penstock_flow *flow;
  CHECK(n == 3);
  flow = model(arguments[1], "given");
  CHECK(penstock_dim(flow) == dim && penstock_context_dim(flow) == context_dim);
  for (i = 0; i < most * dim; i++) {
    x[i] = 2 * uniform(&state);
  }
  for (i = 0; i < most * context_dim; i++) {
    c[i] = uniform(&state);
  }
  CHECK(penstock_log_prob_and_grad_f64(flow, most, x, dim, c, context_dim, p, g, dim, NULL, 0) == PENSTOCK_OK);
  CHECK(penstock_sample_f64(flow, 5, 0, 0, most, c, context_dim, s, dim, NULL) == PENSTOCK_OK);
  shared = flow;
  all_together();
  fork_meanwhile();
  train_at_once(flow);
  penstock_free(flow);
  come_and_go(arguments[1], strtol(arguments[2], NULL, 10));
  CHECK(penstock_shutdown() == PENSTOCK_OK);
  return 0;
}
