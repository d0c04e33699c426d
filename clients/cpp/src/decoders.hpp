// The decoders of the two formats. They throw std::runtime_error with a short reason.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "vit_edge/picture.hpp"

namespace vit_edge {

struct Decoded {
    Picture picture;
    int orientation = 1;  // EXIF's: 1 to 8, others are taken for 1
};

Decoded decode_jpeg(const std::vector<std::uint8_t>& bytes);
Decoded decode_png(const std::vector<std::uint8_t>& bytes);

inline void require_size(std::int64_t width, std::int64_t height) {
    if (width * height > kMaxPixels) {
        throw std::runtime_error(std::to_string(width) + "x" + std::to_string(height) +
                                 " pixels, at most " + std::to_string(kMaxPixels));
    }
}

}  // namespace vit_edge
