// Reads JSON token by token, for the header of a model file and the texts in it. It is written here since this is all that the
// library needs of JSON: a few flat objects, whose texts come back as they stand. A library for it would be the only
// dependency, and builds a tree of whatever a file holds; here memory is a small multiple of the names in one object at most,
// and nothing recurs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

class JsonReader {
 public:
  enum class Kind : uint8_t { object, end_object, array, end_array, string, number, word, end };
  // Of a string or a number the text is all of it, as it stands; words are true, false and null.
  struct Token {
    Kind kind = Kind::end;
    size_t depth = 0;       // how many objects and arrays it lies in
    std::string key;        // of a member of an object
    std::string_view text;  // of a container, its first or last character

    bool is(Kind other) const { return kind == other; }
    bool opens() const { return kind == Kind::object || kind == Kind::array; }
  };

  // `what` names the text in faults. The text must outlive the reader.
  JsonReader(std::string_view text, const char *what) : text_(text), what_(what) {}

  // Throws std::invalid_argument where the text is no JSON, holds NaN or an infinity, or names something twice in an object.
  const Token &next();

  // Goes on to the next member of the container whose members have this depth; false at its end. Members that open something
  // must have been skipped, or walked through.
  bool next_in(size_t depth) { return next().depth == depth; }

  // To the end of what the present token opens, if it opens something.
  void skip();

 private:
  struct Open {
    bool object, filled;
    size_t first_key;
  };
  [[noreturn]] void fault() const;
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void take(char expected);
  void skip_space();
  void read_value();
  void read_string();
  void read_number();
  void read_digits();
  void close();

  std::string_view text_;
  const char *what_;
  size_t at_ = 0;
  bool started_ = false;
  std::vector<Open> open_;
  std::vector<std::string> keys_;  // of all open objects
  Token token_;
};

// The characters of a string token; half of a surrogate pair by itself takes three bytes.
std::string json_text(std::string_view token);

// A string token in ASCII, as Python writes it.
std::string json_token(std::string_view text);

// A value as Python prints it; of lists and objects their beginning alone.
std::string json_printed(const JsonReader::Token &token);

// An integer token that fits; nothing else.
std::optional<int64_t> json_integer(const JsonReader::Token &token);

// Whether a token is a number without fraction and exponent, of any size.
bool is_integer(const JsonReader::Token &token);

}  // namespace penstock
