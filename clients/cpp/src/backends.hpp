// The functions that make the backends, each defined where the build found its library.
#pragma once

#include <memory>

#include "vit_edge/backend.hpp"

namespace vit_edge {

std::unique_ptr<Backend> make_openvino();
std::unique_ptr<Backend> make_onnxruntime();
std::unique_ptr<Backend> make_tensorrt();

}  // namespace vit_edge
