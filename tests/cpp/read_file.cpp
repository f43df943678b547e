// Reads model files as the library does, for tests/test_read_file.py.
//     read_file FILE ...               prints "ok" or the sentence of each, a line for each
//     read_file -w VERSION FILE OUT    reads a file and writes it again with save_bytes()
//     read_file -t VERSION FILE OUT    the same, with parameters that were trained: halved
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "engine/file_io.hpp"

using namespace penstock;

namespace {

void write_again(const char *version, const char *from, const char *to, bool trained) {
  Model model = load_model(from);
  for (FileMember &member : model.members) {
    if (trained) {
      std::visit(
          [](auto &params) {
            for (auto &x : params) {
              x /= 2;
            }
          },
          member.params);
      member.initialised = true;
      model.history.reset();
    }
  }
  save_bytes(to, write_model(model, version));
}

// What went wrong, with its kind.
template <class Do>
std::string outcome(const Do &perform) {
  try {
    perform();
    return "ok";
  } catch (const FileError &error) {
    return std::string("format: ") + error.what();
  } catch (const FileSystemError &error) {
    return std::string("file: ") + error.what();
  }
}

}  // namespace

int main(int count, char **words) {
  if (count == 5 && words[1][0] == '-') {
    const bool trained = std::strcmp(words[1], "-t") == 0;
    std::puts(outcome([&] { write_again(words[2], words[3], words[4], trained); }).c_str());
    return 0;
  }
  for (int i = 1; i < count; i++) {
    std::puts(outcome([&] { load_model(words[i]); }).c_str());
  }
  return 0;
}
