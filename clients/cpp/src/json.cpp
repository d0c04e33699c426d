#include "json.hpp"

#include <algorithm>
#include <cmath>

namespace vit_edge {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxText = std::size_t{1} << 16;

// Text goes to terminals and logs: no control characters, line breaks or changes of direction.
bool is_unprintable(std::uint32_t c) {
    return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x2028 || c == 0x2029 ||
           (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

// The code point at `at`, which moves behind it. The parser has checked the UTF-8.
std::uint32_t next_code_point(const std::string& text, std::size_t& at) {
    const auto first = static_cast<unsigned char>(text[at++]);
    if (first < 0x80) return first;
    const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    std::uint32_t value = first & (0x3f >> more);
    for (int i = 0; i < more && at < text.size(); ++i) {
        value = (value << 6) | (static_cast<unsigned char>(text[at++]) & 0x3f);
    }
    return value;
}

}  // namespace

Json parse_json(const std::string& text) {
    std::vector<std::set<std::string>> keys;
    const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
        if (depth > kMaxDepth) throw SchemaError("it is nested too deeply");
        if (event == Json::parse_event_t::object_start) keys.emplace_back();
        if (event == Json::parse_event_t::object_end) keys.pop_back();
        if (event == Json::parse_event_t::key) {
            const auto key = parsed.get<std::string>();
            if (!keys.back().insert(key).second) {
                throw SchemaError("the key '" + key.substr(0, 60) + "' is there twice");
            }
        }
        return true;
    };
    try {
        return Json::parse(text, check);
    } catch (const Json::exception& error) {
        throw SchemaError(error.what());
    }
}

std::string read_text(const Json& value, const std::string& where) {
    if (!value.is_string()) throw SchemaError(where + " is not of type str");
    const auto text = value.get<std::string>();
    if (text.size() > kMaxText) {
        throw SchemaError(where + " has " + std::to_string(text.size()) + " bytes, not at most " +
                          std::to_string(kMaxText));
    }
    for (std::size_t at = 0; at < text.size();) {
        if (is_unprintable(next_code_point(text, at))) {
            throw SchemaError(where + " holds a character that is not printable");
        }
    }
    return text;
}

std::int64_t read_integer(const Json& value, const std::string& where) {
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
        throw SchemaError(where + " is not of type int");
    }
    return value.get<std::int64_t>();
}

double read_number(const Json& value, const std::string& where) {
    if (!value.is_number()) throw SchemaError(where + " is not a number");
    const auto number = value.get<double>();
    if (!std::isfinite(number)) throw SchemaError(where + " is not a finite number");
    return number;
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) throw SchemaError(where_ + " is not an object");
}

const Json& Fields::required(const std::string& name) {
    const Json* value = optional(name);
    if (value == nullptr) throw SchemaError(where_ + ": missing field '" + name + "'");
    return *value;
}

const Json* Fields::optional(const std::string& name) {
    known_.insert(name);
    const auto found = object_.find(name);
    return found == object_.end() ? nullptr : &*found;
}

void Fields::finish() const {
    for (const auto& [key, value] : object_.items()) {
        if (known_.count(key) == 0) {
            throw SchemaError(where_ + ": unknown field '" + key.substr(0, 60) + "'");
        }
    }
}

}  // namespace vit_edge
