// Reads JSON: see json.hpp.
#include "engine/json.hpp"

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <system_error>

#include "engine/text.hpp"

namespace penstock {
namespace {

constexpr size_t depth_most = 256;  // of containers in each other; a spec has six
constexpr char hex[] = "0123456789abcdef";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The value of a hexadecimal digit, or -1.
int value_of(char c) {
  const int letter = (c | 0x20) - 'a';
  return is_digit(c) ? c - '0' : letter >= 0 && letter < 6 ? 10 + letter : -1;
}

// The code behind a backslash and u; the four digits were checked.
uint32_t code_at(std::string_view text, size_t at) {
  uint32_t code = 0;
  for (size_t i = at; i < at + 4; i++) {
    code = code << 4 | static_cast<uint32_t>(value_of(text[i]));
  }
  return code;
}

// Letters behind a backslash, and what they stand for.
constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";

}  // namespace

void JsonReader::fault() const {
  throw std::invalid_argument(std::string(what_) + " is no valid JSON: at byte " + std::to_string(at_));
}

void JsonReader::take(char expected) {
  if (at_ >= text_.size() || text_[at_] != expected) {
    fault();
  }
  at_++;
}

void JsonReader::skip_space() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) {
    at_++;
  }
}

const JsonReader::Token &JsonReader::next() {
  token_.key.clear();
  skip_space();
  if (open_.empty()) {
    if (started_) {
      if (at_ != text_.size()) {
        fault();
      }
      token_.kind = Kind::end;
      token_.text = {};
      return token_;
    }
    started_ = true;
  } else {
    Open &open = open_.back();
    if (peek() == (open.object ? '}' : ']')) {
      close();
      return token_;
    }
    if (open.filled) {
      take(',');
      skip_space();
    }
    open.filled = true;
    if (open.object) {
      const size_t start = at_;
      read_string();
      token_.key = json_text(text_.substr(start, at_ - start));
      keys_.push_back(token_.key);
      skip_space();
      take(':');
      skip_space();
    }
  }
  token_.depth = open_.size();
  read_value();
  return token_;
}

void JsonReader::skip() {
  if (token_.opens()) {
    const size_t depth = token_.depth;
    while (next().depth > depth) {
    }
  }
}

void JsonReader::read_value() {
  const size_t start = at_;
  const char first = peek();
  if (first == '{' || first == '[') {
    if (open_.size() == depth_most) {
      fault();
    }
    open_.push_back({first == '{', false, keys_.size()});
    at_++;
    token_.kind = first == '{' ? Kind::object : Kind::array;
  } else if (first == '"') {
    read_string();
    token_.kind = Kind::string;
  } else if (is_digit(first) || (first == '-' && text_.substr(at_).substr(1, 1) != "I")) {
    read_number();
    token_.kind = Kind::number;
  } else {
    const auto starts = [&](std::string_view word) { return text_.substr(at_, word.size()) == word; };
    for (const char *constant : {"NaN", "Infinity", "-Infinity"}) {
      if (starts(constant)) {
        throw std::invalid_argument(std::string(what_) + " holds " + constant);
      }
    }
    size_t size = 0;
    for (const std::string_view word : {"true", "false", "null"}) {
      size = starts(word) ? word.size() : size;
    }
    if (size == 0) {
      fault();
    }
    at_ += size;
    token_.kind = Kind::word;
  }
  token_.text = text_.substr(start, at_ - start);
}

void JsonReader::read_string() {
  take('"');
  while (peek() != '"') {
    if (at_ >= text_.size() || static_cast<unsigned char>(text_[at_]) < 0x20) {
      fault();
    }
    if (text_[at_] == '\\') {
      at_++;
      if (peek() == 'u') {
        for (int i = 0; i < 4; i++) {
          at_++;
          if (value_of(peek()) < 0) {
            fault();
          }
        }
      } else if (at_ >= text_.size() || letters.find(text_[at_]) == std::string_view::npos) {
        fault();
      }
      at_++;
    } else {
      uint32_t code = 0;
      const size_t n = decode_utf8(text_, at_, Surrogates::passed, code);
      if (n == 0) {
        fault();
      }
      at_ += n;
    }
  }
  at_++;
}

void JsonReader::read_digits() {
  if (!is_digit(peek())) {
    fault();
  }
  while (is_digit(peek())) {
    at_++;
  }
}

void JsonReader::read_number() {
  if (peek() == '-') {
    at_++;
  }
  if (peek() == '0') {
    at_++;
  } else {
    read_digits();
  }
  if (peek() == '.') {
    at_++;
    read_digits();
  }
  if (peek() == 'e' || peek() == 'E') {
    at_++;
    if (peek() == '+' || peek() == '-') {
      at_++;
    }
    read_digits();
  }
}

void JsonReader::close() {
  const Open open = open_.back();
  const auto first = keys_.begin() + static_cast<std::ptrdiff_t>(open.first_key);
  std::sort(first, keys_.end());
  if (std::adjacent_find(first, keys_.end()) != keys_.end()) {
    throw std::invalid_argument(std::string(what_) + " names something twice");
  }
  keys_.resize(open.first_key);
  open_.pop_back();
  token_.kind = open.object ? Kind::end_object : Kind::end_array;
  token_.depth = open_.size();
  token_.text = text_.substr(at_++, 1);
}

std::string json_text(std::string_view token) {
  const std::string_view inner = token.substr(1, token.size() - 2);
  std::string out;
  out.reserve(inner.size());
  for (size_t at = 0; at < inner.size(); at++) {
    if (inner[at] != '\\') {
      out += inner[at];
      continue;
    }
    at++;
    if (inner[at] != 'u') {
      out += meanings[letters.find(inner[at])];
      continue;
    }
    uint32_t code = code_at(inner, at + 1);
    at += 4;
    if (code >= 0xD800 && code < 0xDC00 && inner.substr(at + 1, 2) == "\\u") {
      const uint32_t low = code_at(inner, at + 3);
      if (low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        at += 6;
      }
    }
    append_utf8(out, code);
  }
  return out;
}

std::string json_token(std::string_view text) {
  std::string out = "\"";
  out.reserve(text.size() + text.size() / 8 + 2);
  const auto unit = [&](uint32_t code) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) {
      out += hex[code >> shift & 15];
    }
  };
  for (size_t at = 0; at < text.size();) {
    uint32_t code = 0;
    const size_t n = decode_utf8(text, at, Surrogates::passed, code);
    const size_t letter = n == 1 ? meanings.find(text[at]) : std::string_view::npos;
    if (letter != std::string_view::npos && text[at] != '/') {
      out += '\\';
      out += letters[letter];
    } else if (n == 1 && code >= 0x20 && code < 0x7F) {
      out += text[at];
    } else if (code < 0x10000) {
      unit(code);
    } else {
      unit(0xD800 + ((code - 0x10000) >> 10));
      unit(0xDC00 + ((code - 0x10000) & 0x3FF));
    }
    at += n == 0 ? 1 : n;
  }
  return out + '"';
}

std::string json_printed(const JsonReader::Token &token) {
  const std::string_view text = token.text;
  return token.is(JsonReader::Kind::string) ? json_text(text)
         : text == "true"                   ? "True"
         : text == "false"                  ? "False"
         : text == "null"                   ? "None"
                                            : std::string(text);
}

bool is_integer(const JsonReader::Token &token) {
  return token.is(JsonReader::Kind::number) && token.text.find_first_of(".eE") == std::string_view::npos;
}

std::optional<int64_t> json_integer(const JsonReader::Token &token) {
  int64_t value = 0;
  if (!is_integer(token)) {
    return {};
  }
  const auto found = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
  return found.ec == std::errc() ? std::optional(value) : std::nullopt;
}

}  // namespace penstock
