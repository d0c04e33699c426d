// Resizing as Pillow does it, bit for bit.
#pragma once

#include <string>

#include "vit_edge/picture.hpp"

namespace vit_edge {

// Resizes by the filter "bicubic", "bilinear", "lanczos" or "box".
Picture resize(const Picture& picture, int width, int height, const std::string& filter);

}  // namespace vit_edge
