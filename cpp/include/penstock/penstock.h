/* penstock.h: trained normalizing flows for programs in C, and whatever can call C.
 *
 * One shared library, libpenstock, needs the C library, its mathematics and threads, and nothing else. It reads the files that
 * the Python package writes, and computes the same bits from them. This header is the reference page of its interface.
 *
 *     penstock_flow *flow;
 *     if (penstock_load("galaxies.safetensors", &flow) != PENSTOCK_OK) {
 *       fprintf(stderr, "%s\n", penstock_last_error());
 *       exit(1);
 *     }
 *     double x[2] = {0.5, -1.0}, log_p;
 *     penstock_log_prob_f64(flow, 1, x, 2, NULL, 0, &log_p);
 *     penstock_free(flow);
 *
 * Rules that hold for every call
 *
 * Status. A call that can fail returns a penstock_status. On anything but PENSTOCK_OK the calling thread's penstock_last_error()
 * says in one sentence what was wrong, outputs hold nothing of use, and objects are as they were. Nothing throws,
 * prints, aborts, installs a signal handler or changes the floating-point environment of the caller. Any call may give
 * PENSTOCK_ERROR_MEMORY, and PENSTOCK_ERROR_INTERNAL, which is a fault of the library.
 *
 * Arrays. All memory of rows belongs to the caller; the library reads inputs and fills outputs during the call and keeps no
 * pointer. The numbers of a row lie one behind the other. A stride is the distance between the beginnings of two rows, counted
 * in numbers; it is read where there are several rows. Rows of an output must not overlap one another or an input, unless an
 * output is, with its stride, exactly the input. An output that is not wanted is NULL. n rows of none are fine.
 *
 * Numbers. Each verb exists for double (_f64) and for float (_f32), and either takes either flow: inputs become the type of the
 * flow as from Python, and results, computed in the type of the flow, are rounded once to the type of the call.
 *
 * Context. The variables that a flow is conditioned on, context_dim numbers a row: NULL for a flow without (context_dim 0); one
 * row for all, with context_stride 0; or a row for each of the n, context_stride numbers apart.
 *
 * Threads. A flow never changes once it is loaded: any number of threads may call any verb on it at the same time. So may they
 * call everything else here, but for a trainer, which takes one call at a time, and free functions, after which nobody
 * may use the object. A call works on the calling thread alone until penstock_set_num_threads says otherwise. One
 * row (n = 1) of a single flow takes a path of its own: no lock, no thread woken, and no allocation but at the first call of a
 * thread, which gets its workspace. Results do not depend on threads, nor on how rows are cut into calls: the same bits.
 *
 * fork. A child of fork may use flows that were loaded before; threads of the library start anew there when they are needed.
 *
 * Ends. Nothing has to be ended: at exit threads are joined. A program that unloads the library (dlclose) calls
 * penstock_shutdown() before, see there.
 */
#ifndef PENSTOCK_PENSTOCK_H
#define PENSTOCK_PENSTOCK_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#  define PENSTOCK_API __attribute__((visibility("default")))
#else
#  define PENSTOCK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* --- what went wrong ------------------------------------------------------------------------------------------- */

typedef enum penstock_status {
  PENSTOCK_OK = 0,
  PENSTOCK_ERROR_ARGUMENT = 1,    /* an argument is not what the call takes */
  PENSTOCK_ERROR_MEMORY = 2,      /* no memory is left, or no thread-local storage */
  PENSTOCK_ERROR_FILE = 3,        /* a file cannot be opened, read or written */
  PENSTOCK_ERROR_FORMAT = 4,      /* no model, a damaged one, or one of a format that this library does not read */
  PENSTOCK_ERROR_UNSUPPORTED = 5, /* the flow has no such verb or part, or the processor no usable instructions */
  PENSTOCK_ERROR_NOT_FINITE = 6,  /* a training step whose loss or gradient is not finite; it was not taken */
  PENSTOCK_ERROR_BUSY = 7,        /* another call is using the object */
  PENSTOCK_ERROR_INTERNAL = 8     /* a fault of the library */
} penstock_status;

/* A word for a status, "out of memory" for instance: static, never NULL. */
PENSTOCK_API const char *penstock_status_string(penstock_status status);

/* The sentence of the calling thread's last call that failed, "" before the first: at most 1023 bytes of UTF-8 and a
 * NUL, in memory of the thread, valid until its next call that fails. Sentences are those of the Python package. */
PENSTOCK_API const char *penstock_last_error(void);

/* --- flows ----------------------------------------------------------------------------------------------------- */

/* A trained flow, or an ensemble of them, which has every verb but the latent maps. */
typedef struct penstock_flow penstock_flow;

/* Reads a model: the file `path`, or `size` bytes that hold what such a file holds. *flow becomes the caller's, to be
 * given back by penstock_free; on failure it becomes NULL. Files of format 2 are read, of one flow or of an ensemble;
 * everything that can be checked without the specification is, the hash of the contents included. A file of format 1
 * has to go through `penstock upgrade FILE`. PENSTOCK_ERROR_FILE (penstock_load alone), PENSTOCK_ERROR_FORMAT,
 * PENSTOCK_ERROR_UNSUPPORTED. */
PENSTOCK_API penstock_status penstock_load(const char *path, penstock_flow **flow);
PENSTOCK_API penstock_status penstock_load_bytes(const void *data, size_t size, penstock_flow **flow);

/* NULL is fine. */
PENSTOCK_API void penstock_free(penstock_flow *flow);

/* Writes a model, which the Python package reads: the file `path`, taken whole or not at all (a neighbour is written
 * and renamed); or bytes: *size becomes how many there are, and `data` gets them where it is not NULL and `capacity`
 * suffices; else PENSTOCK_ERROR_ARGUMENT, unless `data` is NULL. A record of training is left out where numbers have
 * changed since the file was read. */
PENSTOCK_API penstock_status penstock_save(const penstock_flow *flow, const char *path);
PENSTOCK_API penstock_status penstock_save_bytes(const penstock_flow *flow, void *data, size_t capacity, size_t *size);

/* Numbers a row, and numbers of context a row, 0 without. 0 for NULL. */
PENSTOCK_API int64_t penstock_dim(const penstock_flow *flow);
PENSTOCK_API int64_t penstock_context_dim(const penstock_flow *flow);

/* In which type the flow computes: PENSTOCK_FLOAT32 or PENSTOCK_FLOAT64; 0 for NULL. */
#define PENSTOCK_FLOAT32 32
#define PENSTOCK_FLOAT64 64
PENSTOCK_API int penstock_dtype(const penstock_flow *flow);

/* Members of an ensemble, 1 for a single flow, 0 for NULL. */
PENSTOCK_API int64_t penstock_n_members(const penstock_flow *flow);

/* Names of columns and of columns of the context, where the file has them: UTF-8, valid as long as the flow; else NULL. */
PENSTOCK_API const char *penstock_column_name(const penstock_flow *flow, int64_t i);
PENSTOCK_API const char *penstock_context_column_name(const penstock_flow *flow, int64_t i);

/* --- verbs ----------------------------------------------------------------------------------------------------- */

/* log_prob: the log-density of n rows of x, (n, dim), in nats: -inf outside of the support, NaN where a row holds NaN.
 * Writes log_prob, (n). PENSTOCK_ERROR_ARGUMENT. */
PENSTOCK_API penstock_status penstock_log_prob_f64(const penstock_flow *flow, int64_t n, const double *x,
                                                   int64_t x_stride, const double *context, int64_t context_stride,
                                                   double *log_prob);
PENSTOCK_API penstock_status penstock_log_prob_f32(const penstock_flow *flow, int64_t n, const float *x,
                                                   int64_t x_stride, const float *context, int64_t context_stride,
                                                   float *log_prob);

/* log_prob_and_grad: the same, with the gradient of each row's log-density with respect to the row, grad, (n, dim), and
 * to its context, grad_context: (n, context_dim) where each row has a context of its own; one row, the sum over all
 * rows, where they share it (grad_context_stride is not read). Any of the three outputs may be NULL.
 * PENSTOCK_ERROR_ARGUMENT. */
PENSTOCK_API penstock_status penstock_log_prob_and_grad_f64(const penstock_flow *flow, int64_t n, const double *x,
                                                            int64_t x_stride, const double *context,
                                                            int64_t context_stride, double *log_prob, double *grad,
                                                            int64_t grad_stride, double *grad_context,
                                                            int64_t grad_context_stride);
PENSTOCK_API penstock_status penstock_log_prob_and_grad_f32(const penstock_flow *flow, int64_t n, const float *x,
                                                            int64_t x_stride, const float *context,
                                                            int64_t context_stride, float *log_prob, float *grad,
                                                            int64_t grad_stride, float *grad_context,
                                                            int64_t grad_context_stride);

/* sample: n draws, x, (n, dim), and on demand their log-density, log_prob, (n), which is that of the rows as stored in the
 * type of the flow. A draw is a function of the flow, its context and three numbers, whatever the call that makes it:
 *     key           penstock_key_from_seed(seed) gives the draws of Python's rng=seed
 *     context_row   the number of its row of context
 *     draw          its number among the draws for that row
 * With no context, or one for all, the call makes draws first_draw ... first_draw + n - 1 of row first_context_row. With a
 * context a row it makes draw first_draw of each of the rows first_context_row ... first_context_row + n - 1: blocks of cells
 * that are drawn apart give the numbers of their first cells, and never share a draw. Draws lie below 2^56 and rows below
 * 2^40. Where columns were trained on a lattice, draws are rounded to it. PENSTOCK_ERROR_ARGUMENT. */
PENSTOCK_API penstock_status penstock_sample_f64(const penstock_flow *flow, uint64_t key, uint64_t first_context_row,
                                                 uint64_t first_draw, int64_t n, const double *context,
                                                 int64_t context_stride, double *x, int64_t x_stride, double *log_prob);
PENSTOCK_API penstock_status penstock_sample_f32(const penstock_flow *flow, uint64_t key, uint64_t first_context_row,
                                                 uint64_t first_draw, int64_t n, const float *context,
                                                 int64_t context_stride, float *x, int64_t x_stride, float *log_prob);

/* The key of an integer seed: the 64 bits that numpy.random.default_rng(seed) gives first. */
PENSTOCK_API uint64_t penstock_key_from_seed(uint64_t seed);

/* to_latent: rows of data x, (n, dim), to the latent side, z, (n, dim); to_data: the way back. log_det, (n), is the
 * logarithm of the determinant of the Jacobian of the map that was made. PENSTOCK_ERROR_UNSUPPORTED for ensembles,
 * PENSTOCK_ERROR_ARGUMENT. */
PENSTOCK_API penstock_status penstock_to_latent_f64(const penstock_flow *flow, int64_t n, const double *x,
                                                    int64_t x_stride, const double *context, int64_t context_stride,
                                                    double *z, int64_t z_stride, double *log_det);
PENSTOCK_API penstock_status penstock_to_latent_f32(const penstock_flow *flow, int64_t n, const float *x,
                                                    int64_t x_stride, const float *context, int64_t context_stride,
                                                    float *z, int64_t z_stride, float *log_det);
PENSTOCK_API penstock_status penstock_to_data_f64(const penstock_flow *flow, int64_t n, const double *z,
                                                  int64_t z_stride, const double *context, int64_t context_stride,
                                                  double *x, int64_t x_stride, double *log_det);
PENSTOCK_API penstock_status penstock_to_data_f32(const penstock_flow *flow, int64_t n, const float *z,
                                                  int64_t z_stride, const float *context, int64_t context_stride,
                                                  float *x, int64_t x_stride, float *log_det);

/* --- training -------------------------------------------------------------------------------------------------- */

/* The parameters of a flow and the state of their optimiser, AdamW (Loshchilov, Hutter 2019). For one call at a time:
 * another one meanwhile is refused with PENSTOCK_ERROR_BUSY. */
typedef struct penstock_trainer penstock_trainer;

/* What penstock_trainer_new may be told. The caller sets `size` to sizeof(penstock_trainer_options), so that a later
 * library knows which fields there are; penstock_trainer_options_init sets all of them. */
typedef struct penstock_trainer_options {
  size_t size;
  double beta1, beta2; /* decay of the means of the gradient and of its square, in [0, 1): 0.9, 0.999 */
  double epsilon;      /* above 0: 1e-8 */
  double weight_decay; /* at least 0, of the weight matrices of networks: 0 */
  double clip_norm;    /* above 0: longer gradients are shortened to it; INFINITY for none: 5 */
  double weight_scale; /* the gradient is weight_scale / n times the sum of w d(-log p); 0: the sum over that of w: 0 */
} penstock_trainer_options;

/* `size` is sizeof(penstock_trainer_options). */
PENSTOCK_API penstock_status penstock_trainer_options_init(penstock_trainer_options *options, size_t size);

/* A trainer that begins at the flow's parameters; options may be NULL. The flow may be freed. Standardisation and the
 * numbers of supports stay as the flow has them. *trainer becomes the caller's, to be given back by
 * penstock_trainer_free; on failure NULL. PENSTOCK_ERROR_UNSUPPORTED for ensembles, PENSTOCK_ERROR_ARGUMENT. */
PENSTOCK_API penstock_status penstock_trainer_new(const penstock_flow *flow, const penstock_trainer_options *options,
                                                  penstock_trainer **trainer);

/* One step of maximum likelihood on n rows with weights, (n), of at least 0; NULL: all 1. Writes the batch's mean -log
 * p before the step, weighted, and the norm of its gradient before clipping; either may be NULL. Weights that sum to 0
 * are no step: the loss is NaN, the norm 0. PENSTOCK_ERROR_NOT_FINITE, PENSTOCK_ERROR_BUSY, PENSTOCK_ERROR_ARGUMENT. */
PENSTOCK_API penstock_status penstock_trainer_step_f64(penstock_trainer *trainer, double learning_rate, int64_t n,
                                                       const double *x, int64_t x_stride, const double *context,
                                                       int64_t context_stride, const double *weight, double *loss,
                                                       double *norm);
PENSTOCK_API penstock_status penstock_trainer_step_f32(penstock_trainer *trainer, double learning_rate, int64_t n,
                                                       const float *x, int64_t x_stride, const float *context,
                                                       int64_t context_stride, const float *weight, double *loss,
                                                       double *norm);

/* Steps taken; 0 for NULL. */
PENSTOCK_API int64_t penstock_trainer_steps(const penstock_trainer *trainer);

/* A flow of the present parameters, by itself: later steps do not change it. PENSTOCK_ERROR_BUSY,
 * PENSTOCK_ERROR_ARGUMENT. */
PENSTOCK_API penstock_status penstock_trainer_flow(penstock_trainer *trainer, penstock_flow **flow);

/* NULL is fine. */
PENSTOCK_API void penstock_trainer_free(penstock_trainer *trainer);

/* --- threads and the library ----------------------------------------------------------------------------------- */

/* How many threads a call may use, the caller's included: for the whole process, 1 until somebody says otherwise
 * (Python in the same process has this setting in common); and for calls from the calling thread, where 0 means to
 * follow the process. PENSTOCK_ERROR_ARGUMENT for numbers outside of 1 to 256, or 0 to 256. Calls that come while
 * another one has the threads work alone. */
PENSTOCK_API penstock_status penstock_set_num_threads(int n);
PENSTOCK_API penstock_status penstock_set_local_num_threads(int n);

/* What holds for calls from the calling thread. */
PENSTOCK_API int penstock_num_threads(void);

/* Gives back the workspace of the calling thread and ends the threads of the library; the next call gets new ones.
 * PENSTOCK_ERROR_BUSY while another call has them. */
PENSTOCK_API penstock_status penstock_trim(void);

/* Before dlclose: ends the threads of the library and gives back all workspaces and thread-local keys, those of threads
 * that live on included, so that nothing of the library is left in the process but flows and trainers that were not
 * freed. No other call may be running: PENSTOCK_ERROR_BUSY if one has the threads. A later call begins anew. */
PENSTOCK_API penstock_status penstock_shutdown(void);

/* The version of the library, "0.2.0", and of its binary interface: a program built with PENSTOCK_ABI runs with a
 * library of the same penstock_abi(), which is the number in libpenstock.so.0. */
#define PENSTOCK_VERSION_MAJOR 0
#define PENSTOCK_VERSION_MINOR 2
#define PENSTOCK_VERSION_PATCH 0
#define PENSTOCK_ABI 0
PENSTOCK_API const char *penstock_version(void);
PENSTOCK_API int penstock_abi(void);

/* The instruction set that kernels run with here, "avx2" for instance; NULL, with a sentence in penstock_last_error(),
 * if none does. The environment variable PENSTOCK_ISA forces one. */
PENSTOCK_API const char *penstock_isa(void);

#ifdef __cplusplus
}
#endif

#endif
