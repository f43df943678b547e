// Fuzzes the reader of model files: whatever the bytes, a file is refused by FileError or read, within the memory that its size
// allows, and what was read is written as a file that is read as the same. For libFuzzer; see CMakeLists.txt, and
// fuzz_corpus.py for seeds.
//     fuzz_file CORPUS -max_len=65536 -malloc_limit_mb=512 -max_total_time=60
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <variant>

#include "engine/blake2b.hpp"
#include "engine/file.hpp"

using namespace penstock;

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

namespace {

constexpr size_t hash_size = 32, length_size = 8;

void demand(bool fine) {
  if (!fine) {
    __builtin_trap();
  }
}

// Puts the hash right, without which nothing behind it is ever reached.
void seal(uint8_t *data, size_t size) {
  if (size >= hash_size) {
    const auto hash = blake2b_256(data, size - hash_size);
    std::memcpy(data + size - hash_size, hash.data(), hash_size);
  }
}

uint64_t header_of(const uint8_t *data, size_t size) {
  uint64_t length = 0;
  if (size > length_size) {
    std::memcpy(&length, data, length_size);
  }
  return std::min<uint64_t>(length, size - std::min(size, length_size));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  try {
    const Model model = read_model(data, size, "data");
    for (const FileMember &member : model.members) {
      const auto n = [](const auto &params) { return static_cast<int64_t>(params.size()); };
      demand(std::visit(n, member.params) == member.table.flow.n_params);
      demand(static_cast<int64_t>(member.buffers.size()) == member.table.flow.n_buffers);
    }
    demand(model.weights.size() == model.members.size());
    const std::string written = write_model(model, "1");
    demand(write_model(read_model(written.data(), written.size(), "data"), "1") == written);
  } catch (const FileError &) {
    return 0;
  }
  return 0;
}

// The header by itself, whose length is put right, words of the numbers, or any bytes; the hash is put right every other time.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand random(seed);
  const size_t header = header_of(data, size), numbers = length_size + header;
  const unsigned kind = random() % 4;
  if (kind == 0 && header > 0) {
    std::string rest(reinterpret_cast<char *>(data) + numbers, size - numbers);
    const size_t room = max_size - length_size - rest.size();
    const uint64_t now = LLVMFuzzerMutate(data + length_size, header, std::max(room, header));
    std::memcpy(data, &now, length_size);
    std::memcpy(data + length_size + now, rest.data(), rest.size());
    size = length_size + now + rest.size();
  } else if (kind == 1 && header > 0) {  // in place, so that positions stay
    const size_t n = std::min<size_t>(1 + random() % 16, header), at = length_size + random() % (header - n + 1);
    std::string own(reinterpret_cast<char *>(data) + at, n);
    const size_t changed = LLVMFuzzerMutate(reinterpret_cast<uint8_t *>(own.data()), n, n);
    std::memcpy(data + at, own.data(), changed);
  } else if (kind == 2 && size > numbers + 8) {
    constexpr int64_t strange[] = {0,  1,       -1,      2,         3,         -2,        64,
                                   77, 1 << 20, 1 << 24, 1LL << 31, 1LL << 40, INT64_MAX, INT64_MIN};
    for (unsigned n = 1 + random() % 3; n > 0; n--) {
      const size_t at = numbers + random() % ((size - numbers) / 8) * 8;
      int64_t word = 0;
      std::memcpy(&word, data + at, sizeof word);
      word = random() % 2 == 0 ? strange[random() % std::size(strange)]
                               : static_cast<int64_t>(static_cast<uint64_t>(word) ^ uint64_t{1} << random() % 64);
      std::memcpy(data + at, &word, sizeof word);
    }
  } else {
    size = LLVMFuzzerMutate(data, size, max_size);
  }
  if (random() % 2 == 0) {
    seal(data, size);
  }
  return size;
}
