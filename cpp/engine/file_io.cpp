// Files as a whole, by the calls of POSIX: see file_io.hpp. src/penstock/_files.py does the same.
#include "engine/file_io.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>

#include "engine/safetensors.hpp"
#include "engine/text.hpp"

namespace penstock {
namespace {

// What strerror_r() gives back is the text itself in glibc, and a status elsewhere.
[[maybe_unused]] std::string message_of(const char *text, const char *) { return text; }
[[maybe_unused]] std::string message_of(int, const char *text) { return text; }

std::string message(int error) {
  char text[256] = "unknown error";
  return message_of(strerror_r(error, text, sizeof text), text);
}

[[noreturn]] void fail_to_read(const std::string &path, int error) {
  throw FileSystemError("[Errno " + std::to_string(error) + "] " + message(error) + ": " + quoted(path));
}

[[noreturn]] void fail_to_write(const std::string &path, const std::string &why) {
  throw FileSystemError("cannot write " + quoted(path) + ": " + why);
}

[[noreturn]] void fail_to_write(const std::string &path, int error) {
  throw FileSystemError("[Errno " + std::to_string(error) + "] cannot write " + quoted(path) + ": " +
                        (error == EBUSY   ? "a file is mounted there, which cannot be replaced"
                         : error == ELOOP ? "its symbolic links go in a circle"
                                          : message(error)));
}

// An open file, closed in the end.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor &) = delete;
  Descriptor &operator=(const Descriptor &) = delete;
  ~Descriptor() {
    if (number_ >= 0) {
      ::close(number_);
    }
  }
  operator int() const { return number_; }

 private:
  int number_;
};

int open_again(const char *path, int flags, mode_t mode = 0) {
  int file = -1;
  do {
    file = ::open(path, flags | O_CLOEXEC, mode);
  } while (file < 0 && errno == EINTR);
  return file;
}

// Up to `size` bytes of a file from `at` on; fewer where it ends before. Negative where it cannot be read.
ssize_t read_at(int file, char *to, size_t size, size_t at) {
  size_t done = 0;
  while (done < size) {
    const size_t most = size - done < size_t{INT_MAX} ? size - done : size_t{INT_MAX};
    const ssize_t n = ::pread(file, to + done, most, static_cast<off_t>(at + done));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return -1;
    }
    if (n == 0) {
      break;
    }
    done += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(done);
}

bool write_all(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t most = bytes.size() < size_t{INT_MAX} ? bytes.size() : size_t{INT_MAX};
    const ssize_t n = ::write(file, bytes.data(), most);
    if (n < 0 && errno != EINTR) {
      return false;
    }
    bytes.remove_prefix(n > 0 ? static_cast<size_t>(n) : 0);
  }
  return true;
}

// Throws unless a path is free, an empty file, or a model: a table of the same name would be lost.
void check_replaceable(const std::string &path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
    return;
  }
  const Descriptor file(open_again(path.c_str(), O_RDONLY));
  uint64_t length = 0;
  ssize_t n = file < 0 ? -1 : read_at(file, reinterpret_cast<char *>(&length), sizeof length, 0);
  if (n < 0) {
    fail_to_read(path, errno);
  }
  bool model = n == sizeof length && length < static_cast<uint64_t>(status.st_size);
  if (model) {
    const std::unique_ptr<char[]> header(new char[length]);
    n = read_at(file, header.get(), length, sizeof length);
    const std::string_view text(header.get(), n < 0 ? 0 : static_cast<size_t>(n));
    model = text.size() == length && text.starts_with('{') && text.find("\"__metadata__\"") != std::string_view::npos &&
            text.find("\"spec\"") != std::string_view::npos;
  }
  if (!model) {
    throw FileError("cannot write " + quoted(path) +
                    ": a file that is no model of penstock stands there, and would be lost; remove it first, or choose "
                    "another name");
  }
}

// A folder and a name in it.
struct Place {
  std::string folder, name;
  std::string path() const { return folder + (folder.ends_with('/') ? "" : "/") + name; }
};

Place place_of(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) {
    path.pop_back();
  }
  const size_t slash = path.rfind('/');
  Place place{slash == std::string::npos ? "." : path.substr(0, slash + 1),
              slash == std::string::npos ? path : path.substr(slash + 1)};
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(place.folder.c_str(), nullptr), &std::free);
  if (real != nullptr) {
    place.folder = real.get();
  }
  return place;
}

// The file that is to be replaced: at the end of all links, and one that can be replaced at all.
Place target_of(const std::string &path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) {
      fail_to_write(path, "it is a folder");
    }
    if (!S_ISREG(status.st_mode)) {
      fail_to_write(path, "it is not an ordinary file");
    }
  } else if (errno == ELOOP) {
    fail_to_write(path, ELOOP);
  }
  Place place = place_of(path);
  for (int links = 0; links < 40; links++) {
    char link[PATH_MAX];
    const std::string present = place.path();
    const ssize_t n = ::readlink(present.c_str(), link, sizeof link);
    if (n < 0 || static_cast<size_t>(n) == sizeof link) {
      return place;
    }
    const std::string to(link, static_cast<size_t>(n));
    place = place_of(to.starts_with('/') ? to : Place{place.folder, to}.path());
  }
  fail_to_write(path, ELOOP);
}

// The name of a temporary file beside a target, short enough for every file system; it is one that Python's remove_stale()
// knows.
std::string beside(const Place &target) {
  static std::atomic<uint32_t> count{0};
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  uint32_t own = (static_cast<uint32_t>(now.tv_nsec) ^ static_cast<uint32_t>(now.tv_sec) << 7) + count++ * 0x9E3779B9U;
  std::string digits;
  for (int i = 0; i < 8; i++, own >>= 4) {
    digits += "0123456789abcdef"[own & 15];
  }
  const std::string name = "." + target.name.substr(0, 64) + "." + std::to_string(::getpid()) + "-" + digits + ".tmp";
  return Place{target.folder, name}.path();
}

// A new file beside a target; its name goes to `path`. Negative where there can be none.
int create_beside(const Place &target, std::string &path) {
  for (int attempt = 0; attempt < 100; attempt++) {
    path = beside(target);
    const int file = open_again(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0666);
    if (file >= 0 || errno != EEXIST) {
      return file;
    }
  }
  return -1;
}

// Writes, syncs and renames; 0, or what went wrong.
int replace(const Descriptor &file, const std::string &from, const std::string &to, std::string_view bytes) {
  struct stat status{};
  if (::stat(to.c_str(), &status) == 0) {  // a file that is replaced keeps its permissions
    static_cast<void>(::fchmod(file, status.st_mode & 07777));
  }
  const bool done = write_all(file, bytes) && ::fsync(file) == 0 && ::rename(from.c_str(), to.c_str()) == 0;
  return done ? 0 : errno;
}

}  // namespace

Model load_model(const std::string &path) {
  const Descriptor file(open_again(path.c_str(), O_RDONLY));
  struct stat status{};
  if (file < 0 || ::fstat(file, &status) != 0) {
    fail_to_read(path, errno);
  }
  // Of a file that cannot be a model no more than its beginning is read.
  char start[container_start];
  ssize_t n = read_at(file, start, sizeof start, 0);
  const auto size = static_cast<size_t>(status.st_size);
  if (n >= 0) {
    try {
      check_start({start, static_cast<size_t>(n)}, size);
    } catch (const std::invalid_argument &error) {
      throw FileError("cannot load " + quoted(path) + ": " + error.what());
    }
    const std::unique_ptr<char[]> bytes(new char[size]);
    n = read_at(file, bytes.get(), size, 0);
    if (n >= 0) {
      return read_model(bytes.get(), static_cast<size_t>(n), quoted(path));
    }
  }
  fail_to_read(path, errno);
}

void save_bytes(const std::string &path, std::string_view bytes) {
  check_replaceable(path);
  const Place target = target_of(path);
  const std::string to = target.path();
  std::string from;
  int error = 0;
  {
    const Descriptor file(create_beside(target, from));
    if (file < 0) {
      fail_to_write(path, errno);
    }
    error = replace(file, from, to, bytes);
  }
  if (error != 0) {
    ::unlink(from.c_str());
    fail_to_write(path, error);
  }
  const Descriptor folder(open_again(target.folder.c_str(), O_RDONLY));
  if (folder >= 0) {  // some folders may not be read, and some network file systems cannot sync one
    static_cast<void>(::fsync(folder));
  }
}

}  // namespace penstock
