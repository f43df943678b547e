// One row after a thread's first call: no allocation and no lock, whatever verb. Counted where the C library lets its functions be
// replaced and no sanitizer does so.
#include <dlfcn.h>
#include <pthread.h>

#include <thread>

#include "engines.hpp"

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#  define COUNTS 1
#else
#  define COUNTS 0
#endif

namespace {

thread_local bool counting = false;
thread_local int allocations = 0, locks = 0;

}  // namespace

#if COUNTS
extern "C" {
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

void *malloc(size_t n) {
  allocations += counting ? 1 : 0;
  return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
  allocations += counting ? 1 : 0;
  return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
  allocations += counting ? 1 : 0;
  return __libc_realloc(p, n);
}
void *aligned_alloc(size_t alignment, size_t n) {
  allocations += counting ? 1 : 0;
  return __libc_memalign(alignment, n);
}
int pthread_mutex_lock(pthread_mutex_t *mutex) {
  static const auto lock = reinterpret_cast<int (*)(pthread_mutex_t *)>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
  locks += counting ? 1 : 0;
  return lock(mutex);
}
}
#endif

namespace {

using namespace penstock;

// What `body` allocates and locks, once it has run before.
template <class Body>
void needs_nothing(const Body &body) {
  body();
  allocations = locks = 0;
  counting = true;
  body();
  counting = false;
  CHECK(allocations == 0 && locks == 0);
}

template <class T>
void one_row(const std::vector<int64_t> &words) {
  const Engine<T> engine(table_from(words));
  const Plan &plan = engine.plan();
  const Packed<T> packed(plan, numbers<T>(plan.n_params, 1, 0.7).data(), buffers_of(plan).data());
  const std::vector<T> x = numbers<T>(plan.dim, 2, 0.5), context = numbers<T>(plan.context_dim, 3), one{T{1}};
  std::vector<T> out(x.size()), d_x(x.size()), d_context(context.size());
  double value = 0;
  const RowValues values{&value, sizeof value};
  const RowsOut<T> rows_out{out.data(), plan.dim};
  for (const bool shared : {false, true}) {
    const Batch batch{rows_of(x, plan.dim).x, 1, {rows_of(context, plan.context_dim).x, 1, shared}};
    needs_nothing(
        [&] { engine.evaluate(packed, {0, plan.n_steps, false, true}, batch, nullptr, {}, values, nullptr); });
    for (const bool to_data : {false, true}) {
      needs_nothing([&] {
        engine.evaluate(packed, {0, plan.n_steps, to_data, false}, batch, nullptr, rows_out, values, nullptr);
      });
    }
    needs_nothing([&] { engine.sample(packed, {9, 0, 0}, batch.context, 1, rows_out, values, nullptr); });
    Cotangents<T> cotangents;
    cotangents.value = one.data();
    cotangents.x = {d_x.data(), plan.dim};
    cotangents.context = {d_context.data(), plan.context_dim};
    needs_nothing(
        [&] { engine.vjp(packed, {0, plan.n_steps, false, true}, batch, nullptr, values, cotangents, nullptr); });
  }
}

template <class T>
void all() {
  for (const std::vector<int64_t> &words :
       {table(sizeof(T)), conditional_table(sizeof(T)), table_of_kinds(sizeof(T))}) {
    one_row<T>(words);
    std::thread([&] { one_row<T>(words); }).join();
  }
}

// That allocations and locks are seen at all.
void counts() {
  counting = true;
  delete new int(1);
  void *volatile memory = aligned_alloc(64, 64);
  workspace(1 << 20);
  counting = false;
  std::free(memory);
  CHECK(allocations >= 3 && locks >= 1);
}

}  // namespace

int main() {
  if (COUNTS != 0) {
    counts();
  }
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    all<float>();
    all<double>();
  }
  return 0;
}
