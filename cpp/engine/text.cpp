// Text of sentences: see text.hpp.
#include "engine/text.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace penstock {
namespace {

constexpr char hex[] = "0123456789abcdef";

// A code as \x7f, or as backslash, u and four digits.
void append_escaped(std::string &text, uint32_t code) {
  text += code < 0x100 ? "\\x" : "\\u";
  for (int shift = code < 0x100 ? 4 : 12; shift >= 0; shift -= 4) {
    text += hex[code >> shift & 15];
  }
}

bool is_surrogate(uint32_t code) { return code >= 0xD800 && code < 0xE000; }

}  // namespace

size_t decode_utf8(std::string_view text, size_t at, Surrogates surrogates, uint32_t &code) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  const size_t n = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (n == 0 || n > text.size() - at) {
    return 0;
  }
  code = n == 1 ? first : first & (0x7FU >> n);
  for (size_t i = at + 1; i < at + n; i++) {
    if ((byte(i) & 0xC0) != 0x80) {
      return 0;
    }
    code = code << 6 | (byte(i) & 0x3FU);
  }
  const bool shortest = (n < 3 || code >= 0x800) && (n < 4 || code >= 0x10000);
  const bool fine = shortest && code < 0x110000 && (surrogates == Surrogates::passed || !is_surrogate(code));
  return fine ? n : 0;
}

void append_utf8(std::string &text, uint32_t code) {
  const auto add = [&](uint32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xC0 | code >> 6);
    add(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    add(0xE0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  } else {
    add(0xF0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3F));
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  }
}

size_t valid_utf8(std::string_view text) {
  uint32_t code = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t n = decode_utf8(text, at, Surrogates::refused, code);
    if (n == 0) {
      return at;
    }
    at += n;
  }
  return text.size();
}

std::string first_of(std::string_view text, size_t n_characters) {
  std::string out;
  for (size_t at = 0, count = 0; at < text.size() && count < n_characters; count++) {
    uint32_t code = 0;
    const size_t n = decode_utf8(text, at, Surrogates::passed, code);
    if (n == 0 || is_surrogate(code)) {
      append_escaped(out, n == 0 ? static_cast<unsigned char>(text[at]) : code);
    } else {
      out += text.substr(at, n);
    }
    at += n == 0 ? 1 : n;
  }
  return out;
}

std::string quoted(std::string_view text) {
  const bool single = text.find('\'') == std::string_view::npos || text.find('"') != std::string_view::npos;
  const char quote = single ? '\'' : '"';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    uint32_t code = 0;
    const size_t n = decode_utf8(text, at, Surrogates::passed, code);
    const char plain = text[at];
    if (n == 0) {
      append_escaped(out, 0xDC00U + static_cast<unsigned char>(plain));  // as Python decodes names of files
    } else if (plain == quote || plain == '\\') {
      out += '\\';
      out += plain;
    } else if (plain == '\n' || plain == '\r' || plain == '\t') {
      out += plain == '\n' ? "\\n" : plain == '\r' ? "\\r" : "\\t";
    } else if (code < 0x20 || (code >= 0x7F && code < 0xA1) || code == 0xAD || is_surrogate(code)) {
      append_escaped(out, code);
    } else {
      out += text.substr(at, n);
    }
    at += n == 0 ? 1 : n;
  }
  out += quote;
  return out;
}

std::string shortest(double value) {
  if (!std::isfinite(value)) {
    return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  }
  // printf and strtod agree about the decimal point, whatever it is; of the text the digits and the exponent are taken.
  char text[40];
  for (int precision = 0; precision <= 16; precision++) {
    std::snprintf(text, sizeof text, "%.*e", precision, value);
    if (std::strtod(text, nullptr) == value) {
      break;
    }
  }
  const std::string_view whole = text;
  const size_t e = whole.find('e');
  const auto exponent = static_cast<int>(std::strtol(text + e + 1, nullptr, 10));
  std::string digits;
  for (const char c : whole.substr(0, e)) {
    if (c >= '0' && c <= '9') {
      digits += c;
    }
  }
  std::string out = std::signbit(value) ? "-" : "";
  const auto n = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    const std::string size = std::to_string(std::abs(exponent));
    out += digits.substr(0, 1) + (n > 1 ? "." + digits.substr(1) : "") + "e" + (exponent < 0 ? "-" : "+");
    return out + (size.size() < 2 ? "0" : "") + size;
  }
  if (exponent < 0) {
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  digits.append(static_cast<size_t>(n <= exponent ? exponent + 1 - n : 0), '0');
  const auto point = static_cast<size_t>(exponent) + 1;
  return out + digits.substr(0, point) + "." + (digits.size() > point ? digits.substr(point) : "0");
}

std::string tuple(const std::vector<int64_t> &numbers) {
  std::string out = "(";
  for (size_t i = 0; i < numbers.size(); i++) {
    out += (i > 0 ? ", " : "") + std::to_string(numbers[i]);
  }
  return out + (numbers.size() == 1 ? ",)" : ")");
}

}  // namespace penstock
