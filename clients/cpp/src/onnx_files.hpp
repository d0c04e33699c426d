// The files that an ONNX graph would open.
#pragma once

#include <set>
#include <string>

namespace vit_edge {

// The files that the tensors of an ONNX `ModelProto` name. Throws BundleError if the bytes are not
// well-formed.
std::set<std::string> external_locations(const std::string& graph);

}  // namespace vit_edge
