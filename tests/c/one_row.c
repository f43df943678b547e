/* One row of a flow takes no memory, no lock and no thread, but at the first call of a thread: `one_row MODELS`. Calls to the C
 * library are counted on their way, which needs glibc. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>

#include "check.h"

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static volatile long taken;

void *malloc(size_t size) {
  taken++;
  return __libc_malloc(size);
}
void *calloc(size_t n, size_t size) {
  taken++;
  return __libc_calloc(n, size);
}
void *realloc(void *old, size_t size) {
  taken++;
  return __libc_realloc(old, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  taken++;
  return __libc_memalign(alignment, size);
}

static volatile long locked, started;

/* The function of that name behind this one. */
static void next(const char *name, void *function) {
  void *const found = dlsym(RTLD_NEXT, name);
  CHECK(found != NULL);
  memcpy(function, &found, sizeof found);
}

int pthread_mutex_lock(pthread_mutex_t *mutex) {
  static int (*behind)(pthread_mutex_t *);
  if (behind == NULL) {
    next("pthread_mutex_lock", &behind);
  }
  locked++;
  return behind(mutex);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*begin)(void *), void *argument) {
  static int (*behind)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  if (behind == NULL) {
    next("pthread_create", &behind);
  }
  started++;
  return behind(thread, attributes, begin, argument);
}

/* Every verb once, in both types. */
static void ask(const penstock_flow *flow) {
  static double x[64], c[8], z[64], g[64], gc[8], p;
  static float fx[64], fc[8], fz[64], fg[64], fgc[8], fp;
  const int64_t dim = penstock_dim(flow);
  const int given = penstock_context_dim(flow) > 0;
  const double *context = given ? c : NULL;
  const float *narrow = given ? fc : NULL;
  CHECK(penstock_log_prob_f64(flow, 1, x, dim, context, 0, &p) == PENSTOCK_OK);
  CHECK(penstock_log_prob_f32(flow, 1, fx, dim, narrow, 0, &fp) == PENSTOCK_OK);
  CHECK(penstock_log_prob_and_grad_f64(flow, 1, x, dim, context, 0, &p, g, dim, given ? gc : NULL, 2) == PENSTOCK_OK);
  CHECK(penstock_log_prob_and_grad_f32(flow, 1, fx, dim, narrow, 0, &fp, fg, dim, given ? fgc : NULL, 2) ==
        PENSTOCK_OK);
  CHECK(penstock_sample_f64(flow, 3, 0, 4, 1, context, 0, x, dim, &p) == PENSTOCK_OK);
  CHECK(penstock_sample_f32(flow, 3, 0, 4, 1, narrow, 0, fx, dim, &fp) == PENSTOCK_OK);
  CHECK(penstock_to_latent_f64(flow, 1, x, dim, context, 0, z, dim, &p) == PENSTOCK_OK);
  CHECK(penstock_to_latent_f32(flow, 1, fx, dim, narrow, 0, fz, dim, &fp) == PENSTOCK_OK);
  CHECK(penstock_to_data_f64(flow, 1, z, dim, context, 0, x, dim, &p) == PENSTOCK_OK);
  CHECK(penstock_to_data_f32(flow, 1, fz, dim, narrow, 0, fx, dim, &fp) == PENSTOCK_OK);
}

static void *on_a_thread(void *flow) {
  long before;
  int i;
  ask(flow);
  before = taken + locked + started;
  for (i = 0; i < 100; i++) {
    ask(flow);
  }
  CHECK(taken + locked + started == before);
  return NULL;
}

int main(int n, char **names) {
  const char *const models[] = {"flow", "given", "lattice"};
  size_t i;
  CHECK(n == 2);
  CHECK(penstock_set_num_threads(8) == PENSTOCK_OK);
  for (i = 0; i < sizeof models / sizeof models[0]; i++) {
    penstock_flow *flow = model(names[1], models[i]);
    pthread_t thread;
    on_a_thread(flow);
    CHECK(taken > 0); /* which are counted */
    CHECK(pthread_create(&thread, NULL, on_a_thread, flow) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(started == (long)i + 1);
    penstock_free(flow);
  }
  CHECK(locked > 0);
  return 0;
}
