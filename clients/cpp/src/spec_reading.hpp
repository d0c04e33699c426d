// Reading of a manifest's spec and preprocessing: what an engine takes and gives.
#pragma once

#include <optional>
#include <string>

#include "json.hpp"
#include "vit_edge/manifest.hpp"

namespace vit_edge {

inline constexpr int kNamedOutputs = 5;  // schema version since which outputs have names and kinds

// Throws SchemaError with the field's path unless `fits`.
void require(bool fits, const std::string& where, const std::string& message);

// The number; nothing where there is no value, or null.
std::optional<double> read_optional_number(const Json* value, const std::string& where);

EngineSpec read_spec(const Json& value, const std::string& where, int version);
Preprocess read_preprocess(const Json& value, const std::string& where);

}  // namespace vit_edge
