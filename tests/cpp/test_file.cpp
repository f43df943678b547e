// The reader and writer of model files: a file made here is read and written again byte by byte; whatever happens to it, and to
// files whose names are given, it is refused or loads as what it says. Sentences are compared with those of Python in
// tests/test_read_file.py.
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "engine/blake2b.hpp"
#include "engine/file.hpp"
#include "engine/file_io.hpp"
#include "engine/json.hpp"
#include "engine/safetensors.hpp"
#include "engine/text.hpp"
#include "make_table.hpp"

using namespace penstock;

namespace {

constexpr size_t hash_size = 32;

template <class T>
std::string_view bytes_of(const std::vector<T> &numbers) {
  return {reinterpret_cast<const char *>(numbers.data()), numbers.size() * sizeof(T)};
}

void seal(std::string &file) {
  const auto hash = blake2b_256(file.data(), file.size() - hash_size);
  file.replace(file.size() - hash_size, hash_size, hash.data(), hash_size);
}

Model read(const std::string &file) { return read_model(file.data(), file.size(), "data"); }

// Empty where a file is read.
std::string fault(const std::string &file) {
  // behind the copy nothing may be read
  const std::vector<char> exact(file.begin(), file.end());
  try {
    read_model(exact.data(), exact.size(), "data");
    return "";
  } catch (const FileError &error) {
    return error.what();
  }
}

// A file of a coupling on a line and a box, float32.
std::string make_file() {
  const std::vector<int64_t> kinds{column_line, column_box};
  const StepSpec coupling{
      .kind = step_coupling, .n_theta = 2, .theta = theta_network, .a = {0}, .b = {1}, .widths = {1, 3, theta_of_box}};
  const std::vector<int64_t> table =
      table_of(sizeof(float), 2, {coupling, {.kind = step_columns}}, {{0, 1}, {0, 1}, {0, 1}}, 0, {}, kinds);
  ContainerWriter writer({{"spec", R"({"format":"penstock","format_version":2,"library_version":"1","dtype":"float32",)"
                                   R"("context_dim":0,"base":{},"layers":[]})"},
                          {"history", R"({"epoch":[1]})"},
                          {"provenance", R"({"library":"penstock","version":"1","missing":["\u00e4"]})"}});
  const auto floats = [](size_t n) { return std::vector<float>(n, 0.5F); };
  const std::string_view hash{"00000000000000000000000000000000"};
  writer.add("plan", "I64", {static_cast<int64_t>(table.size())}, bytes_of(table));
  writer.add("standardize.loc", "F64", {2}, bytes_of(std::vector<double>{0.25, 0}));
  writer.add("standardize.scale", "F64", {2}, bytes_of(std::vector<double>{2, 1}));
  writer.add("support.numbers", "F64", {2}, bytes_of(std::vector<double>{0.5, 1}));
  writer.add("layers.0.conditioner.0.weight", "F32", {1, 3}, bytes_of(floats(3)));
  writer.add("layers.0.conditioner.0.bias", "F32", {3}, bytes_of(floats(3)));
  writer.add("layers.0.conditioner.1.weight", "F32", {3, theta_of_box}, bytes_of(floats(3 * theta_of_box)));
  writer.add("layers.0.conditioner.1.bias", "F32", {theta_of_box}, bytes_of(floats(theta_of_box)));
  writer.add("columns", "U8", {7}, {"a\0\xF0\x9F\x98\x80\0", 7});
  writer.add("initialised", "U8", {1}, {"\1", 1});
  writer.add("hash", "U8", {static_cast<int64_t>(hash_size)}, hash);
  std::string file = writer.finished();
  seal(file);
  return file;
}

void test_round_trip() {
  const std::string file = make_file();
  Model model = read(file);
  CHECK(!model.ensemble && model.members.size() == 1 && model.weights == std::vector<double>{1});
  CHECK(model.columns.size() == 2 && model.columns[0] == "a" && model.columns[1] == "\xF0\x9F\x98\x80");
  CHECK(model.members[0].initialised && model.members[0].buffers.size() == 6);
  CHECK(write_model(model, "1") == file);
  // Other numbers come back as they are; a text that was dropped stays away.
  std::vector<float> &params = std::get<std::vector<float>>(model.members[0].params);
  for (size_t i = 0; i < params.size(); i++) {
    params[i] = static_cast<float>(i);
  }
  model.members[0].buffers[1] = -1;
  model.history.reset();
  const Model again = read(write_model(model, "2\""));
  CHECK(again.members[0].params == model.members[0].params && again.members[0].buffers == model.members[0].buffers);
  CHECK(!again.history && again.spec.find(R"("library_version":"2\"")") != std::string::npos);
  CHECK(again.provenance && *again.provenance == R"({"library":"penstock","version":"2\"","missing":["\u00e4"]})");
}

// Every truncation and every changed byte is refused. Where the hash is that of the damage, too, the file is refused, or what
// was read of it is written and read again without a change.
void test_damage(const std::string &file) {
  CHECK(fault(file).empty());
  for (size_t size = 0; size < file.size(); size++) {
    CHECK(!fault(file.substr(0, size)).empty());
  }
  int n_read = 0;
  for (size_t i = 0; i < file.size(); i++) {
    for (const int change : {1 << i % 8, 0xFF}) {
      std::string damaged = file;
      damaged[i] = static_cast<char>(damaged[i] ^ change);
      CHECK(!fault(damaged).empty());
      seal(damaged);
      if (fault(damaged).empty()) {
        n_read++;
        const std::string written = write_model(read(damaged), "1");
        CHECK(write_model(read(written), "1") == written);
      }
    }
  }
  CHECK(n_read > 0);
}

void test_hash() {
  const auto digest = [](size_t n) {
    std::string text;
    for (size_t i = 0; i < n; i++) {
      text += static_cast<char>(i % 251);
    }
    uint64_t first = 0;
    const auto hash = blake2b_256(text.data(), n);
    std::memcpy(&first, hash.data(), sizeof first);
    return first;
  };
  // the first eight bytes of Python's hashlib.blake2b(bytes(i % 251 for i in range(n)), digest_size=32)
  const std::pair<size_t, uint64_t> known[] = {
      {0, 0xB243E526C051570EU},   {1, 0xB7B797752E0A1703U},   {127, 0xB8212E34FF67FEF2U}, {128, 0x66BEB2EB712F58C3U},
      {129, 0xF44F56A26BC4F3F7U}, {256, 0xC38E012622782F58U}, {1000, 0x8C0C728F60D072B3U}};
  for (const auto &[n, first] : known) {
    CHECK(digest(n) == first);
  }
}

void test_text() {
  CHECK(quoted("it's") == "\"it's\"" && quoted("a\"'\\") == "'a\"\\'\\\\'" &&
        quoted("\n\x7F\xFF") == "'\\n\\x7f\\udcff'");
  CHECK(first_of("\xC3\xA4\xE6\x97\xA5z", 2) == "\xC3\xA4\xE6\x97\xA5");
  const std::pair<double, const char *> floats[] = {{0.0, "0.0"},
                                                    {-0.0, "-0.0"},
                                                    {1.0, "1.0"},
                                                    {0.1, "0.1"},
                                                    {-1e-7, "-1e-07"},
                                                    {0.0001, "0.0001"},
                                                    {1e-5, "1e-05"},
                                                    {1e16, "1e+16"},
                                                    {1e15, "1000000000000000.0"},
                                                    {123.456, "123.456"},
                                                    {1.0 / 3, "0.3333333333333333"},
                                                    {5e-324, "5e-324"},
                                                    {-1.7976931348623157e308, "-1.7976931348623157e+308"}};
  for (const auto &[value, text] : floats) {
    CHECK(shortest(value) == text);
  }
  CHECK(tuple({}) == "()" && tuple({3}) == "(3,)" && tuple({2, 3}) == "(2, 3)");
  for (const char *valid : {"a", "\xC2\x80", "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF"}) {
    CHECK(valid_utf8(valid) == std::strlen(valid));
  }
  for (const char *bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3", "\xE6\x97", "\xC3z"}) {
    CHECK(valid_utf8(bad) == 0);
  }
  // as Python's json.dumps and back
  const std::pair<const char *, const char *> strings[] = {
      {"\"\\/\b\f\n\r\t\x01\x7F", R"("\"\\/\b\f\n\r\t\u0001\u007f")"},
      {"\xC3\xA4\xF0\x9F\x98\x80\xED\xA0\x80", R"("\u00e4\ud83d\ude00\ud800")"}};
  for (const auto &[text, token] : strings) {
    CHECK(json_token(text) == token && json_text(token) == text);
  }
  CHECK(json_text(R"("\ud800\u0041\/")") ==
        "\xED\xA0\x80"
        "A/");
}

void test_json() {
  const auto faulty = [](const std::string &text) {
    try {
      for (JsonReader reader(text, "x"); !reader.next().is(JsonReader::Kind::end);) {
      }
      return false;
    } catch (const std::invalid_argument &) {
      return true;
    }
  };
  for (const char *text :
       {"1", "-0", "0.5e+3", "\"\"", "true", " [ ] ", "{}", R"({"a":[1,{"b":null}],"c":{"a":2}})", "[[],[]]"}) {
    CHECK(!faulty(text));
  }
  for (const char *text : {"",      " ",          "01",        "1.",          ".5",
                           "1e",    "+1",         "-",         "tru",         "nul",
                           "\"",    "\"\\\"",     "\"\t\"",    "\"\\u12g4\"", "[",
                           "]",     "[1 2]",      "[,]",       "[1,]",        "{",
                           "{1:2}", "{\"a\"}",    "{\"a\":}",  "{\"a\":1,}",  "{\"a\":1 \"b\":2}",
                           "{]",    "[}",         "1 2",       "[1] x",       "{\"a\":1,\"\\u0061\":2}",
                           "NaN",   "[Infinity]", "-Infinity", "\"\xFF\"",    "[\"\xC3\"]"}) {
    CHECK(faulty(text));
  }
  CHECK(!faulty(std::string(200, '[') + std::string(200, ']')));
  CHECK(faulty(std::string(100'000, '[') + std::string(100'000, ']')));
}

}  // namespace

int main(int count, char **words) {
  test_hash();
  test_text();
  test_json();
  test_round_trip();
  test_damage(make_file());
  for (int i = 1; i < count; i++) {
    const Model model = load_model(words[i]);
    const std::string_view spec = model.spec;
    const size_t start = spec.find("library_version\":\"") + std::strlen("library_version\":\"");
    test_damage(write_model(model, spec.substr(start, spec.find('"', start) - start)));
  }
  return 0;
}
