// The orientation that a picture's metadata gives, and turning by it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vit_edge/picture.hpp"

namespace vit_edge {

// The orientation in an EXIF block (TIFF), with or without "Exif\0\0" before it; of none nullopt.
std::optional<int> exif_orientation(const std::vector<std::uint8_t>& exif);

// The orientation in an XMP packet; of none nullopt.
std::optional<int> xmp_orientation(const std::string& xmp);

// The picture as it is to be seen. Orientations other than 2 to 8 leave it as it is.
Picture turned(Picture picture, int orientation);

}  // namespace vit_edge
