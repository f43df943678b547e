/* Computes what tests/c_cases.py asks for, through penstock.h: `agree FOLDER` reads FOLDER/calls.bin, the models that it names,
 * and writes FOLDER/results.bin. agree.cpp and agree.f90 do the same through penstock.hpp and penstock.f90.
 *
 * calls.bin is one call behind the other, up to the end of the file; everything begins at a multiple of 8 bytes, in the byte
 * order of the machine. A call is 16 words of 64 bits, and arrays.
 *
 *   word  0  model: the file FOLDER/model_<number>.safetensors, number without leading zeros
 *         1  verb: 0 log_prob, 1 log_prob_and_grad, 2 sample, 3 to_latent, 4 to_data, 5 train, 6 describe, 7 save
 *         2  type of the call: 32 or 64
 *         3  n, rows
 *         4  x_stride, of the input rows (z_stride of to_data)
 *         5  numbers of the input array: 0 for sample, describe and save; else n * x_stride, the last row being padded, too
 *         6  context_stride; 0 where one row serves all, or there is none
 *         7  numbers of the array of context: 0 for none; context_dim for one row for all; n * context_stride for one a row
 *         8  stride of the output rows: grad_stride of log_prob_and_grad, x_stride of sample, z_stride or x_stride of a map
 *         9  grad_context_stride
 *        10  what is wanted, a sum of: 1 log_prob or log_det, 2 output rows, 4 grad_context; of train: 1 weights are given
 *        11  key of sample; of train: rows a batch
 *        12  first_context_row of sample; of train: the number behind FOLDER/trained_ and before .safetensors
 *        13  first_draw of sample
 *     14-15  0
 *   the input array, of the type of the call
 *   the array of context, of the type of the call
 *   of train: learning_rate, weight_decay, clip_norm, weight_scale, four doubles; and weights, n of the type of the call, where
 *   word 10 says so
 *
 * results.bin has for each call its status, a word, and what was wanted, in this order:
 *
 *   log_prob or log_det   n numbers of the type of the call
 *   output rows           n * stride numbers, of which those between rows are -12345.5, as the program has put them
 *   grad_context          context_dim numbers where one row serves all, else n * stride numbers as above
 *   train                 for each batch of rows, in turn, the loss and the norm, two doubles; the flow that the trainer has come
 *                         to is saved as said
 *   describe              dim, context_dim, dtype, n_members: four words
 *   save                  nothing; the flow is saved as FOLDER/saved_<model>.safetensors
 *
 * Arrays are there whatever the status is. Before a call all outputs are -12345.5. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "penstock/penstock.h"

enum { log_prob, log_prob_and_grad, sample, to_latent, to_data, train, describe, save };
enum { want_values = 1, want_rows = 2, want_grad_context = 4, want_weights = 1 };

static void need(int fine, const char *what) {
  if (!fine) {
    fprintf(stderr, "agree: %s: %s\n", what, penstock_last_error());
    exit(1);
  }
}

static size_t padded(size_t bytes) { return (bytes + 7) / 8 * 8; }

static void *allocated(size_t bytes) {
  void *memory = calloc(bytes > 0 ? bytes : 1, 1);
  need(memory != NULL, "no memory");
  return memory;
}

/* An array of the calls; NULL for one of no numbers. */
static void *read_array(FILE *file, int64_t numbers, size_t size) {
  const size_t bytes = padded((size_t)numbers * size);
  char *array = NULL;
  if (numbers > 0) {
    array = allocated(bytes);
    need(fread(array, 1, bytes, file) == bytes, "calls.bin ends early");
  }
  return array;
}

/* An array for results; NULL if it is not wanted. */
static void *new_array(int wanted, int64_t numbers, size_t size) {
  char *array = NULL;
  int64_t i;
  if (wanted) {
    array = allocated(padded((size_t)numbers * size));
    for (i = 0; i < numbers; i++) {
      if (size == sizeof(double)) {
        ((double *)(void *)array)[i] = -12345.5;
      } else {
        ((float *)(void *)array)[i] = -12345.5f;
      }
    }
  }
  return array;
}

static void write_array(FILE *file, const void *array, int64_t numbers, size_t size) {
  const size_t bytes = padded((size_t)numbers * size);
  if (array != NULL) {
    need(fwrite(array, 1, bytes, file) == bytes, "results.bin cannot be written");
  }
}

static const char *path_of(const char *folder, const char *name, int64_t number) {
  static char path[4096];
  const int length = number < 0 ? snprintf(path, sizeof path, "%s/%s", folder, name)
                                : snprintf(path, sizeof path, "%s/%s%ld.safetensors", folder, name, (long)number);
  need(length > 0 && (size_t)length < sizeof path, "the folder's name is too long");
  return path;
}

/* Steps on consecutive batches. */
static void train_on(const penstock_flow *flow, const char *folder, const int64_t *word, const void *x,
                     const void *context, const double *numbers, const void *weight, FILE *results) {
  const size_t size = word[2] == 64 ? sizeof(double) : sizeof(float);
  penstock_trainer_options options;
  penstock_trainer *trainer;
  penstock_flow *trained;
  penstock_status status = penstock_trainer_options_init(&options, sizeof options);
  int64_t first, told, done = 0;
  const int64_t batches = (word[3] + word[11] - 1) / word[11];
  double *losses = allocated((size_t)(2 * batches + 1) * sizeof(double));
  need(status == PENSTOCK_OK, "penstock_trainer_options_init");
  options.weight_decay = numbers[1];
  options.clip_norm = numbers[2];
  options.weight_scale = numbers[3];
  need(penstock_trainer_new(flow, &options, &trainer) == PENSTOCK_OK, "penstock_trainer_new");
  for (first = 0; first < word[3] && status == PENSTOCK_OK; first += word[11], done++) {
    const int64_t n = word[3] - first < word[11] ? word[3] - first : word[11];
    const size_t at = (size_t)(first * word[4]) * size;
    const size_t at_context = (size_t)(first * word[6]) * size, at_weight = (size_t)first * size;
    const void *own = context == NULL ? NULL : (const char *)context + at_context;
    const void *weights = weight == NULL ? NULL : (const char *)weight + at_weight;
    const void *rows = (const char *)x + at;
    status = word[2] == 64 ? penstock_trainer_step_f64(trainer, numbers[0], n, rows, word[4], own, word[6], weights,
                                                       &losses[2 * done], &losses[2 * done + 1])
                           : penstock_trainer_step_f32(trainer, numbers[0], n, rows, word[4], own, word[6], weights,
                                                       &losses[2 * done], &losses[2 * done + 1]);
  }
  need(penstock_trainer_flow(trainer, &trained) == PENSTOCK_OK, "penstock_trainer_flow");
  need(penstock_save(trained, path_of(folder, "trained_", word[12])) == PENSTOCK_OK, "penstock_save");
  told = status;
  write_array(results, &told, 1, sizeof told);
  write_array(results, losses, 2 * batches, sizeof(double));
  penstock_free(trained);
  penstock_trainer_free(trainer);
  free(losses);
}

/* One of the verbs on rows; outputs may be NULL. */
static penstock_status compute(const penstock_flow *flow, const int64_t *word, const void *x, const void *context,
                               void *values, void *rows, void *grad_context) {
  const int wide = word[2] == 64;
  const int64_t n = word[3], stride = word[4], context_stride = word[6], out = word[8], out_context = word[9];
  const uint64_t key = (uint64_t)word[11], row = (uint64_t)word[12], draw = (uint64_t)word[13];
  switch (word[1]) {
    case log_prob:
      return wide ? penstock_log_prob_f64(flow, n, x, stride, context, context_stride, values)
                  : penstock_log_prob_f32(flow, n, x, stride, context, context_stride, values);
    case log_prob_and_grad:
      return wide ? penstock_log_prob_and_grad_f64(flow, n, x, stride, context, context_stride, values, rows, out,
                                                   grad_context, out_context)
                  : penstock_log_prob_and_grad_f32(flow, n, x, stride, context, context_stride, values, rows, out,
                                                   grad_context, out_context);
    case sample:
      return wide ? penstock_sample_f64(flow, key, row, draw, n, context, context_stride, rows, out, values)
                  : penstock_sample_f32(flow, key, row, draw, n, context, context_stride, rows, out, values);
    case to_latent:
      return wide ? penstock_to_latent_f64(flow, n, x, stride, context, context_stride, rows, out, values)
                  : penstock_to_latent_f32(flow, n, x, stride, context, context_stride, rows, out, values);
    default:
      return wide ? penstock_to_data_f64(flow, n, x, stride, context, context_stride, rows, out, values)
                  : penstock_to_data_f32(flow, n, x, stride, context, context_stride, rows, out, values);
  }
}

static void answer(const penstock_flow *flow, const char *folder, const int64_t *word, FILE *calls, FILE *results) {
  const size_t size = word[2] == 64 ? sizeof(double) : sizeof(float);
  const int64_t n = word[3], of_context = word[6] == 0 && n > 0 ? penstock_context_dim(flow) : n * word[9];
  void *x = read_array(calls, word[5], size), *context = read_array(calls, word[7], size);
  if (word[1] == train) {
    double *numbers = read_array(calls, 4, sizeof(double));
    void *weight = read_array(calls, (word[10] & want_weights) != 0 ? n : 0, size);
    train_on(flow, folder, word, x, context, numbers, weight, results);
    free(numbers);
    free(weight);
  } else if (word[1] == describe) {
    const int64_t told[5] = {PENSTOCK_OK, penstock_dim(flow), penstock_context_dim(flow), penstock_dtype(flow),
                             penstock_n_members(flow)};
    write_array(results, told, 5, sizeof told[0]);
  } else if (word[1] == save) {
    const int64_t told = penstock_save(flow, path_of(folder, "saved_", word[0]));
    write_array(results, &told, 1, sizeof told);
  } else {
    void *values = new_array((word[10] & want_values) != 0, n, size);
    void *rows = new_array((word[10] & want_rows) != 0, n * word[8], size);
    void *grad_context = new_array((word[10] & want_grad_context) != 0, of_context, size);
    const int64_t told = compute(flow, word, x, context, values, rows, grad_context);
    write_array(results, &told, 1, sizeof told);
    write_array(results, values, n, size);
    write_array(results, rows, n * word[8], size);
    write_array(results, grad_context, of_context, size);
    free(values);
    free(rows);
    free(grad_context);
  }
  free(x);
  free(context);
}

int main(int n_arguments, char **arguments) {
  int64_t word[16], model = -1;
  penstock_flow *flow = NULL;
  FILE *calls, *results;
  if (n_arguments != 2) {
    fprintf(stderr, "usage: agree FOLDER\n");
    return 2;
  }
  calls = fopen(path_of(arguments[1], "calls.bin", -1), "rb");
  results = fopen(path_of(arguments[1], "results.bin", -1), "wb");
  need(calls != NULL && results != NULL, "the files of the folder cannot be opened");
  while (fread(word, sizeof word, 1, calls) == 1) {
    if (word[0] != model) {
      penstock_free(flow);
      model = word[0];
      need(penstock_load(path_of(arguments[1], "model_", model), &flow) == PENSTOCK_OK, "penstock_load");
    }
    answer(flow, arguments[1], word, calls, results);
  }
  penstock_free(flow);
  need(fclose(results) == 0 && fclose(calls) == 0, "results.bin cannot be written");
  return 0;
}
