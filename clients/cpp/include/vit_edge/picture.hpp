// Pictures in memory, and their decoding from JPEG and PNG files as Pillow does it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vit_edge {

// Of a picture: 134 million, as in Python. More is a decompression bomb.
inline constexpr std::int64_t kMaxPixels = std::int64_t{1} << 27;

// uint8 [height, width, channels], grey (1 channel) or RGB (3); alpha is dropped as in training.
struct Picture {
    int width = 0;
    int height = 0;
    int channels = 0;
    std::vector<std::uint8_t> pixels;
};

// The picture in grey or RGB, as Pillow's `convert` makes it.
Picture to_channels(const Picture& picture, int channels);

// Reads and decodes a JPEG or PNG file, turned as its EXIF orientation says.
// Throws InputError if it is missing, of another format, damaged or too large.
Picture read_picture(const std::string& path);

// Decodes the bytes of such a file; `name` is for messages.
Picture decode_picture(const std::vector<std::uint8_t>& bytes, const std::string& name);

}  // namespace vit_edge
