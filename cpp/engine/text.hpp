// Text as the sentences of the Python package have it: UTF-8, and strings and numbers as its repr gives them. Nothing here
// knows a locale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

enum class Surrogates { refused, passed };  // as halves by themselves, each in three bytes

// How many bytes the character at `at` has, and its code; 0 where this is no UTF-8.
size_t decode_utf8(std::string_view text, size_t at, Surrogates surrogates, uint32_t &code);
void append_utf8(std::string &text, uint32_t code);

// Where the text stops to be UTF-8, or its size.
size_t valid_utf8(std::string_view text);

// The first characters of a text, fit for a sentence: what is no character stands as its number.
std::string first_of(std::string_view text, size_t n_characters);

// repr of a string. Control characters and bytes that are no UTF-8 are escaped; others that Python would not print stay.
std::string quoted(std::string_view text);

// repr of a float.
std::string shortest(double value);

// str of a tuple of integers.
std::string tuple(const std::vector<int64_t> &numbers);

}  // namespace penstock
