/* Every status, and the sentence that comes with it: `status MODELS FOLDER`, where FOLDER may be written to. */
#include <fenv.h>
#include <math.h>
#include <stdint.h>

#include "check.h"

/* That a call failed in a certain way, and said so. */
static void failed(int line, penstock_status found, penstock_status wanted, const char *sentence) {
  if (found != wanted || strstr(penstock_last_error(), sentence) == NULL) {
    fprintf(stderr, "line %d: status %d, \"%s\"; expected %d, \"%s\"\n", line, (int)found, penstock_last_error(),
            (int)wanted, sentence);
    exit(1);
  }
}
#define FAILS(call, status, sentence) failed(__LINE__, call, status, sentence)
#define REFUSES(call, sentence) failed(__LINE__, call, PENSTOCK_ERROR_ARGUMENT, sentence)

static double x[64], z[64], c[64], p[64], g[64], gc[64];

static void statuses(void) {
  int i, j;
  for (i = PENSTOCK_OK; i <= PENSTOCK_ERROR_INTERNAL; i++) {
    CHECK(penstock_status_string((penstock_status)i)[0] != '\0');
    for (j = PENSTOCK_OK; j < i; j++) {
      CHECK(strcmp(penstock_status_string((penstock_status)i), penstock_status_string((penstock_status)j)) != 0);
    }
  }
  CHECK(strcmp(penstock_status_string(PENSTOCK_ERROR_MEMORY), "out of memory") == 0);
  CHECK(penstock_status_string((penstock_status)99) != NULL);
  CHECK(strcmp(penstock_version(), "0.2.0") == 0);
  CHECK(penstock_abi() == PENSTOCK_ABI);
  CHECK(penstock_isa() != NULL);
}

static void files(const char *folder, const char *models) {
  char path[4096], long_name[3000];
  penstock_flow *flow = NULL, *again;
  FILE *file;
  size_t size, needed;
  void *bytes;
  FAILS(penstock_load("/there/is/no/such/file", &flow), PENSTOCK_ERROR_FILE, "/there/is/no/such/file");
  CHECK(flow == NULL);
  REFUSES(penstock_load(NULL, &flow), "path must not be NULL");
  REFUSES(penstock_load("x", NULL), "flow must not be NULL");
  FAILS(penstock_load_bytes("no model", 8, &flow), PENSTOCK_ERROR_FORMAT, "cannot load data: ");
  FAILS(penstock_load_bytes(NULL, 0, &flow), PENSTOCK_ERROR_FORMAT, "cannot load data: ");
  REFUSES(penstock_load_bytes(NULL, 1, &flow), "data must not be NULL");
  /* whole characters of a long name, of two bytes each */
  for (size = 0; size + 2 < sizeof long_name; size += 2) {
    memcpy(long_name + size, "\xc3\xa4", 2);
  }
  long_name[size] = '\0';
  FAILS(penstock_load(long_name, &flow), PENSTOCK_ERROR_FILE, "\xc3\xa4\xc3\xa4");
  size = strlen(penstock_last_error());
  CHECK(size <= 1023 && size >= 1020);
  CHECK(strspn(penstock_last_error() + size - 20, "\xc3\xa4") == 20);
  FAILS(penstock_load("\xff\xfe", &flow), PENSTOCK_ERROR_FILE, "");
  for (size = 0; penstock_last_error()[size] != '\0'; size++) {
    CHECK((unsigned char)penstock_last_error()[size] < 0xF8);
  }

  flow = model(models, "flow");
  REFUSES(penstock_save(flow, NULL), "path must not be NULL");
  REFUSES(penstock_save(NULL, "x"), "flow must not be NULL");
  FAILS(penstock_save(flow, "/there/is/no/such/folder/x"), PENSTOCK_ERROR_FILE, "/there/is/no/such/folder");
  CHECK(snprintf(path, sizeof path, "%s/table.csv", folder) < (int)sizeof path);
  file = fopen(path, "w");
  CHECK(file != NULL && fputs("1,2\n", file) >= 0 && fclose(file) == 0);
  FAILS(penstock_save(flow, path), PENSTOCK_ERROR_FORMAT, "a file that is no model of penstock stands there");
  CHECK(penstock_save_bytes(flow, NULL, 0, &needed) == PENSTOCK_OK && needed > 100);
  bytes = malloc(needed);
  size = 0;
  REFUSES(penstock_save_bytes(flow, bytes, needed - 1, &size), "capacity must be at least ");
  CHECK(size == needed);
  REFUSES(penstock_save_bytes(flow, bytes, needed, NULL), "size must not be NULL");
  CHECK(penstock_save_bytes(flow, bytes, needed, &size) == PENSTOCK_OK);
  CHECK(penstock_load_bytes(bytes, size, &again) == PENSTOCK_OK);
  penstock_free(again);
  ((char *)bytes)[size / 2] ^= 1;
  FAILS(penstock_load_bytes(bytes, size, &again), PENSTOCK_ERROR_FORMAT, "damaged");
  CHECK(again == NULL);
  free(bytes);
  CHECK(snprintf(path, sizeof path, "%s/saved.safetensors", folder) < (int)sizeof path);
  CHECK(penstock_save(flow, path) == PENSTOCK_OK);
  CHECK(penstock_save(flow, path) == PENSTOCK_OK);
  CHECK(penstock_load(path, &again) == PENSTOCK_OK);
  penstock_free(again);
  penstock_free(flow);
  penstock_free(NULL);
}

static void metadata(const char *models) {
  penstock_flow *flow = model(models, "flow"), *given = model(models, "given"), *ensemble = model(models, "ensemble");
  CHECK(penstock_dim(NULL) == 0 && penstock_context_dim(NULL) == 0 && penstock_dtype(NULL) == 0);
  CHECK(penstock_n_members(NULL) == 0 && penstock_column_name(NULL, 0) == NULL);
  CHECK(penstock_context_column_name(NULL, 0) == NULL);
  CHECK(penstock_dim(flow) == 2 && penstock_context_dim(flow) == 0 && penstock_n_members(flow) == 1);
  CHECK(penstock_dtype(flow) == PENSTOCK_FLOAT32 && penstock_dtype(given) == PENSTOCK_FLOAT64);
  CHECK(penstock_dim(given) == 3 && penstock_context_dim(given) == 2);
  CHECK(strcmp(penstock_column_name(given, 2), "\xc3\xa9nergie") == 0);
  CHECK(strcmp(penstock_context_column_name(given, 1), "age") == 0);
  CHECK(penstock_column_name(given, 3) == NULL && penstock_column_name(given, -1) == NULL);
  CHECK(penstock_column_name(flow, 0) == NULL && penstock_context_column_name(given, 2) == NULL);
  CHECK(penstock_n_members(ensemble) == 2 && penstock_context_dim(ensemble) == 2);
  penstock_free(flow);
  penstock_free(given);
  penstock_free(ensemble);
}

static void arguments(const char *models) {
  penstock_flow *flow = model(models, "flow"), *given = model(models, "given");
  const int64_t many = INT64_MAX / 2;
  float f[4] = {0};
  /* log_prob */
  REFUSES(penstock_log_prob_f64(NULL, 1, x, 2, NULL, 0, p), "flow must not be NULL");
  REFUSES(penstock_log_prob_f64(flow, 1, NULL, 2, NULL, 0, p), "x must not be NULL");
  REFUSES(penstock_log_prob_f64(flow, 1, x, 2, NULL, 0, NULL), "log_prob must not be NULL");
  REFUSES(penstock_log_prob_f64(flow, -1, x, 2, NULL, 0, p), "n must be at least 0, got -1");
  REFUSES(penstock_log_prob_f64(flow, 1, x, 2, c, 0, p),
          "context was given, but this flow has none (context_dim=0): a flow has no");
  REFUSES(penstock_log_prob_f64(given, 1, x, 3, NULL, 0, p), "context must be given: this flow has context_dim=2");
  REFUSES(penstock_log_prob_f64(flow, many, x, 2, NULL, 0, p), "n must be smaller: 4611686018427387903 rows of x");
  REFUSES(penstock_log_prob_f64(flow, 3, x, INT64_MAX, NULL, 0, p), "n must be smaller: 3 rows of x");
  REFUSES(penstock_log_prob_f64(flow, 3, x, INT64_MIN, NULL, 0, p), "n must be smaller: 3 rows of x");
  REFUSES(penstock_log_prob_f64(flow, INT64_MAX, x, 0, NULL, 0, p), "rows of log_prob");
  REFUSES(penstock_log_prob_f32(given, 3, f, 0, f, INT64_MAX, f), "n must be smaller: 3 rows of context");
  CHECK(penstock_log_prob_f64(flow, 0, NULL, 2, NULL, 0, NULL) == PENSTOCK_OK);
  CHECK(penstock_log_prob_f64(given, 0, NULL, 3, NULL, 0, NULL) == PENSTOCK_OK);
  /* gradients */
  REFUSES(penstock_log_prob_and_grad_f64(flow, 2, x, 2, NULL, 0, p, g, 1, NULL, 0), "grad_stride must be at least 2");
  REFUSES(penstock_log_prob_and_grad_f64(flow, 2, x, 2, NULL, 0, p, g, -1, NULL, 0),
          "so that rows do not overlap, got -1");
  REFUSES(penstock_log_prob_and_grad_f64(flow, 2, x, 2, NULL, 0, p, g, INT64_MIN, NULL, 0),
          "n must be smaller: 2 rows of grad");
  REFUSES(penstock_log_prob_and_grad_f64(flow, 2, x, 2, NULL, 0, p, g, 2, gc, 0),
          "grad_context must be NULL: this flow has no context");
  REFUSES(penstock_log_prob_and_grad_f64(given, 2, x, 3, c, 2, p, g, 3, gc, 1),
          "grad_context_stride must be at least 2");
  REFUSES(penstock_log_prob_and_grad_f64(flow, 1, NULL, 2, NULL, 0, p, g, 2, NULL, 0), "x must not be NULL");
  CHECK(penstock_log_prob_and_grad_f64(given, 2, x, 3, c, 0, NULL, NULL, 0, NULL, 0) == PENSTOCK_OK);
  CHECK(penstock_log_prob_and_grad_f64(flow, 1, x, 2, NULL, 0, p, g, 0, NULL, 0) == PENSTOCK_OK);
  gc[0] = gc[1] = 7;
  CHECK(penstock_log_prob_and_grad_f64(given, 0, NULL, 3, c, 0, NULL, NULL, 0, gc, 0) == PENSTOCK_OK);
  CHECK(gc[0] == 0 && gc[1] == 0);
  /* sample */
  REFUSES(penstock_sample_f64(flow, 1, 0, 0, 1, NULL, 0, NULL, 2, p), "x must not be NULL");
  REFUSES(penstock_sample_f64(flow, 1, 0, 0, 2, NULL, 0, x, 1, NULL), "x_stride must be at least 2");
  REFUSES(penstock_sample_f64(flow, 1, 0, 0, -3, NULL, 0, x, 2, NULL), "n must be at least 0, got -3");
  REFUSES(penstock_sample_f64(flow, 1, 0, (uint64_t)1 << 56, 1, NULL, 0, x, 2, NULL),
          "first_draw must be at least 0, and numbers must stay below 2**56");
  REFUSES(penstock_sample_f64(flow, 1, 0, ((uint64_t)1 << 56) - 1, 2, NULL, 0, x, 2, NULL), "got 72057594037927935");
  REFUSES(penstock_sample_f64(given, 1, (uint64_t)1 << 40, 0, 1, c, 2, x, 3, NULL),
          "first_context_row must be at least 0, and numbers must stay below 2**40");
  REFUSES(penstock_sample_f64(given, 1, ((uint64_t)1 << 40) - 1, 0, 2, c, 2, x, 3, NULL), "got 1099511627775");
  REFUSES(penstock_sample_f64(given, 1, UINT64_MAX, UINT64_MAX, 2, c, 2, x, 3, NULL), "got 18446744073709551615");
  CHECK(penstock_sample_f64(flow, 1, 0, ((uint64_t)1 << 56) - 2, 2, NULL, 0, x, 2, NULL) == PENSTOCK_OK);
  CHECK(penstock_sample_f64(given, 1, ((uint64_t)1 << 40) - 2, 0, 2, c, 2, x, 3, NULL) == PENSTOCK_OK);
  CHECK(penstock_sample_f64(flow, 1, 0, 0, 0, NULL, 0, NULL, 2, NULL) == PENSTOCK_OK);
  /* maps */
  REFUSES(penstock_to_latent_f64(flow, 2, x, 2, NULL, 0, z, 1, p), "z_stride must be at least 2");
  REFUSES(penstock_to_data_f64(flow, 2, z, 2, NULL, 0, x, 1, p), "x_stride must be at least 2");
  REFUSES(penstock_to_data_f64(flow, 2, NULL, 2, NULL, 0, x, 2, p), "z must not be NULL");
  REFUSES(penstock_to_latent_f32(flow, 1, NULL, 2, NULL, 0, f, 2, f), "x must not be NULL");
  CHECK(penstock_to_latent_f64(flow, 2, x, 2, NULL, 0, NULL, 0, NULL) == PENSTOCK_OK);
  CHECK(penstock_to_latent_f64(flow, 2, x, 2, NULL, 0, NULL, 0, p) == PENSTOCK_OK);
  CHECK(penstock_to_latent_f64(flow, 2, x, 0, NULL, 0, z + 4, -2, NULL) == PENSTOCK_OK);
  penstock_free(flow);
  penstock_free(given);
}

/* An output may be the input. */
static void in_place(const char *models, const char *name) {
  enum { n = 30, room = 200 };
  static double rows[room], context[room], apart[room], same[room], log_p[n], log_p_same[n];
  static float narrow[room], narrow_apart[room], narrow_same[room], narrow_context[room];
  penstock_flow *flow = model(models, name);
  const int64_t dim = penstock_dim(flow), given = penstock_context_dim(flow);
  const double *own = given > 0 ? context : NULL;
  const float *few = given > 0 ? narrow_context : NULL;
  int64_t i;
  for (i = 0; i < room; i++) {
    context[i] = 0.02 * (double)(i * 17 % 100) - 1;
    narrow_context[i] = (float)context[i];
  }
  CHECK(penstock_sample_f64(flow, 1, 0, 0, n, own, given, rows, dim, NULL) == PENSTOCK_OK);
  for (i = 0; i < room; i++) {
    narrow[i] = (float)rows[i];
  }
  memcpy(same, rows, sizeof rows);
  CHECK(penstock_log_prob_and_grad_f64(flow, n, rows, dim, own, given, log_p, apart, dim, NULL, 0) == PENSTOCK_OK);
  CHECK(penstock_log_prob_and_grad_f64(flow, n, same, dim, own, given, log_p_same, same, dim, NULL, 0) == PENSTOCK_OK);
  CHECK(memcmp(apart, same, sizeof(double) * (size_t)(n * dim)) == 0 && memcmp(log_p, log_p_same, sizeof log_p) == 0);
  memcpy(same, rows, sizeof rows);
  CHECK(penstock_to_latent_f64(flow, n, rows, dim, own, given, apart, dim, log_p) == PENSTOCK_OK);
  CHECK(penstock_to_latent_f64(flow, n, same, dim, own, given, same, dim, log_p_same) == PENSTOCK_OK);
  CHECK(memcmp(apart, same, sizeof(double) * (size_t)(n * dim)) == 0 && memcmp(log_p, log_p_same, sizeof log_p) == 0);
  memcpy(narrow_same, narrow, sizeof narrow);
  CHECK(penstock_log_prob_and_grad_f32(flow, n, narrow, dim, few, given, NULL, narrow_apart, dim, NULL, 0) ==
        PENSTOCK_OK);
  CHECK(penstock_log_prob_and_grad_f32(flow, n, narrow_same, dim, few, given, NULL, narrow_same, dim, NULL, 0) ==
        PENSTOCK_OK);
  CHECK(memcmp(narrow_apart, narrow_same, sizeof(float) * (size_t)(n * dim)) == 0);
  memcpy(narrow_same, narrow, sizeof narrow);
  CHECK(penstock_to_data_f32(flow, n, narrow, dim, few, given, narrow_apart, dim, NULL) == PENSTOCK_OK);
  CHECK(penstock_to_data_f32(flow, n, narrow_same, dim, few, given, narrow_same, dim, NULL) == PENSTOCK_OK);
  CHECK(memcmp(narrow_apart, narrow_same, sizeof(float) * (size_t)(n * dim)) == 0);
  if (given > 0) {
    memcpy(same, context, sizeof context);
    CHECK(penstock_log_prob_and_grad_f64(flow, n, rows, dim, own, given, NULL, NULL, 0, apart, given) == PENSTOCK_OK);
    CHECK(penstock_log_prob_and_grad_f64(flow, n, rows, dim, same, given, NULL, NULL, 0, same, given) == PENSTOCK_OK);
    CHECK(memcmp(apart, same, sizeof(double) * (size_t)(n * given)) == 0);
  }
  penstock_free(flow);
}

/* Rounding and exceptions of the caller change no bit, and stay as they are. */
static void environment(const char *models) {
  penstock_flow *flow = model(models, "lattice");
  static double rows[30], usual[10], turned[10], drawn[30];
  float narrow[30], narrow_turned[30];
  CHECK(penstock_sample_f64(flow, 1, 0, 0, 10, NULL, 0, rows, 3, usual) == PENSTOCK_OK);
  CHECK(penstock_sample_f32(flow, 1, 0, 0, 10, NULL, 0, narrow, 3, NULL) == PENSTOCK_OK);
  CHECK(fesetround(FE_UPWARD) == 0 && feclearexcept(FE_ALL_EXCEPT) == 0);
  CHECK(penstock_sample_f64(flow, 1, 0, 0, 10, NULL, 0, drawn, 3, turned) == PENSTOCK_OK);
  CHECK(penstock_sample_f32(flow, 1, 0, 0, 10, NULL, 0, narrow_turned, 3, NULL) == PENSTOCK_OK);
  CHECK(fegetround() == FE_UPWARD);
  CHECK(fesetround(FE_TONEAREST) == 0);
  CHECK(memcmp(rows, drawn, sizeof rows) == 0 && memcmp(usual, turned, sizeof usual) == 0);
  CHECK(memcmp(narrow, narrow_turned, sizeof narrow) == 0);
  penstock_free(flow);
}

static void ensembles(const char *models) {
  penstock_flow *flow = model(models, "ensemble");
  penstock_trainer *trainer;
  const penstock_status status = PENSTOCK_ERROR_UNSUPPORTED;
  FAILS(penstock_to_latent_f64(flow, 1, x, 3, c, 0, z, 3, p), status,
        "an ensemble has no to_latent: its members have latent sides");
  FAILS(penstock_to_data_f64(flow, 1, z, 3, c, 0, x, 3, p), status, "an ensemble has no to_data: ");
  FAILS(penstock_trainer_new(flow, NULL, &trainer), status, "an ensemble has no trainer: ");
  CHECK(trainer == NULL);
  CHECK(penstock_log_prob_f64(flow, 1, x, 3, c, 0, p) == PENSTOCK_OK);
  penstock_free(flow);
}

static void trainers(const char *models) {
  penstock_flow *flow = model(models, "flow"), *trained;
  penstock_trainer *trainer;
  penstock_trainer_options options;
  double w[8] = {1, 1, 1, 1, 1, 1, 1, 1}, loss = 0, norm = 1, before, after;
  struct {
    penstock_trainer_options first;
    double later;
  } larger;
  float fx[4] = {0.1f, 0.2f, -0.3f, 0.4f}, fw[2] = {1, 2};
  int i;
  for (i = 0; i < 16; i++) {
    x[i] = 0.1 * i - 0.7;
  }
  REFUSES(penstock_trainer_options_init(NULL, sizeof options), "options must not be NULL");
  REFUSES(penstock_trainer_options_init(&options, sizeof options - 1),
          "size must be sizeof(penstock_trainer_options), at least 56, got 55");
  CHECK(penstock_trainer_options_init(&options, sizeof options) == PENSTOCK_OK);
  CHECK(options.size == sizeof options && options.beta1 == 0.9 && options.beta2 == 0.999 && options.epsilon == 1e-8);
  CHECK(options.weight_decay == 0 && options.clip_norm == 5 && options.weight_scale == 0);
  REFUSES(penstock_trainer_new(NULL, NULL, &trainer), "flow must not be NULL");
  CHECK(trainer == NULL);
  REFUSES(penstock_trainer_new(flow, NULL, NULL), "trainer must not be NULL");
#define OPTION(field, value, sentence)                                 \
  do {                                                                 \
    const double kept = options.field;                                 \
    options.field = value;                                             \
    REFUSES(penstock_trainer_new(flow, &options, &trainer), sentence); \
    options.field = kept;                                              \
  } while (0)
  OPTION(beta1, 1.0, "beta1 must lie in [0, 1), got 1");
  OPTION(beta2, -0.5, "beta2 must lie in [0, 1), got -0.5");
  OPTION(epsilon, 0.0, "epsilon must be a positive finite number, got 0");
  OPTION(weight_decay, -1.0, "weight_decay must be a finite number of at least 0, got -1.0");
  OPTION(weight_decay, (double)NAN, "weight_decay must be a finite number of at least 0, got ");
  OPTION(clip_norm, 0.0, "clip_norm must be a positive number, got 0");
  OPTION(weight_scale, (double)INFINITY, "weight_scale must be a finite number of at least 0, got inf");
  options.size = 8;
  REFUSES(penstock_trainer_new(flow, &options, &trainer), "options.size must be sizeof(penstock_trainer_options)");
  CHECK(penstock_trainer_options_init(&larger.first, sizeof larger) == PENSTOCK_OK);
  CHECK(larger.first.size == sizeof larger && larger.later == 0);
  CHECK(penstock_trainer_new(flow, &larger.first, &trainer) == PENSTOCK_OK);
  penstock_trainer_free(trainer);
  larger.later = 3;
  FAILS(penstock_trainer_new(flow, &larger.first, &trainer), PENSTOCK_ERROR_UNSUPPORTED,
        "options has fields that this version does not know");

  CHECK(penstock_trainer_new(flow, NULL, &trainer) == PENSTOCK_OK);
  penstock_free(flow);
  CHECK(penstock_trainer_steps(trainer) == 0 && penstock_trainer_steps(NULL) == 0);
  REFUSES(penstock_trainer_step_f64(NULL, 0.1, 1, x, 2, NULL, 0, w, &loss, &norm), "trainer must not be NULL");
  REFUSES(penstock_trainer_step_f64(trainer, -0.1, 1, x, 2, NULL, 0, w, &loss, &norm),
          "learning_rate must be a finite number of at least 0, got -0.1");
  REFUSES(penstock_trainer_step_f64(trainer, (double)INFINITY, 1, x, 2, NULL, 0, w, &loss, &norm),
          "learning_rate must be a finite number of at least 0");
  REFUSES(penstock_trainer_step_f64(trainer, 0.1, 1, NULL, 2, NULL, 0, w, &loss, &norm), "x must not be NULL");
  REFUSES(penstock_trainer_step_f64(trainer, 0.1, -1, x, 2, NULL, 0, w, &loss, &norm), "n must be at least 0, got -1");
  REFUSES(penstock_trainer_step_f64(trainer, 0.1, 1, x, 2, c, 0, w, &loss, &norm), "context was given");
  w[3] = -0.25;
  REFUSES(penstock_trainer_step_f64(trainer, 0.1, 8, x, 2, NULL, 0, w, &loss, &norm),
          "weight must be at least 0, but weight[3] is -0.25");
  w[3] = NAN;
  REFUSES(penstock_trainer_step_f64(trainer, 0.1, 8, x, 2, NULL, 0, w, &loss, &norm),
          "weight must be finite, but weight[3] is ");
  w[3] = 1;
  CHECK(penstock_trainer_steps(trainer) == 0);
  CHECK(penstock_trainer_step_f64(trainer, 0.01, 8, x, 2, NULL, 0, NULL, &loss, &norm) == PENSTOCK_OK);
  CHECK(isfinite(loss) && norm > 0);
  before = loss;
  CHECK(penstock_trainer_step_f64(trainer, 0.01, 8, x, 2, NULL, 0, w, &after, NULL) == PENSTOCK_OK && after < before);
  CHECK(penstock_trainer_step_f32(trainer, 0.01, 2, fx, 2, NULL, 0, fw, NULL, NULL) == PENSTOCK_OK);
  CHECK(penstock_trainer_steps(trainer) == 3);
  memset(w, 0, sizeof w);
  CHECK(penstock_trainer_step_f64(trainer, 0.01, 8, x, 2, NULL, 0, w, &loss, &norm) == PENSTOCK_OK);
  CHECK(isnan(loss) && norm == 0);
  CHECK(penstock_trainer_step_f64(trainer, 0.01, 0, NULL, 2, NULL, 0, NULL, &loss, &norm) == PENSTOCK_OK);
  CHECK(isnan(loss) && norm == 0 && penstock_trainer_steps(trainer) == 3);
  x[5] = NAN;
  FAILS(penstock_trainer_step_f64(trainer, 0.01, 8, x, 2, NULL, 0, NULL, &loss, &norm), PENSTOCK_ERROR_NOT_FINITE,
        "the loss became nan");
  CHECK(penstock_trainer_steps(trainer) == 3);
  REFUSES(penstock_trainer_flow(NULL, &trained), "trainer must not be NULL");
  REFUSES(penstock_trainer_flow(trainer, NULL), "flow must not be NULL");
  CHECK(penstock_trainer_flow(trainer, &trained) == PENSTOCK_OK);
  CHECK(penstock_log_prob_f64(trained, 2, x, 2, NULL, 0, p) == PENSTOCK_OK);
  x[5] = 0;
  CHECK(penstock_trainer_step_f64(trainer, 0.1, 8, x, 2, NULL, 0, NULL, NULL, NULL) == PENSTOCK_OK);
  before = p[1];
  CHECK(penstock_log_prob_f64(trained, 2, x, 2, NULL, 0, p) == PENSTOCK_OK && p[1] == before);
  penstock_trainer_free(trainer);
  penstock_trainer_free(NULL);
  penstock_free(trained);
}

static void threads(void) {
  CHECK(penstock_num_threads() == 1);
  REFUSES(penstock_set_num_threads(0), "n must be at least 1 and at most 256, got 0");
  REFUSES(penstock_set_num_threads(257), "n must be at least 1 and at most 256, got 257");
  REFUSES(penstock_set_local_num_threads(-1), "n must be at least 0 and at most 256, got -1");
  REFUSES(penstock_set_local_num_threads(257), "n must be at least 0 and at most 256, got 257");
  CHECK(penstock_set_num_threads(3) == PENSTOCK_OK && penstock_num_threads() == 3);
  CHECK(penstock_set_local_num_threads(2) == PENSTOCK_OK && penstock_num_threads() == 2);
  CHECK(penstock_set_local_num_threads(0) == PENSTOCK_OK && penstock_num_threads() == 3);
  CHECK(penstock_trim() == PENSTOCK_OK && penstock_shutdown() == PENSTOCK_OK);
}

int main(int n, char **names) {
  CHECK(n == 3);
  CHECK(strcmp(penstock_last_error(), "") == 0);
  statuses();
  files(names[2], names[1]);
  metadata(names[1]);
  arguments(names[1]);
  in_place(names[1], "flow");
  in_place(names[1], "given");
  in_place(names[1], "lattice");
  environment(names[1]);
  ensembles(names[1]);
  trainers(names[1]);
  threads();
  return 0;
}
