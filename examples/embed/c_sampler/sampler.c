/* Two Markov chain samplers of a density that is given in C, with a flow in them.
 *
 *     sampler MODEL.safetensors
 *
 * Independence Metropolis proposes draws of the flow. Langevin steps (MALA) follow the flow's gradient, so that the target needs
 * none: any drift is right, since the Metropolis step accepts by the target itself. Many chains go side by side, a row of
 * a call each. Means and second moments are held against the known ones, with errors from the spread between chains.
 */
#include <math.h>
#include <penstock/penstock.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { dim = 4, chains = 512, moments = 10 };

/* Two bananas: with u of the normal distribution in four dimensions a = u1, c = 0.8 a + 0.6 u3, b = (a^2 - 1 + u2) / 2,
 * d = (c^2 - 1 + u4) / 2. */
static double log_target(const double *x) {
  const double a = x[0], b = x[1], c = x[2], d = x[3];
  const double u2 = 2 * b - a * a + 1, u3 = (c - 0.8 * a) / 0.6, u4 = 2 * d - c * c + 1;
  return -0.5 * (a * a + u2 * u2 + u3 * u3 + u4 * u4);
}

static const char *const names[moments] = {"E a",   "E b",   "E c",   "E d",  "E a^2",
                                           "E b^2", "E c^2", "E d^2", "E ac", "E bd"};
static const double truth[moments] = {0, 0, 0, 0, 1, 0.75, 1, 0.75, 0.8, 0.32};

static void moments_of(const double *x, double *f) {
  for (int i = 0; i < dim; i++) {
    f[i] = x[i];
    f[dim + i] = x[i] * x[i];
  }
  f[2 * dim] = x[0] * x[2];
  f[2 * dim + 1] = x[1] * x[3];
}

/* --- random numbers of the program: splitmix64 (Steele, Lea, Flood 2014) --- */

static uint64_t state = 1;

static double uniform(void) { /* within (0, 1) */
  uint64_t z = state += UINT64_C(0x9E3779B97F4A7C15);
  z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
  return ((double)((z ^ z >> 31) >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void) {
  const double radius = sqrt(-2 * log(uniform()));
  return radius * cos(6.283185307179586 * uniform());
}

/* --- chains --- */

static void check(penstock_status status) {
  if (status != PENSTOCK_OK) {
    fprintf(stderr, "sampler: %s\n", penstock_last_error());
    exit(2);
  }
}

/* What a chain is at: the point, its log-density under target and flow, and the flow's gradient there. */
typedef struct {
  double x[chains][dim], grad[chains][dim], log_p[chains], log_q[chains];
} State;

static void evaluate(const penstock_flow *flow, State *s) {
  check(penstock_log_prob_and_grad_f64(flow, chains, s->x[0], dim, NULL, 0, s->log_q, s->grad[0], dim, NULL, 0));
  for (int k = 0; k < chains; k++) {
    s->log_p[k] = log_target(s->x[k]);
  }
}

/* Draws of the flow, the first of which has number `first`. */
static void draw(const penstock_flow *flow, uint64_t first, State *s) {
  check(penstock_sample_f64(flow, penstock_key_from_seed(1), 0, first, chains, NULL, 0, s->x[0], dim, s->log_q));
  for (int k = 0; k < chains; k++) {
    s->log_p[k] = log_target(s->x[k]);
  }
}

/* -|to - from - h/2 gradient(from)|^2 / 2h */
static double log_step(const double *from, const double *grad, const double *to, double h) {
  double sum = 0;
  for (int i = 0; i < dim; i++) {
    const double left = to[i] - from[i] - 0.5 * h * grad[i];
    sum += left * left;
  }
  return -sum / (2 * h);
}

static void move(State *now, const State *proposed, int k) {
  memcpy(now->x[k], proposed->x[k], sizeof now->x[k]);
  memcpy(now->grad[k], proposed->grad[k], sizeof now->grad[k]);
  now->log_p[k] = proposed->log_p[k];
  now->log_q[k] = proposed->log_q[k];
}

static int independence_step(const penstock_flow *flow, int step, State *now) {
  static State proposed;
  int accepted = 0;
  draw(flow, (uint64_t)(step + 1) * chains, &proposed);
  for (int k = 0; k < chains; k++) {
    const double log_ratio = proposed.log_p[k] - now->log_p[k] + now->log_q[k] - proposed.log_q[k];
    if (log(uniform()) < log_ratio) {
      move(now, &proposed, k);
      accepted++;
    }
  }
  return accepted;
}

static int langevin_step(const penstock_flow *flow, int step, State *now) {
  static State proposed;
  const double h = 0.2;
  int accepted = 0;
  if (step == 0) {
    evaluate(flow, now);
  }
  for (int k = 0; k < chains; k++) {
    for (int i = 0; i < dim; i++) {
      proposed.x[k][i] = now->x[k][i] + 0.5 * h * now->grad[k][i] + sqrt(h) * normal();
    }
  }
  evaluate(flow, &proposed);
  for (int k = 0; k < chains; k++) {
    const double there = log_step(now->x[k], now->grad[k], proposed.x[k], h);
    const double back = log_step(proposed.x[k], proposed.grad[k], now->x[k], h);
    if (log(uniform()) < proposed.log_p[k] - now->log_p[k] + back - there) {
      move(now, &proposed, k);
      accepted++;
    }
  }
  return accepted;
}

/* Prints how a sampler did; returns how many standard errors the worst moment is off. */
static double run(const char *name, const penstock_flow *flow, int (*sampler)(const penstock_flow *, int, State *),
                  int steps) {
  static State now;
  static double sums[chains][moments];
  const int warm = steps / 10;
  double worst = 0;
  long accepted = 0;
  memset(sums, 0, sizeof sums);
  draw(flow, 0, &now);
  for (int step = 0; step < warm + steps; step++) {
    const int moved = sampler(flow, step, &now);
    if (step < warm) {
      continue;
    }
    accepted += moved;
    for (int k = 0; k < chains; k++) {
      double f[moments];
      moments_of(now.x[k], f);
      for (int m = 0; m < moments; m++) {
        sums[k][m] += f[m] / steps;
      }
    }
  }
  printf("%s: acceptance %.3f\n", name, (double)accepted / ((double)chains * steps));
  for (int m = 0; m < moments; m++) {
    double mean = 0, square = 0;
    for (int k = 0; k < chains; k++) {
      mean += sums[k][m] / chains;
    }
    for (int k = 0; k < chains; k++) {
      square += (sums[k][m] - mean) * (sums[k][m] - mean);
    }
    const double error = sqrt(square / (chains - 1) / chains);
    printf("  %-6s %8.4f +- %.4f   truth %6.4f\n", names[m], mean, error, truth[m]);
    worst = fmax(worst, fabs(mean - truth[m]) / error);
  }
  printf("  largest deviation %.2f standard errors\n", worst);
  return worst;
}

int main(int argc, char **argv) {
  penstock_flow *flow;
  if (argc != 2) {
    fprintf(stderr, "usage: sampler MODEL.safetensors\n");
    return 2;
  }
  check(penstock_load(argv[1], &flow));
  if (penstock_dim(flow) != dim || penstock_context_dim(flow) != 0) {
    fprintf(stderr, "sampler: the target has %d dimensions and no context, the flow %d and %d\n", dim,
            (int)penstock_dim(flow), (int)penstock_context_dim(flow));
    return 2;
  }
  const double independence = run("independence Metropolis", flow, independence_step, 400);
  const double langevin = run("Langevin steps", flow, langevin_step, 2000);
  penstock_free(flow);
  return independence < 5 && langevin < 5 ? 0 : 1; /* about once in 10^5 runs by chance */
}
