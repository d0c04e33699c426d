// Checked reading of JSON. A manifest may be damaged or hostile: every field is checked for its
// type, and unknown or missing fields are refused by name.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace vit_edge {

using Json = nlohmann::json;

// A value does not fit what is expected; the message starts with the field's path.
class SchemaError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// Parses UTF-8 JSON strictly: no key twice, no NaN, no deep nesting. Throws SchemaError.
Json parse_json(const std::string& text);

std::string read_text(const Json& value, const std::string& where);
std::int64_t read_integer(const Json& value, const std::string& where);
double read_number(const Json& value, const std::string& where);

// An object whose fields are asked for by name; `finish` refuses those that nobody asked for.
class Fields {
public:
    Fields(const Json& object, std::string where);

    const std::string& where() const { return where_; }
    std::string path(const std::string& name) const { return where_ + "." + name; }

    // The field's value; throws SchemaError if there is none.
    const Json& required(const std::string& name);
    // The field's value; nullptr if there is none, as in what an older version wrote.
    const Json* optional(const std::string& name);

    std::string text(const std::string& name) { return read_text(required(name), path(name)); }
    std::int64_t integer(const std::string& name) {
        return read_integer(required(name), path(name));
    }
    double number(const std::string& name) { return read_number(required(name), path(name)); }

    void finish() const;

private:
    const Json& object_;
    std::string where_;
    std::set<std::string> known_;
};

// Reads each element of a list by `read(value, where)`.
template <typename Read>
auto read_list(const Json& value, const std::string& where, Read read)
    -> std::vector<decltype(read(value, where))> {
    if (!value.is_array()) throw SchemaError(where + " is not a list");
    std::vector<decltype(read(value, where))> list;
    list.reserve(value.size());
    for (const Json& element : value) {
        list.push_back(read(element, where + "[" + std::to_string(list.size()) + "]"));
    }
    return list;
}

// Reads each value of an object by `read(value, where)`.
template <typename Read>
auto read_map(const Json& value, const std::string& where, Read read)
    -> std::map<std::string, decltype(read(value, where))> {
    if (!value.is_object()) throw SchemaError(where + " is not an object");
    std::map<std::string, decltype(read(value, where))> map;
    for (const auto& [key, element] : value.items()) {
        map.emplace(read_text(Json(key), "a key of " + where), read(element, where + "." + key));
    }
    return map;
}

}  // namespace vit_edge
