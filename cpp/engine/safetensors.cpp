// The safetensors container: see safetensors.hpp.
#include "engine/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

#include "engine/json.hpp"
#include "engine/text.hpp"

namespace penstock {
namespace {

using Kind = JsonReader::Kind;

constexpr uint64_t header_most = 100'000'000;  // what the safetensors package itself accepts at most
constexpr size_t alignment = 64;               // of the first number in the file
constexpr size_t axes_most = 8;

struct Dtype {
  const char *code;
  int64_t size;
};
constexpr Dtype dtypes[] = {{"F32", 4}, {"F64", 8}, {"I64", 8}, {"U8", 1}};

const Dtype *dtype_of(std::string_view code) {
  const auto *found =
      std::find_if(std::begin(dtypes), std::end(dtypes), [&](const Dtype &d) { return d.code == code; });
  return found == std::end(dtypes) ? nullptr : found;
}

uint64_t length_of(std::string_view file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  return length;
}

// One tensor as the header has it; positions count from the end of the header.
struct Entry {
  std::string name;
  const Dtype *dtype = nullptr;
  std::vector<int64_t> shape;
  int64_t start = 0, stop = 0;
  size_t number = 0;  // in the header
};

// The numbers of an array of whole numbers of at least 0, if this is one of `most` numbers at most.
std::optional<std::vector<int64_t>> read_wholes(JsonReader &reader, const JsonReader::Token &token, size_t most) {
  if (!token.is(Kind::array)) {
    reader.skip();
    return {};
  }
  std::vector<int64_t> numbers;
  bool fine = true;
  const size_t depth = token.depth + 1;
  while (reader.next_in(depth)) {
    const std::optional<int64_t> number = json_integer(token);
    fine = fine && number && *number >= 0 && numbers.size() < most;
    if (fine) {
      numbers.push_back(*number);
    }
    reader.skip();
  }
  return fine ? std::optional(std::move(numbers)) : std::nullopt;
}

// The header, read and checked tensor by tensor. Of what is wrong with its entries the first fault is told once all of it is
// known to be JSON.
class Header {
 public:
  explicit Header(std::string_view text) : reader_(text, "the header"), token_(reader_.next()) {
    while (reader_.next_in(1)) {
      if (token_.key == "__metadata__") {
        read_metadata();
      } else if (fault_.empty()) {
        read_entry();
      } else {
        reader_.skip();
      }
    }
    reader_.next();
    if (!strings_) {
      refuse_file("its metadata must be an object of strings");
    }
    if (!fault_.empty()) {
      refuse_file(fault_);
    }
  }

  Metadata metadata;
  std::vector<Entry> entries;

 private:
  void read_metadata() {
    strings_ = token_.is(Kind::object);
    while (strings_ && reader_.next_in(2)) {
      strings_ = token_.is(Kind::string);
      if (strings_) {
        metadata.emplace_back(token_.key, json_text(token_.text));
      }
    }
    if (!strings_) {
      while (token_.depth > 1 || token_.opens()) {  // to the end of what was to be the metadata
        reader_.next();
      }
    }
  }

  void read_entry() {
    Entry entry;
    entry.name = token_.key;
    const std::string tensor = "tensor " + brief(entry.name);
    if (!token_.is(Kind::object)) {
      reader_.skip();
      fault_ = tensor + " has a malformed entry in the header";
      return;
    }
    int known = 0;
    bool more = false;
    std::string code;
    std::optional<std::vector<int64_t>> shape, offsets;
    while (reader_.next_in(2)) {
      const std::string key = token_.key;
      known += key == "dtype" || key == "shape" || key == "data_offsets";
      if (key == "dtype") {
        code = json_printed(token_);
        entry.dtype = token_.is(Kind::string) ? dtype_of(code) : nullptr;
        reader_.skip();
      } else if (key == "shape") {
        shape = read_wholes(reader_, token_, axes_most);
      } else if (key == "data_offsets") {
        offsets = read_wholes(reader_, token_, 2);
      } else {
        more = true;
        reader_.skip();
      }
    }
    if (known != 3 || more) {
      fault_ = tensor + " has a malformed entry in the header";
    } else if (entry.dtype == nullptr) {
      fault_ = tensor + " has dtype " + first_of(code, 20) + "; this format has F32, F64, I64, U8";
    } else if (!shape || !offsets || offsets->size() != 2) {
      fault_ = tensor + " has a malformed shape or position";
    } else {
      entry.shape = std::move(*shape);
      entry.start = (*offsets)[0];
      entry.stop = (*offsets)[1];
      entry.number = entries.size();
      entries.push_back(std::move(entry));
    }
  }

  JsonReader reader_;
  const JsonReader::Token &token_;
  bool strings_ = true;
  std::string fault_;
};

// Whether a tensor has the size of its shape, which may be any product.
bool fits(const Entry &entry) {
  int64_t size = entry.dtype->size;
  bool small = true;
  for (const int64_t n : entry.shape) {
    small = small && !__builtin_mul_overflow(size, n, &size);
  }
  if (std::find(entry.shape.begin(), entry.shape.end(), 0) != entry.shape.end()) {
    small = true;
    size = 0;
  }
  return small && entry.stop - entry.start == size;
}

// Puts the tensors in the order of their positions. They must fill the rest of the file, without gap or overlap.
void put_in_order(std::vector<Entry> &entries, uint64_t room) {
  std::sort(entries.begin(), entries.end(), [](const Entry &a, const Entry &b) {
    return std::tie(a.start, a.stop, a.number) < std::tie(b.start, b.stop, b.number);
  });
  int64_t position = 0;
  for (const Entry &entry : entries) {
    if (!fits(entry)) {
      refuse_file("tensor " + brief(entry.name) + " has a size that is not that of its shape");
    }
    if (entry.start != position) {
      refuse_file("tensor " + brief(entry.name) + " does not start where the one before it ends");
    }
    position = entry.stop;
  }
  const auto used = static_cast<uint64_t>(position);
  if (used > room) {
    refuse_file("truncated: " + std::to_string(used) + " bytes of numbers expected, " + std::to_string(room) +
                " found");
  }
  if (used < room) {
    refuse_file(std::to_string(room - used) + " bytes follow after the last tensor");
  }
}

}  // namespace

void check_start(std::string_view start, uint64_t size) {
  if (size < container_start + 1 || start.size() < container_start) {
    refuse_file("not a penstock file, or truncated: " + std::to_string(size) + " bytes");
  }
  const uint64_t length = length_of(start);
  if (start[8] != '{' || length > header_most) {
    refuse_file("not a penstock file: no safetensors header");
  }
  if (length > size - 8) {
    refuse_file("truncated: a header of " + std::to_string(length) + " bytes in a file of " + std::to_string(size));
  }
}

Container read_container(std::string_view file) {
  check_start(file.substr(0, container_start), file.size());
  const size_t length = length_of(file);
  Header header(file.substr(8, length));
  const std::string_view numbers = file.substr(8 + length);
  put_in_order(header.entries, numbers.size());
  Container container;
  container.metadata = std::move(header.metadata);
  container.tensors.reserve(header.entries.size());
  for (Entry &entry : header.entries) {
    const auto start = static_cast<size_t>(entry.start), stop = static_cast<size_t>(entry.stop);
    container.tensors.push_back(
        {std::move(entry.name), entry.dtype->code, std::move(entry.shape), numbers.substr(start, stop - start)});
  }
  return container;
}

ContainerWriter::ContainerWriter(const Metadata &metadata) : header_("{\"__metadata__\":{") {
  for (size_t i = 0; i < metadata.size(); i++) {
    header_ += (i > 0 ? "," : "") + json_token(metadata[i].first) + ":" + json_token(metadata[i].second);
  }
  header_ += '}';
}

void ContainerWriter::add(std::string_view name, std::string_view code, const std::vector<int64_t> &shape,
                          std::string_view bytes) {
  header_ += "," + json_token(name) + ":{\"dtype\":" + json_token(code) + ",\"shape\":[";
  for (size_t i = 0; i < shape.size(); i++) {
    header_ += (i > 0 ? "," : "") + std::to_string(shape[i]);
  }
  header_ += "],\"data_offsets\":[" + std::to_string(numbers_.size()) + ",";
  numbers_ += bytes;
  header_ += std::to_string(numbers_.size()) + "]}";
}

std::string ContainerWriter::finished() const {
  std::string text = header_ + "}";
  text.append((alignment - (8 + text.size()) % alignment) % alignment, ' ');
  const uint64_t length = text.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  file.reserve(8 + text.size() + numbers_.size());
  file += text;
  file += numbers_;
  return file;
}

std::string some(const std::vector<std::string> &names) {
  constexpr size_t shown = 5;
  std::string out;
  for (size_t i = 0; i < std::min(names.size(), shown); i++) {
    out += (i > 0 ? ", " : "") + brief(names[i]);
  }
  return names.size() > shown ? out + " and " + std::to_string(names.size() - shown) + " more" : out;
}

std::string brief(std::string_view name) { return first_of(name, 80); }

}  // namespace penstock
