// What walking.hpp has in common for all types.
#include "cuda/walking.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cuda/verbs.hpp"

namespace penstock::cuda {

void copy_to_host(void *to, const void *from, int64_t bytes) {
  if (bytes <= 0) {
    return;
  }
  copy(to, from, bytes);
  stream().synchronise();
}

template <class T>
int64_t shared_bytes(const Engine<T> &engine, bool gradient) {
  const Using use(place_of(engine));
  const DevicePlan &device = device_plan(engine);
  return shared_of(walks<T>(device.parts), gradient ? device.gradient : device.evaluation).bytes;
}
template int64_t shared_bytes(const Engine<float> &, bool);
template int64_t shared_bytes(const Engine<double> &, bool);

RowsOnHost::RowsOnHost(const RowsView &rows, int64_t columns, int64_t n) : view(rows) {
  if (n <= 0 || !is_device(rows.data)) {
    return;
  }
  const int64_t reach = (n - 1) * rows.row_stride + (columns - 1) * rows.column_stride + rows.item_size;
  const bool plain = rows.row_stride >= 0 && rows.column_stride >= 0;
  if (plain) {  // as it lies
    numbers.resize(static_cast<size_t>(reach));
    copy_to_host(numbers.data(), rows.data, reach);
    view.data = numbers.data();
    return;
  }
  const int64_t size = rows.item_size;
  numbers.resize(static_cast<size_t>(n * columns * size));
  for (int64_t i = 0; i < n * columns; i++) {
    copy_to_host(numbers.data() + i * size,
                 rows.data + i / columns * rows.row_stride + i % columns * rows.column_stride, size);
  }
  view = {numbers.data(), columns * size, size, rows.item_size};
}

int64_t chunk_rows(int64_t most) {
  const char *text = std::getenv("PENSTOCK_CUDA_CHUNK");
  if (text == nullptr || *text == '\0') {
    return most;
  }
  char *end = nullptr;
  const long long rows = std::strtoll(text, &end, 10);
  if (*end != '\0' || rows < block_rows || rows % block_rows != 0) {
    throw std::invalid_argument("PENSTOCK_CUDA_CHUNK must be a multiple of " + std::to_string(block_rows) + ", got '" +
                                text + "'");
  }
  return std::min<int64_t>(rows, most);
}

}  // namespace penstock::cuda
