// The function to integrate over the unit cube: two narrow peaks in six dimensions, each along directions of its own, so that no
// product of functions of single coordinates comes close. Its integral is 1.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

constexpr std::size_t dim = 6;
using Point = std::array<double, dim>;

// A normal density of this share: `width` along the columns of the reflection I - 2 v v^T / v^T v. Every wall is so many standard
// deviations away that what lies outside of the cube is below 1e-7 of it.
struct Peak {
  double share;
  Point centre, v, width;

  double operator()(const double *x) const {
    double along = 0, length = 0, exponent = 0, density = share;
    for (std::size_t i = 0; i < dim; i++) {
      along += v[i] * (x[i] - centre[i]);
      length += v[i] * v[i];
    }
    for (std::size_t i = 0; i < dim; i++) {
      const double u = (x[i] - centre[i] - 2 * v[i] * along / length) / width[i];
      exponent -= u * u / 2;
      density /= width[i] * std::sqrt(2 * 3.14159265358979323846);
    }
    return density * std::exp(exponent);
  }
};

inline double integrand(const double *x) {
  static const Peak one = {
      0.6, {0.38, 0.62, 0.35, 0.60, 0.40, 0.55}, {1, 2, -1, 1, -2, 1}, {0.02, 0.03, 0.04, 0.05, 0.06, 0.08}};
  static const Peak two = {
      0.4, {0.62, 0.40, 0.63, 0.38, 0.65, 0.42}, {2, -1, 1, 1, 1, -2}, {0.08, 0.06, 0.04, 0.04, 0.03, 0.02}};
  return one(x) + two(x);
}
