// The JSON texts of a model file: see file_texts.hpp.
#include "engine/file_texts.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "engine/json.hpp"
#include "engine/safetensors.hpp"
#include "engine/text.hpp"

namespace penstock {
namespace {

using Kind = JsonReader::Kind;
using Token = JsonReader::Token;

constexpr int64_t format_version = 2;
constexpr std::string_view flow_keys[] = {"dtype",     "conditioner_dtype", "context_dim", "base",           "layers",
                                          "embedding", "embedding_dim",     "support",     "context_support"};

// The entries of the spec of one flow, one at a time.
class FlowReader {
 public:
  explicit FlowReader(size_t size) : size_(size) {}

  void read(JsonReader &reader, const Token &token) {
    const std::string &key = token.key;
    if (key == "dtype") {
      dtype_ = json_printed(token);
      head_.dtype = token.is(Kind::string) ? dtype_ : "";
    } else if (key == "conditioner_dtype") {
      conditioners_ = json_printed(token);
    } else if (key == "context_dim") {
      context_dim_ = json_printed(token);
      whole_ = is_integer(token) ? json_integer(token) : std::nullopt;
    } else if (key == "layers") {
      layers_ = token.is(Kind::array);
    } else if (std::find(std::begin(flow_keys), std::end(flow_keys), key) == std::end(flow_keys)) {
      surplus_.push_back(key);
    }
    reader.skip();
  }

  FlowHead finished() {
    std::sort(surplus_.begin(), surplus_.end());
    std::string &fault = head_.fault;
    if (!surplus_.empty()) {
      fault = "the spec has entries that this version does not know: " + some(surplus_);
    } else if (head_.dtype != "float32" && head_.dtype != "float64") {
      fault = "dtype must be float32 or float64, got " + first_of(dtype_, 40);
    } else if (conditioners_ && *conditioners_ != dtype_) {
      fault = "conditioners are in " + first_of(*conditioners_, 40) + ", which this version does not compute";
    } else if (!whole_ || *whole_ < 0) {
      fault = "context_dim must be an integer of at least 0, got " + first_of(context_dim_, 40);
    } else if (static_cast<uint64_t>(*whole_) > size_) {
      fault = "context_dim is larger than the file: " + first_of(context_dim_, 40);
    } else if (!layers_) {
      fault = "the spec has no list of layers";
    }
    head_.context_dim = whole_.value_or(0);
    return std::move(head_);
  }

 private:
  size_t size_;
  FlowHead head_;
  std::vector<std::string> surplus_;
  std::string dtype_ = "None", context_dim_ = "None";
  std::optional<std::string> conditioners_;
  std::optional<int64_t> whole_;
  bool layers_ = false;
};

// The version of the format as the spec says it.
struct Version {
  std::string printed = "None", text;  // the latter of an integer alone
  std::string library;
  bool library_is_text = true;

  void check() const {
    const bool positive = !text.empty() && text[0] != '-' && text != "0";
    if (!positive) {
      refuse_file("format version " + printed + " is not a number of at least 1");
    }
    if (text.size() > 1 || text[0] - '0' > format_version) {
      refuse_file("written by a newer penstock (" + first_of(library, 40) + ") in format " + text +
                  "; this one reads up to format " + std::to_string(format_version));
    }
    if (!library_is_text) {
      refuse_file("library_version must be a string");
    }
    if (text[0] - '0' < format_version) {
      refuse_file("it is of format " + text +
                  ", which this library does not read: `penstock upgrade FILE` writes the new one");
    }
  }
};

// The list `members` of a spec; nothing where it is none.
std::optional<std::vector<FlowHead>> read_members(JsonReader &reader, const Token &token, size_t size) {
  if (!token.is(Kind::array)) {
    reader.skip();
    return {};
  }
  std::vector<FlowHead> members;
  bool fine = true;
  while (reader.next_in(2)) {
    fine = fine && token.is(Kind::object) && members.size() < members_most;
    if (!fine) {
      reader.skip();
      continue;
    }
    FlowReader flow(size);
    while (reader.next_in(3)) {
      flow.read(reader, token);
    }
    members.push_back(flow.finished());
  }
  return fine && !members.empty() ? std::optional(std::move(members)) : std::nullopt;
}

// The first token of a text, an object's beginning or not; all of the text is known to be JSON where it is not.
bool begins_object(JsonReader &reader, const Token &token) {
  if (token.is(Kind::object)) {
    return true;
  }
  reader.skip();
  reader.next();
  return false;
}

// What the history may hold, by the types of its fields in Python. Others are for no reader.
enum class Holds { integers, floats, count, integer_or_none, text };
struct Field {
  std::string_view name, type;
  Holds holds;
};
constexpr Field fields[] = {
    {"epoch", "list[int]", Holds::integers},
    {"step", "list[int]", Holds::integers},
    {"train_loss", "list[float]", Holds::floats},
    {"validation_loss", "list[float]", Holds::floats},
    {"learning_rate", "list[float]", Holds::floats},
    {"seconds", "list[float]", Holds::floats},
    {"rows_per_second", "list[float]", Holds::floats},
    {"best_epoch", "int | None", Holds::integer_or_none},
    {"stopped", "str", Holds::text},
    {"elbo", "list[float]", Holds::floats},
    {"elbo_error", "list[float]", Holds::floats},
    {"ess", "list[float]", Holds::floats},
    {"pareto_k", "list[float]", Holds::floats},
    {"start", "str", Holds::text},
    {"restarted", "int", Holds::count},
};

bool is_none(const Token &token) { return token.is(Kind::word) && token.text == "null"; }

// Whether the value at a token, through which it goes, is what a field may hold.
bool read_field(JsonReader &reader, const Token &token, Holds holds) {
  const bool list = holds == Holds::integers || holds == Holds::floats;
  if (!list || !token.is(Kind::array)) {
    const bool fine = (holds == Holds::text && token.is(Kind::string)) ||
                      (holds == Holds::count && is_integer(token) && (token.text[0] != '-' || token.text == "-0")) ||
                      (holds == Holds::integer_or_none && (is_integer(token) || is_none(token)));
    reader.skip();
    return fine;
  }
  bool fine = true;
  const size_t depth = token.depth + 1;
  while (reader.next_in(depth)) {
    const bool number = holds == Holds::integers ? is_integer(token) : token.is(Kind::number) || is_none(token);
    fine = fine && number;
    reader.skip();
  }
  return fine;
}

// Calls found(token) at each entry of a text that is an object; it goes through the entry's value.
template <class Found>
void walk(std::string_view text, const char *what, const char *no_object, const Found &found) {
  JsonReader reader(text, what);
  const Token &token = reader.next();
  if (!begins_object(reader, token)) {
    refuse_file(no_object);
  }
  while (reader.next_in(1)) {
    found(reader, token);
  }
  reader.next();
}

// The value of an entry of a text that is a JSON object, as it stands; a view of no characters where there is none.
std::string_view entry_of(std::string_view text, std::string_view key) {
  std::string_view value;
  walk(text, "the text", "the text is no object", [&](JsonReader &reader, const Token &token) {
    const bool wanted = token.key == key;
    const char *start = token.text.data();
    reader.skip();
    if (wanted) {
      value = {start, static_cast<size_t>(token.text.data() + token.text.size() - start)};
    }
  });
  return value;
}

}  // namespace

SpecReader::SpecReader(std::string_view spec, size_t size) {
  JsonReader reader(spec, "the spec");
  const Token &token = reader.next();
  const bool object = begins_object(reader, token);
  std::string format;
  Version version;
  FlowReader flow(size);
  while (object && reader.next_in(1)) {
    if (token.key == "format") {
      format = token.is(Kind::string) ? json_text(token.text) : "";
      reader.skip();
    } else if (token.key == "format_version") {
      version.printed = token.is(Kind::string) ? quoted(json_text(token.text)) : json_printed(token);
      version.text = is_integer(token) ? std::string(token.text) : "";
      reader.skip();
    } else if (token.key == "library_version") {
      version.library = json_printed(token);
      version.library_is_text = token.is(Kind::string);
      reader.skip();
    } else if (token.key == "members") {
      std::optional<std::vector<FlowHead>> members = read_members(reader, token, size);
      head_.ensemble = true;
      fault_ = members ? "" : "members of its spec must be a list of the specs of flows";
      head_.flows = std::move(members).value_or(std::vector<FlowHead>());
    } else {
      entries_.push_back(token.key);
      flow.read(reader, token);
    }
  }
  if (object) {
    reader.next();
  }
  if (format != "penstock") {
    refuse_file("not a penstock file: the spec is of another format");
  }
  version.check();
  if (!head_.ensemble) {
    head_.flows.push_back(flow.finished());
  } else if (fault_.empty() && !entries_.empty()) {
    std::sort(entries_.begin(), entries_.end());
    fault_ = "its spec has entries that this version does not know: " + some(entries_);
  }
}

const SpecHead &SpecReader::head() const {
  if (!fault_.empty()) {
    refuse_file(fault_);
  }
  return head_;
}

void check_history(std::string_view history) {
  std::array<bool, std::size(fields)> wrong{};
  walk(history, "the history", "the history must be a JSON object", [&](JsonReader &reader, const Token &token) {
    const auto *field =
        std::find_if(std::begin(fields), std::end(fields), [&](const Field &f) { return f.name == token.key; });
    if (field == std::end(fields)) {
      reader.skip();
    } else {
      wrong[static_cast<size_t>(field - fields)] = !read_field(reader, token, field->holds);
    }
  });
  for (size_t i = 0; i < wrong.size(); i++) {
    if (wrong[i]) {
      refuse_file(std::string(fields[i].name) + " of the history must be " + std::string(fields[i].type));
    }
  }
}

void check_provenance(std::string_view provenance) {
  bool fine = true;
  walk(provenance, "the provenance", "the provenance must be a JSON object",
       [&](JsonReader &reader, const Token &token) {
         if (token.key != "missing" || !token.is(Kind::array)) {
           fine = fine && (token.key != "missing" || is_none(token));
           reader.skip();
           return;
         }
         while (reader.next_in(2)) {
           fine = fine && token.is(Kind::string);
           reader.skip();
         }
       });
  if (!fine) {
    refuse_file("missing of the provenance must be a list of strings");
  }
}

std::vector<std::string_view> member_histories(std::string_view history, size_t n) {
  const std::string fault = "the history must have that of each of its " + std::to_string(n) + " members";
  std::vector<std::string_view> members;
  bool list = false, fine = true, number = true;
  walk(history, "the history", fault.c_str(), [&](JsonReader &reader, const Token &token) {
    if (token.key == "validation_loss") {
      number = token.is(Kind::number);
    }
    if (token.key != "members" || !token.is(Kind::array)) {
      reader.skip();
      return;
    }
    list = true;
    while (reader.next_in(2)) {
      fine = fine && token.is(Kind::object) && members.size() < n;
      const char *start = token.text.data();
      reader.skip();
      if (fine) {
        members.push_back({start, static_cast<size_t>(token.text.data() + token.text.size() - start)});
      }
    }
  });
  if (!list || !fine || members.size() != n) {
    refuse_file(fault);
  }
  if (!number) {
    refuse_file("validation_loss of the history must be float");
  }
  return members;
}

std::string stamped_spec(std::string_view spec, std::string_view version) {
  const std::string_view old = entry_of(spec, "library_version");
  if (old.empty()) {
    const size_t brace = spec.find('{') + 1;
    return std::string(spec.substr(0, brace)) + "\"library_version\":" + json_token(version) + "," +
           std::string(spec.substr(brace));
  }
  const auto at = static_cast<size_t>(old.data() - spec.data());
  return std::string(spec.substr(0, at)) + json_token(version) + std::string(spec.substr(at + old.size()));
}

std::string stamped_provenance(const std::optional<std::string> &provenance, std::string_view version) {
  std::string out = R"({"library":"penstock","version":)" + json_token(version);
  const std::string_view missing = provenance ? entry_of(*provenance, "missing") : "";
  if (!missing.empty() && missing != "null") {
    out += ",\"missing\":" + std::string(missing);
  }
  return out + "}";
}

}  // namespace penstock
